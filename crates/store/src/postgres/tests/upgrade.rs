//! Migrations from the first schema to the latest, and nodes of several versions on one database.

use refinery::Target as Version;
use serde_json::json;
use switchboard_protocol::{ConversationId, ErrorCode, FEATURES, Limits, Seq};
use tokio::time::timeout;

use super::{Node, TEST_TIMEOUT, assert_sound, new_database, query_texts, settings};
use crate::Store as _;
use crate::batch::WriterState;
use crate::block::View;
use crate::first_schema::{CONVERSATIONS, REWRITTEN_BODIES, expected_frames, insert_statements};
use crate::postgres::connect::BlockingConnection;
use crate::postgres::query::Session;
use crate::postgres::rewrite::{PortionResult, rewrite};
use crate::postgres::target::Target;
use crate::postgres::{Capabilities, SERVING_LOCK_ID, Settings, migrate, schema};
use crate::read::{LogRange, MEMBERSHIPS_PER_READ, Reader};
use crate::record::ConversationKey;
use crate::write_fault::WriteFault;

/// The statement with which a node of an earlier version registers itself in the table of nodes.
const EARLIER_NODE_PUTS_ITS_ROW: &str = "INSERT INTO writers (id, batch) VALUES ('earlier', 1)
    ON CONFLICT (id) DO UPDATE SET batch = excluded.batch, at = now()";

const SELECT_VERSION: &str = "SELECT version FROM installation";

const SELECT_BODIES: &str = "SELECT body FROM events WHERE kind IN (5, 8, 9, 10) ORDER BY conversation, seq";

/// Runs a function with a new connection to the database, on a blocking thread.
async fn with_link<T: Send + 'static>(
    url: &str,
    work: impl FnOnce(&mut BlockingConnection) -> T + Send + 'static,
) -> T {
    let target = Target::new(url, None).expect("a target");
    let done = move || work(&mut BlockingConnection::open(&target).expect("connected"));
    tokio::task::spawn_blocking(done).await.expect("no panic")
}

async fn database_of_the_first_schema() -> String {
    let url = new_database().await;
    let rows =
        insert_statements() + r#"INSERT INTO rooms_by_choice ("user", conversation) VALUES (1, 1), (2, 3);"#;
    with_link(&url, move |link| {
        link.run_alone(async |client| {
            let runner = schema::migrations::runner().set_target(Version::Version(1));
            runner.run_async(client).await.expect("the first schema");
            client.batch_execute(&rows).await
        })
    })
    .await
    .expect("rows");
    url
}

/// The frames of all events, as the server sends them to clients.
fn read_frames(link: BlockingConnection) -> Vec<String> {
    let (limits, state, session) = (Limits::default(), WriterState::default(), Session::new(link));
    let reader = Reader {
        rows: &session,
        limits: &limits,
        mark: &state.mark,
        memberships_per_step: MEMBERSHIPS_PER_READ,
        now: state.clock.now(),
    };
    let events = (1..).zip(CONVERSATIONS).flat_map(|(key, name)| {
        let name = ConversationId::parse(name).expect("an id");
        let range = LogRange { after: Seq(0), upto: Seq(99), most: 100, bytes: 100_000 };
        reader.events(ConversationKey(key), &name, &range).expect("a page")
    });
    events.map(|event| event.to_json_for(View::Whole)).collect()
}

async fn frames_of(url: &str) -> Vec<String> {
    let target = Target::new(url, None).expect("a target");
    let read = move || read_frames(BlockingConnection::open(&target).expect("connected"));
    tokio::task::spawn_blocking(read).await.expect("no panic")
}

async fn select_column(url: &str, sql: &'static str) -> Vec<String> {
    query_texts(url, sql).await.into_iter().map(|mut row| row.remove(0).unwrap_or_default()).collect()
}

/// Waits until a query returns these rows.
async fn wait_until_column_is(url: &str, sql: &'static str, expected: &[&str]) {
    let reached = async {
        while select_column(url, sql).await != expected {
            tokio::task::yield_now().await;
        }
    };
    timeout(TEST_TIMEOUT, reached).await.unwrap_or_else(|_| panic!("{sql} never gives {expected:?}"));
}

/// Settings for a store of an earlier version, which registers itself but cannot read event bodies with user keys.
fn settings_of_earlier_version(url: &str) -> Settings {
    Settings { capabilities: Capabilities { version: 0, features: Vec::new() }, ..settings(url) }
}

