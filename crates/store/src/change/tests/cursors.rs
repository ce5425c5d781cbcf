//! Compares cursors and unread counts with a model that counts the messages in its own log.

use super::*;
use crate::change::MAX_EVENTS_COUNTED_BY_WRITER;
use crate::read::counts::EVENTS_PER_COUNT;

#[derive(Debug, Clone)]
enum Action {
    Says,
    /// Stores an event that is not a message.
    Renames,
    Reads(u64),
    Receives(u64),
    Leaves,
    Joins,
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        5 => Just(Action::Says),
        1 => Just(Action::Renames),
        4 => (0_u64..30).prop_map(Action::Reads),
        2 => (0_u64..30).prop_map(Action::Receives),
        1 => Just(Action::Leaves),
        2 => Just(Action::Joins),
    ]
}

/// Whether a user is a member, and the user's read and received cursors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ModelMember {
    is_member: bool,
    read: u64,
    received: u64,
}

/// The model: for each event of `log`, its sender if it is a message, otherwise `None`.
struct Model {
    log: Vec<Option<&'static str>>,
    members: BTreeMap<&'static str, ModelMember>,
}

impl Model {
    fn head(&self) -> u64 {
        self.log.len() as u64
    }

    fn unread(&self, who: &str, read: u64) -> u64 {
        let after = self.log.iter().skip(usize::try_from(read).expect("a short log"));
        after.filter(|sender| sender.is_some_and(|sender| sender != who)).count() as u64
    }

    /// Applies a step to the model. Returns the cursor position with which the store must answer; `None` if the answer has none.
    fn expected(&mut self, who: &'static str, what: &Action) -> Result<Option<u64>, ErrorCode> {
        let head = self.head();
        if let Action::Renames = what {
            self.log.push(None);
            return Ok(None);
        }
        let place = self.members.entry(who).or_insert(ModelMember { is_member: false, read: 0, received: 0 });
        match *what {
            Action::Joins => {
                if !place.is_member {
                    // All events up to and including the join count as read.
                    *place = ModelMember {
                        is_member: true,
                        read: head + 1,
                        received: place.received.max(head + 1),
                    };
                    self.log.push(None);
                }
                return Ok(None);
            }
            // A second `leave` counts as a retry of the first and succeeds.
            Action::Leaves if !place.is_member && place.read > 0 => return Ok(None),
            _ if !place.is_member => return Err(ErrorCode::NotFound),
            Action::Reads(upto) | Action::Receives(upto) if upto > head => return Err(ErrorCode::BadCursor),
            Action::Reads(upto) => {
                place.read = place.read.max(upto);
                place.received = place.received.max(upto);
                return Ok(Some(place.read));
            }
            Action::Receives(upto) => {
                place.received = place.received.max(upto);
                return Ok(Some(place.received));
            }
            Action::Leaves => {
                place.is_member = false;
                self.log.push(None);
            }
            Action::Says | Action::Renames => self.log.push(Some(who)),
        }
        Ok(None)
    }
}

