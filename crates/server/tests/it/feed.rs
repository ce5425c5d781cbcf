//! The feed over HTTP.

mod rows;

use std::time::Duration;

use serde_json::{Value, json};
use switchboard_store::grant::Scope;
use switchboard_store::keys::{self, NewKey};

use crate::keys::{for_shop_users, key_with};
use crate::support::{Answer, Server, in_time};

/// A server and a key that reads the feed.
async fn server() -> (Server, String) {
    let server = Server::start_with_auth().await;
    let key = key_with(&server, "reader", |key| key.with_scopes([Scope::Feed]));
    (server, key)
}

async fn reads(server: &Server, key: &str, body: Value) -> Value {
    in_time("a page", server.posts_as(key, "feed", body)).await.ok()
}

/// Reads entries of these types until there are `count`, and returns them with the cursor after them.
async fn reads_on(
    server: &Server,
    key: &str,
    after: &str,
    types: &[&str],
    count: usize,
) -> (Vec<Value>, String) {
    let (mut entries, mut after) = (Vec::new(), after.to_owned());
    while entries.len() < count {
        let page = reads(server, key, json!({"after": after, "types": types, "wait": 10_000})).await;
        entries.extend(page["entries"].as_array().expect("entries").iter().cloned());
        after = page["next"].as_str().expect("a cursor").to_owned();
    }
    assert_eq!(entries.len(), count);
    (entries, after)
}

fn texts(entries: &[Value]) -> Vec<&str> {
    entries.iter().filter_map(|entry| entry["event"]["text"].as_str()).collect()
}

#[tokio::test]
async fn a_consumer_reads_on_from_its_cursor() {
    let (server, key) = server().await;
    let mut alice = server.connects("alice").await;
    let now = reads(&server, &key, json!({"after": "now"})).await;
    assert_eq!((now["entries"].clone(), now["more"].clone()), (json!([]), json!(false)));
    alice.says("@bob", "one").await;
    alice.says("@carol", "two").await;
    let now = now["next"].as_str().expect("a cursor");
    let (entries, after) = reads_on(&server, &key, now, &["message"], 2).await;
    assert_eq!(texts(&entries), ["one", "two"]);
    let (first, second) = (&entries[0], &entries[1]);
    assert_eq!(first["event"]["from"], "alice");
    assert_eq!(first["at"], first["event"]["at"]);
    assert_ne!(first["id"], second["id"]);
    let (again, _) = reads_on(&server, &key, first["id"].as_str().expect("an id"), &["message"], 1).await;
    assert_eq!(again[0], *second, "an id is a cursor");
    let empty = reads(&server, &key, json!({"after": after})).await;
    assert_eq!(empty["next"], after.as_str());
}

#[tokio::test]
async fn a_waiting_call_is_answered_by_the_next_entry_and_when_the_server_stops() {
    let (mut server, key) = server().await;
    let mut alice = server.connects("alice").await;
    let body = json!({"after": "now", "types": ["message"], "wait": 25_000});
    let url = server.asks("POST", "/v1/feed").bearer_auth(&key).json(&body);
    let mut waiting = std::pin::pin!(Answer::to(url));
    // The call waits from some moment on; a message that came before it is not one for it.
    let answered = in_time("an answer", async {
        for n in 0.. {
            alice.says("@bob", &n.to_string()).await;
            if let Ok(answered) = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await {
                return answered.ok();
            }
        }
        unreachable!("it waits for ever")
    })
    .await;
    assert_eq!(answered["entries"].as_array().map(Vec::len), Some(1), "{answered}");
    let mut waiting = fills_up(&server, &key).await;
    server.begin_shutdown();
    while let Some(stopped) = in_time("an answer of a stopping server", waiting.join_next()).await {
        assert_eq!(stopped.expect("no panic").ok()["entries"], json!([]));
    }
}

/// Starts calls until no more may wait. The others wait then.
async fn fills_up(server: &Server, key: &str) -> tokio::task::JoinSet<Answer> {
    let body = json!({"after": "now", "types": ["message"], "wait": 25_000});
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..17 {
        waiting.spawn(Answer::to(server.asks("POST", "/v1/feed").bearer_auth(key).json(&body)));
    }
    let refused = in_time("the limit", waiting.join_next()).await.expect("one is refused").expect("no panic");
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
    waiting
}

