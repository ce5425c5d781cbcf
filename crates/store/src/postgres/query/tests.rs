//! Both databases give the same answers: the test makes a random history in SQLite, copies it to PostgreSQL, and queries both.

mod pages;

use std::collections::BTreeMap;

use fastrand::Rng;
use rusqlite::types::ValueRef;
use serde_json::{Value, json};
use switchboard_protocol::{
    Command, ConversationId, Conversations, History, Limits, Members, Seq, Sync, Target as To, Timestamp,
    UserId, decode_named,
};

use super::{Session, heads, membership_pages, memberships_in, revocations};
use crate::change::OperationError;
use crate::in_memory::InMemory;
use crate::postgres::connect::BlockingConnection;
use crate::postgres::migrate;
use crate::postgres::target::Target;
use crate::read::MEMBERSHIPS_PER_READ;
use crate::read::{Lookups, Reader};
use crate::record::{ConversationKey, Effect, JoinOrLeave, UserKey};
use crate::table::{ColumnType, TABLES, quoted_names};
use crate::{Change, Committed, CommittedEvent, PresenceChange, Query, Request};

const PEOPLE: [&str; 7] = ["alice", "bob", "carol", "Dave", "e~", "f.g", "zoe"];

/// All users that queries name. `newcomer` is in no conversation, and the store has no user `no`.
const EVERYBODY: [&str; 9] = ["alice", "bob", "carol", "Dave", "e~", "f.g", "zoe", "newcomer", "no"];

const ROOMS: [&str; 5] = ["#a", "#b", "#c", "#D", "#e"];

/// Limits with pages of few items and few bytes, so that tests reach both bounds.
fn limits() -> Limits {
    Limits { page: 12, page_bytes: 4_000, queue: 6_000, edits: 1_000, ..Limits::default() }
}

fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a user id")
}

fn conversation(name: &str) -> ConversationId {
    ConversationId::parse(name).expect("an id")
}

fn change(name: &str, fields: &Value) -> Change {
    let command: Command = decode_named(name, &fields.to_string()).expect("a command").command;
    match Request::from(command) {
        Request::Change(change) => change,
        other => panic!("{other:?} is no change"),
    }
}

/// A random history, stored in SQLite.
struct RandomLog {
    store: InMemory,
    /// For each conversation, the outcomes that the store returned when it stored the events.
    events: BTreeMap<ConversationKey, Vec<CommittedEvent>>,
}

impl RandomLog {
    fn new() -> Self {
        Self { store: InMemory::new(limits()), events: BTreeMap::new() }
    }

    /// Applies a change, if the rules allow it.
    fn apply(&mut self, n: i64, actor: &str, change: Change) {
        if let Ok(Committed::Event(event)) =
            self.store.commit_change(&user(actor), change, Timestamp::from_millis(n))
            && event.event.is_some()
        {
            self.events.entry(event.conversation).or_default().push(*event);
        }
    }

    fn random(seed: u64, changes: i64) -> Self {
        let mut past = Self::new();
        let mut rng = Rng::with_seed(seed);
        for (n, room) in ROOMS.into_iter().enumerate() {
            let fields =
                json!({"room": &room[1..], "public": n % 2 == 0, "title": room, "members": &PEOPLE[1..=n]});
            past.apply(1, PEOPLE[0], change("create", &fields));
        }
        for n in 2..changes {
            let (name, fields) = random_change(&mut rng);
            past.apply(n, PEOPLE[rng.usize(..PEOPLE.len())], change(name, &fields));
        }
        past.apply(changes, "newcomer", Change::RegisterUser);
        past.apply(
            changes,
            "alice",
            Change::SetPresence(PresenceChange::LastSeen(Timestamp::from_millis(77))),
        );
        past.apply(changes, "bob", Change::Revoke { until: Timestamp::from_millis(99), replace: true });
        past
    }

