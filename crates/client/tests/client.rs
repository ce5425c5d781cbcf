//! Tests the client against a scripted server on a real socket.

mod scripted;

use futures_util::{SinkExt, StreamExt};
use scripted::listen;
use serde_json::{Value, json};
use switchboard_client::{Client, ClientError, MAX_UNREAD_FRAMES};
use switchboard_protocol::reply::{Ok as OkFrame, OkBody, Reply, ServerFrame, Welcome};
use switchboard_protocol::{
    CommandId, ErrorCode, EventBody, Hello, Limits, Ping, Send, Seq, Sync, Target, Text, UserId,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// The server's side of one connection.
struct Server(WebSocketStream<TcpStream>);

impl Server {
    async fn accept(listener: &TcpListener) -> Self {
        Self(scripted::accept(listener).await)
    }

    /// Accepts a connection and answers its `hello` with `welcome`.
    async fn accept_and_welcome(listener: &TcpListener) -> Self {
        let mut server = Self::accept(listener).await;
        assert_eq!(server.receives_json().await, json!({"type": "hello", "user": "alice"}));
        let welcome = Welcome {
            user: UserId::parse("alice").expect("id"),
            connection: "c1".into(),
            server: "scripted".into(),
            features: Vec::new(),
            limits: Limits::default(),
            conversations: Vec::new(),
            more: false,
            unread: None,
            permissions: None,
        };
        let frame: Reply = Reply::Welcome(Box::new(welcome));
        server.sends_frame(serde_json::to_value(frame).expect("json")).await;
        server
    }

    async fn receives_json(&mut self) -> Value {
        let message = self.0.next().await.expect("open").expect("a message");
        serde_json::from_str(message.to_text().expect("text")).expect("json")
    }

    async fn sends_frame(&mut self, frame: Value) {
        self.0.send(Message::text(frame.to_string())).await.expect("sent");
    }

    async fn closes(&mut self, code: u16, reason: &str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        self.0.close(Some(frame)).await.expect("closed");
        assert!(matches!(self.0.next().await, Some(Ok(Message::Close(_))) | None), "the client closes, too");
    }
}

/// Connects a client. Returns it after `welcome`, with the server's side of its connection.
async fn connect_pair() -> (Client, Server) {
    let (listener, url) = listen().await;
    let (client, server) =
        tokio::join!(Client::connect(&url, hello_as_alice()), Server::accept_and_welcome(&listener));
    (client.expect("welcome").0, server)
}

fn hello_as_alice() -> Hello {
    Hello { token: None, user: UserId::parse("alice").ok(), device: None, cursors: Default::default() }
}

fn message_to_bob() -> Send {
    let to = Target::parse("@bob").expect("target");
    Send { to, text: Text::parse("hi").ok(), data: None, key: None, reply_to: None }
}

fn message_event(seq: u64) -> Value {
    json!({"type": "message", "conversation": "@alice:bob", "seq": seq, "from": "bob",
           "at": "2026-11-23T12:00:00.000Z", "text": "ho"})
}

fn ok_stored(id: i64, seq: u64) -> Value {
    json!({"type": "ok", "id": id, "conversation": "@alice:bob", "seq": seq, "at": "2026-11-23T12:00:00.000Z"})
}

async fn next_message(client: &mut Client) -> Seq {
    match client.next().await {
        Some(Ok(ServerFrame::Event(event))) if matches!(event.body, EventBody::Message { .. }) => event.seq,
        other => panic!("no message but {other:?}"),
    }
}

#[tokio::test]
async fn hello_is_answered_by_welcome() {
    let (listener, url) = listen().await;
    let (client, _server) =
        tokio::join!(Client::connect(&url, hello_as_alice()), Server::accept_and_welcome(&listener));
    let (_, welcome) = client.expect("welcome");
    assert_eq!(welcome.user.as_str(), "alice");
}

#[tokio::test]
async fn a_refused_hello_is_the_servers_error() {
    let (listener, url) = listen().await;
    let refuse = async {
        let mut server = Server::accept(&listener).await;
        server.receives_json().await;
        server
            .sends_frame(
                json!({"type": "error", "code": "unauthorized", "message": "no", "retryable": false}),
            )
            .await;
    };
    let (refused, ()) = tokio::join!(Client::connect(&url, hello_as_alice()), refuse);
    let Err(ClientError::Refused(failure)) = refused else { panic!("{refused:?}") };
    assert_eq!(failure.code, ErrorCode::Unauthorized);
}

#[tokio::test]
async fn a_refused_handshake_is_an_error_with_the_http_status() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (listener, url) = listen().await;
    let full = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        assert_ne!(stream.read(&mut [0; 1024]).await.expect("a request"), 0);
        let answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nfull\n";
        stream.write_all(answer).await.expect("answered");
    };
    let (refused, ()) = tokio::join!(Client::open(&url), full);
    let Err(ClientError::Handshake { status, body }) = refused else { panic!("{refused:?}") };
    assert_eq!((status, body.as_str()), (503, "full"));
}