#[tokio::test]
async fn calls_that_cannot_be_answered_are_refused_with_the_field() {
    let (server, key) = server().await;
    for (body, status, code, field) in [
        (json!({}), 400, "bad_field", "after"),
        (json!({"after": 0}), 400, "bad_field", "after"),
        (json!({"after": "0", "limit": 0}), 400, "bad_field", "limit"),
        (json!({"after": "0", "limit": 501}), 400, "bad_field", "limit"),
        (json!({"after": "0", "wait": 25_001}), 400, "bad_field", "wait"),
        (json!({"after": "0", "types": vec!["x"; 65]}), 413, "too_large", "types"),
        (json!({"after": "0", "as": "alice"}), 400, "bad_field", "as"),
    ] {
        let answer = server.posts_as(&key, "feed", body.clone()).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body}: {answer:?}");
        assert_eq!(answer.json()["field"], field, "{body}");
    }
    for after in ["", "x", "1", "00000000-1", "a-b-1"] {
        let answer = server.posts_as(&key, "feed", json!({"after": after})).await;
        assert_eq!(answer.code(), "bad_cursor", "{after}");
    }
    let strange = server.posts_as(&key, "feed", json!({"after": "00000000-1"})).await.json();
    let newest = reads(&server, &key, json!({"after": "now"})).await["next"].clone();
    assert_eq!(strange["newest"], newest);
    let oldest = strange["oldest"].as_str().expect("a cursor");
    reads(&server, &key, json!({"after": oldest})).await;
}

#[tokio::test]
async fn a_key_has_few_waiting_calls_and_a_revoked_one_gets_nothing() {
    let (server, key) = server().await;
    let mut waiting = fills_up(&server, &key).await;
    keys::revoke(&server.keys(), "reader").expect("the database").expect("the key");
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "a secret").await;
    while let Some(answer) = in_time("an answer", waiting.join_next()).await {
        let answer = answer.expect("no panic");
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"), "{answer:?}");
        assert!(!answer.text.contains("a secret"));
    }
}

#[tokio::test]
async fn the_audit_log_and_addresses_need_the_scope_admin() {
    let (server, reader) = server().await;
    let admin = key_with(&server, "admin", |key| key.with_scopes([Scope::Admin]));
    server.posts_as(&admin, "revoke", json!({"user": "alice"})).await.ok();
    let types = ["audit.revoke", "audit.key"];
    // Two keys were created, and one user was logged out.
    let (entries, _) = reads_on(&server, &admin, "0", &types, 3).await;
    let mut seen: Vec<_> =
        entries.iter().map(|entry| (entry["type"].clone(), entry["via"].clone())).collect();
    seen.sort_by_key(|(kind, _)| kind.to_string());
    let cli = (json!("audit.key"), json!("cli"));
    assert_eq!(seen, [cli.clone(), cli, (json!("audit.revoke"), json!("admin"))]);
    let revoked = entries.iter().find(|entry| entry["type"] == "audit.revoke").expect("one");
    assert_eq!((&revoked["user"], &revoked["address"]), (&json!("alice"), &json!("127.0.0.1")));
    let created = entries.iter().find(|entry| entry["type"] == "audit.key").expect("one");
    assert_eq!((&created["action"], &created["key"]), (&json!("create"), &json!("reader")));
    let refused = server.posts_as(&reader, "feed", json!({"after": "0", "types": types})).await;
    assert_eq!((refused.status, refused.json()["permission"].clone()), (403, json!("admin")));
    let page = reads(&server, &reader, json!({"after": "0"})).await;
    assert!(!page.to_string().contains("audit.") && !page.to_string().contains("address"), "{page}");
}

#[tokio::test]
async fn a_stream_sends_entries_with_their_ids_and_goes_on_from_the_last() {
    let (server, key) = server().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "one").await;
    let request = server.asks("GET", "/v1/feed?after=0&types=message").bearer_auth(&key);
    let request = request.header("accept", "text/event-stream");
    let mut stream = request.try_clone().expect("a copy").send().await.expect("a stream");
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let first = next_entry(&mut stream).await;
    assert_eq!(first["event"]["text"], "one");
    alice.says("@bob", "two").await;
    let second = next_entry(&mut stream).await;
    assert_eq!(second["event"]["text"], "two");
    drop(stream);
    let again = request.header("last-event-id", first["id"].as_str().expect("an id"));
    let mut stream = again.send().await.expect("a stream");
    assert_eq!(next_entry(&mut stream).await, second);
    let wrong = server.asks("GET", "/v1/feed").bearer_auth(&key).header("accept", "text/event-stream");
    let wrong = server.request(wrong.header("last-event-id", "00000000-1")).await;
    assert_eq!(wrong.code(), "bad_cursor");
}

