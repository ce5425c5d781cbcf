//! Graceful shutdown, and how the server notices that connections end.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use switchboard_protocol::reply::{OkBody, Reply, ServerFrame};
use switchboard_protocol::{Limits, Signal};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::raw::{CLOSE, FIN, PING, PONG, frame};
use crate::support::{Person, Process, RawSocket, Server, command, eventually, in_time};

const RESTART_CLOSE_CODE: u16 = 1012;

/// Reads frames up to `bye` and the close after it. Returns the delay for reconnecting that `bye` asks for.
async fn receives_bye(person: &mut Person) -> u64 {
    let retry_after = loop {
        if let ServerFrame::Reply(Reply::Bye { retry_after }) = person.next().await {
            break retry_after;
        }
    };
    assert_eq!(person.is_closed().await, Some(RESTART_CLOSE_CODE));
    retry_after
}

#[tokio::test]
async fn every_client_receives_bye_with_a_delay_and_the_server_exits_with_0() {
    const CLIENTS: usize = 50;
    const RECONNECT_SPREAD_MS: u64 = 7_000;
    let data = TempDir::new().expect("a directory");
    let mut server = Process::start_with(
        data.path(),
        &[("SWITCHBOARD_RECONNECT_SPREAD", &RECONNECT_SPREAD_MS.to_string())],
    )
    .await;
    let mut people = Vec::new();
    for number in 0..CLIENTS {
        people.push(server.connects(&format!("user{number}")).await);
    }
    server.signal("TERM").await;
    let mut leaving = JoinSet::new();
    for mut person in people {
        leaving.spawn(async move { receives_bye(&mut person).await });
    }
    let delays: BTreeSet<_> = leaving.join_all().await.into_iter().collect();
    // A millisecond for each client, though the setting allows more.
    assert!(delays.iter().all(|delay| *delay < CLIENTS as u64), "{delays:?}");
    assert!(delays.len() > CLIENTS / 4, "the clients have different delays: {delays:?}");
    assert_eq!(server.wait_for_exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_client_that_does_not_read_cannot_delay_a_stop_beyond_the_deadline() {
    const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(1);
    let data = TempDir::new().expect("a directory");
    let settings = [("SWITCHBOARD_SHUTDOWN_DEADLINE", "1000")];
    let mut server = Process::start_with(data.path(), &settings).await;
    let stopped_reader = connect_stopped_reader(&server).await;
    let half_a_request = RawSocket::connect(server.address()).await;
    let started = Instant::now();
    server.signal("TERM").await;
    assert_eq!(server.wait_for_exit().await.code(), Some(0));
    assert!(started.elapsed() < SHUTDOWN_DEADLINE + Duration::from_secs(3), "{:?}", started.elapsed());
    drop((stopped_reader, half_a_request));
}

#[tokio::test]
async fn a_hanging_request_does_not_delay_a_stop() {
    let body = "POST /v1/send HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";
    for (what, hanging) in [("half a head", "POST /v1/send HTTP/1.1\r\nhost: 127"), ("half a body", body)] {
        let data = TempDir::new().expect("a directory");
        let mut server = Process::start(data.path()).await;
        let mut request = RawSocket::connect(server.address()).await;
        request.writes(hanging).await;
        // The server reads connections in their order, so it has the bytes when it answers a later one.
        server.connects("alice").await.client.close().await;
        let started = Instant::now();
        server.signal("TERM").await;
        assert_eq!(server.wait_for_exit().await.code(), Some(0));
        let took = started.elapsed();
        assert!(took < Duration::from_secs(5), "{what}: {took:?} of the 10 s of the deadline");
    }
}

#[tokio::test]
async fn a_client_with_full_buffers_does_not_delay_a_stop_until_the_deadline() {
    let data = TempDir::new().expect("a directory");
    let mut server = Process::start(data.path()).await;
    let stopped_reader = connect_stopped_reader(&server).await;
    let started = Instant::now();
    server.signal("TERM").await;
    assert_eq!(server.wait_for_exit().await.code(), Some(0));
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "{:?} of the 10 s of the deadline",
        started.elapsed()
    );
    drop(stopped_reader);
}

/// Opens a connection that does not read and whose buffers are full, so that the server cannot even write its close frame.
async fn connect_stopped_reader(server: &Process) -> RawSocket {
    let mut stopped_reader = RawSocket::connect_with_buffer(server.address(), 4_096).await;
    stopped_reader.says_hello_as("stopped_reader").await;
    let mut alice = server.connects("alice").await;
    let text = "x".repeat(10_000);
    let bytes = 8 * 1024 * 1024;
    for _ in 0..bytes / text.len() / 100 {
        let send = || command("send", &json!({"to": "@stopped_reader", "text": text}));
        let ids = alice.client.submit_all((0..100).map(|_| send())).await.expect("sent");
        for _ in ids {
            assert!(matches!(alice.receives_reply().await, Reply::Ok(_)));
        }
    }
    alice.client.close().await;
    stopped_reader
}

#[tokio::test]
async fn a_second_signal_exits_immediately() {
    let data = TempDir::new().expect("a directory");
    let mut server = Process::start(data.path()).await;
    let stopped_reader = connect_stopped_reader(&server).await;
    let mut alice = server.connects("alice").await;
    server.signal("TERM").await;
    receives_bye(&mut alice).await;
    server.signal("INT").await;
    let started = Instant::now();
    assert_eq!(server.wait_for_exit().await.code(), Some(130));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    drop(stopped_reader);
}

/// Sends messages until the server closes the connection. Returns the seqs of the acknowledged messages.
async fn send_until_closed(mut person: Person, room: &'static str) -> Vec<u64> {
    const BURST: usize = 20;
    let (mut acknowledged, mut open, mut bye) = (Vec::new(), 0, false);
    loop {
        if open == 0 && !bye {
            let send = || command("send", &json!({"to": room, "text": "hi"}));
            if person.client.submit_all((0..BURST).map(|_| send())).await.is_ok() {
                open = BURST;
            }
        }
        match in_time("a frame", person.client.next()).await {
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
            // Commands that had not reached the server are lost when the connection ends.
            Some(Err(_)) | None => break,
        }
    }
    assert!(bye, "`bye` arrives before the end");
    acknowledged
}

#[tokio::test]
async fn a_stop_acknowledges_writes_in_flight_and_stores_no_others() {
    let data = TempDir::new().expect("a directory");
    let mut server = Process::start(data.path()).await;
    let mut alice = server.connects("alice").await;
    alice.makes_public_room("r", &[]).await;
    let mut saying = JoinSet::new();
    for number in 0..10 {
        let mut person = server.connects(&format!("user{number}")).await;
        person.does("join", json!({"conversation": "#r"})).await;
        saying.spawn(send_until_closed(person, "#r"));
    }
    // Stops the server while messages are in flight.
    for _ in 0..500 {
        alice.receives_event().await;
    }
    server.signal("TERM").await;
    let acknowledged: BTreeSet<_> = saying.join_all().await.into_iter().flatten().collect();
    let mut seen = 510;
    while let Some(Ok(frame)) = alice.client.next().await {
        seen += u64::from(matches!(frame, ServerFrame::Event(_)));
    }
    assert_eq!(server.wait_for_exit().await.code(), Some(0));

    let server = Process::start(data.path()).await;
    let log = server.connects("alice").await.log("#r").await;
    let messages = log.iter().filter(|event| event.key.is_some()).map(|event| event.seq.0);
    assert_eq!(messages.collect::<BTreeSet<_>>(), acknowledged);
    // Alice reconnects to the new server with her cursors.
    let last = log.last().expect("events").seq.0;
    let cursor = seen.min(last) - 100;
    let mut alice = server.resumes("alice", &[("#r", cursor)]).await;
    for seq in cursor + 1..=last {
        assert_eq!(alice.receives_event().await.seq.0, seq);
    }
    alice.says("#r", "and on").await;
    alice.receives_nothing().await;
}

#[tokio::test]
async fn a_stopping_server_is_not_ready_and_refuses_connections() {
    let mut server = Server::start().await;
    assert_eq!(server.gets("/readyz").await.status, 200);
    // This client does not read, so the stop takes a while.
    let mut stopped_reader = RawSocket::connect(server.address()).await;
    stopped_reader.says_hello_as("stopped_reader").await;
    server.begin_shutdown();
    let url = server.page("/readyz");
    let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
    eventually("not ready", async || match http.get(&url).send().await {
        Ok(answer) => (answer.status().as_u16() == 503).then_some(()),
        Err(_) => Some(()),
    })
    .await;
    assert_eq!(stopped_reader.next().await.json()["type"], "bye");
    assert_eq!(stopped_reader.next().await.close_code(), RESTART_CLOSE_CODE);
    let hello = server.hello("alice", &[]);
    assert!(server.tries_to_connect(hello).await.is_err(), "a stopping server refuses connections");
    server.wait_until_stopped().await;
}

/// Waits until the server has this number of connections.
async fn wait_for_connections(server: &Server, expected: f64) {
    let asks = async || (server.metric("switchboard_connections").await == expected).then_some(());
    eventually(&format!("{expected} connections"), asks).await;
}

/// Ends bob's connection by calling `ends`, and asserts that alice, who watches bob, receives that he is offline.
async fn assert_offline_after(server: &Server, ends: impl AsyncFnOnce(RawSocket)) {
    let mut alice = server.connects("alice").await;
    alice.makes_room("friends", &["bob"]).await;
    let mut bob = RawSocket::connect(server.address()).await;
    bob.says_hello_as("bob").await;
    alice.does("watch", json!({"users": ["bob"]})).await;
    assert!(matches!(alice.receives_signal().await, Signal::Presence { online: true, .. }));
    wait_for_connections(server, 2.0).await;
    // Alice answers the server's pings while she waits.
    let (gone, ()) = tokio::join!(alice.receives_signal(), ends(bob));
    assert!(matches!(gone, Signal::Presence { online: false, last_seen: Some(_), .. }), "{gone:?}");
    wait_for_connections(server, 1.0).await;
    alice.client.close().await;
    wait_for_connections(server, 0.0).await;
}

#[tokio::test]
async fn a_user_is_offline_at_once_when_the_connection_ends() {
    // The ping interval is longer than the test waits, so no connection is closed as silent.
    let server = Server::start_with(|config| {
        config.presence_grace = Duration::ZERO;
        config.limits = Limits { ping_interval: 3_600_000, ..Limits::default().without_rates() };
    })
    .await;
    assert_offline_after(&server, async |mut bob: RawSocket| {
        bob.writes(frame(FIN | CLOSE, b"\x03\xE8")).await;
        assert_eq!(bob.is_closed().await, 1000);
    })
    .await;
    assert_offline_after(&server, async |bob: RawSocket| bob.reset()).await;
    assert_offline_after(&server, async |bob: RawSocket| drop(bob)).await;
    assert_offline_after(&server, async |mut bob: RawSocket| {
        // Sends a part of a frame, and then resets the connection.
        bob.writes(&frame(FIN | 1, b"half of it")[..9]).await;
        bob.reset();
    })
    .await;
    assert_offline_after(&server, async |mut bob: RawSocket| {
        bob.writes(frame(FIN | 0x3, b"")).await;
        assert_eq!(bob.next().await.close_code(), 1002);
    })
    .await;
}

#[tokio::test]
async fn a_silent_connection_is_closed_and_one_that_answers_pings_is_not() {
    // The pong time-out is long enough for alice to answer pings, also on a busy machine.
    let server = Server::start_with(|config| {
        config.presence_grace = Duration::ZERO;
        config.limits =
            Limits { ping_interval: 200, pong_timeout: 3_000, ..Limits::default().without_rates() };
    })
    .await;
    assert_offline_after(&server, async |mut bob: RawSocket| {
        assert_eq!(bob.next().await.opcode, 0x9, "a ping, which bob does not answer");
        assert_eq!(bob.next().await.close_code(), 4408);
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_the_server_does_not_read_is_not_closed_as_silent() {
    let server = Server::start_with(|config| {
        config.limits = Limits {
            ping_interval: 100,
            // The pong time-out is long enough for alice to answer pings, also on a busy machine.
            pong_timeout: 1_000,
            in_flight: 1,
            ..Limits::default().without_rates()
        };
    })
    .await;
    let mut alice = RawSocket::connect(server.address()).await;
    alice.says_hello_as("alice").await;
    let lock = server.lock_for_writing();
    let send = |text: &str| format!(r#"{{"type":"send","id":"{text}","to":"@bob","text":"{text}"}}"#);
    // The first command waits for its outcome; meanwhile the server reads no further commands from the connection.
    alice.says(&send("one")).await;
    alice.says(&send("two")).await;
    // waits for: several times the time-out of a silent connection, but less than the time-out of a write
    tokio::time::sleep(Duration::from_millis(3_000)).await;
    drop(lock);
    let mut answered = Vec::new();
    while answered.len() < 2 {
        let next = alice.next().await;
        match next.opcode {
            PING => alice.writes(frame(FIN | PONG, &next.payload)).await,
            _ => answered.push(next.json()["id"].as_str().expect("an answer").to_owned()),
        }
    }
    assert_eq!(answered, ["one", "two"]);
    // Now the server reads from the connection again, so it notices that the client is silent and closes the connection.
    let code = loop {
        let next = alice.next().await;
        if next.opcode != PING {
            break next.close_code();
        }
    };
    assert_eq!(code, 4408);
}
