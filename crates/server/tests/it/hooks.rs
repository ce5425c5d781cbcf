//! The hook: what the application is asked, and what follows from its answers.

mod answers;
mod connections;
mod failures;
mod keys;
mod order;

use std::time::Duration;

use serde_json::{Value, json};
use switchboard::config::{Ask, Config, HooksConfig, OnFailure};
use switchboard_protocol::Event;
use switchboard_protocol::reply::{OkBody, ServerFrame};

use crate::support::{Application, Person, Server, text_of};

/// A production server that asks the application about these, and `unavailable` without an answer.
async fn server_asking(asks: &[Ask]) -> (Server, Application) {
    server_with(asks, |_| {}).await
}

/// Like [`server_asking`], with a hook that `change` changes.
async fn server_with(asks: &[Ask], change: impl FnOnce(&mut HooksConfig)) -> (Server, Application) {
    let application = Application::start().await;
    let asks: Vec<_> = asks.iter().map(|ask| (*ask, OnFailure::Refuse)).collect();
    let mut hook = application.hook(&asks);
    change(&mut hook);
    let server = Server::start_with_auth_and(|config: &mut Config| config.hooks = Some(hook)).await;
    (server, application)
}

/// Receives the answer to a command of a person, and skips events before it.
pub(crate) async fn answer_of(person: &mut Person, id: i64) -> Value {
    loop {
        if let ServerFrame::Reply(reply) = person.next().await {
            let reply = serde_json::to_value(&reply).expect("JSON");
            assert_eq!(reply["id"], id, "{reply}");
            return reply;
        }
    }
}

/// The texts of the messages in a log.
fn texts(log: &[Event]) -> Vec<&str> {
    log.iter().filter_map(text_of).collect()
}

/// The application's event in an `ok`, if there is one.
fn event_in(ok: OkBody) -> Option<Event> {
    match ok {
        OkBody::Stored { event, .. } => event.map(|event| *event),
        other => panic!("nothing was stored: {other:?}"),
    }
}

/// A time that is over before a test waits for long.
const SHORT_TIMEOUT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn a_hooks_metrics_count_questions_answers_and_failures() {
    let (server, mut application) = server_asking(&[Ask::Message]).await;
    let mut alice = server.connects("alice").await;
    let id = alice.submits("send", json!({"to": "@bob", "text": "one"})).await;
    let question = application.is_asked().await;
    assert!((server.metric("switchboard_hook_in_flight").await - 1.0).abs() < 0.1);
    question.accepts();
    answer_of(&mut alice, id).await;
    let id = alice.submits("send", json!({"to": "@bob", "text": "two"})).await;
    application.is_asked().await.refuses("no");
    answer_of(&mut alice, id).await;
    let id = alice.submits("send", json!({"to": "@bob", "text": "three"})).await;
    application.is_asked().await.answers_with("500 Oops", "");
    answer_of(&mut alice, id).await;
    for (name, value) in [
        (r#"switchboard_hook_questions_total{ask="message"}"#, 3.0),
        (r#"switchboard_hook_answers_total{ask="message",action="accept"}"#, 1.0),
        (r#"switchboard_hook_answers_total{ask="message",action="refuse"}"#, 1.0),
        (r#"switchboard_hook_answers_total{ask="message",action="replace"}"#, 0.0),
        (r#"switchboard_hook_failures_total{reason="status"}"#, 1.0),
        (r#"switchboard_hook_failures_total{reason="timeout"}"#, 0.0),
        ("switchboard_hook_seconds_count", 3.0),
        ("switchboard_hook_in_flight", 0.0),
        ("switchboard_hook_waiting", 0.0),
        ("switchboard_hook_paused", 0.0),
    ] {
        let is = server.metric(name).await;
        assert!((is - value).abs() < 0.1, "{name} is {is}");
    }
}
