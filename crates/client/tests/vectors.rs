//! Sends the wire vectors of `testdata/protocol` to the client, from a scripted server on a real socket.

mod scripted;

use std::path::Path;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use switchboard_client::{Client, ClientError, Reconnect};
use switchboard_protocol::reply::ServerFrame;
use switchboard_protocol::{ErrorCode, Ping};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

fn read_cases(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/protocol").join(file);
    let document: Value = serde_json::from_str(&std::fs::read_to_string(path).expect(file)).expect("JSON");
    document["cases"].as_array().expect("cases").clone()
}

/// Opens a connection without `hello`. Returns the client and the server's side.
async fn connect_pair() -> (Client, WebSocketStream<TcpStream>) {
    let (listener, url) = scripted::listen().await;
    let (client, server) = tokio::join!(Client::open(&url), scripted::accept(&listener));
    (client.expect("a connection"), server)
}

async fn sends(server: &mut WebSocketStream<TcpStream>, frame: &Value) {
    server.send(Message::text(frame.to_string())).await.expect("sent");
}

#[tokio::test]
async fn every_frame_of_a_known_type_is_decoded_and_others_are_skipped() {
    let (mut client, mut server) = connect_pair().await;
    for case in read_cases("frames.json") {
        sends(&mut server, &case["frame"]).await;
        // The client skips a frame of an unknown type, but not an event of an unknown type.
        if case["unknown"] == true && case["frame"]["seq"].is_null() {
            continue;
        }
        let frame = client.next().await.expect("open").unwrap_or_else(|error| panic!("{case}: {error}"));
        if let ServerFrame::Event(event) = frame {
            assert_eq!(json!(event.seq), case["frame"]["seq"], "{case}");
        }
    }
}

#[tokio::test]
async fn every_error_says_whether_to_retry() {
    for case in read_cases("errors.json") {
        let (mut client, mut server) = connect_pair().await;
        let mut error = case["frame"].clone();
        error["id"] = json!(1);
        let script = async {
            server.next().await.expect("open").expect("a ping");
            sends(&mut server, &error).await;
        };
        let (refused, ()) = tokio::join!(client.call(Ping {}), script);
        let Err(refusal @ ClientError::Refused(_)) = refused else { panic!("{case}: {refused:?}") };
        let again = match error["retry_after"].as_u64() {
            _ if case["again"] != true => Reconnect::Never,
            Some(wait) => Reconnect::After(Duration::from_millis(wait)),
            None => Reconnect::Backoff,
        };
        assert_eq!(refusal.reconnect(), again, "{case}");
        let ClientError::Refused(failure) = refusal else { unreachable!() };
        assert_eq!(failure.code == ErrorCode::Unknown, case["unknown"] == true, "{case}");
    }
}

#[tokio::test]
async fn the_close_code_decides_whether_the_client_reconnects() {
    for case in read_cases("closes.json") {
        let (mut client, mut server) = connect_pair().await;
        let code = case["code"].as_u64().and_then(|code| u16::try_from(code).ok()).expect("a code");
        if case["before"].is_object() {
            sends(&mut server, &case["before"]).await;
            client.next().await.expect("open").expect("the frame before");
        }
        if code == 1006 {
            drop(server);
            while client.next().await.is_some() {}
        } else {
            let frame = CloseFrame { code: code.into(), reason: "a word".into() };
            server.close(Some(frame)).await.expect("closed");
            assert!(client.next().await.is_none(), "{case}");
            assert_eq!(client.close_code(), Some(code));
        }
        let again = match case["after"].as_u64() {
            _ if case["reconnect"] != true => Reconnect::Never,
            Some(wait) => Reconnect::After(Duration::from_millis(wait)),
            None => Reconnect::Backoff,
        };
        assert_eq!(client.reconnect(), again, "{case}");
    }
}