#[tokio::test]
async fn an_old_log_is_rewritten_and_may_be_interrupted_at_every_portion() {
    let url = database_of_the_first_schema().await;
    with_link(&url, |link| migrate(link).expect("migrated")).await;
    assert_eq!(frames_of(&url).await, expected_frames());
    query_texts(
        &url,
        "UPDATE installation SET version = 1; INSERT INTO rewrite (conversation, seq) VALUES (0, 0)",
    )
    .await;
    let mut portions = 0;
    loop {
        let before = select_column(&url, SELECT_BODIES).await;
        // If the connection is lost before the rewrite is committed, nothing is changed.
        with_link(&url, |link| {
            let cut = "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END $$;
                CREATE CONSTRAINT TRIGGER cut AFTER UPDATE OR DELETE ON rewrite DEFERRABLE INITIALLY DEFERRED
                FOR EACH ROW EXECUTE FUNCTION cut()";
            link.run(link.client().batch_execute(cut)).expect("made");
            rewrite(link, 1).expect_err("the connection is lost");
        })
        .await;
        query_texts(&url, "DROP FUNCTION cut CASCADE").await;
        assert_eq!(select_column(&url, SELECT_BODIES).await, before);
        let portion = with_link(&url, |link| rewrite(link, 1).expect("a portion")).await;
        assert_eq!(frames_of(&url).await, expected_frames());
        portions += 1;
        if portion == PortionResult::Done {
            break;
        }
    }
    assert!(portions > 15, "each event of a room is in a portion of its own: {portions}");
    assert_eq!(select_column(&url, SELECT_BODIES).await, REWRITTEN_BODIES);
    assert_eq!(select_column(&url, "SELECT count(*) FROM rewrite").await, ["0"]);
    assert_sound(&url).await;
}

#[tokio::test]
async fn one_node_at_a_time_rewrites() {
    let url = database_of_the_first_schema().await;
    with_link(&url, |link| migrate(link).expect("migrated")).await;
    query_texts(&url, "INSERT INTO rewrite (conversation, seq) VALUES (0, 0)").await;
    let target = Target::new(&url, None).expect("a target");
    let of_another = with_link(&url, move |link| {
        let locks = "BEGIN; SELECT FROM rewrite FOR UPDATE";
        link.run(link.client().batch_execute(locks)).expect("locked");
        let other = move || {
            let link = BlockingConnection::open(&target).expect("connected");
            rewrite(&link, 1).expect("a portion")
        };
        std::thread::spawn(other).join().expect("no panic")
    });
    assert_eq!(of_another.await, PortionResult::OfAnotherNode);
}

