//! The reference model: the store reports each commit to the model, which checks all that clients receive against the
//! committed events. It has its own implementation of the protocol's rules.

mod fold;
mod laws;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::Hasher as _;

use rustc_hash::FxHasher;
use serde_json::Value;
use switchboard_store::record::LogEvent;
use switchboard_store::{Committed, CommittedCursor, CommittedEvent, CursorKind, Outcome};
use tokio::time::Instant;

/// A run whose record has more lines than this counts as endless. Even a long run has only a small part of it.
const MAX_HISTORY_LINES: usize = 40_000;

/// The error of a check that found a broken law. The record of the run already describes it.
#[derive(Debug)]
pub(crate) struct LawBroken;

pub(crate) type LawResult = Result<(), LawBroken>;

/// The reference model: what the store has committed, and the record of the run so far.
pub(crate) struct ReferenceModel {
    began: Instant,
    logs: BTreeMap<String, Log>,
    /// The conversation and seq of each message, by sender and idempotency key.
    keys: BTreeMap<(String, String), (String, u64)>,
    /// The cursors of each user; the flag is true for the read cursor.
    cursors: BTreeMap<(String, String, bool), u64>,
    /// The sender, idempotency key and seq of each message whose `ok` said that it was not a duplicate.
    acknowledged: BTreeMap<(String, String), u64>,
    history: Vec<String>,
    hash: FxHasher,
    violation: Option<String>,
    pub(crate) counts: Counts,
}

/// Counts what happened in a run, because a simulation in which nothing happens proves nothing.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) events: u64,
    pub(crate) delivered: u64,
    pub(crate) acknowledged: u64,
    pub(crate) duplicates: u64,
    pub(crate) gaps: u64,
    pub(crate) pages: u64,
    pub(crate) connections: u64,
    pub(crate) crashes: u64,
    pub(crate) clean_stops: u64,
    pub(crate) refused_batches: u64,
    pub(crate) clusters: u64,
    pub(crate) partitions: u64,
    pub(crate) revocations: u64,
    /// Notices that the bus lost, and notices that it delivered twice.
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
}

/// The committed events and memberships of a conversation.
#[derive(Default)]
struct Log {
    events: Vec<CommittedLogEvent>,
    members: BTreeMap<String, Vec<MembershipPeriod>>,
}

/// A committed event.
struct CommittedLogEvent {
    kind: &'static str,
    from: String,
    at: String,
    at_millis: i64,
    key: Option<String>,
    body: serde_json::Map<String, Value>,
    /// The simulated time of the commit.
    committed_at: Instant,
    /// The event that deleted this message or, if this event is an edit, the event that deleted the edited message.
    deleted_by: Option<u64>,
}

/// One membership of a user, from the event of joining to the event of leaving.
#[derive(Clone, Copy)]
struct MembershipPeriod {
    since: u64,
    until: Option<u64>,
    when: Instant,
}

