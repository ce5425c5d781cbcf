//! The same batches of changes result in the same rows in SQLite and in PostgreSQL.

mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use fastrand::Rng;
use rusqlite::types::ValueRef;
use rustc_hash::FxHashMap;
use serde_json::json;
use switchboard_protocol::{ConversationId, Limits, SetBlock, SetProfile, Timestamp};

use super::{change, new_database, settings, user};
use crate::ban::{Ban, NewBan};
use crate::batch::WriterState;
use crate::block::View;
use crate::body;
use crate::clock::Clock;
use crate::in_memory::InMemory;
use crate::origin::Origin;
use crate::postgres::commit::Committer;
use crate::postgres::connect::BlockingConnection;
use crate::postgres::installation::{Installation, InstallationUpkeep};
use crate::postgres::target::Target;
use crate::postgres::{Settings, migrate};
use crate::profile::{ProfileChange, TokenProfile};
use crate::record::{Kind, UserKey};
use crate::refusal::Refusal;
use crate::{Change, Committed, CountedRead, PresenceChange, Submission};

const PEOPLE: [&str; 6] = ["alice", "bob", "carol", "Dave", "e~", "f.g"];

/// Limits that are so small that the test reaches them.
fn limits() -> Limits {
    Limits { edits: 3, reactions: 2, rooms: 4, ..Limits::default() }
}

/// Queries for all stored rows. They return users' names in place of their keys, which may differ between the databases.
const ROW_QUERIES: [&str; 11] = [
    "SELECT name, last_seen, not_before, block_changes FROM users ORDER BY 1",
    "SELECT name, title, CASE WHEN public THEN 1 ELSE 0 END, head, messages, last_message, members, admins, at,
        slow, CASE WHEN rejoin THEN 1 ELSE 0 END FROM conversations ORDER BY 1",
    r#"SELECT c.name, u.name, m.role, m.since, m.until, m.read, m.received, m.sent, m.read_messages, m.read_sent,
        CASE WHEN m.read_imported THEN 1 ELSE 0 END, m.silenced, m.sent_at FROM members m JOIN conversations c ON c.id = m.conversation JOIN users u ON u.id = m."user"
        ORDER BY 1, 2"#,
    "SELECT c.name, e.seq, e.kind, u.name, e.at, e.messages, e.key, e.body
        FROM events e JOIN conversations c ON c.id = e.conversation JOIN users u ON u.id = e.sender ORDER BY 1, 2",
    "SELECT c.name, a.target, a.seq FROM amendments a JOIN conversations c ON c.id = a.conversation
        ORDER BY 1, 2, 3",
    r#"SELECT c.name, r.target, r.emoji, u.name, r.since, r.until FROM reactions r
        JOIN conversations c ON c.id = r.conversation JOIN users u ON u.id = r."user" ORDER BY 1, 2, 3, 4, 5"#,
    r#"SELECT u.name, c.name FROM rooms_by_choice r JOIN conversations c ON c.id = r.conversation
        JOIN users u ON u.id = r."user" ORDER BY 1, 2"#,
    r#"SELECT u.name, o.name, b.at FROM blocks b JOIN users u ON u.id = b."user" JOIN users o ON o.id = b.blocked
        ORDER BY 1, 2"#,
    r#"SELECT u.name, p.name, p.avatar, p.data, p.version, CASE WHEN p.active THEN 1 ELSE 0 END, p.changed, p.issued,
        p.claims FROM profiles p JOIN users u ON u.id = p."user" ORDER BY 1"#,
    r#"SELECT c.name, u.name, b.until, b.at, b.reason, b.note FROM bans b JOIN users u ON u.id = b."user"
        LEFT JOIN conversations c ON c.id = b.conversation ORDER BY 2, 4, 3, 1"#,
    r#"SELECT w.word, u.name FROM profile_words w JOIN users u ON u.id = w."user" ORDER BY 1, 2"#,
];

const USERS: &str = "SELECT id, name FROM users";

/// Replaces the users' keys in the bodies of events by the users' names. All bodies must have keys.
fn replace_user_keys_with_names(events: &mut [Vec<String>], users: &[Vec<String>]) {
    let names: FxHashMap<_, _> = users
        .iter()
        .map(|user| (UserKey(user[0].parse().expect("a number")), self::user(&user[1])))
        .collect();
    for event in events {
        let kind = Kind::from_number(event[2].parse().expect("a number"));
        let mut ids = Vec::new();
        body::collect_user_ids(&kind, &event[7], &mut ids);
        assert!(ids.is_empty(), "{event:?}");
        let wire = body::to_wire(&kind, &event[7], |user| names.get(&user).cloned());
        event[7] = wire.unwrap_or_else(|| panic!("{event:?}")).into();
    }
}

