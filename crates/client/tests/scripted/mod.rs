//! The server's side of a connection, for tests that script what the server sends.

use switchboard_protocol::SUBPROTOCOL;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

/// Opens a socket to listen on. Also returns the URL to which a client connects.
pub(crate) async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("ws://{}/v1/ws", listener.local_addr().expect("an address"));
    (listener, url)
}

/// Accepts a connection of a client that offers this protocol.
pub(crate) async fn accept(listener: &TcpListener) -> WebSocketStream<TcpStream> {
    let (stream, _) = listener.accept().await.expect("a connection");
    #[expect(clippy::result_large_err, reason = "the shape that tungstenite calls")]
    let handshake = |request: &Request, mut response: Response| {
        let headers = request.headers();
        assert!(!headers.contains_key("origin"), "a program has no origin");
        assert_eq!(headers["sec-websocket-protocol"], SUBPROTOCOL);
        let agreed = SUBPROTOCOL.parse().expect("a header value");
        response.headers_mut().insert("sec-websocket-protocol", agreed);
        Ok(response)
    };
    accept_hdr_async(stream, handshake).await.expect("a handshake")
}
