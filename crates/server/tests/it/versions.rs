//! Nodes of several versions in one installation.

use serde_json::json;
use switchboard_protocol::{Event, EventBody};
use tokio::process::Command;

use crate::cluster::next_event;
use crate::support::{Cluster, SharedEngines, eventually, in_time};

/// The SQL with which a node of a newer version defines the event kind `pin` and stores an event of that kind.
const INSERT_EVENT_OF_NEWER_NODE: &str = r#"BEGIN;
    INSERT INTO kinds (number, name, users) VALUES (99, 'pin', '["by","for"]');
    WITH room AS (UPDATE conversations SET head = head + 1 WHERE name = '#room' RETURNING id, head, at, messages)
    INSERT INTO events (conversation, seq, kind, sender, at, messages, body)
    SELECT room.id, room.head, 99, alice.id, room.at, room.messages,
        format('{"target":2,"by":%s,"for":[%s],"why":"for all"}', alice.id, bob.id)
    FROM room, users alice, users bob WHERE alice.name = 'alice' AND bob.name = 'bob';
    COMMIT"#;

#[tokio::test]
async fn an_event_of_a_newer_node_passes_through_older_nodes() {
    let cluster = Cluster::start(2).await;
    let mut alice = cluster.node(0).connects("alice").await;
    let mut bob = cluster.node(1).connects("bob").await;
    alice.makes_room("room", &["bob"]).await;
    assert!(matches!(bob.receives_event().await.body, EventBody::Create { .. }));
    alice.says("#room", "to be pinned").await;
    bob.receives_message("to be pinned").await;
    cluster.shared.sql(INSERT_EVENT_OF_NEWER_NODE).await;
    let pinned = |event: &Event| {
        assert_eq!((event.seq.0, event.from.as_str()), (3, "alice"));
        let EventBody::Unknown(fields) = &event.body else { panic!("{event:?}") };
        let expected = json!({"type": "pin", "target": 2, "by": "alice", "for": ["bob"], "why": "for all"});
        assert_eq!(json!(fields), expected);
    };
    // When the next event arrives, both nodes notice that they missed the one before it.
    bob.says("#room", "what was that?").await;
    pinned(&next_event(&mut alice).await);
    alice.receives_message("what was that?").await;
    pinned(&next_event(&mut bob).await);
    pinned(&bob.log("#room").await[2]);
    assert_eq!(bob.history("#room").await.len(), 2, "it is no message");
    let mut resumed = cluster.node(0).resumes("bob", &[("#room", 2)]).await;
    pinned(&next_event(&mut resumed).await);
    assert_eq!(resumed.summary("#room").await.head.0, 4);
}

#[tokio::test]
async fn a_feature_is_on_while_every_living_node_knows_it() {
    let cluster = Cluster::start(1).await;
    let server = cluster.node(0);
    let features = async || server.connects("alice").await.welcome.features;
    assert_eq!(Box::pin(features()).await, switchboard_protocol::FEATURES);
    cluster
        .shared
        .sql("INSERT INTO writers (id, batch, version) SELECT 'another', 0, version FROM installation")
        .await;
    eventually("the feature is off", || async { Box::pin(features()).await.is_empty().then_some(()) }).await;
    cluster.shared.sql("UPDATE writers SET at = now() - interval '61 seconds' WHERE id = 'another'").await;
    eventually("the feature is on", || async { (!Box::pin(features()).await.is_empty()).then_some(()) })
        .await;
}

#[tokio::test]
async fn a_node_below_the_version_of_its_installation_does_not_start() {
    let shared = SharedEngines::without_bus().await;
    drop(Cluster::start_on(shared.clone(), 1, |_| {}).await);
    shared.sql("UPDATE installation SET version = 99").await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command.args(["dev", "--listen", "127.0.0.1:0", "--store", shared.store.expose()]).env_clear();
    let output = in_time("the program ends", command.kill_on_drop(true).output()).await.expect("it starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{error}");
    assert!(error.contains("too old for the installation") && error.contains("version 99"), "{error}");
}