fn rows_in_sqlite(store: &InMemory, sql: &str) -> Vec<Vec<String>> {
    let mut select = store.reader().rows.prepare(sql).expect("a query");
    let columns = select.column_count();
    let rows = select.query_map([], |row| {
        let values = (0..columns).map(|column| {
            Ok(match row.get_ref(column)? {
                ValueRef::Integer(number) => number.to_string(),
                ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                _ => "nothing".to_owned(),
            })
        });
        values.collect()
    });
    rows.expect("rows").collect::<Result<_, _>>().expect("read")
}

fn rows_in_postgres(link: &BlockingConnection, sql: &str) -> Vec<Vec<String>> {
    let answer = link.run(link.client().simple_query(sql)).expect("rows");
    let rows = answer.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|column| row.get(column).unwrap_or("nothing").to_owned()).collect())
        }
        _ => None,
    });
    rows.collect()
}

/// An outcome as text, without the keys that may differ between the databases.
fn describe(result: &Result<Committed, Refusal>) -> String {
    match result {
        Ok(Committed::Event(event)) => {
            let new = event.event.as_ref().map(|event| event.to_json_for(View::Whole));
            format!("{} {} {} {new:?} {:?}", event.name, event.seq, event.at, event.effects)
        }
        Ok(Committed::Cursor(cursor)) => {
            let hidden: BTreeSet<_> = cursor.hidden_from.iter().collect();
            let (name, user, kind) = (&cursor.name, &cursor.user, cursor.kind);
            format!(
                "{name} {user} {kind:?} {} {} {} {hidden:?}",
                cursor.upto, cursor.has_moved, cursor.members
            )
        }
        Ok(Committed::Profiles(profiles)) => {
            let changed = profiles.changed.iter();
            let changed =
                changed.map(|shown| (&shown.profile, shown.hidden_from.iter().collect::<BTreeSet<_>>()));
            format!("{:?} {:?}", profiles.own, changed.collect::<Vec<_>>())
        }
        Ok(Committed::Block(block)) => format!("{block:?}"),
        Ok(Committed::Import(import)) => {
            let logs = import.conversations.iter();
            let mut logs: Vec<_> =
                logs.map(|log| format!("{} {} {:?}", log.before, log.head, log.effects)).collect();
            logs.sort();
            format!("{} {} {logs:?}", import.stored, import.duplicates)
        }
        Ok(Committed::Report(report)) => report.to_string(),
        Ok(Committed::Held { conversation, duplicate }) => format!("held {conversation} {duplicate}"),
        Ok(Committed::NotAnnounced) => "quiet".to_owned(),
        Err(refusal) => format!("{refusal:?}"),
    }
}

/// A random change by a user. Most are about the latest messages.
fn random_change(random: &mut Rng, n: usize, actor: &str, heads: &BTreeMap<ConversationId, u64>) -> Change {
    let other = PEOPLE[random.usize(..PEOPLE.len())];
    let room = ["#a", "#b", "#c", "#d", "#E"][random.usize(..5)];
    let (place, name) = if random.u8(..3) == 0 {
        (format!("@{other}"), ConversationId::direct(&user(actor), &user(other)))
    } else {
        (room.to_owned(), ConversationId::parse(room).expect("a room"))
    };
    let head = heads.get(&name).copied().unwrap_or_default();
    let target = (head + 6).saturating_sub(random.u64(..12)).max(1);
    // Some messages repeat an idempotency key, with the same text or with another.
    let key = if random.u8(..6) == 0 { random.usize(..n + 1) } else { n };
    let text = format!("{}", if random.bool() { key } else { n });
    let until = Timestamp::from_millis(random.i64(1..20_000));
    let (name, fields) = match random.u8(..32) {
        0..=8 => ("send", json!({"to": place, "text": text, "key": format!("k{key}")})),
        9 => ("send", json!({"to": place, "text": text, "key": format!("k{key}"), "reply_to": target})),
        10 | 11 => ("edit", json!({"conversation": place, "target": target, "text": text})),
        12 => ("delete", json!({"conversation": place, "target": target})),
        13..=16 => {
            let (emoji, target) = (["👍", "x", "'"][random.usize(..3)], head.max(5) / 5 * 5);
            ("react", json!({"conversation": place, "target": target, "emoji": emoji, "on": random.bool()}))
        }
        17 => (
            "create",
            json!({"room": &room[1..], "public": random.bool(), "members": [other], "title": text}),
        ),
        18 | 19 => ("join", json!({"conversation": room})),
        20 => ("leave", json!({"conversation": room})),
        21 => ("invite", json!({"conversation": room, "user": other, "role": "member"})),
        22 => ("remove", json!({"conversation": room, "user": other})),
        23 => {
            let role = ["admin", "member", "reader"][random.usize(..3)];
            ("role", json!({"conversation": room, "user": other, "role": role}))
        }
        24 => ("rename", json!({"conversation": room, "title": text})),
        25 => ("received", json!({"conversation": place, "upto": target})),
        26 => ("read", json!({"conversation": place, "upto": target})),
        27 => ("role", json!({"conversation": room, "user": other, "role": "reader", "until": until})),
        28 => ("remove", json!({"conversation": room, "user": other, "ban": true, "until": until})),
        29 => {
            let slow = random.u8(..20).saturating_sub(10);
            ("settings", json!({"conversation": room, "slow": slow, "rejoin": random.bool()}))
        }
        _ => return random_internal_change(random),
    };
    change(name, &fields)
}

