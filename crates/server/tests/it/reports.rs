//! Reports: what users report, and what moderators decide, on one node and on several.

use std::time::Duration;

use serde_json::{Value, json};
use switchboard_protocol::reply::{OkBody, ServerFrame};
use switchboard_protocol::{ErrorCode, Signal};
use switchboard_store::grant::Scope;

use crate::bans::{Time, calls, nodes_at, server_at, wait_for_feature};
use crate::check::assert_check_finds_no_problem;
use crate::keys::{for_shop_users, key_with};
use crate::permissions::token_at;
use crate::support::{Person, Server, SharedEngines, eventually};

const HOUR_MS: i64 = 3_600_000;

const DAY_MS: i64 = 24 * HOUR_MS;

/// A token of a moderator.
fn moderator(time: &Time, name: &str) -> String {
    token_at(&time.clock(), name, &json!({"moderate": true}))
}

async fn reports(person: &mut Person, fields: Value) -> String {
    match person.does("report", fields).await {
        OkBody::Reported { report } => report.to_string(),
        other => panic!("{other:?}"),
    }
}

async fn listed(server: &Server, bearer: &str, query: Value) -> Vec<Value> {
    let page = server.posts_as(bearer, "reports", query).await.ok();
    page["reports"].as_array().expect("reports").clone()
}

/// The entries of the feed of one type, once there are as many. Nodes number what they commit a moment later.
async fn entries(server: &Server, admin: &str, kind: &str, count: usize) -> Vec<Value> {
    let read = async || {
        let page = server.posts_as(admin, "feed", json!({"after": "0", "types": [kind]})).await.ok();
        let found = page["entries"].as_array().expect("entries").clone();
        (found.len() >= count).then_some(found)
    };
    let found = eventually(&format!("{count} entries {kind}"), read).await;
    assert_eq!(found.len(), count, "{kind}: {found:?}");
    found
}

/// The next notice that a person gets.
async fn notice(person: &mut Person) -> Value {
    loop {
        if let ServerFrame::Signal(signal @ Signal::Notice { .. }) = person.next().await {
            return serde_json::to_value(signal).expect("JSON");
        }
    }
}

/// One moderator at a time decides a report.
async fn carla_alone_claims(first: &Server, last: &Server, (carla, dora): (&str, &str), report: &str) {
    let resolve = |action: &str| json!({"report": report, "action": action});
    for _ in 0..2 {
        first.posts_as(carla, "resolve", resolve("claim")).await.ok();
    }
    for action in ["claim", "none"] {
        let answer = last.posts_as(dora, "resolve", resolve(action)).await;
        assert_eq!((answer.status, answer.code().as_str()), (409, "already_exists"));
        assert!(answer.json()["detail"].to_string().contains("carla"), "{}", answer.json());
    }
}

