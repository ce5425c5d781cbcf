//! Webhooks: the feed, sent to endpoints of back ends.
//!
//! Each endpoint is a consumer of the feed with a position in the store, so a server that was killed goes on where it was; what was
//! sent and not stored is sent again with the same id. One node at a time sends for an endpoint: it holds a lease, renews it
//! every few seconds, and stops sending before the lease ends. What it stores counts only while the lease is its own.
//! docs/protocol.md#webhooks

pub(crate) mod admin;
mod endpoint;
pub(crate) mod listen;
mod queue;
mod request;
mod secret;
mod settings;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use self::endpoint::{Parts as EndpointParts, Shared, Task};
use self::request::Sender;
use self::secret::Signer;
use self::settings::Endpoint;
use crate::config::WebhooksConfig;
use crate::http_client::HttpClient;
use crate::http_client::target::Allowed;
use crate::metrics::WebhookMetrics;
use crate::tasks::Tasks;
use crate::timers::millis;
use switchboard_protocol::Timestamp;
use switchboard_store::clock::Clock;
use switchboard_store::keys::KeyStore;
use switchboard_store::webhooks::{Lease, Progress, Webhook, Webhooks};
use switchboard_store::{Change, SharedStore};

/// How often progress is stored and the webhooks are read.
const SYNC_INTERVAL: Duration = Duration::from_millis(500);

/// How long a node has an endpoint without renewing its lease.
const LEASE: Duration = Duration::from_secs(30);

/// How often a lease is renewed.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(2);

/// How long before the end of its lease a node stops sending: longer than a request takes.
const LEASE_MARGIN: Duration = Duration::from_secs(16);

/// How often entries of other processes are numbered.
const NUMBERING_INTERVAL: Duration = Duration::from_secs(1);

/// Why a webhook is paused whose key has expired.
const PARENT_EXPIRED: &str = "its key has expired";

/// The delay after the database could not be used.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// What the task of all webhooks needs.
pub(crate) struct Parts {
    pub(crate) config: WebhooksConfig,
    pub(crate) database: KeyStore,
    /// The node, as `webhook list` names it.
    pub(crate) node: String,
    pub(crate) store: SharedStore,
    pub(crate) clock: Clock,
    pub(crate) metrics: WebhookMetrics,
    pub(crate) tasks: Tasks,
    /// Wakes the task when a webhook was changed over HTTP.
    pub(crate) changed: Arc<Notify>,
}

/// Sends for all endpoints that this node has, until the server stops.
pub(crate) async fn run(parts: Parts) {
    let lease = Lease { node: parts.node.clone(), duration: millis(LEASE) };
    let mut supervisor = Supervisor {
        lease,
        database: None,
        endpoints: HashMap::new(),
        running: TaskTracker::new(),
        clients: HashMap::new(),
        renewed: None,
        claimed: Vec::new(),
        numbered: Instant::now(),
        is_failing: false,
        parts,
    };
    let stop = supervisor.parts.tasks.stop().clone();
    loop {
        let delay = supervisor.sync().await;
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            () = supervisor.parts.changed.notified() => {}
            () = tokio::time::sleep(delay) => {}
        }
    }
    supervisor.finish().await;
}

/// An endpoint whose task runs on this node.
struct Running {
    shared: Arc<Shared>,
    /// The webhook as it was read when the task began.
    webhook: Webhook,
}

struct Supervisor {
    parts: Parts,
    lease: Lease,
    /// The connection, if it is open. It is used on threads that may block.
    database: Option<Webhooks>,
    endpoints: HashMap<String, Running>,
    running: TaskTracker,
    clients: HashMap<Allowed, HttpClient>,
    /// When the lease was renewed last.
    renewed: Option<Instant>,
    /// The webhooks that this node had then.
    claimed: Vec<String>,
    /// When entries of other processes were last numbered.
    numbered: Instant,
    is_failing: bool,
}

/// What one round with the database found.
struct Round {
    webhooks: Vec<Webhook>,
    /// Those that this node has, if the lease was renewed.
    claimed: Option<Vec<String>>,
    /// Those that are no longer this node's, or were moved.
    lost: Vec<String>,
}

