//! The origin of a write, which receives its outcome.

use std::any::Any;
use std::fmt::Debug;
use std::sync::Arc;

use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{CommandId, WriteNumber};
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
    /// How the write keeps its order with the connection's other writes; `None` for cursors.
    pub order: Option<WriteOrder>,
}

/// How a write keeps its order with the other writes of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOrder {
    /// The client has numbered it: it is stored only once the write that it follows is settled.
    Number(WriteNumber),
    /// The client numbers nothing: it is stored only if none was rejected since it was submitted.
    Epoch(WriteEpoch),
}

/// The epoch in which a write was submitted: the number of writes rejected before. A rejection makes all earlier epochs stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteEpoch(pub u64);

/// The highest numbers of a connection's writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Numbers {
    /// Of those that are stored.
    pub stored: u64,
    /// Of those that are settled: stored, or refused for good.
    pub settled: u64,
}

impl Numbers {
    /// Checks that a write's turn has come.
    ///
    /// # Errors
    /// The write that it follows is not settled, or a later one is stored.
    pub(crate) fn check(self, number: WriteNumber) -> Result<(), Refusal> {
        if number.after > self.settled {
            return Err(Refusal::follows_unsettled(number.after));
        }
        if number.n <= self.stored {
            return Err(Refusal::bad_number(self.stored));
        }
        Ok(())
    }

    /// Counts a write that is settled. One that was refused before its turn came leaves the others waiting.
    pub(crate) fn settle(&mut self, number: WriteNumber, is_stored: bool) {
        if number.after > self.settled {
            return;
        }
        self.settled = self.settled.max(number.n);
        if is_stored {
            self.stored = self.stored.max(number.n);
        }
    }
}

/// A connection as the writer sees it. Of its writes, none may be stored before an earlier one that was not.
pub trait Connection: Any + Debug + Send + Sync {
    /// Whether a write was rejected since this epoch.
    fn is_stale(&self, epoch: WriteEpoch) -> bool;

    /// Called by the writer for a write without a number that it rejects: makes those submitted after it stale.
    fn reject_write(&self);

    /// The numbers of the connection's writes.
    fn numbers(&self) -> Numbers;

    /// Called by the writer, which alone changes them, after a commit.
    fn set_numbers(&self, numbers: Numbers);
}

impl SessionOrigin {
    /// The write's number, if the client has numbered it.
    pub(crate) fn number(&self) -> Option<WriteNumber> {
        match self.order {
            Some(WriteOrder::Number(number)) => Some(number),
            Some(WriteOrder::Epoch(_)) | None => None,
        }
    }
}

impl Origin {
    /// Whether an earlier write of the connection was rejected after this one was submitted. Storing this one would reorder them.
    pub(crate) fn is_stale(&self) -> bool {
        match self {
            Self::Session(SessionOrigin { connection, order: Some(WriteOrder::Epoch(epoch)), .. }) => {
                connection.is_stale(*epoch)
            }
            Self::Session(_) | Self::Call(_) | Self::BackEnd(_) | Self::Nobody => false,
        }
    }

    /// Whether the user writes directly, over a connection or with a token.
    pub(crate) fn is_user(&self) -> bool {
        matches!(self, Self::Session(_) | Self::Call(_))
    }

    /// The connection of a write with a number, and its numbers now.
    #[cfg(feature = "simulation")]
    pub(crate) fn numbers(&self) -> Option<(Arc<dyn Connection>, Numbers)> {
        let Self::Session(origin) = self else { return None };
        origin.number().map(|_| (origin.connection.clone(), origin.connection.numbers()))
    }

    /// Called by the writer for a write that is stored, or refused for good.
    pub(crate) fn settle(&self, is_stored: bool) {
        if let Self::Session(origin) = self
            && let Some(number) = origin.number()
        {
            let mut numbers = origin.connection.numbers();
            numbers.settle(number, is_stored);
            origin.connection.set_numbers(numbers);
        }
    }

    /// Called by the writer for a write that the client is to send again: makes the connection's later writes without a number
    /// stale.
    pub(crate) fn reject(&self) {
        if let Self::Session(SessionOrigin { connection, order: Some(WriteOrder::Epoch(_)), .. }) = self {
            connection.reject_write();
        }
    }
}
