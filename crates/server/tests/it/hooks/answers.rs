//! What the application is asked, and each of its answers.

use serde_json::json;
use switchboard::config::Ask;
use switchboard_protocol::reply::{OkBody, ServerFrame};
use switchboard_protocol::{ErrorCode, EventBody};
use switchboard_store::grant::Scope;

use super::{answer_of, event_in, server_asking, server_with, texts};
use crate::keys::key_with;
use crate::support::text_of;

#[tokio::test]
async fn a_message_is_delivered_once_the_application_has_accepted_it() {
    let (server, mut application) = server_asking(&[Ask::Message]).await;
    let (mut alice, mut bob) = (server.connects("alice").await, server.connects("bob").await);
    let fields = json!({"to": "@bob", "key": "k1", "text": "hi", "data": {"order": 17}});
    let id = alice.submits("send", fields).await;
    let question = application.is_asked().await;
    question.is_signed();
    let asked = question.json();
    assert_eq!(asked["type"], "ask.message");
    assert!(asked["timestamp"].is_string());
    let data = &asked["data"];
    assert_eq!((&data["user"], &data["conversation"]), (&json!("alice"), &json!("@alice:bob")));
    assert_eq!(data["message"], json!({"key": "k1", "text": "hi", "data": {"order": 17}}));
    assert_eq!((&data["claims"]["sub"], &data["address"]), (&json!("alice"), &json!("127.0.0.1")));
    assert_eq!(question.header("content-type"), "application/json");
    alice.receives_nothing().await;
    bob.receives_nothing().await;
    question.accepts();
    let ok = answer_of(&mut alice, id).await;
    assert_eq!((&ok["seq"], ok.get("event")), (&json!(1), None), "what was sent is what is stored");
    bob.receives_message("hi").await;
}

#[tokio::test]
async fn a_refused_message_leaves_no_trace_and_its_sender_gets_the_reason() {
    let (server, mut application) = server_asking(&[Ask::Message]).await;
    let (mut alice, mut bob) = (server.connects("alice").await, server.connects("bob").await);
    let fields = json!({"to": "@bob", "key": "k1", "text": "buy"});
    let id = alice.submits("send", fields.clone()).await;
    application.is_asked().await.refuses("No advertisements here.");
    let error = answer_of(&mut alice, id).await;
    assert_eq!((&error["code"], &error["retryable"]), (&json!("refused"), &json!(false)));
    assert_eq!(error["message"], "No advertisements here.");
    bob.receives_nothing().await;
    // Nothing was stored under the key, so the same request is asked about again.
    let id = alice.submits("send", fields).await;
    application.is_asked().await.accepts();
    assert_eq!(answer_of(&mut alice, id).await["seq"], 1);
    bob.receives_message("buy").await;
    let token = server.token("alice", std::time::Duration::from_secs(60));
    let (answer, ()) =
        tokio::join!(server.posts_as(&token, "send", json!({"to": "@bob", "text": "buy"})), async {
            application.is_asked().await.refuses("No.");
        });
    assert_eq!((answer.status, answer.code().as_str()), (422, "refused"));
    assert_eq!(answer.problem()["detail"], "No.");
}

#[tokio::test]
async fn a_replaced_message_is_stored_as_the_application_says_and_a_retry_of_the_request_is_a_duplicate() {
    let (server, mut application) = server_asking(&[Ask::Message]).await;
    let (mut alice, mut bob) = (server.connects("alice").await, server.connects("bob").await);
    let fields = json!({"to": "@bob", "key": "k1", "text": "call 555", "data": {"a": 1}});
    let id = alice.submits("send", fields.clone()).await;
    application.is_asked().await.answers(json!({"action": "replace", "text": "call ***", "data": null}));
    let ok = answer_of(&mut alice, id).await;
    let event = &ok["event"];
    assert_eq!(
        (&event["type"], &event["text"], &event["key"]),
        (&json!("message"), &json!("call ***"), &json!("k1"))
    );
    assert_eq!((&event["from"], &event["seq"], event.get("data")), (&json!("alice"), &json!(1), None));
    bob.receives_message("call ***").await;

    let again = event_in(alice.does("send", fields.clone()).await).expect("what is stored");
    assert_eq!(text_of(&again), Some("call ***"));
    let OkBody::Stored { duplicate: true, .. } = alice.does("send", fields.clone()).await else {
        panic!("a duplicate")
    };
    for other in [
        json!({"to": "@bob", "key": "k1", "text": "call ***"}),
        json!({"to": "@carol", "key": "k1", "text": "call 555", "data": {"a": 1}}),
    ] {
        assert_eq!(alice.is_refused("send", other).await, ErrorCode::KeyConflict, "another request");
    }
    application.is_not_asked();

    alice.does("delete", json!({"conversation": "@bob", "target": 1})).await;
    let OkBody::Stored { duplicate: true, event: None, .. } = alice.does("send", fields).await else {
        panic!("a deleted message has nothing to compare with, nor to show")
    };
    if server.data().join("switchboard.db").exists() {
        let problems = switchboard::check_database(server.data()).expect("a database");
        assert!(problems.is_empty(), "nothing is left of the request: {problems:?}");
    }
}

