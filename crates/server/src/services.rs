//! The parts of the server that all sessions and HTTP requests share.

use std::sync::Arc;
use std::time::Duration;

use switchboard_protocol::{
    CloseCode, Command, ConversationId, ErrorCode, HOLD, Limits, Permissions, SetProfile, UserId,
};
use tokio::sync::{Notify, Semaphore};

use crate::auth::{Authenticator, Identity, RefusedToken};
use crate::bus::Bus;
use crate::config::{LoweredConnections, Mode, ProfilesSection, ProxyConfig, Secret, WebhooksConfig};
use crate::connections::Connections;
use crate::denial::{Denial, Denials, Denied};
use crate::filter::Filter;
use crate::health::Health;
use crate::hooks::Hooks;
use crate::in_flight::InFlight;
use crate::limiter::Limiter;
use crate::metrics::Metrics;
use crate::nodes::Nodes;
use crate::outbox::Outbox;
use crate::readiness::Readiness;
use crate::router::RouterHandle;
use crate::tasks::Tasks;
use crate::throttle::{NameBudget, Throttle, UnloggedEvents};
use switchboard_store::ban::Standing;
use switchboard_store::clock::Clock;
use switchboard_store::inspect::Inspector;
use switchboard_store::keys::KeyStore;
use switchboard_store::refusal::Refusal;
use switchboard_store::{Change, SharedStore, WriteAccess, check_not_banned};

/// The most log lines about ends of connections in a second. A client that connects and leaves in a loop must not fill the disk.
const MAX_CLOSED_LINES: u32 = 200;

/// Limits the log lines about clients, by kind.
pub(crate) struct ClientLogThrottles {
    /// Ends of connections.
    pub(crate) closed_connections: Throttle,
    /// Slow consumers, by connection.
    pub(crate) slow_consumers: Throttle,
    /// Slow consumers that have caught up, by connection.
    pub(crate) recovered_consumers: Throttle,
    /// Clients that are ahead of the log, by user.
    pub(crate) clients_ahead: Throttle,
    /// Clients that send no `hello`, by address.
    pub(crate) clients_without_hello: Throttle,
    /// The lines about new names of all kinds.
    pub(crate) budget: NameBudget,
}

impl ClientLogThrottles {
    pub(crate) fn new(budget: NameBudget) -> Self {
        let second = Duration::from_secs(1);
        Self {
            closed_connections: Throttle::lines_per(MAX_CLOSED_LINES, second),
            slow_consumers: Throttle::once_per(second).with_names(&budget),
            recovered_consumers: Throttle::once_per(second).with_names(&budget),
            clients_ahead: Throttle::once_per(second).with_names(&budget),
            clients_without_hello: Throttle::default().with_names(&budget),
            budget,
        }
    }

    /// Logs how many lines were suppressed, if no later line has reported that.
    pub(crate) fn flush(&self) {
        if let Some(UnloggedEvents { count: suppressed, .. }) = self.closed_connections.take_unlogged() {
            tracing::info!(suppressed, "more connections closed");
        }
        if let Some(UnloggedEvents { count: suppressed, .. }) = self.slow_consumers.take_unlogged() {
            tracing::warn!(suppressed, "more slow consumers");
        }
        if let Some(UnloggedEvents { count: suppressed, .. }) = self.clients_ahead.take_unlogged() {
            tracing::warn!(suppressed, "more clients are ahead of the log");
        }
        if let Some(UnloggedEvents { count: suppressed, .. }) = self.clients_without_hello.take_unlogged() {
            tracing::warn!(suppressed, "more clients sent no hello in time");
        }
    }
}

