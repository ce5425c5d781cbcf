//! Connects to NATS and tracks the state of the connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use percent_encoding::percent_decode_str;
use prometheus_client::metrics::gauge::Gauge;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::NatsSettings;

/// Time-out of a connection attempt, up to the server's first `INFO`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time-out of the connection attempts to all servers when the settings are checked.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// Time-out of the connection attempt that finds out why NATS cannot be reached. Meanwhile the client's events wait.
const DIAGNOSIS_TIMEOUT: Duration = Duration::from_secs(1);

/// The time between two lines about an outage.
const OUTAGE_LINE_INTERVAL: Duration = Duration::from_secs(60);

/// How often the client pings the server. After two unanswered pings the connection counts as lost.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// The longest delay between two connection attempts. It is short, so that the node soon uses a server that has restarted.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// The most client commands that wait for the connection. Notices among them are sent late, after the outage.
const MAX_QUEUED_COMMANDS: usize = 1_024;

/// The most messages of one subscription that wait for the receiving task: as many as one read of the socket may contain. Beyond
/// this number, the client drops messages and reports a slow consumer, and the router receives a gap.
const MAX_QUEUED_MESSAGES: usize = 16_384;

/// The most different warnings that are logged until the next successful connect.
const MAX_REMEMBERED_WARNINGS: usize = 8;

/// The state of a connection, from the client's events.
#[derive(Debug)]
pub(super) struct ConnectionState {
    name: &'static str,
    /// The servers, without logins.
    servers: Vec<ServerAddr>,
    connected_gauge: Gauge,
    was_connected: AtomicBool,
    outage: Mutex<Option<Outage>>,
    /// Warnings logged since the last successful connect.
    warnings: Mutex<Vec<String>>,
    /// Notified when messages may have been lost.
    pub(super) messages_lost: Notify,
    /// Notified at each successful connect and reconnect.
    pub(super) connected: Notify,
}

/// A time without a connection.
#[derive(Debug, Clone, Copy)]
struct Outage {
    since: Instant,
    logged: Option<Instant>,
}

/// A failed attempt to connect that is to be logged.
#[derive(Debug)]
pub(super) struct FailedAttempt {
    error: String,
    /// How long there has been no connection.
    age: Duration,
}

impl ConnectionState {
    /// `name` labels log lines; `connected_gauge` is 1 while connected.
    pub(super) fn new(name: &'static str, plan: &ConnectionPlan, connected_gauge: Gauge) -> Arc<Self> {
        Arc::new(Self {
            name,
            servers: plan.servers.clone(),
            connected_gauge,
            was_connected: AtomicBool::new(false),
            outage: Mutex::default(),
            warnings: Mutex::default(),
            messages_lost: Notify::new(),
            connected: Notify::new(),
        })
    }

    fn servers(&self) -> String {
        let servers: Vec<_> = self.servers.iter().map(display_url).collect();
        servers.join(", ")
    }

    fn lock_outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the failed attempt if it is to be logged: the first of an outage, and then one each [`OUTAGE_LINE_INTERVAL`].
    fn record_failed_attempt(&self, error: String) -> Option<FailedAttempt> {
        let now = Instant::now();
        let mut outage = self.lock_outage();
        let Outage { since, logged } = outage.get_or_insert(Outage { since: now, logged: None });
        if logged.is_some_and(|logged| now - logged < OUTAGE_LINE_INTERVAL) {
            return None;
        }
        *logged = Some(now);
        Some(FailedAttempt { error, age: now - *since })
    }

    /// Logs why NATS cannot be reached. The client's error does not say it, so this connects to each server once more.
    pub(super) async fn log_failed_attempt(&self, FailedAttempt { error, age }: FailedAttempt) {
        let mut causes = Vec::new();
        for server in &self.servers {
            let connecting = TcpStream::connect((server.host(), server.port()));
            let cause = match tokio::time::timeout(DIAGNOSIS_TIMEOUT, connecting).await {
                Ok(Ok(_)) => continue,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the connection attempt timed out".to_owned(),
            };
            causes.push(format!("{}: {cause}", display_url(server)));
        }
        let cause = if causes.is_empty() { error } else { causes.join("; ") };
        tracing::warn!(
            link = self.name,
            servers = self.servers(),
            for_seconds = age.as_secs(),
            "cannot connect to NATS: {cause}"
        );
    }

