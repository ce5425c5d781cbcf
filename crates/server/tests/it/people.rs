//! Names and pictures: who changes them, and who receives the changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use switchboard::config::Config;
use switchboard_protocol::reply::{OkBody, Profile, ServerFrame};
use switchboard_protocol::{CloseCode, Limits, Signal, Timestamp};
use switchboard_store::clock::Clock;
use switchboard_store::grant::Scope;
use tokio::time::Instant;

use crate::keys::key_with;
use crate::support::{Cluster, Person, SECRET, Server, SharedEngines, eventually, in_time};

fn with_pictures(config: &mut Config) {
    config.profiles.avatar_hosts = vec!["images.example.com".to_owned()];
}

/// Asks for profiles, and follows them.
pub(crate) async fn asks_for(person: &mut Person, users: &[&str]) -> Vec<Profile> {
    match person.does("users", json!({"users": users})).await {
        OkBody::Users { users, more: false } => users,
        other => panic!("{other:?}"),
    }
}

/// Waits for the profile of a user with this name, and returns its version.
async fn receives_name(person: &mut Person, user: &str, name: &str) -> u64 {
    loop {
        match person.next().await {
            ServerFrame::Signal(Signal::Profile(profile))
                if profile.user.as_str() == user
                    && profile.name.as_ref().is_some_and(|n| n.as_str() == name) =>
            {
                return profile.version;
            }
            ServerFrame::Reply(reply) => panic!("{reply:?}"),
            ServerFrame::Signal(_) | ServerFrame::Event(_) => {}
        }
    }
}

fn names(profile: &Profile) -> &str {
    profile.name.as_ref().map_or("", |name| name.as_str())
}

#[tokio::test]
async fn a_connection_that_asked_for_a_user_receives_the_changes_and_others_receive_none() {
    let server = Server::start().await;
    let (mut ana, mut bob) = (server.connects("ana").await, server.connects("bob").await);
    let mut eve = server.connects("eve").await;
    assert!(ana.welcome.features.iter().any(|feature| feature == "profiles"));
    ana.says("@bob", "hi").await;
    bob.receives_message("hi").await;
    assert_eq!(asks_for(&mut bob, &["ana", "eve"]).await.len(), 1, "eve shares no conversation");
    let stored = ana.does("profile", json!({"name": "Ana María"})).await;
    assert!(matches!(stored, OkBody::Profile { version: 1, .. }), "{stored:?}");
    assert_eq!(receives_name(&mut bob, "ana", "Ana María").await, 1);
    eve.does("profile", json!({"name": "Eve"})).await;
    for person in [&mut ana, &mut bob, &mut eve] {
        person.receives_nothing().await;
    }
    assert_eq!(asks_for(&mut bob, &["ana"]).await[0].version, 1);
}

#[tokio::test]
async fn profile_changes_of_a_user_arrive_at_most_once_a_second_and_the_last_one_always() {
    let server = Server::start().await;
    let (mut ana, mut bob) = (server.connects("ana").await, server.connects("bob").await);
    ana.says("@bob", "hi").await;
    bob.receives_message("hi").await;
    asks_for(&mut bob, &["ana"]).await;
    let began = Instant::now();
    for n in 1..=50 {
        ana.does("profile", json!({"name": format!("Ana {n}")})).await;
    }
    let took = began.elapsed();
    let mut signals = 0;
    let last = loop {
        let Signal::Profile(profile) = bob.receives_signal().await else { panic!("no profile") };
        signals += 1;
        if profile.version == 50 {
            break profile;
        }
    };
    assert_eq!(names(&last), "Ana 50");
    assert!(signals <= 2 + took.as_secs(), "{signals} signals in {took:?}");
}

#[tokio::test]
async fn a_connection_follows_the_latest_users_it_asked_for() {
    let server =
        Server::start_with(|config| config.limits = Limits { follow: 2, ..config.limits.clone() }).await;
    let mut ana = server.connects("ana").await;
    ana.makes_room("r", &["u1", "u2", "u3"]).await;
    let over = ana.tries("users", json!({"users": ["u1", "u2", "u3"]})).await.expect_err("too many");
    assert_eq!((over.code.as_str(), over.field.as_deref()), ("too_large", Some("users")));
    for users in [["u1", "u2"], ["u3", "u2"]] {
        asks_for(&mut ana, &users).await;
    }
    for user in ["u1", "u2", "u3"] {
        server.posts("profile", json!({"as": user, "name": user.to_uppercase()})).await.ok();
    }
    assert_eq!(receives_name(&mut ana, "u2", "U2").await, 1);
    assert_eq!(receives_name(&mut ana, "u3", "U3").await, 1);
    ana.receives_nothing().await;
}