/// A random change of profiles: one's own, by a token, or of several users.
fn random_profile(random: &mut Rng) -> Change {
    let mut fields = || {
        let name = ["Ana María", "Straße", "王小明", "a b c"][random.usize(..4)];
        let fields = match random.u8(..4) {
            0 => json!({"name": null, "data": {"n": random.u8(..3)}}),
            1 => json!({"avatar": "https://a.example/a.png"}),
            _ => json!({ "name": name }),
        };
        serde_json::from_value::<SetProfile>(fields).expect("fields")
    };
    let own = fields();
    let named = fields();
    match random.u8(..3) {
        0 => Change::SetProfile(Box::new(own)),
        1 => Change::ReadToken(Box::new(TokenProfile {
            fields: own,
            claims: random.u8(..3).to_string(),
            issued: Timestamp::from_millis(random.i64(..1_000)),
        })),
        _ => {
            let mut change = |fields| ProfileChange {
                user: user(PEOPLE[random.usize(..PEOPLE.len())]),
                fields,
                active: [None, Some(true), Some(false)][random.usize(..3)],
            };
            Change::SetProfiles(vec![change(own), change(named)])
        }
    }
}

/// A random change that the server makes by itself, not for a client's command.
fn random_internal_change(random: &mut Rng) -> Change {
    let at = Timestamp::from_millis(random.i64(..1_000));
    match random.u8(..18) {
        8 => Change::Ban(None),
        9 => {
            let until = Some(Timestamp::from_millis(random.i64(1..4_000)));
            let reason = random.bool().then(|| "spam".to_owned());
            Change::Ban(Some(Box::new(NewBan {
                ban: Ban { until, reason, shadow: false },
                note: Some("n".to_owned()),
            })))
        }
        0..=3 => random_profile(random),
        10.. => {
            let user = user(PEOPLE[random.usize(..PEOPLE.len())]);
            Change::SetBlock(SetBlock { user, on: random.u8(..3) > 0 })
        }
        4 => Change::RegisterUser,
        5 => Change::SetPresence(PresenceChange::LastSeen(at)),
        _ => Change::Revoke { until: at, replace: random.bool() },
    }
}

/// The two databases, which get the same changes.
struct BothStores {
    sqlite: InMemory,
    postgres: Committer,
    /// A connection that reads the stored rows.
    link: BlockingConnection,
    now: Arc<AtomicI64>,
}

impl BothStores {
    fn new(url: &str) -> Self {
        let now = Arc::new(AtomicI64::new(1_000));
        let tells = now.clone();
        let clock = Clock::from_fn(move || Timestamp::from_millis(tells.load(Ordering::Relaxed)));
        let settings = Settings { limits: limits(), clock, ..settings(url) };
        let target = Target::new(url, None).expect("a target");
        let mut link = BlockingConnection::open(&target).expect("connected");
        migrate(&mut link).expect("tables");
        let state = Arc::new(WriterState::default());
        let installation = Arc::new(Installation::new(&settings.capabilities));
        let upkeep = InstallationUpkeep::new(&settings.capabilities, installation);
        let postgres = Committer::new(link, target.clone(), &settings, state, upkeep).expect("a writer");
        let link = BlockingConnection::open(&target).expect("connected");
        Self { sqlite: InMemory::new(limits()), postgres, link, now }
    }

