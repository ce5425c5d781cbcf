//! A connection to NATS: how it is made, and what becomes of it.

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

/// How long a server may take to greet.
const GREETING: Duration = Duration::from_secs(3);

/// When nothing comes, the server is asked so often whether it lives. After two that it has not answered the
/// connection counts as lost.
const PING: Duration = Duration::from_secs(2);

/// The longest time between two attempts to connect: a bus that is back is soon used.
const PATIENCE: Duration = Duration::from_secs(1);

/// Commands that wait for the connection. While there is none, what was told just before lies here and goes out late.
const COMMANDS: usize = 1_024;

/// Messages of one subscription that wait to be looked at: what one reading of the socket may bring. Beyond, they are
/// lost, and a gap is told.
const MESSAGES: usize = 16_384;

/// Different complaints that are logged until the connection is there again.
const COMPLAINTS: usize = 8;

/// What is known of a connection, by what its client says.
#[derive(Debug)]
pub(super) struct Link {
    name: &'static str,
    up: Gauge,
    was_up: AtomicBool,
    complaints: Mutex<Vec<String>>,
    /// Something may have been missed.
    pub(super) missed: Notify,
    /// There is a connection, for the first time or again.
    pub(super) connected: Notify,
}

impl Link {
    /// Of the connection `name`; `up` is 1 while it is there.
    pub(super) fn new(name: &'static str, up: Gauge) -> Arc<Self> {
        Arc::new(Self {
            name,
            up,
            was_up: AtomicBool::new(false),
            complaints: Mutex::default(),
            missed: Notify::new(),
            connected: Notify::new(),
        })
    }

    /// Never waits: the client drops events when it cannot pass them on.
    pub(super) fn notice(&self, event: Event) {
        match event {
            Event::Connected => {
                self.up.set(1);
                self.complaints.lock().unwrap_or_else(PoisonError::into_inner).clear();
                if !self.was_up.swap(true, Ordering::Relaxed) {
                    tracing::info!(connection = self.name, "connected to NATS");
                }
                self.connected.notify_one();
            }
            Event::Disconnected => {
                self.up.set(0);
                if self.was_up.swap(false, Ordering::Relaxed) {
                    tracing::warn!(
                        connection = self.name,
                        "disconnected from NATS; until it reconnects, this node finds other nodes' events in the database"
                    );
                }
            }
            // The client closes the connection only when this node stops.
            Event::Closed => {
                self.up.set(0);
                self.was_up.store(false, Ordering::Relaxed);
            }
            Event::SlowConsumer(_) => {
                self.complain("NATS slow consumer: messages were dropped; this node compares everything with the database");
                self.missed.notify_one();
            }
            Event::LameDuckMode => {
                self.complain("a NATS server entered lame-duck mode: it is going to stop");
                self.missed.notify_one();
            }
            Event::ServerError(error) => {
                self.complain(&error.to_string());
                self.missed.notify_one();
            }
            Event::ClientError(error) => self.complain(&format!("NATS cannot be reached: {error}")),
            Event::Draining => {}
        }
    }

    /// Once each, until the connection is there again.
    pub(super) fn complain(&self, complaint: &str) {
        let mut complaints = self.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complaints.len() < COMPLAINTS && !complaints.iter().any(|known| known == complaint) {
            complaints.push(complaint.to_owned());
            tracing::warn!(connection = self.name, "{complaint}");
        }
    }

