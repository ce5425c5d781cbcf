//! Fuzz target: runs sequences of changes and reads on a store in memory.

mod say;

use std::collections::BTreeMap;

use switchboard_protocol::reply::{OkBody, Summary};
use switchboard_protocol::{
    ConversationId, Conversations, ErrorCode, Event, EventBody, Limits, Seq, Sync, Target, Timestamp, UserId,
};

use self::say::Step;
use switchboard_store::in_memory::InMemory;
use switchboard_store::refusal::Refusal;
use switchboard_store::{Change, Committed, CursorKind, Query};

/// The most steps of one sequence. The number is bounded, because all logs are read again at its end.
const MAX_STEPS: usize = 256;

/// The number of devices of each user.
const DEVICES_PER_USER: usize = 2;

/// The state that follows from the outcomes of all changes, to check invariants of the store against it.
#[derive(Debug, Clone, Default)]
struct ModelState {
    /// Each log's last event, with its time.
    heads: BTreeMap<ConversationId, (Seq, Timestamp)>,
    /// The event that each sender has stored with each idempotency key.
    keys: BTreeMap<(UserId, String), (ConversationId, Seq)>,
    /// Each user's cursors.
    cursors: BTreeMap<(UserId, ConversationId, bool), Seq>,
}

impl ModelState {
    fn head(&self, name: &ConversationId) -> (Seq, Timestamp) {
        self.heads.get(name).copied().unwrap_or((Seq(0), Timestamp::from_millis(0)))
    }
}

/// The events that a device has read, by conversation. The device reads the events after its last one, which must follow without
/// a gap.
type DeviceLogs = BTreeMap<ConversationId, Vec<Event>>;

struct LogModel {
    store: InMemory,
    current: ModelState,
    /// The value of `known` at the last commit, to which a rollback returns.
    committed: ModelState,
    devices: BTreeMap<UserId, [DeviceLogs; DEVICES_PER_USER]>,
}

/// Applies commands of three users with two devices each, every command decoded from four bytes. Panics unless logs have no gap,
/// keys are stored once, cursors never go back, a rollback leaves no trace, and in the end all folded rows agree with the logs.
pub fn log(bytes: &[u8]) {
    let devices = say::users().into_iter().map(|user| (user, Default::default())).collect();
    let limits = Limits { page: 5, edits: 2, reactions: 2, rooms: 2, queue: 3_000, ..Limits::default() };
    let (known, committed) = Default::default();
    let mut run = LogModel { store: InMemory::new(limits), current: known, committed, devices };
    run.store.begin();
    for step in bytes.as_chunks::<4>().0.iter().take(MAX_STEPS) {
        match say::decode_step(*step) {
            Step::Change { actor, change, now } => run.change(&actor, change, now),
            Step::Read { user, device } => {
                run.commit();
                run.read_on_device(&user, device);
            }
            Step::Commit => run.commit(),
            Step::RollBack => {
                run.store.roll_back();
                run.current = run.committed.clone();
                run.store.begin();
            }
        }
    }
    run.commit();
    run.check_end_state();
}

impl LogModel {
    fn commit(&mut self) {
        self.store.commit();
        self.committed = self.current.clone();
        self.store.begin();
    }

    fn change(&mut self, actor: &UserId, change: Change, now: Timestamp) {
        let keyed = match &change {
            Change::Send(send) => send.key.as_ref().map(|key| (actor.clone(), key.as_str().to_owned())),
            _ => None,
        };
        let earlier = keyed.as_ref().and_then(|key| self.current.keys.get(key)).cloned();
        let told = format!("{actor} {change:?}");
        match self.store.apply(actor, change, now) {
            Ok(Committed::Event(event)) => {
                let (head, at) = self.current.head(&event.name);
                if event.event.is_some() {
                    assert_eq!((event.seq, &earlier), (head.next(), &None), "{told}");
                    assert!(event.at >= at, "{told}: time goes back");
                    self.current.heads.insert(event.name.clone(), (event.seq, event.at));
                    self.current.keys.extend(keyed.map(|key| (key, (event.name, event.seq))));
                } else {
                    assert!(event.seq <= head && event.seq > Seq(0), "{told}: the log ends at {head}");
                    let same = earlier.is_none_or(|first| first == (event.name, event.seq));
                    assert!(same, "{told}: a retry returns another event");
                }
            }
            Ok(Committed::Cursor(cursor)) => {
                let (name, of) = (cursor.name, cursor.kind == CursorKind::Read);
                let before =
                    self.current.cursors.insert((cursor.user.clone(), name.clone(), of), cursor.upto);
                assert!(before.is_none_or(|before| before <= cursor.upto), "{told}: a cursor goes back");
                let (head, _) = self.current.head(&name);
                assert!(cursor.upto <= head, "{told}: the log ends at {head}");
            }
            Ok(
                Committed::Profiles(_)
                | Committed::Block(_)
                | Committed::Report(_)
                | Committed::Held { .. }
                | Committed::Import(_)
                | Committed::NotAnnounced,
            ) => {}
            Err(Refusal { code, .. }) => {
                assert_ne!(code, ErrorCode::Unavailable, "{told}");
                assert_eq!(earlier.is_some(), code == ErrorCode::KeyConflict, "{told}: {code:?}");
            }
        }
    }