/// The parts of the server that all sessions and HTTP requests share.
pub(crate) struct Services {
    pub(crate) mode: Mode,
    pub(crate) limits: Arc<Limits>,
    /// How `limits.connections` was lowered, if it was.
    pub(crate) lowered_connections: Option<LoweredConnections>,
    pub(crate) allowed_origins: Vec<String>,
    /// The proxies in front of the server that may name a client's address.
    pub(crate) proxies: Arc<ProxyConfig>,
    pub(crate) authenticator: Authenticator,
    pub(crate) clock: Clock,
    pub(crate) limiter: Limiter,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) router: RouterHandle,
    pub(crate) store: SharedStore,
    /// The hook of the application, if there is one.
    pub(crate) hooks: Option<Arc<Hooks>>,
    /// The filter of words, if there is one.
    pub(crate) filter: Option<Arc<Filter>>,
    /// The bus to other nodes; `None` on a single node.
    pub(crate) bus: Option<Arc<dyn Bus>>,
    /// What operators see of this node's connections.
    pub(crate) connections: Arc<Connections>,
    /// The other nodes.
    pub(crate) nodes: Arc<Nodes>,
    /// The database, for the queries of operators; `None` if it is not in a file or at a URL.
    pub(crate) inspection: Option<Arc<tokio::sync::Mutex<Inspector>>>,
    /// The token that operators send, if one is configured.
    pub(crate) operator_token: Option<Secret>,
    /// Whether operators have a separate listener for `/metrics` and `/healthz`.
    pub(crate) has_operator_listener: bool,
    pub(crate) health: Health,
    /// Counts the HTTP requests that are being answered.
    pub(crate) in_flight: Arc<InFlight>,
    /// How long the feed keeps its entries; zero keeps all.
    pub(crate) feed_keep: Duration,
    /// The database of API keys and webhooks.
    pub(crate) key_store: KeyStore,
    /// Webhooks, if there is a secret that signs them.
    pub(crate) webhooks: Option<WebhooksConfig>,
    /// Wakes the task of the webhooks.
    pub(crate) webhooks_changed: Arc<Notify>,
    /// Counts the calls that wait for the feed.
    pub(crate) feed_waits: Arc<InFlight>,
    /// The settings of names and pictures.
    pub(crate) profiles: ProfilesSection,
    /// What users may do whose tokens say nothing about it.
    pub(crate) permissions: Arc<Permissions>,
    /// Counts the calls with large bodies.
    pub(crate) bulk_calls: Arc<InFlight>,
    /// Lets one import at a time reach the writer, so that other writes come between two of them.
    pub(crate) import_turn: Arc<Semaphore>,
    pub(crate) readiness: Readiness,
    /// Counts and logs clients that are refused.
    pub(crate) denials: Denials,
    /// Limits the log lines about clients.
    pub(crate) log_throttles: ClientLogThrottles,
    pub(crate) tasks: Tasks,
}

impl Services {
    /// Starts to fetch the keys of the issuers that publish them.
    pub(crate) fn fetch_token_keys(&self) {
        for provider in self.authenticator.providers() {
            let metrics = self.metrics.token_keys.clone();
            metrics.begin_at_zero(provider.issuer());
            let task = provider.clone().run(metrics, self.tasks.stop().clone());
            self.tasks.spawn_critical("token keys", task);
        }
    }

    /// Whether clients may name their user without a token.
    pub(crate) fn is_dev(&self) -> bool {
        self.mode == Mode::Dev
    }

    /// What a user may do: by the configuration, and by the token.
    pub(crate) fn permissions_of(&self, identity: Option<&Identity>) -> Arc<Permissions> {
        let Some((identity, claim)) =
            identity.and_then(|identity| Some((identity, identity.permissions.as_ref()?)))
        else {
            return self.permissions.clone();
        };
        Arc::new(claim.apply(&self.permissions, identity.grants))
    }

    /// Refuses a user whose token is revoked, or who is banned. Every door asks this before it admits a user. The close code is for
    /// a connection.
    pub(crate) fn check_standing(
        &self,
        user: &UserId,
        identity: Option<&Identity>,
        standing: &Standing,
    ) -> Result<(), (Denied, CloseCode)> {
        if identity.is_some_and(|identity| identity.is_revoked(standing.not_before)) {
            return Err((RefusedToken::revoked(user).into(), CloseCode::Revoked));
        }
        let allowed = check_not_banned(standing.ban.as_ref(), self.clock.now());
        allowed.map_err(|refusal| (Denied::new(Denial::Banned, refusal), CloseCode::Banned))
    }

    /// Refuses a command that some living node does not know yet.
    pub(crate) fn check_feature(&self, command: &Command) -> Result<(), Refusal> {
        match command.feature() {
            Some(feature) => self.require_feature(feature),
            None => Ok(()),
        }
    }

    /// Refuses unless every living node has the feature.
    pub(crate) fn require_feature(&self, feature: &str) -> Result<(), Refusal> {
        if self.store.features().contains(&feature) {
            return Ok(());
        }
        let message = "this command works once every node has the new version: see `features` in `welcome`";
        Err(Refusal::new(ErrorCode::UnknownType, message))
    }

    /// What to submit in place of a change, as the filter of words decides.
    pub(crate) fn filter_words(&self, change: Change) -> Change {
        match &self.filter {
            Some(filter) => filter.check(change, || self.require_feature(HOLD).is_ok()),
            None => change,
        }
    }

    /// Checks a change of a user's own profile, and counts it against the user's rate.
    pub(crate) fn check_own_profile(&self, user: &UserId, fields: &SetProfile) -> Result<(), Refusal> {
        self.profiles.check_own(fields)?;
        self.limiter.check_profile(user)
    }

    /// Signals to the other members that the user is typing, at most once within the limiter's interval. The connection `from` does
    /// not receive the signal.
    pub(crate) fn publish_typing(
        &self,
        user: UserId,
        conversation: ConversationId,
        standing: WriteAccess,
        from: Option<Arc<Outbox>>,
    ) {
        if self.limiter.is_new_typing(&user, &conversation) {
            self.router.typing(user, conversation, standing, from);
        }
    }
}
