//! An application that does not answer, or says what is no answer.

use serde_json::json;
use switchboard::config::{Ask, OnFailure};

use super::{SHORT_TIMEOUT, answer_of, server_with, texts};
use crate::support::certificates::Authority;
use crate::support::{Application, Question, Server, command};

/// What a broken application does with a question.
type Fault = fn(Question);

/// Each fault, and the reason under which it is counted.
const FAULTS: [(&str, Fault); 16] = [
    ("timeout", Question::hangs),
    // It answers in part, and then nothing.
    ("timeout", |question| question.answers_raw("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"action\":")),
    ("connection", |question| question.ends_after("")),
    ("connection", |question| {
        question.ends_after("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"action\":");
    }),
    ("connection", |question| question.ends_after("\x16\x03\x01 garbage\r\n\r\n")),
    ("status", |question| question.answers_with("500 Internal Server Error", r#"{"action":"accept"}"#)),
    ("status", |question| question.answers_with("302 Found\r\nlocation: /hook2", "")),
    ("status", |question| question.answers_with("201 Created", r#"{"action":"accept"}"#)),
    ("unreadable", |question| question.answers_with("200 OK", "<html>Fatal error</html>")),
    ("unreadable", |question| question.answers_with("200 OK", "")),
    ("unreadable", |question| question.answers_with("200 OK", r#"["accept"]"#)),
    ("unreadable", |question| question.answers(json!({"action": 1}))),
    ("unusable", |question| question.answers(json!({"action": "replace"}))),
    ("unusable", |question| question.answers(json!({"action": "replace", "text": {"a": 1}}))),
    ("rejected", |question| question.answers_with("413 Content Too Large", "")),
    ("too_large", |question| {
        let answer = format!(r#"{{"action":"accept","pad":"{}"}}"#, "x".repeat(10 << 20));
        question.answers_with("200 OK", &answer);
    }),
];

#[tokio::test]
async fn without_an_answer_nothing_is_stored_and_the_client_may_try_again() {
    let (server, mut application) = server_with(&[Ask::Message], |hook| hook.timeout = SHORT_TIMEOUT).await;
    let mut alice = server.connects("alice").await;
    let mut counts = std::collections::BTreeMap::<_, f64>::new();
    // The pause after ten failures is not the subject: every ninth question gets an answer.
    for (index, (reason, fault)) in FAULTS.into_iter().enumerate() {
        let fields = json!({"to": "@bob", "key": format!("k{index}"), "text": format!("{index}")});
        let id = alice.submits("send", fields.clone()).await;
        fault(application.is_asked().await);
        let error = answer_of(&mut alice, id).await;
        assert_eq!(
            (&error["code"], &error["retryable"]),
            (&json!("unavailable"), &json!(true)),
            "{index} {reason}"
        );
        *counts.entry(reason).or_default() += 1.0;
        let counted =
            server.metric(&format!(r#"switchboard_hook_failures_total{{reason="{reason}"}}"#)).await;
        assert!((counted - counts[reason]).abs() < 0.1, "{index}: {reason} is counted {counted} times");
        alice.client.resend(id, command("send", &fields)).await.expect("sent");
        application.is_asked().await.accepts();
        let again = alice.receives_reply().await;
        assert!(matches!(again, switchboard_protocol::reply::Reply::Ok(_)), "{again:?}");
    }
    let stored: Vec<_> = (0..FAULTS.len()).map(|index| index.to_string()).collect();
    assert_eq!(texts(&alice.log("@bob").await), stored);
}

#[tokio::test]
async fn without_an_answer_everything_is_stored_where_the_configuration_accepts() {
    let (server, mut application) = server_with(&[Ask::Message], |hook| {
        hook.timeout = SHORT_TIMEOUT;
        hook.on_failure = [(Ask::Message, OnFailure::Accept)].into();
    })
    .await;
    let mut alice = server.connects("alice").await;
    for (index, (_, fault)) in FAULTS.into_iter().take(9).enumerate() {
        let id = alice.submits("send", json!({"to": "@bob", "text": format!("{index}")})).await;
        fault(application.is_asked().await);
        assert_eq!(answer_of(&mut alice, id).await["seq"], index + 1);
    }
    // A refusal is no failure.
    let id = alice.submits("send", json!({"to": "@bob", "text": "x"})).await;
    application.is_asked().await.refuses("no");
    assert_eq!(answer_of(&mut alice, id).await["code"], "refused");
}

#[tokio::test]
async fn an_answer_that_is_no_acceptance_refuses_whatever_the_configuration_says() {
    let (server, mut application) = server_with(&[Ask::Message], |hook| {
        hook.on_failure = [(Ask::Message, OnFailure::Accept)].into();
    })
    .await;
    let mut alice = server.connects("alice").await;
    let long = "x".repeat(switchboard_protocol::Limits::default().text as usize + 1);
    let answers = [
        ("200 OK", json!({"action": "replace", "text": long}).to_string()),
        ("200 OK", json!({"action": "replace"}).to_string()),
        ("200 OK", json!({"action": "replace", "emoji": "x"}).to_string()),
        ("413 Content Too Large", String::new()),
        ("400 Bad Request", String::new()),
        ("422 Unprocessable Content", String::new()),
    ];
    // More than ten, so that they are seen not to stop the questions.
    for (status, body) in answers.iter().cycle().take(12) {
        let id = alice.submits("send", json!({"to": "@bob", "text": "a number: 555"})).await;
        application.is_asked().await.answers_with(status, body);
        assert_eq!(answer_of(&mut alice, id).await["code"], "unavailable", "{status} {body:.40}");
    }
    let id = alice.submits("send", json!({"to": "@bob", "text": "hi"})).await;
    application.is_asked().await.accepts();
    assert_eq!(answer_of(&mut alice, id).await["seq"], 1);
}

#[tokio::test]
async fn one_user_does_not_stop_the_questions_about_others() {
    let (server, mut application) = server_with(&[Ask::Message], |hook| {
        hook.on_failure = [(Ask::Message, OnFailure::Accept)].into();
    })
    .await;
    let mut mallory = server.connects("mallory").await;
    for _ in 0..12 {
        let id =
            mallory.submits("send", json!({"to": "@bob", "text": "what makes the application fail"})).await;
        application.is_asked().await.answers_with("500 Oops", "");
        answer_of(&mut mallory, id).await;
    }
    let mut alice = server.connects("alice").await;
    let id = alice.submits("send", json!({"to": "@bob", "text": "hi"})).await;
    application.is_asked().await.refuses("no");
    assert_eq!(answer_of(&mut alice, id).await["code"], "refused");
}

#[tokio::test]
async fn after_ten_failures_in_a_row_the_application_is_left_alone() {
    let (server, mut application) = server_with(&[Ask::Message], |hook| {
        hook.on_failure = [(Ask::Message, OnFailure::Accept)].into();
    })
    .await;
    for n in 0..10 {
        let mut user = server.connects(&format!("user-{n}")).await;
        let id = user.submits("send", json!({"to": "@bob", "text": format!("{n}")})).await;
        application.is_asked().await.answers_with("500 Oops", "");
        answer_of(&mut user, id).await;
    }
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "unasked").await;
    application.is_not_asked();
    assert!((server.metric("switchboard_hook_paused").await - 1.0).abs() < 0.1);
    assert!(server.metric(r#"switchboard_hook_failures_total{reason="not_asked"}"#).await > 0.5);
}

#[tokio::test]
async fn a_certificate_of_the_authority_in_the_configuration_is_trusted_and_no_other() {
    let (authority, other) = (Authority::new(), Authority::new());
    let mut application = Application::start_with_tls(&authority).await;
    for (ca, is_trusted) in [(authority.ca(), true), (other.ca(), false)] {
        let mut hook = application.hook(&[(Ask::Message, OnFailure::Refuse)]);
        hook.ca = Some(ca);
        let server = Server::start_with_auth_and(|config| config.hooks = Some(hook)).await;
        let mut alice = server.connects("alice").await;
        let id = alice.submits("send", json!({"to": "@bob", "text": "hi"})).await;
        if is_trusted {
            let question = application.is_asked().await;
            question.is_signed();
            question.accepts();
            assert_eq!(answer_of(&mut alice, id).await["seq"], 1);
        } else {
            assert_eq!(answer_of(&mut alice, id).await["code"], "unavailable");
            application.is_not_asked();
            assert!(server.metric(r#"switchboard_hook_failures_total{reason="connection"}"#).await > 0.5);
        }
    }
}