    #[cfg(test)]
    pub(super) fn has_complained(&self) -> bool {
        !self.complaints.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

/// What a connection is made with.
pub(super) struct Plan {
    servers: Vec<ServerAddr>,
    who: Who,
    tls: bool,
    settings: NatsSettings,
}

enum Who {
    Nobody,
    User { name: String, password: String },
    Token(String),
    Credentials(String),
}

impl Plan {
    /// Reads what the settings name.
    pub(super) fn new(settings: &NatsSettings) -> anyhow::Result<Self> {
        let mut servers = Vec::new();
        let mut whos = Vec::new();
        let bus = settings.url.bus_servers(settings.ca.is_some()).map_err(anyhow::Error::msg)?;
        for url in bus.urls {
            const FORM: &str = "a URL of the bus is nats://HOST:PORT or tls://HOST:PORT";
            let server: ServerAddr = url.parse().context(FORM)?;
            ensure!(matches!(server.scheme(), "nats" | "tls") && !server.host().is_empty(), FORM);
            whos.extend(who(&server)?);
            servers.push(without_secrets(server)?);
        }
        ensure!(
            whos.windows(2).all(|two| two[0] == two[1]),
            "the URLs of the bus name different users; a node has one"
        );
        let who = match (whos.pop(), &settings.credentials) {
            (Some(_), Some(_)) => bail!("the bus has both a user in its URL and a file with credentials"),
            (Some((name, Some(password))), None) => Who::User { name, password },
            (Some((token, None)), None) => Who::Token(token),
            (None, Some(path)) => Who::Credentials(
                std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read the bus's credentials: {}", path.display()))?,
            ),
            (None, None) => Who::Nobody,
        };
        if let Some(path) = &settings.ca {
            let certificates = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|error| anyhow::anyhow!("{error}"))
                .with_context(|| format!("cannot read the bus's certificates: {}", path.display()))?;
            ensure!(!certificates.is_empty(), "no certificate of the bus in {}", path.display());
        }
        Ok(Self { servers, who, tls: bus.tls, settings: settings.clone() })
    }

    /// A connection that is made, and made again, whenever it can be.
    pub(super) async fn connect(&self, link: &Arc<Link>) -> anyhow::Result<Client> {
        let events = link.clone();
        let mut options = ConnectOptions::new()
            .name(format!("switchboard {}", link.name))
            .no_echo()
            .retry_on_initial_connect()
            .connection_timeout(GREETING)
            .ping_interval(PING)
            .client_capacity(COMMANDS)
            .subscription_capacity(MESSAGES)
            .reconnect_delay_callback(delay)
            .require_tls(self.tls)
            .event_callback(move |event| {
                events.notice(event);
                std::future::ready(())
            });
        if let Some(ca) = &self.settings.ca {
            options = options.add_root_certificates(ca.clone());
        }
        options = match &self.who {
            Who::Nobody => options,
            Who::User { name, password } => options.user_and_password(name.clone(), password.clone()),
            Who::Token(token) => options.token(token.clone()),
            // The error would quote nothing of the file, and neither does this.
            Who::Credentials(text) => options.credentials(text).context("the bus's credentials")?,
        };
        options.connect(self.servers.as_slice()).await.context("the bus")
    }
}

/// The user and the password of a URL, or its token alone.
fn who(server: &ServerAddr) -> anyhow::Result<Option<(String, Option<String>)>> {
    let decode = |text: &str| {
        let text = percent_decode_str(text).decode_utf8();
        text.map(|text| text.into_owned()).context("the user or the password of the bus is not UTF-8")
    };
    let Some(name) = server.username() else { return Ok(None) };
    Ok(Some((decode(name)?, server.password().map(decode).transpose()?)))
}

/// The client writes addresses to its log.
fn without_secrets(server: ServerAddr) -> anyhow::Result<ServerAddr> {
    let mut url = server.into_inner();
    let cleared = url.set_username("").and_then(|()| url.set_password(None));
    ensure!(cleared.is_ok(), "a URL of the bus has no host");
    Ok(ServerAddr::from_url(url)?)
}

/// How long before the next attempt: twice as long each time, and not all nodes at once.
fn delay(attempts: usize) -> Duration {
    let doubled = u32::try_from(attempts).unwrap_or(u32::MAX).saturating_sub(1).min(10);
    let longest = Duration::from_millis(10 << doubled).min(PATIENCE);
    let share = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
    longest / 2 + (longest / 2).mul_f64(share)
}
