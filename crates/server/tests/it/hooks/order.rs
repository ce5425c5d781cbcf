//! The order of a connection's writes while answers are awaited, and how many questions wait at a time.

use std::collections::VecDeque;

use serde_json::json;
use switchboard::config::Ask;
use switchboard_protocol::EventKind;
use switchboard_protocol::reply::{Reply, ServerFrame};

use super::{answer_of, server_asking, texts};
use crate::support::{Question, eventually};

#[tokio::test]
async fn messages_are_stored_in_the_order_in_which_they_were_sent_however_the_answers_come() {
    let (server, mut application) = server_asking(&[Ask::Message]).await;
    let mut alice = server.connects("alice").await;
    let mut ids = Vec::new();
    for text in ["one", "two", "three", "four"] {
        ids.push(alice.submits("send", json!({"to": "@bob", "text": text})).await);
    }
    let mut questions = Vec::new();
    for _ in &ids {
        questions.push(application.is_asked().await);
    }
    questions.sort_by_key(|question| {
        ["four", "three", "two", "one"].iter().position(|text| *text == question.text())
    });
    for question in questions {
        alice.receives_nothing().await;
        if question.text() == "two" { question.refuses("no") } else { question.accepts() }
    }
    let mut answers = Vec::new();
    for id in ids {
        answers.push(answer_of(&mut alice, id).await["seq"].clone());
    }
    assert_eq!(answers, [json!(1), json!(null), json!(2), json!(3)]);
    assert_eq!(texts(&alice.log("@bob").await), ["one", "three", "four"]);
}

#[tokio::test]
async fn what_is_not_asked_about_waits_behind_what_is_and_other_commands_do_not() {
    let (server, mut application) = server_asking(&[Ask::Message]).await;
    let mut bob = server.connects("bob").await;
    bob.makes_room("a", &["alice", "carol"]).await;
    let mut alice = server.connects("alice").await;
    let send = alice.submits("send", json!({"to": "#a", "text": "bye"})).await;
    let leave = alice.submits("leave", json!({"conversation": "#a"})).await;
    let question = application.is_asked().await;
    alice.receives_nothing().await;
    assert_eq!(alice.log("#a").await.len(), 1, "queries are answered meanwhile");
    question.accepts();
    assert_eq!(answer_of(&mut alice, send).await["seq"], 2);
    assert_eq!(answer_of(&mut alice, leave).await["seq"], 3);
}

#[tokio::test]
async fn a_message_into_a_room_that_is_still_asked_about_is_asked_about_after_it() {
    let (server, mut application) = server_asking(&[Ask::Message, Ask::Create]).await;
    let mut alice = server.connects("alice").await;
    let create = alice.submits("create", json!({"room": "a"})).await;
    let send = alice.submits("send", json!({"to": "#a", "text": "first"})).await;
    let question = application.is_asked().await;
    assert_eq!(question.json()["type"], "ask.create");
    alice.receives_nothing().await;
    application.is_not_asked();
    question.accepts();
    answer_of(&mut alice, create).await;
    let question = application.is_asked().await;
    assert_eq!(question.text(), "first");
    question.accepts();
    assert_eq!(answer_of(&mut alice, send).await["seq"], 2);
    // Where the room is refused, the message is, too, and is not asked about.
    let create = alice.submits("create", json!({"room": "b"})).await;
    let send = alice.submits("send", json!({"to": "#b", "text": "first"})).await;
    application.is_asked().await.refuses("no");
    assert_eq!(answer_of(&mut alice, create).await["code"], "refused");
    assert_eq!(answer_of(&mut alice, send).await["code"], "not_found");
    application.is_not_asked();
}

#[tokio::test]
async fn another_user_does_not_wait_for_an_answer() {
    let (server, mut application) = server_asking(&[Ask::Message]).await;
    let (mut alice, mut bob) = (server.connects("alice").await, server.connects("bob").await);
    let waiting = alice.submits("send", json!({"to": "@carol", "text": "slow"})).await;
    let slow = application.is_asked().await;
    for n in 0..20 {
        let id = bob.submits("send", json!({"to": "@carol", "text": format!("{n}")})).await;
        application.is_asked().await.accepts();
        assert_eq!(answer_of(&mut bob, id).await["seq"], n + 1);
    }
    alice.receives_nothing().await;
    slow.accepts();
    answer_of(&mut alice, waiting).await;
}

