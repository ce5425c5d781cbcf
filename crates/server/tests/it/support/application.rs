//! An application's back end that receives questions of the hook over real sockets, and answers when the test says so.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;
use switchboard::config::{Ask, HooksConfig, OnFailure, SigningKey};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::certificates::Authority;
use super::in_time;

/// The secret that the server and the application share, as Standard Webhooks write it.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// The most questions that wait for the test. Further ones stay in their connections.
const MAX_QUESTIONS: usize = 1_024;

/// The application.
pub(crate) struct Application {
    url: String,
    questions: mpsc::Receiver<Question>,
    /// The tasks that accept and read connections.
    _serving: JoinSet<()>,
}

/// A question that waits for its answer.
pub(crate) struct Question {
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
    reply: oneshot::Sender<Reply>,
}

/// What the application sends.
#[derive(Debug)]
enum Reply {
    /// These bytes. The connection stays open for the next question.
    Bytes(Vec<u8>),
    /// These bytes, and then the end of the connection.
    Last(Vec<u8>),
}

impl Application {
    /// Starts the application at a free port.
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts the application with a certificate of an authority.
    pub(crate) async fn start_with_tls(authority: &Authority) -> Self {
        Self::start_with(Some(authority.acceptor())).await
    }

    async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}/hook", listener.local_addr().expect("an address"));
        let (sender, questions) = mpsc::channel(MAX_QUESTIONS);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, sender) = (tls.clone(), sender.clone());
                connections.spawn(async move {
                    match tls {
                        None => serve(stream, sender).await,
                        // The server may refuse the certificate.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, sender).await;
                            }
                        }
                    }
                });
            }
        });
        Self { url, questions, _serving: serving }
    }

    /// The configuration of a server that asks this application.
    pub(crate) fn hook(&self, asks: &[(Ask, OnFailure)]) -> HooksConfig {
        let key = SigningKey::parse(SECRET).expect("a key");
        let url = self.url.parse().expect("a URL");
        let hook =
            HooksConfig::new(url, key, asks.iter().copied().collect::<std::collections::BTreeMap<_, _>>());
        // Longer than any test takes to answer, so that only a test of the time-out sees one.
        HooksConfig { timeout: Duration::from_secs(10), ..hook }
    }

    /// The next question.
    pub(crate) async fn is_asked(&mut self) -> Question {
        in_time("a question", self.questions.recv()).await.expect("the application runs")
    }

    /// The next question, if one has arrived.
    pub(crate) fn next_now(&mut self) -> Option<Question> {
        self.questions.try_recv().ok()
    }

    /// Asserts that no question has arrived.
    pub(crate) fn is_not_asked(&mut self) {
        if let Some(question) = self.next_now() {
            panic!("asked: {}", question.body);
        }
    }
}

/// Reads questions from a connection, one after another.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, questions: mpsc::Sender<Question>) {
    let mut buffer = Vec::new();
    while let Some((headers, body)) = read_request(&mut stream, &mut buffer).await {
        let (reply, replied) = oneshot::channel();
        if questions.send(Question { headers, body, reply }).await.is_err() {
            return;
        }
        match replied.await {
            Ok(Reply::Bytes(bytes)) => {
                // The server may have given up.
                let _ = stream.write_all(&bytes).await;
            }
            Ok(Reply::Last(bytes)) => {
                let _ = stream.write_all(&bytes).await;
                return;
            }
            // The question was dropped without an answer: the connection hangs until the server ends it.
            Err(_) => {
                let _ = stream.read(&mut [0]).await;
                return;
            }
        }
    }
}

async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
) -> Option<(Vec<(String, String)>, String)> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(buffer[..end].to_vec()).expect("text");
            let headers: Vec<_> = head
                .lines()
                .skip(1)
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            let length = headers.iter().find(|(name, _)| name == "content-length");
            let length: usize = length.and_then(|(_, length)| length.parse().ok()).expect("a length");
            if buffer.len() >= end + 4 + length {
                let body = String::from_utf8(buffer[end + 4..end + 4 + length].to_vec()).expect("text");
                buffer.drain(..end + 4 + length);
                return Some((headers, body));
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

impl Question {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> &str {
        let header = self.headers.iter().find(|(other, _)| other == name);
        header.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// What the question is about.
    pub(crate) fn data(&self) -> Value {
        self.json()["data"].clone()
    }

    /// The text of the message that is asked about.
    pub(crate) fn text(&self) -> String {
        self.data()["message"]["text"].as_str().expect("a message").to_owned()
    }

    /// Asserts that the question is signed with the shared secret, as Standard Webhooks say.
    pub(crate) fn is_signed(&self) {
        let key = STANDARD.decode(SECRET.trim_start_matches("whsec_")).expect("base64");
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key");
        let (id, time) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        assert!(!id.is_empty() && !id.contains('.') && !time.is_empty());
        mac.update(format!("{id}.{time}.{}", self.body).as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        assert_eq!(self.header("webhook-signature"), format!("v1,{signature}"));
    }

    /// Answers with a status and a body.
    pub(crate) fn answers_with(self, status: &str, body: &str) {
        self.answers_raw(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()));
    }

    /// Answers with these bytes.
    pub(crate) fn answers_raw(self, bytes: impl Into<Vec<u8>>) {
        // The connection may have ended.
        drop(self.reply.send(Reply::Bytes(bytes.into())));
    }

    /// Sends these bytes and ends the connection.
    pub(crate) fn ends_after(self, bytes: impl Into<Vec<u8>>) {
        drop(self.reply.send(Reply::Last(bytes.into())));
    }

    /// Answers with this JSON.
    #[expect(clippy::needless_pass_by_value, reason = "json!() makes values")]
    pub(crate) fn answers(self, body: Value) {
        self.answers_with("200 OK", &body.to_string());
    }

    /// Accepts with the status 204.
    pub(crate) fn accepts(self) {
        self.answers_raw("HTTP/1.1 204 No Content\r\n\r\n");
    }

    /// Refuses with this reason.
    pub(crate) fn refuses(self, reason: &str) {
        self.answers(serde_json::json!({"action": "refuse", "message": reason}));
    }

    /// Never answers.
    pub(crate) fn hangs(self) {}
}
