//! Held messages: on stable storage and not in the log, until a moderator releases or rejects them; and shadow bans, which hold
//! everything that a user sends.

use serde_json::{Value, json};
use switchboard::config::{Ask, Config, OnFailure};
use switchboard_protocol::reply::{OkBody, ServerFrame};
use switchboard_protocol::{ErrorCode, Event, Limits, Signal};
use switchboard_store::grant::Scope;
use switchboard_store::keys::NewKey;

use crate::bans::{Time, calls, nodes_at, server_at, wait_for_feature};
use crate::check::assert_check_finds_no_problem_after_a_stop;
use crate::keys::key_with;
use crate::support::{Application, Person, Server, SharedEngines, eventually, text_of};

const DAY_MS: i64 = 86_400_000;

/// Asks the application about messages.
fn asks_about_messages(config: &mut Config, application: &Application) {
    config.hooks = Some(application.hook(&[(Ask::Message, OnFailure::Refuse)]));
}

fn message(to: &str, key: &str, text: &str) -> Value {
    json!({"to": to, "key": key, "text": text})
}

/// Sends a message that the application holds. Returns the `ok`.
async fn is_held(person: &mut Person, application: &mut Application, message: Value) -> Value {
    let id = person.submits("send", message).await;
    application.is_asked().await.answers(json!({"action": "hold"}));
    answer(person, id).await
}

/// The answer to a command, without its id. There may be events before it.
async fn answer(person: &mut Person, id: i64) -> Value {
    let reply = loop {
        if let ServerFrame::Reply(reply) = person.next().await {
            break reply;
        }
    };
    let mut reply = serde_json::to_value(&reply).expect("JSON");
    assert_eq!(reply["id"], id, "{reply}");
    reply.as_object_mut().expect("an object").remove("id");
    reply
}

/// Sends a message again, which nobody is asked about. Returns the `ok` without its id.
async fn again(person: &mut Person, application: &mut Application, message: Value) -> Value {
    let id = person.submits("send", message).await;
    let reply = answer(person, id).await;
    application.is_not_asked();
    reply
}

async fn queue(server: &Server, bearer: &str, state: &str) -> Vec<Value> {
    let page = server.posts_as(bearer, "reports", json!({"state": state})).await.ok();
    page["reports"].as_array().expect("reports").clone()
}

/// The report of the held message with this text.
async fn report_of(server: &Server, bearer: &str, text: &str) -> String {
    let open = queue(server, bearer, "open").await;
    let found = open.iter().find(|report| report["snapshot"]["text"] == text);
    found.unwrap_or_else(|| panic!("{text} is not in {open:?}"))["report"].as_str().expect("an id").to_owned()
}

async fn decides(server: &Server, bearer: &str, report: &str, action: &str) {
    server.posts_as(bearer, "resolve", json!({"report": report, "action": action})).await.ok();
}

async fn texts(person: &mut Person, conversation: &str) -> Vec<String> {
    person.log(conversation).await.iter().filter_map(text_of).map(str::to_owned).collect()
}

/// Receives a message of alice, before which there may be other frames.
async fn receives_released(person: &mut Person, text: &str) -> Event {
    loop {
        if let ServerFrame::Event(event) = person.next().await
            && text_of(&event) == Some(text)
        {
            assert_eq!(event.from.as_str(), "alice");
            return event;
        }
    }
}

/// Keys of a moderator and an administrator.
struct Keys {
    moderator: String,
    admin: String,
}

impl Keys {
    fn new(server: &Server) -> Self {
        let with = |name: &str, scope| key_with(server, name, |key| key.with_scopes([scope]));
        Self { moderator: with("moderator", Scope::Moderate), admin: with("admin", Scope::Admin) }
    }
}