impl ReferenceModel {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            logs: BTreeMap::new(),
            keys: BTreeMap::new(),
            cursors: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            history: Vec::new(),
            hash: FxHasher::default(),
            violation: None,
            counts: Counts::default(),
        }
    }

    /// Adds a line to the record of the run.
    pub(crate) fn record(&mut self, who: &str, what: std::fmt::Arguments<'_>) {
        let mut line = String::with_capacity(120);
        let _ = write!(line, "{:>7} {who:<8} {what}", self.began.elapsed().as_millis());
        self.hash.write(line.as_bytes());
        self.history.push(line);
        if self.history.len() > MAX_HISTORY_LINES {
            self.violation.get_or_insert_with(|| "the story has no end".to_owned());
        }
    }

    /// Records a broken law. The first one recorded is the result of the run.
    pub(crate) fn report_violation(&mut self, who: &str, what: &str) -> LawBroken {
        self.record(who, format_args!("BROKEN: {what}"));
        self.violation.get_or_insert_with(|| format!("{who}: {what}"));
        LawBroken
    }

    pub(crate) fn violation(&self) -> Option<String> {
        self.violation.clone()
    }

    /// A hash of everything that was recorded in the run so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hash.finish()
    }

    pub(crate) fn take_history(&mut self) -> Vec<String> {
        std::mem::take(&mut self.history)
    }

    /// Records a batch that the store committed.
    pub(crate) fn on_commit(&mut self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            let held = match &outcome.result {
                Ok(Committed::Event(event)) => self.on_committed_event(event),
                Ok(Committed::Cursor(cursor)) => self.on_committed_cursor(cursor),
                Ok(
                    Committed::Profiles(_)
                    | Committed::Block(_)
                    | Committed::Report(_)
                    | Committed::Held { .. }
                    | Committed::Import(_)
                    | Committed::NotAnnounced,
                ) => Ok(()),
                Err(refusal) => {
                    self.record("store", format_args!("refuses: {:?}", refusal.code));
                    Ok(())
                }
            };
            if held.is_err() {
                return;
            }
        }
    }

    fn on_committed_event(&mut self, committed: &CommittedEvent) -> LawResult {
        let name = committed.name.to_string();
        let seq = committed.seq.0;
        let head = self.head(&name);
        let Some(event) = &committed.event else {
            self.record("store", format_args!("{name} {seq} again"));
            if seq == 0 || seq > head {
                return Err(self.report_violation(
                    "store",
                    &format!("{name} {seq} is repeated, but the log ends at {head}"),
                ));
            }
            return Ok(());
        };
        self.record(
            "store",
            format_args!("{name} {seq} {} of {} {}", event.kind.as_str(), event.from, event.body),
        );
        self.counts.events += 1;
        let log = self.logs.entry(name.clone()).or_default();
        let before = log.events.last().map_or(i64::MIN, |last| last.at_millis);
        let stored = CommittedLogEvent::from_event(event);
        if seq != head + 1 || event.seq.0 != seq {
            return Err(self.report_violation("store", &format!("{name} {seq} follows {head}")));
        }
        if stored.at_millis < before {
            return Err(self.report_violation("store", &format!("{name} {seq}: time goes back")));
        }
        if let Some(key) = &stored.key {
            let key = (stored.from.clone(), key.clone());
            if let Some(first) = self.keys.insert(key, (name.clone(), seq)) {
                return Err(self.report_violation("store", &format!("{name} {seq} has the key of {first:?}")));
            }
        }
        let log = self.logs.entry(name.clone()).or_default();
        log.change_members(&name, seq, &stored);
        if stored.kind == "delete"
            && let Some(target) = stored.body.get("target").and_then(Value::as_u64)
        {
            log.erase_message_content(target, seq);
        }
        log.events.push(stored);
        Ok(())
    }

    fn on_committed_cursor(&mut self, cursor: &CommittedCursor) -> LawResult {
        let (name, user, upto) = (cursor.name.to_string(), cursor.user.to_string(), cursor.upto.0);
        let reading = cursor.kind == CursorKind::Read;
        self.record("store", format_args!("{name} {user} {:?} {upto}", cursor.kind));
        let head = self.head(&name);
        let before = self.cursors.insert((name.clone(), user.clone(), reading), upto).unwrap_or(0);
        if upto < before || upto > head {
            let what = format!("{name}: the cursor of {user} goes from {before} to {upto} of {head}");
            return Err(self.report_violation("store", &what));
        }
        Ok(())
    }

    /// The last event of each conversation.
    pub(crate) fn heads(&self) -> Vec<(String, u64)> {
        self.logs.iter().map(|(name, log)| (name.clone(), log.events.len() as u64)).collect()
    }

    fn head(&self, name: &str) -> u64 {
        self.logs.get(name).map_or(0, |log| log.events.len() as u64)
    }

    /// The last event that a user may see; `None` for a user who never was a member.
    pub(crate) fn visible_head(&self, user: &str, name: &str) -> Option<u64> {
        let log = self.logs.get(name)?;
        let last = log.members.get(user)?.last()?;
        Some(last.until.unwrap_or(log.events.len() as u64))
    }

    /// The first event that a session must receive that began at `since`: later than `since`, and not before the user last joined.
    pub(crate) fn first_seq_due_to_session(&self, user: &str, name: &str, since: Instant) -> u64 {
        let Some(log) = self.logs.get(name) else { return 0 };
        let stay = log.members.get(user).and_then(|stays| stays.last()).map_or(0, |last| last.since);
        let before = log.events.iter().take_while(|event| event.committed_at <= since).count() as u64;
        stay.max(before + 1)
    }

    /// Whether the user's last membership has ended, and began at the event `next` or later.
    pub(crate) fn has_membership_ended(&self, user: &str, name: &str, next: u64) -> bool {
        let stays = self.logs.get(name).and_then(|log| log.members.get(user));
        stays.and_then(|stays| stays.last()).is_some_and(|last| last.until.is_some() && last.since >= next)
    }

    /// The conversations of which a user is or was a member, each with the last event that they may see.
    pub(crate) fn visible_heads(&self, user: &str) -> Vec<(String, u64)> {
        let all = self.logs.keys().filter_map(|name| Some((name.clone(), self.visible_head(user, name)?)));
        all.collect()
    }

    /// Whether a user is a member now.
    pub(crate) fn is_member(&self, user: &str, name: &str) -> bool {
        let stays = self.logs.get(name).and_then(|log| log.members.get(user));
        stays.and_then(|stays| stays.last()).is_some_and(|last| last.until.is_none())
    }

    /// The conversations in which two users may see each other's presence, or might while they were members: rooms of both, and
    /// their direct conversation once both have written in it.
    pub(crate) fn shared_conversations(&self, one: &str, other: &str) -> Vec<String> {
        let now = Instant::now();
        let both = |name: &str, log: &Log| {
            [one, other]
                .iter()
                .all(|user| log.members.contains_key(*user) && has_written(name, log, user, now))
        };
        self.logs.iter().filter(|(name, log)| both(name, log)).map(|(name, _)| name.clone()).collect()
    }

    /// Whether two users may see each other's presence because of a conversation of both, and might already before `then`.
    pub(crate) fn have_shared_room_since(&self, one: &str, other: &str, then: Instant) -> bool {
        self.logs.iter().any(|(name, log)| {
            [one, other].iter().all(|user| {
                let last = log.members.get(*user).and_then(|stays| stays.last());
                last.is_some_and(|stay| stay.until.is_none() && stay.when < then)
                    && has_written(name, log, user, then)
            })
        })
    }

    /// Whether the user joined the conversation again after the event `seq`.
    pub(crate) fn rejoined_after(&self, user: &str, name: &str, seq: u64) -> bool {
        let stays = self.logs.get(name).and_then(|log| log.members.get(user));
        stays.and_then(|stays| stays.last()).is_some_and(|last| last.since > seq)
    }
}

