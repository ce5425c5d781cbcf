//! `open`: the application is asked before a user is connected.

use std::time::Duration;

use serde_json::json;
use switchboard::config::{Ask, OnFailure};
use switchboard_client::ClientError;
use switchboard_protocol::{CloseCode, ErrorCode, Timestamp};

use super::{SHORT_TIMEOUT, answer_of, server_asking, server_with};
use crate::keys::key_with;
use crate::support::{Application, Server, TextSocket, in_time};
use switchboard_store::clock::Clock;
use switchboard_store::grant::Scope;
use switchboard_store::keys;

/// Connects as alice, and receives the error and the close code of a refusal.
async fn refusal_of(server: &Server) -> (serde_json::Value, u16) {
    let mut socket = server.open_socket().await;
    let hello = switchboard_protocol::Command::from(server.hello("alice", &[]));
    socket.says(&serde_json::to_string(&hello).expect("JSON")).await;
    let (error, code) = socket.error_and_close_code().await;
    (error.expect("an error"), code)
}

#[tokio::test]
async fn a_user_comes_in_once_the_application_accepts_and_joins_the_rooms_that_it_names() {
    let (server, mut application) = server_asking(&[Ask::Open]).await;
    let joins = json!({"action": "accept", "join": ["#general", "#secret", "#nowhere"]});
    let (mut bob, ()) =
        tokio::join!(server.connects("bob"), async { application.is_asked().await.accepts() });
    bob.makes_public_room("general", &[]).await;
    bob.makes_room("secret", &[]).await;
    let (mut alice, ()) = tokio::join!(server.connects("alice"), async {
        let question = application.is_asked().await;
        question.is_signed();
        assert_eq!(question.json()["type"], "ask.open");
        let data = question.data();
        assert_eq!((&data["user"], &data["address"]), (&json!("alice"), &json!("127.0.0.1")));
        assert_eq!(data["claims"]["sub"], "alice");
        question.answers(joins.clone());
    });
    let conversations: Vec<_> =
        alice.welcome.conversations.iter().map(|summary| summary.conversation.to_string()).collect();
    assert_eq!(conversations, ["#general"], "a private room is not joined, as by the user's own `join`");
    assert_eq!(bob.receives_event().await.from.as_str(), "alice");
    bob.says("#general", "welcome").await;
    alice.receives_message("welcome").await;
    // A member who comes back joins nothing again.
    let (_phone, ()) =
        tokio::join!(server.connects("alice"), async { application.is_asked().await.answers(joins) });
    bob.receives_nothing().await;
}

#[tokio::test]
async fn a_join_by_the_hook_names_the_hook_in_the_feed() {
    let (server, mut application) = server_asking(&[Ask::Open]).await;
    let act = key_with(&server, "shop", |key| key.with_scopes([Scope::Act]));
    let feed = key_with(&server, "reader", |key| key.with_scopes([Scope::Feed]));
    server.posts_as(&act, "create", json!({"as": "shop", "room": "general", "public": true})).await.ok();
    let (_alice, ()) = tokio::join!(server.connects("alice"), async {
        application.is_asked().await.answers(json!({"action": "accept", "join": ["#general"]}));
    });
    let page =
        server.posts_as(&feed, "feed", json!({"after": "0", "types": ["join"], "wait": 5_000})).await.ok();
    let entries = page["entries"].as_array().expect("entries");
    assert_eq!((entries.len(), &entries[0]["via"]), (1, &json!("hook")), "{page}");
}

#[tokio::test]
async fn a_refused_user_gets_the_reason_and_does_not_come_back() {
    let (server, mut application) = server_asking(&[Ask::Open]).await;
    let ((error, code), ()) =
        tokio::join!(refusal_of(&server), async { application.is_asked().await.refuses("Closed today.") });
    assert_eq!((&error["code"], &error["message"]), (&json!("refused"), &json!("Closed today.")));
    assert_eq!((code, &error["retryable"]), (4504, &json!(false)));
    let refused = server.tries_to_connect(server.hello("alice", &[]));
    let (refused, ()) = tokio::join!(refused, async { application.is_asked().await.refuses("") });
    let Err(ClientError::Refused(failure)) = refused else { panic!("refused") };
    assert_eq!(failure.code, ErrorCode::Refused);
}

#[tokio::test]
async fn without_an_answer_the_configuration_lets_the_user_in_or_tells_them_to_try_later() {
    let (server, mut application) = server_asking(&[Ask::Open]).await;
    let ((error, code), ()) = tokio::join!(refusal_of(&server), async {
        application.is_asked().await.answers_with("500 Oops", "");
    });
    assert_eq!((&error["code"], &error["retryable"]), (&json!("unavailable"), &json!(true)));
    assert_eq!(code, 1013);
    let (server, mut application) = server_with(&[Ask::Open], |hook| {
        hook.timeout = SHORT_TIMEOUT;
        hook.on_failure = [(Ask::Open, OnFailure::Accept)].into();
    })
    .await;
    let (_alice, ()) = tokio::join!(server.connects("alice"), async { application.is_asked().await.hangs() });
}

