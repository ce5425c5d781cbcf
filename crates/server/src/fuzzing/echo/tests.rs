use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message as Sent;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode as Code, Data, OpCode};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::*;

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Connects a client to a new server, which runs until the returned task set is dropped.
async fn client() -> (Client, JoinSet<io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut running = JoinSet::new();
    running.spawn(serve(listener));
    let (client, _) = Box::pin(connect_async(format!("ws://{address}/"))).await.expect("a handshake");
    (client, running)
}

fn frame_part(payload: &[u8], opcode: Data, last: bool) -> Sent {
    Sent::Frame(Frame::message(payload.to_vec(), OpCode::Data(opcode), last))
}

/// Returns the code with which the server closes the connection after these messages.
async fn close_code_after(sent: Vec<Sent>) -> Option<u16> {
    let (mut client, _running) = client().await;
    for message in sent {
        // The server may close the connection before the last message is sent.
        if client.send(message).await.is_err() {
            break;
        }
    }
    while let Some(heard) = client.next().await {
        match heard {
            Ok(Sent::Close(frame)) => return frame.map(|frame| frame.code.into()),
            Ok(_) => {}
            Err(error) => panic!("no close frame but {error}"),
        }
    }
    None
}

#[tokio::test]
async fn messages_of_any_size_and_split_are_echoed() {
    let (mut client, _running) = client().await;
    for size in [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20] {
        let (text, binary) = (Sent::text("ä".repeat(size / 2)), Sent::binary(vec![0xFE; size]));
        for message in [text, binary] {
            client.send(message.clone()).await.expect("sent");
            assert!(client.next().await.expect("open").expect("echoed") == message, "{size} bytes");
        }
    }
    // The bytes of one character are in two fragments, and a ping arrives between them.
    for message in [
        frame_part(b"\xC3", Data::Text, false),
        Sent::Ping("p".into()),
        frame_part(b"", Data::Continue, false),
        frame_part(b"\xA4", Data::Continue, true),
    ] {
        client.send(message).await.expect("sent");
    }
    let mut heard =
        [client.next().await, client.next().await].map(|one| one.expect("open").expect("a message"));
    heard.sort_by_key(Sent::is_ping);
    assert!(heard.contains(&Sent::Pong("p".into())) && heard.contains(&Sent::text("ä")), "{heard:?}");
}

#[tokio::test]
async fn close_frames_are_answered_and_invalid_frames_close_the_connection_with_their_code() {
    let close = |code: u16| Sent::Close(Some(CloseFrame { code: Code::from(code), reason: "bye".into() }));
    for (sent, code) in [
        (vec![close(1000)], 1000),
        (vec![close(3000)], 1000),
        (vec![Sent::Close(None)], 1000),
        (vec![frame_part(b"\xFF", Data::Text, true)], 1007),
        (vec![frame_part(b"\xC3", Data::Text, false), frame_part(b"a", Data::Continue, true)], 1007),
        (vec![frame_part(b"a", Data::Continue, true)], 1002),
        (vec![frame_part(b"a", Data::Text, false), frame_part(b"a", Data::Text, true)], 1002),
        (vec![frame_part(&vec![b'a'; (16 << 20) + 1], Data::Binary, true)], 1009),
    ] {
        let told = format!("{:?}", sent.iter().map(Sent::len).collect::<Vec<_>>());
        assert_eq!(close_code_after(sent).await, Some(code), "{told}");
    }
}
