//! The end: of the server, which tells everybody and loses nothing, and of connections, whatever way
//! they end.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use switchboard_protocol::reply::{OkBody, Reply, ServerFrame};
use switchboard_protocol::{Limits, Signal};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::raw::{CLOSE, FIN, PING, PONG, frame};
use crate::support::{Person, Process, Raw, Server, command, eventually, soon};

const RESTART: u16 = 1012;

/// Waits for `bye` and the close after it; everything before is passed over. When to come back.
async fn is_told_to_come_back(person: &mut Person) -> u64 {
    let retry_after = loop {
        if let ServerFrame::Reply(Reply::Bye { retry_after }) = person.next().await {
            break retry_after;
        }
    };
    assert_eq!(person.is_closed().await, Some(RESTART));
    retry_after
}

#[tokio::test]
async fn everybody_is_told_when_to_come_back_and_the_program_ends_well() {
    const PEOPLE: usize = 50;
    const SPREAD: u64 = 7_000;
    let data = TempDir::new().expect("a directory");
    let mut server =
        Process::start_with(data.path(), &[("SWITCHBOARD_RECONNECT_SPREAD", &SPREAD.to_string())]).await;
    let mut people = Vec::new();
    for number in 0..PEOPLE {
        people.push(server.connects(&format!("user{number}")).await);
    }
    server.signal("TERM").await;
    let mut leaving = JoinSet::new();
    for mut person in people {
        leaving.spawn(async move { is_told_to_come_back(&mut person).await });
    }
    let delays: BTreeSet<_> = leaving.join_all().await.into_iter().collect();
    assert!(delays.iter().all(|delay| *delay < SPREAD), "{delays:?}");
    assert!(delays.len() > PEOPLE / 2, "they do not all come back at once: {delays:?}");
    assert!(
        delays.last().expect("some") - delays.first().expect("some") > SPREAD / 4,
        "spread out: {delays:?}"
    );
    assert_eq!(server.ends().await.code(), Some(0));
}

#[tokio::test]
async fn whoever_does_not_listen_does_not_hold_the_program_up() {
    const DEADLINE: Duration = Duration::from_secs(1);
    let data = TempDir::new().expect("a directory");
    let settings = [("SWITCHBOARD_SHUTDOWN_DEADLINE", "1000")];
    let mut server = Process::start_with(data.path(), &settings).await;
    let deaf = stopped_reader(&server).await;
    let half_a_request = Raw::connect(server.address()).await;
    let started = Instant::now();
    server.signal("TERM").await;
    assert_eq!(server.ends().await.code(), Some(0));
    assert!(started.elapsed() < DEADLINE + Duration::from_secs(3), "{:?}", started.elapsed());
    drop((deaf, half_a_request));
}

#[tokio::test]
async fn whoever_reads_nothing_does_not_make_every_stop_last_as_long_as_it_may() {
    let data = TempDir::new().expect("a directory");
    let mut server = Process::start(data.path()).await;
    let deaf = stopped_reader(&server).await;
    let started = Instant::now();
    server.signal("TERM").await;
    assert_eq!(server.ends().await.code(), Some(0));
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "{:?} of the 10 s of the deadline",
        started.elapsed()
    );
    drop(deaf);
}

/// A connection whose buffers are full, so that not even its close frame can be written.
async fn stopped_reader(server: &Process) -> Raw {
    let mut deaf = Raw::connect_with_buffer(server.address(), 4_096).await;
    deaf.enters_as("deaf").await;
    let mut alice = server.connects("alice").await;
    let text = "x".repeat(10_000);
    let bytes = 8 * 1024 * 1024;
    for _ in 0..bytes / text.len() / 100 {
        let send = || command("send", &json!({"to": "@deaf", "text": text}));
        let ids = alice.client.submit_all((0..100).map(|_| send())).await.expect("sent");
        for _ in ids {
            assert!(matches!(alice.is_told().await, Reply::Ok(_)));
        }
    }
    alice.client.close().await;
    deaf
}

