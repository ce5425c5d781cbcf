//! Numbered writes (`n` and `after`): the server stores a connection's writes in order, also if it refuses some of them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use switchboard::config::Config;
use switchboard_protocol::reply::Reply;
use switchboard_protocol::{CommandId, Limits};

use crate::support::raw::{FIN, TEXT, frame};
use crate::support::{RawSocket, Server, command, text_of};

/// The number of sends in one burst: more than the rate allows.
const SEND_COUNT: usize = 30;

/// How long the client waits before it sends more; the rate limiter then has more tokens than the client needs.
const CLIENT_PAUSE: Duration = Duration::from_secs(4);

/// Starts a server whose send rate allows a burst of twenty messages and then four a second.
async fn start_with_send_rate() -> Server {
    Server::start_with_auth_and(|config: &mut Config| config.limits.sends_per_connection = 4).await
}

fn numbered_send(n: usize, after: usize) -> String {
    format!(r#"{{"type":"send","id":{n},"n":{n},"after":{after},"to":"@bob","key":"k{n}","text":"{n}"}}"#)
}

/// Receives the answers to `count` commands, by the number in their `id`. Skips other frames.
async fn receive_answers(raw: &mut RawSocket, count: usize) -> BTreeMap<usize, Value> {
    let mut answers = BTreeMap::new();
    while answers.len() < count {
        let answer = raw.next().await.json();
        if let Some(id) = answer["id"].as_u64() {
            answers.insert(usize::try_from(id).expect("small"), answer);
        }
    }
    answers
}

/// Sends the refused commands again, in order, until all of them are stored.
async fn resend_until_stored(raw: &mut RawSocket, mut answers: BTreeMap<usize, Value>) {
    loop {
        answers.retain(|_, answer| answer["type"] == "error");
        let Some(first) = answers.values().next() else { return };
        assert!(answers.values().all(|refused| refused["retryable"] == true), "{answers:?}");
        let wait = first["retry_after"].as_u64().expect("how long");
        // waits for: the server's `retry_after`
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let frames: Vec<_> =
            answers.keys().flat_map(|&n| frame(FIN | TEXT, numbered_send(n, n - 1).as_bytes())).collect();
        raw.writes(frames).await;
        answers = receive_answers(raw, answers.len()).await;
    }
}

async fn assert_all_stored_in_order(server: &Server) {
    let log = server.connects("alice").await.log("@bob").await;
    let texts: Vec<_> = log.iter().filter_map(|event| text_of(event).map(str::to_owned)).collect();
    assert_eq!(texts, (1..=SEND_COUNT).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn numbered_sends_over_the_rate_keep_their_order_if_the_client_resends_late() {
    let server = start_with_send_rate().await;
    let mut raw = RawSocket::connect(server.address()).await;
    raw.says_hello_with(&server.token("alice", Duration::from_secs(60))).await;
    let (before, behind) = (SEND_COUNT - 5, SEND_COUNT);
    let all: Vec<_> =
        (1..=before).flat_map(|n| frame(FIN | TEXT, numbered_send(n, n - 1).as_bytes())).collect();
    raw.writes(all).await;
    let mut answers = receive_answers(&mut raw, before).await;
    let refused = answers.values().filter(|answer| answer["code"] == "rate_limited").count();
    assert!(refused >= 1, "{answers:?}");
    // waits for: new tokens of the rate limiter; the late commands then arrive as over a slow network
    tokio::time::sleep(CLIENT_PAUSE).await;
    let late: Vec<_> =
        (before + 1..=behind).flat_map(|n| frame(FIN | TEXT, numbered_send(n, n - 1).as_bytes())).collect();
    raw.writes(late).await;
    for (n, answer) in receive_answers(&mut raw, behind - before).await {
        assert_eq!((&answer["code"], &answer["retry_after"]), (&json!("unavailable"), &json!(0)), "{answer}");
        assert!(
            answer["message"].as_str().is_some_and(|m| m.contains(&format!("write {}", n - 1))),
            "{answer}"
        );
        answers.insert(n, answer);
    }
    resend_until_stored(&mut raw, answers).await;
    assert_all_stored_in_order(&server).await;
}

#[tokio::test]
async fn numbered_sends_keep_their_order_if_the_client_stops_reading_between_pages() {
    let server = start_with_send_rate().await;
    let mut carol = server.connects("carol").await;
    for n in 0..40 {
        // A new connection for every twenty messages, because the rate of one connection does not allow all of them.
        if n % 20 == 0 {
            carol = server.connects("carol").await;
        }
        carol.says("@alice", &"x".repeat(16 * 1024)).await;
    }
    let mut raw = RawSocket::connect_with_buffer(server.address(), 64 * 1024).await;
    raw.says_hello_with(&server.token("alice", Duration::from_secs(60))).await;
    let page = r#"{"type":"history","id":"page","conversation":"@carol","limit":40}"#.to_owned();
    // The answers are longer than the system's buffers, so the session stops reading until the client has read them.
    let pages = |count| std::iter::repeat_n(page.clone(), count);
    let all = (1..SEND_COUNT)
        .map(|n| numbered_send(n, n - 1))
        .chain(pages(16))
        .chain([numbered_send(SEND_COUNT, SEND_COUNT - 1)]);
    let frames: Vec<_> = all.flat_map(|text| frame(FIN | TEXT, text.as_bytes())).collect();
    raw.writes(frames).await;
    // waits for: tokens for the last send, which the server has not read yet
    tokio::time::sleep(CLIENT_PAUSE).await;
    let answers = receive_answers(&mut raw, SEND_COUNT).await;
    assert_eq!(answers[&SEND_COUNT]["code"], "unavailable", "{}", answers[&SEND_COUNT]);
    resend_until_stored(&mut raw, answers).await;
    assert_all_stored_in_order(&server).await;
}

#[tokio::test]
async fn a_client_gives_up_a_write_by_following_an_earlier_one() {
    let server = Server::start().await;
    let mut alice = server.open_socket_as("alice").await;
    assert_eq!(alice.asks(&numbered_send(1, 0)).await["seq"], 1);
    let doomed = alice.asks(&numbered_send(3, 2)).await;
    assert_eq!((&doomed["code"], &doomed["retryable"]), (&json!("unavailable"), &json!(true)), "{doomed}");
    assert_eq!(alice.asks(&numbered_send(3, 1)).await["seq"], 2, "the second one is given up");
    let late = alice.asks(&numbered_send(2, 1)).await;
    assert_eq!((&late["code"], &late["field"]), (&json!("bad_field"), &json!("n")), "{late}");
    assert_eq!(alice.asks(&numbered_send(4, 3)).await["seq"], 3);
    alice.receives_nothing().await;
}

#[tokio::test]
async fn a_permanently_refused_write_settles_its_number_in_order() {
    let server = Server::start_with(|config: &mut Config| config.limits.text = 100).await;
    let mut alice = server.open_socket_as("alice").await;
    let wrong = [
        (1, format!(r#"{{"type":"send","id":1,"n":1,"after":0,"to":"@bob","text":"{}"}}"#, "x".repeat(101))),
        (2, r#"{"type":"send","id":2,"n":2,"after":1,"to":"@bob","txt":"hi"}"#.to_owned()),
        (3, r##"{"type":"join","id":3,"n":3,"after":2,"conversation":"#nowhere"}"##.to_owned()),
        (4, r#"{"type":"send","id":4,"n":4,"after":3,"to":"@bob","text":""}"#.to_owned()),
    ];
    for (_, frame) in &wrong {
        alice.says(frame).await;
    }
    alice.says(&numbered_send(5, 4)).await;
    for (id, code) in [(1, "too_large"), (2, "bad_field"), (3, "not_found"), (4, "bad_field")] {
        let answer = alice.receives_json().await;
        assert_eq!((&answer["id"], &answer["code"]), (&json!(id), &json!(code)), "{answer}");
    }
    let answer = alice.receives_json().await;
    assert_eq!((&answer["id"], &answer["seq"]), (&json!(5), &json!(1)), "{answer}");
    // If an earlier write is missing, the server reports that first, even if this write is invalid, and does not count it as
    // refused.
    let bad = alice.asks(r#"{"type":"send","id":7,"n":7,"after":6,"to":"@bob","txt":"hi"}"#).await;
    assert_eq!(bad["code"], "unavailable", "{bad}");
    assert_eq!(alice.asks(&numbered_send(8, 7)).await["code"], "unavailable");
}

#[tokio::test]
async fn a_failed_commit_lets_no_numbered_write_pass() {
    let server = Server::start().await;
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "before").await;
    let keys = ["first", "second", "third", "fourth"];
    let send = |key: &str| command("send", &json!({"to": "@bob", "key": key, "text": key}));
    // Another program locks the database for writing, so each commit fails after five seconds.
    let lock = server.lock_for_writing();
    let first = alice.client.submit(send("first")).await.expect("sent");
    let Reply::Error(failure) = alice.receives_reply().await else { panic!("stored") };
    assert_eq!((&failure.id, failure.code.as_str()), (&Some(CommandId::Number(first)), "unavailable"));
    let second = alice.client.submit(send("first, but too late")).await.expect("sent");
    let Reply::Error(_) = alice.receives_reply().await else { panic!("stored") };
    drop(lock);
    // The client no longer keeps the first write's number, because a new write was submitted when none waited for an answer.
    let first = alice.client.resend(first, send("first")).await.expect("sent");
    assert!(first > second, "it has a new place");
    let Reply::Ok(_) = alice.receives_reply().await else { panic!("not stored") };

    let lock = server.lock_for_writing();
    let ids = alice.client.submit_all(keys[1..].iter().map(|key| send(key))).await.expect("sent");
    for id in ids.clone() {
        let Reply::Error(failure) = alice.receives_reply().await else { panic!("stored") };
        assert_eq!((&failure.id, failure.code.as_str()), (&Some(CommandId::Number(id)), "unavailable"));
    }
    drop(lock);
    // The writes are sent again at once: numbered writes need not wait for `retry_after`.
    for (id, key) in ids.clone().zip(&keys[1..]) {
        assert_eq!(alice.client.resend(id, send(key)).await.expect("sent"), id, "in its place");
    }
    for _ in ids {
        let Reply::Ok(_) = alice.receives_reply().await else { panic!("not stored") };
    }
    let log = alice.log_after("@bob", 1).await;
    assert_eq!(log.iter().filter_map(text_of).collect::<Vec<_>>(), keys);
}

#[tokio::test]
async fn a_write_that_cannot_be_stored_does_not_count_against_the_rates() {
    let server = Server::start_with(|config: &mut Config| {
        config.limits = Limits { sends_per_user: 1, ..Limits::default().without_rates() };
    })
    .await;
    let mut alice = server.open_socket_as("alice").await;
    for _ in 0..20 {
        assert_eq!(alice.asks(&numbered_send(10, 9)).await["code"], "unavailable");
    }
    for n in 1..=5 {
        assert_eq!(alice.asks(&numbered_send(n, n - 1)).await["type"], "ok", "five seconds' worth");
    }
}

#[tokio::test]
async fn write_numbers_count_per_connection_and_are_refused_over_http() {
    let server = Server::start_with_auth().await;
    let token = server.token("alice", Duration::from_secs(60));
    let http = json!({"to": "@bob", "text": "hi", "n": 1, "after": 0});
    let refused = server.posts_as(&token, "send", http).await;
    assert_eq!((refused.status, refused.code().as_str()), (400, "bad_field"));
    for _ in 0..2 {
        let mut alice = server.connects("alice").await;
        assert!(alice.welcome.features.iter().any(|feature| feature == "numbers"));
        let id =
            alice.client.submit(command("send", &json!({"to": "@bob", "text": "hi"}))).await.expect("sent");
        let Reply::Ok(ok) = alice.receives_reply().await else { panic!("not stored") };
        assert_eq!(ok.id, Some(CommandId::Number(id)));
    }
}
