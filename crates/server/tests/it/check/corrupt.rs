//! Damages a database in every way that the check detects, and asserts that the check reports each damage and its row.

use std::path::Path;

use rusqlite::Connection;
use serde_json::json;
use switchboard::check_database;

use super::{assert_check_finds_no_problem, stopped_server_with_every_event};
use crate::support::Server;

fn find_problems(path: &Path) -> Vec<String> {
    let problems = check_database(path).expect("it can be checked");
    problems.iter().map(ToString::to_string).collect()
}

/// Damages the first conversation of a database.
pub(crate) fn damage_first_conversation(data: &Path) {
    let db = Connection::open(data.join("switchboard.db")).expect("a database");
    assert_eq!(db.execute("UPDATE conversations SET head = 7 WHERE id = 1", []), Ok(1));
}

/// SQL that damages the database, each with a line that the report of the check must have. `#r` is conversation 1; alice is user 1,
/// bob 2, carol 3, dora 4.
const DAMAGE_SQL_AND_PROBLEMS: &[(&str, &str)] = &[
    ("DELETE FROM events WHERE conversation = 1 AND seq = 4", "#r 4: it is missing"),
    ("DELETE FROM events WHERE conversation = 1 AND seq IN (4, 5)", "#r 4: it and 1 after it are missing"),
    ("DELETE FROM events WHERE conversation = 2 AND seq = 2", "@alice:bob: its head is kept as 2, and is 1"),
    ("DELETE FROM events WHERE conversation = 2", "@alice:bob: it has no events"),
    ("UPDATE events SET seq = 0 WHERE conversation = 2 AND seq = 1", "@alice:bob 0: a log begins with 1"),
    ("UPDATE conversations SET head = 99 WHERE id = 1", "#r: its head is kept as 99, and is 20"),
    (
        "UPDATE conversations SET messages = 1 WHERE id = 1",
        "#r: its number of messages is kept as 1, and is 5",
    ),
    (
        "UPDATE conversations SET last_message = 2 WHERE id = 1",
        "#r: its last message is kept as 2, and is 15",
    ),
    ("UPDATE conversations SET members = 9 WHERE id = 1", "#r: its number of members is kept as 9, and is 3"),
    ("UPDATE conversations SET admins = 1 WHERE id = 1", "#r: its number of admins is kept as 1, and is 2"),
    (
        "UPDATE conversations SET at = 5 WHERE id = 1",
        "#r: the time of its last event is not the one that is kept",
    ),
    (
        "UPDATE conversations SET title = 'x' WHERE id = 1",
        "#r: its title is not the one that its log gives it",
    ),
    ("UPDATE conversations SET public = 0 WHERE id = 1", "#r: whether it is public is not what its log says"),
    (
        "UPDATE conversations SET name = '!' WHERE id = 3",
        "conversation number 3: its name is no conversation id",
    ),
    ("DELETE FROM conversations WHERE id = 2", "conversation number 2: it has events, and no row of its own"),
    (
        "UPDATE events SET at = 5 WHERE conversation = 1 AND seq = 3",
        "#r 3: its time, 1970-01-01T00:00:00.005Z, is before",
    ),
    (
        "UPDATE events SET messages = 9 WHERE conversation = 1 AND seq = 3",
        "#r 3: it counts 9 messages up to here, and there are 2",
    ),
    (
        // Changes one character of a message's text, so that its checksum no longer matches.
        "UPDATE events SET body = CAST(replace(body, '\"text\":\"', '\"text\":\"!') AS TEXT) WHERE conversation = 1 AND seq = 4",
        "#r 4: its checksum is not that of what it says",
    ),
    ("UPDATE events SET kind = 99 WHERE conversation = 1 AND seq = 4", "#r 4: its kind is 99, which is none"),
    (
        "UPDATE events SET body = 'no JSON' WHERE conversation = 1 AND seq = 4",
        "#r 4: it cannot be read as the event \"message\"",
    ),
    (
        "UPDATE events SET body = '' WHERE conversation = 1 AND seq = 17",
        "#r 17: it cannot be read as the event",
    ),
    (
        "UPDATE events SET body = '{\"text\":7}' WHERE conversation = 1 AND seq = 4",
        "#r 4: it cannot be read as the event",
    ),
    (
        "UPDATE events SET body = CAST(x'7B22FF227D' AS TEXT) WHERE conversation = 1 AND seq = 4",
        "#r 4: it cannot be read as the event",
    ),
    (
        "UPDATE events SET kind = 2 WHERE conversation = 1 AND seq = 4",
        "#r 4: it cannot be read as the event \"edit\"",
    ),
    (
        "UPDATE events SET sender = 77 WHERE conversation = 1 AND seq = 4",
        "#r 4: its sender, user number 77, is not there",
    ),
    (
        "UPDATE events SET sender = 2 WHERE conversation = 1 AND seq = 4",
        "#r: the number of messages of bob is kept as 1, and is 2",
    ),
    (
        "UPDATE events SET sender = 2 WHERE conversation = 1 AND seq = 6",
        "#r 6: it edits a message of another user",
    ),
    (
        "UPDATE events SET key = NULL WHERE conversation = 1 AND seq = 4",
        "#r 4: it is a message without a key",
    ),
    ("UPDATE events SET key = '' WHERE conversation = 1 AND seq = 4", "#r 4: its key is none"),
    (
        "UPDATE events SET key = 'k' WHERE conversation = 1 AND seq = 1",
        "#r 1: it has a key, and is no message",
    ),
    (
        "DROP INDEX events_by_key; CREATE INDEX events_by_key ON events (sender, key) WHERE key IS NOT NULL;
         UPDATE events SET key = 'k' WHERE conversation = 1 AND seq IN (2, 4)",
        "#r 2: its key is another message's of the same sender",
    ),
    ("DROP INDEX events_by_key", "the index events_by_key is missing"),
    (
        "DROP INDEX members_of_user; CREATE INDEX members_of_user ON members (user)",
        "the index members_of_user is not as",
    ),
    ("CREATE TABLE notes (a INTEGER)", "the table notes is none of switchboard's"),
    ("DROP TABLE reactions", "the table reactions is missing"),
    (
        "UPDATE events SET body = '{\"text\":\"x\",\"reply_to\":6}' WHERE conversation = 1 AND seq = 15",
        "#r 15: it refers to 6, which is no message",
    ),
    (
        "UPDATE events SET body = '{\"text\":\"x\"}' WHERE conversation = 1 AND seq = 3",
        "#r 3: event 13 deleted it, and its content is there",
    ),
    (
        "UPDATE events SET body = '{\"deleted\":true}' WHERE conversation = 1 AND seq = 4",
        "#r 4: it is erased, and no event deleted it",
    ),
    (
        "UPDATE events SET body = '{\"target\":3,\"text\":\"x\"}' WHERE conversation = 1 AND seq = 7",
        "#r 7: the message is deleted, and the content of this edit is there",
    ),
    (
        "UPDATE events SET body = '{\"target\":2,\"deleted\":true}' WHERE conversation = 1 AND seq = 6",
        "#r 6: it is erased, and the message is not",
    ),
    ("DELETE FROM amendments WHERE seq = 6", "#r 6: it is not noted as an edit or deletion of 2"),
    ("INSERT INTO amendments VALUES (1, 2, 4)", "#r 4: it is noted as an edit or deletion of 2, and is none"),
    ("DELETE FROM reactions WHERE until IS NULL", "#r 9: the reaction that it changes does not stand so"),
    ("UPDATE reactions SET until = NULL", "#r 10: the reaction that it changes does not stand so"),
    (
        "UPDATE reactions SET until = 15 WHERE since = 9",
        "#r 2: it has lost a reaction that event 15 did not take back",
    ),
    (
        "INSERT INTO replaced_requests VALUES (1, 1, randomblob(32))",
        "#r 1: the request is kept of what is no message, or its digest is none of SHA-256",
    ),
    (
        "INSERT INTO replaced_requests VALUES (1, 2, x'00')",
        "#r 2: the request is kept of what is no message, or its digest is none of SHA-256",
    ),
    (
        "INSERT INTO replaced_requests VALUES (1, 3, randomblob(32))",
        "#r 3: the request is kept of what is no message, or its digest is none of SHA-256",
    ),
    (
        "INSERT INTO reactions VALUES (1, 2, 'x', 2, 5, NULL)",
        "#r 2: it has a reaction that event 5 did not set",
    ),
    (
        "INSERT INTO reactions VALUES (1, 3, '👎', 2, 12, NULL)",
        "#r 3: it is deleted, and its reactions are not",
    ),
    (
        "UPDATE members SET role = 0 WHERE conversation = 1 AND user = 2",
        "#r: bob is Admin by the log, and not by the row",
    ),
    (
        "UPDATE members SET role = 7 WHERE conversation = 1 AND user = 2",
        "#r: bob is Admin by the log, and not by the row",
    ),
    (
        "UPDATE members SET until = 9 WHERE conversation = 1 AND user = 2",
        "#r: bob came and went by other events than is kept",
    ),
    (
        "UPDATE members SET until = NULL WHERE conversation = 1 AND user = 3",
        "#r: carol came and went by other events than is kept",
    ),
    (
        "UPDATE members SET since = 2 WHERE conversation = 1 AND user = 2",
        "#r: bob came and went by other events than is kept",
    ),
    (
        "UPDATE members SET read = 99 WHERE conversation = 1 AND user = 1",
        "#r: the cursors of alice are out of order: since 1, read 99, received 9, head 20",
    ),
    (
        "UPDATE members SET received = 0 WHERE conversation = 1 AND user = 1",
        "#r: the cursors of alice are out of order",
    ),
    (
        "UPDATE members SET sent = 0 WHERE conversation = 1 AND user = 1",
        "#r: the number of messages of alice is kept as 0, and is 4",
    ),
    (
        "UPDATE members SET read_sent = 0 WHERE conversation = 1 AND user = 2",
        "#r: the number of own messages up to the cursor of reading of bob is kept as 0, and is 1",
    ),
    (
        "UPDATE members SET read_messages = 0 WHERE conversation = 1 AND user = 2",
        "#r: the number of messages up to the cursor of reading of bob is kept as 0, and is 5",
    ),
    (
        "DELETE FROM members WHERE conversation = 1 AND user = 4",
        "#r: dora is a member by the log, and has no row",
    ),
    (
        "DELETE FROM members WHERE conversation = 2 AND user = 2",
        "@alice:bob: bob is a member by the log, and has no row",
    ),
    (
        "INSERT INTO members VALUES (2, 3, 1, 0, NULL, 0, 0, 0, 0, 0, 0, 0, 0)",
        "@alice:bob: carol has a row, and was never a member",
    ),
    (
        "INSERT INTO members VALUES (1, 77, 1, 0, NULL, 0, 0, 0, 0, 0, 0, 0, 0)",
        "#r: user number 77 is a member, and no user",
    ),
    (
        "INSERT INTO members VALUES (9, 1, 1, 0, NULL, 0, 0, 0, 0, 0, 0, 0, 0)",
        "conversation number 9: it has members, and is not there",
    ),
    (
        "DELETE FROM rooms_by_choice WHERE user = 1 AND conversation = 1",
        "#r: alice made or joined it, and it is not among the rooms of their choice",
    ),
    (
        "DELETE FROM rooms_by_choice WHERE user = 2 AND conversation = 1",
        "#r: bob made or joined it, and it is not among the rooms of their choice",
    ),
    (
        "INSERT INTO rooms_by_choice VALUES (4, 1)",
        "#r: it is among the rooms of dora's choice, and is not by the log",
    ),
    (
        "INSERT INTO rooms_by_choice VALUES (3, 1)",
        "#r: it is among the rooms of carol's choice, and is not by the log",
    ),
    (
        "INSERT INTO rooms_by_choice VALUES (4, 2)",
        "@alice:bob: it is among the rooms of dora's choice, who was never a member",
    ),
    (
        "INSERT INTO rooms_by_choice VALUES (77, 9)",
        "conversation number 9: it is among the rooms of user number 77's choice, who was never a member",
    ),
    ("UPDATE users SET name = '!' WHERE id = 4", "the name of user number 4 is no user id"),
    ("UPDATE kinds SET users = '[]' WHERE number = 8", "the table of kinds does not have invite for 8"),
    (
        "UPDATE events SET checksum = NULL, body = '{\"user\":\"dora\",\"role\":\"reader\"}' WHERE seq = 17",
        "#r 17: it names users by their ids",
    ),
    ("DELETE FROM users WHERE id = 4", "#r 17: it names user number 4, who is not there"),
    (
        "UPDATE events SET feed = 99 WHERE seq = 17",
        "conversation number 1 17: the feed has it as number 21, and it has another or is not there",
    ),
    ("DELETE FROM feed_entries WHERE number = 1", "number 1 of the feed has no entry"),
    ("UPDATE feed_pages SET runs = x'01'", "the page of the feed from 1 cannot be read"),
    (
        "UPDATE members SET silenced = 9 WHERE conversation = 1 AND user = 2",
        "#r: bob is silenced until another time than the log says",
    ),
    (
        "INSERT INTO bans (conversation, user, until, at) VALUES (1, 2, 9, 1)",
        "#r: whether bob is banned, or until when, is not what its log says",
    ),
    (
        "UPDATE conversations SET slow = 1 WHERE id = 1",
        "#r: its settings are not those that its log gives it",
    ),
    (
        "UPDATE conversations SET rejoin = 0 WHERE id = 1",
        "#r: its settings are not those that its log gives it",
    ),
    (
        "INSERT INTO bans (conversation, user, until, at) VALUES (0, 77, 9, 1)",
        "user number 77 is banned, and is not there",
    ),
    (
        "INSERT INTO bans (conversation, user, until, at) VALUES (0, 1, 9, 9)",
        "the ban of alice ends before it was made",
    ),
    (
        "INSERT INTO bans (conversation, user, until, at) VALUES (9, 1, 9, 1)",
        "conversation number 9: alice is banned from it, and it is not there",
    ),
    (
        "INSERT INTO reports (id, conversation, target, user, at, snapshot) VALUES (1, 0, 0, 77, 1, '{}');
         INSERT INTO reporters (report, user, at, reason) VALUES (1, 1, 1, 'spam')",
        "report 1 is about user number 77, who is not there",
    ),
    (
        "INSERT INTO reports (id, conversation, target, user, at, snapshot) VALUES (1, 9, 1, 1, 1, '{}');
         INSERT INTO reporters (report, user, at, reason) VALUES (1, 1, 1, 'spam')",
        "report 1 is about a conversation that is not there",
    ),
    (
        "INSERT INTO reports (id, conversation, target, user, at, snapshot) VALUES (1, 0, 0, 1, 1, '{')",
        "the snapshot of report 1 cannot be read",
    ),
    (
        "INSERT INTO reports (id, conversation, target, user, at, snapshot) VALUES (1, 0, 0, 1, 1, '{}')",
        "report 1 was made by no user",
    ),
    (
        "INSERT INTO reports (id, conversation, target, user, at, snapshot, state) VALUES (1, 0, 0, 1, 1, '{}', 1)",
        "report 1 has no moderator",
    ),
    (
        "INSERT INTO reports (id, conversation, target, user, at, snapshot, state, moderator) VALUES (1, 0, 0, 1, 1, '', 1, 1)",
        "the state of report 1 does not fit its decision",
    ),
    (
        "INSERT INTO reporters (report, user, at, reason) VALUES (9, 1, 1, 'spam')",
        "user number 1 has made report 9, which is not there",
    ),
    (
        "INSERT INTO held (report, user, key, peer, via) VALUES (9, 1, 'k', 1, 0)",
        "held message 9 is in no queue",
    ),
    (
        "INSERT INTO reports (id, conversation, target, user, at, snapshot) VALUES (1, 0, 0, 1, 1, '{}');
         INSERT INTO held (report, user, key, peer, via) VALUES (1, 1, 'k', 77, 0)",
        "held message 1 is of another user, or for nobody",
    ),
    (
        "INSERT INTO reports (id, conversation, target, user, at, snapshot) VALUES (1, 0, 0, 1, 1, '{}');
         INSERT INTO held (report, user, key, peer, via, state) VALUES (1, 1, 'k', 1, 0, 1)",
        "held message 1 was released, and is not in the log",
    ),
    (
        "INSERT INTO reports (id, conversation, target, user, at, snapshot) VALUES (1, 0, 0, 1, 1, '{}');
         INSERT INTO held (report, user, key, peer, via, state) VALUES (1, 1, 'k', 1, 0, 2)",
        "the state of held message 1 does not fit its decision",
    ),
    (
        "INSERT INTO reports (id, conversation, target, user, at, snapshot)
            SELECT 1, 0, 0, sender, 1, '{}' FROM events WHERE key IS NOT NULL LIMIT 1;
         INSERT INTO held (report, user, key, peer, via)
            SELECT 1, sender, key, sender, 0 FROM events WHERE key IS NOT NULL LIMIT 1",
        "held message 1 was not released, and is in the log",
    ),
    (
        "INSERT INTO api_keys (name, hash, created) VALUES ('shop', x'00', 1)",
        "the hash of the API key 'shop' is none of SHA-256",
    ),
];