#[tokio::test]
async fn a_second_signal_ends_the_program_at_once() {
    let data = TempDir::new().expect("a directory");
    let mut server = Process::start(data.path()).await;
    let deaf = stopped_reader(&server).await;
    let mut alice = server.connects("alice").await;
    server.signal("TERM").await;
    is_told_to_come_back(&mut alice).await;
    server.signal("INT").await;
    let started = Instant::now();
    assert_eq!(server.ends().await.code(), Some(130));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    drop(deaf);
}

/// Says messages until the server closes; the seqs of those that it acknowledged.
async fn says_until_the_end(mut person: Person, room: &'static str) -> Vec<u64> {
    const BURST: usize = 20;
    let (mut acknowledged, mut open, mut bye) = (Vec::new(), 0, false);
    loop {
        if open == 0 && !bye {
            let send = || command("send", &json!({"to": room, "text": "hi"}));
            if person.client.submit_all((0..BURST).map(|_| send())).await.is_ok() {
                open = BURST;
            }
        }
        match soon("a frame", person.client.next()).await {
            Some(Ok(ServerFrame::Reply(Reply::Ok(ok)))) => match ok.body {
                OkBody::Stored { seq, .. } => {
                    acknowledged.push(seq.0);
                    open -= 1;
                }
                other => panic!("{other:?}"),
            },
            Some(Ok(ServerFrame::Reply(Reply::Bye { .. }))) => bye = true,
            Some(Ok(ServerFrame::Event(_))) => {}
            Some(Ok(other)) => panic!("{other:?}"),
            // What was still on its way to the server is lost with the connection.
            Some(Err(_)) | None => break,
        }
    }
    assert!(bye, "a farewell comes before the end");
    acknowledged
}

#[tokio::test]
async fn what_is_in_flight_is_acknowledged_and_the_rest_is_not_stored() {
    let data = TempDir::new().expect("a directory");
    let mut server = Process::start(data.path()).await;
    let mut alice = server.connects("alice").await;
    alice.makes_public_room("r", &[]).await;
    let mut saying = JoinSet::new();
    for number in 0..10 {
        let mut person = server.connects(&format!("user{number}")).await;
        person.does("join", json!({"conversation": "#r"})).await;
        saying.spawn(says_until_the_end(person, "#r"));
    }
    // In the middle of it.
    for _ in 0..500 {
        alice.sees().await;
    }
    server.signal("TERM").await;
    let acknowledged: BTreeSet<_> = saying.join_all().await.into_iter().flatten().collect();
    let mut seen = 510;
    while let Some(Ok(frame)) = alice.client.next().await {
        seen += u64::from(matches!(frame, ServerFrame::Event(_)));
    }
    assert_eq!(server.ends().await.code(), Some(0));

    let server = Process::start(data.path()).await;
    let log = server.connects("alice").await.log("#r").await;
    let messages = log.iter().filter(|event| event.key.is_some()).map(|event| event.seq.0);
    assert_eq!(messages.collect::<BTreeSet<_>>(), acknowledged);
    // Where the old server left her, she goes on with the new one.
    let last = log.last().expect("events").seq.0;
    let cursor = seen.min(last) - 100;
    let mut alice = server.resumes("alice", &[("#r", cursor)]).await;
    for seq in cursor + 1..=last {
        assert_eq!(alice.sees().await.seq.0, seq);
    }
    alice.says("#r", "and on").await;
    alice.hears_nothing().await;
}

#[tokio::test]
async fn a_server_that_stops_is_not_ready_and_takes_nobody_in() {
    let mut server = Server::start().await;
    assert_eq!(server.gets("/readyz").await.status, 200);
    // It does not listen, so stopping takes a while.
    let mut deaf = Raw::connect(server.address()).await;
    deaf.enters_as("deaf").await;
    server.begins_to_stop();
    let url = server.page("/readyz");
    let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
    eventually("not ready", async || match http.get(&url).send().await {
        Ok(answer) => (answer.status().as_u16() == 503).then_some(()),
        Err(_) => Some(()),
    })
    .await;
    assert_eq!(deaf.next().await.json()["type"], "bye");
    assert_eq!(deaf.next().await.close_code(), RESTART);
    let hello = server.hello("alice", &[]);
    assert!(server.tries_to_connect(hello).await.is_err(), "nobody comes in any more");
    server.has_stopped().await;
}

