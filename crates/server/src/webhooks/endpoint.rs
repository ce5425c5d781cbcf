//! One endpoint: reads the feed and sends it, until it is stopped.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use switchboard_protocol::{ErrorCode, Timestamp};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::queue::{End, Item, MAX_OF_LANE, Queue, Stored};
use super::request::{Answer, Sender, Sent};
use super::settings::{Endpoint, Only, ReadEntry, part_of_lane};
use crate::metrics::{WebhookMetrics, WebhookStanding};
use switchboard_store::SharedStore;
use switchboard_store::clock::Clock;
use switchboard_store::feed::{FeedCursor, FeedPage, FeedQuery};
use switchboard_store::refusal::Refusal;
use switchboard_store::webhooks::{AT_END, Progress, Webhook};

/// How many entries are read at a time.
const PAGE: u32 = 256;

/// How often a change is handed over to be stored, and how often the queue is looked at again.
const TICK: Duration = Duration::from_millis(500);

/// The delay after the store could not be read.
const READ_DELAY: Duration = Duration::from_secs(1);

/// How many answers are kept for `webhook list`.
const ANSWERS: usize = 50;

/// How long requests may take that are in flight when the endpoint is stopped.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// The lane of the entries `feed.lost`.
const LOST_LANE: &str = "lost";

/// What is stored of a webhook besides its position.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    pub(super) stored: Stored,
    /// The latest answers, oldest first.
    pub(super) answers: VecDeque<Answer>,
    /// The last number of the feed when this was stored.
    pub(super) last: u64,
}

