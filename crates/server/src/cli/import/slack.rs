//! The export of a Slack workspace, unpacked: lists of channels, and a folder for each with a file for each day.
//! <https://slack.com/help/articles/220556107-How-to-read-Slack-data-exports>, and for the fields of a message
//! <https://docs.slack.dev/reference/events/message>.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::export::{MAX_FIRST_MEMBERS, Message, UserIds, clean_id, emoji_of, reaction, record, time};
use super::{Record, Records, output};

/// The lists of channels: of public and private ones, of direct messages, and of those in a group.
const LISTS: [&str; 4] = ["channels.json", "groups.json", "dms.json", "mpims.json"];

/// The kinds of messages that people or programs wrote. Others say that a user joined, or that a topic changed.
const WRITTEN: [&str; 5] = ["", "bot_message", "me_message", "thread_broadcast", "file_share"];

#[derive(Debug, Deserialize)]
struct ListedChannel {
    id: String,
    name: Option<String>,
    #[serde(default)]
    created: i64,
    creator: Option<String>,
    #[serde(default)]
    members: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct ExportedMessage {
    #[serde(default)]
    subtype: String,
    user: Option<String>,
    bot_id: Option<String>,
    #[serde(default)]
    text: String,
    ts: String,
    thread_ts: Option<String>,
    #[serde(default)]
    reactions: Vec<Reaction>,
    #[serde(default)]
    files: Vec<File>,
}

#[derive(Debug, Deserialize)]
struct Reaction {
    name: String,
    #[serde(default)]
    users: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct File {
    name: Option<String>,
    url_private: Option<String>,
}

/// The lines of an export.
///
/// # Errors
/// The directory has no list of channels, or one cannot be read.
pub(super) fn records(directory: &Path, users: UserIds) -> anyhow::Result<Records> {
    let mut channels = Vec::new();
    let mut names = HashMap::new();
    for list in LISTS {
        let path = directory.join(list);
        if path.exists() {
            let listed: Vec<ListedChannel> = read(&path)?;
            names.extend(
                listed.iter().filter_map(|channel| Some((channel.id.clone(), channel.name.clone()?))),
            );
            channels.extend(listed.into_iter().map(|channel| (list == "dms.json", channel)));
        }
    }
    ensure!(
        !channels.is_empty(),
        "{} has none of {}: unpack the export first",
        directory.display(),
        LISTS.join(", ")
    );
    let (shared, skipped) = (Rc::new((users, names)), Rc::new(Cell::new(0_u64)));
    let (directory, passed_over) = (directory.to_owned(), skipped.clone());
    let lines = channels.into_iter().flat_map(move |(is_direct, listed)| {
        Channel::new(listed, is_direct, shared.clone(), passed_over.clone()).records(&directory)
    });
    let last = std::iter::from_fn(move || {
        let count = skipped.take();
        if count > 0 {
            output::eprint_line(&format!("{count} notices without an author or a text are passed over"));
        }
        None
    });
    Ok(Box::new(lines.chain(last)))
}

/// A channel that is being converted.
struct Channel {
    listed: ListedChannel,
    folder: String,
    is_direct: bool,
    /// The ids of users, and the names of channels by their ids.
    shared: Rc<(UserIds, HashMap<String, String>)>,
    skipped: Rc<Cell<u64>>,
    /// The authors of messages by their `ts`.
    authors: HashMap<String, String>,
    /// The time of the last line.
    last: i64,
}

impl Channel {
    fn new(
        listed: ListedChannel,
        is_direct: bool,
        shared: Rc<(UserIds, HashMap<String, String>)>,
        skipped: Rc<Cell<u64>>,
    ) -> Self {
        let folder = if is_direct {
            listed.id.clone()
        } else {
            listed.name.clone().unwrap_or_else(|| listed.id.clone())
        };
        Self { listed, folder, is_direct, shared, skipped, authors: HashMap::new(), last: i64::MIN }
    }

    /// The lines of the channel, read day by day.
    fn records(mut self, directory: &Path) -> Box<dyn Iterator<Item = anyhow::Result<Record>>> {
        let days = match days_of(&directory.join(&self.folder)) {
            Ok(days) => days,
            Err(error) => return Box::new(std::iter::once(Err(error))),
        };
        let mut days = days.into_iter().peekable();
        // A channel may have messages that are older than itself, where it was converted.
        let first = days.peek().and_then(|day| read::<Vec<ExportedMessage>>(day).ok());
        let first = first.iter().flatten().filter_map(|message| millis(&message.ts)).min();
        let create = self.create_line(first).into_iter().map(Ok);
        let lines = days.flat_map(move |day| self.day(&day));
        Box::new(create.collect::<Vec<_>>().into_iter().chain(lines))
    }

    fn create_line(&mut self, first: Option<i64>) -> Option<Record> {
        if self.is_direct {
            return None;
        }
        let users = &self.shared.0;
        let creator = self.listed.creator.as_ref().or_else(|| self.listed.members.first())?;
        let at = self.listed.created.saturating_mul(1_000);
        self.last = first.map_or(at, |first| first.min(at));
        let members: Vec<_> =
            self.listed.members.iter().take(MAX_FIRST_MEMBERS).map(|user| users.of(user)).collect();
        let line = json!({
            "create": self.room(), "at": time(self.last), "from": users.of(creator),
            "title": self.listed.name.as_ref().unwrap_or(&self.listed.id), "members": members,
        });
        Some(record(&self.folder, &line))
    }