    /// Writes a batch to both databases and compares the outcomes. Returns the latest events.
    fn write(&mut self, batch: &[(&str, Change)]) -> BTreeMap<ConversationId, u64> {
        let at = Timestamp::from_millis(self.now.load(Ordering::Relaxed));
        let submissions = batch.iter().map(|(actor, change)| Submission {
            actor: user(actor),
            change: change.clone(),
            origin: Origin::Internal,
        });
        let outcomes = self.postgres.write(submissions.collect());
        // Read cursors for which many messages must be counted are applied after the batch, with the counts of the readers.
        let mut uncounted = self.postgres.take_uncounted().into_iter().peekable();
        let (mut written, mut reads) = (Vec::new(), Vec::new());
        for (actor, change) in batch {
            let is_uncounted = |read: &Submission| {
                read.actor == user(actor) && format!("{:?}", read.change) == format!("{change:?}")
            };
            match uncounted.next_if(is_uncounted) {
                Some(_) => reads.push((*actor, change.clone())),
                None => written.push((user(actor), change.clone())),
            }
        }
        let expected = self.sqlite.commit_batch(written.clone(), at);
        assert_eq!(outcomes.len(), expected.len());
        for ((outcome, expected), what) in outcomes.iter().zip(expected).zip(written) {
            assert_eq!(describe(&outcome.result), describe(&expected), "{what:?} of {batch:#?}");
        }
        for (actor, change) in reads {
            let Change::Read(read) = change else { panic!("{change:?} needs no count") };
            let counts = self.sqlite.count(&user(actor), &read);
            self.write(&[(actor, Change::CountedRead(Box::new(CountedRead { read, counts })))]);
        }
        let events = outcomes.iter().filter_map(|outcome| match &outcome.result {
            Ok(Committed::Event(event)) => event.event.as_ref(),
            _ => None,
        });
        events.map(|event| (event.conversation.clone(), event.seq.0)).collect()
    }

    fn have_the_same_rows(&self) {
        for sql in ROW_QUERIES {
            let (mut expected, mut found) =
                (rows_in_sqlite(&self.sqlite, sql), rows_in_postgres(&self.link, sql));
            if sql.contains("e.body") {
                replace_user_keys_with_names(&mut expected, &rows_in_sqlite(&self.sqlite, USERS));
                replace_user_keys_with_names(&mut found, &rows_in_postgres(&self.link, USERS));
            }
            assert_eq!(expected.len(), found.len(), "{sql}");
            for (expected, found) in expected.iter().zip(found) {
                assert_eq!(*expected, found, "{sql}");
            }
        }
    }
}

#[tokio::test]
async fn both_databases_have_the_same_rows_after_the_same_changes() {
    for seed in 1..=3 {
        let url = new_database().await;
        let work = move || {
            let mut both = BothStores::new(&url);
            let mut random = Rng::with_seed(seed);
            let mut heads = BTreeMap::new();
            let mut n = 0;
            while n < 4_000 {
                // The clock advances or goes back a little, as the clocks of different nodes do.
                both.now.fetch_add(random.i64(-3..20), Ordering::Relaxed);
                let most = [3, 40, 300][random.usize(..3)];
                let size = random.usize(1..most);
                let batch = (n..n + size).map(|n| {
                    let actor = PEOPLE[random.usize(..PEOPLE.len())];
                    (actor, random_change(&mut random, n, actor, &heads))
                });
                let batch: Vec<_> = batch.collect();
                n += size;
                heads.extend(both.write(&batch));
            }
            both.have_the_same_rows();
            let kinds = rows_in_sqlite(
                &both.sqlite,
                "SELECT kind, count(*) AS n FROM events GROUP BY kind HAVING n > 3",
            );
            assert_eq!(kinds.len(), 12, "random_change of everything happens: {kinds:?}");
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| panic!("seed {seed}"));
    }
}

#[tokio::test]
async fn past_reactions_are_trimmed_to_the_limit() {
    let url = new_database().await;
    let work = move || {
        let mut both = BothStores::new(&url);
        both.write(&[("alice", change("send", &json!({"to": "@bob", "text": "hi", "key": "k"})))]);
        for n in 0..900 {
            let (emoji, on) = (["x", "y"][n / 2 % 2], n % 2 == 0);
            let react = json!({"conversation": "@bob", "target": 1, "emoji": emoji, "on": on});
            both.write(&[("alice", change("react", &react))]);
        }
        both.have_the_same_rows();
    };
    tokio::task::spawn_blocking(work).await.expect("alike");
}

#[tokio::test]
async fn a_batch_reads_its_own_changes() {
    let url = new_database().await;
    let work = move || {
        let mut both = BothStores::new(&url);
        let says = |key: &str, text: &str| {
            ("alice", change("send", &json!({"to": "@bob", "text": text, "key": key})))
        };
        let deletes =
            |target: u64| ("alice", change("delete", &json!({"conversation": "@bob", "target": target})));
        let edits = |target: u64| {
            ("alice", change("edit", &json!({"conversation": "@bob", "target": target, "text": "edited"})))
        };
        both.write(&[says("stored", "hi"), edits(1)]);
        // The deletion erased the content, so a late retry cannot be compared with it. This holds for a message of an earlier batch
        // and for one of this batch.
        both.write(&[deletes(1), says("stored", "another"), edits(1)]);
        both.write(&[
            says("new", "hi"),
            edits(4),
            says("new", "another"),
            deletes(4),
            says("new", "another"),
            edits(4),
        ]);
        both.have_the_same_rows();
    };
    tokio::task::spawn_blocking(work).await.expect("alike");
}