    /// SQL that inserts all rows of the history into PostgreSQL.
    fn rows(&self) -> String {
        let db = self.store.reader().rows;
        let mut sql = String::new();
        for table in TABLES.iter().filter(|table| table.name != "api_keys") {
            let (name, list) = (table.name, quoted_names(table.columns));
            let mut select = db.prepare(&format!("SELECT {list} FROM {name}")).expect("a table");
            let mut rows = select.query([]).expect("rows");
            while let Some(row) = rows.next().expect("a row") {
                let columns = table.columns.iter().enumerate();
                let values = columns.map(|(n, column)| match row.get_ref(n).expect("a value") {
                    ValueRef::Null => "NULL".to_owned(),
                    ValueRef::Integer(number) if column.kind == ColumnType::Bool => (number != 0).to_string(),
                    ValueRef::Integer(number) => number.to_string(),
                    ValueRef::Text(text) => {
                        let text = std::str::from_utf8(text).expect("text");
                        format!("'{}'", text.replace('\'', "''"))
                    }
                    ValueRef::Blob(bytes) => {
                        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                        format!("'\\x{hex}'")
                    }
                    other => panic!("{other:?} in {name}"),
                });
                let values: Vec<_> = values.collect();
                sql += &format!("INSERT INTO {name} ({list}) VALUES ({});\n", values.join(", "));
            }
        }
        sql
    }
}

/// A random command with its fields.
fn random_change(rng: &mut Rng) -> (&'static str, Value) {
    let user = PEOPLE[rng.usize(..PEOPLE.len())];
    let room = ROOMS[rng.usize(..ROOMS.len())];
    let to = if rng.u8(..4) == 0 { format!("@{user}") } else { room.to_owned() };
    let target = 1 + rng.u64(..60);
    let text = "x".repeat([3, 10, 100, 1_500][rng.usize(..4)]);
    match rng.u8(..25) {
        0..=7 => ("send", json!({"to": to, "text": text})),
        8 | 9 => ("edit", json!({"conversation": to, "target": target, "text": text})),
        10 => ("delete", json!({"conversation": to, "target": target})),
        11..=14 => {
            let emoji = ["👍", "x", "'"][rng.usize(..3)];
            ("react", json!({"conversation": to, "target": target, "emoji": emoji, "on": rng.bool()}))
        }
        15 | 16 => ("join", json!({"conversation": room})),
        17 | 18 => ("leave", json!({"conversation": room})),
        19 => ("invite", json!({"conversation": room, "user": user, "role": "member"})),
        20 => ("remove", json!({"conversation": room, "user": user})),
        21 => {
            let role = ["admin", "member", "reader"][rng.usize(..3)];
            ("role", json!({"conversation": room, "user": user, "role": role}))
        }
        22 => ("rename", json!({"conversation": room, "title": text.get(..3)})),
        23 => ("remove", json!({"conversation": room, "user": user, "ban": true})),
        _ => ("read", json!({"conversation": to, "upto": target})),
    }
}

/// Inserts rows into a new PostgreSQL database, and runs `read` with a reader of that database.
async fn in_postgres<T: Send + 'static>(
    rows: String,
    read: impl FnOnce(&Reader<'_, Session>) -> T + Send + 'static,
) -> T {
    let postgres = engines::shared_postgres().await.expect("a PostgreSQL");
    let url = postgres.new_database().await.expect("a database");
    let work = move || {
        let mut link =
            BlockingConnection::open(&Target::new(&url, None).expect("a target")).expect("connected");
        migrate(&mut link).expect("tables");
        link.run(async { link.client().batch_execute(&rows).await }).expect("copied");
        let session = Session::new(link);
        let (limits, mark) = (limits(), std::sync::atomic::AtomicU64::new(0));
        read(&Reader {
            rows: &session,
            limits: &limits,
            mark: &mark,
            memberships_per_step: MEMBERSHIPS_PER_READ,
            now: Timestamp::from_millis(0),
        })
    };
    tokio::task::spawn_blocking(work).await.expect("read")
}