impl Supervisor {
    /// Stores progress, renews the lease, and starts and stops endpoints. Returns when to do so again.
    async fn sync(&mut self) -> Duration {
        let saves: Vec<_> =
            self.endpoints.values().filter_map(|running| running.shared.take_progress()).collect();
        let began = Instant::now();
        // Entries that another process has written, such as `switchboard key`, get their numbers.
        if !self.endpoints.is_empty() && began >= self.numbered + NUMBERING_INTERVAL {
            self.numbered = began;
            self.parts.store.submit_unanswered(Change::NumberPending);
        }
        let renews = self.renewed.is_none_or(|renewed| renewed + RENEWAL_INTERVAL <= began);
        match self.round(saves.clone(), renews).await {
            Ok(round) => {
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("webhooks go on");
                }
                self.apply(round, began);
                SYNC_INTERVAL
            }
            Err(error) => {
                for save in saves {
                    if let Some(running) = self.endpoints.get(&save.name) {
                        running.shared.put_back(save);
                    }
                }
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::error!("webhooks cannot use the database: {error:#}");
                }
                RETRY_DELAY
            }
        }
    }

    /// One round with the database, on a thread that may block.
    async fn round(&mut self, saves: Vec<Progress>, renews: bool) -> anyhow::Result<Round> {
        let (database, source, lease) =
            (self.database.take(), self.parts.database.clone(), self.lease.clone());
        let now = self.parts.clock.now();
        let blocking = tokio::task::spawn_blocking(move || {
            let mut database = match database {
                Some(database) => database,
                None => open(&source)?,
            };
            let round = || -> anyhow::Result<Round> {
                let mut lost = Vec::new();
                for save in saves {
                    if !database.save(&lease, &save)? {
                        lost.push(save.name);
                    }
                }
                let mut webhooks = database.list()?;
                pause_of_expired_keys(&mut database, &mut webhooks, now)?;
                let claimed = (renews && !webhooks.is_empty()).then(|| database.claim(&lease)).transpose()?;
                Ok(Round { webhooks, claimed, lost })
            };
            let round = round();
            // A connection that has failed is closed here, because closing it may block, too.
            Ok::<_, anyhow::Error>(round.map(|round| (round, database)))
        });
        let (round, database) = blocking.await.context("the thread of the webhooks")???;
        self.database = Some(database);
        Ok(round)
    }

    fn apply(&mut self, round: Round, began: Instant) {
        let Round { webhooks, claimed, lost } = round;
        if let Some(claimed) = claimed {
            (self.renewed, self.claimed) = (Some(began), claimed);
        }
        let until = self.renewed.unwrap_or(began) + LEASE - LEASE_MARGIN;
        let mut known: HashMap<_, _> =
            webhooks.into_iter().map(|webhook| (webhook.name.clone(), webhook)).collect();
        let claimed = &self.claimed;
        self.endpoints.retain(|name, running| {
            let is_same = known.get(name).is_some_and(|webhook| running.is_of(webhook));
            if is_same && claimed.contains(name) && !lost.contains(name) {
                running.shared.extend_lease(until);
            } else {
                running.shared.stop.cancel();
            }
            // The next task begins once the last progress of this one is stored.
            !running.shared.is_finished()
        });
        for name in self.claimed.clone() {
            let Some(webhook) = known.remove(&name) else { continue };
            if webhook.paused.is_none() && !self.endpoints.contains_key(&name) {
                self.start(webhook, until);
            }
        }
        self.parts.metrics.set_endpoints(self.endpoints.len());
    }

    fn start(&mut self, webhook: Webhook, lease: Instant) {
        let name = webhook.name.clone();
        match self.sender(&webhook) {
            Ok((endpoint, sender)) => {
                let shared = Arc::new(Shared::new(lease));
                let task = Task::new(EndpointParts {
                    webhook: webhook.clone(),
                    endpoint,
                    sender,
                    store: self.parts.store.clone(),
                    clock: self.parts.clock.clone(),
                    metrics: self.parts.metrics.clone(),
                    shared: shared.clone(),
                });
                let (running, ended) = (shared.clone(), task.run());
                self.parts.tasks.spawn(self.running.track_future(async move {
                    ended.await;
                    running.finish();
                }));
                self.endpoints.insert(name, Running { shared, webhook });
            }
            Err(error) => tracing::error!(webhook = name, "a webhook cannot be sent to: {error:#}"),
        }
    }

    fn sender(&mut self, webhook: &Webhook) -> anyhow::Result<(Endpoint, Sender)> {
        let endpoint: Endpoint = serde_json::from_str(&webhook.settings).context("its settings")?;
        let sender = sender(&self.parts.config, webhook, &endpoint, |allowed, config| {
            if let Some(client) = self.clients.get(&allowed) {
                return Ok(client.clone());
            }
            let client = request::client(config.ca.as_deref(), allowed)?;
            self.clients.insert(allowed, client.clone());
            Ok(client)
        })?;
        Ok((endpoint, sender))
    }

    /// Waits for the requests in flight, stores the last progress and gives the endpoints back.
    async fn finish(mut self) {
        self.endpoints.values().for_each(|running| running.shared.stop.cancel());
        self.running.close();
        self.running.wait().await;
        let saves = self.endpoints.values().filter_map(|running| running.shared.take_progress()).collect();
        let had_endpoints = !self.endpoints.is_empty();
        drop(self.round(saves, false).await);
        let (database, lease) = (self.database.take(), self.lease);
        let closing = tokio::task::spawn_blocking(move || {
            if let Some(mut database) = database
                && had_endpoints
            {
                drop(database.release(&lease));
            }
        });
        drop(closing.await);
    }
}