    /// Lets a device read every log from its cursor: a user's first device by pages, the second by replay.
    fn read_on_device(&mut self, user: &UserId, device: usize) {
        for name in say::conversations(user) {
            let Some(devices) = self.devices.get_mut(user) else { return };
            let has = devices[device].entry(name.clone()).or_default();
            let cursor = has.last().map(|event| event.seq).unwrap_or_default();
            let news = if device == 0 {
                read_all_pages(&self.store, user, &name, cursor)
            } else {
                read_replay(&self.store, user, &name, cursor)
            };
            // A user who was a member keeps access to the events up to the leave.
            assert!(news.is_some() || has.is_empty(), "{user} sees {name} no more");
            has.extend(news.unwrap_or_default());
            for (event, seq) in has.iter().zip(1..) {
                assert_eq!((event.seq, &event.conversation), (Seq(seq), &name), "{user} reads {name}");
            }
        }
    }

    fn check_end_state(mut self) {
        for user in say::users() {
            for device in 0..DEVICES_PER_USER {
                self.read_on_device(&user, device);
            }
            let [one, other] = &self.devices[&user];
            for name in say::conversations(&user) {
                let heads =
                    [one, other].map(|device| device[&name].last().map(|event| (event.seq, event.at)));
                assert_eq!(heads[0], heads[1], "two devices of {user} have the same of {name}");
            }
            self.check_summaries(&user);
        }
        self.store.roll_back();
        assert_eq!(self.store.check(), [], "the database does not check");
    }

    /// Checks that every summary of a user agrees with the log.
    fn check_summaries(&self, user: &UserId) {
        let conversations = self.conversations(user);
        let joined = self
            .store
            .attach(user, &[])
            .map(|snapshot| snapshot.memberships.joined.len())
            .unwrap_or_default();
        assert_eq!(joined, conversations.len(), "{user} is in as many as are listed");
        for Summary { conversation, head, at, read, received, unread, .. } in conversations {
            assert_eq!(
                self.current.heads.get(&conversation),
                Some(&(head, at)),
                "the head of {conversation}"
            );
            for (of, cursor) in [(true, read), (false, received)] {
                let known = self.current.cursors.get(&(user.clone(), conversation.clone(), of)).copied();
                assert!(
                    known.unwrap_or_default() <= cursor && cursor <= head,
                    "{user}'s cursor in {conversation}"
                );
            }
            let log = read_all_pages(&self.store, user, &conversation, read).expect("a member reads");
            let others =
                |event: &&Event| matches!(event.body, EventBody::Message { .. }) && event.from != *user;
            assert_eq!(
                unread,
                log.iter().filter(others).count() as u64,
                "what {user} has not read of {conversation}"
            );
        }
    }

    /// Reads all conversations of a user, page by page, and checks that the latest come first.
    fn conversations(&self, user: &UserId) -> Vec<Summary> {
        let mut all: Vec<Summary> = Vec::new();
        loop {
            let before = all.last().map(|summary| summary.conversation.clone());
            let page = Query::Conversations(Conversations { before, limit: Some(2) });
            let Ok(OkBody::Conversations { conversations, more }) = query_store(&self.store, user, &page)
            else {
                panic!("no page of {user}'s conversations");
            };
            assert!(!more || !conversations.is_empty(), "a page has something, or is the last");
            all.extend(conversations);
            assert!(all.is_sorted_by(|one, next| one.at >= next.at), "the latest come first");
            if !more {
                return all;
            }
        }
    }
}

/// Reads a page and decodes it as a client does.
fn query_store(store: &InMemory, user: &UserId, query: &Query) -> Result<OkBody, Refusal> {
    let json = serde_json::to_string(&store.query(user, query)?).expect("JSON");
    Ok(serde_json::from_str(&json).expect("what a client understands"))
}

/// Reads a log after a cursor to its end, page by page; `None` for a user who may not see it.
fn read_all_pages(store: &InMemory, user: &UserId, name: &ConversationId, after: Seq) -> Option<Vec<Event>> {
    let mut log = Vec::new();
    loop {
        let after = log.last().map_or(after, |event: &Event| event.seq);
        let conversation = Target::from(name.clone());
        match query_store(store, user, &Query::Sync(Sync { conversation, after, limit: Some(3) })) {
            Ok(OkBody::Log { events, more, head, .. }) => {
                assert!(!more || !events.is_empty(), "a page has something, or is the last");
                log.extend(events);
                assert!(
                    more || log.last().is_none_or(|event| event.seq == head),
                    "the last page ends at the head"
                );
                if !more {
                    return Some(log);
                }
            }
            Err(refusal) if refusal.code == ErrorCode::NotFound => return None,
            other => panic!("no page of {name} after {after} but {other:?}"),
        }
    }
}

/// Reads a log after a cursor to its end, as a session does after `hello`; `None` for a user who may not see it.
fn read_replay(store: &InMemory, user: &UserId, name: &ConversationId, after: Seq) -> Option<Vec<Event>> {
    let snapshot = store.attach(user, std::slice::from_ref(name))?;
    let seen = snapshot.named.into_iter().next()?.ok()?;
    let mut log = Vec::new();
    loop {
        let after = log.last().map_or(after, |event: &Event| event.seq);
        let page =
            store.replay(snapshot.user, seen.conversation, after, seen.head).expect("what one sees is read");
        if page.is_empty() {
            assert!(after == seen.head, "a replay of {name} ends at {after} and not at {}", seen.head);
            return Some(log);
        }
        log.extend(page.iter().map(|event| serde_json::from_str(&event.seen_json()).expect("an event")));
    }
}
