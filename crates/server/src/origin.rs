//! The origin of a write, which receives its outcome.

use std::sync::Arc;

use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{CommandId, UserId};
use tokio::sync::oneshot;

use crate::outbox::{Outbox, WriteEpoch};
use crate::refusal::Refusal;

/// The recipient of a write's outcome.
#[derive(Debug)]
pub enum Origin {
    /// A connection: it receives the reply with this id in place of the event.
    Session(SessionOrigin),
    /// A caller that waits, such as an HTTP request.
    Call(oneshot::Sender<Result<OkBody<Box<RawValue>>, Refusal>>),
    /// A back end with an API key that waits. Its writes do not count against the allowances of the users it acts for.
    BackEnd(oneshot::Sender<Result<OkBody<Box<RawValue>>, Refusal>>),
    /// The server itself, which needs no outcome.
    Nobody,
}

/// The payer whose rate a command counts against.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Payer {
    /// A user, over a connection or by a token.
    User(UserId),
    /// A back end, by the hash of its API key. It acts for many users, so the rate of one user does not apply.
    Key([u8; 32]),
    /// The server itself, or a client of a `dev` server that needs no token.
    Nobody,
}

/// The connection that sent a write.
#[derive(Debug)]
pub struct SessionOrigin {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) id: Option<CommandId>,
    /// The epoch of a write that must keep its order with the connection's other writes; `None` for cursors.
    pub(crate) epoch: Option<WriteEpoch>,
}

impl Origin {
    /// Whether an earlier write of the connection was rejected after this one was submitted. Storing this one would reorder them.
    pub(crate) fn is_stale(&self) -> bool {
        match self {
            Self::Session(SessionOrigin { outbox, epoch: Some(epoch), .. }) => outbox.is_stale(*epoch),
            Self::Session(_) | Self::Call(_) | Self::BackEnd(_) | Self::Nobody => false,
        }
    }

    /// Whether the user writes directly, over a connection or with a token.
    pub(crate) fn is_user(&self) -> bool {
        matches!(self, Self::Session(_) | Self::Call(_))
    }

    /// Whether this write and an earlier one come from the same connection and must keep their order.
    pub(crate) fn follows(&self, earlier: &Self) -> bool {
        match (self, earlier) {
            (
                Self::Session(SessionOrigin { outbox, epoch: Some(_), .. }),
                Self::Session(SessionOrigin { outbox: same, epoch: Some(_), .. }),
            ) => Arc::ptr_eq(outbox, same),
            _ => false,
        }
    }

    /// Called by the store's writer for a write that it rejects: makes the connection's later writes stale.
    pub(crate) fn reject(&self) {
        if let Self::Session(SessionOrigin { outbox, epoch: Some(_), .. }) = self {
            outbox.reject_write();
        }
    }
}
