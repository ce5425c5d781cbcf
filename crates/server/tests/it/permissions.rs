//! Permissions, by the configuration and by the token, on every door.

use std::time::Duration;

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};
use switchboard::config::{Config, PermissionsSection};
use switchboard_protocol::reply::{Failure, OkBody};
use switchboard_protocol::{Directory, Hello, Inviters, Signal};
use switchboard_store::clock::Clock;

use crate::keys::key_with;
use crate::support::{Person, SECRET, Server};

/// A token of a user, with what it says the user may do.
pub(crate) fn token(user: &str, permissions: &Value) -> String {
    token_at(&Clock::system(), user, permissions)
}

/// The same, by another clock.
pub(crate) fn token_at(clock: &Clock, user: &str, permissions: &Value) -> String {
    let now = clock.now().as_millis() / 1_000;
    let claims = json!({"sub": user, "iat": now, "exp": now + 300, "switchboard": permissions});
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).expect("a token")
}

async fn connects(server: &Server, token: &str) -> Person {
    let hello =
        Hello { token: Some(token.to_owned()), user: None, device: None, cursors: Default::default() };
    server.tries_to_connect(hello).await.expect("welcome")
}

/// A permission, and a command that needs it. `*` in the fields stands for a name that is used once.
struct Case {
    permission: &'static str,
    /// The claim or the settings without it.
    without: Value,
    command: &'static str,
    fields: Value,
}

fn cases() -> Vec<Case> {
    let case = |permission, without, command, fields| Case { permission, without, command, fields };
    let agents = || json!({"contact": ["agent_*"]});
    vec![
        case("create_rooms", json!({"create_rooms": false}), "create", json!({"room": "*"})),
        case("public_rooms", json!({"public_rooms": false}), "create", json!({"room": "*", "public": true})),
        case("public_rooms", json!({"public_rooms": false}), "join", json!({"conversation": "#open-*"})),
        case(
            "invite",
            json!({"invite": "admins"}),
            "invite",
            json!({"conversation": "#shop-*", "user": "agent_2"}),
        ),
        case("contact", agents(), "invite", json!({"conversation": "#shop-*", "user": "cus_2"})),
        case("contact", agents(), "invite", json!({"conversation": "#shop-*", "user": "nobody"})),
        case("contact", agents(), "create", json!({"room": "*", "members": ["agent_1", "cus_2"]})),
        case("contact", agents(), "send", json!({"to": "@cus_2", "text": "hi"})),
        case("contact", agents(), "send", json!({"to": "@nobody", "text": "hi"})),
    ]
}

fn settings(without: &Value) -> PermissionsSection {
    serde_json::from_value(without.clone()).expect("settings")
}

/// The rooms that the cases name, made by a back end.
async fn prepares(server: &Server, key: &str, name: &str) {
    let posts = async |command: &str, body: Value| server.posts_as(key, command, body).await.ok();
    posts("create", json!({"as": "agent_1", "room": format!("open-{name}"), "public": true})).await;
    let shop = json!({"as": "agent_1", "room": format!("shop-{name}"), "public": true, "members": ["cus_1"]});
    posts("create", shop).await;
}

#[tokio::test]
async fn every_door_asks_for_every_permission() {
    for case in cases() {
        for by_claim in [true, false] {
            let permissions = if by_claim { PermissionsSection::default() } else { settings(&case.without) };
            let set = |config: &mut Config| config.permissions = permissions;
            let server = Server::start_with_auth_and(set).await;
            let key = key_with(&server, "shop", |key| key);
            let claim = if by_claim { case.without.clone() } else { Value::Null };
            let what = format!("{} {} {}", case.permission, case.command, case.fields);
            let named = |name: &str| {
                let text = case.fields.to_string().replace('*', name);
                serde_json::from_str::<Value>(&text).expect("JSON")
            };
            prepares(&server, &key, "a").await;
            let token = token("cus_1", &claim);
            let mut person = connects(&server, &token).await;
            let Failure { code, permission, .. } =
                person.tries(case.command, named("a")).await.expect_err(&what);
            assert_eq!(
                (code.as_str(), permission.as_deref()),
                ("forbidden", Some(case.permission)),
                "{what}"
            );

            let answer = server.posts_as(&token, case.command, named("a")).await;
            assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"), "{what}");
            assert_eq!(answer.json()["permission"], case.permission, "{what}");

            let mut as_user = named("a");
            as_user["as"] = json!("cus_1");
            server.posts_as(&key, case.command, as_user).await.ok();
        }
    }
}

