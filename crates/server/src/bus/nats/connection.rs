//! Connects to NATS and tracks the state of the connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use percent_encoding::percent_decode_str;
use prometheus_client::metrics::gauge::Gauge;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::Notify;

use super::NatsSettings;

/// Time-out of a connection attempt, up to the server's first `INFO`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Time-out of the connection attempts to all servers when the settings are checked.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

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
const MAX_WARNINGS: usize = 8;

/// The state of a connection, from the client's events.
#[derive(Debug)]
pub(super) struct ConnectionState {
    name: &'static str,
    connected_gauge: Gauge,
    was_connected: AtomicBool,
    /// Warnings logged since the last successful connect.
    warnings: Mutex<Vec<String>>,
    /// Notified when messages may have been lost.
    pub(super) messages_lost: Notify,
    /// Notified at each successful connect and reconnect.
    pub(super) connected: Notify,
}

impl ConnectionState {
    /// `name` labels log lines; `connected_gauge` is 1 while connected.
    pub(super) fn new(name: &'static str, connected_gauge: Gauge) -> Arc<Self> {
        Arc::new(Self {
            name,
            connected_gauge,
            was_connected: AtomicBool::new(false),
            warnings: Mutex::default(),
            messages_lost: Notify::new(),
            connected: Notify::new(),
        })
    }

    /// Applies a client event. Never waits, because the client drops events while a callback blocks.
    pub(super) fn on_event(&self, event: Event) {
        match event {
            Event::Connected => {
                self.connected_gauge.set(1);
                self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clear();
                if !self.was_connected.swap(true, Ordering::Relaxed) {
                    tracing::info!(connection = self.name, "connected to NATS");
                }
                self.connected.notify_one();
            }
            Event::Disconnected => {
                self.connected_gauge.set(0);
                if self.was_connected.swap(false, Ordering::Relaxed) {
                    tracing::warn!(
                        connection = self.name,
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
            Event::ClientError(error) => self.warn_once(&format!("cannot connect to NATS: {error}")),
            Event::Draining => {}
        }
    }

    /// Logs a warning unless it was logged since the last successful connect.
    pub(super) fn warn_once(&self, warning: &str) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.len() < MAX_WARNINGS && !warnings.iter().any(|known| known == warning) {
            warnings.push(warning.to_owned());
            tracing::warn!(connection = self.name, "{warning}");
        }
    }

    #[cfg(test)]
    pub(super) fn has_warned(&self) -> bool {
        !self.warnings.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
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
                events.on_event(event);
                std::future::ready(())
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

/// Exponential backoff with jitter, so that nodes do not reconnect all at once.
fn reconnect_delay(attempts: usize) -> Duration {
    let doubled = u32::try_from(attempts).unwrap_or(u32::MAX).saturating_sub(1).min(10);
    let longest = Duration::from_millis(10 << doubled).min(MAX_RECONNECT_DELAY);
    let jitter = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
    longest / 2 + (longest / 2).mul_f64(jitter)
}