    /// Applies a client event, and returns a failed attempt to log. Never waits, because the client drops events while a callback
    /// blocks.
    pub(super) fn on_event(&self, event: Event) -> Option<FailedAttempt> {
        match event {
            Event::Connected => {
                self.connected_gauge.set(1);
                self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clear();
                let outage = self.lock_outage().take();
                if !self.was_connected.swap(true, Ordering::Relaxed) {
                    let away_seconds = outage.map(|outage| outage.since.elapsed().as_secs());
                    tracing::info!(
                        link = self.name,
                        servers = self.servers(),
                        away_seconds,
                        "connected to NATS"
                    );
                }
                self.connected.notify_one();
            }
            Event::Disconnected => {
                self.connected_gauge.set(0);
                self.lock_outage().get_or_insert(Outage { since: Instant::now(), logged: None });
                if self.was_connected.swap(false, Ordering::Relaxed) {
                    tracing::warn!(
                        link = self.name,
                        servers = self.servers(),
                        "disconnected from NATS; falling back to polling the database for other nodes' events"
                    );
                }
            }
            // The client closes the connection only when this node stops.
            Event::Closed => {
                self.connected_gauge.set(0);
                self.was_connected.store(false, Ordering::Relaxed);
            }
            Event::SlowConsumer(_) => {
                self.warn_once(
                    "NATS slow consumer: messages were dropped; resynchronising from the database",
                );
                self.messages_lost.notify_one();
            }
            Event::LameDuckMode => {
                self.warn_once("NATS server entered lame-duck mode");
                self.messages_lost.notify_one();
            }
            Event::ServerError(error) => {
                self.warn_once(&error.to_string());
                self.messages_lost.notify_one();
            }
            Event::ClientError(error) => return self.record_failed_attempt(error.to_string()),
            Event::Draining => {}
        }
        None
    }

    /// Logs a warning unless it was logged since the last successful connect.
    pub(super) fn warn_once(&self, warning: &str) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.len() < MAX_REMEMBERED_WARNINGS && !warnings.iter().any(|known| known == warning) {
            warnings.push(warning.to_owned());
            tracing::warn!(link = self.name, "{warning}");
        }
    }

    #[cfg(test)]
    pub(super) fn has_warned(&self) -> bool {
        let has_warning = !self.warnings.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        has_warning || self.lock_outage().is_some_and(|outage| outage.logged.is_some())
    }
}

/// The checked settings of a connection.
pub(super) struct ConnectionPlan {
    servers: Vec<ServerAddr>,
    login: Login,
    tls: bool,
    settings: NatsSettings,
}

enum Login {
    Anonymous,
    User { name: String, password: String },
    Token(String),
    Credentials(String),
}