#[tokio::test]
async fn a_client_learns_what_its_user_may_do_and_a_newer_token_changes_it() {
    let server = Server::start_with_auth_and(|config| {
        config.permissions.create_rooms = false;
        config.permissions.contact = vec!["agent_*".to_owned()];
    })
    .await;
    let mut customer = connects(&server, &token("cus_1", &json!({"directory": "off"}))).await;
    let told = customer.welcome.permissions.clone().expect("in `welcome`");
    assert_eq!((told.create_rooms, told.public_rooms, told.invite), (false, true, Inviters::Members));
    assert_eq!((told.contact.as_slice(), told.directory), (&["agent_*".to_owned()][..], Directory::Off));
    assert_eq!(customer.is_refused("create", json!({"room": "r"})).await.as_str(), "forbidden");
    let newer = token("cus_1", &json!({"create_rooms": true, "contact": ["all"]}));
    match customer.does("token", json!({ "token": newer })).await {
        OkBody::Token { permissions: Some(now), .. } => {
            assert!(
                now.create_rooms && now.contact == ["all"] && now.directory == Directory::Shared,
                "{now:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    customer.does("create", json!({"room": "r"})).await;
    customer.says("@cus_2", "hi").await;
    let narrower = token("cus_1", &json!({"contact": []}));
    customer.does("token", json!({ "token": narrower })).await;
    assert_eq!(
        customer.is_refused("send", json!({"to": "@agent_1", "text": "hi"})).await.as_str(),
        "forbidden"
    );
    customer.says("@cus_2", "a conversation that exists goes on").await;
}

#[tokio::test]
async fn a_claim_that_cannot_be_read_is_refused() {
    let server = Server::start_with_auth().await;
    for wrong in [
        json!({"create_rooms": "no"}),
        json!({"contact": "agent_*"}),
        json!({"contact": ["a b"]}),
        json!({"directory": "none"}),
        json!([]),
        json!("admin"),
    ] {
        let answer = server.posts_as(&token("cus_1", &wrong), "ping", json!({})).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"), "{wrong}");
    }
    let newer = json!({"create_rooms": true, "a permission of a newer version": 7});
    server.posts_as(&token("cus_1", &newer), "ping", json!({})).await.ok();
}

#[tokio::test]
async fn the_directory_of_a_token_holds_on_both_doors() {
    let server = Server::start_with_auth_and(|config| config.permissions.directory = Directory::All).await;
    for user in ["cus_2", "agent_1"] {
        server.connects(user).await;
    }
    let narrow = token("cus_1", &json!({"directory": "off"}));
    let mut customer = connects(&server, &narrow).await;
    let asked = json!({"users": ["cus_1", "cus_2", "agent_1"]});
    let OkBody::Users { users, .. } = customer.does("users", asked.clone()).await else { panic!("users") };
    assert_eq!(users.len(), 1, "{users:?}");
    let OkBody::Users { users, .. } = customer.does("find_users", json!({"query": "cus"})).await else {
        panic!("users")
    };
    assert_eq!(users, []);
    let answer = server.posts_as(&narrow, "users", asked.clone()).await.ok();
    assert_eq!(answer["users"].as_array().map(Vec::len), Some(1));
    let wide = server.token("cus_1", Duration::from_secs(60));
    let answer = server.posts_as(&wide, "users", asked).await.ok();
    assert_eq!(answer["users"].as_array().map(Vec::len), Some(3));
}

#[tokio::test]
async fn presence_and_receipts_of_a_direct_conversation_begin_when_both_have_written() {
    let server = Server::start_with_auth().await;
    let mut alice = server.connects("alice").await;
    let mut bob = server.connects("bob").await;
    alice.says("@bob", "hi").await;
    bob.receives_message("hi").await;
    for (person, other) in [(&mut alice, "bob"), (&mut bob, "alice")] {
        person.does("watch", json!({"users": [other]})).await;
        person.receives_nothing().await;
    }
    bob.does("read", json!({"conversation": "@alice", "upto": 1})).await;
    alice.receives_nothing().await;
    assert!(
        alice.members("@bob").await.iter().all(|member| member.user.as_str() != "bob" || member.read.0 == 0)
    );

    bob.says("@alice", "hello").await;
    alice.receives_message("hello").await;
    alice.does("watch", json!({"users": ["bob"]})).await;
    assert!(matches!(alice.receives_signal().await, Signal::Presence { online: true, .. }));
    alice.does("read", json!({"conversation": "@bob", "upto": 2})).await;
    assert!(matches!(bob.receives_signal().await, Signal::Read { upto, .. } if upto.0 == 2));
    bob.does("read", json!({"conversation": "@alice", "upto": 2})).await;
    assert!(matches!(alice.receives_signal().await, Signal::Read { .. }));
}
