//! The migration of a database of the first schema, and the rewrite of its old event bodies in the background.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;
use rusqlite_migration::Migrations;
use serde_json::json;
use switchboard_protocol::{ConversationId, Limits, Seq, UserId, decode_named};
use tempfile::TempDir;

use crate::backup::{Options, Outcome, backup};
use crate::batch::WriterState;
use crate::block::View;
use crate::check::{PageCheck, check_connection};
use crate::clock::Clock;
use crate::first_schema::{CONVERSATIONS, REWRITTEN_BODIES, expected_frames, insert_statements};
use crate::origin::Origin;
use crate::read::LogRange;
use crate::record::ConversationKey;
use crate::sqlite::query::reader;
use crate::sqlite::rows::SqliteRows;
use crate::sqlite::{DATABASE_FILE, MIGRATIONS, Settings, SqliteStore, open_database, open_to_read};
use crate::{Change, CommitMetrics, Committed, Request, Store as _, Submission};

fn database_of_the_first_schema() -> TempDir {
    let data = TempDir::new().expect("a directory");
    let mut db = Connection::open(data.path().join(DATABASE_FILE)).expect("a database");
    db.execute_batch(crate::sqlite::SETTINGS).expect("set up");
    Migrations::from_slice(MIGRATIONS).to_version(&mut db, 1).expect("its tables");
    db.execute_batch(&insert_statements()).expect("its rows");
    data
}

/// The frames of all events, as the server sends them to clients.
fn read_frames(db: &Connection) -> Vec<String> {
    let (limits, state) = (Limits::default(), WriterState::default());
    let reader = reader(db, &limits, &state);
    let events = (1..).zip(CONVERSATIONS).flat_map(|(key, name)| {
        let name = ConversationId::parse(name).expect("an id");
        let range = LogRange { after: Seq(0), upto: Seq(99), most: 100, bytes: 100_000 };
        reader.events(ConversationKey(key), &name, &range).expect("a page")
    });
    events.map(|event| event.to_json_for(View::Whole)).collect()
}

fn assert_unchanged(db: &Connection) {
    assert_eq!(read_frames(db), expected_frames());
    assert_eq!(check_connection(db, PageCheck::Quick, &mut |_| {}).expect("checked").problems, []);
}

fn bodies(db: &Connection) -> Vec<String> {
    let select = "SELECT body FROM events WHERE kind IN (5, 8, 9, 10) ORDER BY conversation, seq";
    let mut select = db.prepare(select).expect("a query");
    select.query_map([], |row| row.get(0)).expect("rows").collect::<Result<_, _>>().expect("read")
}

fn count(db: &Connection, select: &str) -> u64 {
    db.query_row(select, [], |row| row.get(0)).expect("a row")
}

#[test]
fn an_old_log_is_rewritten_and_may_be_interrupted_at_every_portion() {
    let data = database_of_the_first_schema();
    assert_unchanged(&open_database(data.path()).expect("migrated"));
    let mut portions = 0;
    loop {
        // If the rewrite is interrupted before its commit, nothing is changed.
        let mut cut = SqliteRows::new(open_database(data.path()).expect("opened"));
        let before = bodies(cut.database());
        cut.begin().expect("a transaction");
        cut.rewrite_portion(1).expect("a portion");
        drop(cut);
        let mut rows = SqliteRows::new(open_database(data.path()).expect("opened"));
        assert_eq!(bodies(rows.database()), before);
        let more = rows.rewrite(1).expect("a portion");
        assert_unchanged(rows.database());
        portions += 1;
        if !more {
            break;
        }
    }
    assert!(portions > 15, "each event of a room is in a portion of its own: {portions}");
    let db = open_database(data.path()).expect("opened");
    assert_eq!(bodies(&db), REWRITTEN_BODIES);
    assert_eq!(count(&db, "SELECT count(*) FROM rewrite"), 0);
    assert_eq!(
        count(&db, "SELECT count(*) FROM events WHERE checksum IS NOT NULL"),
        REWRITTEN_BODIES.len() as u64
    );
    assert_unchanged(&db);
}

