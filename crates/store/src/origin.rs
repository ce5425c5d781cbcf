//! The origin of a write, which receives its outcome.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use serde_json::value::RawValue;
use switchboard_protocol::CommandId;
use switchboard_protocol::reply::OkBody;
use tokio::sync::oneshot;

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

/// The connection that sent a write.
#[derive(Debug)]
pub struct SessionOrigin {
    /// The connection, which keeps the order of its writes.
    pub connection: Arc<dyn Connection>,
    /// The id of the command, for the reply.
    pub id: Option<CommandId>,
    /// The epoch of a write that must keep its order with the connection's other writes; `None` for cursors.
    pub epoch: Option<WriteEpoch>,
}

/// The epoch in which a write was submitted: the number of writes rejected before. A rejection makes all earlier epochs stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteEpoch(pub u64);

/// A connection as the writer sees it: of its writes, none may be stored after an earlier one was rejected.
pub trait Connection: Any + Debug + Send + Sync {
    /// Whether a write was rejected since this epoch.
    fn is_stale(&self, epoch: WriteEpoch) -> bool;

    /// Called by the writer for a write that it rejects: makes the writes submitted after it stale, and holds new ones.
    fn reject_write(&self);
}

impl Origin {
    /// Whether an earlier write of the connection was rejected after this one was submitted. Storing this one would reorder them.
    pub(crate) fn is_stale(&self) -> bool {
        match self {
            Self::Session(SessionOrigin { connection, epoch: Some(epoch), .. }) => {
                connection.is_stale(*epoch)
            }
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
                Self::Session(SessionOrigin { connection, epoch: Some(_), .. }),
                Self::Session(SessionOrigin { connection: same, epoch: Some(_), .. }),
            ) => Arc::ptr_eq(connection, same),
            _ => false,
        }
    }

    /// Called by the store's writer for a write that it rejects: makes the connection's later writes stale.
    pub(crate) fn reject(&self) {
        if let Self::Session(SessionOrigin { connection, epoch: Some(_), .. }) = self {
            connection.reject_write();
        }
    }
}
