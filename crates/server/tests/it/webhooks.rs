//! Webhooks: a real server sends to a real endpoint.

mod book;
mod lanes;
mod listen;
pub(crate) mod nodes;
mod rows;
pub(crate) mod run;
mod targets;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use switchboard::config::{Config, Secret, WebhooksConfig};
use switchboard_protocol::Timestamp;
use switchboard_store::clock::Clock;
use switchboard_store::grant::Scope;
use switchboard_store::keys::{self, NewKey};
use switchboard_store::webhooks::{NewWebhook, Webhooks};

use crate::keys::key_with;
use crate::support::{
    Cluster, Process, Received, Receiver, Reply, Server, SharedEngines, eventually, in_time,
};

const SECRET: &str = "a secret of the webhooks that is long enough";

fn with_webhooks(config: &mut Config) {
    config.webhooks = Some(WebhooksConfig::new(Secret::new(SECRET).expect("long enough")));
}

/// A server with webhooks, and a key that may change them.
async fn server() -> (Server, String) {
    let server = Server::start_with_auth_and(with_webhooks).await;
    let key = key_with(&server, "admin", |key| key.with_scopes([Scope::Admin]));
    (server, key)
}

/// Adds a webhook for messages, and returns its secret.
async fn adds(server: &Server, key: &str, receiver: &Receiver) -> String {
    let body = json!({"name": "shop", "url": receiver.url(), "types": ["message"], "from": "0"});
    let added = server.posts_as(key, "add_webhook", body).await.ok();
    added["secret"].as_str().expect("a secret").to_owned()
}

async fn listed(server: &Server, key: &str) -> Value {
    server.posts_as(key, "list_webhooks", json!({})).await.ok()["webhooks"][0].clone()
}

/// Waits until the list shows something.
async fn listed_when(server: &Server, key: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || {
        let webhook = listed(server, key).await;
        is(&webhook).then_some(webhook)
    })
    .await
}

/// Verifies a signature with a secret as Standard Webhooks describe it.
fn is_signed(received: &Received, secret: &str) -> bool {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").expect("the prefix")).expect("base64");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key");
    mac.update(format!("{}.{}.{}", received.id, received.timestamp, received.body).as_bytes());
    let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    received.signature.split(' ').any(|signature| signature == expected)
}

fn by_conversation(received: &[Received]) -> BTreeMap<String, Vec<u64>> {
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for request in received {
        let event = &request.json()["data"]["event"];
        let conversation = event["conversation"].as_str().expect("a conversation").to_owned();
        all.entry(conversation).or_default().push(event["seq"].as_u64().expect("a seq"));
    }
    all
}

#[tokio::test]
async fn an_endpoint_gets_every_entry_once_signed_and_in_order() {
    let ((server, key), mut receiver) = (server().await, Receiver::start().await);
    let secret = adds(&server, &key, &receiver).await;
    let mut alice = server.connects("alice").await;
    for n in 0..30 {
        alice.says(["@bob", "@carol", "@dave"][n % 3], &n.to_string()).await;
    }
    let received = receiver.take(30).await;
    assert!(received.iter().all(|request| is_signed(request, &secret)));
    for (conversation, seqs) in by_conversation(&received) {
        assert_eq!(seqs, (1..=10).collect::<Vec<_>>(), "{conversation}");
    }
    let first = received[0].json();
    assert_eq!((&first["type"], &first["data"]["id"]), (&json!("message"), &json!(received[0].id)));
    assert_eq!(first["timestamp"], first["data"]["at"]);
    let is_done = |webhook: &Value| {
        webhook["lag"] == 0 && webhook["answers"].as_array().is_some_and(|answers| answers.len() == 30)
    };
    let webhook = listed_when(&server, &key, "the position", is_done).await;
    assert_eq!(webhook["answers"][0]["status"], 204);
    assert!(receiver.rest().is_empty(), "each once");
    assert!(
        server.metric("switchboard_webhook_requests_total{webhook=\"shop\",result=\"taken\"}").await >= 30.0
    );
}