#[test]
fn a_backup_continues_the_rewrite_of_its_original() {
    let data = database_of_the_first_schema();
    let mut rows = SqliteRows::new(open_database(data.path()).expect("migrated"));
    assert!(rows.rewrite(9).expect("a portion"), "there is more");
    let copy = TempDir::new().expect("a directory");
    let to = copy.path().join(DATABASE_FILE);
    let written = backup(data.path(), &to, Options::default(), &mut |_| {}).expect("a backup");
    assert!(matches!(written, Outcome::Written(_)), "it was checked: {written:?}");
    let mut rows = SqliteRows::new(open_database(copy.path()).expect("opened"));
    assert_eq!(bodies(rows.database())[..3], REWRITTEN_BODIES[..3], "the position is in the copy");
    assert_ne!(bodies(rows.database()), REWRITTEN_BODIES);
    while rows.rewrite(100).expect("a portion") {}
    assert_eq!(bodies(rows.database()), REWRITTEN_BODIES);
    assert_unchanged(rows.database());
}

#[test]
fn damaged_events_are_not_rewritten() {
    let data = database_of_the_first_schema();
    let db = open_database(data.path()).expect("migrated");
    db.execute_batch(
        r#"UPDATE events SET checksum = 7 WHERE conversation = 1 AND seq = 9;
           UPDATE events SET body = '{"user":"nobody"}' WHERE conversation = 1 AND seq = 8;
           UPDATE events SET body = '{"user":' WHERE conversation = 1 AND seq = 15"#,
    )
    .expect("damaged");
    let mut rows = SqliteRows::new(db);
    while rows.rewrite(100).expect("a portion") {}
    let bodies = bodies(rows.database());
    assert_eq!(bodies[0], REWRITTEN_BODIES[0]);
    let stay = [r#"{"user":"nobody"}"#, r#"{"user":"erin","role":"reader"}"#, r#"{"user":"#];
    assert_eq!([&bodies[1], &bodies[2], &bodies[5]], stay);
    let report = check_connection(rows.database(), PageCheck::Quick, &mut |_| {}).expect("checked");
    let found = |seq, what: &str| {
        let mut problems = report.problems.iter();
        assert!(
            problems.any(|one| one.seq == Some(seq) && one.what.contains(what)),
            "{seq} {what} {report:?}"
        );
    };
    found(8, "it names nobody, who is no user");
    found(8, "it names users by their ids");
    found(9, "its checksum");
    found(15, "it cannot be read");
}

#[test]
fn a_new_database_has_nothing_to_rewrite() {
    let data = TempDir::new().expect("a directory");
    let db = open_database(data.path()).expect("created");
    assert_eq!(count(&db, "SELECT count(*) FROM rewrite"), 0);
    let kinds = "SELECT count(*) FROM kinds WHERE number = 8 AND name = 'invite' AND users = '[\"user\"]'";
    assert_eq!(count(&db, kinds), 1);
}

#[test]
fn an_event_of_a_newer_version_is_passed_on() {
    let data = database_of_the_first_schema();
    let db = open_database(data.path()).expect("migrated");
    db.execute_batch(
        r#"INSERT INTO kinds VALUES (99, 'pin', '["by","for"]');
           INSERT INTO events (conversation, seq, kind, sender, at, messages, body) VALUES
               (3, 2, 99, 2, 2002, 0, '{"target":1,"by":1,"for":[4,2],"until":null}'),
               (3, 3, 98, 2, 2003, 0, '{}');
           UPDATE conversations SET head = 2, at = 2002 WHERE id = 3"#,
    )
    .expect("stored");
    let frames = read_frames(&db);
    let pin = r##"{"type":"pin","conversation":"#late","seq":2,"from":"bob","at":"1970-01-01T00:00:02.002Z","target":1,"by":"alice","for":["2","bob"],"until":null}"##;
    assert_eq!(frames[frames.len() - 2], pin);
    assert!(
        frames[frames.len() - 1].contains(r#""type":"unreadable""#),
        "no version has entered it: {frames:?}"
    );
    db.execute_batch("DELETE FROM events WHERE kind = 98").expect("deleted");
    assert_eq!(check_connection(&db, PageCheck::Quick, &mut |_| {}).expect("checked").problems, []);
    db.execute_batch("UPDATE events SET body = '{\"by\":77}' WHERE kind = 99").expect("damaged");
    let problems = check_connection(&db, PageCheck::Quick, &mut |_| {}).expect("checked").problems;
    assert!(problems[0].what.contains("user number 77"), "{problems:?}");
}

/// Adds rooms whose events have old bodies, so that the rewrite takes many portions.
fn add_rooms(data: &Path, rooms: u32) {
    let db = Connection::open(data.join(DATABASE_FILE)).expect("the database");
    db.execute_batch(&format!(
        r#"WITH RECURSIVE room (n) AS (SELECT 4 UNION ALL SELECT n + 1 FROM room WHERE n < {last})
           INSERT INTO conversations (id, name, public, head, messages, last_message, members, admins, at)
           SELECT n, '#room' || n, 0, 1, 0, 0, 2, 1, 1001 FROM room;
           INSERT INTO events (conversation, seq, kind, sender, at, messages, body)
           SELECT id, 1, 5, 1, 1001, 0, '{{"public":false,"members":["bob"]}}' FROM conversations WHERE id > 3;
           INSERT INTO members SELECT id, 1, 2, 1, NULL, 1, 1, 0, 0, 0 FROM conversations WHERE id > 3;
           INSERT INTO members SELECT id, 2, 1, 1, NULL, 1, 1, 0, 0, 0 FROM conversations WHERE id > 3"#,
        last = rooms + 3
    ))
    .expect("added");
}

#[tokio::test]
async fn a_server_writes_and_reads_while_it_rewrites() {
    let data = database_of_the_first_schema();
    add_rooms(data.path(), 20_000);
    let settings = Settings {
        data: data.path().to_owned(),
        limits: Limits::default(),
        strangers: true,
        tells_reads: false,
        clock: Clock::system(),
        metrics: CommitMetrics::default(),
    };
    let opened = tokio::task::spawn_blocking(move || SqliteStore::open(settings)).await.expect("no panic");
    let (store, mut batches) = opened.expect("a store");
    let store = Arc::new(store);
    let alice = UserId::parse("alice").expect("an id");
    let observer = open_to_read(&data.path().join(DATABASE_FILE)).expect("a reader");
    let (mut sent, mut meanwhile) = (0, 0);
    loop {
        let is_rewriting = count(&observer, "SELECT count(*) FROM rewrite") > 0;
        let fields =
            json!({"to": "#old", "text": "while it rewrites", "key": format!("k{sent}")}).to_string();
        let command = decode_named("send", &fields).expect("a command").command;
        let Request::Change(change) = Request::from(command) else { panic!("it writes") };
        store.submit(Submission { actor: alice.clone(), change, origin: Origin::Internal }).expect("room");
        loop {
            let batch = batches.recv().await.expect("the store lives");
            let stored = batch.outcomes.iter().any(|one| matches!(one.result, Ok(Committed::Event(_))));
            if stored {
                break;
            }
        }
        sent += 1;
        let Request::Query(query) = Request::from(
            decode_named("sync", r##"{"conversation":"#old","after":0}"##).expect("a command").command,
        ) else {
            panic!("it reads")
        };
        let page = store.query(&alice, query).await.expect("a page");
        let page = serde_json::to_string(&page).expect("JSON");
        assert!(page.contains(r#""members":["2","bob","carol"]"#), "{page}");
        meanwhile += u32::from(is_rewriting);
        if !is_rewriting {
            break;
        }
    }
    assert!(meanwhile > 3, "writes were stored between portions: {meanwhile} of {sent}");
    drop(store);
    while batches.recv().await.is_some() {}
    let db = open_database(data.path()).expect("opened");
    assert_eq!(check_connection(&db, PageCheck::Quick, &mut |_| {}).expect("checked").problems, []);
    assert_eq!(count(&db, "SELECT count(*) FROM events WHERE body LIKE '%\"members\":[\"%'"), 0);
}

#[test]
fn a_repeated_create_is_recognised_in_the_old_and_the_new_form() {
    let data = database_of_the_first_schema();
    let mut rows = SqliteRows::new(open_database(data.path()).expect("migrated"));
    let rules = crate::change::Rules::new(Limits::default(), true, false);
    for _ in 0..2 {
        for (members, is_same) in
            [(json!(["carol", "bob", "2"]), true), (json!(["bob", "2", "stranger"]), false)]
        {
            let fields =
                json!({"room": "old", "title": "Old", "public": true, "members": members}).to_string();
            let command = decode_named("create", &fields).expect("a command").command;
            let Request::Change(change @ Change::Create(_)) = Request::from(command) else {
                panic!("it writes")
            };
            rows.begin().expect("a transaction");
            let alice = UserId::parse("alice").expect("an id");
            let actor = crate::change::Actor::without_allowances(&alice);
            let created = crate::change::apply(&mut rows, &rules, actor, change, Clock::system().now());
            let repeated = matches!(&created, Ok(Committed::Event(event)) if event.event.is_none());
            assert_eq!(repeated, is_same, "{created:?}");
            rows.commit().expect("committed");
        }
        while rows.rewrite(100).expect("a portion") {}
    }
}