impl ConnectionPlan {
    /// Checks the settings and reads the files that they name.
    pub(super) fn new(settings: &NatsSettings) -> anyhow::Result<Self> {
        let mut servers = Vec::new();
        let mut url_logins = Vec::new();
        let bus = settings.url.bus_servers(settings.ca.is_some()).map_err(anyhow::Error::msg)?;
        for url in bus.urls {
            const EXPECTED_FORM: &str = "a URL of the bus is nats://HOST:PORT or tls://HOST:PORT";
            let server = ServerAddr::from_url(url).context(EXPECTED_FORM)?;
            ensure!(matches!(server.scheme(), "nats" | "tls") && !server.host().is_empty(), EXPECTED_FORM);
            url_logins.extend(parse_login(&server)?);
            servers.push(without_secrets(server)?);
        }
        ensure!(
            url_logins.windows(2).all(|two| two[0] == two[1]),
            "the URLs of the bus name different users; a node has one"
        );
        let login = match (url_logins.pop(), &settings.credentials) {
            (Some(_), Some(_)) => bail!("the bus has both a user in its URL and a file with credentials"),
            (Some((name, Some(password))), None) => Login::User { name, password },
            (Some((token, None)), None) => Login::Token(token),
            (None, Some(path)) => Login::Credentials(
                std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read the bus's credentials: {}", path.display()))?,
            ),
            (None, None) => Login::Anonymous,
        };
        if let Some(path) = &settings.ca {
            let certificates = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| anyhow::anyhow!("{error}"))
                .with_context(|| format!("cannot read the bus's certificates: {}", path.display()))?;
            ensure!(!certificates.is_empty(), "no certificate of the bus in {}", path.display());
        }
        Ok(Self { servers, login, tls: bus.tls, settings: settings.clone() })
    }

    /// Starts a client that connects and reconnects without end.
    pub(super) async fn connect(&self, state: &Arc<ConnectionState>) -> anyhow::Result<Client> {
        let events = state.clone();
        let options = self
            .options(state.name)?
            .no_echo()
            .retry_on_initial_connect()
            .ping_interval(PING_INTERVAL)
            .client_capacity(MAX_QUEUED_COMMANDS)
            .subscription_capacity(MAX_QUEUED_MESSAGES)
            .reconnect_delay_callback(reconnect_delay)
            .event_callback(move |event| {
                let (failed, events) = (events.on_event(event), events.clone());
                async move {
                    if let Some(failed) = failed {
                        events.log_failed_attempt(failed).await;
                    }
                }
            });
        options.connect(self.servers.as_slice()).await.context("the bus")
    }

    /// Connects once, without retries.
    pub(super) async fn try_connect(&self) -> anyhow::Result<()> {
        let connecting = self.options("check")?.connect(self.servers.as_slice());
        let connected = tokio::time::timeout(CHECK_TIMEOUT, connecting).await;
        connected.context("it does not answer")?.map(drop).context("cannot connect")
    }

    /// The options of every connection: name, TLS and login.
    fn options(&self, connection: &str) -> anyhow::Result<ConnectOptions> {
        let mut options = ConnectOptions::new()
            .name(format!("switchboard {}: {connection}", self.settings.name))
            .connection_timeout(CONNECT_TIMEOUT)
            .require_tls(self.tls);
        if let Some(ca) = &self.settings.ca {
            options = options.add_root_certificates(ca.clone());
        }
        Ok(match &self.login {
            Login::Anonymous => options,
            Login::User { name, password } => options.user_and_password(name.clone(), password.clone()),
            Login::Token(token) => options.token(token.clone()),
            // Neither this context nor the error quotes the file, which holds a secret.
            Login::Credentials(text) => options.credentials(text).context("the bus's credentials")?,
        })
    }
}

/// The user and the password in a URL, or the token alone.
fn parse_login(server: &ServerAddr) -> anyhow::Result<Option<(String, Option<String>)>> {
    let decode = |text: &str| {
        let text = percent_decode_str(text).decode_utf8();
        text.map(|text| text.into_owned()).context("the user or the password of the bus is not UTF-8")
    };
    let Some(name) = server.username() else { return Ok(None) };
    Ok(Some((decode(name)?, server.password().map(decode).transpose()?)))
}

/// Removes the login from a URL, because the client logs server addresses.
fn without_secrets(server: ServerAddr) -> anyhow::Result<ServerAddr> {
    let mut url = server.into_inner();
    let cleared = url.set_username("").and_then(|()| url.set_password(None));
    ensure!(cleared.is_ok(), "a URL of the bus has no host");
    Ok(ServerAddr::from_url(url)?)
}

/// The URL of a server, from which [`without_secrets`] has removed the login.
fn display_url(server: &ServerAddr) -> String {
    server.clone().into_inner().to_string()
}

/// Exponential backoff with jitter, so that nodes do not reconnect all at once.
fn reconnect_delay(attempts: usize) -> Duration {
    let doubled = u32::try_from(attempts).unwrap_or(u32::MAX).saturating_sub(1).min(10);
    let longest = Duration::from_millis(10 << doubled).min(MAX_RECONNECT_DELAY);
    let jitter = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
    longest / 2 + (longest / 2).mul_f64(jitter)
}
