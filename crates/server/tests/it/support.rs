//! Shared helpers: servers, and clients that connect to them.

mod answer;
mod application;
pub(crate) mod certificates;
mod cluster;
mod crowd;
mod disk;
mod dribble;
pub(crate) mod log;
mod person;
mod process;
mod provider;
pub(crate) mod raw;
mod receiver;
mod stalled;
mod text_socket;

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use switchboard::TaskFailure;
use switchboard::auth::Authenticator;
use switchboard::config::{AuthKey, Config, Mode, Secret};
use switchboard_client::{Client, ClientError};
use switchboard_protocol::{Command, ConversationId, Hello, Seq, UserId};
use switchboard_store::clock::Clock;
use switchboard_store::keys::KeyStore;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

pub(crate) use self::answer::Answer;
pub(crate) use self::application::{Application, Question};
pub(crate) use self::cluster::{Cluster, SharedEngines};
pub(crate) use self::crowd::{CROWD_SIZE, connect_crowd, reserve_descriptors_for_a_crowd};
pub(crate) use self::disk::FailingDisk;
pub(crate) use self::dribble::assert_single_bytes_are_cheap;
pub(crate) use self::person::{Person, StoredEvent, command, text_of};
pub(crate) use self::process::Process;
pub(crate) use self::provider::{Provider, ProviderKey};
pub(crate) use self::raw::RawSocket;
pub(crate) use self::receiver::{Received, Receiver, Reply};
pub(crate) use self::stalled::{MachineStalled, retry_if_stalled};
pub(crate) use self::text_socket::{TextSocket, mask_times};

/// How long a test waits for an event before it fails. While other processes filled the disk's queue, a sync took over 20 s.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// The secret that signs the tokens of [`Server::start_with_auth`].
pub(crate) const SECRET: &str = "a secret of the tests that is long enough";

/// Waits for a future; panics with `what` if it takes longer than [`WAIT_TIMEOUT`].
pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(WAIT_TIMEOUT, future).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("timed out: {what}"),
    }
}

