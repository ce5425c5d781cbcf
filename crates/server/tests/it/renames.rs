//! A user gets another id: everything shows the new one, and the old one is good for nothing.

use std::time::Duration;

use serde_json::{Value, json};
use switchboard_protocol::CloseCode;
use switchboard_protocol::reply::Reply;
use switchboard_store::grant::Scope;

use crate::check::assert_check_finds_no_problem_after_a_stop;
use crate::keys::{for_shop_users, key_with};
use crate::support::{Cluster, Person, RawSocket, Server, SharedEngines, eventually, in_time, text_of};

/// A key that may do everything.
fn admin(server: &Server) -> String {
    key_with(server, "admin", |key| key.with_scopes([Scope::Admin]))
}

async fn renames(server: &Server, key: &str, user: &str, to: &str) {
    let renamed = || server.posts_as(key, "rename_user", json!({"user": user, "to": to}));
    let done = eventually("the installation may retire ids", || async {
        let answer = renamed().await;
        (answer.status != 409 || answer.code() != "not_ready").then_some(answer)
    });
    done.await.ok();
}

/// Waits for the error that names a conversation which has another id.
async fn loses(person: &mut Person, conversation: &str) {
    let Reply::Error(failure) = in_time("an error", person.receives_reply()).await else {
        panic!("an error")
    };
    assert_eq!(failure.code.as_str(), "not_found");
    assert_eq!(failure.conversation.as_ref().map(|id| id.as_str()), Some(conversation));
}

