//! Corrupt databases: an unreadable row affects no other, and the server does not touch a database of a newer version. These
//! tests use SQL, because the server never writes such rows.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::Connection;
use serde_json::json;
use switchboard_protocol::reply::{OkBody, Reply};
use switchboard_protocol::{ErrorCode, Event, EventBody, Limits, Seq};
use switchboard_store::CommitMetrics;
use switchboard_store::clock::Clock;
use switchboard_store::sqlite::{Settings, SqliteStore};
use tempfile::TempDir;

use crate::support::{Server, text_of};

const DATABASE_FILE: &str = "switchboard.db";

/// SQL that corrupts the row of an event, each with the seq of that event.
const EVENT_CORRUPTION_SQL: [(u64, &str); 6] = [
    (3, "UPDATE events SET body = 'no JSON' WHERE seq = 3"),
    (4, "UPDATE events SET kind = 99 WHERE seq = 4"),
    (5, "UPDATE events SET body = '[1]' WHERE seq = 5"),
    (6, "UPDATE events SET body = '{\"text\":\"broken off' WHERE seq = 6"),
    (7, "UPDATE events SET body = CAST(x'7B22FF227D' AS TEXT) WHERE seq = 7"),
    (8, "UPDATE events SET sender = 9999 WHERE seq = 8"),
];

/// The seq of the last message, which is also corrupt.
const LAST_SEQ: u64 = 9;

fn corrupt_events(data: &Path) {
    let db = Connection::open(data.join(DATABASE_FILE)).expect("the database");
    for (seq, sql) in EVENT_CORRUPTION_SQL {
        assert_eq!(db.execute(sql, []), Ok(1), "{seq}");
    }
    let last = "UPDATE events SET body = '' WHERE seq = 9";
    assert_eq!(db.execute(last, []), Ok(1));
}

/// Starts a server with a room whose log has the events 1 to 9, most of them corrupt.
async fn server_with_corrupt_events() -> Server {
    let mut server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("r", &["bob"]).await;
    for seq in 2..=LAST_SEQ {
        assert_eq!(alice.says("#r", &format!("message {seq}")).await, seq);
    }
    alice.says("@bob", "elsewhere").await;
    alice.client.close().await;
    corrupt_events(server.data());
    server.restart().await;
    server
}

fn is_unreadable(event: &Event) -> bool {
    matches!(event.body, EventBody::Unreadable {})
}

/// Asserts that every event has its seq, and only the corrupt ones are unreadable.
fn assert_only_corrupt_events_are_unreadable(log: &[Event]) {
    assert_eq!(log.iter().map(|event| event.seq.0).collect::<Vec<_>>(), (1..=LAST_SEQ).collect::<Vec<_>>());
    let unreadable: Vec<_> =
        log.iter().filter(|event| is_unreadable(event)).map(|event| event.seq.0).collect();
    assert_eq!(
        unreadable,
        EVENT_CORRUPTION_SQL.iter().map(|(seq, _)| *seq).chain([LAST_SEQ]).collect::<Vec<_>>()
    );
    assert_eq!(text_of(&log[1]), Some("message 2"));
}

#[tokio::test]
async fn hostile_29_a_corrupt_row_is_delivered_as_unreadable_and_blocks_no_other() {
    let server = server_with_corrupt_events().await;
    let mut bob = server.connects("bob").await;
    assert_only_corrupt_events_are_unreadable(&bob.log("#r").await);
    let summary = bob.summary("#r").await;
    assert_eq!((summary.head, summary.unread), (Seq(LAST_SEQ), LAST_SEQ - 1));
    assert_eq!(bob.summary("@alice:bob").await.head, Seq(1), "other conversations are not affected");
    let history = bob.history("#r").await;
    let texts: BTreeMap<_, _> =
        history.iter().map(|m| (m.seq.0, m.text.as_ref().map(|t| t.as_str()))).collect();
    assert_eq!(texts[&2], Some("message 2"));
    assert_eq!((texts[&3], texts[&LAST_SEQ]), (None, None));
    let answer = server.posts("sync", json!({"as": "bob", "conversation": "#r", "limit": 200})).await.ok();
    assert_eq!(answer["events"][2]["type"], "unreadable", "{answer}");
    assert_eq!(answer["events"].as_array().map(Vec::len), Some(9));

    let mut phone = server.resumes("bob", &[("#r", 0), ("@alice:bob", 0)]).await;
    let (mut log, mut elsewhere) = (Vec::new(), Vec::new());
    for _ in 0..=LAST_SEQ {
        let event = phone.receives_event().await;
        if event.conversation.as_str() == "#r" { log.push(event) } else { elsewhere.push(event) }
    }
    assert_only_corrupt_events_are_unreadable(&log);
    assert_eq!(text_of(&elsewhere[0]), Some("elsewhere"));
    phone.receives_nothing().await;
}