#[tokio::test]
async fn a_node_rewrites_a_log_of_the_first_schema_while_it_serves() {
    let url = database_of_the_first_schema().await;
    let mut node = Node::new(&url).await;
    let room = json!({"room": "new", "members": ["bob", "2"]});
    node.stores("alice", "create", room.clone()).await;
    assert_eq!(
        select_column(&url, "SELECT body FROM events WHERE conversation > 3").await,
        [r#"{"public":false,"members":[4,2]}"#]
    );
    wait_until_column_is(&url, "SELECT count(*) FROM rewrite", &["0"]).await;
    assert_eq!(select_column(&url, SELECT_BODIES).await[..REWRITTEN_BODIES.len()], REWRITTEN_BODIES);
    assert_eq!(frames_of(&url).await, expected_frames());
    assert!(node.stores("alice", "create", room).await.event.is_none(), "a repeated create is known");
    let old = json!({"room": "old", "title": "Old", "public": true, "members": ["carol", "bob", "2"]});
    assert!(node.stores("alice", "create", old).await.event.is_none(), "also an old one");
    assert_eq!(node.store.features(), FEATURES);
    node.stop().await;
    assert_sound(&url).await;
}

#[tokio::test]
async fn user_numbers_are_written_into_bodies_once_every_living_node_reads_them() {
    let url = new_database().await;
    let mut old = Node::start_with(settings_of_earlier_version(&url)).await.expect("a store");
    let mut new = Node::new(&url).await;
    assert_eq!(new.store.features(), Vec::<&str>::new(), "an earlier node does not know them");
    old.stores("alice", "create", json!({"room": "a", "members": ["bob"]})).await;
    new.stores("alice", "create", json!({"room": "b", "members": ["bob"]})).await;
    new.stores("alice", "remove", json!({"conversation": "#a", "user": "bob"})).await;
    let with_ids = [
        r#"{"public":false,"members":["bob"]}"#,
        r#"{"user":"bob"}"#,
        r#"{"public":false,"members":["bob"]}"#,
    ];
    assert_eq!(select_column(&url, SELECT_BODIES).await, with_ids);
    assert_eq!(select_column(&url, SELECT_VERSION).await, ["0"]);
    old.stop().await;
    wait_until_column_is(&url, SELECT_VERSION, &["4"]).await;
    let rewritten =
        [r#"{"public":false,"members":[2]}"#, r#"{"user":2}"#, r#"{"public":false,"members":[2]}"#];
    wait_until_column_is(&url, SELECT_BODIES, &rewritten).await;
    new.stores("alice", "invite", json!({"conversation": "#a", "user": "bob", "role": "member"})).await;
    assert_eq!(
        select_column(&url, "SELECT body FROM events WHERE kind = 8").await,
        [r#"{"user":2,"role":"member"}"#]
    );
    timeout(TEST_TIMEOUT, async {
        while new.store.features() != FEATURES {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("its features are on");
    assert_sound(&url).await;
    let Err(error) = Node::start_with(settings_of_earlier_version(&url)).await else {
        panic!("it is too old")
    };
    assert!(error.is::<crate::postgres::Outdated>(), "{error:#}");
    assert!(
        format!("{error:#}").contains("the installation has version 4 and this node knows 0"),
        "{error:#}"
    );
}

#[tokio::test]
async fn a_node_that_counts_as_dead_is_refused_in_its_transaction() {
    let url = new_database().await;
    let mut old = Node::start_with(settings_of_earlier_version(&url)).await.expect("a store");
    let new = Node::new(&url).await;
    old.says("alice", "@bob", "hi").await;
    let raised = async {
        while select_column(&url, SELECT_VERSION).await != ["4"] {
            // Makes the node's last heartbeat 61 seconds old by the database's clock, so that the node counts as gone.
            query_texts(&url, "UPDATE writers SET at = now() - interval '61 seconds' WHERE version = 0")
                .await;
        }
    };
    timeout(TEST_TIMEOUT, raised).await.expect("raised");
    let refused = old.tries("alice", "send", json!({"to": "@bob", "text": "too late"})).await;
    assert_eq!(refused.map(drop).map_err(|refusal| refusal.code), Err(ErrorCode::Unavailable));
    assert_eq!(old.store.write_fault(), Some(WriteFault::Outdated));
    assert_eq!(select_column(&url, "SELECT count(*) FROM events").await, ["1"]);
    assert_eq!(new.store.write_fault(), None);
}

#[tokio::test]
async fn a_node_of_a_version_without_rows_of_nodes_is_counted_and_refused() {
    let url = new_database().await;
    with_link(&url, |link| migrate(link).expect("migrated")).await;
    let (connected, proceed) =
        (std::sync::mpsc::sync_channel::<()>(0), std::sync::mpsc::sync_channel::<()>(0));
    let target = Target::new(&url, None).expect("a target");
    let earlier = tokio::task::spawn_blocking(move || {
        let link = BlockingConnection::open(&target).expect("connected");
        let lock = "SELECT pg_advisory_lock_shared($1)";
        link.run(link.client().execute(lock, &[&SERVING_LOCK_ID])).expect("locked");
        link.run(link.client().batch_execute(EARLIER_NODE_PUTS_ITS_ROW)).expect("it may write");
        // A node of the earlier version writes its row only with a batch, so an idle node may have no row.
        link.run(link.client().batch_execute("DELETE FROM writers")).expect("deleted");
        connected.0.send(()).expect("awaited");
        proceed.1.recv().expect("told");
    });
    let connected = connected.1;
    tokio::task::spawn_blocking(move || connected.recv().expect("connected")).await.expect("no panic");
    let mut new = Node::new(&url).await;
    new.stores("alice", "create", json!({"room": "a", "members": ["bob"]})).await;
    assert_eq!(select_column(&url, SELECT_VERSION).await, ["0"]);
    assert_eq!(select_column(&url, SELECT_BODIES).await, [r#"{"public":false,"members":["bob"]}"#]);
    assert_eq!(new.store.features(), Vec::<&str>::new());
    proceed.0.send(()).expect("it waits");
    earlier.await.expect("no panic");
    wait_until_column_is(&url, SELECT_VERSION, &["4"]).await;
    let refused =
        with_link(&url, |link| link.run(link.client().batch_execute(EARLIER_NODE_PUTS_ITS_ROW))).await;
    let refused = refused.expect_err("its version is 0");
    assert_eq!(refused.code().map(tokio_postgres::error::SqlState::code), Some("SB001"));
    new.says("alice", "@bob", "hi").await;
}

#[tokio::test]
async fn an_event_of_a_newer_node_is_passed_on() {
    let url = database_of_the_first_schema().await;
    let node = Node::new(&url).await;
    query_texts(
        &url,
        r#"INSERT INTO kinds VALUES (99, 'pin', '["by","for"]');
           INSERT INTO events (conversation, seq, kind, sender, at, messages, body)
           VALUES (3, 2, 99, 2, 2002, 0, '{"target":1,"by":1,"for":[4,2]}');
           UPDATE conversations SET head = 2, at = 2002 WHERE id = 3"#,
    )
    .await;
    let pin = r##"{"type":"pin","conversation":"#late","seq":2,"from":"bob","at":"1970-01-01T00:00:02.002Z","target":1,"by":"alice","for":["2","bob"]}"##;
    assert_eq!(frames_of(&url).await.last().map(String::as_str), Some(pin));
    let log =
        crate::SharedLog::read_log(&node.store, ConversationKey(3), Seq(1), Seq(2)).await.expect("a page");
    let live = log.events[0].event.as_ref().expect("an event");
    assert_eq!((live.to_json_for(View::Whole).as_str(), log.events[0].effects.len()), (pin, 0));
}
