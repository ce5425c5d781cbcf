//! An endpoint of webhooks: a real HTTP server that records what it gets and answers as the test says.

use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::in_time;

/// How many requests a test may leave unread.
const MAX_UNREAD: usize = 1_024;

/// A request that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) id: String,
    pub(crate) timestamp: String,
    pub(crate) signature: String,
    pub(crate) body: String,
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
    /// Nothing: the connection stays open.
    Hang,
}

type Answering = Arc<dyn Fn(&Received) -> Reply + Send + Sync>;

#[derive(Clone)]
struct Shared {
    answering: Arc<Mutex<Answering>>,
    received: mpsc::Sender<Received>,
}

/// The endpoint. It stops when it is dropped.
pub(crate) struct Receiver {
    url: String,
    shared: Shared,
    received: mpsc::Receiver<Received>,
    _serving: JoinSet<()>,
}

impl Receiver {
    /// Starts an endpoint that takes everything.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let (sender, received) = mpsc::channel(MAX_UNREAD);
        let take: Answering = Arc::new(|_| Reply::Status(204));
        let shared = Shared { answering: Arc::new(Mutex::new(take)), received: sender };
        let routes = Router::new().route("/hook", post(receive)).with_state(shared.clone());
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, routes));
        Self { url, shared, received, _serving: serving }
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

async fn serve(listener: TcpListener, routes: Router) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let service = TowerToHyperService::new(routes.clone());
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move { drop(connection.await) });
    }
}

async fn receive(State(shared): State<Shared>, headers: HeaderMap, body: String) -> Response {
    let header =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let received = Received {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
        body,
    };
    let answering = shared.answering.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let reply = answering(&received);
    // The test fails if it leaves so many unread.
    shared.received.try_send(received).expect("room, and a test that runs");
    match reply {
        Reply::Status(status) => StatusCode::from_u16(status).expect("a status").into_response(),
        Reply::Hang => std::future::pending().await,
    }
}