/// From hold to release and rejection, on any number of nodes.
async fn a_held_message_is_decided(nodes: &mut [Server], application: &mut Application, time: &Time) {
    let last = nodes.len() - 1;
    wait_for_feature(&nodes[last], "hold").await;
    let keys = Keys::new(&nodes[0]);
    let mut bob = nodes[last].connects("bob").await;
    let mut alice = nodes[0].connects("alice").await;
    bob.makes_room("r", &["alice"]).await;
    alice.receives_event().await;
    let mut devices = Vec::new();
    for node in nodes.iter() {
        devices.push(node.connects("alice").await);
    }
    let first = message("#r", "k1", "waits");
    let held = json!({"type": "ok", "conversation": "#r", "held": true});
    assert_eq!(is_held(&mut alice, application, first.clone()).await, held);

    // The key is taken on every node, and its message is nowhere but in the queue.
    let repeated = json!({"type": "ok", "conversation": "#r", "held": true, "duplicate": true});
    for device in &mut devices {
        assert_eq!(again(device, application, first.clone()).await, repeated);
        let other = again(device, application, message("#r", "k1", "another")).await;
        assert_eq!(other["code"], "key_conflict");
        let elsewhere = again(device, application, message("@bob", "k1", "waits")).await;
        assert_eq!(elsewhere["code"], "key_conflict");
    }
    bob.receives_nothing().await;
    let summary = bob.summary("#r").await;
    assert_eq!((summary.head.0, summary.unread), (1, 0));
    assert!(bob.history("#r").await.is_empty() && alice.history("#r").await.is_empty());
    let open = queue(&nodes[last], &keys.moderator, "open").await;
    assert_eq!(open.len(), 1, "stored once: {open:?}");
    assert_eq!(
        (&open[0]["held"], &open[0]["user"], &open[0]["conversation"], &open[0]["snapshot"]["text"]),
        (&json!(true), &json!("alice"), &json!("#r"), &json!("waits"))
    );
    assert_eq!((&open[0]["reporters"], open[0].get("target")), (&json!([]), None));
    the_feed_has_the_held_message(&nodes[0], &keys.admin, &open[0]["report"]).await;

    // It waits through a restart.
    drop((alice, devices, bob));
    for node in nodes.iter_mut() {
        node.restart().await;
    }
    wait_for_feature(&nodes[0], "hold").await;
    let mut alice = nodes[0].connects("alice").await;
    assert_eq!(again(&mut alice, application, first.clone()).await, repeated);
    let mut bob = nodes[last].connects("bob").await;
    released_to_all(nodes, (&mut alice, &mut bob), (application, &keys), first).await;
    rejected_for_good(nodes, (&mut alice, &mut bob), (application, &keys), time).await;
    let mut bob = nodes[last].connects("bob").await;
    assert_eq!(texts(&mut bob, "#r").await, ["waits"]);
}

/// A released message is an ordinary one at the end of the log, which all connections of its author get.
async fn released_to_all(
    nodes: &[Server],
    (alice, bob): (&mut Person, &mut Person),
    (application, keys): (&mut Application, &Keys),
    first: Value,
) {
    let report = report_of(&nodes[0], &keys.moderator, "waits").await;
    let resolve = |action: &str| json!({"report": report, "action": action});
    for wrong in ["none", "delete"] {
        let refused = nodes[0].posts_as(&keys.moderator, "resolve", resolve(wrong)).await;
        assert_eq!((refused.status, &refused.json()["field"]), (400, &json!("action")), "{wrong}");
    }
    decides(&nodes[0], &keys.moderator, &report, "claim").await;
    let mut devices = Vec::new();
    for node in nodes {
        devices.push(node.connects("alice").await);
    }
    decides(&nodes[nodes.len() - 1], &keys.moderator, &report, "release").await;
    for person in devices.iter_mut().chain([&mut *alice, &mut *bob]) {
        let event = receives_released(person, "waits").await;
        assert_eq!((event.seq.0, event.conversation.as_str()), (2, "#r"));
    }
    for device in &mut devices {
        let answer = again(device, application, first.clone()).await;
        assert_eq!(
            (&answer["seq"], &answer["duplicate"], answer.get("held")),
            (&json!(2), &json!(true), None)
        );
    }
    let twice = nodes[0].posts_as(&keys.moderator, "resolve", resolve("reject")).await;
    assert_eq!(twice.code(), "already_exists");
    assert_eq!(bob.summary("#r").await.unread, 1);
}