#[tokio::test]
async fn an_endpoint_at_fault_gets_one_request_at_a_time_and_then_everything() {
    for status in [302, 408, 429, 500] {
        let ((server, key), mut receiver) = (server().await, Receiver::start().await);
        receiver.answers_with(status);
        let mut alice = server.connects("alice").await;
        for n in 0..20 {
            alice.says(&format!("@u{n}"), "hi").await;
        }
        adds(&server, &key, &receiver).await;
        let failing = |webhook: &Value| {
            webhook["next_try"].is_string()
                && webhook["answers"].as_array().is_some_and(|answers| answers.len() == 9)
        };
        let webhook = listed_when(&server, &key, "the fault", failing).await;
        assert_eq!(webhook["answers"][8]["status"], status);
        // Eight at a time until the first failed, and then one that was tried at once.
        assert_eq!(receiver.rest().len(), 9, "{status}");
        receiver.answers_with(200);
        server.posts_as(&key, "resume_webhook", json!({"name": "shop"})).await.ok();
        let received = receiver.take(20).await;
        assert_eq!(by_conversation(&received).len(), 20, "{status}: none is lost");
        listed_when(&server, &key, "the end", |webhook| {
            webhook["failing_since"].is_null() && webhook["lag"] == 0
        })
        .await;
    }
}

#[tokio::test]
async fn an_entry_that_is_refused_holds_its_conversation_and_no_other() {
    let ((mut server, key), mut receiver) = (server().await, Receiver::start().await);
    receiver.answers(|request| Reply::Status(if request.text() == "bad" { 400 } else { 200 }));
    adds(&server, &key, &receiver).await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "bad").await;
    assert_eq!(receiver.next().await.text(), "bad");
    alice.says("@bob", "behind").await;
    alice.says("@carol", "another").await;
    assert_eq!(receiver.next().await.text(), "another");
    let webhook = listed_when(&server, &key, "both are held", |webhook| {
        webhook["held"].as_array().is_some_and(|held| held.len() == 2)
    })
    .await;
    assert_eq!(webhook["failing_since"], Value::Null, "the endpoint is not at fault");
    // What is held survives a restart, and goes in order once the endpoint takes it.
    receiver.answers_with(200);
    server.restart().await;
    let texts: Vec<_> = receiver.take(2).await.iter().map(Received::text).collect();
    assert_eq!(texts, ["bad", "behind"]);
    listed_when(&server, &key, "nothing is held", |webhook| webhook["held"] == json!([])).await;
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_paused_until_it_is_resumed() {
    let ((server, key), mut receiver) = (server().await, Receiver::start().await);
    receiver.answers_with(410);
    adds(&server, &key, &receiver).await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "hi").await;
    let gone = receiver.next().await;
    let webhook = listed_when(&server, &key, "the pause", |webhook| webhook["paused"].is_string()).await;
    assert!(webhook["paused"].as_str().is_some_and(|why| why.contains("410")));
    receiver.answers_with(200);
    server.posts_as(&key, "resume_webhook", json!({"name": "shop"})).await.ok();
    assert_eq!(receiver.next().await.id, gone.id, "the same id for every try");
}

#[tokio::test]
async fn an_endpoint_that_hangs_delays_no_other() {
    let ((server, key), mut hanging) = (server().await, Receiver::start().await);
    hanging.answers(|_| Reply::Hang);
    adds(&server, &key, &hanging).await;
    let mut other = Receiver::start().await;
    let body = json!({"name": "other", "url": other.url(), "types": ["message"]});
    server.posts_as(&key, "add_webhook", body).await.ok();
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "one").await;
    hanging.next().await;
    alice.says("@bob", "two").await;
    while other.next().await.text() != "two" {}
}

#[tokio::test]
async fn a_secret_that_is_rotated_signs_beside_the_one_before() {
    let ((server, key), mut receiver) = (server().await, Receiver::start().await);
    let old = adds(&server, &key, &receiver).await;
    let body = json!({"name": "shop", "overlap": 3_600_000});
    let new = server.posts_as(&key, "rotate_webhook", body).await.ok();
    let new = new["secret"].as_str().expect("a secret");
    assert_ne!(new, old);
    let mut alice = server.connects("alice").await;
    let received = in_time("both secrets sign", async {
        loop {
            alice.says("@bob", "hi").await;
            let received = receiver.next().await;
            if is_signed(&received, new) {
                break received;
            }
        }
    })
    .await;
    assert!(is_signed(&received, &old));
}

#[tokio::test]
async fn entries_are_sent_again_from_a_cursor() {
    let ((server, key), mut receiver) = (server().await, Receiver::start().await);
    adds(&server, &key, &receiver).await;
    let mut alice = server.connects("alice").await;
    for n in 0..3 {
        alice.says("@bob", &n.to_string()).await;
    }
    let received = receiver.take(3).await;
    listed_when(&server, &key, "the position", |webhook| webhook["lag"] == 0).await;
    let body = json!({"name": "shop", "from": received[0].id});
    server.posts_as(&key, "replay_webhook", body).await.ok();
    let again: Vec<_> = receiver.take(2).await.into_iter().map(|request| request.id).collect();
    assert_eq!(again, [received[1].id.clone(), received[2].id.clone()]);
    server.posts_as(&key, "remove_webhook", json!({"name": "shop"})).await.ok();
    assert_eq!(listed(&server, &key).await, Value::Null);
}