/// Waits until the server has so many connections.
async fn has_connections(server: &Server, wanted: f64) {
    let asks = async || (server.metric("switchboard_connections").await == wanted).then_some(());
    eventually(&format!("{wanted} connections"), asks).await;
}

/// Alice watches bob, who ends his connection in some way; then he is gone.
async fn is_gone_after(server: &Server, ends: impl AsyncFnOnce(Raw)) {
    let mut alice = server.connects("alice").await;
    alice.says("@bob", "hi").await;
    let mut bob = Raw::connect(server.address()).await;
    bob.enters_as("bob").await;
    alice.does("watch", json!({"users": ["bob"]})).await;
    assert!(matches!(alice.notices().await, Signal::Presence { online: true, .. }));
    has_connections(server, 2.0).await;
    // Alice answers the server's pings while she listens.
    let (gone, ()) = tokio::join!(alice.notices(), ends(bob));
    assert!(matches!(gone, Signal::Presence { online: false, last_seen: Some(_), .. }), "{gone:?}");
    has_connections(server, 1.0).await;
    alice.client.close().await;
    has_connections(server, 0.0).await;
}

#[tokio::test]
async fn a_connection_that_ends_is_gone_at_once() {
    // Nobody is found by their silence here: that would take longer than the tests wait.
    let server = Server::start_with(|config| {
        config.presence_grace = Duration::ZERO;
        config.limits = Limits { ping_interval: 3_600_000, ..Limits::default().without_rates() };
    })
    .await;
    is_gone_after(&server, async |mut bob: Raw| {
        bob.writes(frame(FIN | CLOSE, b"\x03\xE8")).await;
        assert_eq!(bob.is_closed().await, 1000);
    })
    .await;
    is_gone_after(&server, async |bob: Raw| bob.resets()).await;
    is_gone_after(&server, async |bob: Raw| drop(bob)).await;
    is_gone_after(&server, async |mut bob: Raw| {
        // In the middle of a frame.
        bob.writes(&frame(FIN | 1, b"half of it")[..9]).await;
        bob.resets();
    })
    .await;
    is_gone_after(&server, async |mut bob: Raw| {
        bob.writes(frame(FIN | 0x3, b"")).await;
        assert_eq!(bob.next().await.close_code(), 1002);
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_falls_silent_is_cut_and_one_that_answers_is_not() {
    // On a busy machine alice, who answers, may take a while.
    let server = Server::start_with(|config| {
        config.presence_grace = Duration::ZERO;
        config.limits =
            Limits { ping_interval: 200, pong_timeout: 3_000, ..Limits::default().without_rates() };
    })
    .await;
    is_gone_after(&server, async |mut bob: Raw| {
        assert_eq!(bob.next().await.opcode, 0x9, "a ping, which bob does not answer");
        assert_eq!(bob.next().await.close_code(), 4408);
    })
    .await;
}

#[tokio::test]
async fn whoever_is_not_listened_to_is_not_taken_for_silent() {
    let server = Server::start_with(|config| {
        config.limits = Limits {
            ping_interval: 100,
            // On a busy machine alice, who answers in the end, may take a while.
            pong_timeout: 1_000,
            in_flight: 1,
            ..Limits::default().without_rates()
        };
    })
    .await;
    let mut alice = Raw::connect(server.address()).await;
    alice.enters_as("alice").await;
    let lock = server.holds_up_writes();
    let send = |text: &str| format!(r#"{{"type":"send","id":"{text}","to":"@bob","text":"{text}"}}"#);
    // The first waits for its outcome, and nothing is read behind it.
    alice.says(&send("one")).await;
    alice.says(&send("two")).await;
    // waits for: several times as long as silence is borne, and less than a write may take
    tokio::time::sleep(Duration::from_millis(3_000)).await;
    drop(lock);
    let mut told = Vec::new();
    while told.len() < 2 {
        let next = alice.next().await;
        match next.opcode {
            PING => alice.writes(frame(FIN | PONG, &next.payload)).await,
            _ => told.push(next.json()["id"].as_str().expect("an answer").to_owned()),
        }
    }
    assert_eq!(told, ["one", "two"]);
    // It is listened to again, so its silence is noticed again.
    let code = loop {
        let next = alice.next().await;
        if next.opcode != PING {
            break next.close_code();
        }
    };
    assert_eq!(code, 4408);
}
