//! The cost of reads, in steps of SQLite's virtual machine: unlike times, these do not depend on the machine or its load.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;
use serde_json::{Value, json};
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{
    ConversationId, History, Limits, Members, Seq, Target, Timestamp, UserId, decode_named,
};
use tempfile::TempDir;

use super::{Reader, reader};
use crate::batch::WriterState;
use crate::change::{self, Actor, Rules};
use crate::sqlite::rows::SqliteRows;
use crate::sqlite::{Access, open_database, open_reader};
use crate::{Committed, Query, Request};

/// A database with a writer and a reader. The steps of SQLite's virtual machine are counted for each.
struct Fixture {
    rows: SqliteRows,
    rules: Rules,
    db: Connection,
    written: StepCounter,
    read: StepCounter,
    data: TempDir,
}

/// Counts the steps of SQLite's virtual machine for one connection.
#[derive(Clone, Default)]
struct StepCounter(Arc<AtomicU64>);

impl StepCounter {
    fn install(db: &Connection) -> Self {
        let steps = Self::default();
        let count = steps.clone();
        let handler = move || {
            count.0.fetch_add(1, Ordering::Relaxed);
            false
        };
        db.progress_handler(1, Some(handler)).expect("the progress handler is set");
        steps
    }

    fn take_count(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl Fixture {
    fn new() -> Self {
        let data = TempDir::new().expect("a directory");
        let writer = open_database(data.path()).expect("a database");
        let db = open_reader(data.path(), Access::Shared).expect("the same");
        let (written, read) = (StepCounter::install(&writer), StepCounter::install(&db));
        let rules = Rules::new(Limits::default(), true, false);
        Self { rows: SqliteRows::new(writer), rules, db, written, read, data }
    }

    /// Applies changes in transactions of a thousand each. Returns the seq of the last event.
    fn writes(&mut self, changes: impl IntoIterator<Item = (String, &'static str, Value)>) -> Seq {
        let mut last = Seq(0);
        self.rows.begin().expect("a transaction");
        for (n, (actor, name, fields)) in changes.into_iter().enumerate() {
            if n % 1_000 == 999 {
                self.rows.commit().expect("committed");
                self.rows.begin().expect("a transaction");
            }
            let command = decode_named(name, &fields.to_string()).expect("a command").command;
            let Request::Change(change) = Request::from(command) else { panic!("{name} writes nothing") };
            let now = Timestamp::from_millis(1_000);
            match change::apply(
                &mut self.rows,
                &self.rules,
                Actor::without_allowances(&user(&actor)),
                change,
                now,
            ) {
                Ok(Committed::Event(event)) => last = event.seq,
                other => panic!("{actor} says {name} {fields}: {other:?}"),
            }
        }
        self.rows.commit().expect("committed");
        last
    }

    fn write(&mut self, actor: &str, name: &'static str, fields: Value) -> Seq {
        self.writes([(actor.to_owned(), name, fields)])
    }

    /// How many steps of SQLite's virtual machine a change takes.
    fn steps_to_write(&mut self, change: (String, &'static str, Value)) -> u64 {
        self.written.take_count();
        self.writes([change]);
        self.written.take_count()
    }

    /// Runs a read. Returns its result, and how many steps of SQLite's virtual machine it took.
    fn run_and_count<T>(&self, read: impl FnOnce(&Reader<'_>) -> T) -> (T, u64) {
        self.read.take_count();
        let (limits, state) = (&self.rules.limits, &WriterState::default());
        let answer = read(&reader(&self.db, limits, state));
        (answer, self.read.take_count())
    }

    /// Reads a page of messages. Returns their seqs, whether there are more, and how many steps the page took.
    fn history(&self, actor: &str, before: Option<u64>, limit: u32) -> ((Vec<u64>, bool), u64) {
        let conversation = Target::Conversation(ConversationId::parse("#r").expect("an id"));
        let command = History { conversation, before: before.map(Seq), around: None, limit: Some(limit) };
        let (page, steps) = self.run_and_count(|reader| reader.history(&user(actor), &command));
        let Ok(OkBody::History { messages, more, .. }) = page else { panic!("{page:?}") };
        ((messages.iter().map(|message| message.seq.0).collect(), more), steps)
    }

    fn execute_sql(&self, sql: &str) {
        let path = self.data.path().join(crate::sqlite::DATABASE_FILE);
        let changed = Connection::open(path).and_then(|db| db.execute(sql, []));
        assert_ne!(changed, Ok(0), "{sql}: {changed:?}");
    }
}

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a user id")
}

fn toggle_command(n: u64) -> (String, &'static str, Value) {
    let fields = json!({"conversation": "#r", "target": 2, "emoji": "x", "on": n.is_multiple_of(2)});
    ("alice".to_owned(), "react", fields)
}

fn rename_command(n: u64) -> (String, &'static str, Value) {
    ("alice".to_owned(), "rename", json!({"conversation": "#r", "title": n.to_string()}))
}

/// A room with two messages, between which the events `others` are stored.
fn room_with_events(others: impl IntoIterator<Item = (String, &'static str, Value)>) -> Fixture {
    let mut fixture = Fixture::new();
    fixture.write("alice", "create", json!({"room": "r", "members": ["bob"]}));
    fixture.write("alice", "send", json!({"to": "#r", "text": "first"}));
    fixture.writes(others);
    fixture.write("alice", "send", json!({"to": "#r", "text": "last"}));
    fixture
}

#[test]
fn a_page_of_history_does_not_read_what_lies_between_its_messages() {
    let costs: Vec<_> = [1_000, 8_000]
        .into_iter()
        .map(|others| {
            let (page, steps) = room_with_events((0..others).map(rename_command)).history("bob", None, 10);
            assert_eq!(page, (vec![2, others + 3], false));
            steps
        })
        .collect();
    assert!(costs[1] < 2_000, "{costs:?}");
}

#[test]
fn history_skips_no_message() {
    let mut fixture = Fixture::new();
    fixture.write("alice", "create", json!({"room": "r", "members": ["bob"]}));
    let mut wanted = vec![fixture.write("alice", "send", json!({"to": "#r", "text": "x"})).0];
    // Stores runs of events that are no messages. From `MAX_SCANNED_EVENTS` on, the reader searches instead of scanning the run.
    for run in [0, 1, 30, 31, 32, 33, 34, 63, 64, 65, 100, 1, 0, 200] {
        fixture.writes((0..run).map(toggle_command));
        wanted.push(fixture.write("alice", "send", json!({"to": "#r", "text": "x"})).0);
    }
    fixture.writes((0..77).map(|n| toggle_command(n + 1)).skip(1));
    let all = |fixture: &Fixture, limit: u32| {
        let (mut seqs, mut before) = (Vec::new(), None);
        loop {
            let ((page, more), _) = fixture.history("bob", before, limit);
            seqs.splice(0..0, page.iter().copied());
            before = page.first().copied();
            if !more {
                return seqs;
            }
        }
    };
    for limit in [1, 2, 5, 200] {
        assert_eq!(all(&fixture, limit), wanted, "by {limit}");
    }
    let head = *wanted.last().expect("some") + 76;
    // A damaged count of messages within such a run, too low or too high, must not hide a message.
    for (seq, count) in
        [(head - 5, 0), (head - 31, 1), (head - 32, 3), (head - 40, 1_000_000), (head - 70, -4)]
    {
        fixture.execute_sql(&format!("UPDATE events SET messages = {count} WHERE seq = {seq}"));
        assert_eq!(all(&fixture, 200), wanted, "{seq} counts {count}");
    }
    // If one message cannot be decoded, the page skips only that message.
    fixture.execute_sql(&format!("UPDATE events SET kind = 99 WHERE seq = {}", wanted[8]));
    wanted.remove(8);
    assert_eq!(all(&fixture, 200), wanted);
    fixture.execute_sql(&format!("DELETE FROM events WHERE seq = {}", wanted[9]));
    wanted.remove(9);
    assert_eq!(all(&fixture, 200), wanted);
}

#[test]
fn removed_reactions_do_not_slow_reads() {
    let toggled = |toggles: u64| {
        let mut fixture = Fixture::new();
        fixture.write("alice", "create", json!({"room": "r", "members": ["bob", "carol"]}));
        fixture.write("alice", "send", json!({"to": "#r", "text": "first"}));
        fixture.writes((0..toggles / 2 * 2).map(toggle_command));
        fixture.write("carol", "leave", json!({"conversation": "#r"}));
        fixture.writes((0..toggles / 2 * 2).map(toggle_command));
        let (set, taken) =
            (fixture.steps_to_write(toggle_command(0)), fixture.steps_to_write(toggle_command(1)));
        // The first read reads the schema, too.
        fixture.history("bob", None, 10);
        let ((page, _), member) = fixture.history("bob", None, 10);
        let ((former_page, _), former) = fixture.history("carol", None, 10);
        assert_eq!((page, former_page), (vec![2], vec![2]));
        [set, taken, member, former]
    };
    let (few, many) = (toggled(10), toggled(10_000));
    assert_eq!(few[0], many[0], "to set one");
    // The cost covers the removed reactions that are kept, and one index lookup for the message, which grows only logarithmically.
    assert!(many[1] < 2_000 && many[2] < 1_000 && many[3] < 2_000, "{few:?} {many:?}");
}

/// The command with which `owner` creates the room `owner-n` with these members.
fn create_command(owner: &str, n: u64, members: &[String]) -> (String, &'static str, Value) {
    (owner.to_owned(), "create", json!({"room": format!("{owner}-{n}"), "members": members}))
}

/// Finds which of `others` share a conversation with a user. Returns them, and how many steps the search took.
fn presence_peers(fixture: &Fixture, name: &str, others: &[String]) -> (Vec<String>, u64) {
    let others: Vec<_> = others.iter().map(|other| user(other)).collect();
    let (found, steps) = fixture.run_and_count(|reader| reader.presence_peers(&user(name), &others));
    (found.expect("an answer").into_iter().map(|other| other.user.to_string()).collect(), steps)
}

#[test]
fn the_cost_of_watching_strangers_does_not_depend_on_the_number_of_rooms() {
    let others: Vec<_> = (0..20).map(|n| format!("other{n}")).collect();
    let cost = |rooms: u64| {
        let mut fixture = Fixture::new();
        fixture.writes((0..rooms).map(|n| create_command("alice", n, &[])));
        fixture.writes((0..rooms).map(|n| create_command("bot", n, &others)));
        let (found, steps) = presence_peers(&fixture, "alice", &others);
        assert_eq!(found, [""; 0]);
        steps
    };
    let (some, many) = (cost(150), cost(600));
    assert!(many <= some + 100 && many < 20 * 200 * 20, "{some} {many}");
}

#[test]
fn a_shared_conversation_is_found_among_many() {
    let mut fixture = Fixture::new();
    let (alice, bob) = (["alice".to_owned()], ["bob".to_owned()]);
    fixture.writes((0..150).map(|n| create_command("bob", n, &[])));
    fixture.write("carol", "create", json!({"room": "shared", "members": ["alice", "bob"]}));
    // Now most of bob's conversations are direct, and the room that he shares with alice is not among his oldest ones.
    fixture
        .writes((0..150).map(|n| ("bob".to_owned(), "send", json!({"to": format!("@x{n}"), "text": "x"}))));
    assert_eq!(presence_peers(&fixture, "alice", &bob).0, bob, "one of the few rooms of alice");
    assert_eq!(presence_peers(&fixture, "bob", &alice).0, alice, "and the other way round");
    fixture.writes((0..150).map(|n| create_command("alice", n, &[])));
    assert_eq!(presence_peers(&fixture, "alice", &bob).0, bob, "one of the oldest of alice");
    assert_eq!(presence_peers(&fixture, "bob", &alice).0, alice);
    fixture.write("bob", "leave", json!({"conversation": "#shared"}));
    assert_eq!(presence_peers(&fixture, "alice", &bob).0, [""; 0]);
    fixture.write("bob", "send", json!({"to": "@alice", "text": "x"}));
    assert_eq!(presence_peers(&fixture, "alice", &bob).0, [""; 0], "only one of them has written");
    fixture.write("alice", "send", json!({"to": "@bob", "text": "x"}));
    assert_eq!(presence_peers(&fixture, "alice", &bob).0, bob);
    assert_eq!(presence_peers(&fixture, "alice", &alice).0, alice);
}

#[test]
fn counting_created_and_joined_rooms_costs_at_most_the_limit() {
    let mut fixture = Fixture::new();
    fixture.writes((0..500).map(|n| create_command("alice", n, &[])));
    fixture.rules.limits.rooms = 600;
    let before = fixture.steps_to_write(create_command("alice", 1_000, &[]));
    fixture.rules.limits.rooms = 0;
    fixture.writes((0..500).map(|n| create_command("bob", n, &["alice".to_owned()])));
    fixture.rules.limits.rooms = 600;
    let after = fixture.steps_to_write(create_command("alice", 1_001, &[]));
    assert!(after < before + 100, "rooms of others cost nothing: {before} {after}");
}

#[test]
fn a_page_of_members_reads_no_more_rows_than_it_shows() {
    let cost = |members: u64| {
        let mut fixture = Fixture::new();
        let names: Vec<_> = (0..members).map(|n| format!("user{n}")).collect();
        fixture.write("alice", "create", json!({"room": "r", "members": names}));
        let room = Target::Conversation(ConversationId::parse("#r").expect("an id"));
        [None, Some(user("user5"))].map(|after| {
            let command = Members { conversation: room.clone(), after, limit: Some(1) };
            let (page, steps) =
                fixture.run_and_count(|reader| reader.answer(&user("alice"), &Query::Members(command)));
            let Ok(OkBody::Members { members, more, .. }) = page else { panic!("{page:?}") };
            assert_eq!((members.len(), more), (1, true));
            steps
        })
    };
    let (few, many) = (cost(10), cost(3_000));
    assert!(few.iter().zip(many).all(|(few, many)| many <= few + 10), "{few:?} {many:?}");
}