/// What happens from a report to the decision, on any number of nodes.
async fn a_report_is_made_claimed_and_decided(nodes: &mut [Server], time: &Time) {
    let (first, last) = (0, nodes.len() - 1);
    wait_for_feature(&nodes[last], "report").await;
    let mut alice = nodes[first].connects("alice").await;
    let mut mallory = nodes[last].connects("mallory").await;
    let mut bob = nodes[last].connects("bob").await;
    alice.makes_public_room("r", &["bob", "mallory"]).await;
    mallory.receives_event().await;
    bob.receives_event().await;
    let spam = mallory.says("#r", "spam").await;
    mallory.does("edit", json!({"conversation": "#r", "target": spam, "text": "cheap pills"})).await;

    let of = |reason: &str| json!({"conversation": "#r", "target": spam, "reason": reason});
    let mut with_text = of("spam");
    with_text["text"] = json!("the third time");
    let report = reports(&mut alice, with_text).await;
    assert_eq!(reports(&mut alice, of("abuse")).await, report, "a second report changes nothing");
    time.moves(1);
    assert_eq!(reports(&mut bob, of("abuse")).await, report, "one report of a target");

    // The author deletes the message; the snapshot stays, and nobody reports it any more.
    mallory.does("delete", json!({"conversation": "#r", "target": spam})).await;
    let mut carol = nodes[first].connects("carol").await;
    carol.does("join", json!({"conversation": "#r"})).await;
    assert_eq!(carol.is_refused("report", of("spam")).await, ErrorCode::NotFound);
    let (carla, dora) = (moderator(time, "carla"), moderator(time, "dora"));
    let open = listed(&nodes[last], &carla, json!({"state": "open"})).await;
    assert_eq!(open.len(), 1, "{open:?}");
    assert_eq!(
        (&open[0]["report"], &open[0]["user"], &open[0]["target"], &open[0]["snapshot"]["text"]),
        (&json!(report), &json!("mallory"), &json!(spam), &json!("cheap pills"))
    );
    assert_eq!(open[0]["reasons"], json!([{"reason": "abuse", "count": 1}, {"reason": "spam", "count": 1}]));
    assert_eq!(open[0]["reporters"][0]["text"], "the third time");

    carla_alone_claims(&nodes[first], &nodes[last], (&carla, &dora), &report).await;
    let resolve = |action: &str| json!({"report": report, "action": action});
    let until = time.after(HOUR_MS);
    let mut silence = resolve("silence");
    silence["until"] = json!(until);
    silence["note"] = json!("a first warning");
    silence["tell"] = json!("No advertising here.");
    nodes[first].posts_as(&carla, "resolve", silence).await.ok();
    let told = notice(&mut mallory).await;
    let wanted = json!({"type": "notice", "action": "silence", "conversation": "#r", "target": spam, "text": "No advertising here."});
    assert_eq!(told, wanted, "the author does not learn who reported");
    for reporter in [&mut alice, &mut bob] {
        let told = notice(reporter).await;
        assert_eq!(
            (&told["report"], &told["action"], told.get("text")),
            (&json!(report), &json!("silence"), None)
        );
    }
    assert_eq!(mallory.is_refused("send", json!({"to": "#r", "text": "x"})).await, ErrorCode::Forbidden);
    let event = alice.log("#r").await.pop().expect("an event");
    assert_eq!(event.from.as_str(), "carla");
    let again = nodes[last].posts_as(&carla, "resolve", resolve("delete")).await;
    assert_eq!(again.code(), "already_exists", "a report is decided once");
    assert_eq!(reports(&mut alice, of("spam")).await, report, "also after the decision");

    the_feed_tells(&nodes[first], &report, spam).await;
    the_content_is_removed(&mut nodes[last], time, &report).await;
}

/// What the feed and the audit log have of a report that carla has claimed and decided.
async fn the_feed_tells(server: &Server, report: &str, spam: u64) {
    let admin = key_with(server, "admin", |key| key.with_scopes([Scope::Admin]));
    let (new, done) =
        (entries(server, &admin, "report.new", 1).await, entries(server, &admin, "report.resolved", 1).await);
    assert_eq!(
        (&new[0]["user"], &new[0]["conversation"], &new[0]["seq"]),
        (&json!("mallory"), &json!("#r"), &json!(spam))
    );
    assert_eq!(
        (&done[0]["report"], &done[0]["action"], done[0].get("note")),
        (&json!(report), &json!("silence"), None)
    );
    calls(server, &admin, "rename_user", json!({"user": "carla", "to": "karla"})).await;
    let audited = entries(server, &admin, "audit.report", 2).await;
    let actions: Vec<_> = audited.iter().map(|entry| (&entry["action"], &entry["by"])).collect();
    assert_eq!(actions, [(&json!("claim"), &json!("karla")), (&json!("silence"), &json!("karla"))]);
    assert_eq!(audited[1]["note"], "a first warning");
}

/// The content goes 30 days after the decision; the next report has a number of its own.
async fn the_content_is_removed(server: &mut Server, time: &Time, report: &str) {
    time.moves(30 * DAY_MS);
    server.restart().await;
    let dora = moderator(time, "dora");
    assert_eq!(listed(server, &dora, json!({"state": "done"})).await.len(), 1);
    time.moves(1);
    server.restart().await;
    eventually("the report is removed", || async {
        listed(server, &dora, json!({})).await.is_empty().then_some(())
    })
    .await;
    let mut alice = server.connects("alice").await;
    let next = reports(&mut alice, json!({"user": "mallory", "reason": "other"})).await;
    assert_ne!(next, report);
}

#[tokio::test]
async fn a_report_is_decided_on_two_nodes() {
    let (time, shared) = (Time::new(), SharedEngines::new().await);
    let mut nodes = nodes_at(&time, &shared, 2, |_| {}).await;
    a_report_is_made_claimed_and_decided(&mut nodes, &time).await;
}