#[tokio::test]
async fn the_store_decides_again_after_the_answer() {
    let (server, mut application) = server_asking(&[Ask::Message]).await;
    let (mut alice, mut bob) = (server.connects("alice").await, server.connects("bob").await);
    bob.makes_room("a", &["alice"]).await;
    alice.receives_event().await;
    let id = alice.submits("send", json!({"to": "#a", "text": "late"})).await;
    let question = application.is_asked().await;
    bob.does("remove", json!({"conversation": "#a", "user": "alice"})).await;
    alice.receives_event().await;
    question.accepts();
    assert_eq!(answer_of(&mut alice, id).await["code"], "not_found");
    assert!(bob.log("#a").await.iter().all(|event| event.body.kind() != EventKind::Message));
}

#[tokio::test]
async fn eight_questions_of_a_connection_and_sixteen_of_a_user_wait_at_a_time() {
    let (server, mut application) = server_asking(&[Ask::Message]).await;
    let mut connections = Vec::new();
    for _ in 0..3 {
        connections.push(server.connects("alice").await);
    }
    let mut questions = VecDeque::new();
    // The first connection sends more than it may ask about.
    for n in 0..12 {
        connections[0].submits("send", json!({"to": "@bob", "text": format!("0-{n}")})).await;
    }
    for _ in 0..8 {
        questions.push_back(application.is_asked().await);
    }
    for (number, connection) in connections.iter_mut().enumerate().skip(1) {
        for n in 0..8 {
            connection.submits("send", json!({"to": "@bob", "text": format!("{number}-{n}")})).await;
        }
    }
    for _ in 0..8 {
        questions.push_back(application.is_asked().await);
    }
    eventually("the user's other questions wait", || async {
        (server.metric("switchboard_hook_waiting").await > 7.5).then_some(())
    })
    .await;
    application.is_not_asked();
    assert!(questions.iter().all(|question| question.text() != "0-8"), "the ninth of the connection waits");
    // Each answer makes room for another question.
    let mut asked = questions.len();
    while let Some(question) = questions.pop_front() {
        Question::accepts(question);
        if asked < 12 + 8 + 8 {
            questions.push_back(application.is_asked().await);
            asked += 1;
        }
    }
    for (connection, sent) in connections.iter_mut().zip([12, 8, 8]) {
        let mut answered = 0;
        // The other connections' messages come as events.
        while answered < sent {
            answered += usize::from(matches!(connection.next().await, ServerFrame::Reply(Reply::Ok(_))));
        }
    }
    let mut bob = server.connects("bob").await;
    assert_eq!(bob.log("@alice").await.len(), 28);
}

#[tokio::test]
async fn a_stopping_server_still_answers_what_is_asked_about() {
    let (mut server, mut application) = server_asking(&[Ask::Message]).await;
    let mut alice = server.connects("alice").await;
    let id = alice.submits("send", json!({"to": "@bob", "text": "last"})).await;
    let question = application.is_asked().await;
    server.begin_shutdown();
    let bye = alice.receives_reply().await;
    assert!(matches!(bye, Reply::Bye { .. }), "{bye:?}");
    question.accepts();
    assert_eq!(answer_of(&mut alice, id).await["seq"], 1);
    assert_eq!(alice.is_closed().await, Some(1012));
    server.wait_until_stopped().await;
}

#[tokio::test]
async fn a_user_who_is_logged_out_stores_nothing_that_was_still_asked_about() {
    let (server, mut application) = server_asking(&[Ask::Message]).await;
    let key = crate::keys::key_with(&server, "shop", |key| {
        key.with_scopes([switchboard_store::grant::Scope::Moderate])
    });
    let (mut alice, mut bob) = (server.connects("alice").await, server.connects("bob").await);
    alice.submits("send", json!({"to": "@bob", "text": "late"})).await;
    let question = application.is_asked().await;
    server.posts_as(&key, "revoke", json!({"user": "alice"})).await.ok();
    assert_eq!(alice.is_closed().await, Some(4502));
    question.accepts();
    bob.receives_nothing().await;
}