/// Whether a user wrote a message in a direct conversation, until `then`. In a room it does not matter.
fn has_written(name: &str, log: &Log, user: &str, then: Instant) -> bool {
    let is_own = |event: &CommittedLogEvent| event.kind == "message" && event.from == user;
    !name.starts_with('@') || log.events.iter().any(|event| is_own(event) && event.committed_at <= then)
}

impl CommittedLogEvent {
    fn from_event(event: &LogEvent) -> Self {
        Self {
            kind: event.kind.known_kind().as_str(),
            from: event.from.to_string(),
            at: event.at.to_string(),
            at_millis: event.at.as_millis(),
            key: event.key.as_deref().map(str::to_owned),
            body: serde_json::from_str(&event.body).expect("the store keeps objects"),
            committed_at: Instant::now(),
            deleted_by: None,
        }
    }

    fn text(&self, field: &str) -> Option<&str> {
        self.body.get(field).and_then(Value::as_str)
    }

    fn target(&self) -> Option<u64> {
        self.body.get("target").and_then(Value::as_u64)
    }
}

impl Log {
    /// Applies an event that adds or removes a member.
    fn change_members(&mut self, name: &str, seq: u64, event: &CommittedLogEvent) {
        let when = event.committed_at;
        let mut comes = |user: &str| {
            let stays = self.members.entry(user.to_owned()).or_default();
            stays.push(MembershipPeriod { since: seq, until: None, when });
        };
        match event.kind {
            "create" => {
                comes(&event.from);
                let members = event.body.get("members").and_then(Value::as_array);
                members.into_iter().flatten().filter_map(Value::as_str).for_each(comes);
            }
            "message" if seq == 1 => {
                let peers: Vec<_> = name.trim_start_matches('@').split(':').collect();
                comes(peers[0]);
                if peers[1] != peers[0] {
                    comes(peers[1]);
                }
            }
            "join" => comes(&event.from),
            "invite" => comes(event.text("user").unwrap_or_default()),
            "leave" => self.end_membership(&event.from, seq),
            "remove" => self.end_membership(event.text("user").unwrap_or_default(), seq),
            _ => {}
        }
    }

    fn end_membership(&mut self, user: &str, seq: u64) {
        if let Some(last) = self.members.get_mut(user).and_then(|stays| stays.last_mut()) {
            last.until = Some(seq);
        }
    }

    /// Records that the event `by` erased the message `target` and its edits.
    fn erase_message_content(&mut self, target: u64, by: u64) {
        for (at, event) in (1..).zip(&mut self.events) {
            let of_it = at == target || (event.kind == "edit" && event.target() == Some(target));
            if of_it && event.deleted_by.is_none() {
                event.deleted_by = Some(by);
            }
        }
    }

    fn get(&self, seq: u64) -> Option<&CommittedLogEvent> {
        self.events.get(usize::try_from(seq.checked_sub(1)?).ok()?)
    }
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.events += other.events;
        self.delivered += other.delivered;
        self.acknowledged += other.acknowledged;
        self.duplicates += other.duplicates;
        self.gaps += other.gaps;
        self.pages += other.pages;
        self.connections += other.connections;
        self.crashes += other.crashes;
        self.clean_stops += other.clean_stops;
        self.refused_batches += other.refused_batches;
        self.clusters += other.clusters;
        self.partitions += other.partitions;
        self.revocations += other.revocations;
        self.lost += other.lost;
        self.doubled += other.doubled;
    }
}
