//! An endpoint of webhooks: a real HTTP server that records what it gets and answers as the test says.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures_util::StreamExt as _;
use futures_util::stream;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::in_time;

/// How many requests a test may leave unread.
const MAX_UNREAD: usize = 1_024;

/// How long a slow body takes: long beside all else, and short beside the time-out of a request.
const SLOW_BODY: Duration = Duration::from_millis(200);

/// A request that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) id: String,
    pub(crate) timestamp: String,
    pub(crate) signature: String,
    pub(crate) body: String,
    /// How many requests the endpoint has not answered, this one included.
    pub(crate) in_flight: usize,
}

impl Received {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// The text of the message.
    pub(crate) fn text(&self) -> String {
        self.json()["data"]["event"]["text"].as_str().unwrap_or_default().to_owned()
    }
}

/// What the endpoint answers.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reply {
    Status(u16),
    /// 307 to the endpoint at this address.
    Redirect(SocketAddr),
    /// This status, and the seconds of `retry-after`.
    RetryAfter(u16, u32),
    /// 200 after this time.
    Slow(Duration),
    /// 200, and some time later the body.
    SlowBody,
    /// 200, and a body without an end.
    EndlessBody,
    /// Nothing: the connection stays open.
    Hang,
}

type Answering = Arc<dyn Fn(&Received) -> Reply + Send + Sync>;

#[derive(Clone)]
struct Shared {
    answering: Arc<Mutex<Answering>>,
    /// For the test to read; `None` if only `answering` sees the requests.
    received: Option<mpsc::Sender<Received>>,
    in_flight: Arc<AtomicUsize>,
    /// How many connections came while the endpoint was down.
    refused: Arc<AtomicUsize>,
}

/// A request that is not answered. It counts until it is dropped.
struct InFlight(Arc<AtomicUsize>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The endpoint. It stops when it is dropped.
pub(crate) struct Receiver {
    url: String,
    shared: Shared,
    received: mpsc::Receiver<Received>,
    down: watch::Sender<bool>,
    _serving: JoinSet<()>,
}

impl Receiver {
    /// Starts an endpoint that takes everything.
    pub(crate) async fn start() -> Self {
        let (sender, received) = mpsc::channel(MAX_UNREAD);
        Self::start_with(|_| Reply::Status(204), Some(sender), received).await
    }

    /// Starts an endpoint for many requests, which only `answering` sees.
    pub(crate) async fn start_answering(
        answering: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let (_, received) = mpsc::channel(1);
        Self::start_with(answering, None, received).await
    }

    async fn start_with(
        answering: impl Fn(&Received) -> Reply + Send + Sync + 'static,
        sender: Option<mpsc::Sender<Received>>,
        received: mpsc::Receiver<Received>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let answering: Answering = Arc::new(answering);
        let shared = Shared {
            answering: Arc::new(Mutex::new(answering)),
            received: sender,
            in_flight: Arc::default(),
            refused: Arc::default(),
        };
        let (down, is_down) = watch::channel(false);
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, shared.clone(), is_down));
        Self { url, shared, received, down, _serving: serving }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Answers from now on as `answering` says.
    pub(crate) fn answers(&self, answering: impl Fn(&Received) -> Reply + Send + Sync + 'static) {
        *self.shared.answering.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(answering);
    }

    /// Answers from now on with this status.
    pub(crate) fn answers_with(&self, status: u16) {
        self.answers(move |_| Reply::Status(status));
    }

    /// Closes all connections, and each new one at once, until it is up again.
    pub(crate) fn set_down(&self, is_down: bool) {
        self.down.send_replace(is_down);
    }

    /// How many connections came while the endpoint was down.
    pub(crate) fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::SeqCst)
    }

    /// The next request.
    pub(crate) async fn next(&mut self) -> Received {
        in_time("a request to the endpoint", self.received.recv()).await.expect("the endpoint runs")
    }

    /// The next requests.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<Received> {
        let mut taken = Vec::new();
        while taken.len() < count {
            taken.push(self.next().await);
        }
        taken
    }

    /// What has arrived so far and was not read.
    pub(crate) fn rest(&mut self) -> Vec<Received> {
        std::iter::from_fn(|| self.received.try_recv().ok()).collect()
    }
}

async fn serve(listener: TcpListener, shared: Shared, mut is_down: watch::Receiver<bool>) {
    let routes = Router::new().route("/hook", post(receive)).with_state(shared.clone());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            changed = is_down.changed() => {
                if changed.is_err() {
                    return;
                }
                if *is_down.borrow() {
                    connections.shutdown().await;
                }
            }
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { return };
                if *is_down.borrow() {
                    shared.refused.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                let service = TowerToHyperService::new(routes.clone());
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                connections.spawn(async move { drop(connection.await) });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn receive(State(shared): State<Shared>, headers: HeaderMap, body: String) -> Response {
    let in_flight = shared.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
    let _unanswered = InFlight(shared.in_flight.clone());
    let header =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let received = Received {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
        body,
        in_flight,
    };
    let answering = shared.answering.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let reply = answering(&received);
    if let Some(sender) = &shared.received {
        // The test fails if it leaves so many unread.
        sender.try_send(received).expect("room, and a test that runs");
    }
    let status = |status| StatusCode::from_u16(status).expect("a status");
    match reply {
        Reply::Status(code) => status(code).into_response(),
        Reply::Redirect(to) => (status(307), [(LOCATION, format!("http://{to}/hook"))]).into_response(),
        Reply::RetryAfter(code, seconds) => {
            (status(code), [(RETRY_AFTER, seconds.to_string())]).into_response()
        }
        Reply::SlowBody => {
            let body = stream::once(async {
                // waits for: a slow endpoint
                tokio::time::sleep(SLOW_BODY).await;
                Ok::<_, Infallible>("taken")
            });
            Body::from_stream(body).into_response()
        }
        Reply::EndlessBody => {
            let begin = stream::once(async { Ok::<_, Infallible>("ta") });
            Body::from_stream(begin.chain(stream::pending())).into_response()
        }
        Reply::Slow(time) => {
            // waits for: a slow endpoint
            tokio::time::sleep(time).await;
            status(200).into_response()
        }
        Reply::Hang => std::future::pending().await,
    }
}