#[tokio::test]
async fn next_returns_the_frames_that_arrived_during_a_call_in_order() {
    let (mut client, mut server) = connect_pair().await;
    let script = async {
        assert_eq!(
            server.receives_json().await,
            json!({"type": "send", "to": "@bob", "text": "hi", "id": 1})
        );
        for frame in [message_event(6), ok_stored(99, 1), message_event(7), ok_stored(1, 8), message_event(9)]
        {
            server.sends_frame(frame).await;
        }
    };
    let (answer, ()) = tokio::join!(client.call(message_to_bob()), script);
    let answer = answer.expect("stored");
    assert!(matches!(answer, OkBody::Stored { seq: Seq(8), .. }), "{answer:?}");
    assert_eq!(next_message(&mut client).await, Seq(6));
    let other = client.next().await.expect("open").expect("understood");
    assert!(
        matches!(&other, ServerFrame::Reply(Reply::Ok(OkFrame { id: Some(CommandId::Number(99)), .. }))),
        "{other:?}"
    );
    assert_eq!(next_message(&mut client).await, Seq(7));
    assert_eq!(next_message(&mut client).await, Seq(9));
}

#[tokio::test]
async fn a_call_fails_when_too_many_frames_are_unread() {
    let (mut client, mut server) = connect_pair().await;
    let script = async {
        server.receives_json().await;
        for _ in 0..MAX_UNREAD_FRAMES {
            server.0.feed(Message::text(r#"{"type":"pong"}"#)).await.expect("written");
        }
        server.sends_frame(ok_stored(1, 1)).await;
    };
    let (answer, ()) = tokio::join!(client.call(message_to_bob()), script);
    assert!(matches!(answer, Err(ClientError::Unread(MAX_UNREAD_FRAMES))), "{answer:?}");
    for _ in 0..MAX_UNREAD_FRAMES {
        let unread = client.next().await.expect("open").expect("understood");
        assert_eq!(unread, ServerFrame::Reply(Reply::Pong { id: None }));
    }
    let answer = client.next().await.expect("open").expect("understood");
    assert!(matches!(answer, ServerFrame::Reply(Reply::Ok(_))), "the answer comes after all: {answer:?}");
}

#[tokio::test]
async fn a_call_returns_the_error_with_its_own_id() {
    let (mut client, mut server) = connect_pair().await;
    let error = |id: i64, code: &str| json!({"type": "error", "id": id, "code": code, "message": "m", "retryable": false});
    let script = async {
        server.receives_json().await;
        server.sends_frame(error(0, "not_found")).await;
        server.sends_frame(error(1, "forbidden")).await;
    };
    let (refused, ()) = tokio::join!(client.call(message_to_bob()), script);
    let Err(ClientError::Refused(failure)) = refused else { panic!("{refused:?}") };
    assert_eq!(failure.code, ErrorCode::Forbidden);
    let other = client.next().await.expect("open").expect("understood");
    assert!(matches!(other, ServerFrame::Reply(Reply::Error(f)) if f.code == ErrorCode::NotFound));
}

#[tokio::test]
async fn the_answer_to_another_command_is_no_answer() {
    let (mut client, mut server) = connect_pair().await;
    let script = async {
        for answer in
            [json!({"type": "ok", "id": 1}), json!({"type": "ok", "id": 2, "page": []}), ok_stored(3, 8)]
        {
            server.receives_json().await;
            server.sends_frame(answer).await;
        }
    };
    let calls = async {
        for _ in 0..2 {
            let answer = client.call(message_to_bob()).await;
            assert!(matches!(answer, Err(ClientError::NotUnderstood { .. })), "{answer:?}");
        }
        client.call(message_to_bob()).await
    };
    let (answer, ()) = tokio::join!(calls, script);
    assert!(matches!(answer, Ok(OkBody::Stored { seq: Seq(8), .. })), "{answer:?}");
}

#[tokio::test]
async fn a_ping_is_answered_by_its_pong() {
    let (mut client, mut server) = connect_pair().await;
    let script = async {
        assert_eq!(server.receives_json().await, json!({"type": "ping", "id": 1}));
        server.sends_frame(json!({"type": "pong", "id": 1})).await;
    };
    let (answer, ()) = tokio::join!(client.call(Ping {}), script);
    assert_eq!(answer.expect("pong"), OkBody::Done {});
}

#[tokio::test]
async fn submitted_commands_are_answered_through_next() {
    let (mut client, mut server) = connect_pair().await;
    let ids = client.submit_all([message_to_bob().into(), message_to_bob().into()]).await.expect("written");
    assert_eq!(ids, 1..3);
    assert_eq!(client.submit(Ping {}).await.expect("written"), 3);
    for id in 1..=3 {
        assert_eq!(server.receives_json().await["id"], id);
    }
    server.sends_frame(ok_stored(2, 5)).await;
    let answer = client.next().await.expect("open").expect("understood");
    assert!(
        matches!(&answer, ServerFrame::Reply(Reply::Ok(OkFrame { id: Some(CommandId::Number(2)), .. }))),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_cancelled_next_loses_no_frame() {
    let (mut client, mut server) = connect_pair().await;
    tokio::select! {
        biased;
        frame = client.next() => panic!("the server sent nothing, but {frame:?}"),
        () = server.sends_frame(message_event(1)) => {}
    }
    assert_eq!(next_message(&mut client).await, Seq(1));
}

#[tokio::test]
async fn the_close_code_is_known_after_the_last_frame() {
    let (mut client, mut server) = connect_pair().await;
    let read = async {
        assert_eq!(client.close_code(), None);
        assert_eq!(next_message(&mut client).await, Seq(1));
        assert!(client.next().await.is_none());
        assert!(client.next().await.is_none(), "the end stays the end");
        assert_eq!(client.close_code(), Some(1012));
        let late = client.call(Ping {}).await;
        let Err(ClientError::Closed { code: Some(1012), reason }) = late else { panic!("{late:?}") };
        assert_eq!(reason, "restarting");
    };
    let script = async {
        server.sends_frame(message_event(1)).await;
        server.closes(1012, "restarting").await;
    };
    tokio::join!(read, script);
}

#[tokio::test]
async fn a_call_fails_when_the_server_closes() {
    let (mut client, mut server) = connect_pair().await;
    let script = async {
        server.receives_json().await;
        server.closes(4408, "nothing heard").await;
    };
    let (answer, ()) = tokio::join!(client.call(message_to_bob()), script);
    assert!(matches!(answer, Err(ClientError::Closed { code: Some(4408), .. })), "{answer:?}");
}

#[tokio::test]
async fn next_returns_an_error_and_then_none_after_the_connection_breaks() {
    let (mut client, server) = connect_pair().await;
    drop(server);
    let broken = client.next().await;
    assert!(matches!(broken, Some(Err(ClientError::Transport(_)))), "{broken:?}");
    assert!(client.next().await.is_none());
    assert_eq!(client.close_code(), None);
}

#[tokio::test]
async fn the_connection_goes_on_after_an_invalid_frame() {
    let (mut client, mut server) = connect_pair().await;
    for nonsense in [json!({"type": "gap"}), json!({"novelty": 1}), json!(["novelty"])] {
        server.sends_frame(nonsense.clone()).await;
        let invalid = client.next().await;
        let Some(Err(ClientError::NotUnderstood { frame, .. })) = invalid else { panic!("{invalid:?}") };
        assert_eq!(frame, nonsense.to_string());
    }
    server.sends_frame(message_event(1)).await;
    assert_eq!(next_message(&mut client).await, Seq(1));
}

/// An event of a type that only a newer server knows.
fn unknown_event(seq: u64) -> Value {
    let mut event = message_event(seq);
    event["type"] = json!("novelty");
    event
}

#[tokio::test]
async fn unknown_frames_are_skipped_and_unknown_events_keep_their_seq() {
    let (mut client, mut server) = connect_pair().await;
    let script = async {
        server.sends_frame(json!({"type": "novelty"})).await;
        server.sends_frame(unknown_event(1)).await;
        server.receives_json().await;
        server.sends_frame(json!({"type": "novelty", "id": 1})).await;
        let page = json!({"type": "ok", "id": 1, "conversation": "@alice:bob", "head": 3, "more": false,
                          "events": [message_event(1), unknown_event(2), message_event(3)]});
        server.sends_frame(page).await;
        server.sends_frame(message_event(4)).await;
    };
    let sync = Sync { conversation: Target::parse("@bob").expect("target"), after: Seq(0), limit: None };
    let (page, ()) = tokio::join!(client.call(sync), script);
    let Ok(OkBody::Log { events, .. }) = page else { panic!("{page:?}") };
    assert_eq!(events.iter().map(|event| event.seq.0).collect::<Vec<_>>(), [1, 2, 3]);
    let event = client.next().await;
    let Some(Ok(ServerFrame::Event(event))) = event else { panic!("{event:?}") };
    assert_eq!((event.seq, event.from.as_str()), (Seq(1), "bob"));
    assert!(matches!(&event.body, EventBody::Unknown(fields) if fields["text"] == "ho"), "{event:?}");
    assert_eq!(next_message(&mut client).await, Seq(4));
}

#[tokio::test]
async fn raw_frames_are_sent_without_a_change() {
    let (mut client, mut server) = connect_pair().await;
    client.send_raw("[]").await.expect("sent");
    client.send_binary(*b"\0").await.expect("sent");
    assert_eq!(server.receives_json().await, json!([]));
    assert_eq!(server.0.next().await.expect("open").expect("message"), Message::binary(vec![0]));
}

#[tokio::test]
async fn close_waits_for_the_servers_close_frame() {
    let (mut client, mut server) = connect_pair().await;
    let script = async {
        let close = server.0.next().await.expect("open").expect("a message");
        assert!(matches!(&close, Message::Close(Some(frame)) if u16::from(frame.code) == 1000));
        assert!(server.0.next().await.is_none());
    };
    tokio::join!(client.close(), script);
    assert!(client.next().await.is_none());
}

#[test]
fn the_client_and_its_errors_are_send_and_sync() {
    fn assert_send_and_sync<T: std::marker::Send + std::marker::Sync + 'static>() {}
    assert_send_and_sync::<ClientError>();
    assert_send_and_sync::<Client>();
}
