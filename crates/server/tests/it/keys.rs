//! API keys: scopes, patterns, addresses, rates, expiry and rotation.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use serde_json::{Value, json};
use switchboard::auth::ApiKey;
use switchboard_protocol::{Command, Timestamp};
use switchboard_store::clock::Clock;
use switchboard_store::grant::{KeyGrant, Scope};
use switchboard_store::keys::{self, NewKey};

use crate::support::{Answer, Server, eventually};

/// Creates a key, changed by `change`.
pub(crate) fn key_with(server: &Server, name: &str, change: impl FnOnce(NewKey) -> NewKey) -> String {
    let secret = ApiKey::generate().expect("random bytes");
    let key = change(NewKey::new(name, ApiKey::hash(secret.expose())));
    keys::create(&server.keys(), &key).expect("stored");
    secret.expose().to_owned()
}

/// Limits a key to users whose names begin with `shop-`.
pub(crate) fn for_shop_users(key: NewKey) -> NewKey {
    NewKey { acts_as: Some("shop-*".parse().expect("a pattern")), ..key }
}

/// The calls over HTTP that a back end may make, with the scope that each needs.
fn calls() -> Vec<(&'static str, Scope)> {
    let commands = Command::NAMES.iter().filter(|name| !Command::SOCKET_ONLY.contains(name));
    let mut calls: Vec<_> = commands.map(|name| (*name, Scope::Act)).collect();
    calls.extend([("revoke", Scope::Revoke), ("feed", Scope::Feed), ("profiles", Scope::People)]);
    calls.extend(["list_users", "list_rooms", "unread"].map(|name| (name, Scope::People)));
    calls.extend([("send_many", Scope::Act), ("rename_user", Scope::Admin), ("import", Scope::Admin)]);
    calls.extend([("delete_room", Scope::Admin), ("ban", Scope::Moderate), ("bans", Scope::Moderate)]);
    calls.extend(["reports", "resolve", "moderate/history"].map(|call| (call, Scope::Moderate)));
    let webhooks = Command::HTTP_ONLY.iter().filter(|name| name.contains("webhook"));
    calls.extend(webhooks.map(|name| (*name, Scope::Admin)));
    assert_eq!(calls.len(), Command::NAMES.len() - Command::SOCKET_ONLY.len() + Command::HTTP_ONLY.len());
    calls
}

fn is_out_of_scope(answer: &Answer) -> bool {
    answer.status == 403 && answer.json()["permission"].is_string()
}

/// Whether a scope of a key allows a call.
fn allows(scope: Scope, needed: Scope) -> bool {
    match scope {
        Scope::Admin => true,
        Scope::Moderate => matches!(needed, Scope::Moderate | Scope::Revoke),
        _ => scope == needed,
    }
}

/// Calls with a key or a token and without content that would be good, or opens the feed as a stream.
async fn calls_as(server: &Server, bearer: &str, call: &str) -> Answer {
    match call {
        "a stream" => server.request(server.asks("GET", "/v1/feed").bearer_auth(bearer)).await,
        "import" => {
            let request = server.asks("POST", "/v1/import").header("content-type", "application/x-ndjson");
            server.request(request.bearer_auth(bearer)).await
        }
        _ => server.posts_as(bearer, call, json!({"as": "alice", "user": "bob", "after": "0"})).await,
    }
}

#[tokio::test]
async fn each_set_of_scopes_allows_its_calls_and_no_others() {
    let server = Server::start_with_auth().await;
    let mut calls = calls();
    calls.push(("a stream", Scope::Feed));
    let pairs = Scope::ALL.iter().flat_map(|one| Scope::ALL.iter().map(move |other| [*one, *other]));
    for scopes in pairs.filter(|[one, other]| one.as_str() <= other.as_str()) {
        let name = scopes.map(Scope::as_str).join(" ");
        let key = key_with(&server, &name, |key| key.with_scopes(scopes));
        for (call, needed) in &calls {
            let answer = calls_as(&server, &key, call).await;
            let is_allowed = scopes.iter().any(|scope| allows(*scope, *needed));
            assert_eq!(!is_out_of_scope(&answer), is_allowed, "{name} calls {call}: {answer:?}");
            assert_ne!(answer.status, 401, "{name} calls {call}: {answer:?}");
            if !is_allowed {
                assert_eq!(answer.code(), "forbidden");
                assert_eq!(answer.json()["permission"], needed.as_str());
            }
        }
    }
}