#[tokio::test]
async fn hostile_29_a_room_with_a_corrupt_row_accepts_messages() {
    let server = server_with_corrupt_events().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    assert_eq!(alice.says("#r", "still here").await, LAST_SEQ + 1);
    assert_eq!(bob.receives_message("still here").await.seq, Seq(LAST_SEQ + 1));
    bob.does("read", json!({"conversation": "#r", "upto": LAST_SEQ + 1})).await;
    assert_eq!(bob.summary("#r").await.unread, 0);
    // A row that is no longer a message cannot be edited. A corrupt message can be deleted, and is readable after that.
    let edit = json!({"conversation": "#r", "target": 4, "text": "x"});
    assert_eq!(alice.is_refused("edit", edit).await, ErrorCode::NotFound);
    alice.does("delete", json!({"conversation": "#r", "target": 3})).await;
    let healed = &bob.log("#r").await[2];
    assert!(matches!(healed.body, EventBody::Message { deleted: true, .. }), "{healed:?}");
}

#[tokio::test]
async fn hostile_29_a_corrupt_count_does_not_stop_the_writer() {
    let mut server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("r", &["bob", "carol"]).await;
    for name in ["bob", "alice", "bob"] {
        server.connects(name).await.says("#r", "hi").await;
    }
    alice.client.close().await;
    let db = Connection::open(server.data().join(DATABASE_FILE)).expect("the database");
    db.execute_batch("UPDATE members SET sent = 0; UPDATE conversations SET members = 0, admins = 0;")
        .expect("damaged");
    drop(db);
    server.restart().await;
    let mut bob = server.connects("bob").await;
    bob.does("read", json!({"conversation": "#r", "upto": 3})).await;
    assert_eq!(bob.summary("#r").await.unread, 1, "the count of the readable messages");
    bob.does("read", json!({"conversation": "#r", "upto": 4})).await;
    assert_eq!(bob.summary("#r").await.unread, 0);
    bob.does("leave", json!({"conversation": "#r"})).await;
    let mut alice = server.connects("alice").await;
    alice.does("role", json!({"conversation": "#r", "user": "carol", "role": "admin"})).await;
    assert_eq!(alice.says("#r", "still here").await, 7);
}

/// SQL that corrupts the row of a conversation or a membership. The rows of the log stay intact.
const CONVERSATION_CORRUPTION_SQL: [&str; 9] = [
    "UPDATE conversations SET head = -1 WHERE name = ?1",
    "UPDATE conversations SET messages = -1 WHERE name = ?1",
    "UPDATE conversations SET last_message = -1 WHERE name = ?1",
    "UPDATE conversations SET members = -1 WHERE name = ?1",
    "UPDATE conversations SET name = 'no id' WHERE name = ?1",
    "UPDATE members SET since = -1 WHERE conversation = (SELECT id FROM conversations WHERE name = ?1)",
    "UPDATE members SET read = -1 WHERE conversation = (SELECT id FROM conversations WHERE name = ?1)",
    "UPDATE members SET sent = -1 WHERE conversation = (SELECT id FROM conversations WHERE name = ?1)",
    "UPDATE members SET until = -1 WHERE conversation = (SELECT id FROM conversations WHERE name = ?1)",
];

/// The other user, and that user's direct conversation with alice, to which corruption number `n` is applied.
fn peer_names(n: usize) -> (String, String) {
    (format!("peer{n}"), format!("@alice:peer{n}"))
}

