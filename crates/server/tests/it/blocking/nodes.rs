//! Blocking where users are connected to several nodes.

use serde_json::json;
use switchboard_protocol::{EventBody, Signal};
use switchboard_store::grant::Scope;

use super::{blocks, is_withheld};
use crate::keys::key_with;
use crate::support::{Cluster, Person, Server, SharedEngines, eventually, text_of, user};

/// Waits until a block holds for a connection: until a message of mallory in a room comes withheld.
async fn waits_for_the_block(mallory: &mut Person, bob: &mut Person) -> u64 {
    loop {
        let seq = mallory.says("#room", "secret").await;
        let event = crate::cluster::next_event(bob).await;
        assert_eq!(event.seq.0, seq);
        if matches!(event.body, EventBody::Withheld { .. }) {
            return seq;
        }
    }
}

async fn a_block_holds_on_every_node(cluster: &Cluster) {
    let mut alice = cluster.node(0).connects("alice").await;
    let mut mallory = cluster.node(1).connects("mallory").await;
    let mut bob = cluster.node(2).connects("bob").await;
    alice.makes_room("room", &["mallory", "bob"]).await;
    for person in [&mut mallory, &mut bob] {
        crate::cluster::next_event(person).await;
    }
    mallory.does("watch", json!({"users": ["bob"]})).await;
    assert!(matches!(mallory.receives_signal().await, Signal::Presence { .. }));
    // The block is made on another node than that of the connection.
    let mut phone = cluster.node(0).connects("bob").await;
    blocks(&mut phone, "mallory", true).await;
    assert_eq!(bob.receives_signal().await, Signal::Block { user: user("mallory"), on: true });
    let seq = mallory.says("#room", "secret").await;
    for device in [&mut bob, &mut phone] {
        is_withheld(&crate::cluster::next_event(device).await, seq, "message");
    }
    crate::cluster::next_event(&mut alice).await;
    bob.does("typing", json!({"conversation": "#room"})).await;
    assert!(matches!(alice.receives_signal().await, Signal::Typing { .. }));
    mallory.does("typing", json!({"conversation": "#room"})).await;
    assert!(matches!(alice.receives_signal().await, Signal::Typing { .. }));
    mallory.does("read", json!({"conversation": "#room", "upto": seq})).await;
    assert!(matches!(alice.receives_signal().await, Signal::Read { .. }));
    bob.does("read", json!({"conversation": "#room", "upto": seq})).await;
    assert!(matches!(alice.receives_signal().await, Signal::Read { .. }));
    assert!(matches!(phone.receives_signal().await, Signal::Typing { user, .. } if user.as_str() == "bob"));
    assert!(matches!(phone.receives_signal().await, Signal::Read { user, .. } if user.as_str() == "bob"));
    mallory.receives_nothing().await;
    // Bob goes offline: mallory, who watched him before, does not learn of it, and alice does.
    alice.does("watch", json!({"users": ["bob"]})).await;
    assert!(matches!(alice.receives_signal().await, Signal::Presence { online: true, .. }));
    bob.client.close().await;
    phone.client.close().await;
    assert!(matches!(alice.receives_signal().await, Signal::Presence { online: false, .. }));
    mallory.receives_nothing().await;

    // A session that attaches knows the block from the beginning.
    let mut bob = cluster.node(1).connects("bob").await;
    let seq = mallory.says("#room", "secret").await;
    is_withheld(&crate::cluster::next_event(&mut bob).await, seq, "message");
    blocks(&mut bob, "mallory", false).await;
    mallory.says("#room", "public").await;
    assert_eq!(text_of(&crate::cluster::next_event(&mut bob).await), Some("public"));
}

#[tokio::test]
async fn a_block_holds_on_three_nodes_at_once() {
    let shared = SharedEngines::new().await;
    let quick = |config: &mut switchboard::config::Config| {
        config.presence_grace = std::time::Duration::from_millis(100);
    };
    a_block_holds_on_every_node(&Cluster::start_on(shared, 3, quick).await).await;
}

#[tokio::test]
async fn without_a_bus_a_block_holds_with_the_next_sweep() {
    let shared = SharedEngines::without_bus().await;
    let cluster = Cluster::start_on(shared, 2, |config| {
        if let Some(cluster) = &mut config.cluster {
            cluster.settings.sweep = std::time::Duration::from_millis(200);
        }
    })
    .await;
    let mut mallory = cluster.node(0).connects("mallory").await;
    let mut bob = cluster.node(1).connects("bob").await;
    mallory.makes_room("room", &["bob"]).await;
    crate::cluster::next_event(&mut bob).await;
    let mut phone = cluster.node(0).connects("bob").await;
    blocks(&mut phone, "mallory", true).await;
    let seq = waits_for_the_block(&mut mallory, &mut bob).await;
    mallory.says("#room", "secret").await;
    is_withheld(&crate::cluster::next_event(&mut bob).await, seq + 1, "message");
}

async fn a_rename_keeps_blocks(server: &Server, other: &Server) {
    let key = key_with(server, "admin", |key| key.with_scopes([Scope::Admin]));
    let mut mallory = server.connects("mallory").await;
    let mut bob = other.connects("bob").await;
    mallory.makes_room("room", &["bob"]).await;
    crate::cluster::next_event(&mut bob).await;
    mallory.says("@bob", "hi").await;
    crate::cluster::next_event(&mut bob).await;
    blocks(&mut bob, "mallory", true).await;
    let renamed = || server.posts_as(&key, "rename_user", json!({"user": "mallory", "to": "molly"}));
    eventually("the installation may retire ids", || async {
        let answer = renamed().await;
        (answer.status != 409 || answer.code() != "not_ready").then_some(answer)
    })
    .await
    .ok();
    // The error names the old id of the direct conversation.
    bob.receives_reply().await;
    let page = bob.does("blocks", json!({})).await;
    assert!(format!("{page:?}").contains("molly"), "{page:?}");
    let mut molly = server.connects("molly").await;
    let log = bob.log("#room").await;
    assert!(matches!(log[0].body, EventBody::Create { .. }));
    molly.says("#room", "secret").await;
    let event = crate::cluster::next_event(&mut bob).await;
    assert_eq!(event.from, user("molly"));
    assert!(matches!(event.body, EventBody::Withheld { .. }), "{event:?}");
    molly.says("@bob", "secret").await;
    bob.receives_nothing().await;
    blocks(&mut bob, "molly", false).await;
}

#[tokio::test]
async fn a_rename_of_the_blocked_user_keeps_the_block() {
    let server = Server::start_with_auth().await;
    a_rename_keeps_blocks(&server, &server).await;
}

#[tokio::test]
async fn a_rename_of_the_blocked_user_keeps_the_block_on_another_node() {
    let shared = SharedEngines::new().await;
    let start = || Server::start_with_auth_and(|config| shared.configure(config));
    let (server, other) = (start().await, start().await);
    a_rename_keeps_blocks(&server, &other).await;
}