fn describe<T: std::fmt::Debug, E: std::fmt::Display>(answer: Result<T, OperationError<E>>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(OperationError::Refused(refusal)) => format!("{:?}", refusal.code),
        Err(OperationError::Store(error)) => panic!("{error}"),
        Err(OperationError::Uncounted | OperationError::Checked) => panic!("a read writes nothing"),
    }
}

/// The answers to all queries, as text. Answers whose order is not defined are sorted.
fn all_answers<L: Lookups>(reader: &Reader<'_, L>) -> Vec<String> {
    let mut names: Vec<_> = ROOMS.into_iter().chain(["#none", "@no:nobody"]).map(conversation).collect();
    names.extend(PEOPLE.iter().map(|other| ConversationId::direct(&user("bob"), &user(other))));
    let mut answers = Vec::new();
    for actor in EVERYBODY.map(user) {
        let mut note = |what: &str, told: String| answers.push(format!("{actor} {what}: {told}"));
        for name in &names {
            all_pages(reader, &actor, name, &mut note);
            note(&format!("in {name}"), describe(reader.write_access(&actor, name)));
        }
        for (before, limit) in [(None, None), (None, Some(2)), (Some("#b"), Some(12)), (Some("#none"), None)]
        {
            let query = Query::Conversations(Conversations { before: before.map(conversation), limit });
            note(&format!("conversations before {before:?}"), describe(reader.answer(&actor, &query)));
        }
        note("starts from", describe(reader.attach(&actor, &names)));
        note("knows", describe(reader.presence_peers(&actor, &EVERYBODY.map(user))));
        note("standing", describe(reader.standing(&actor)));
    }
    for (user, conversation) in (0..9).flat_map(|user| (0..12).map(move |place| (user, place))) {
        for (after, upto) in [(0, 5), (3, u64::MAX), (30, 34)] {
            let replay = reader.replay(UserKey(user), ConversationKey(conversation), Seq(after), Seq(upto));
            answers.push(format!("{user} in {conversation}: {}", describe(replay)));
        }
    }
    answers.push(describe(reader.api_key(&[7; 32])));
    answers
}

/// Reads all pages of a conversation.
fn all_pages<L: Lookups>(
    reader: &Reader<'_, L>,
    actor: &UserId,
    name: &ConversationId,
    note: &mut impl FnMut(&str, String),
) {
    let conversation = To::Conversation(name.clone());
    for (after, limit) in [(0, None), (0, Some(1)), (7, Some(12)), (40, Some(12)), (900, None)] {
        let query = Query::Sync(Sync { conversation: conversation.clone(), after: Seq(after), limit });
        note(&format!("log of {name} after {after}"), describe(reader.answer(actor, &query)));
    }
    for (before, limit) in
        [(None, None), (None, Some(12)), (Some(30), Some(12)), (Some(9), Some(3)), (Some(0), None)]
    {
        let query = Query::History(History {
            conversation: conversation.clone(),
            before: before.map(Seq),
            around: None,
            limit,
        });
        note(&format!("history of {name} before {before:?}"), describe(reader.answer(actor, &query)));
    }
    for (after, limit) in [(None, None), (Some("a"), Some(2)), (Some("e~"), Some(12))] {
        let query =
            Query::Members(Members { conversation: conversation.clone(), after: after.map(user), limit });
        note(&format!("members of {name} after {after:?}"), describe(reader.answer(actor, &query)));
    }
}

#[tokio::test]
async fn both_databases_answer_alike() {
    for seed in 1..=3 {
        let past = RandomLog::random(seed, 1_500);
        let expected = all_answers(&past.store.reader());
        let found = in_postgres(past.rows(), all_answers).await;
        assert_eq!(expected.len(), found.len());
        for (expected, found) in expected.into_iter().zip(found) {
            assert_eq!(expected, found, "seed {seed}");
        }
    }
}

/// The outcome that an event had when it was stored, as text. The body is left out, because it may have been erased since then.
fn describe_effects(event: &CommittedEvent) -> String {
    let stored = event.event.as_ref().expect("a new one");
    assert_eq!((stored.seq, &stored.conversation, stored.at), (event.seq, &event.name, event.at));
    format!("{} {} {:?} by {}: {:?}", event.name, event.seq, stored.kind, stored.from, event.effects)
}

