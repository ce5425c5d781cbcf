//! The words that the tests speak in: a server that starts and stops, people who connect and talk.

mod answer;
mod cluster;
mod crowd;
mod disk;
mod dribble;
mod hand;
mod person;
mod process;
pub(crate) mod raw;
mod stalled;

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use switchboard::Failure;
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
pub(crate) use self::cluster::{Cluster, Shared};
pub(crate) use self::crowd::{CROWD, crowd, room_for_a_crowd};
pub(crate) use self::disk::FailingDisk;
pub(crate) use self::dribble::every_dribble_is_cheap;
pub(crate) use self::hand::{Hand, timeless};
pub(crate) use self::person::{Person, Stored, command, text_of};
pub(crate) use self::process::Process;
pub(crate) use self::raw::Raw;
pub(crate) use self::stalled::{Stalled, unless_stalled};

/// How long a test waits for what must come. It only matters to a test that fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the tokens of [`Server::serves`] are signed with.
const SECRET: &str = "a secret of the tests that is long enough";

/// Waits for what must happen; fails when it does not.
pub(crate) async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, happens).await {
        Ok(outcome) => outcome,
        Err(_) => panic!("waited in vain: {what}"),
    }
}

/// Asks again until the answer is there, for what no event tells of.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ask: impl FnMut() -> F,
) -> T {
    soon(what, async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            // waits for: the next look
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// Where `RUST_LOG` asks for it, the servers' log is shown.
fn show_log() {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        // Another test may have begun before.
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    }
}

/// A user id.
pub(crate) fn user(name: &str) -> UserId {
    UserId::parse(name).expect("a user id")
}

/// A conversation id.
pub(crate) fn conversation(name: &str) -> ConversationId {
    ConversationId::parse(name).expect("a conversation id")
}

/// A server in this process, on a port and with a directory of its own.
pub(crate) struct Server {
    address: SocketAddr,
    /// Where operators ask, if that is an address of its own.
    operators: Option<SocketAddr>,
    config: Config,
    clock: Clock,
    data: TempDir,
    http: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    running: JoinSet<Result<(), Failure>>,
}

impl Server {
    /// A `dev` server: it believes whoever connects, and has no limits of rate.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// The same with other settings.
    pub(crate) async fn start_with(settings: impl FnOnce(&mut Config)) -> Self {
        Self::start_by(Clock::system(), settings).await
    }

    /// The same by another clock.
    pub(crate) async fn start_by(clock: Clock, settings: impl FnOnce(&mut Config)) -> Self {
        show_log();
        let data = TempDir::new().expect("a directory");
        let mut config = Config::for_dev(data.path().to_owned());
        // A test that stops a server has no time for clients that do not listen.
        config.shutdown_deadline = Duration::from_secs(2);
        if let Some(shared) = cluster::wanted().await {
            shared.configure(&mut config);
        }
        settings(&mut config);
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        let mut server = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            operators: None,
            config,
            clock,
            data,
            http,
            stop: None,
            running: JoinSet::new(),
        };
        server.run().await;
        server
    }

    /// A production server: whoever connects has a token.
    pub(crate) async fn serves() -> Self {
        Self::serves_with(|_| {}).await
    }

    /// The same with other settings.
    pub(crate) async fn serves_with(settings: impl FnOnce(&mut Config)) -> Self {
        Self::serves_by(Clock::system(), settings).await
    }

    /// The same by another clock.
    pub(crate) async fn serves_by(clock: Clock, settings: impl FnOnce(&mut Config)) -> Self {
        Self::start_by(clock, |config| {
            config.mode = Mode::Serve;
            config.auth.key = Some(AuthKey::Secret(Secret::new(SECRET).expect("long enough")));
            settings(config);
        })
        .await
    }

    async fn run(&mut self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        self.address = listener.local_addr().expect("an address");
        let server = switchboard::Server::start(listener, self.config.clone(), self.clock.clone()).await;
        let server = server.expect("the server starts");
        self.operators = server.operator_address();
        let (stop, stopped) = oneshot::channel();
        self.running.spawn(async move {
            // A dropped sender stops it, too.
            drop(stopped.await);
            server.stop().await
        });
        self.stop = Some(stop);
    }

    /// Tells it to stop, as SIGTERM does, and does not wait.
    pub(crate) fn begins_to_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for its end.
    pub(crate) async fn has_stopped(&mut self) {
        self.has_ended().await.expect("none of its tasks failed");
    }

    /// Waits for the end of a server of which a task has panicked or ended, and says which.
    pub(crate) async fn has_failed(&mut self) -> String {
        self.has_ended().await.expect_err("a task failed").to_string()
    }

    async fn has_ended(&mut self) -> Result<(), Failure> {
        let ended = soon("the server stops", self.running.join_next()).await;
        ended.expect("it ran").expect("it ended well")
    }

    /// Stops it and starts another on the same data; it has another address.
    pub(crate) async fn restart(&mut self) {
        self.restart_with(|_| {}).await;
    }

    /// The same with other settings.
    pub(crate) async fn restart_with(&mut self, settings: impl FnOnce(&mut Config)) {
        self.begins_to_stop();
        self.has_stopped().await;
        settings(&mut self.config);
        self.starts_again().await;
    }

    /// Starts another on the same data after it has stopped.
    pub(crate) async fn starts_again(&mut self) {
        self.run().await;
    }

    /// Where its database is.
    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    /// Where its API keys are.
    pub(crate) fn keys(&self) -> KeyStore {
        switchboard::key_store(&self.config)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where operators ask.
    pub(crate) fn operators(&self) -> SocketAddr {
        self.operators.expect("a listener for operators")
    }

    /// Asks for a page as an operator, on a connection of its own.
    pub(crate) async fn gets_as_operator(&self, path: &str) -> Answer {
        let page = format!("http://{}{path}", self.operators());
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        self.request(http.get(page)).await
    }

    /// The address of its WebSocket.
    pub(crate) fn url(&self) -> String {
        format!("ws://{}/v1/ws", self.address)
    }

    /// The address of a page.
    pub(crate) fn page(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A token for somebody.
    pub(crate) fn token(&self, name: &str, lifetime: Duration) -> String {
        self.token_by(self.clock.clone(), name, lifetime)
    }

    /// A token that somebody with another clock made.
    pub(crate) fn token_by(&self, clock: Clock, name: &str, lifetime: Duration) -> String {
        let mint = Authenticator::with_clock(&self.config.auth, clock).expect("a secret");
        mint.mint(&user(name), lifetime).expect("a token")
    }

    /// Somebody connects, as one more device.
    pub(crate) async fn connects(&self, name: &str) -> Person {
        self.resumes(name, &[]).await
    }

    /// Somebody connects who has read these conversations up to these events.
    pub(crate) async fn resumes(&self, name: &str, cursors: &[(&str, u64)]) -> Person {
        self.tries_to_connect(self.hello(name, cursors)).await.expect("welcome")
    }

    /// Says this `hello`.
    pub(crate) async fn tries_to_connect(&self, hello: Hello) -> Result<Person, ClientError> {
        let (client, welcome) = soon("welcome", Client::connect(&self.url(), hello)).await?;
        Ok(Person::new(client, welcome))
    }

    /// The `hello` of somebody.
    pub(crate) fn hello(&self, name: &str, cursors: &[(&str, u64)]) -> Hello {
        let dev = self.config.mode == Mode::Dev;
        Hello {
            token: (!dev).then(|| self.token(name, Duration::from_secs(3_600))),
            user: dev.then(|| user(name)),
            device: None,
            cursors: cursors.iter().map(|(name, seq)| (conversation(name), Seq(*seq))).collect(),
        }
    }

    /// A WebSocket on which nothing has been said, for what no client would say.
    pub(crate) async fn by_hand(&self) -> Hand {
        Hand::open(&self.url()).await
    }

    /// Somebody's connection by hand, up to and with its `welcome`.
    pub(crate) async fn by_hand_as(&self, name: &str) -> Hand {
        let mut hand = self.by_hand().await;
        let hello = Command::from(self.hello(name, &[]));
        hand.says(&serde_json::to_string(&hello).expect("json")).await;
        let welcome = hand.hears().await;
        assert!(welcome.starts_with(r#"{"type":"welcome""#), "{welcome}");
        hand
    }

    /// Until this is dropped no write has an outcome, of this server or another on its data.
    pub(crate) fn holds_up_writes(&self) -> rusqlite::Connection {
        let db = rusqlite::Connection::open(self.data().join("switchboard.db")).expect("the database");
        db.execute_batch("BEGIN IMMEDIATE").expect("the lock");
        db
    }

    /// Asks for a page.
    pub(crate) async fn gets(&self, path: &str) -> Answer {
        self.request(self.http.get(self.page(path))).await
    }

    /// The same with a header.
    pub(crate) async fn gets_with(&self, path: &str, name: &str, value: &str) -> Answer {
        self.request(self.http.get(self.page(path)).header(name, value)).await
    }

    /// Says a command over HTTP; in `dev` mode the body's `as` says who.
    pub(crate) async fn posts(&self, command: &str, body: Value) -> Answer {
        let request = self.http.post(self.page(&format!("/v1/{command}"))).json(&body);
        self.request(request).await
    }

    /// Says a command over HTTP with a token or a key.
    pub(crate) async fn posts_as(&self, bearer: &str, command: &str, body: Value) -> Answer {
        let request = self.http.post(self.page(&format!("/v1/{command}"))).bearer_auth(bearer);
        self.request(request.json(&body)).await
    }

    /// A request to be made up freely, and then to be given to [`Self::request`].
    pub(crate) fn asks(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method.parse().expect("a method"), self.page(path))
    }

    /// Makes a request.
    pub(crate) async fn request(&self, request: reqwest::RequestBuilder) -> Answer {
        soon("an answer over HTTP", Answer::of(request)).await
    }

    /// Makes a request that may become a WebSocket, which is dropped then.
    pub(crate) async fn handshake(&self, request: reqwest::RequestBuilder) -> Answer {
        soon("an answer to a handshake", Answer::of_handshake(request)).await
    }

    /// A number of `/metrics`, such as `switchboard_connections`.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let page = self.gets("/metrics").await;
        let line = page.text.lines().find(|line| line.split(' ').next() == Some(name));
        let number = line.and_then(|line| line.split(' ').nth(1)).and_then(|number| number.parse().ok());
        number.unwrap_or_else(|| panic!("no {name} in\n{}", page.text))
    }
}