#[tokio::test]
async fn a_users_token_and_no_credentials_allow_no_call_of_a_back_end() {
    let server = Server::start_with_auth().await;
    let token = server.token("alice", std::time::Duration::from_secs(60));
    for (call, _) in
        calls().into_iter().filter(|(_, needed)| *needed != Scope::Act).chain([("a stream", Scope::Feed)])
    {
        let answer = calls_as(&server, &token, call).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"), "{call} with a user's token");
        for wrong in ["", "sbk_of_nobody"] {
            let answer = calls_as(&server, wrong, call).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (401, "unauthorized"),
                "{call} with {wrong:?}"
            );
        }
    }
    for (call, _) in calls().into_iter().filter(|(_, needed)| *needed == Scope::Act) {
        let answer = calls_as(&server, "sbk_of_nobody", call).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"), "{call} without a key");
    }
}

#[tokio::test]
async fn a_key_acts_only_for_users_of_its_pattern() {
    let server = Server::start_with_auth().await;
    let key = key_with(&server, "shop", |key| for_shop_users(key.with_scopes([Scope::Act, Scope::Moderate])));
    let hi = |user: &str| json!({"as": user, "to": "@bob", "text": "hi"});
    server.posts_as(&key, "send", hi("shop-1")).await.ok();
    server.posts_as(&key, "revoke", json!({"user": "shop-1"})).await.ok();
    for user in ["alice", "shop", "a-shop-1"] {
        for (call, body) in [("send", hi(user)), ("revoke", json!({"user": user}))] {
            let answer = server.posts_as(&key, call, body).await;
            assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"), "{call} for {user}");
        }
    }
}

