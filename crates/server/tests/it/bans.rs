//! Moderators keep users out of the installation: at once on every node, at every door, until the ban ends by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::config::Config;
use switchboard_client::ClientError;
use switchboard_protocol::reply::{Failure, Reply, ServerFrame};
use switchboard_protocol::{ErrorCode, Timestamp};
use switchboard_store::clock::Clock;
use switchboard_store::grant::Scope;
use tokio::time::Instant;

use crate::check::assert_check_finds_no_problem_after_a_stop;
use crate::keys::{for_shop_users, key_with};
use crate::support::{Person, Server, SharedEngines, eventually, in_time};

/// The time within which a ban closes all connections of its user.
const MAX_BAN_TIME: Duration = Duration::from_secs(5);

const BANNED_CODE: Option<u16> = Some(4503);

const DAY_MS: i64 = 86_400_000;

/// The time of the clocks of all nodes, which only the test moves.
#[derive(Clone)]
pub(crate) struct Time(Arc<AtomicI64>);

impl Time {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicI64::new(1_800_000_000_000)))
    }

    pub(crate) fn clock(&self) -> Clock {
        let now = self.0.clone();
        Clock::from_fn(move || Timestamp::from_millis(now.load(Ordering::Relaxed)))
    }

    pub(crate) fn moves(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }

    /// The time this many milliseconds from now, as it is on the wire.
    pub(crate) fn after(&self, ms: i64) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed) + ms)
    }
}

/// Starts a production server with the limits of one.
pub(crate) async fn server_at(time: &Time, settings: impl FnOnce(&mut Config)) -> Server {
    Server::start_with_auth_and_clock(time.clock(), settings).await
}

/// Starts nodes of one installation.
pub(crate) async fn nodes_at(
    time: &Time,
    shared: &SharedEngines,
    count: usize,
    settings: impl Fn(&mut Config),
) -> Vec<Server> {
    let mut nodes = Vec::new();
    for _ in 0..count {
        let node = server_at(time, |config| {
            shared.configure(config);
            settings(config);
        });
        nodes.push(node.await);
    }
    nodes
}

/// Keys of moderators and back ends.
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

/// Makes a call once every node has the features that it needs.
pub(crate) async fn calls(server: &Server, key: &str, call: &str, body: Value) -> Value {
    let answer = eventually("all nodes have the feature", || async {
        let answer = server.posts_as(key, call, body.clone()).await;
        let waits = answer.status != 200 && matches!(answer.code().as_str(), "unknown_type" | "not_ready");
        (!waits).then_some(answer)
    });
    answer.await.ok()
}

/// Waits until all nodes have a feature.
pub(crate) async fn wait_for_feature(server: &Server, feature: &str) {
    eventually("all nodes have the feature", async || {
        let person = server.connects("nobody").await;
        person.welcome.features.iter().any(|on| on == feature).then_some(())
    })
    .await;
}

/// Reads until the connection is closed. Returns the error before that, and the code.
async fn is_closed_with_error(person: &mut Person) -> (Option<Failure>, Option<u16>) {
    let mut error = None;
    in_time("the end of the connection", async {
        while let Some(frame) = person.client.next().await {
            if let Ok(ServerFrame::Reply(Reply::Error(failure))) = frame {
                error = Some(failure);
            }
        }
    })
    .await;
    (error, person.client.close_code())
}

/// Asserts that a user is refused as banned at every door, until the time.
async fn is_refused_everywhere(server: &Server, admin: &str, name: &str, until: Option<Timestamp>) {
    match server.tries_to_connect(server.hello(name, &[])).await {
        Err(ClientError::Refused(failure)) => {
            assert_eq!((failure.code, failure.until, failure.retryable), (ErrorCode::Banned, until, false));
        }
        Err(other) => panic!("{other}"),
        Ok(person) => panic!("{} is connected", person.name()),
    }
    let mut socket = server.open_socket().await;
    let token = server.token(name, Duration::from_secs(3_600));
    socket.says(&json!({"type": "hello", "token": token}).to_string()).await;
    let (error, code) = socket.error_and_close_code().await;
    assert_eq!((error.expect("an error")["code"].as_str(), Some(code)), (Some("banned"), BANNED_CODE));
    for (command, fields) in [
        ("send", json!({"to": "@alice", "text": "let me in"})),
        ("history", json!({"conversation": "#r"})),
        ("conversations", json!({})),
        ("users", json!({"users": ["alice"]})),
        ("typing", json!({"conversation": "#r"})),
        ("read", json!({"conversation": "#r", "upto": 1})),
        ("create", json!({"room": "mine"})),
    ] {
        let mut by_key = fields.clone();
        by_key["as"] = json!(name);
        for (bearer, body) in [(token.as_str(), fields), (admin, by_key)] {
            let answer = server.posts_as(bearer, command, body.clone()).await;
            assert_eq!((answer.status, answer.code().as_str()), (403, "banned"), "{command} {body}");
            assert_eq!(answer.json()["until"], json!(until), "{command} {body}");
        }
    }
}