#[tokio::test]
async fn membership_effects_read_from_the_log_equal_those_at_the_write() {
    let past = RandomLog::random(4, 2_000);
    let comes_back = |event: &&CommittedEvent| {
        event.effects.iter().any(
            |effect| matches!(effect.join_or_leave, JoinOrLeave::Join { seen } if seen.0 + 1 < event.seq.0 && seen.0 > 0),
        )
    };
    let came_back = past.events.values().flatten().filter(comes_back).count();
    assert!(came_back > 20, "too few users join again: {came_back}");
    let expected: BTreeMap<_, Vec<_>> = past
        .events
        .iter()
        .map(|(key, events)| (*key, events.iter().map(describe_effects).collect()))
        .collect();
    let conversations: Vec<_> = past.events.keys().copied().collect();
    let found = in_postgres(past.rows(), move |reader| {
        let mut found = BTreeMap::<_, Vec<_>>::new();
        for conversation in conversations {
            // Reads a page from every position, so that the reader must also look up users who left before the page.
            let whole = found.entry(conversation).or_default();
            let mut after = Seq(0);
            loop {
                let page = reader.log(conversation, after, Seq::MAX).expect("a page").events;
                let Some(last) = page.last() else { break };
                assert!(page.len() <= 12);
                let one = reader.log(conversation, Seq(last.seq.0 - 1), last.seq).expect("one event").events;
                assert_eq!(one.iter().map(describe_effects).collect::<Vec<_>>(), [describe_effects(last)]);
                after = last.seq;
                whole.extend(page.iter().map(describe_effects));
            }
        }
        let nowhere = reader.log(ConversationKey(99), Seq(0), Seq::MAX).expect("an answer").events;
        assert!(nowhere.is_empty());
        found
    });
    assert_eq!(found.await, expected);
}

#[tokio::test]
async fn heads_and_memberships_are_the_current_ones() {
    let past = RandomLog::random(5, 1_500);
    let expected: BTreeMap<_, _> =
        past.events.iter().map(|(key, events)| (*key, events.last().expect("some").seq)).collect();
    let asked: Vec<_> = expected.keys().copied().chain([ConversationKey(99)]).collect();
    let mut joined = BTreeMap::new();
    for name in EVERYBODY {
        let Some(snapshot) = past.store.attach(&user(name), &[]) else { continue };
        let places: Vec<_> =
            snapshot.memberships.joined.iter().map(|joined| (joined.conversation, joined.head)).collect();
        joined.insert(name.to_owned(), (snapshot.standing, places));
    }
    let names: Vec<_> = joined.keys().cloned().collect();
    let (found, people) = in_postgres(past.rows(), move |reader| {
        let heads = heads(reader, &asked).expect("heads");
        assert_eq!(reader.rows.round_trips.get(), 1);
        let everybody: Vec<_> = names.iter().map(|name| (user(name), ConversationKey::MIN)).collect();
        let whole = membership_pages(reader, &everybody, 2_000).expect("places");
        assert_eq!(reader.rows.round_trips.get(), 2);
        let paged = |name: &UserId| {
            let (mut joined, mut after) = (Vec::new(), Some(ConversationKey::MIN));
            while let Some(from) = after {
                let page =
                    membership_pages(reader, &[(name.clone(), from)], 3).expect("a page").pop().expect("one");
                assert!(page.memberships.len() <= 3);
                joined.extend(page.memberships);
                after = page.next;
            }
            joined
        };
        let people: Vec<_> = everybody.iter().map(|(name, _)| (name.clone(), paged(name))).collect();
        for ((name, joined), page) in people.iter().zip(whole) {
            assert_eq!((page.next, &page.memberships), (None, joined), "{name}, whole and by pages");
            let pairs: Vec<_> = joined.iter().map(|place| (name.clone(), place.conversation)).collect();
            let found: Vec<_> =
                memberships_in(reader, &pairs).expect("places").into_iter().flatten().collect();
            assert_eq!(&found, joined, "{name}, one by one");
        }
        assert_eq!(memberships_in(reader, &[(user("alice"), ConversationKey(99))]).expect("places"), [None]);
        let revoked: BTreeMap<_, _> =
            revocations(reader, &EVERYBODY.map(user)).expect("revocations").into_iter().collect();
        (
            heads,
            people
                .into_iter()
                .map(|(name, joined)| (revoked.get(&name).cloned().unwrap_or_default(), name, joined))
                .collect::<Vec<_>>(),
        )
    })
    .await;
    assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), expected);
    let mut found = BTreeMap::new();
    for (standing, name, joined) in people {
        for place in &joined {
            let came = |event: &&CommittedEvent| event.seq == place.since.max(Seq(1));
            let entry = past.events[&place.conversation].iter().find(came).expect("the event of coming in");
            let effect = entry.effects.iter().find(|effect| effect.user == name).expect("theirs");
            assert_ne!(effect.join_or_leave, JoinOrLeave::Leave);
        }
        let places: Vec<_> = joined.iter().map(|place| (place.conversation, place.head)).collect();
        found.insert(name.to_string(), (standing, places));
    }
    assert_eq!(found, joined);
}