#[tokio::test]
async fn edits_titles_reactions_rooms_and_invitations_are_asked_about() {
    let asks = [Ask::Edit, Ask::React, Ask::Create, Ask::Rename, Ask::Invite];
    let (server, mut application) = server_asking(&asks).await;
    let mut alice = server.connects("alice").await;
    let id = alice.submits("create", json!({"room": "a", "title": "A", "members": ["bob"]})).await;
    let question = application.is_asked().await;
    assert_eq!(question.json()["type"], "ask.create");
    assert_eq!(question.data()["conversation"], "#a");
    assert_eq!(question.data()["create"], json!({"title": "A", "public": false, "members": ["bob"]}));
    question.accepts();
    answer_of(&mut alice, id).await;
    alice.says("#a", "hello").await;

    let id = alice.submits("edit", json!({"conversation": "#a", "target": 2, "text": "damn"})).await;
    application.is_asked().await.answers(json!({"action": "replace", "text": "****"}));
    assert_eq!(answer_of(&mut alice, id).await["event"]["text"], "****");
    let id = alice.submits("rename", json!({"conversation": "#a", "title": "Casino"})).await;
    application.is_asked().await.answers(json!({"action": "replace", "title": "A room"}));
    assert_eq!(answer_of(&mut alice, id).await["event"]["title"], "A room");
    for (command, fields) in [
        ("react", json!({"conversation": "#a", "target": 2, "emoji": "x"})),
        ("invite", json!({"conversation": "#a", "user": "carol"})),
    ] {
        let id = alice.submits(command, fields).await;
        let question = application.is_asked().await;
        assert_eq!(question.json()["type"], format!("ask.{command}"));
        question.refuses("no");
        assert_eq!(answer_of(&mut alice, id).await["code"], "refused");
    }
    let log = alice.log("#a").await;
    assert_eq!(log.len(), 4, "{log:?}");
    let EventBody::Rename { title } = &log[3].body else { panic!("{log:?}") };
    assert_eq!(title.as_str(), "A room");
}

#[tokio::test]
async fn what_would_be_refused_or_repeats_something_is_not_asked_about() {
    let (server, mut application) = server_asking(&[Ask::Message, Ask::React, Ask::Edit]).await;
    let (mut alice, mut bob) = (server.connects("alice").await, server.connects("bob").await);
    bob.makes_room("private", &["carol"]).await;
    bob.makes_room("readers", &["alice"]).await;
    alice.receives_event().await;
    bob.does("role", json!({"conversation": "#readers", "user": "alice", "role": "reader"})).await;
    alice.receives_event().await;
    let long = "x".repeat(server_limit_of_text(&alice) + 1);
    for (command, fields, code) in [
        ("send", json!({"to": "#private", "text": "a"}), ErrorCode::NotFound),
        ("send", json!({"to": "#nowhere", "text": "a"}), ErrorCode::NotFound),
        ("send", json!({"to": "#readers", "text": "a"}), ErrorCode::Forbidden),
        ("send", json!({"to": "@bob", "text": long}), ErrorCode::TooLarge),
        ("send", json!({"to": "@bob", "text": "a", "reply_to": 9}), ErrorCode::BadField),
        ("edit", json!({"conversation": "#readers", "target": 1, "text": "a"}), ErrorCode::Forbidden),
    ] {
        assert_eq!(alice.is_refused(command, fields.clone()).await, code, "{command} {fields}");
    }
    let id = alice.submits("send", json!({"to": "@bob", "key": "k", "text": "a"})).await;
    application.is_asked().await.accepts();
    answer_of(&mut alice, id).await;
    let id = alice.submits("react", json!({"conversation": "@bob", "target": 1, "emoji": "x"})).await;
    application.is_asked().await.accepts();
    answer_of(&mut alice, id).await;
    assert!(alice.says_with_key("@bob", "k", "a").await.duplicate);
    let again = json!({"conversation": "@bob", "target": 1, "emoji": "x"});
    assert!(alice.stores("react", again).await.duplicate);
    application.is_not_asked();
}