#[tokio::test]
async fn corrupt_conversations_and_memberships_do_not_prevent_a_connection() {
    let mut server = Server::start().await;
    let mut alice = server.connects("alice").await;
    let peers: Vec<_> = (0..CONVERSATION_CORRUPTION_SQL.len()).map(peer_names).collect();
    let names: Vec<_> = peers.iter().map(|(peer, _)| peer.as_str()).collect();
    alice.makes_room("r", &names).await;
    alice.says("#r", "in the room").await;
    for peer in &names {
        alice.says(&format!("@{peer}"), "between us").await;
    }
    alice.client.close().await;
    let db = Connection::open(server.data().join(DATABASE_FILE)).expect("the database");
    for (sql, (_, name)) in CONVERSATION_CORRUPTION_SQL.into_iter().zip(&peers) {
        assert!(matches!(db.execute(sql, [name]), Ok(1..)), "{sql}");
    }
    drop(db);
    server.restart().await;

    for (sql, (peer, name)) in CONVERSATION_CORRUPTION_SQL.into_iter().zip(&peers) {
        for user in ["alice", peer] {
            let mut device = server.resumes(user, &[("#r", 1), (name, 1)]).await;
            let listed: Vec<_> =
                device.welcome.conversations.iter().map(|c| c.conversation.as_str()).collect();
            assert_eq!((listed, device.welcome.more), (vec!["#r"], false), "{sql}");
            let Reply::Error(failure) = device.receives_reply().await else { panic!("{sql}: its cursor") };
            assert_eq!(failure.conversation.as_ref().map(|c| c.as_str()), Some(name.as_str()), "{sql}");
            let gone = sql.contains("SET name");
            assert_eq!(
                failure.code,
                if gone { ErrorCode::NotFound } else { ErrorCode::Unavailable },
                "{sql}"
            );
            assert_eq!(
                device.receives_event().await.seq,
                Seq(2),
                "{sql}: the room is replayed from its cursor"
            );
            assert!(device.log("#r").await.len() >= 2, "{sql}");
            assert_eq!(device.history("#r").await[0].seq, Seq(2), "{sql}");
            let page = device.does("conversations", json!({"limit": 1})).await;
            let OkBody::Conversations { conversations, more } = page else { panic!("{page:?}") };
            assert_eq!(
                (conversations.len(), more),
                (1, false),
                "{sql}: the page skips the damaged conversation"
            );
        }
    }
    let mut alice = server.connects("alice").await;
    let mut peer = server.connects(names[0]).await;
    alice.says("#r", "still here").await;
    peer.receives_message("still here").await;
}

/// SQL that corrupts rows that belong to a message, each with the users whose reactions remain visible and the visible text.
const MESSAGE_CORRUPTION_SQL: [(&str, &[&str], &str); 4] = [
    ("UPDATE users SET name = 'no id' WHERE name = 'carol0'", &["alice"], "edited"),
    (
        "UPDATE reactions SET emoji = CAST(x'FF' AS TEXT) WHERE user = (SELECT id FROM users WHERE name = 'carol1')",
        &["alice"],
        "edited",
    ),
    (
        "UPDATE events SET key = CAST(x'FF' AS TEXT) WHERE kind = 1 AND conversation = (
            SELECT id FROM conversations WHERE name = '#r2')",
        &["alice", "carol2"],
        "edited",
    ),
    (
        "UPDATE amendments SET seq = -1 WHERE conversation = (SELECT id FROM conversations WHERE name = '#r3')",
        &["alice", "carol3"],
        "first",
    ),
];

/// SQL that corrupts a member, each in a room of its own. The rooms are numbered after those of [`MESSAGE_CORRUPTION_SQL`].
const MEMBER_CORRUPTION_SQL: [&str; 2] = [
    "UPDATE members SET since = -1 WHERE user = (SELECT id FROM users WHERE name = 'bob4')",
    "UPDATE users SET name = '!' WHERE name = 'bob5'",
];