/// A server that lets users in without an answer, and whose clients have a short time to say `hello`.
async fn server_with_short_hello() -> (Server, Application) {
    let application = Application::start().await;
    let hook = application.hook(&[(Ask::Open, OnFailure::Accept)]);
    let server = Server::start_with_auth_and(|config| {
        config.hooks = Some(hook);
        config.limits.hello_timeout = 300;
    })
    .await;
    (server, application)
}

/// Opens a socket on which alice says `hello`.
async fn says_hello(server: &Server) -> TextSocket {
    let mut socket = server.open_socket().await;
    let hello = switchboard_protocol::Command::from(server.hello("alice", &[]));
    socket.says(&serde_json::to_string(&hello).expect("JSON")).await;
    socket
}

#[tokio::test]
async fn a_user_does_not_come_in_because_the_time_for_hello_ends_before_the_answer() {
    let (server, mut application) = server_with_short_hello().await;
    let mut alice = says_hello(&server).await;
    let question = application.is_asked().await;
    // A connection that came later has no time left.
    let mut silent = server.open_socket().await;
    assert_eq!(silent.error_and_close_code().await.1, CloseCode::Silent.number());
    question.refuses("Closed today.");
    let (error, code) = alice.error_and_close_code().await;
    assert_eq!((&error.expect("an error")["message"], code), (&json!("Closed today."), 4504));
}

#[tokio::test]
async fn a_user_who_cannot_be_asked_about_yet_does_not_come_in_unasked() {
    let (server, mut application) = server_with_short_hello().await;
    let (mut sockets, mut questions) = (Vec::new(), Vec::new());
    for _ in 0..16 {
        sockets.push(says_hello(&server).await);
        questions.push(application.is_asked().await);
    }
    let (error, code) = says_hello(&server).await.error_and_close_code().await;
    assert_eq!((&error.expect("an error")["code"], code), (&json!("unavailable"), 1013));
    application.is_not_asked();
}

#[tokio::test]
async fn a_question_has_the_claims_of_the_newest_token() {
    let (server, mut application) = server_asking(&[Ask::Message]).await;
    let mut alice = server.connects("alice").await;
    let now = Clock::system().now().as_millis() - 60_000;
    let older = server.token_at(
        Clock::from_fn(move || Timestamp::from_millis(now)),
        "alice",
        Duration::from_secs(600),
    );
    alice.does("token", json!({"token": older})).await;
    let id = alice.submits("send", json!({"to": "@bob", "text": "hi"})).await;
    let question = application.is_asked().await;
    assert_eq!(question.data()["claims"]["iat"], now.div_euclid(1_000));
    question.accepts();
    answer_of(&mut alice, id).await;
}

#[tokio::test]
async fn nothing_is_stored_over_http_once_its_user_or_key_is_revoked_while_the_application_is_asked() {
    let (server, mut application) = server_asking(&[Ask::Message]).await;
    let revoker = key_with(&server, "revoker", |key| key.with_scopes([Scope::Moderate]));
    let shop = key_with(&server, "shop", |key| key.with_scopes([Scope::Act]));
    let token = server.token("alice", Duration::from_secs(60));
    let sends = |bearer: String| {
        let server = &server;
        async move {
            let body = json!({"as": "alice", "to": "@bob", "key": "k", "text": "late"});
            server.posts_as(&bearer, "send", body).await
        }
    };
    let (answer, ()) = tokio::join!(sends(token), async {
        let question = application.is_asked().await;
        server.posts_as(&revoker, "revoke", json!({"user": "alice"})).await.ok();
        question.accepts();
    });
    assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"));
    let (answer, ()) = tokio::join!(sends(shop), async {
        let question = application.is_asked().await;
        keys::revoke(&server.keys(), "shop").expect("the database").expect("the key");
        question.accepts();
    });
    assert_eq!((answer.status, answer.code().as_str()), (401, "unauthorized"));
    let feed = key_with(&server, "reader", |key| key.with_scopes([Scope::Feed]));
    let page = server.posts_as(&feed, "feed", json!({"after": "0", "types": ["message"]})).await.ok();
    assert_eq!(page["entries"], json!([]));
}

#[tokio::test]
async fn the_application_is_not_asked_about_a_revoked_token() {
    let (server, mut application) = server_asking(&[Ask::Open]).await;
    let key = key_with(&server, "shop", |key| key.with_scopes([Scope::Moderate]));
    let hello = server.hello("alice", &[]);
    server.posts_as(&key, "revoke", json!({"user": "alice"})).await.ok();
    let refused = in_time("a refusal", server.tries_to_connect(hello)).await;
    let Err(ClientError::Refused(failure)) = refused else { panic!("refused") };
    assert_eq!(failure.code, ErrorCode::Unauthorized);
    application.is_not_asked();
}