#[tokio::test]
async fn a_webhook_is_paused_when_its_key_is_revoked() {
    let ((server, key), mut receiver) = (server().await, Receiver::start().await);
    let maker = key_with(&server, "maker", |key| key.with_scopes([Scope::Admin]));
    adds(&server, &maker, &receiver).await;
    let other = json!({"name": "other", "url": receiver.url(), "types": ["user.profile"]});
    server.posts_as(&key, "add_webhook", other).await.ok();
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "before").await;
    receiver.next().await;
    assert_eq!(keys::revoke(&server.keys(), "maker").expect("the database"), Some(vec!["shop".to_owned()]));
    let list = || async { server.posts_as(&key, "list_webhooks", json!({})).await.ok()["webhooks"].clone() };
    let listed = list().await;
    assert_eq!((&listed[0]["paused"], &listed[0]["parent"]), (&Value::Null, &json!("admin")), "{listed}");
    assert_eq!(
        (&listed[1]["paused"], &listed[1]["parent"]),
        (&json!("its key was revoked"), &json!("maker"))
    );
    // Another key lets it go on, and has it from then on.
    server.posts_as(&key, "resume_webhook", json!({"name": "shop"})).await.ok();
    alice.says("@bob", "after").await;
    while !receiver.next().await.body.contains("after") {}
    assert_eq!(list().await[1]["parent"], "admin");
}

#[tokio::test]
async fn a_webhook_is_paused_when_its_key_expires() {
    let start = Clock::system().now().as_millis();
    let now = Arc::new(AtomicI64::new(start));
    let by = now.clone();
    let clock = Clock::from_fn(move || Timestamp::from_millis(by.load(Ordering::Relaxed)));
    let server = Server::start_with_auth_and_clock(clock, with_webhooks).await;
    let key = key_with(&server, "admin", |key| key.with_scopes([Scope::Admin]));
    let expires = Some(Timestamp::from_millis(start + 60_000));
    let maker = key_with(&server, "maker", |key| NewKey { expires, ..key.with_scopes([Scope::Admin]) });
    let mut receiver = Receiver::start().await;
    adds(&server, &maker, &receiver).await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "before").await;
    receiver.next().await;
    assert_eq!(listed(&server, &key).await["paused"], Value::Null);
    now.store(start + 60_000, Ordering::Relaxed);
    listed_when(&server, &key, "the pause", |webhook| webhook["paused"] == "its key has expired").await;
}

#[tokio::test]
async fn calls_about_webhooks_that_cannot_be_done_are_refused_with_the_field() {
    let server = Server::start_with_auth_and(|config| {
        with_webhooks(config);
        config.webhooks.as_mut().expect("webhooks").private = false;
    })
    .await;
    let key = key_with(&server, "admin", |key| key.with_scopes([Scope::Admin]));
    for url in [
        "http://shop.example/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://[64:ff9b::a00:1]/",
        "https://user:password@shop.example/",
        "shop.example",
    ] {
        let answer = server.posts_as(&key, "add_webhook", json!({"name": "a", "url": url})).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "bad_field"), "{url}: {answer:?}");
        assert_eq!(answer.json()["field"], "url", "{url}");
    }
    let good = "https://shop.example/";
    for (body, field) in [
        (json!({"name": "a b", "url": good}), "name"),
        (json!({"name": "a", "url": good, "from": "yesterday"}), "from"),
        (json!({"name": "a", "url": good, "headers": {"Host": "x"}}), "headers"),
        (json!({"name": "a", "url": good, "only": vec!["#"; 65]}), "only"),
    ] {
        let answer = server.posts_as(&key, "add_webhook", body.clone()).await;
        assert_eq!((answer.status, answer.json()["field"].as_str()), (400, Some(field)), "{body}");
    }
    let unknown = server.posts_as(&key, "pause_webhook", json!({"name": "a"})).await;
    assert_eq!((unknown.status, unknown.code().as_str()), (404, "not_found"));
}

