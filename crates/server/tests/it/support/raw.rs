//! A TCP connection on which a test can send bytes that no client would send.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use super::in_time;

pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;
pub(crate) const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// The mask of every frame; its value does not matter.
const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

/// Size of the read buffer; it is small because a test may have thousands of connections.
const READ_BUFFER_BYTES: usize = 1024;

/// A TCP connection to the server.
pub(crate) struct RawSocket {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
}

/// A WebSocket frame from the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RawFrame {
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

impl RawFrame {
    /// The payload of a text frame, parsed as JSON.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.opcode, TEXT, "{self:?}");
        serde_json::from_slice(&self.payload).expect("JSON")
    }

    /// The code in a close frame.
    pub(crate) fn close_code(&self) -> u16 {
        assert_eq!(self.opcode, CLOSE, "{:?}", String::from_utf8_lossy(&self.payload));
        let [high, low, ..] = self.payload[..] else { panic!("a close frame without a code") };
        u16::from_be_bytes([high, low])
    }
}

impl RawSocket {
    /// Connects without sending anything.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::connect_by(TcpSocket::new_v4().expect("a socket"), address).await
    }

    /// Connects from another loopback address.
    pub(crate) async fn connect_from(source: Ipv4Addr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((source, 0).into()).expect("a loopback address");
        Self::connect_by(socket, address).await
    }

    /// Connects with a receive buffer of `bytes` bytes, which a test makes small to fill it soon.
    pub(crate) async fn connect_with_buffer(address: SocketAddr, bytes: u32) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(bytes).expect("it may be small");
        Self::connect_by(socket, address).await
    }

    async fn connect_by(socket: TcpSocket, address: SocketAddr) -> Self {
        let stream = in_time("a connection", socket.connect(address)).await.expect("a connection");
        stream.set_nodelay(true).expect("TCP");
        Self { stream: BufReader::with_capacity(READ_BUFFER_BYTES, stream), address }
    }

    /// Writes bytes; panics if the server has closed the connection.
    pub(crate) async fn writes(&mut self, bytes: impl AsRef<[u8]>) {
        self.tries_to_write(bytes).await.expect("written");
    }

    /// Writes bytes; fails if the server has closed the connection.
    pub(crate) async fn tries_to_write(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        in_time("the server reads", self.stream.write_all(bytes.as_ref())).await
    }

    /// The request of a WebSocket handshake without the empty line at its end.
    pub(crate) fn handshake(&self) -> String {
        format!(
            "GET /v1/ws HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            self.address
        )
    }

    /// Sends a WebSocket handshake with additional headers, each of which ends with CR LF. Returns the head of the response.
    pub(crate) async fn request_upgrade(&mut self, headers: &str) -> String {
        let request = format!("{}{headers}\r\n", self.handshake());
        // This fails if the server responds before it has read everything.
        let _ = self.tries_to_write(request).await;
        self.read_head().await
    }

    /// Sends a WebSocket handshake with additional headers and returns the status of the response.
    pub(crate) async fn upgrade_status(&mut self, headers: &str) -> u16 {
        let head = self.request_upgrade(headers).await;
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
    }

    /// Reads the head of an HTTP response.
    pub(crate) async fn read_head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = in_time("an answer", self.stream.read_line(&mut head)).await.expect("an answer");
            assert!(read > 0, "the answer breaks off: {head:?}");
        }
        head
    }

    /// Reads the body of the HTTP response with this head.
    pub(crate) async fn reads_body(&mut self, head: &str) -> Vec<u8> {
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.expect("a length")];
        in_time("the body", self.stream.read_exact(&mut body)).await.expect("a body");
        body
    }

    /// Turns this connection into a WebSocket.
    pub(crate) async fn upgrades(&mut self) {
        let head = self.request_upgrade("").await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    }

    /// Turns this connection into a WebSocket, sends `hello` with a user name and receives `welcome`.
    pub(crate) async fn says_hello_as(&mut self, name: &str) {
        self.upgrades().await;
        self.says(&format!(r#"{{"type":"hello","user":"{name}"}}"#)).await;
        let welcome = self.next().await.json();
        assert_eq!(welcome["type"], "welcome", "{welcome}");
    }

    /// Turns this connection into a WebSocket, sends `hello` with a token and receives `welcome`.
    pub(crate) async fn says_hello_with(&mut self, token: &str) {
        self.upgrades().await;
        self.says(&format!(r#"{{"type":"hello","token":"{token}"}}"#)).await;
        let welcome = self.next().await.json();
        assert_eq!(welcome["type"], "welcome", "{welcome}");
    }

    /// Sends a text frame.
    pub(crate) async fn says(&mut self, text: &str) {
        self.writes(frame(FIN | TEXT, text.as_bytes())).await;
    }

    /// Receives the next frame.
    pub(crate) async fn next(&mut self) -> RawFrame {
        in_time("a frame", read_frame(&mut self.stream)).await.expect("a frame")
    }

    /// Sends a command that is refused and returns the error's code and field.
    pub(crate) async fn is_refused(&mut self, text: &str) -> (String, Option<String>) {
        self.says(text).await;
        let error = self.next().await.json();
        assert_eq!(error["type"], "error", "{text:.200}: {error}");
        let word = |name: &str| error[name].as_str().map(str::to_owned);
        assert!(word("message").is_some_and(|message| !message.is_empty()), "{error}");
        (word("code").expect("a code"), word("field"))
    }

    /// Sends a text again and again, and reads the answers, until the server closes the connection. Returns the close code.
    pub(crate) async fn floods(&mut self, text: &str) -> u16 {
        let frames = frame(FIN | TEXT, text.as_bytes()).repeat(1_000);
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        let write = async {
            while writer.write_all(&frames).await.is_ok() {}
            std::future::pending::<()>().await;
        };
        let read = async {
            loop {
                let frame = read_frame(&mut reader).await.expect("a frame");
                if frame.opcode == CLOSE {
                    return frame.close_code();
                }
            }
        };
        in_time("the server closes the flooding connection", async {
            tokio::select! {
                code = read => code,
                () = write => unreachable!(),
            }
        })
        .await
    }

    /// Reads slowly, like a slow consumer, until the future is dropped.
    pub(crate) async fn reads_slowly(&mut self) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            // At the end of the stream, `read` returns at once; the pause below keeps the loop from spinning.
            let _ = self.stream.read(&mut buffer).await;
            // waits for: the pause of a slow reader
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asserts that the next frame is the server's close frame, and returns its code.
    pub(crate) async fn is_closed(&mut self) -> u16 {
        let code = self.next().await.close_code();
        self.is_disconnected().await;
        code
    }

    /// Asserts that the server ends the connection without sending another byte.
    pub(crate) async fn is_disconnected(&mut self) {
        // A read error means that the server reset the connection, because it had not read everything.
        if let Ok(byte) = in_time("the end of the connection", self.stream.read_u8()).await {
            panic!("another byte: {byte}");
        }
    }

    /// Reads and discards everything until the connection ends.
    pub(crate) async fn wait_for_end(&mut self) {
        let mut rest = Vec::new();
        // A read error means that the server reset the connection, because it had not read everything.
        let _ = in_time("the end of the connection", self.stream.read_to_end(&mut rest)).await;
    }

    /// Asserts that the connection is open and no frame has arrived: sends a ping, whose answer must be the next frame.
    pub(crate) async fn is_still_open(&mut self) {
        self.says(r#"{"type":"ping","id":"still here"}"#).await;
        let pong = self.next().await.json();
        assert_eq!((&pong["type"], &pong["id"]), (&"pong".into(), &"still here".into()), "{pong}");
    }

    /// Ends the connection with a TCP reset.
    pub(crate) fn reset(self) {
        self.stream.get_ref().set_zero_linger().expect("TCP");
    }
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<RawFrame> {
    let first = stream.read_u8().await?;
    let len = match stream.read_u8().await? {
        126 => stream.read_u16().await?.into(),
        127 => stream.read_u64().await?,
        len => len.into(),
    };
    let mut payload = vec![0; usize::try_from(len).expect("it fits the memory")];
    stream.read_exact(&mut payload).await?;
    Ok(RawFrame { opcode: first & 0x0F, payload })
}

/// Encodes a masked frame. `first` is its first byte: flags and opcode.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame_head(first, payload.len() as u64);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// Encodes the header of a frame with a payload of `len` bytes, including the mask.
pub(crate) fn frame_head(first: u8, len: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match len {
        0..=125 => bytes.push(MASKED | u8::try_from(len).expect("at most 125")),
        126..=0xFFFF => {
            bytes.push(MASKED | 126);
            bytes.extend(u16::try_from(len).expect("two bytes").to_be_bytes());
        }
        _ => {
            bytes.push(MASKED | 127);
            bytes.extend(len.to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes
}