#[tokio::test]
async fn reads_take_few_round_trips_for_any_number_of_rows() {
    for rooms in [2, 60] {
        let mut past = RandomLog::new();
        for n in 0..rooms {
            let room = format!("#room{n}");
            past.apply(n, "alice", change("create", &json!({"room": &room[1..], "members": ["bob"]})));
            past.apply(n, "alice", change("send", &json!({"to": room, "text": "x"})));
            past.apply(n, "bob", change("react", &json!({"conversation": room, "target": 2, "emoji": "x"})));
            for _ in 0..rooms {
                past.apply(n, "bob", change("rename", &json!({"conversation": room, "title": "y"})));
                past.apply(n, "alice", change("rename", &json!({"conversation": room, "title": "z"})));
                past.apply(n, "alice", change("send", &json!({"to": "@bob", "text": "x"})));
            }
        }
        let trips = in_postgres(past.rows(), |reader| {
            // Runs all queries. The first run also prepares the statements, which takes additional round trips.
            let all = |reader: &Reader<'_, Session>| {
                let (alice, trips) = (user("alice"), &reader.rows.round_trips);
                let to = |name: &str| To::Conversation(conversation(name));
                let mut counted = Vec::new();
                let mut count = |what: &'static str, done: String| {
                    assert!(done.len() > 10, "{what}: {done}");
                    counted.push((what, trips.replace(0)));
                };
                trips.set(0);
                let named: Vec<_> = (0..20).map(|n| conversation(&format!("#room{n}"))).collect();
                count("attach", describe(reader.attach(&alice, &named)));
                let history =
                    History { conversation: to("#room0"), before: None, around: None, limit: Some(12) };
                count("history of renames", describe(reader.answer(&alice, &Query::History(history))));
                let history =
                    History { conversation: to("@alice:bob"), before: None, around: None, limit: Some(12) };
                count("history of messages", describe(reader.answer(&alice, &Query::History(history))));
                let list = Conversations { before: Some(conversation("#room1")), limit: Some(12) };
                count("conversations", describe(reader.answer(&alice, &Query::Conversations(list))));
                let members = Members { conversation: to("#room1"), after: None, limit: None };
                let sync = |name: &str, after| {
                    Query::Sync(Sync { conversation: to(name), after: Seq(after), limit: Some(10) })
                };
                count("sync of messages", describe(reader.answer(&alice, &sync("@alice:bob", 0))));
                count("sync of users", describe(reader.answer(&alice, &sync("#room0", 0))));
                count("members", describe(reader.answer(&alice, &Query::Members(members))));
                count("presence_peers", describe(reader.presence_peers(&alice, &EVERYBODY.map(user))));
                counted
            };
            all(reader)
        });
        for (what, trips) in trips.await {
            // `conversations` takes two more: it looks up the position of `before`, then the memberships, then the rows of the
            // page, and then the profiles of the other users of direct conversations.
            let most = if what == "conversations" { 7 } else { 5 };
            match what {
                "sync of messages" => assert_eq!(trips, 2, "the view and the page"),
                "sync of users" => assert_eq!(trips, 3, "and the ids of all its users"),
                _ => {}
            }
            assert!((1..=most).contains(&trips), "{what}: {trips} round trips, in {rooms} rooms");
        }
    }
}

