//! Customers of a shop, who may reach agents and nobody else: each door answers about another customer as about an id that nobody
//! has.

use std::time::Duration;

use serde_json::{Value, json};
use switchboard_protocol::reply::{Failure, Reply};
use switchboard_protocol::{Directory, Inviters, Permissions};

use crate::keys::key_with;
use crate::support::{Person, Server};

/// Another customer, and an id of the same length that nobody has.
const OTHER: &str = "cus_2";
const NOBODY: &str = "cus_9";

/// A shop with two customers, each with a direct conversation and a room of their own with the same agent.
async fn shop() -> (Server, String) {
    let server = Server::start_with_auth_and(|config| {
        config.permissions.create_rooms = false;
        config.permissions.public_rooms = false;
        config.permissions.invite = Inviters::Admins;
        config.permissions.contact = vec!["agent_*".to_owned()];
        config.permissions.directory = Directory::Shared;
    })
    .await;
    let key = key_with(&server, "shop", |key| key);
    let posts = async |command: &str, body: Value| server.posts_as(&key, command, body).await.ok();
    for customer in ["cus_1", OTHER] {
        posts("send", json!({"as": "agent_1", "to": format!("@{customer}"), "text": "may I help?"})).await;
        posts("send", json!({"as": customer, "to": "@agent_1", "text": "yes"})).await;
        let visit = json!({"as": "agent_1", "room": format!("visit-{customer}"), "members": [customer]});
        posts("create", visit).await;
    }
    posts("create", json!({"as": "agent_1", "room": "news", "public": true, "members": [OTHER]})).await;
    posts("profile", json!({"as": OTHER, "name": "Customer Two"})).await;
    (server, key)
}

/// Commands in which `*` stands for the other customer's id. Each must be refused.
fn refused_commands() -> Vec<(&'static str, Value)> {
    let mut commands = vec![
        ("send", json!({"to": "@*", "text": "hi"})),
        ("create", json!({"room": "ours", "members": ["*"]})),
        ("create", json!({"room": "mine"})),
        ("create", json!({"room": "open", "public": true})),
        ("join", json!({"conversation": "#visit-*"})),
        ("invite", json!({"conversation": "#visit-cus_1", "user": "*"})),
        ("role", json!({"conversation": "#visit-cus_1", "user": "*", "role": "admin"})),
        ("remove", json!({"conversation": "#visit-cus_1", "user": "*"})),
        ("members", json!({"conversation": "#visit-cus_1", "after": "*"})),
        ("conversations", json!({"before": "@agent_1:*"})),
    ];
    for conversation in ["@*", "@agent_1:*", "#visit-*"] {
        for (command, fields) in [
            ("history", json!({})),
            ("sync", json!({"after": 0})),
            ("members", json!({})),
            ("read", json!({"upto": 1})),
            ("received", json!({"upto": 1})),
            ("typing", json!({})),
            ("edit", json!({"target": 1, "text": "no"})),
            ("delete", json!({"target": 1})),
            ("react", json!({"target": 1, "emoji": "👍", "on": true})),
            ("leave", json!({})),
        ] {
            let mut fields = fields;
            fields["conversation"] = json!(conversation);
            commands.push((command, fields));
        }
    }
    commands
}

fn about(fields: &Value, user: &str) -> Value {
    serde_json::from_str(&fields.to_string().replace('*', user)).expect("JSON")
}

/// What an answer says, without the id that it was asked about.
fn without(text: &str, user: &str) -> String {
    text.replace(user, "*")
}

#[tokio::test]
async fn a_customer_is_refused_about_another_as_about_nobody() {
    let (server, _) = shop().await;
    let token = server.token("cus_1", Duration::from_secs(600));
    let mut customer = server.connects("cus_1").await;
    for (command, fields) in refused_commands() {
        let mut over_socket = Vec::new();
        let mut over_http = Vec::new();
        for user in [OTHER, NOBODY] {
            let what = format!("{command} {}", about(&fields, user));
            let Failure { code, message, permission, .. } =
                customer.tries(command, about(&fields, user)).await.expect_err(&what);
            over_socket.push((code, without(&message, user), permission));
            let answer = server.posts_as(&token, command, about(&fields, user)).await;
            assert!((400..500).contains(&answer.status) && answer.status != 429, "{what}: {answer:?}");
            let mut problem = answer.json();
            problem.as_object_mut().expect("an object").remove("instance");
            over_http.push((answer.status, without(&problem.to_string(), user)));
        }
        assert_eq!(over_socket[0], over_socket[1], "{command} {fields}");
        assert_eq!(over_http[0], over_http[1], "{command} {fields}");
    }
}