/// Asserts that the id `bob`, which was replaced, is refused by each call, and that a token for it is, too.
async fn finds_no_use_for_the_old_id(server: &Server, key: &str, token: &str) {
    for (call, body) in [
        ("send", json!({"as": "alice", "to": "@bob", "text": "x"})),
        ("send", json!({"as": "alice", "to": "@alice:bob", "text": "x"})),
        ("send", json!({"as": "bob", "to": "@alice", "text": "x"})),
        ("send", json!({"as": "carol", "to": "@bob", "text": "x"})),
        ("create", json!({"as": "alice", "room": "s", "members": ["bob"]})),
        ("create", json!({"as": "bob", "room": "s"})),
        ("invite", json!({"as": "alice", "conversation": "#r", "user": "bob"})),
        ("history", json!({"as": "bob", "conversation": "#r"})),
        ("profiles", json!({"profiles": [{"user": "carol", "name": "C"}, {"user": "bob", "name": "B"}]})),
        ("revoke", json!({"user": "bob"})),
        ("rename_user", json!({"user": "bob", "to": "bert"})),
    ] {
        let answer = server.posts_as(key, call, body.clone()).await;
        assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"), "{call} {body}");
    }
    assert_eq!(server.posts_as(token, "ping", json!({})).await.code(), "unauthorized");
    let mut socket = RawSocket::connect(server.address()).await;
    socket.upgrades().await;
    let hello = format!(r#"{{"type":"hello","token":"{token}"}}"#);
    assert_eq!(socket.is_refused(&hello).await.0, "unauthorized");
    assert_eq!(socket.is_closed().await, CloseCode::Unauthorized.number());
}

#[tokio::test]
async fn everything_shows_the_new_id_and_the_old_one_is_good_for_nothing() {
    let mut server = Server::start_with_auth().await;
    let key = admin(&server);
    let (mut alice, mut bob) = (server.connects("alice").await, server.connects("bob").await);
    alice.makes_room("r", &["bob"]).await;
    bob.receives_event().await;
    alice.says("@bob", "hi").await;
    bob.receives_message("hi").await;
    bob.says_with_key("@alice", "k1", "hello").await;
    alice.receives_message("hello").await;
    bob.says("@bob", "a note").await;
    bob.says("#r", "in the room").await;
    alice.receives_message("in the room").await;
    bob.does("react", json!({"conversation": "#r", "target": 2, "emoji": "👍", "on": true})).await;
    alice.receives_event().await;
    server
        .posts_as(&key, "profiles", json!({"profiles": [{"user": "bob", "name": "Bob Builder"}]}))
        .await
        .ok();
    let token = server.token("bob", Duration::from_secs(600));
    renames(&server, &key, "bob", "robert").await;

    assert_eq!(bob.is_closed().await, Some(CloseCode::Revoked.number()));
    loses(&mut alice, "@alice:bob").await;
    let list: Vec<_> = alice.conversations().await.iter().map(|one| one.conversation.to_string()).collect();
    assert!(
        list.contains(&"@alice:robert".to_owned()) && !list.contains(&"@alice:bob".to_owned()),
        "{list:?}"
    );
    let history = alice.history("@robert").await;
    assert_eq!(history.iter().map(|one| one.from.as_str()).collect::<Vec<_>>(), ["alice", "robert"]);
    let members = alice.members("#r").await;
    assert!(members.iter().any(|one| one.user.as_str() == "robert"), "{members:?}");
    let reacted = alice.message_in_history("#r", 2).await;
    assert_eq!((reacted.from.as_str(), reacted.reactions["👍"][0].as_str()), ("robert", "robert"));
    let log = alice.log("#r").await;
    assert!(!serde_json::to_string(&log).expect("JSON").contains("\"bob\""), "{log:?}");
    let found = alice.does("find_users", json!({"query": "builder"})).await;
    assert!(serde_json::to_string(&found).expect("JSON").contains("robert"), "{found:?}");
    let found = alice.does("find_users", json!({"query": "bob"})).await;
    assert!(serde_json::to_string(&found).expect("JSON").contains("robert"), "by the name: {found:?}");

    finds_no_use_for_the_old_id(&server, &key, &token).await;

    let mut robert = server.connects("robert").await;
    let again = robert.says_with_key("@alice", "k1", "hello").await;
    assert_eq!((again.seq, again.duplicate), (2, true), "the keys of messages stay");
    robert.says("@alice", "it is me").await;
    let event = alice.receives_message("it is me").await;
    assert_eq!((event.conversation.as_str(), event.from.as_str()), ("@alice:robert", "robert"));
    let feed = server
        .posts_as(&key, "feed", json!({"after": "0", "types": ["audit.rename"], "wait": 10_000}))
        .await
        .ok();
    let entry = &feed["entries"][0];
    assert_eq!(
        (&entry["user"], &entry["before"], &entry["via"]),
        (&json!("robert"), &json!("bob"), &json!("admin"))
    );
    let feed = server.posts_as(&key, "feed", json!({"after": "0", "types": ["message"]})).await.ok();
    assert!(!feed.to_string().contains("\"bob\""), "{feed}");
    assert_check_finds_no_problem_after_a_stop(&mut server).await;
}

#[tokio::test]
async fn an_id_is_never_given_again() {
    let server = Server::start_with_auth().await;
    let key = admin(&server);
    for user in ["alice", "bob"] {
        server.posts_as(&key, "send", json!({"as": user, "to": "@carol", "text": "hi"})).await.ok();
    }
    renames(&server, &key, "bob", "robert").await;
    renames(&server, &key, "bob", "robert").await;
    for (body, status, code, field) in [
        (json!({"user": "alice", "to": "bob"}), 409, "already_exists", json!("to")),
        (json!({"user": "alice", "to": "robert"}), 409, "already_exists", json!("to")),
        (json!({"user": "robert", "to": "bob"}), 409, "already_exists", json!("to")),
        (json!({"user": "alice", "to": "alice"}), 400, "bad_field", json!("to")),
        (json!({"user": "alice", "to": "@al"}), 400, "bad_field", json!("to")),
        (json!({"user": "nobody", "to": "noone"}), 404, "not_found", Value::Null),
        (json!({"user": "alice"}), 400, "bad_field", json!("to")),
    ] {
        let answer = server.posts_as(&key, "rename_user", body.clone()).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body}");
        assert_eq!(answer.json()["field"], field, "{body}");
    }
    renames(&server, &key, "robert", "bert").await;
    let list = server.posts_as(&key, "list_users", json!({})).await.ok();
    let users: Vec<_> =
        list["users"].as_array().expect("a list").iter().map(|one| one["user"].as_str()).collect();
    assert_eq!(users, [Some("alice"), Some("carol"), Some("bert")]);
    let list = server.posts_as(&key, "conversations", json!({"as": "carol"})).await.ok();
    assert!(list.to_string().contains("@bert:carol"), "{list}");
    let some = key_with(&server, "some", |key| for_shop_users(key.with_scopes([Scope::Admin])));
    let answer = server.posts_as(&some, "rename_user", json!({"user": "alice", "to": "shop-1"})).await;
    assert_eq!(answer.code(), "forbidden");
}

