//! Where a write comes from, and so who gets its outcome.

use std::sync::Arc;

use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{CommandId, UserId};
use tokio::sync::oneshot;

use crate::outbox::{Outbox, Turn};
use crate::refusal::Refusal;

/// Who gets the outcome of a write.
#[derive(Debug)]
pub enum Origin {
    /// A connection: it gets the reply with this id, and not the event.
    Session(SessionOrigin),
    /// A caller that waits, as the HTTP door does.
    Call(oneshot::Sender<Result<OkBody<Box<RawValue>>, Refusal>>),
    /// The same for a back end with an API key. It acts for many users, so what it does costs none of their allowances.
    BackEnd(oneshot::Sender<Result<OkBody<Box<RawValue>>, Refusal>>),
    /// Nobody.
    Nobody,
}

/// Whose rate a command counts against.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Payer {
    /// A user, over a connection or by a token.
    User(UserId),
    /// A back end, by the hash of its API key. It speaks for many users, so the rate of one is not held against it.
    Key([u8; 32]),
    /// The server itself, or a client of a `dev` server that needs no token.
    Nobody,
}

/// The connection that a write came over.
#[derive(Debug)]
pub struct SessionOrigin {
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) id: Option<CommandId>,
    /// Of a write that keeps its place among the connection's others; cursors do not.
    pub(crate) turn: Option<Turn>,
}

impl Origin {
    /// Whether a write that the connection made earlier was given back since: stored now, this one would pass it.
    pub(crate) fn is_out_of_turn(&self) -> bool {
        match self {
            Self::Session(SessionOrigin { outbox, turn: Some(turn), .. }) => outbox.is_past(*turn),
            Self::Session(_) | Self::Call(_) | Self::BackEnd(_) | Self::Nobody => false,
        }
    }

    /// Whether the user who writes does it in person, over a connection or by a token.
    pub(crate) fn is_user(&self) -> bool {
        matches!(self, Self::Session(_) | Self::Call(_))
    }

    /// Whether this write was made by the same connection as an earlier one, and must not be stored without that.
    pub(crate) fn is_behind(&self, earlier: &Self) -> bool {
        match (self, earlier) {
            (
                Self::Session(SessionOrigin { outbox, turn: Some(_), .. }),
                Self::Session(SessionOrigin { outbox: same, turn: Some(_), .. }),
            ) => Arc::ptr_eq(outbox, same),
            _ => false,
        }
    }

    /// The writer gives the write back, and with it all later writes of the connection.
    pub(crate) fn give_back(&self) {
        if let Self::Session(SessionOrigin { outbox, turn: Some(_), .. }) = self {
            outbox.give_back();
        }
    }
}