async fn stops_without_a_fault(mut server: Server) {
    server.begin_shutdown();
    server.wait_until_stopped().await;
    if std::env::var_os("TEST_STORE").is_none() {
        assert_check_finds_no_problem(server.data());
    }
}

#[tokio::test]
async fn a_report_is_decided_on_one_node() {
    let time = Time::new();
    let mut nodes = vec![server_at(&time, |_| {}).await];
    a_report_is_made_claimed_and_decided(&mut nodes, &time).await;
    stops_without_a_fault(nodes.pop().expect("a server")).await;
}

/// What each decision does, on any store.
async fn each_decision_does_what_it_says(server: &Server, time: &Time) {
    wait_for_feature(server, "report").await;
    let key = key_with(server, "support", |key| key.with_scopes([Scope::Moderate, Scope::Act, Scope::Feed]));
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.makes_room("r", &["bob"]).await;
    bob.receives_event().await;
    let mut report_of = Vec::new();
    for text in ["a", "b", "c"] {
        let target = bob.says("#r", text).await;
        let of = json!({"as": "alice", "conversation": "#r", "target": target, "reason": "abuse"});
        report_of.push((target, server.posts_as(&key, "report", of).await.ok()["report"].clone()));
    }
    let (target, report) = &report_of[0];
    for action in ["release", "reject"] {
        let refused = server.posts_as(&key, "resolve", json!({"report": report, "action": action})).await;
        assert_eq!((refused.status, &refused.json()["field"]), (400, &json!("action")), "it is not held");
    }
    server.posts_as(&key, "resolve", json!({"report": report, "action": "delete", "as": "mia"})).await.ok();
    let event = alice.log("#r").await.pop().expect("an event");
    assert_eq!((event.from.as_str(), event.body.kind().as_str()), ("mia", "delete"));
    assert!(alice.message_in_history("#r", *target).await.deleted);

    // In a room whose only admin is reported, nobody is removed, and the report stays as it was.
    let own = alice.says("#r", "mine").await;
    let of = json!({"as": "bob", "conversation": "#r", "target": own, "reason": "other"});
    let of_admin = server.posts_as(&key, "report", of).await.ok()["report"].clone();
    let refused = server.posts_as(&key, "resolve", json!({"report": of_admin, "action": "remove"})).await;
    assert_eq!((refused.status, refused.code().as_str()), (403, "forbidden"));
    assert_eq!(listed(server, &key, json!({"state": "open"})).await.len(), 3);
    assert_eq!(listed(server, &key, json!({"user": "alice"})).await.len(), 1, "of the admin");
    assert_eq!(listed(server, &key, json!({"user": "zoe"})).await.len(), 0);

    let (_, report) = &report_of[1];
    server.posts_as(&key, "resolve", json!({"report": report, "action": "remove"})).await.ok();
    let event = alice.log("#r").await.pop().expect("an event");
    assert_eq!((event.from.as_str(), event.body.kind().as_str()), ("support", "remove"));
    assert_eq!(bob.is_refused("send", json!({"to": "#r", "text": "x"})).await, ErrorCode::NotFound);

    let (_, report) = &report_of[2];
    let until = time.after(DAY_MS);
    let ban = json!({"report": report, "action": "ban", "until": until, "tell": "Enough."});
    server.posts_as(&key, "resolve", ban).await.ok();
    let told = notice(&mut bob).await;
    assert_eq!((&told["action"], &told["text"]), (&json!("ban"), &json!("Enough.")));
    assert_eq!(bob.is_closed().await, Some(4503));
    let bans = server.posts_as(&key, "bans", json!({})).await.ok();
    assert_eq!((&bans["bans"][0]["user"], &bans["bans"][0]["reason"]), (&json!("bob"), &json!("Enough.")));
}

#[tokio::test]
async fn each_decision_does_what_it_says_on_sqlite() {
    let time = Time::new();
    let server = server_at(&time, |_| {}).await;
    each_decision_does_what_it_says(&server, &time).await;
    stops_without_a_fault(server).await;
}

#[tokio::test]
async fn each_decision_does_what_it_says_on_postgresql() {
    let (time, shared) = (Time::new(), SharedEngines::new().await);
    let nodes = nodes_at(&time, &shared, 1, |_| {}).await;
    each_decision_does_what_it_says(&nodes[0], &time).await;
}

