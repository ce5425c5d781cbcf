//! A bare connection, for bytes that no client would send.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use super::soon;

pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xA;
pub(crate) const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// Any mask will do.
const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

/// Bytes of the read buffer: there may be thousands of connections.
const BUFFER: usize = 1024;

/// A connection.
pub(crate) struct Raw {
    stream: BufReader<TcpStream>,
    address: SocketAddr,
}

/// A frame of the server's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RawFrame {
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

impl RawFrame {
    /// What a text frame says.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.opcode, TEXT, "{self:?}");
        serde_json::from_slice(&self.payload).expect("JSON")
    }

    /// The code of a close frame.
    pub(crate) fn close_code(&self) -> u16 {
        assert_eq!(self.opcode, CLOSE, "{:?}", String::from_utf8_lossy(&self.payload));
        let [high, low, ..] = self.payload[..] else { panic!("a close frame without a code") };
        u16::from_be_bytes([high, low])
    }
}

impl Raw {
    /// Connects, and says nothing.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::connect_by(TcpSocket::new_v4().expect("a socket"), address).await
    }

    /// The same from an address of this machine's.
    pub(crate) async fn connect_from(source: Ipv4Addr, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((source, 0).into()).expect("an address of this machine's");
        Self::connect_by(socket, address).await
    }

    /// The same with room for so few bytes that have not been read.
    pub(crate) async fn connect_with_buffer(address: SocketAddr, bytes: u32) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(bytes).expect("it may be small");
        Self::connect_by(socket, address).await
    }

    async fn connect_by(socket: TcpSocket, address: SocketAddr) -> Self {
        let stream = soon("a connection", socket.connect(address)).await.expect("a connection");
        stream.set_nodelay(true).expect("TCP");
        Self { stream: BufReader::with_capacity(BUFFER, stream), address }
    }

    /// Writes bytes.
    pub(crate) async fn writes(&mut self, bytes: impl AsRef<[u8]>) {
        self.tries_to_write(bytes).await.expect("written");
    }

    /// Writes bytes to a server that may have had enough.
    pub(crate) async fn tries_to_write(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        soon("the server reads", self.stream.write_all(bytes.as_ref())).await
    }

    /// The start of a handshake, which an empty line ends.
    pub(crate) fn handshake(&self) -> String {
        format!(
            "GET /v1/ws HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
            self.address
        )
    }

    /// Asks to become a WebSocket with further headers, each ended by CR LF; the head of the answer.
    pub(crate) async fn asks_for_upgrade(&mut self, headers: &str) -> String {
        let request = format!("{}{headers}\r\n", self.handshake());
        // A server that has read enough does not read the rest.
        let _ = self.tries_to_write(request).await;
        self.head().await
    }

    /// The same; the status of the answer.
    pub(crate) async fn upgrade_status(&mut self, headers: &str) -> u16 {
        let head = self.asks_for_upgrade(headers).await;
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status")
    }

    /// The head of an answer.
    pub(crate) async fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let read = soon("an answer", self.stream.read_line(&mut head)).await.expect("an answer");
            assert!(read > 0, "the answer breaks off: {head:?}");
        }
        head
    }

    /// The body of an answer with this head.
    pub(crate) async fn reads_body(&mut self, head: &str) -> Vec<u8> {
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.expect("a length")];
        soon("the body", self.stream.read_exact(&mut body)).await.expect("a body");
        body
    }

    /// Becomes a WebSocket.
    pub(crate) async fn shakes_hands(&mut self) {
        let head = self.asks_for_upgrade("").await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    }

    /// Becomes a WebSocket of somebody's, who is welcomed.
    pub(crate) async fn enters_as(&mut self, name: &str) {
        self.shakes_hands().await;
        self.says(&format!(r#"{{"type":"hello","user":"{name}"}}"#)).await;
        let welcome = self.next().await.json();
        assert_eq!(welcome["type"], "welcome", "{welcome}");
    }

    /// Becomes the WebSocket of whom a token is for, who is welcomed.
    pub(crate) async fn enters_with(&mut self, token: &str) {
        self.shakes_hands().await;
        self.says(&format!(r#"{{"type":"hello","token":"{token}"}}"#)).await;
        let welcome = self.next().await.json();
        assert_eq!(welcome["type"], "welcome", "{welcome}");
    }

    /// Says a text frame.
    pub(crate) async fn says(&mut self, text: &str) {
        self.writes(frame(FIN | TEXT, text.as_bytes())).await;
    }

    /// The next frame.
    pub(crate) async fn next(&mut self) -> RawFrame {
        soon("a frame", read_frame(&mut self.stream)).await.expect("a frame")
    }

    /// Says a command, and the answer is an error frame: its code and field.
    pub(crate) async fn is_refused(&mut self, text: &str) -> (String, Option<String>) {
        self.says(text).await;
        let error = self.next().await.json();
        assert_eq!(error["type"], "error", "{text:.200}: {error}");
        let word = |name: &str| error[name].as_str().map(str::to_owned);
        assert!(word("message").is_some_and(|message| !message.is_empty()), "{error}");
        (word("code").expect("a code"), word("field"))
    }

    /// Says a text again and again without a pause, and hears what is answered meanwhile, until the server
    /// closes; with which code.
    pub(crate) async fn floods(&mut self, text: &str) -> u16 {
        let frames = frame(FIN | TEXT, text.as_bytes()).repeat(1_000);
        let (mut hears, mut says) = tokio::io::split(&mut self.stream);
        let speak = async {
            while says.write_all(&frames).await.is_ok() {}
            std::future::pending::<()>().await;
        };
        let hear = async {
            loop {
                let heard = read_frame(&mut hears).await.expect("a frame");
                if heard.opcode == CLOSE {
                    return heard.close_code();
                }
            }
        };
        soon("the flood is cut", async {
            tokio::select! {
                code = hear => code,
                () = speak => unreachable!(),
            }
        })
        .await
    }

    /// Reads a little now and then, for as long as it is asked to.
    pub(crate) async fn sips(&mut self) {
        let mut sip = vec![0; 64 * 1024];
        loop {
            // At the end there is nothing to be read, which is little enough.
            let _ = self.stream.read(&mut sip).await;
            // waits for: the time in which it does not read
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The code with which the server closes, which it does next, and then the end of the connection.
    pub(crate) async fn is_closed(&mut self) -> u16 {
        let code = self.next().await.close_code();
        self.is_cut().await;
        code
    }

    /// The connection ends without another byte.
    pub(crate) async fn is_cut(&mut self) {
        // At its end, or reset because bytes were on their way that nobody wanted to read.
        if let Ok(byte) = soon("the end of the connection", self.stream.read_u8()).await {
            panic!("another byte: {byte}");
        }
    }

    /// The connection ends, after whatever else the server said.
    pub(crate) async fn ends(&mut self) {
        let mut rest = Vec::new();
        // At its end, or reset because bytes were on their way that nobody wanted to read.
        let _ = soon("the end of the connection", self.stream.read_to_end(&mut rest)).await;
    }

    /// Nothing waits and the connection goes on: the answer to a ping is the next frame.
    pub(crate) async fn goes_on(&mut self) {
        self.says(r#"{"type":"ping","id":"still here"}"#).await;
        let pong = self.next().await.json();
        assert_eq!((&pong["type"], &pong["id"]), (&"pong".into(), &"still here".into()), "{pong}");
    }

    /// Ends in the middle of everything: the other side gets a reset.
    pub(crate) fn resets(self) {
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

/// A frame as a client masks it, whose first byte is `first`.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = head(first, payload.len() as u64);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// The start of a frame that says it has so many bytes, up to and with the mask.
pub(crate) fn head(first: u8, len: u64) -> Vec<u8> {
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
