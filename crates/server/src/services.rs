//! What every door and session shares.

use std::sync::Arc;

use switchboard_protocol::Limits;

use crate::auth::Authenticator;
use crate::clock::Clock;
use crate::config::Mode;
use crate::limiter::UserLimiter;
use crate::metrics::Metrics;
use crate::router::RouterHandle;
use crate::store::SharedStore;
use crate::tasks::Tasks;

/// The server's parts, as its doors see them.
pub(crate) struct Services {
    pub(crate) mode: Mode,
    pub(crate) limits: Arc<Limits>,
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) authenticator: Authenticator,
    pub(crate) clock: Clock,
    pub(crate) limiter: UserLimiter,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) router: RouterHandle,
    pub(crate) store: SharedStore,
    pub(crate) tasks: Tasks,
}

impl Services {
    /// Whether whoever connects is believed.
    pub(crate) fn is_dev(&self) -> bool {
        self.mode == Mode::Dev
    }
}