#[tokio::test]
async fn corruption_of_a_message_or_a_member_hides_no_other_row() {
    let mut server = Server::start().await;
    let mut alice = server.connects("alice").await;
    for n in 0..MESSAGE_CORRUPTION_SQL.len() + MEMBER_CORRUPTION_SQL.len() {
        let (room, carol) = (format!("#r{n}"), format!("carol{n}"));
        alice.makes_room(&room, &[&format!("bob{n}"), &carol]).await;
        alice.says(&room, "first").await;
        let reaction = json!({"conversation": room, "target": 2, "emoji": "x"});
        alice.does("react", reaction.clone()).await;
        server.connects(&carol).await.does("react", reaction).await;
        alice.does("edit", json!({"conversation": room, "target": 2, "text": "edited"})).await;
    }
    alice.client.close().await;
    let db = Connection::open(server.data().join(DATABASE_FILE)).expect("the database");
    for sql in MESSAGE_CORRUPTION_SQL.iter().map(|(sql, ..)| *sql).chain(MEMBER_CORRUPTION_SQL) {
        assert!(matches!(db.execute(sql, []), Ok(1..)), "{sql}");
    }
    drop(db);
    server.restart().await;

    for (n, (sql, reacted, text)) in MESSAGE_CORRUPTION_SQL.into_iter().enumerate() {
        let (mut bob, room) = (server.connects(&format!("bob{n}")).await, format!("#r{n}"));
        let last = bob.summary(&room).await.last.expect("the last message");
        assert_eq!(bob.history(&room).await, std::slice::from_ref(&last), "{sql}");
        assert_eq!(last.text.as_ref().map(|text| text.as_str()), Some(text), "{sql}");
        let users: Vec<_> = last.reactions["x"].iter().map(|user| user.as_str()).collect();
        assert_eq!(users, reacted, "{sql}");
    }
    let mut alice = server.connects("alice").await;
    for (sql, n) in MEMBER_CORRUPTION_SQL.into_iter().zip(MESSAGE_CORRUPTION_SQL.len()..) {
        let (mut members, mut after) = (Vec::new(), None);
        loop {
            let command = json!({"conversation": format!("#r{n}"), "limit": 1, "after": after});
            let page = alice.does("members", command).await;
            let OkBody::Members { members: page, more, .. } = page else { panic!("{page:?}") };
            after = page.last().map(|member| member.user.clone());
            members.extend(page.into_iter().map(|member| member.user.to_string()));
            if !more {
                break;
            }
        }
        assert_eq!(members, ["alice", &format!("carol{n}")], "{sql}");
    }
}

/// The names and contents of all files in a directory, except the lock.
fn file_contents(data: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(data).expect("a directory").map(|entry| entry.expect("a file"));
    let named = entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
    named
        .filter(|(name, _)| name != "lock")
        .map(|(name, path)| (name, std::fs::read(path).expect("readable")))
        .collect()
}

fn open_store(data: &Path) -> anyhow::Result<()> {
    let settings = Settings {
        data: data.to_owned(),
        limits: Limits::default(),
        strangers: true,
        tells_reads: false,
        clock: Clock::system(),
        metrics: CommitMetrics::default(),
    };
    SqliteStore::open(settings).map(drop)
}