    fn room(&self) -> String {
        format!("#{}", clean_id(&self.folder))
    }

    /// The conversation that a user writes to; `None` if the user is not one of a direct conversation.
    fn to(&self, from: &str) -> Option<String> {
        if !self.is_direct {
            return Some(self.room());
        }
        let members: Vec<_> = self.listed.members.iter().map(|user| self.shared.0.of(user)).collect();
        let other = members.iter().find(|user| *user != from).or_else(|| members.first())?;
        members.iter().any(|user| user == from).then(|| format!("@{other}"))
    }

    fn day(&mut self, path: &Path) -> Vec<anyhow::Result<Record>> {
        let mut messages: Vec<ExportedMessage> = match read(path) {
            Ok(messages) => messages,
            Err(error) => return vec![Err(error)],
        };
        messages.sort_by_key(|message| millis(&message.ts));
        messages.into_iter().flat_map(|message| self.message(path, message)).map(Ok).collect()
    }

    fn message(&mut self, path: &Path, message: ExportedMessage) -> Vec<Record> {
        let author = message.user.as_ref().or(message.bot_id.as_ref());
        let from = author.map(|author| self.shared.0.of(author));
        let to = from.as_ref().and_then(|from| self.to(from));
        let (Some(from), Some(to), Some(at), true) =
            (from, to, millis(&message.ts), WRITTEN.contains(&message.subtype.as_str()))
        else {
            self.skipped.set(self.skipped.get() + 1);
            return Vec::new();
        };
        self.last = self.last.max(at);
        let place = format!("{}, {}", path.display(), message.ts);
        let reply_to = message.thread_ts.as_ref().filter(|thread| **thread != message.ts);
        let files: Vec<_> = (message.files.iter())
            .map(|file| json!({ "name": file.name, "url": file.url_private }))
            .collect();
        let line = Message {
            to,
            from: from.clone(),
            at: self.last,
            key: self.key(&message.ts),
            text: self.plain(&message.text),
            data: (!files.is_empty()).then(|| json!({ "slack": { "files": files } })),
            reply_to: reply_to.and_then(|thread| Some((self.authors.get(thread)?.clone(), self.key(thread)))),
        };
        if line.is_empty() {
            self.skipped.set(self.skipped.get() + 1);
            return Vec::new();
        }
        let mut records = line.records(&place);
        for Reaction { name, users } in &message.reactions {
            let emoji = emoji_of(name);
            for user in users.iter().map(|user| self.shared.0.of(user)) {
                let Some(to) = self.to(&user) else { continue };
                records.push(reaction(&place, &to, (&emoji, &user, self.last), (&from, &line.key)));
            }
        }
        self.authors.insert(message.ts, from);
        records
    }

    fn key(&self, ts: &str) -> String {
        format!("slack:{}:{ts}", self.listed.id)
    }

    /// The text without Slack's markup of links, and with the names that it refers to.
    /// <https://docs.slack.dev/messaging/formatting-message-text>
    fn plain(&self, text: &str) -> String {
        let mut plain = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('<') {
            plain.push_str(before);
            let Some((link, next)) = after.split_once('>') else {
                plain.push('<');
                rest = after;
                continue;
            };
            plain.push_str(&self.link(link));
            rest = next;
        }
        plain.push_str(rest);
        plain.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    }

    fn link(&self, link: &str) -> String {
        let (target, label) =
            link.split_once('|').map_or((link, None), |(target, label)| (target, Some(label)));
        let named = label.filter(|label| !label.is_empty());
        match target.chars().next() {
            Some('@') => format!("@{}", self.shared.0.of(&target[1..])),
            Some('#') => {
                let name = named.or_else(|| self.shared.1.get(&target[1..]).map(String::as_str));
                format!("#{}", name.unwrap_or(&target[1..]))
            }
            Some('!') => named.map_or_else(|| format!("@{}", &target[1..]), ToOwned::to_owned),
            _ => match named.filter(|label| *label != target) {
                Some(label) => format!("{label} ({target})"),
                None => target.to_owned(),
            },
        }
    }
}

/// The files of a channel, in the order of their days. A channel without messages has no folder.
fn days_of(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut days = Vec::new();
    for entry in folder.read_dir().with_context(|| folder.display().to_string())? {
        let path = entry.with_context(|| folder.display().to_string())?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            days.push(path);
        }
    }
    days.sort();
    Ok(days)
}

fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not as Slack exports it", path.display()))
}

/// The time of a `ts`: seconds, a point and microseconds.
fn millis(ts: &str) -> Option<i64> {
    let (seconds, micros) = ts.split_once('.').unwrap_or((ts, "0"));
    let micros: i64 = format!("{micros:0<6}").get(..6)?.parse().ok()?;
    seconds.parse::<i64>().ok()?.checked_mul(1_000)?.checked_add(micros / 1_000)
}

#[cfg(test)]
mod tests {
    use super::millis;

    #[test]
    fn a_ts_is_a_time() {
        assert_eq!(millis("1503435956.000247"), Some(1_503_435_956_000));
        assert_eq!(millis("1503435956.5"), Some(1_503_435_956_500));
        for wrong in ["", "x.1", "1.x", "99999999999999999999.0"] {
            assert_eq!(millis(wrong), None, "{wrong}");
        }
    }
}