/// What a ban does, on any number of nodes.
async fn a_ban_holds_until_it_ends(nodes: &mut [Server], time: &Time) {
    let keys = Keys::new(&nodes[0]);
    let last = nodes.len() - 1;
    let mut alice = nodes[0].connects("alice").await;
    alice.makes_public_room("r", &["bob"]).await;
    alice.says("#r", "hello").await;
    let mut devices = Vec::new();
    for node in nodes.iter() {
        devices.push(node.connects("bob").await);
        devices.push(node.connects("bob").await);
    }
    devices[0].says("#r", "spam").await;

    let until = time.after(DAY_MS);
    let began = Instant::now();
    let ban = json!({"user": "bob", "until": until, "reason": "spam, three times", "note": "see #42"});
    calls(&nodes[0], &keys.moderator, "ban", ban).await;
    for device in &mut devices {
        let (error, code) = is_closed_with_error(device).await;
        let error = error.expect("an error before the close");
        assert_eq!((error.code, error.until, code), (ErrorCode::Banned, Some(until), BANNED_CODE));
        assert_eq!(error.message, "spam, three times");
    }
    assert!(began.elapsed() < MAX_BAN_TIME, "{:?}", began.elapsed());
    for node in nodes.iter() {
        is_refused_everywhere(node, &keys.admin, "bob", Some(until)).await;
    }

    // Others are not concerned, and everything of the user stays.
    alice.says("@bob", "stored all the same").await;
    let members = alice.members("#r").await;
    assert!(members.iter().any(|member| member.user.as_str() == "bob"), "{members:?}");
    assert_eq!(alice.history("#r").await.len(), 2);

    // Neither a revocation, an invitation, a rename nor a restart ends it.
    nodes[last].posts_as(&keys.moderator, "revoke", json!({"user": "bob"})).await.ok();
    time.moves(2_000);
    let mut carol = nodes[last].connects("carol").await;
    carol.makes_room("other", &["bob"]).await;
    calls(&nodes[last], &keys.admin, "rename_user", json!({"user": "bob", "to": "robert"})).await;
    for node in nodes.iter_mut() {
        node.restart().await;
        is_refused_everywhere(node, &keys.admin, "robert", Some(until)).await;
    }
    let listed = nodes[last].posts_as(&keys.moderator, "bans", json!({})).await.ok();
    let bans = listed["bans"].as_array().expect("a list");
    assert_eq!(bans.len(), 1, "{listed}");
    assert_eq!((&bans[0]["user"], &bans[0]["until"]), (&json!("robert"), &json!(until)));
    assert_eq!((&bans[0]["reason"], &bans[0]["note"]), (&json!("spam, three times"), &json!("see #42")));

    // It ends at its time, and no call is made for that.
    time.moves(DAY_MS - 2_000 - 1);
    is_refused_everywhere(&nodes[last], &keys.admin, "robert", Some(until)).await;
    time.moves(1);
    let mut robert = nodes[last].connects("robert").await;
    robert.says("#r", "back").await;
    assert_eq!(robert.conversations().await.len(), 3);
    let listed = nodes[0].posts_as(&keys.moderator, "bans", json!({})).await.ok();
    assert_eq!(listed["bans"], json!([]));
}

#[tokio::test]
async fn a_ban_holds_on_three_nodes_until_it_ends_by_itself() {
    let (time, shared) = (Time::new(), SharedEngines::new().await);
    let mut nodes = nodes_at(&time, &shared, 3, |_| {}).await;
    a_ban_holds_until_it_ends(&mut nodes, &time).await;
}

#[tokio::test]
async fn a_ban_holds_on_one_node_until_it_ends_by_itself() {
    let time = Time::new();
    let mut nodes = vec![server_at(&time, |_| {}).await];
    a_ban_holds_until_it_ends(&mut nodes, &time).await;
    let mut server = nodes.pop().expect("a server");
    assert_check_finds_no_problem_after_a_stop(&mut server).await;
}

#[tokio::test]
async fn a_ban_whose_notice_is_lost_closes_connections_by_the_sweep() {
    let (time, shared) = (Time::new(), SharedEngines::without_bus().await);
    let nodes = nodes_at(&time, &shared, 2, |config| {
        if let Some(cluster) = &mut config.cluster {
            cluster.settings.sweep = Duration::from_millis(500);
        }
    });
    let nodes = nodes.await;
    let keys = Keys::new(&nodes[0]);
    let mut bob = nodes[1].connects("bob").await;
    calls(&nodes[0], &keys.moderator, "ban", json!({"user": "bob"})).await;
    let (error, code) = is_closed_with_error(&mut bob).await;
    let error = error.expect("an error before the close");
    assert_eq!((error.code, error.until, code), (ErrorCode::Banned, None, BANNED_CODE));
    is_refused_everywhere(&nodes[1], &keys.admin, "bob", None).await;
}