#[tokio::test]
async fn a_database_of_the_first_version_is_migrated() {
    let mut server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.makes_public_room("r", &["bob"]).await;
    let message = alice.says("#r", "from the past").await;
    let reaction = |on: bool| json!({"conversation": "#r", "target": message, "emoji": "x", "on": on});
    alice.does("react", reaction(true)).await;
    server.connects("carol").await.does("join", json!({"conversation": "#r"})).await;
    alice.client.close().await;
    let path = server.data().join(DATABASE_FILE);
    let db = Connection::open(&path).expect("the database");
    db.execute_batch(
        "DROP TABLE held; DROP TABLE reports; DROP TABLE reporters; DROP TABLE blocks; ALTER TABLE users DROP COLUMN block_changes;
         DROP TABLE bans; ALTER TABLE members DROP COLUMN silenced; ALTER TABLE members DROP COLUMN sent_at;
         ALTER TABLE conversations DROP COLUMN slow; ALTER TABLE conversations DROP COLUMN rejoin;
         DROP TABLE ended_rooms; DROP TABLE connected; DROP TABLE missed; DROP TABLE retired_ids; DROP TABLE replaced_requests; DROP TABLE profiles; DROP TABLE profile_words;
         DROP TABLE feed_pages; DROP TABLE feed_entries; DROP TABLE feed_pending; DROP TABLE feed_state;
         DROP TABLE consumers; DROP TABLE webhooks; DROP TRIGGER number_key;
         DROP INDEX api_keys_by_number; DROP INDEX api_keys_by_old_hash;
         ALTER TABLE events DROP COLUMN via; ALTER TABLE events DROP COLUMN feed;
         ALTER TABLE conversations DROP COLUMN feed; ALTER TABLE conversations DROP COLUMN ended;
         ALTER TABLE api_keys DROP COLUMN number; ALTER TABLE api_keys DROP COLUMN scopes;
         ALTER TABLE api_keys DROP COLUMN acts_as; ALTER TABLE api_keys DROP COLUMN expires;
         ALTER TABLE api_keys DROP COLUMN rate; ALTER TABLE api_keys DROP COLUMN addresses;
         ALTER TABLE api_keys DROP COLUMN no_text; ALTER TABLE api_keys DROP COLUMN unasked;
         ALTER TABLE api_keys DROP COLUMN parent; ALTER TABLE api_keys DROP COLUMN used;
         ALTER TABLE api_keys DROP COLUMN old_hash; ALTER TABLE api_keys DROP COLUMN old_until;
         DROP INDEX reactions_that_stand; DROP INDEX rooms_of_user; DROP TABLE rooms_by_choice;
         ALTER TABLE users DROP COLUMN not_before; DROP TABLE probe; ALTER TABLE events DROP COLUMN checksum;
         DROP TABLE kinds; DROP TABLE rewrite; ALTER TABLE members DROP COLUMN read_imported;
         PRAGMA application_id = 0; PRAGMA user_version = 1;",
    )
    .expect("the rows of the first version");
    drop(db);
    server.restart_with(|config| config.limits.rooms = 1).await;
    let mut bob = server.connects("bob").await;
    assert_eq!(text_of(&bob.log("#r").await[1]), Some("from the past"));
    assert_eq!(bob.history("#r").await[0].reactions["x"].len(), 1);
    for name in ["alice", "carol"] {
        let refused = server.connects(name).await.is_refused("create", json!({"room": name})).await;
        assert_eq!(refused, ErrorCode::TooLarge, "{name} chose to be in #r");
    }
    bob.makes_room("bob", &[]).await;
    let mut alice = server.connects("alice").await;
    alice.does("react", reaction(false)).await;
    assert!(bob.history("#r").await[0].reactions.is_empty());
    let db = Connection::open(&path).expect("the database");
    let version = db.query_row("PRAGMA user_version", [], |row| row.get(0));
    assert_eq!(version, Ok(17));
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_and_not_changed() {
    let mut server = Server::start().await;
    server.connects("alice").await.says("@bob", "from the future").await;
    server.begin_shutdown();
    server.wait_until_stopped().await;
    let data = server.data();
    let db = Connection::open(data.join(DATABASE_FILE)).expect("the database");
    db.execute_batch("PRAGMA user_version = 99; CREATE TABLE of_the_future (a INTEGER);").expect("changed");
    drop(db);
    let before = file_contents(data);
    let error = format!("{:#}", open_store(data).expect_err("not understood"));
    assert!(error.contains("newer version") && error.contains("99"), "{error}");
    assert_eq!(file_contents(data), before);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_not_changed() {
    let data = TempDir::new().expect("a directory");
    std::fs::write(data.path().join(DATABASE_FILE), "the data of another program".repeat(100))
        .expect("written");
    let before = file_contents(data.path());
    let error = format!("{:#}", open_store(data.path()).expect_err("no database"));
    assert!(error.contains(DATABASE_FILE), "it says which file: {error}");
    assert_eq!(file_contents(data.path()), before);
}
