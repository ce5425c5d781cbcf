//! A webhook as both stores have it.

use switchboard_protocol::Timestamp;

/// The prefix of the consumers that are webhooks.
pub(crate) const CONSUMER: &str = "webhook:";

/// The position of a webhook that begins after the newest entry and has not begun.
pub const AT_END: i64 = -1;

/// An endpoint, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Its name.
    pub name: String,
    /// When it was added.
    pub created: Timestamp,
    /// Where to send and what: JSON.
    pub settings: String,
    /// The version of its secret.
    pub version: i32,
    /// Until then the secret before signs as well.
    pub old_until: Option<Timestamp>,
    /// Why nothing is sent; `None` while entries are sent.
    pub paused: Option<String>,
    /// The epoch of its position; empty if it has not begun.
    pub epoch: String,
    /// The number up to which the endpoint has taken, or the state has, everything. Without an epoch: 0 for the beginning of the
    /// feed, [`AT_END`] for its end.
    pub position: i64,
    /// When the position moved last.
    pub moved: Timestamp,
    /// The node that sends, if one does.
    pub node: Option<String>,
    /// Changes when an operator moves the position.
    pub generation: i64,
    /// What is known besides the position: JSON.
    pub state: String,
    /// The name of the key that added it; `None` for the command line.
    pub parent: Option<String>,
    /// When that key expires.
    pub parent_expires: Option<Timestamp>,
}

/// Why a webhook is paused whose key was revoked.
pub(crate) const PARENT_REVOKED: &str = "its key was revoked";

/// An endpoint to be added.
#[derive(Debug, Clone)]
pub struct NewWebhook {
    /// Its name.
    pub name: String,
    /// Where to send and what: JSON.
    pub settings: String,
    /// The epoch of its position; see [`Webhook::epoch`].
    pub epoch: String,
    /// The number after which it begins; see [`Webhook::position`].
    pub position: i64,
    /// The number of the key that adds it.
    pub parent: Option<i32>,
}

/// Where a webhook stands now, to be stored.
#[derive(Debug, Clone)]
pub struct Progress {
    /// The webhook's name.
    pub name: String,
    /// The generation that was read. If an operator has moved the position since, nothing is stored.
    pub generation: i64,
    /// The epoch of the position.
    pub epoch: String,
    /// The position.
    pub position: i64,
    /// What is known besides: JSON.
    pub state: String,
    /// Why nothing is sent any more, if that is so.
    pub paused: Option<String>,
}

/// The node that sends, and for how long.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The node's name and the id of its process.
    pub node: String,
    /// How many milliseconds the lease lasts without being renewed.
    pub duration: i64,
}