/// The next entry of a stream. Asserts that its id is that of the event.
async fn next_entry(stream: &mut reqwest::Response) -> Value {
    let mut text = String::new();
    in_time("an entry", async {
        loop {
            let chunk = stream.chunk().await.expect("readable").expect("the stream goes on");
            text.push_str(std::str::from_utf8(&chunk).expect("text"));
            let event = text.split("\n\n").find_map(|event| event.split_once("\ndata: "));
            if let Some((id, data)) = event {
                let entry: Value = serde_json::from_str(data).expect("JSON");
                assert_eq!(id, format!("id: {}", entry["id"].as_str().expect("an id")));
                return entry;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_key_with_a_pattern_and_without_text_reads_only_that() {
    let (server, _) = server().await;
    let key = key_with(&server, "shop", |key| NewKey {
        no_text: true,
        ..for_shop_users(key.with_scopes([Scope::Feed]))
    });
    let (mut alice, mut shop) = (server.connects("alice").await, server.connects("shop-1").await);
    alice.says("@bob", "between others").await;
    shop.says("@bob", "of the shop").await;
    let (entries, _) = reads_on(&server, &key, "0", &["message"], 1).await;
    assert_eq!(entries[0]["event"]["from"], "shop-1");
    assert!(entries[0]["event"].get("text").is_none());
}

/// What a consumer has on its disk: the entries that it has handled, and its cursor.
#[derive(Default)]
struct Disk {
    handled: Vec<Value>,
    cursor: Option<String>,
}

#[tokio::test]
async fn a_consumer_that_is_killed_200_times_misses_nothing_and_keeps_the_order() {
    let (mut server, key) = server().await;
    let mut random = fastrand::Rng::with_seed(17);
    let (mut disk, mut sent) = (Disk::default(), 0);
    for round in 0..4 {
        let mut writers = [server.connects("alice").await, server.connects("bob").await];
        for _ in 0..50 {
            for writer in &mut writers {
                writer.says(["@carol", "@dave"][random.usize(..2)], &sent.to_string()).await;
                sent += 1;
            }
            let after = disk.cursor.clone().unwrap_or_else(|| "0".to_owned());
            let body = json!({"after": after, "types": ["message"], "limit": random.u32(1..=8)});
            let page = reads(&server, &key, body).await;
            let entries = page["entries"].as_array().expect("entries");
            // It is killed after it has handled some of the page, and mostly before its cursor is on its disk.
            disk.handled.extend(entries.iter().take(random.usize(..=entries.len())).cloned());
            if disk.handled.last() == entries.last() && random.bool() {
                disk.cursor = page["next"].as_str().map(str::to_owned);
            }
        }
        drop(writers);
        if round % 2 == 0 {
            server.restart().await;
        }
    }
    let after = disk.cursor.clone().unwrap_or_else(|| "0".to_owned());
    let mut first = std::collections::BTreeMap::new();
    let mut by_conversation = std::collections::BTreeMap::<String, Vec<u64>>::new();
    let (mut after, mut more) = (after, true);
    while more {
        let page = reads(&server, &key, json!({"after": after, "types": ["message"]})).await;
        disk.handled.extend(page["entries"].as_array().expect("entries").iter().cloned());
        after = page["next"].as_str().expect("a cursor").to_owned();
        more = page["more"] == true;
    }
    for entry in &disk.handled {
        let id = entry["id"].as_str().expect("an id").to_owned();
        let seen = first.entry(id).or_insert_with(|| {
            let conversation = entry["event"]["conversation"].as_str().expect("a conversation");
            let seqs = by_conversation.entry(conversation.to_owned()).or_default();
            seqs.push(entry["event"]["seq"].as_u64().expect("a seq"));
            entry.clone()
        });
        assert_eq!(seen, entry, "an entry is the same whenever it is read");
    }
    assert_eq!(first.len(), sent, "none is missing");
    for (conversation, seqs) in by_conversation {
        assert!(seqs.iter().copied().eq(1..=seqs.len() as u64), "{conversation}: {seqs:?}");
    }
}

#[tokio::test]
async fn a_new_epoch_refuses_the_cursors_of_before() {
    let (mut server, key) = server().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "one").await;
    let (_, after) = reads_on(&server, &key, "0", &["message"], 1).await;
    drop(alice);
    server.begin_shutdown();
    server.wait_until_stopped().await;
    keys::begin_feed_epoch(&server.keys()).expect("the database");
    server.start_again().await;
    let refused = server.posts_as(&key, "feed", json!({"after": after})).await;
    assert_eq!(refused.code(), "bad_cursor");
    let (entries, _) = reads_on(&server, &key, "0", &["message"], 1).await;
    assert_eq!(texts(&entries), ["one"]);
}

#[tokio::test]
async fn entries_after_a_missing_page_keep_their_ids() {
    let (mut server, key) = server().await;
    for round in 0..3 {
        let mut alice = server.connects("alice").await;
        for n in 0..3 {
            alice.says("@bob", &format!("{round}.{n}")).await;
        }
        drop(alice);
        // A server that stops leaves a page.
        server.restart().await;
    }
    let before = reads(&server, &key, json!({"after": "0", "types": ["message"]})).await;
    server.begin_shutdown();
    server.wait_until_stopped().await;
    rows::delete_second_page(&server);
    server.start_again().await;
    let after = reads(&server, &key, json!({"after": "0", "types": ["message"]})).await;
    let entries = before["entries"].as_array().expect("entries");
    let expected: Vec<_> = entries
        .iter()
        .filter(|entry| !entry["event"]["text"].as_str().is_some_and(|text| text.starts_with("1.")))
        .cloned()
        .collect();
    assert_eq!(after["entries"], json!(expected));
    assert_eq!(after["next"], before["next"]);
}