/// Calls `poll` repeatedly until it returns a value, for conditions that no event announces.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut poll: impl FnMut() -> F,
) -> T {
    in_time(what, async {
        loop {
            if let Some(found) = poll().await {
                return found;
            }
            // waits for: the next poll, because nothing announces the condition
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// Prints the servers' log to the test's output if `RUST_LOG` is set.
fn show_log() {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        // This fails if another test of the process has already set the subscriber, which then serves all tests.
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    }
}

/// Parses a user id.
pub(crate) fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a user id")
}

/// Parses a conversation id.
pub(crate) fn conversation(name: &str) -> ConversationId {
    ConversationId::parse(name).expect("a conversation id")
}

/// A server in this process, with its own port and directory.
pub(crate) struct Server {
    address: SocketAddr,
    /// The address of the operators' listener, if it is configured.
    operators: Option<SocketAddr>,
    /// Boxed, because tests hold a server across many waits.
    config: Box<Config>,
    clock: Clock,
    data: TempDir,
    http: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    running: JoinSet<Result<(), TaskFailure>>,
}

impl Server {
    /// Starts a `dev` server: it accepts user names without a token and has no rate limits.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts a `dev` server with settings that `settings` changes.
    pub(crate) async fn start_with(settings: impl FnOnce(&mut Config)) -> Self {
        Self::start_with_clock(Clock::system(), settings).await
    }

    /// Starts a `dev` server whose time comes from `clock`.
    pub(crate) async fn start_with_clock(clock: Clock, settings: impl FnOnce(&mut Config)) -> Self {
        show_log();
        let data = TempDir::new().expect("a directory");
        let mut config = Config::for_dev(data.path().to_owned());
        // How long a stopping server waits for clients that do not read.
        config.shutdown_deadline = Duration::from_secs(2);
        if let Some(shared) = cluster::requested_by_environment().await {
            shared.configure(&mut config);
        }
        settings(&mut config);
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        let mut server = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            operators: None,
            config: Box::new(config),
            clock,
            data,
            http,
            stop: None,
            running: JoinSet::new(),
        };
        server.run().await;
        server
    }

    /// Starts a production server, which requires tokens.
    pub(crate) async fn start_with_auth() -> Self {
        Self::start_with_auth_and(|_| {}).await
    }

    /// Starts a production server with settings that `settings` changes.
    pub(crate) async fn start_with_auth_and(settings: impl FnOnce(&mut Config)) -> Self {
        Self::start_with_auth_and_clock(Clock::system(), settings).await
    }

    /// Starts a production server whose time comes from `clock`.
    pub(crate) async fn start_with_auth_and_clock(clock: Clock, settings: impl FnOnce(&mut Config)) -> Self {
        Self::start_with_clock(clock, |config| {
            config.mode = Mode::Serve;
            config.auth.keys = vec![AuthKey::Secret(Secret::new(SECRET).expect("long enough"))];
            settings(config);
        })
        .await
    }

    async fn run(&mut self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        self.address = listener.local_addr().expect("an address");
        let server = switchboard::Server::start(listener, (*self.config).clone(), self.clock.clone()).await;
        let server = server.expect("the server starts");
        self.operators = server.operator_address();
        let (stop, stopped) = oneshot::channel();
        self.running.spawn(async move {
            // The server also stops if the sender is dropped without a message.
            drop(stopped.await);
            server.stop().await
        });
        self.stop = Some(stop);
    }

    /// Begins a graceful shutdown, as SIGTERM does, without waiting.
    pub(crate) fn begin_shutdown(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until the server has stopped without an error.
    pub(crate) async fn wait_until_stopped(&mut self) {
        self.wait_for_end().await.expect("none of its tasks failed");
    }

    /// Waits until the server has stopped because a task panicked or ended. Returns the error, which names the task.
    pub(crate) async fn wait_for_failure(&mut self) -> String {
        self.wait_for_end().await.expect_err("a task failed").to_string()
    }

    async fn wait_for_end(&mut self) -> Result<(), TaskFailure> {
        let ended = in_time("the server stops", self.running.join_next()).await;
        ended.expect("it ran").expect("it ended well")
    }

    /// Stops the server and starts another one on the same data directory. It listens at another address.
    pub(crate) async fn restart(&mut self) {
        self.restart_with(|_| {}).await;
    }

    /// Like [`Self::restart`], with settings that `settings` changes.
    pub(crate) async fn restart_with(&mut self, settings: impl FnOnce(&mut Config)) {
        self.begin_shutdown();
        self.wait_until_stopped().await;
        settings(&mut self.config);
        self.start_again().await;
    }

    /// Starts a stopped server again on the same data.
    pub(crate) async fn start_again(&mut self) {
        self.run().await;
    }

    /// The server's data directory.
    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    /// The store of the server's API keys.
    pub(crate) fn keys(&self) -> KeyStore {
        switchboard::key_store(&self.config)
    }

    /// The address on which the server listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the operators' listener; panics if it is not configured.
    pub(crate) fn operators(&self) -> SocketAddr {
        self.operators.expect("a listener for operators")
    }

    /// Requests a path from the operators' listener, on a new connection.
    pub(crate) async fn gets_as_operator(&self, path: &str) -> Answer {
        let page = format!("http://{}{path}", self.operators());
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        self.request(http.get(page)).await
    }

    /// The URL of the server's WebSocket.
    pub(crate) fn url(&self) -> String {
        format!("ws://{}/v1/ws", self.address)
    }

    /// The URL of a path on the server.
    pub(crate) fn page(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Makes a token for a user.
    pub(crate) fn token(&self, name: &str, lifetime: Duration) -> String {
        self.token_at(self.clock.clone(), name, lifetime)
    }

    /// Makes a token whose times come from `clock`, not from the server's clock.
    pub(crate) fn token_at(&self, clock: Clock, name: &str, lifetime: Duration) -> String {
        let mint = Authenticator::with_clock(&self.config.auth, clock).expect("a secret");
        mint.mint(&user(name), lifetime).expect("a token")
    }

    /// Connects a user on a new device.
    pub(crate) async fn connects(&self, name: &str) -> Person {
        self.resumes(name, &[]).await
    }

    /// Connects a user who sends these cursors in `hello`.
    pub(crate) async fn resumes(&self, name: &str, cursors: &[(&str, u64)]) -> Person {
        self.tries_to_connect(self.hello(name, cursors)).await.expect("welcome")
    }

    /// Connects with this `hello`; returns an error if the server refuses it.
    pub(crate) async fn tries_to_connect(&self, hello: Hello) -> Result<Person, ClientError> {
        let (client, welcome) = in_time("welcome", Client::connect(&self.url(), hello)).await?;
        Ok(Person::new(client, welcome))
    }

    /// Builds the `hello` of a user.
    pub(crate) fn hello(&self, name: &str, cursors: &[(&str, u64)]) -> Hello {
        let dev = self.config.mode == Mode::Dev;
        Hello {
            token: (!dev).then(|| self.token(name, Duration::from_secs(3_600))),
            user: dev.then(|| user(name)),
            device: None,
            cursors: cursors.iter().map(|(name, seq)| (conversation(name), Seq(*seq))).collect(),
        }
    }

    /// Opens a WebSocket without sending `hello`, for frames that no client would send.
    pub(crate) async fn open_socket(&self) -> TextSocket {
        TextSocket::open(&self.url()).await
    }

    /// Opens a WebSocket, sends the `hello` of a user and receives `welcome`.
    pub(crate) async fn open_socket_as(&self, name: &str) -> TextSocket {
        let mut socket = self.open_socket().await;
        let hello = Command::from(self.hello(name, &[]));
        socket.says(&serde_json::to_string(&hello).expect("json")).await;
        let welcome = socket.receives_text().await;
        assert!(welcome.starts_with(r#"{"type":"welcome""#), "{welcome}");
        socket
    }

    /// Locks the database for writing: until the result is dropped, no write of any server on this data completes.
    pub(crate) fn lock_for_writing(&self) -> rusqlite::Connection {
        let db = rusqlite::Connection::open(self.data().join("switchboard.db")).expect("the database");
        db.execute_batch("BEGIN IMMEDIATE").expect("the lock");
        db
    }

    /// Requests a path with GET.
    pub(crate) async fn gets(&self, path: &str) -> Answer {
        self.request(self.http.get(self.page(path))).await
    }

    /// Requests a path with GET and a header.
    pub(crate) async fn gets_with(&self, path: &str, name: &str, value: &str) -> Answer {
        self.request(self.http.get(self.page(path)).header(name, value)).await
    }

    /// Sends a command over HTTP to a `dev` server, where `as` in the body names the user.
    pub(crate) async fn posts(&self, command: &str, body: Value) -> Answer {
        let request = self.http.post(self.page(&format!("/v1/{command}"))).json(&body);
        self.request(request).await
    }

    /// Sends a command over HTTP with a token or an API key.
    pub(crate) async fn posts_as(&self, bearer: &str, command: &str, body: Value) -> Answer {
        let request = self.http.post(self.page(&format!("/v1/{command}"))).bearer_auth(bearer);
        self.request(request.json(&body)).await
    }

    /// Builds a request for [`Self::request`].
    pub(crate) fn asks(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method.parse().expect("a method"), self.page(path))
    }

    /// Sends an HTTP request and reads the whole response.
    pub(crate) async fn request(&self, request: reqwest::RequestBuilder) -> Answer {
        in_time("an answer over HTTP", Answer::to(request)).await
    }

    /// Sends the request of a WebSocket handshake and returns the response. An accepted WebSocket is closed at once.
    pub(crate) async fn handshake(&self, request: reqwest::RequestBuilder) -> Answer {
        in_time("an answer to a handshake", Answer::to_handshake(request)).await
    }

    /// The value of a metric in `/metrics`, such as `switchboard_connections`.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let page = self.gets("/metrics").await;
        let line = page.text.lines().find(|line| line.split(' ').next() == Some(name));
        let number = line.and_then(|line| line.split(' ').nth(1)).and_then(|number| number.parse().ok());
        number.unwrap_or_else(|| panic!("no {name} in\n{}", page.text))
    }
}
