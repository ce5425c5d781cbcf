//! The filter: refuses or holds what has a word of the list, as a hook that is built in.
//!
//! It is asked after the rates and before the application, which is not asked about what the filter finds. What it refuses passes through the store's queue, where a change is
//! checked as if there were no filter: a write that is not allowed anyway is refused for that, and one that repeats an earlier one
//! is answered like that one, also where the list has changed in between.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context as _;
use switchboard_protocol::{ErrorCode, PersonName, SetProfile, Text, Title};

use crate::config::{self, FilterAction, ModerationConfig};
use crate::metrics::{FilterMetrics, Metrics};
use crate::reload::{POLL_INTERVAL, Reloads};
use crate::tasks::Tasks;
use crate::words::WordList;
use switchboard_store::refusal::Refusal;
use switchboard_store::{Change, Filtered, Hold};

/// Finds the words of the list in what users write.
pub(crate) struct Filter {
    path: PathBuf,
    action: FilterAction,
    list: RwLock<Arc<WordList>>,
    metrics: FilterMetrics,
}

/// A text that a change stores: the change's name in the metrics, the field of the command, and the text.
type Place<'a> = (&'static str, &'static str, Option<&'a str>);

impl Filter {
    /// Reads the list, if one is configured, and reads it again whenever its file changes.
    ///
    /// # Errors
    /// The file cannot be read, or has a line that is no entry.
    pub(crate) fn start(
        config: Option<&ModerationConfig>,
        metrics: &Metrics,
        tasks: &Tasks,
    ) -> anyhow::Result<Option<Arc<Self>>> {
        let Some(config) = config else { return Ok(None) };
        let (path, metrics) = (config.words_file.clone(), metrics.filter.clone());
        let bytes = config::read_words(&path).with_context(|| path.display().to_string())?;
        let list = WordList::parse(&bytes).with_context(|| path.display().to_string())?;
        metrics.begin_at_zero();
        metrics.words.set(i64::try_from(list.len()).unwrap_or(i64::MAX));
        let (action, list) = (config.action, RwLock::new(Arc::new(list)));
        let filter = Arc::new(Self { path, action, list, metrics });
        tasks.spawn_critical("words", filter.clone().watch_file(Ok(bytes), tasks.clone()));
        Ok(Some(filter))
    }

    /// Reads the file again and again. If it cannot be used, the list that is in use stays.
    async fn watch_file(self: Arc<Self>, bytes: Result<Vec<u8>, String>, tasks: Tasks) {
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        let mut reloads = Reloads::new(bytes);
        loop {
            tokio::select! {
                biased;
                () = tasks.stop().cancelled() => return,
                _ = ticks.tick() => {}
            }
            let path = self.path.clone();
            let read = move || config::read_words(&path).map_err(|error| error.to_string());
            let Ok(read) = tokio::task::spawn_blocking(read).await else { continue };
            if !reloads.is_news(&read) {
                continue;
            }
            let list = read.as_deref().map_err(Clone::clone);
            let list = list.and_then(|bytes| WordList::parse(bytes).map_err(|error| error.to_string()));
            let words_file = self.path.display();
            match list {
                Ok(list) => {
                    let words = list.len();
                    self.metrics.words.set(i64::try_from(words).unwrap_or(i64::MAX));
                    *self.list.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(list);
                    reloads.set_used(read);
                    tracing::info!(%words_file, words, "the filter uses the new list of words");
                }
                Err(error) => {
                    self.metrics.load_failures.inc();
                    tracing::error!(%words_file, error, "cannot use the new list of words; the old one stays in use");
                    reloads.set_refused(read);
                }
            }
        }
    }

    /// What to submit in place of a change: the change itself, or one that is held or refused if it has a word of the list. Only a
    /// message is held, and only if every node knows what that is.
    pub(crate) fn check(&self, change: Change, is_hold_known: impl FnOnce() -> bool) -> Change {
        let found = places(&change).into_iter().flatten();
        let found = found.filter(|(.., text)| text.is_some_and(|text| self.finds(text)));
        let Some((what, field, _)) = found.take(1).next() else { return change };
        match change {
            Change::Send(send) if self.action == FilterAction::Hold && is_hold_known() => {
                self.metrics.held.inc();
                Change::Hold(Box::new(Hold { send, requested: None }))
            }
            change => {
                self.metrics.count(what);
                Change::Filtered(Box::new(Filtered { change, refusal: refusal(field) }))
            }
        }
    }

    /// Refuses a profile that a back end sets, if its name has a word of the list.
    pub(crate) fn check_profile(&self, fields: &SetProfile) -> Result<(), Refusal> {
        match name_in(fields) {
            Some(name) if self.finds(name) => {
                self.metrics.count("profile");
                Err(refusal("name"))
            }
            _ => Ok(()),
        }
    }

    /// Whether a text has a word of the list.
    pub(crate) fn finds(&self, text: &str) -> bool {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner).clone();
        list.is_in(text)
    }
}

/// What the filter looks at in a change.
fn places(change: &Change) -> [Option<Place<'_>>; 2] {
    match change {
        Change::Send(c) => [Some(("message", "text", c.text.as_ref().map(Text::as_str))), None],
        Change::Edit(c) => [Some(("edit", "text", c.text.as_ref().map(Text::as_str))), None],
        // Removing a reaction shows nothing.
        Change::React(c) if c.on => [Some(("react", "emoji", Some(c.emoji.as_str()))), None],
        Change::Create(c) => [
            Some(("create", "title", c.title.as_ref().map(Title::as_str))),
            Some(("create", "room", c.room.as_ref().map(|room| room.as_str()))),
        ],
        Change::Rename(c) => [Some(("rename", "title", Some(c.title.as_str()))), None],
        Change::SetProfile(fields) => [Some(("profile", "name", name_in(fields))), None],
        _ => [None, None],
    }
}

fn name_in(fields: &SetProfile) -> Option<&str> {
    fields.name.as_ref()?.as_ref().map(PersonName::as_str)
}

/// It does not repeat the word: the message may be shown, and logged by a client.
fn refusal(field: &'static str) -> Refusal {
    let message = format!("{field}: it has a word that is not allowed here");
    Refusal { field: Some(field.into()), ..Refusal::new(ErrorCode::Refused, message) }
}