#[tokio::test]
async fn a_page_of_members_reads_no_more_rows_than_it_shows() {
    let mut past = RandomLog::new();
    let names: Vec<_> = (0..1_000).map(|n| format!("user{n}")).collect();
    past.apply(1, "alice", change("create", &json!({"room": "a", "members": names})));
    let plan = in_postgres(past.rows(), |reader| {
        let (link, sql) = (&reader.rows.link, super::SELECT_MEMBER_PAGE);
        let sql = sql.replace("$1", "1").replace("$2", "7").replace("$3", "2");
        let explain = format!("ANALYZE; EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {sql}");
        let told = link.run(link.client().simple_query(&explain)).expect("a plan");
        let lines = told.iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        lines.collect::<Vec<_>>()
    });
    let plan = plan.await;
    let rows = plan.iter().filter_map(|line| line.split("actual rows=").nth(1)?.split('.').next());
    let rows: Vec<u64> =
        rows.filter_map(|rows| rows.split(' ').next().and_then(|rows| rows.parse().ok())).collect();
    assert!(rows.len() >= 3 && rows.iter().all(|rows| *rows <= 2), "{plan:#?}");
    assert!(!plan.iter().any(|line| line.contains("Removed")), "{plan:#?}");
}

/// An event of a later version may have other fields beside the removed user.
#[tokio::test]
async fn a_removed_user_is_found_by_field_in_events_with_other_fields() {
    for body in [
        r#"{"user":"bob","reason":"spam"}"#,
        r#"{"reason":"he said \"user\":\"carol\", \u0000","user":"bob"}"#,
        r#"{ "by": 7, "user": "bob" }"#,
        // The body names the user by key. The other user's id looks like that key.
        r#"{"user":2,"reason":"\u0000"}"#,
    ] {
        let mut past = RandomLog::new();
        past.apply(1, "alice", change("create", &json!({"room": "r", "members": ["bob", "carol"]})));
        past.apply(2, "alice", change("remove", &json!({"conversation": "#r", "user": "carol"})));
        past.apply(3, "alice", change("remove", &json!({"conversation": "#r", "user": "bob"})));
        past.apply(4, "alice", change("send", &json!({"to": "#r", "text": "without bob"})));
        past.apply(5, "alice", change("invite", &json!({"conversation": "#r", "user": "bob"})));
        // A damaged body must not hide other events.
        past.store.execute_sql(&format!(
            "UPDATE events SET body = '{{' WHERE seq = 2; UPDATE events SET body = '{body}' WHERE seq = 3"
        ));
        let (conversation, _) = past.events.first_key_value().expect("a conversation");
        let conversation = *conversation;
        let effects = |events: &[CommittedEvent]| events.first().map(|event| event.effects.clone());
        let seen =
            Some(vec![Effect { user: user("bob"), join_or_leave: JoinOrLeave::Join { seen: Seq(3) } }]);
        // SQLite runs this query only in builds for the simulation.
        #[cfg(feature = "simulation")]
        {
            let page = past.store.reader().log(conversation, Seq(4), Seq(5)).expect("a page");
            assert_eq!(effects(&page.events), seen, "SQLite: {body}");
        }
        let page = in_postgres(past.rows(), move |reader| reader.log(conversation, Seq(4), Seq(5)));
        assert_eq!(effects(&page.await.expect("a page").events), seen, "PostgreSQL: {body}");
    }
}
