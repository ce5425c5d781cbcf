//! No connection, webhook or unread count hears of an import. The feed has it, with a note.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use switchboard::config::{Secret, WebhooksConfig};
use switchboard_store::grant::Scope;

use super::{admin, imports, message, servers, visit};
use crate::keys::key_with;
use crate::support::{Cluster, Receiver, Server, eventually, text_of};

#[tokio::test]
async fn no_connection_hears_of_an_import_and_the_next_live_event_comes_after_it() {
    for server in servers().await {
        let key = admin(&server);
        let mut ana = server.connects("ana").await;
        ana.makes_room("r", &["bob"]).await;
        let mut bob = server.connects("bob").await;
        let mut dan = server.connects("dan").await;
        let at = ana.log("#r").await.last().expect("an event").at.to_string();
        let lines: Vec<_> = (0..20)
            .map(|n| message("#r", ["bob", "dan"][n % 2], &at, &format!("k{n}"), &format!("old {n}")))
            .collect();
        assert_eq!(imports(&server, &key, &lines).await, (20, 0));
        imports(&server, &key, &visit()).await;
        for person in [&mut ana, &mut bob, &mut dan] {
            person.receives_nothing().await;
        }
        // The log has no gap: what was imported comes before the next live event. dan, who joined by the import, is a member.
        assert_eq!(ana.says("#r", "live").await, 23);
        for seq in 2..=23 {
            let event = bob.receives_event().await;
            assert_eq!((event.seq.0, event.conversation.as_str()), (seq, "#r"));
        }
        while text_of(&dan.receives_event().await) != Some("live") {}
        assert_eq!(dan.says("#r", "me too").await, 24);
    }
}

#[tokio::test]
async fn a_long_import_is_a_gap_for_those_who_are_connected() {
    let server = Server::start_with_auth_and(|config| config.limits.replay = 10).await;
    let key = admin(&server);
    let mut ana = server.connects("ana").await;
    ana.makes_room("r", &["bob"]).await;
    let mut bob = server.connects("bob").await;
    let at = ana.log("#r").await.last().expect("an event").at.to_string();
    let lines: Vec<_> = (0..20).map(|n| message("#r", "bob", &at, &format!("k{n}"), "old")).collect();
    assert_eq!(imports(&server, &key, &lines).await, (20, 0));
    ana.says("#r", "live").await;
    let gap = bob.receives_reply().await;
    let gap = serde_json::to_value(&gap).expect("JSON");
    assert_eq!(gap, json!({"type": "gap", "conversation": "#r", "after": 1, "head": 21}));
    assert_eq!(bob.receives_message("live").await.seq.0, 22);
}

#[tokio::test]
async fn other_nodes_hear_of_no_import_and_deliver_what_follows_it() {
    let cluster = Cluster::start(2).await;
    let (first, second) = (cluster.node(0), cluster.node(1));
    let mut ana = first.connects("ana").await;
    ana.makes_room("r", &["bob"]).await;
    let mut bob = second.connects("bob").await;
    let mut dan = second.connects("dan").await;
    let at = ana.log("#r").await.last().expect("an event").at.to_string();
    let lines: Vec<_> =
        (0..4).map(|n| message("#r", ["bob", "dan"][n % 2], &at, &format!("k{n}"), "old")).collect();
    // A `dev` server needs no key.
    let request = first.asks("POST", "/v1/import").header("content-type", "application/x-ndjson");
    first.request(request.body(super::body_of(&lines))).await.ok();
    for person in [&mut ana, &mut bob, &mut dan] {
        person.receives_nothing().await;
    }
    ana.says("#r", "live").await;
    // dan became a member by the import, of which his node learns from the log.
    for person in [&mut bob, &mut dan] {
        while text_of(&person.receives_event().await) != Some("live") {}
    }
    dan.says("#r", "me too").await;
}

/// All entries of the feed.
async fn feed(server: &Server) -> Vec<Value> {
    let key = key_with(server, "feed", |key| key.with_scopes([Scope::Feed]));
    let page = eventually("the feed has all", || async {
        let page = server.posts_as(&key, "feed", json!({"after": "0"})).await.ok();
        (page["more"] == false && page["entries"].as_array()?.len() >= 12).then_some(page)
    });
    page.await["entries"].as_array().expect("entries").clone()
}

#[tokio::test]
async fn the_feed_notes_what_was_imported_and_by_which_key() {
    for server in servers().await {
        imports(&server, &admin(&server), &visit()).await;
        let entries = feed(&server).await;
        let kinds: BTreeSet<_> = entries
            .iter()
            .filter_map(|entry| entry["type"].as_str())
            .filter(|kind| !kind.starts_with("audit."))
            .collect();
        assert_eq!(kinds, ["create", "join", "message", "react", "user.new"].into());
        for entry in entries.iter().filter(|entry| entry["via"] == "mover") {
            assert_eq!(entry["imported"], true, "{entry}");
        }
        assert_eq!(entries.iter().filter(|entry| entry["imported"] == true).count(), 12, "{entries:?}");
    }
}

#[tokio::test]
async fn webhooks_skip_imports_unless_they_ask_for_them() {
    let server = Server::start_with_auth_and(|config| {
        let secret = Secret::new("a secret of the webhooks that is long enough").expect("long enough");
        config.webhooks = Some(WebhooksConfig::new(secret));
    })
    .await;
    let key = key_with(&server, "mover", |key| key.with_scopes([Scope::Admin]));
    let (mut with, mut without) = (Receiver::start().await, Receiver::start().await);
    for (name, url, imported) in [("with", with.url(), true), ("without", without.url(), false)] {
        let add = json!({"name": name, "url": url, "types": ["message"], "imported": imported});
        server.posts_as(&key, "add_webhook", add).await.ok();
    }
    imports(&server, &key, &visit()).await;
    server.connects("bob").await.says("#visit-9", "live").await;
    let texts: Vec<_> =
        with.take(7).await.iter().map(|entry| entry.json()["data"]["event"]["text"].clone()).collect();
    assert!(texts.contains(&json!("hello")) && texts.contains(&json!("live")), "{texts:?}");
    assert_eq!(without.next().await.json()["data"]["event"]["text"], "live");
    assert!(without.rest().is_empty());
}