#[tokio::test]
async fn a_ban_is_ended_by_a_moderator_and_names_a_user_who_is_not_known_yet() {
    let time = Time::new();
    let server = server_at(&time, |_| {}).await;
    let keys = Keys::new(&server);
    let reader = key_with(&server, "reader", |key| key.with_scopes([Scope::Feed, Scope::Moderate]));
    calls(&server, &keys.moderator, "ban", json!({"user": "eve", "reason": "known elsewhere", "note": "n"}))
        .await;
    is_refused_everywhere(&server, &keys.admin, "eve", None).await;
    for _ in 0..2 {
        calls(&server, &keys.moderator, "ban", json!({"user": "eve", "on": false})).await;
    }
    server.connects("eve").await.says("@alice", "thank you").await;

    let types = json!(["user.new", "user.banned", "audit.ban"]);
    let page = server.posts_as(&keys.admin, "feed", json!({"after": "0", "types": types})).await.ok();
    let entries: Vec<_> = page["entries"].as_array().expect("entries").iter().collect();
    let of = |kind: &str| -> Vec<&Value> {
        entries.iter().filter(|entry| entry["type"] == kind && entry["user"] == "eve").copied().collect()
    };
    assert_eq!(of("user.new").len(), 1);
    let (told, audited) = (of("user.banned"), of("audit.ban"));
    assert_eq!((told.len(), audited.len()), (2, 2), "ending what has ended is no entry: {page}");
    assert_eq!((&told[0]["on"], &told[0]["reason"]), (&json!(true), &json!("known elsewhere")));
    assert_eq!((&told[1]["on"], told[0].get("note")), (&json!(false), None));
    assert_eq!((&audited[0]["note"], &audited[0]["via"]), (&json!("n"), &json!("moderator")));
    assert_eq!(audited[0]["address"], json!("127.0.0.1"));
    let page = server.posts_as(&reader, "feed", json!({"after": "0"})).await.ok();
    assert!(!page.to_string().contains("audit.ban") && page.to_string().contains("user.banned"), "{page}");
}

#[tokio::test]
async fn a_ban_renews_no_token_and_refuses_what_names_its_fields() {
    let time = Time::new();
    let server = server_at(&time, |_| {}).await;
    let keys = Keys::new(&server);
    let shop = key_with(&server, "shop", |key| for_shop_users(key.with_scopes([Scope::Moderate])));
    let past = time.after(-1);
    let far = time.after(11 * 366 * DAY_MS);
    for (body, status, field) in [
        (json!({"user": "bob", "until": past}), 400, "until"),
        (json!({"user": "bob", "until": far}), 400, "until"),
        (json!({"user": "bob", "until": "tomorrow"}), 400, "until"),
        (json!({"user": "bob", "reason": ""}), 400, "reason"),
        (json!({"user": "bob", "reason": "x".repeat(501)}), 413, "reason"),
        (json!({"user": "bob", "note": "a\u{0}b"}), 400, "note"),
        (json!({"user": "bob", "on": false, "until": time.after(DAY_MS)}), 400, "until"),
        (json!({"user": "#bob"}), 400, "user"),
        (json!({"user": "bob", "on": false, "shadow": true}), 400, "shadow"),
        (json!({"user": "bob", "shadow": true, "reason": "told"}), 400, "reason"),
    ] {
        let answer = server.posts_as(&keys.moderator, "ban", body.clone()).await;
        let named = answer.json()["field"].clone();
        assert_eq!((answer.status, named), (status, json!(field)), "{body}");
    }
    let refused = server.posts_as(&shop, "ban", json!({"user": "bob"})).await;
    assert_eq!((refused.status, refused.code().as_str()), (403, "forbidden"));
    for token in [server.token("alice", Duration::from_secs(60)), key_with(&server, "act", |key| key)] {
        for call in ["ban", "bans"] {
            assert_eq!(server.posts_as(&token, call, json!({"user": "bob"})).await.code(), "forbidden");
        }
    }
    server.connects("bob").await.says("@alice", "never banned").await;
    server.posts_as(&shop, "ban", json!({"user": "shop-1"})).await.ok();
    server.posts_as(&keys.moderator, "ban", json!({"user": "mallory"})).await.ok();
    let listed = server.posts_as(&shop, "bans", json!({})).await.ok();
    assert_eq!(listed["bans"].as_array().map(Vec::len), Some(1), "a key sees its users: {listed}");
    let page = server.posts_as(&keys.moderator, "bans", json!({"limit": 1})).await.ok();
    assert_eq!((page["bans"][0]["user"].as_str(), &page["more"]), (Some("shop-1"), &json!(true)));
    let next = json!({"limit": 1, "after": page["next"]});
    let page = server.posts_as(&keys.moderator, "bans", next).await.ok();
    assert_eq!((page["bans"][0]["user"].as_str(), &page["more"]), (Some("mallory"), &json!(false)));
}