#[tokio::test]
async fn a_back_end_changes_profiles_in_bulk_all_or_none() {
    let server = Server::start_with_auth_and(with_pictures).await;
    let key = key_with(&server, "crm", |key| key.with_scopes([Scope::People]));
    let many: Vec<_> = (0..1_000)
        .map(|n| json!({"user": format!("usr_{n}"), "name": format!("Person {n}"), "data": {"note": "x".repeat(100)}}))
        .collect();
    let body = json!({ "profiles": many });
    assert!(body.to_string().len() > 64 * 1024, "more than a frame");
    server.posts_as(&key, "profiles", body).await.ok();
    let reader = key_with(&server, "reader", |key| key);
    let seen = server.posts_as(&reader, "users", json!({"as": "usr_7", "users": ["usr_7"]})).await.ok();
    assert_eq!(seen["users"][0]["name"], "Person 7");
    for (wrong, code, field) in [
        (json!({"user": "usr_7", "name": ""}), "bad_field", "profiles[1].name"),
        (json!({"user": "usr_7", "avatar": "https://evil.example/a.png"}), "bad_field", "profiles[1].avatar"),
        (json!({"user": "usr_7", "data": {"x": "y".repeat(5_000)}}), "too_large", "profiles[1].data"),
    ] {
        let body = json!({"profiles": [{"user": "usr_8", "name": "Changed"}, wrong]});
        let problem = server.posts_as(&key, "profiles", body).await.problem();
        assert_eq!((problem["code"].as_str(), problem["field"].as_str()), (Some(code), Some(field)));
    }
    let seen = server.posts_as(&reader, "users", json!({"as": "usr_8", "users": ["usr_8"]})).await.ok();
    assert_eq!(seen["users"][0]["name"], "Person 8", "none of a refused call is stored");
    let feed = key_with(&server, "feed", |key| key.with_scopes([Scope::Feed]));
    let page = server
        .posts_as(&feed, "feed", json!({"after": "0", "types": ["user.profile"], "wait": 10_000}))
        .await
        .ok();
    assert_eq!(page["entries"][0]["user"], "usr_0");
    assert_eq!(page["entries"][0]["via"], "crm");
}

#[tokio::test]
async fn a_deactivated_user_is_disconnected_and_cannot_sign_in() {
    let server = Server::start_with_auth().await;
    let key = key_with(&server, "crm", |key| key.with_scopes([Scope::People]));
    let mut ana = server.connects("ana").await;
    let is = |active: bool| json!({"profiles": [{"user": "ana", "active": active}]});
    server.posts_as(&key, "profiles", is(false)).await.ok();
    assert_eq!(ana.is_closed().await, Some(CloseCode::Revoked.number()));
    assert!(server.tries_to_connect(server.hello("ana", &[])).await.is_err());
    let token = server.token("ana", Duration::from_secs(60));
    assert_eq!(server.posts_as(&token, "ping", json!({})).await.code(), "unauthorized");
    server.posts_as(&key, "profiles", is(true)).await.ok();
    server.connects("ana").await;
}

/// A token with a name, as a provider of OpenID Connect signs it.
pub(crate) fn token(claims: &Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), claims, &key).expect("a token")
}

#[tokio::test]
async fn a_name_comes_with_the_token_and_a_newer_token_changes_it() {
    let now = Arc::new(AtomicI64::new(Clock::system().now().as_millis()));
    let by = now.clone();
    let clock = Clock::from_fn(move || Timestamp::from_millis(by.load(Ordering::Relaxed)));
    let server = Server::start_with_auth_and_clock(clock, with_pictures).await;
    let seconds = now.load(Ordering::Relaxed) / 1_000;
    let claims = |name: Value, picture: &str, issued: i64| {
        token(&json!({"sub": "ana", "iat": issued, "exp": seconds + 3_600, "name": name, "picture": picture}))
    };
    let hello = |token: String| switchboard_protocol::Hello {
        token: Some(token),
        user: None,
        device: None,
        cursors: Default::default(),
    };
    let good = "https://images.example.com/ana.png";
    let mut versions = Vec::new();
    for (name, picture, issued) in [
        (json!("Ana"), good, seconds - 50),
        (json!("Ana"), good, seconds - 40),
        (json!("Old"), good, seconds - 60),
        (json!("Ana María"), "https://evil.example/a.png", seconds - 30),
        (json!(17), "", seconds - 20),
        (json!("x".repeat(300)), "", seconds - 10),
    ] {
        let mut ana = server.tries_to_connect(hello(claims(name, picture, issued))).await.expect("welcome");
        let own = asks_for(&mut ana, &["ana"]).await.remove(0);
        let picture = own.avatar.as_ref().map(|avatar| avatar.as_str().to_owned());
        assert_eq!(picture.as_deref(), Some(good), "only from a configured host");
        versions.push((own.version, names(&own).to_owned()));
    }
    let expected = [(1, "Ana"), (1, "Ana"), (1, "Ana"), (2, "Ana María"), (2, "Ana María"), (2, "Ana María")];
    assert_eq!(versions, expected.map(|(version, name)| (version, name.to_owned())));
}