#[tokio::test]
async fn a_killed_server_sends_again_what_it_had_not_recorded_with_the_same_id() {
    let data = tempfile::TempDir::new().expect("a directory");
    let secret = data.path().join("webhooks");
    std::fs::write(&secret, SECRET).expect("written");
    let secret = secret.to_str().expect("a path").to_owned();
    let settings = [("SWITCHBOARD_WEBHOOKS_SECRET_FILE", secret.as_str())];
    let mut receiver = Receiver::start().await;
    receiver.answers(|_| Reply::Hang);
    let process = Process::start_with_log(data.path(), &settings, Stdio::null()).await;
    let new = NewWebhook {
        name: "shop".to_owned(),
        settings: json!({"url": receiver.url(), "types": ["message"], "only": ["@alice:bob"]}).to_string(),
        epoch: String::new(),
        position: 0,
        parent: None,
    };
    let mut webhooks = Webhooks::open_directory(data.path()).expect("a database");
    assert!(webhooks.add(&new).expect("stored"));
    let mut alice = process.connects("alice").await;
    alice.says("@bob", "one").await;
    let first = receiver.next().await;
    alice.says("@bob", "two").await;
    process.kill().await;
    receiver.answers_with(200);
    let _process = Process::start_with_log(data.path(), &settings, Stdio::null()).await;
    let again = receiver.next().await;
    assert_eq!((&again.id, &again.body), (&first.id, &first.body));
    assert_eq!(receiver.next().await.text(), "two");
}

#[tokio::test]
async fn after_a_restore_from_a_backup_no_id_is_that_of_two_entries_and_nothing_is_lost() {
    let ((mut server, key), mut receiver) = (server().await, Receiver::start().await);
    adds(&server, &key, &receiver).await;
    let mut alice = server.connects("alice").await;
    let mut received = Vec::new();
    for text in ["one", "two"] {
        alice.says("@bob", text).await;
        received.push(receiver.next().await);
    }
    let is_done = |webhook: &Value| webhook["lag"] == 0 && webhook["position"] == received[1].id.as_str();
    listed_when(&server, &key, "the position", is_done).await;
    let place = tempfile::TempDir::new().expect("a directory");
    let copy = place.path().join("backup.db");
    let backup = tokio::process::Command::new(env!("CARGO_BIN_EXE_switchboard"))
        .args([Path::new("backup"), &copy, Path::new("--data"), server.data()])
        .stdout(Stdio::null())
        .status();
    assert!(backup.await.expect("it runs").success());
    alice.says("@bob", "not in the backup").await;
    received.push(receiver.next().await);
    server.begin_shutdown();
    server.wait_until_stopped().await;
    for name in ["switchboard.db", "switchboard.db-wal", "switchboard.db-shm"] {
        // SQLite may have removed the last two.
        let _ = std::fs::remove_file(server.data().join(name));
    }
    std::fs::copy(&copy, server.data().join("switchboard.db")).expect("copied");
    server.start_again().await;
    server.connects("alice").await.says("@bob", "after the restore").await;
    received.push(receiver.next().await);
    let texts: Vec<_> = received.iter().map(Received::text).collect();
    assert_eq!(texts, ["one", "two", "not in the backup", "after the restore"]);
    let ids: HashSet<_> = received.iter().map(|request| &request.id).collect();
    assert_eq!(ids.len(), received.len());
}

#[tokio::test]
async fn one_node_sends_and_another_goes_on_when_it_stops() {
    let shared = SharedEngines::new().await;
    let mut cluster = Cluster::start_on(shared, 2, with_webhooks).await;
    let mut receiver = Receiver::start().await;
    let body = json!({"name": "shop", "url": receiver.url(), "types": ["message"], "from": "0"});
    cluster.node(0).posts("add_webhook", body).await.ok();
    let mut alice = cluster.node(1).connects("alice").await;
    for n in 0..10 {
        alice.says("@bob", &n.to_string()).await;
    }
    let mut received = receiver.take(10).await;
    cluster.node_mut(0).begin_shutdown();
    cluster.node_mut(0).wait_until_stopped().await;
    for n in 10..20 {
        alice.says("@bob", &n.to_string()).await;
    }
    while received.last().is_none_or(|last| last.json()["data"]["event"]["seq"] != 20) {
        received.push(receiver.next().await);
    }
    // What was in flight at the stop may come again, with its id.
    let mut ids = HashSet::new();
    received.retain(|request| ids.insert(request.id.clone()));
    let seqs: Vec<_> = by_conversation(&received).into_values().flatten().collect();
    assert_eq!(seqs, (1..=20).collect::<Vec<_>>(), "in order, and again only with the same id");
}