impl Running {
    /// Whether the task still does what the row says.
    fn is_of(&self, webhook: &Webhook) -> bool {
        webhook.paused.is_none()
            && (&webhook.settings, webhook.version, webhook.old_until, webhook.generation, webhook.created)
                == (
                    &self.webhook.settings,
                    self.webhook.version,
                    self.webhook.old_until,
                    self.webhook.generation,
                    self.webhook.created,
                )
    }
}

/// Pauses the webhooks whose keys have expired.
fn pause_of_expired_keys(
    database: &mut Webhooks,
    webhooks: &mut [Webhook],
    now: Timestamp,
) -> anyhow::Result<()> {
    let is_due = |webhook: &&mut Webhook| {
        webhook.paused.is_none() && webhook.parent_expires.is_some_and(|expires| expires <= now)
    };
    for webhook in webhooks.iter_mut().filter(is_due) {
        database.pause(&webhook.name, PARENT_EXPIRED)?;
        tracing::warn!(webhook = webhook.name, "a webhook is paused: {PARENT_EXPIRED}");
        webhook.paused = Some(PARENT_EXPIRED.to_owned());
    }
    Ok(())
}

/// Connects to the rows of the webhooks.
fn open(database: &KeyStore) -> anyhow::Result<Webhooks> {
    match database {
        KeyStore::Directory(data) => Webhooks::open_directory(data),
        KeyStore::Shared { url, ca } => Webhooks::open_shared(url, ca.as_deref()),
    }
}

/// What sends to an endpoint.
fn sender(
    config: &WebhooksConfig,
    webhook: &Webhook,
    endpoint: &Endpoint,
    client: impl FnOnce(Allowed, &WebhooksConfig) -> anyhow::Result<HttpClient>,
) -> anyhow::Result<Sender> {
    let (url, allowed) = endpoint.target(config.private).map_err(|(_, why)| anyhow::Error::msg(why))?;
    let headers = endpoint.header_map().map_err(|(_, why)| anyhow::Error::msg(why))?;
    let signer = Signer {
        master: config.secret.clone(),
        name: webhook.name.clone(),
        version: webhook.version,
        old_until: webhook.old_until,
    };
    let url = url.as_str().parse().context("its URL")?;
    Ok(Sender { http: client(allowed, config)?, url, headers, signer })
}