#[tokio::test]
async fn a_writer_that_has_cached_a_user_writes_under_the_new_id() {
    let server = Server::start_with_auth().await;
    let key = admin(&server);
    let mut alice = server.connects("alice").await;
    for n in 0..20 {
        let (old, new) = (format!("old_{n}"), format!("new_{n}"));
        alice.says(&format!("@{old}"), "before").await;
        renames(&server, &key, &old, &new).await;
        assert_eq!(
            alice.is_refused("send", json!({"to": format!("@{old}"), "text": "x"})).await.as_str(),
            "not_found"
        );
        assert_eq!(alice.stores("send", json!({"to": format!("@{new}"), "text": "after"})).await.seq, 2);
    }
}

#[tokio::test]
async fn a_user_is_renamed_while_others_write_to_them() {
    let server = Server::start_with_auth().await;
    let key = admin(&server);
    let senders = (0..8).map(|sender| {
        let (server, key) = (&server, &key);
        async move {
            for n in 0..30 {
                let to = if n % 2 == 0 { "@bob" } else { "@robert" };
                let body = json!({"as": format!("s{sender}_{n}"), "to": to, "text": "hi"});
                let _ = server.posts_as(key, "send", body).await;
            }
        }
    });
    server.posts_as(&key, "send", json!({"as": "bob", "to": "@bob", "text": "a note"})).await.ok();
    let renaming = async {
        // `robert` may have been written to before, and then has been used.
        let answer = server.posts_as(&key, "rename_user", json!({"user": "bob", "to": "bert"})).await;
        assert!(answer.status == 200 || answer.code() == "not_ready", "{answer:?}");
        answer.status == 200
    };
    let (_, renamed) = tokio::join!(futures_util::future::join_all(senders), renaming);
    let rooms = server.posts_as(&key, "conversations", json!({"as": "bert", "limit": 500})).await.ok();
    assert!(!renamed || !rooms.to_string().contains("bob:"), "{rooms}");
}

#[tokio::test]
async fn a_rename_reaches_every_node() {
    let cluster = Cluster::start(2).await;
    let (mut alice, mut bob) =
        (cluster.node(1).connects("alice").await, cluster.node(1).connects("bob").await);
    alice.says("@bob", "hi").await;
    bob.receives_message("hi").await;
    let key = admin(cluster.node(0));
    renames(cluster.node(0), &key, "bob", "robert").await;
    assert_eq!(in_time("bob is closed", bob.is_closed()).await, Some(CloseCode::Revoked.number()));
    loses(&mut alice, "@alice:bob").await;
    cluster.node(0).posts("send", json!({"as": "robert", "to": "@alice", "text": "me"})).await.ok();
    let event = alice.receives_event().await;
    assert_eq!((text_of(&event), event.conversation.as_str()), (Some("me"), "@alice:robert"));
    assert_eq!(alice.is_refused("send", json!({"to": "@bob", "text": "x"})).await.as_str(), "not_found");
}

#[tokio::test]
async fn without_a_bus_the_next_sweep_closes_the_connections_of_a_renamed_user() {
    let cluster = Cluster::start_on(SharedEngines::without_bus().await, 2, |config| {
        if let Some(cluster) = &mut config.cluster {
            cluster.settings.sweep = Duration::from_millis(300);
        }
    })
    .await;
    let mut bob = cluster.node(1).connects("bob").await;
    bob.says("@alice", "hi").await;
    let key = admin(cluster.node(0));
    renames(cluster.node(0), &key, "bob", "robert").await;
    assert_eq!(in_time("bob is closed", bob.is_closed()).await, Some(CloseCode::Revoked.number()));
}