#[tokio::test]
async fn check_finds_every_kind_of_damage() {
    let server = stopped_server_with_every_event().await;
    assert_check_finds_no_problem(server.data());
    let whole = std::fs::read(server.data().join("switchboard.db")).expect("readable");
    let place = tempfile::TempDir::new().expect("a directory");
    let mut missed = Vec::new();
    for (number, (damage, expected)) in DAMAGE_SQL_AND_PROBLEMS.iter().enumerate() {
        let copy = place.path().join(format!("{number}.db"));
        std::fs::write(&copy, &whole).expect("written");
        let db = Connection::open(&copy).expect("a database");
        db.execute_batch(damage).unwrap_or_else(|error| panic!("{damage}: {error}"));
        assert!(db.changes() > 0 || damage.contains("INDEX") || damage.contains("TABLE"), "{damage}");
        drop(db);
        let report = find_problems(&copy);
        if !report.iter().any(|line| line.starts_with(expected)) {
            missed.push(format!("{damage}\n  expected {expected}\n  reported {report:#?}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[tokio::test]
async fn check_reports_unreadable_pages() {
    let server = stopped_server_with_every_event().await;
    let path = server.data().join("switchboard.db");
    let db = Connection::open(&path).expect("a database");
    let root = "SELECT rootpage FROM sqlite_schema WHERE name = 'events'";
    let page: usize = db.query_row(root, [], |row| row.get(0)).expect("the events");
    drop(db);
    let mut bytes = std::fs::read(&path).expect("readable");
    bytes[(page - 1) * 2048..page * 2048].fill(0x5a);
    std::fs::write(&path, &bytes).expect("written");
    let report = find_problems(&path);
    assert!(report.iter().any(|line| line.starts_with("SQLite: ")), "{report:?}");
    assert!(report.iter().any(|line| line.contains("the check ends here")), "{report:?}");
}

#[tokio::test]
async fn check_reports_the_first_hundred_problems_and_counts_the_others() {
    let server = stopped_server_with_every_event().await;
    let path = server.data().join("switchboard.db");
    let db = Connection::open(&path).expect("a database");
    db.execute_batch(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150)
         INSERT INTO amendments SELECT 1, 1000 + i, 1 FROM n",
    )
    .expect("damaged");
    drop(db);
    let report = find_problems(&path);
    assert_eq!(report.len(), 101, "{report:?}");
    assert_eq!(report[100], "and 50 more");
}

#[tokio::test]
async fn check_refuses_a_database_of_a_newer_version() {
    let server = stopped_server_with_every_event().await;
    let path = server.data().join("switchboard.db");
    Connection::open(&path).and_then(|db| db.execute_batch("PRAGMA user_version = 99")).expect("changed");
    let error = format!("{:#}", check_database(&path).expect_err("not understood"));
    assert!(error.contains("newer version") && error.contains("99"), "{error}");
}

/// Older versions stored the emoji of a reaction together with U+FE0F, an invisible character that requests its coloured form.
#[tokio::test]
async fn a_reaction_that_was_stored_with_u_fe0f_can_be_removed() {
    let mut server = Server::start().await;
    let react =
        |on: bool| json!({"conversation": "@bob", "target": 1, "emoji": "\u{1f44d}\u{fe0f}", "on": on});
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "hi").await;
    alice.does("react", react(true)).await;
    server.begin_shutdown();
    server.wait_until_stopped().await;
    let db = Connection::open(server.data().join("switchboard.db")).expect("the database");
    db.execute_batch(
        "UPDATE reactions SET emoji = emoji || char(65039);
         UPDATE events SET checksum = NULL, body = replace(body, char(128077), char(128077, 65039)) WHERE seq = 2",
    )
    .expect("the row of an older version");
    drop(db);
    server.start_again().await;
    let mut alice = server.connects("alice").await;
    assert!(alice.stores("react", react(true)).await.duplicate, "the reaction is stored");
    assert_eq!(alice.stores("react", react(false)).await.seq, 3);
    assert!(alice.message_in_history("@bob", 1).await.reactions.is_empty());
    alice.does("react", react(true)).await;
    let reactions = alice.message_in_history("@bob", 1).await.reactions;
    assert_eq!(reactions.keys().map(|emoji| emoji.as_str()).collect::<Vec<_>>(), ["\u{1f44d}"]);
    server.begin_shutdown();
    server.wait_until_stopped().await;
    assert_check_finds_no_problem(server.data());
}