fn check_against_model(steps: &[(&'static str, Action)], near: u64) -> TestCaseResult {
    let mut store = InMemory::new(Limits::default());
    store.set_max_events_counted_by_writer(near);
    // The admin never leaves, so all other users may join and leave.
    says(&mut store, "root", "create", &json!({"room": "r", "public": true})).expect("a room");
    let mut model = Model { log: vec![None], members: BTreeMap::new() };
    for (who, what) in steps {
        let told = match what {
            Action::Says => says(&mut store, who, "send", &json!({"to": "#r", "text": "hi"})),
            // Only the admin may rename the room, so the admin does it in place of this step's user.
            Action::Renames => {
                says(&mut store, "root", "rename", &json!({"conversation": "#r", "title": "T"}))
            }
            Action::Reads(upto) => {
                says(&mut store, who, "read", &json!({"conversation": "#r", "upto": upto}))
            }
            Action::Receives(upto) => {
                says(&mut store, who, "received", &json!({"conversation": "#r", "upto": upto}))
            }
            Action::Leaves => says(&mut store, who, "leave", &json!({"conversation": "#r"})),
            Action::Joins => says(&mut store, who, "join", &json!({"conversation": "#r"})),
        };
        let told = match told {
            Ok(Committed::Cursor(cursor)) => Ok(Some(cursor.upto.0)),
            Ok(_) => Ok(None),
            Err(refusal) => Err(refusal.code),
        };
        prop_assert_eq!(told, model.expected(who, what), "{} {:?} at {}", who, what, model.head());
        let place = model.members.get(who).copied().filter(|place| place.is_member);
        let shown = summary(&store, who).map(|s| (s.read.0, s.received.0, s.unread, s.head.0));
        let known = place.map(|p| (p.read, p.received, model.unread(who, p.read), model.head()));
        prop_assert_eq!(shown, known, "{} after {:?}", who, what);
    }
    prop_assert_eq!(store.check(), []);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn cursors_only_move_forward_and_unread_counts_match_the_log(
        steps in proptest::collection::vec((proptest::sample::select(&PEOPLE[..3]), any_action()), 1..50),
        near in prop_oneof![Just(0), 1_u64..6, Just(u64::MAX)],
    ) {
        check_against_model(&steps, near)?;
    }
}

/// A room of alice and bob with a log of `events` events, of which every third is a message by alice.
fn long_log(events: u64) -> InMemory {
    let mut store = InMemory::new(Limits::default());
    says(&mut store, "alice", "create", &json!({"room": "r", "members": ["bob"]})).expect("a room");
    store.execute_sql(&format!(
        "INSERT INTO events (conversation, seq, kind, sender, at, messages, key, body)
            WITH RECURSIVE n (seq) AS (SELECT 2 UNION ALL SELECT seq + 1 FROM n WHERE seq < {events})
            SELECT c.id, n.seq, 1, u.id, 1000, n.seq - 1, 'k' || n.seq, '{{\"text\":\"x\"}}' FROM n, conversations c
            JOIN users u ON u.name = iif(n.seq % 3 = 0, 'alice', 'bob');
         UPDATE conversations SET head = {events}, messages = {events} - 1, last_message = {events};
         UPDATE members SET sent = (SELECT count(*) FROM events e WHERE e.sender = members.user AND e.kind = 1)"
    ));
    store
}

fn unread(store: &InMemory, who: &str) -> u64 {
    summary(store, who).expect("a member").unread
}

#[test]
fn a_long_log_is_counted_by_readers_a_slice_at_a_time() {
    let events = 3 * EVENTS_PER_COUNT;
    let mut store = long_log(events);
    store.set_max_events_counted_by_writer(MAX_EVENTS_COUNTED_BY_WRITER);
    // Cursors for which the messages are counted from the beginning, near the middle, back from the end, and by the writer itself.
    for upto in [
        EVENTS_PER_COUNT + 7,
        EVENTS_PER_COUNT + 8,
        2 * EVENTS_PER_COUNT + 9,
        events - MAX_EVENTS_COUNTED_BY_WRITER,
        events - 1,
        events,
    ] {
        says(&mut store, "bob", "read", &json!({"conversation": "#r", "upto": upto})).expect("read");
        let alices = (upto + 1..=events).filter(|seq| seq % 3 == 0).count() as u64;
        assert_eq!(unread(&store, "bob"), alices, "up to {upto}");
    }
    assert_eq!(store.check(), []);
}

#[test]
fn a_writer_reads_few_events_for_a_cursor_wherever_it_is() {
    let events = 3 * EVENTS_PER_COUNT;
    for upto in [
        3,
        MAX_EVENTS_COUNTED_BY_WRITER,
        MAX_EVENTS_COUNTED_BY_WRITER + 3,
        EVENTS_PER_COUNT,
        2 * EVENTS_PER_COUNT,
        events - MAX_EVENTS_COUNTED_BY_WRITER - 1,
        events - 1,
        events,
    ] {
        let mut store = long_log(events);
        store.set_max_events_counted_by_writer(MAX_EVENTS_COUNTED_BY_WRITER);
        let rows = store.rows_read_to_write(&user("bob"), &json!({"conversation": "#r", "upto": upto}));
        assert!(rows <= 3 * MAX_EVENTS_COUNTED_BY_WRITER, "{rows} rows for a cursor at {upto}");
    }
}

#[test]
fn several_cursors_of_a_batch_move_once_and_each_is_answered() {
    let mut store = long_log(100);
    let uptos = [10, 30, 20, 30, 101, 5];
    let changes =
        uptos.map(|upto| (user("bob"), change("read", &json!({"conversation": "#r", "upto": upto}))));
    let answers = store.commit_batch(changes.into(), Timestamp::from_millis(1_000));
    let moved =
        answers.iter().filter(|answer| matches!(answer, Ok(Committed::Cursor(c)) if c.has_moved)).count();
    assert_eq!(moved, 1);
    for (upto, answer) in uptos.into_iter().zip(answers) {
        match answer {
            Ok(Committed::Cursor(cursor)) => assert_eq!(cursor.upto, Seq(30)),
            Err(refusal) => assert_eq!((upto, refusal.code), (101, ErrorCode::BadCursor)),
            other => panic!("{other:?}"),
        }
    }
}