#[tokio::test]
async fn a_key_of_some_users_or_without_text_changes_no_webhooks() {
    let server = Server::start_with_auth().await;
    let some = key_with(&server, "some", |key| for_shop_users(key.with_scopes([Scope::Admin])));
    let no_text =
        key_with(&server, "no text", |key| NewKey { no_text: true, ..key.with_scopes([Scope::Admin]) });
    for key in [&some, &no_text] {
        for (call, _) in calls().into_iter().filter(|(call, _)| call.contains("webhook")) {
            let answer =
                server.posts_as(key, call, json!({"name": "a", "url": "https://shop.example"})).await;
            assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"), "{call}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_key_of_some_users_brings_back_no_room_that_its_members_have_left() {
    let server = Server::start_with_auth().await;
    let some = key_with(&server, "some", for_shop_users);
    let all = key_with(&server, "all", |key| key);
    let post = async |key: &str, call: &str, body: Value| server.posts_as(key, call, body).await;
    post(&all, "create", json!({"as": "alice", "room": "hr"})).await.ok();
    post(&all, "send", json!({"as": "alice", "to": "#hr", "text": "secret"})).await.ok();
    post(&all, "leave", json!({"as": "alice", "conversation": "#hr"})).await.ok();
    let invite = |by: &str| json!({"as": by, "conversation": "#hr", "user": "shop-2"});
    let refused = post(&some, "invite", invite("shop-1")).await;
    assert_eq!((refused.status, refused.code().as_str()), (404, "not_found"));
    let read = json!({"as": "shop-2", "conversation": "#hr"});
    assert_eq!(post(&some, "history", read).await.code(), "not_found");
    post(&all, "invite", invite("back-end")).await.ok();
    // A key of some users still invites as a member of the room.
    let body = json!({"as": "shop-2", "conversation": "#hr", "user": "bob"});
    post(&some, "invite", body).await.ok();
}

#[tokio::test]
async fn a_key_is_refused_from_other_addresses() {
    let server = Server::start_with_auth().await;
    let of = |networks: &str| {
        key_with(&server, networks, |key| NewKey { addresses: Some(networks.to_owned()), ..key })
    };
    let (here, elsewhere) = (of("192.0.2.0/24,127.0.0.0/8"), of("192.0.2.0/24"));
    let ping = || json!({"as": "alice"});
    server.posts_as(&here, "ping", ping()).await.ok();
    let refused = server.posts_as(&elsewhere, "ping", ping()).await;
    assert_eq!((refused.status, refused.code().as_str()), (403, "forbidden"));
}

#[tokio::test]
async fn a_key_has_its_own_rate() {
    let server = Server::start_with_auth().await;
    let key = key_with(&server, "slow", |key| NewKey { rate: Some(1), ..key });
    let mut answers = Vec::new();
    for n in 0..6 {
        let hi = json!({"as": "alice", "to": "@bob", "text": n.to_string()});
        answers.push(server.posts_as(&key, "send", hi).await.status);
    }
    assert_eq!(answers[..5], [200; 5], "five seconds' worth at once");
    assert_eq!(answers[5], 429);
    let other = key_with(&server, "other", |key| key);
    server.posts_as(&other, "send", json!({"as": "alice", "to": "@bob", "text": "hi"})).await.ok();
}

#[tokio::test]
async fn a_key_expires_and_its_old_secret_works_until_the_overlap_ends() {
    let now = Arc::new(AtomicI64::new(Clock::system().now().as_millis()));
    let by = now.clone();
    let clock = Clock::from_fn(move || Timestamp::from_millis(by.load(Ordering::Relaxed)));
    let server = Server::start_with_auth_and_clock(clock, |_| {}).await;
    const HOUR: i64 = 3_600_000;
    let ping = || json!({"as": "alice"});
    let later = Timestamp::from_millis(now.load(Ordering::Relaxed) + 5 * HOUR);
    let short = key_with(&server, "short", |key| NewKey { expires: Some(later), ..key });
    let first = key_with(&server, "shop", |key| key);
    let second = ApiKey::generate().expect("random bytes");
    let hash = ApiKey::hash(second.expose());
    assert!(keys::rotate(&server.keys(), "shop", &hash, 2 * HOUR).expect("the database"));
    assert!(!keys::rotate(&server.keys(), "nobody", &hash, 0).expect("the database"));
    for key in [&short, &first, second.expose()] {
        server.posts_as(key, "ping", ping()).await.ok();
    }
    now.fetch_add(3 * HOUR, Ordering::Relaxed);
    assert_eq!(server.posts_as(&first, "ping", ping()).await.code(), "unauthorized");
    for key in [&short, second.expose()] {
        server.posts_as(key, "ping", ping()).await.ok();
    }
    now.fetch_add(3 * HOUR, Ordering::Relaxed);
    assert_eq!(server.posts_as(&short, "ping", ping()).await.code(), "unauthorized");
    server.posts_as(second.expose(), "ping", ping()).await.ok();
}

#[tokio::test]
async fn the_last_use_of_a_key_is_stored_to_the_hour() {
    let server = Server::start_with_auth().await;
    let key = key_with(&server, "shop", |key| key);
    let used = || keys::list(&server.keys()).expect("a list").remove(0).used;
    assert_eq!(used(), None);
    let before = KeyGrant::hour_of(Clock::system().now());
    server.posts_as(&key, "ping", json!({"as": "alice"})).await.ok();
    let hour = eventually("the use is stored", || async { used() }).await;
    assert!((before..=KeyGrant::hour_of(Clock::system().now())).contains(&hour));
}

#[tokio::test]
async fn an_event_names_the_key_that_made_it_in_the_feed_and_nowhere_else() {
    let server = Server::start_with_auth().await;
    let mut bob = server.connects("bob").await;
    let shop = key_with(&server, "shop", |key| key);
    let reader = key_with(&server, "reader", |key| key.with_scopes([Scope::Feed]));
    bob.says("@alice", "mine").await;
    let sent =
        server.posts_as(&shop, "send", json!({"as": "alice", "to": "@bob", "text": "the shop's"})).await;
    sent.ok();
    let event = bob.receives_message("the shop's").await;
    assert!(!serde_json::to_string(&event).expect("JSON").contains("via"));
    let body = json!({"after": "0", "types": ["message"], "wait": 10_000});
    let entries = eventually("both messages", || async {
        let page = server.posts_as(&reader, "feed", body.clone()).await.ok();
        let entries = page["entries"].as_array().expect("entries").clone();
        (entries.len() == 2).then_some(entries)
    })
    .await;
    let via: Vec<_> = entries.iter().map(|entry| entry["via"].clone()).collect();
    assert_eq!(via, [Value::Null, json!("shop")]);
}