#[tokio::test]
async fn users_change_their_own_profile_only_where_it_is_allowed() {
    let closed = Server::start_with_auth_and(|config| config.profiles.own = false).await;
    let mut ana = closed.connects("ana").await;
    assert_eq!(ana.is_refused("profile", json!({"name": "Support"})).await.as_str(), "forbidden");
    let open = Server::start_with_auth_and(|config| {
        with_pictures(config);
        config.limits = Limits::default();
    })
    .await;
    let mut ana = open.connects("ana").await;
    let picture = json!({"avatar": "https://images.example.com/a.png"});
    assert_eq!(ana.is_refused("profile", picture.clone()).await.as_str(), "bad_field");
    let token = open.token("ana", Duration::from_secs(60));
    assert_eq!(open.posts_as(&token, "profile", picture).await.code(), "bad_field");
    let mut refused = 0;
    for n in 0..10 {
        match ana.tries("profile", json!({"name": format!("Ana {n}")})).await {
            Ok(_) => {}
            Err(failure) => {
                assert_eq!(failure.code.as_str(), "rate_limited");
                assert!(
                    failure.retry_after.is_some_and(|wait| (5_000..=10_000).contains(&wait)),
                    "{failure:?}"
                );
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 5, "five at once");
    ana.says("@ana", "a refused profile holds no message").await;
}

#[tokio::test]
async fn a_search_needs_two_bytes_and_has_a_rate() {
    let server = Server::start_with_auth_and(|config| config.limits = Limits::default()).await;
    let mut ana = server.connects("ana").await;
    ana.does("profile", json!({"name": "Ana"})).await;
    for query in ["", "a", " a ", &"x".repeat(201), "a\0b"] {
        let refused = ana.tries("find_users", json!({ "query": query })).await.expect_err("refused");
        assert_eq!(
            (refused.code.as_str(), refused.field.as_deref()),
            ("bad_field", Some("query")),
            "{query:?}"
        );
    }
    let mut found = 0;
    loop {
        match ana.tries("find_users", json!({"query": "ana"})).await {
            Ok(OkBody::Users { users, .. }) => found += users.len(),
            Ok(other) => panic!("{other:?}"),
            Err(failure) => {
                assert_eq!(failure.code.as_str(), "rate_limited");
                break;
            }
        }
        assert!(found < 30, "it is never refused");
    }
    assert!(found >= 10, "ten at once: {found}");
}

#[tokio::test]
async fn the_page_loads_pictures_only_from_the_configured_hosts() {
    let server = Server::start_with(with_pictures).await;
    for path in ["/", "/embed"] {
        let page = server.gets(path).await;
        if page.status == 200 {
            let policy = page.header("content-security-policy");
            assert!(policy.contains("img-src 'self' data: https://images.example.com;"), "{policy}");
        }
    }
}

#[tokio::test]
async fn a_new_name_reaches_the_followers_on_every_node() {
    let cluster = Cluster::start(3).await;
    let mut ana = cluster.node(0).connects("ana").await;
    ana.makes_room("r", &["b0", "b1", "b2"]).await;
    let mut followers = Vec::new();
    for node in 0..3 {
        let mut follower = cluster.node(node).connects(&format!("b{node}")).await;
        eventually("every node knows the feature", || async {
            follower_knows(cluster.node(node)).await.then_some(())
        })
        .await;
        asks_for(&mut follower, &["ana"]).await;
        followers.push(follower);
    }
    let began = Instant::now();
    ana.does("profile", json!({"name": "Ana María"})).await;
    for follower in &mut followers {
        assert_eq!(receives_name(follower, "ana", "Ana María").await, 1);
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    for follower in &mut followers {
        follower.receives_nothing().await;
    }
}

/// Whether a node accepts the commands about profiles.
async fn follower_knows(node: &Server) -> bool {
    node.posts("users", json!({"as": "probe", "users": []})).await.status == 200
}

#[tokio::test]
async fn without_a_bus_a_new_name_reaches_the_other_node_by_the_next_sweep() {
    let shared = SharedEngines::without_bus().await;
    let cluster = Cluster::start_on(shared, 2, |config| {
        if let Some(cluster) = &mut config.cluster {
            cluster.settings.sweep = Duration::from_millis(300);
        }
    })
    .await;
    let mut ana = cluster.node(0).connects("ana").await;
    ana.makes_room("r", &["bob"]).await;
    let mut bob = cluster.node(1).connects("bob").await;
    eventually("both nodes know the feature", || async {
        let known = follower_knows(cluster.node(0)).await && follower_knows(cluster.node(1)).await;
        known.then_some(())
    })
    .await;
    asks_for(&mut bob, &["ana"]).await;
    ana.does("profile", json!({"name": "Ana"})).await;
    assert_eq!(in_time("the name", receives_name(&mut bob, "ana", "Ana")).await, 1);
}