async fn the_feed_has_the_held_message(server: &Server, admin: &str, report: &Value) {
    let read = async || {
        let page =
            server.posts_as(admin, "feed", json!({"after": "0", "types": ["message.held"]})).await.ok();
        page["entries"].as_array().expect("entries").first().cloned()
    };
    let entry = eventually("the entry of the feed", read).await;
    assert_eq!(
        (&entry["user"], &entry["conversation"], &entry["report"], &entry["key"], entry.get("seq")),
        (&json!("alice"), &json!("#r"), report, &json!("k1"), None)
    );
    assert!(!entry.to_string().contains("waits"), "{entry}");
}

/// A rejected message is never stored, its key stays refused, and its content goes after 30 days.
async fn rejected_for_good(
    nodes: &mut [Server],
    (alice, bob): (&mut Person, &mut Person),
    (application, keys): (&mut Application, &Keys),
    time: &Time,
) {
    let second = message("#r", "k2", "rejected");
    is_held(alice, application, second.clone()).await;
    let report = report_of(&nodes[0], &keys.moderator, "rejected").await;
    let reject = json!({"report": report, "action": "reject", "tell": "Not here.", "note": "n"});
    nodes[0].posts_as(&keys.moderator, "resolve", reject).await.ok();
    let notice = loop {
        if let ServerFrame::Signal(signal @ Signal::Notice { .. }) = alice.next().await {
            break serde_json::to_value(signal).expect("JSON");
        }
    };
    let wanted = json!({"type": "notice", "action": "reject", "conversation": "#r", "text": "Not here."});
    assert_eq!(notice, wanted);
    for text in ["rejected", "another"] {
        assert_eq!(again(alice, application, message("#r", "k2", text)).await["code"], "refused");
    }
    bob.receives_nothing().await;
    time.moves(30 * DAY_MS);
    nodes[0].restart().await;
    wait_for_feature(&nodes[0], "hold").await;
    let mut alice = nodes[0].connects("alice").await;
    assert_eq!(again(&mut alice, application, second).await["code"], "refused");
    let done = queue(&nodes[0], &keys.moderator, "done").await;
    assert_eq!(done.len(), 2, "{done:?}");
    assert_eq!((&done[1]["held"], &done[1]["action"]), (&json!(true), &json!("reject")));
    time.moves(1);
    nodes[0].restart().await;
    eventually("the entries are removed", || async {
        queue(&nodes[0], &keys.moderator, "done").await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_held_message_is_decided_on_one_node() {
    let (time, mut application) = (Time::new(), Application::start().await);
    let mut nodes = vec![server_at(&time, |config| asks_about_messages(config, &application)).await];
    a_held_message_is_decided(&mut nodes, &mut application, &time).await;
    assert_check_finds_no_problem_after_a_stop(&mut nodes[0]).await;
}

#[tokio::test]
async fn a_held_message_is_decided_on_three_nodes() {
    let (time, shared, mut application) =
        (Time::new(), SharedEngines::new().await, Application::start().await);
    let mut nodes = nodes_at(&time, &shared, 3, |config| asks_about_messages(config, &application)).await;
    a_held_message_is_decided(&mut nodes, &mut application, &time).await;
}

/// What a moderator may decide about a held message whose author or conversation has changed since, on any store.
async fn a_release_is_checked_again(server: &Server, application: &mut Application) {
    wait_for_feature(server, "hold").await;
    let keys = Keys::new(server);
    let mut bob = server.connects("bob").await;
    let mut alice = server.connects("alice").await;
    let mut zoe = server.connects("zoe").await;
    bob.makes_room("r", &["alice"]).await;
    bob.makes_room("gone", &["alice"]).await;
    for _ in 0..2 {
        alice.receives_event().await;
    }
    for (to, text) in [("#r", "left"), ("#gone", "ended"), ("@zoe", "direct"), ("@zoe", "banned")] {
        is_held(&mut alice, application, message(to, text, text)).await;
    }
    assert!(zoe.conversations().await.is_empty(), "a held message begins no conversation");

    // A direct conversation begins with the release, also after its users have got other ids.
    calls(server, &keys.admin, "rename_user", json!({"user": "zoe", "to": "zara"})).await;
    let mut zara = server.connects("zara").await;
    let direct = report_of(server, &keys.moderator, "direct").await;
    let listed = queue(server, &keys.moderator, "open").await;
    assert!(listed.iter().any(|entry| entry["conversation"] == "@alice:zara"), "{listed:?}");
    decides(server, &keys.moderator, &direct, "release").await;
    for person in [&mut zara, &mut alice] {
        assert_eq!(receives_released(person, "direct").await.seq.0, 1);
    }
    let answer = again(&mut alice, application, message("@zara", "direct", "direct")).await;
    assert_eq!((&answer["seq"], &answer["duplicate"]), (&json!(1), &json!(true)));

    alice.does("leave", json!({"conversation": "#r"})).await;
    calls(server, &keys.admin, "delete_room", json!({"conversation": "#gone"})).await;
    calls(server, &keys.admin, "ban", json!({"user": "alice"})).await;
    for text in ["left", "ended", "banned"] {
        let report = report_of(server, &keys.moderator, text).await;
        let release = json!({"report": report, "action": "release"});
        let refused = server.posts_as(&keys.moderator, "resolve", release).await;
        assert_eq!((refused.status, refused.code().as_str()), (403, "forbidden"), "{text}");
        decides(server, &keys.moderator, &report, "reject").await;
    }
    assert!(queue(server, &keys.moderator, "open").await.is_empty());
    assert_eq!(texts(&mut zara, "@alice").await, ["direct"]);
    assert!(texts(&mut bob, "#r").await.is_empty());
}

#[tokio::test]
async fn a_release_is_checked_again_on_sqlite() {
    let mut application = Application::start().await;
    let mut server = server_at(&Time::new(), |config| asks_about_messages(config, &application)).await;
    a_release_is_checked_again(&server, &mut application).await;
    assert_check_finds_no_problem_after_a_stop(&mut server).await;
}

#[tokio::test]
async fn a_release_is_checked_again_on_postgresql() {
    let (shared, mut application) = (SharedEngines::new().await, Application::start().await);
    let nodes = nodes_at(&Time::new(), &shared, 1, |config| asks_about_messages(config, &application)).await;
    a_release_is_checked_again(&nodes[0], &mut application).await;
}

#[tokio::test]
async fn what_a_key_sends_is_held_unless_it_is_unasked() {
    let mut application = Application::start().await;
    let server = server_at(&Time::new(), |config| asks_about_messages(config, &application)).await;
    let keys = Keys::new(&server);
    let shop = key_with(&server, "shop", |key| key);
    let unasked = key_with(&server, "unasked", |key| NewKey { unasked: true, ..key });
    let mut bob = server.connects("bob").await;
    let body = json!({"as": "shop", "to": "@bob", "key": "k", "text": "offer"});
    let (sent, ()) = tokio::join!(server.posts_as(&shop, "send", body.clone()), async {
        application.is_asked().await.answers(json!({"action": "hold"}));
    });
    assert_eq!(
        (sent.status, sent.ok()),
        (200, json!({"type": "ok", "conversation": "@bob:shop", "held": true}))
    );
    // The key is taken, also by another back end.
    for key in [&shop, &unasked] {
        assert_eq!(server.posts_as(key, "send", body.clone()).await.ok()["duplicate"], true);
    }
    let other = json!({"as": "shop", "to": "@bob", "key": "other", "text": "unasked"});
    assert_eq!(server.posts_as(&unasked, "send", other).await.ok()["seq"], 1);
    let report = report_of(&server, &keys.moderator, "offer").await;
    decides(&server, &keys.moderator, &report, "release").await;
    bob.receives_message("unasked").await;
    bob.receives_message("offer").await;
    let page = server.posts_as(&keys.admin, "feed", json!({"after": "0", "types": ["message"]})).await.ok();
    let made_by: Vec<_> = page["entries"].as_array().expect("entries").iter().map(|e| &e["via"]).collect();
    assert_eq!(made_by, [&json!("unasked"), &json!("shop")], "the release keeps what has sent the message");
}

/// What a user under a shadow ban sends is held, and nobody is asked for it.
async fn a_shadow_ban_holds_what_its_user_sends(nodes: &[Server], time: &Time) {
    let last = nodes.len() - 1;
    wait_for_feature(&nodes[last], "hold").await;
    let keys = Keys::new(&nodes[0]);
    let mut bob = nodes[last].connects("bob").await;
    let mut alice = nodes[0].connects("alice").await;
    bob.makes_public_room("r", &["alice"]).await;
    alice.receives_event().await;
    let before = alice.says("#r", "before").await;
    bob.receives_message("before").await;
    let until = time.after(DAY_MS);
    let ban = json!({"user": "alice", "shadow": true, "until": until, "note": "floods"});
    calls(&nodes[0], &keys.moderator, "ban", ban).await;
    let bans = nodes[last].posts_as(&keys.moderator, "bans", json!({})).await.ok();
    assert_eq!((&bans["bans"][0]["user"], &bans["bans"][0]["shadow"]), (&json!("alice"), &json!(true)));

    // The user stays connected and comes in anywhere.
    let mut other = nodes[last].connects("alice").await;
    for (person, key) in [(&mut alice, "k1"), (&mut other, "k2")] {
        match person.does("send", message("#r", key, key)).await {
            OkBody::Held { duplicate: false, .. } => {}
            other => panic!("{other:?}"),
        }
    }
    for (command, fields) in [
        ("edit", json!({"conversation": "#r", "target": before, "text": "after"})),
        ("react", json!({"conversation": "#r", "target": before, "emoji": "👍"})),
        ("create", json!({"room": "mine", "members": ["bob"], "title": "spam"})),
        ("invite", json!({"conversation": "#r", "user": "carol"})),
        ("profile", json!({"name": "spam"})),
    ] {
        assert_eq!(other.is_refused(command, fields).await, ErrorCode::Refused, "{command}");
    }
    alice.does("read", json!({"conversation": "#r", "upto": before})).await;
    alice.does("delete", json!({"conversation": "#r", "target": before})).await;

    // One of them is released although the ban holds. The ban ends by itself.
    let report = report_of(&nodes[0], &keys.moderator, "k1").await;
    decides(&nodes[last], &keys.moderator, &report, "release").await;
    receives_released(&mut bob, "k1").await;
    time.moves(DAY_MS);
    let mut alice = nodes[0].connects("alice").await;
    alice.says("#r", "after").await;
    receives_released(&mut bob, "after").await;
    assert!(matches!(
        alice.does("send", message("#r", "k2", "k2")).await,
        OkBody::Held { duplicate: true, .. }
    ));
    assert_eq!(texts(&mut bob, "#r").await, ["k1", "after"]);
}

#[tokio::test]
async fn a_shadow_ban_holds_what_its_user_sends_on_one_node() {
    let time = Time::new();
    let mut server = server_at(&time, |_| {}).await;
    a_shadow_ban_holds_what_its_user_sends(std::slice::from_ref(&server), &time).await;
    assert_check_finds_no_problem_after_a_stop(&mut server).await;
}

#[tokio::test]
async fn a_shadow_ban_holds_what_its_user_sends_on_two_nodes() {
    let (time, shared) = (Time::new(), SharedEngines::new().await);
    let nodes = nodes_at(&time, &shared, 2, |_| {}).await;
    a_shadow_ban_holds_what_its_user_sends(&nodes, &time).await;
}

#[tokio::test]
async fn a_user_has_a_bounded_number_of_held_messages() {
    let server = server_at(&Time::new(), |_| {}).await;
    let keys = Keys::new(&server);
    server.connects("bob").await;
    server.posts_as(&keys.moderator, "ban", json!({"user": "alice", "shadow": true})).await.ok();
    let act = key_with(&server, "act", |key| key);
    let of = |n: u32| json!({"as": "alice", "to": "@bob", "key": n.to_string(), "text": n.to_string()});
    for n in 0..Limits::HELD_PER_USER {
        assert_eq!(server.posts_as(&act, "send", of(n)).await.ok()["held"], true, "{n}");
    }
    let refused = server.posts_as(&act, "send", of(Limits::HELD_PER_USER)).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
    assert_eq!(server.posts_as(&act, "send", of(0)).await.ok()["duplicate"], true);
    let report = report_of(&server, &keys.moderator, "0").await;
    decides(&server, &keys.moderator, &report, "reject").await;
    server.posts_as(&act, "send", of(Limits::HELD_PER_USER)).await.ok();
    assert_eq!(server.posts_as(&act, "send", of(0)).await.code(), "refused");
}