fn server_limit_of_text(person: &crate::support::Person) -> usize {
    person.welcome.limits.text as usize
}

#[tokio::test]
async fn only_the_conversations_that_the_configuration_names_are_asked_about() {
    let (server, mut application) =
        server_with(&[Ask::Message], |hook| hook.only = vec!["#support-*".to_owned(), "@*bot".to_owned()])
            .await;
    let mut alice = server.connects("alice").await;
    alice.makes_room("support-1", &[]).await;
    alice.makes_room("general", &[]).await;
    alice.says("#general", "a").await;
    alice.says("@bob", "a").await;
    application.is_not_asked();
    for to in ["#support-1", "@bot"] {
        let id = alice.submits("send", json!({"to": to, "text": "a"})).await;
        application.is_asked().await.accepts();
        answer_of(&mut alice, id).await;
    }
}

#[tokio::test]
async fn a_question_has_the_latest_messages_as_its_context() {
    let (server, mut application) = server_with(&[Ask::Message], |hook| hook.context = 2).await;
    let mut alice = server.connects("alice").await;
    for (text, earlier) in
        [("one", vec![]), ("two", vec!["one"]), ("three", vec!["one", "two"]), ("four", vec!["two", "three"])]
    {
        let id = alice.submits("send", json!({"to": "@bob", "text": text})).await;
        let question = application.is_asked().await;
        let data = question.data();
        let context = data["context"].as_array().cloned().unwrap_or_default();
        let context: Vec<_> = context.iter().map(|message| message["text"].as_str().expect("text")).collect();
        assert_eq!(context, earlier, "oldest first");
        question.accepts();
        answer_of(&mut alice, id).await;
    }
}

#[tokio::test]
async fn a_back_end_is_asked_with_its_name_unless_its_key_is_unasked() {
    let (server, mut application) = server_asking(&[Ask::Message]).await;
    let key = key_with(&server, "shop", |key| key.with_scopes([Scope::Act]));
    let unasked = key_with(&server, "import", |mut key| {
        key.unasked = true;
        key.with_scopes([Scope::Act])
    });
    let body = json!({"as": "shop-1", "to": "@bob", "key": "order-17", "text": "On its way."});
    let (answer, ()) = tokio::join!(server.posts_as(&key, "send", body), async {
        let question = application.is_asked().await;
        let data = question.data();
        assert_eq!((&data["user"], &data["via"]), (&json!("shop-1"), &json!("shop")));
        assert!(data.get("address").is_none() && data.get("claims").is_none(), "{data}");
        question.answers(json!({"action": "replace", "text": "It is on its way."}));
    });
    assert_eq!(answer.ok()["event"]["text"], "It is on its way.");
    let body = json!({"as": "shop-1", "to": "@bob", "text": "Unasked."});
    server.posts_as(&unasked, "send", body).await.ok();
    application.is_not_asked();
    let mut bob = server.connects("bob").await;
    assert_eq!(texts(&bob.log("@shop-1").await), ["It is on its way.", "Unasked."]);
}

#[tokio::test]
async fn the_senders_other_connections_receive_the_replaced_message() {
    let (server, mut application) = server_asking(&[Ask::Message]).await;
    let (mut alice, mut phone) = (server.connects("alice").await, server.connects("alice").await);
    let id = alice.submits("send", json!({"to": "@bob", "text": "a"})).await;
    application.is_asked().await.answers(json!({"action": "replace", "text": "b"}));
    answer_of(&mut alice, id).await;
    phone.receives_message("b").await;
    alice.receives_nothing().await;
    let ServerFrame::Event(event) = ({
        let id = phone.submits("send", json!({"to": "@bob", "text": "c"})).await;
        application.is_asked().await.accepts();
        answer_of(&mut phone, id).await;
        alice.next().await
    }) else {
        panic!("an event")
    };
    assert_eq!(text_of(&event), Some("c"));
}