/// Who may report what, on any store.
async fn a_user_reports_only_what_they_see(server: &Server, time: &Time) {
    wait_for_feature(server, "report").await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    let mut eve = server.connects("eve").await;
    alice.makes_room("r", &["bob"]).await;
    let seen = alice.says("#r", "bob sees this").await;
    bob.does("leave", json!({"conversation": "#r"})).await;
    let unseen = alice.says("#r", "bob does not see this").await;
    let of = |target: u64| json!({"conversation": "#r", "target": target, "reason": "abuse"});
    for target in [seen, unseen, 1, 999] {
        assert_eq!(eve.is_refused("report", of(target)).await, ErrorCode::NotFound, "{target}");
    }
    for target in [unseen, 1, 999] {
        assert_eq!(bob.is_refused("report", of(target)).await, ErrorCode::NotFound, "{target}");
    }
    let report = reports(&mut bob, of(seen)).await;
    let of_user = |name: &str| json!({"user": name, "reason": "spam"});
    for name in ["alice", "bob", "nobody"] {
        assert_eq!(eve.is_refused("report", of_user(name)).await, ErrorCode::NotFound, "{name}");
    }
    alice.does("profile", json!({"name": "Alice", "data": {"a": 1}})).await;
    alice.says("@eve", "hello").await;
    let of_alice = reports(&mut eve, of_user("alice")).await;
    assert_ne!(of_alice, report);
    let carla = moderator(time, "carla");
    let found = listed(server, &carla, json!({})).await;
    assert_eq!((found.len(), &found[1]["snapshot"]), (2, &json!({"name": "Alice", "data": {"a": 1}})));
    assert_eq!((found[1].get("conversation"), found[1].get("target")), (None, None));
    let action = json!({"report": of_alice, "action": "delete"});
    assert_eq!(server.posts_as(&carla, "resolve", action).await.json()["field"], "action");

    for (fields, code, field) in [
        (json!({"conversation": "#r", "reason": "spam"}), ErrorCode::BadField, "target"),
        (json!({"reason": "spam"}), ErrorCode::BadField, "conversation"),
        (
            json!({"conversation": "#r", "target": 2, "user": "bob", "reason": "spam"}),
            ErrorCode::BadField,
            "user",
        ),
        (json!({"user": "eve", "reason": "spam"}), ErrorCode::BadField, "user"),
        (json!({"user": "alice", "reason": "spam", "text": "x".repeat(501)}), ErrorCode::TooLarge, "text"),
        (json!({"user": "alice", "reason": "spam", "text": " "}), ErrorCode::BadField, "text"),
    ] {
        let failure = eve.tries("report", fields.clone()).await.expect_err("refused");
        assert_eq!((failure.code, failure.field.as_deref()), (code, Some(field)), "{fields}");
    }

    // Twenty in an hour; what was reported before is answered as before.
    for n in 0..20 {
        let target = alice.says("#r", &format!("{n}")).await;
        if n < 19 {
            reports(&mut alice, of(target)).await;
            continue;
        }
        reports(&mut alice, of_user("eve")).await;
        let failure = alice.tries("report", of(target)).await.expect_err("too many");
        assert_eq!((failure.code, failure.retry_after), (ErrorCode::RateLimited, Some(3_600_000)));
        reports(&mut alice, of_user("eve")).await;
        time.moves(HOUR_MS);
        reports(&mut server.connects("alice").await, of(target)).await;
    }
}

#[tokio::test]
async fn a_user_reports_only_what_they_see_on_sqlite() {
    let time = Time::new();
    let server = server_at(&time, |_| {}).await;
    a_user_reports_only_what_they_see(&server, &time).await;
    stops_without_a_fault(server).await;
}

#[tokio::test]
async fn a_user_reports_only_what_they_see_on_postgresql() {
    let (time, shared) = (Time::new(), SharedEngines::new().await);
    let nodes = nodes_at(&time, &shared, 1, |_| {}).await;
    a_user_reports_only_what_they_see(&nodes[0], &time).await;
}

