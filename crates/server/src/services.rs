//! What every door and session shares.

use std::sync::Arc;

use switchboard_protocol::{ConversationId, Limits, UserId};

use crate::auth::Authenticator;
use crate::bus::Bus;
use crate::config::{Mode, ProxyConfig};
use crate::denial::Denials;
use crate::health::Health;
use crate::in_flight::InFlight;
use crate::limiter::Limiter;
use crate::metrics::Metrics;
use crate::outbox::Outbox;
use crate::readiness::Readiness;
use crate::router::RouterHandle;
use crate::tasks::Tasks;
use crate::throttle::Throttle;
use switchboard_store::clock::Clock;
use switchboard_store::{SharedStore, Standing};

/// The server's parts, as its doors see them.
pub(crate) struct Services {
    pub(crate) mode: Mode,
    pub(crate) limits: Arc<Limits>,
    pub(crate) allowed_origins: Vec<String>,
    /// The proxies in front, whose word about a client's address counts.
    pub(crate) proxies: Arc<ProxyConfig>,
    pub(crate) authenticator: Authenticator,
    pub(crate) clock: Clock,
    pub(crate) limiter: Limiter,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) router: RouterHandle,
    pub(crate) store: SharedStore,
    /// The way to other nodes, if there may be any.
    pub(crate) bus: Option<Arc<dyn Bus>>,
    /// Whether metrics and the deep probe are on a listener of their own.
    pub(crate) has_operator_listener: bool,
    pub(crate) health: Health,
    /// HTTP requests that are being answered.
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) readiness: Readiness,
    /// Who is turned away at the door.
    pub(crate) denials: Denials,
    /// The log's lines about ends of connections.
    pub(crate) closed_lines: Throttle,
    /// The log's lines about slow consumers.
    pub(crate) slow_consumer_lines: Throttle,
    pub(crate) tasks: Tasks,
}

impl Services {
    /// Whether clients may name their user without a token.
    pub(crate) fn is_dev(&self) -> bool {
        self.mode == Mode::Dev
    }

    /// Signals to the other members that the user is typing, at most once in a while. The connection `from` does not receive it.
    pub(crate) fn tell_typing(
        &self,
        user: UserId,
        conversation: ConversationId,
        standing: Standing,
        from: Option<Arc<Outbox>>,
    ) {
        if self.limiter.is_news(&user, &conversation) {
            self.router.typing(user, conversation, standing, from);
        }
    }
}