impl State {
    /// Reads what was stored. What cannot be read is forgotten: entries may then be sent again.
    pub(super) fn parse(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What the task of an endpoint and its supervisor share.
#[derive(Debug)]
pub(super) struct Shared {
    /// What is to be stored next.
    progress: Mutex<Option<Progress>>,
    /// Until when this node may send.
    lease: Mutex<Instant>,
    pub(super) stop: CancellationToken,
    ended: CancellationToken,
}

impl Shared {
    pub(super) fn new(lease: Instant) -> Self {
        Self {
            progress: Mutex::default(),
            lease: Mutex::new(lease),
            stop: CancellationToken::new(),
            ended: CancellationToken::new(),
        }
    }

    /// Takes what is to be stored.
    pub(super) fn take_progress(&self) -> Option<Progress> {
        lock(&self.progress).take()
    }

    /// Puts back what could not be stored, if there is nothing newer.
    pub(super) fn put_back(&self, progress: Progress) {
        lock(&self.progress).get_or_insert(progress);
    }

    /// The task has ended.
    pub(super) fn finish(&self) {
        self.ended.cancel();
    }

    /// Whether the task has ended and its last progress was taken.
    pub(super) fn is_finished(&self) -> bool {
        self.ended.is_cancelled() && lock(&self.progress).is_none()
    }

    pub(super) fn extend_lease(&self, until: Instant) {
        *lock(&self.lease) = until;
    }

    fn has_lease(&self) -> bool {
        Instant::now() < *lock(&self.lease)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the task of an endpoint needs.
pub(super) struct Parts {
    pub(super) webhook: Webhook,
    pub(super) endpoint: Endpoint,
    pub(super) sender: Sender,
    pub(super) store: SharedStore,
    pub(super) clock: Clock,
    pub(super) metrics: WebhookMetrics,
    pub(super) shared: Arc<Shared>,
}

/// Sends the feed to an endpoint.
pub(super) struct Task {
    parts: Parts,
    only: Only,
    state: State,
    queue: Queue,
    epoch: String,
    news: watch::Receiver<u64>,
    /// Whether the end of the feed was read, and nothing new is known.
    is_at_end: bool,
    is_changed: bool,
    is_gone: bool,
    read_again: Instant,
}

impl Task {
    pub(super) fn new(parts: Parts) -> Self {
        let mut state = State::parse(&parts.webhook.state);
        let stored = std::mem::take(&mut state.stored);
        let news = parts.store.feed_news();
        let queue = Queue::new(parts.webhook.position.max(0).unsigned_abs(), stored);
        Self {
            only: Only::new(&parts.endpoint),
            queue,
            epoch: parts.webhook.epoch.clone(),
            parts,
            state,
            news,
            is_at_end: false,
            is_changed: false,
            is_gone: false,
            read_again: Instant::now(),
        }
    }

    /// Sends until it is stopped, the lease ends, or the endpoint is paused.
    pub(super) async fn run(mut self) {
        let stop = self.parts.shared.stop.clone();
        self.parts.metrics.begin_at_zero(&self.parts.webhook.name);
        let mut in_flight = FuturesUnordered::new();
        let mut tick = tokio::time::interval(TICK);
        while !self.is_paused() && self.parts.shared.has_lease() {
            self.read().await;
            self.read_lane().await;
            let now = self.parts.clock.now();
            while let Some(item) = self.queue.begin(now.as_millis()) {
                in_flight.push(self.send(item, now));
            }
            self.parts.metrics.set_in_flight(&self.parts.webhook.name, in_flight.len());
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some((item, sent)) = in_flight.next() => self.ended(item, sent),
                changed = self.news.changed(), if self.is_at_end => {
                    // The store ends when the server stops.
                    if changed.is_err() {
                        break;
                    }
                    self.is_at_end = false;
                }
                _ = tick.tick() => self.hand_over(),
                () = tokio::task::yield_now(), if self.can_read() => {}
            }
        }
        // What is in flight may still be taken; what is not known to be taken is sent again.
        let grace = tokio::time::sleep(STOP_GRACE);
        tokio::pin!(grace);
        while !in_flight.is_empty() {
            tokio::select! {
                Some((item, sent)) = in_flight.next() => self.ended(item, sent),
                () = &mut grace => break,
            }
        }
        self.hand_over();
        self.parts.metrics.remove(&self.parts.webhook.name);
    }

    fn is_paused(&self) -> bool {
        self.is_gone || self.queue.is_full_of_parked()
    }

    /// Whether there is more to read and room for it.
    fn can_read(&self) -> bool {
        let has_more = !self.is_at_end && self.queue.has_room();
        (has_more || self.queue.next_unread().is_some()) && Instant::now() >= self.read_again
    }

    /// Reads the next entries of a lane that is behind.
    async fn read_lane(&mut self) {
        let Some((lane, number)) = self.queue.next_unread().filter(|_| Instant::now() >= self.read_again)
        else {
            return;
        };
        let after = FeedCursor::After { epoch: self.epoch.clone(), number };
        let query = FeedQuery { part: Some(part_of_lane(&lane)), ..self.query(after, MAX_OF_LANE as u32) };
        match self.parts.store.feed(query).await {
            Ok(page) => {
                let read = |entry: Box<RawValue>| Some((ReadEntry::of(&entry)?.number, entry));
                let entries = page.entries.into_iter().filter_map(read).collect();
                self.queue.add_read(&lane, page.next, entries);
                self.is_changed = true;
            }
            Err(refusal) if refusal.code == ErrorCode::BadCursor => {
                self.lost_of_lane(&lane, number, &refusal);
            }
            Err(_) => self.read_again = Instant::now() + READ_DELAY,
        }
    }

    /// The feed no longer has what a lane was behind by.
    fn lost_of_lane(&mut self, lane: &str, number: u64, refusal: &Refusal) {
        let oldest = refusal.cursors().and_then(|ends| ends.0.rsplit_once('-'));
        let before =
            oldest.filter(|(epoch, _)| *epoch == self.epoch).and_then(|(_, before)| before.parse().ok());
        let Some(before) = before.filter(|before| *before > number) else {
            // The database was restored: what all lanes have lost is found out first.
            self.read_again = Instant::now() + READ_DELAY;
            return;
        };
        let lost =
            self.lost_entry(&FeedPage::cursor(&self.epoch, number), &FeedPage::cursor(&self.epoch, before));
        self.queue.add_read(lane, before, lost.map(|lost| (before, lost)).into_iter().collect());
        self.is_changed = true;
    }

    /// Reads a page of the feed if there is room for it.
    async fn read(&mut self) {
        if self.is_at_end || !self.queue.has_room() || Instant::now() < self.read_again {
            return;
        }
        self.news.mark_unchanged();
        let position = self.queue.read_position();
        let after = match (self.epoch.is_empty(), self.parts.webhook.position) {
            (true, AT_END) => FeedCursor::End,
            (true, _) => FeedCursor::Beginning,
            (false, _) => FeedCursor::After { epoch: self.epoch.clone(), number: position },
        };
        match self.parts.store.feed(self.query(after, PAGE)).await {
            Ok(page) => self.add(page),
            Err(refusal) if refusal.code == ErrorCode::BadCursor => {
                self.lost(refusal.cursors().map(|ends| ends.0.as_str()));
            }
            Err(_) => self.read_again = Instant::now() + READ_DELAY,
        }
    }

    fn query(&self, after: FeedCursor, limit: u32) -> FeedQuery {
        let Endpoint { types, imported, .. } = &self.parts.endpoint;
        FeedQuery {
            after,
            limit,
            types: types.clone(),
            acts_as: None,
            no_text: false,
            is_admin: self.parts.endpoint.reads_audit(),
            part: None,
            skips_imported: !imported,
        }
    }

    fn add(&mut self, page: FeedPage) {
        if self.epoch.is_empty() {
            // The position is the page's, so that the webhook does not begin anew after a restart.
            let first =
                page.entries.first().and_then(|entry| ReadEntry::of(entry)).map(|entry| entry.number - 1);
            self.queue = Queue::new(first.unwrap_or(page.next), self.queue.stored().clone());
            self.is_changed = true;
        }
        self.is_changed |= page.next > self.queue.read_position() || self.epoch != page.epoch;
        self.epoch = page.epoch;
        for entry in page.entries {
            let Some(read) = ReadEntry::of(&entry) else { continue };
            if self.only.wants(&read.conversation) {
                self.queue.push(read.number, &read.lane(), entry);
            }
        }
        self.queue.passed(page.next);
        self.is_at_end = !page.more;
        self.state.last = *self.news.borrow();
    }

    /// The feed no longer has what is after the position: it was not kept so long, or the database was restored.
    fn lost(&mut self, oldest: Option<&str>) {
        let position = self.queue.read_position();
        let Some((epoch, before)) = oldest.and_then(|oldest| oldest.rsplit_once('-')) else {
            return;
        };
        if self.queue.position() < position || self.queue.is_sending() {
            // What was read before goes first.
            self.read_again = Instant::now() + READ_DELAY;
            return;
        }
        let before: u64 = before.parse().unwrap_or_default();
        // In a copy of the database, the numbers up to the copy are those of the same entries.
        if epoch != self.epoch && before <= position {
            epoch.clone_into(&mut self.epoch);
            self.is_changed = true;
            return;
        }
        let cursor = |epoch: &str, number| FeedPage::cursor(epoch, number);
        let (from, to) = (cursor(&self.epoch, position), cursor(epoch, before));
        let lost = self.lost_entry(&from, &to);
        epoch.clone_into(&mut self.epoch);
        self.queue = Queue::new(before, self.queue.stored().clone());
        if let Some(lost) = lost {
            self.queue.push(before, LOST_LANE, lost);
        }
        self.is_changed = true;
    }

    /// An entry that says what the feed no longer has.
    fn lost_entry(&self, from: &str, to: &str) -> Option<Box<RawValue>> {
        tracing::warn!(webhook = self.parts.webhook.name, from, to, "a webhook has lost entries");
        let entry = serde_json::json!({
            "id": to, "type": "feed.lost", "at": self.parts.clock.now(), "from": from, "to": to,
        });
        to_raw_value(&entry).ok()
    }

    /// Sends an entry. An entry that was held is read again, because it may have been deleted since.
    fn send(&self, item: Item, now: Timestamp) -> impl Future<Output = (Item, Option<Sent>)> + Send + use<> {
        let (sender, store) = (self.parts.sender.clone(), self.parts.store.clone());
        let after = FeedCursor::After { epoch: self.epoch.clone(), number: item.number - 1 };
        let query = self.query(after, 1);
        async move {
            let mut read = None;
            let entry = match &item.entry {
                Some(entry) => entry,
                None => match store.feed(query).await {
                    Ok(page) => {
                        match page.entries.into_iter().next().filter(|entry| is_number(entry, item.number)) {
                            Some(entry) => read.insert(entry),
                            None => return (item, Some(Sent::of_nothing(now))),
                        }
                    }
                    Err(refusal) if refusal.code == ErrorCode::BadCursor => {
                        return (item, Some(Sent::of_nothing(now)));
                    }
                    Err(_) => return (item, None),
                },
            };
            let sent = sender.send(entry, now).await;
            (item, Some(sent))
        }
    }

    fn ended(&mut self, item: Item, sent: Option<Sent>) {
        let now = self.parts.clock.now().as_millis();
        self.is_changed = true;
        let Some(Sent { answer, end, is_gone }) = sent else {
            self.queue.end(item, End::NotTried, now);
            self.read_again = Instant::now() + READ_DELAY;
            return;
        };
        self.parts.metrics.count(&self.parts.webhook.name, end.as_str());
        if end != End::Taken && self.queue.stored().fault.is_none() {
            let Answer { id, status, error, .. } = &answer;
            tracing::warn!(webhook = self.parts.webhook.name, id, status, error, "a webhook was not taken");
        }
        if !answer.id.is_empty() {
            self.state.answers.push_back(answer);
            while self.state.answers.len() > ANSWERS {
                self.state.answers.pop_front();
            }
        }
        self.is_gone |= is_gone;
        self.queue.end(item, end, now);
    }

    /// Hands over what is to be stored.
    fn hand_over(&mut self) {
        self.queue.remove_reached();
        let last = *self.news.borrow();
        let (position, stored) = (self.queue.position(), self.queue.stored());
        let standing = WebhookStanding {
            position,
            lag: last.saturating_sub(position),
            parked: stored.parked.len(),
            next_try: stored.fault.as_ref().map(|fault| Timestamp::from_millis(fault.next)),
        };
        self.parts.metrics.set_standing(&self.parts.webhook.name, standing);
        if !std::mem::take(&mut self.is_changed) || self.epoch.is_empty() {
            return;
        }
        self.state.last = last;
        self.state.stored = self.queue.stored().clone();
        let paused = match (self.is_gone, self.queue.is_full_of_parked()) {
            (true, _) => Some("the endpoint answered 410: it is gone".to_owned()),
            (_, true) => Some("1,000 entries are parked: the endpoint does not take them".to_owned()),
            _ => None,
        };
        if let Some(why) = &paused {
            tracing::error!(webhook = self.parts.webhook.name, why, "a webhook is paused");
        }
        let progress = Progress {
            name: self.parts.webhook.name.clone(),
            generation: self.parts.webhook.generation,
            epoch: self.epoch.clone(),
            position: i64::try_from(self.queue.position()).unwrap_or(i64::MAX),
            state: self.state.to_json(),
            paused,
        };
        *lock(&self.parts.shared.progress) = Some(progress);
    }
}

fn is_number(entry: &RawValue, number: u64) -> bool {
    ReadEntry::of(entry).is_some_and(|read| read.number == number)
}

#[cfg(test)]
mod tests {
    use super::super::queue::Held;
    use super::*;

    #[test]
    fn a_state_is_read_as_it_was_stored() {
        let mut state = State { last: 9, ..State::default() };
        state.stored.held.insert(7, Held { lane: "#a".to_owned(), tries: 2, next: 5 });
        state.stored.parked.insert(3, "#b".to_owned());
        let read = State::parse(&state.to_json());
        assert_eq!((read.stored, read.last), (state.stored, 9));
    }
}