/// What a decision may say.
async fn a_decision_names_its_wrong_field(server: &Server, admin: &str, report: &str, time: &Time) {
    for (fields, field) in [
        (json!({"report": "17", "action": "none"}), "report"),
        (json!({"report": report, "action": "none", "until": time.after(1)}), "until"),
        (json!({"report": report, "action": "claim", "tell": "x"}), "tell"),
        (json!({"report": report, "action": "none", "note": "x".repeat(2_001)}), "note"),
        (json!({"report": report, "action": "escalate"}), "action"),
    ] {
        let answer = server.posts_as(admin, "resolve", fields.clone()).await;
        assert_eq!(answer.json()["field"], field, "{fields}");
    }
}

#[tokio::test]
async fn moderators_are_keys_with_the_scope_and_tokens_with_the_claim() {
    let time = Time::new();
    let server = server_at(&time, |_| {}).await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("r", &["bob"]).await;
    let target = alice.says("#r", "in private").await;
    let report = reports(
        &mut server.connects("bob").await,
        json!({"conversation": "#r", "target": target, "reason": "other"}),
    )
    .await;
    let (admin, shop, blind) = (
        key_with(&server, "admin", |key| key.with_scopes([Scope::Admin])),
        key_with(&server, "shop", |key| for_shop_users(key.with_scopes([Scope::Moderate]))),
        key_with(&server, "blind", |key| switchboard_store::keys::NewKey {
            no_text: true,
            ..key.with_scopes([Scope::Moderate])
        }),
    );
    let history = json!({"conversation": "#r", "around": target, "reason": "report r_1"});
    let bodies = [
        ("reports", json!({})),
        ("resolve", json!({"report": report, "action": "claim"})),
        ("moderate/history", history.clone()),
        ("ban", json!({"user": "zoe"})),
        ("bans", json!({})),
        ("revoke", json!({"user": "zoe"})),
    ];
    let plain = server.token_at(time.clock(), "eve", Duration::from_secs(60));
    let claims_no = token_at(&time.clock(), "eve", &json!({"moderate": false}));
    for (call, body) in &bodies {
        for bearer in [&plain, &claims_no] {
            let answer = server.posts_as(bearer, call, body.clone()).await;
            assert_eq!((answer.status, &answer.json()["permission"]), (403, &json!("moderate")), "{call}");
        }
    }
    assert_eq!(listed(&server, &shop, json!({})).await, Vec::<Value>::new(), "a key sees its users");
    let claim = json!({"report": report, "action": "claim"});
    assert_eq!(server.posts_as(&shop, "resolve", claim).await.code(), "not_found");
    assert_eq!(listed(&server, &blind, json!({})).await[0].get("snapshot"), None);
    for bearer in [&shop, &blind] {
        assert_eq!(server.posts_as(bearer, "moderate/history", history.clone()).await.code(), "forbidden");
    }
    let carla = moderator(&time, "carla");
    for (call, body) in &bodies {
        server.posts_as(&carla, call, body.clone()).await.ok();
    }
    let page = server.posts_as(&carla, "moderate/history", history).await.ok();
    assert_eq!((&page["messages"][0]["text"], &page["more_after"]), (&json!("in private"), &json!(false)));
    let missing = json!({"conversation": "#r", "around": target});
    assert_eq!(server.posts_as(&carla, "moderate/history", missing).await.json()["field"], "reason");
    for (kind, count) in [("audit.ban", 1), ("audit.revoke", 1), ("audit.report", 1), ("audit.read", 2)] {
        let found = entries(&server, &admin, kind, count).await;
        assert!(found.iter().all(|entry| entry["by"] == "carla"), "{kind}: {found:?}");
        assert!(found.iter().all(|entry| entry["address"] == "127.0.0.1"), "{kind}: {found:?}");
    }
    let read = &entries(&server, &admin, "audit.read", 2).await[0];
    assert_eq!(
        (&read["conversation"], &read["seq"], &read["reason"]),
        (&json!("#r"), &json!(target), &json!("report r_1"))
    );
    // Nothing of the moderator is in the room, and a moderator who is banned moderates no more.
    assert_eq!(alice.members("#r").await.len(), 2);
    server.posts_as(&admin, "ban", json!({"user": "carla"})).await.ok();
    assert_eq!(server.posts_as(&carla, "reports", json!({})).await.code(), "banned");
    a_decision_names_its_wrong_field(&server, &admin, &report, &time).await;
    stops_without_a_fault(server).await;
}