#[tokio::test]
async fn lists_profiles_and_searches_do_not_name_another_customer() {
    let (server, _) = shop().await;
    let token = server.token("cus_1", Duration::from_secs(600));
    let mut customer = server.connects("cus_1").await;
    let mut answers = Vec::new();
    for (command, fields) in [
        ("users", json!({"users": [OTHER, NOBODY, "cus_1", "agent_1"]})),
        ("find_users", json!({"query": "cus"})),
        ("find_users", json!({"query": "Customer"})),
        ("find_users", json!({"query": OTHER})),
        ("conversations", json!({})),
        ("members", json!({"conversation": "@agent_1"})),
        ("members", json!({"conversation": "#visit-cus_1"})),
        ("history", json!({"conversation": "@agent_1"})),
        ("sync", json!({"conversation": "#visit-cus_1", "after": 0})),
    ] {
        let body = customer.does(command, fields.clone()).await;
        answers.push((command, format!("{body:?}")));
        let answer = server.posts_as(&token, command, fields).await.ok();
        answers.push((command, answer.to_string()));
    }
    answers.push(("welcome", format!("{:?}", customer.welcome)));
    for (command, answer) in answers {
        assert!(!answer.contains(OTHER) && !answer.contains("Customer Two"), "{command}: {answer}");
        assert!(!answer.contains("#news"), "{command}: {answer}");
    }
}

/// Sends `read` over HTTP as another user does, which a member would get as a signal.
async fn reads_over_http(server: &Server, key: &str, user: &str, conversation: &str) {
    let body = json!({"as": user, "conversation": conversation, "upto": 1});
    server.posts_as(key, "read", body).await.ok();
}

#[tokio::test]
async fn presence_signals_and_events_of_another_customer_do_not_arrive() {
    let (server, key) = shop().await;
    let mut customer = server.connects("cus_1").await;
    customer.does("watch", json!({"users": [OTHER, NOBODY]})).await;
    let mut other = server.connects(OTHER).await;
    other.says("@agent_1", "it is me").await;
    other.says("#visit-cus_2", "and here").await;
    other.does("typing", json!({"conversation": "#visit-cus_2"})).await;
    reads_over_http(&server, &key, OTHER, "@agent_1").await;
    server.posts_as(&key, "profile", json!({"as": OTHER, "name": "Renamed"})).await.ok();
    drop(other);
    customer.receives_nothing().await;
}

#[tokio::test]
async fn a_cursor_of_another_customers_conversation_is_refused_as_one_of_nobody() {
    let (server, _) = shop().await;
    let mut refusals = Vec::new();
    for user in [OTHER, NOBODY] {
        let (direct, room) = (format!("@agent_1:{user}"), format!("#visit-{user}"));
        let mut customer: Person = server.resumes("cus_1", &[(&direct, 0), (&room, 0)]).await;
        for _ in 0..2 {
            let Reply::Error(failure) = customer.receives_reply().await else { panic!("an error") };
            let conversation = failure.conversation.expect("the cursor's").to_string();
            refusals.push((failure.code, without(&conversation, user), without(&failure.message, user)));
        }
    }
    let (of_other, of_nobody) = refusals.split_at(2);
    assert_eq!(of_other, of_nobody);
}

#[tokio::test]
async fn a_customers_token_opens_no_door_of_the_back_end() {
    let (server, _) = shop().await;
    let token = server.token("cus_1", Duration::from_secs(600));
    for call in switchboard_protocol::Command::HTTP_ONLY {
        let body = json!({"after": "0", "user": OTHER, "users": [OTHER], "profiles": []});
        let answer = server.posts_as(&token, call, body).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"), "{call}: {answer:?}");
        assert!(!answer.text.contains(OTHER), "{call}: {answer:?}");
    }
    let stream = server.asks("GET", "/v1/feed").bearer_auth(&token);
    assert_eq!(server.request(stream).await.status, 403);
    let as_other = json!({"as": OTHER, "conversation": "@agent_1"});
    assert_eq!(server.posts_as(&token, "history", as_other).await.code(), "forbidden");
}

#[tokio::test]
async fn who_was_written_to_first_answers_and_who_was_not_does_not_begin() {
    let (server, _) = shop().await;
    let mut customer = server.connects("cus_1").await;
    customer.says("@agent_1", "one more question").await;
    customer.says("@agent_2", "and to you").await;
    let told = customer.welcome.permissions.clone().expect("in `welcome`");
    let wanted = Permissions {
        create_rooms: false,
        public_rooms: false,
        invite: Inviters::Admins,
        contact: vec!["agent_*".to_owned()],
        ..Permissions::default()
    };
    assert_eq!(*told, wanted);
}
