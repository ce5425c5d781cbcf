//! The origin of a write, which receives its outcome.

use std::any::Any;
use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{CommandId, Permissions, UserId, WriteNumber};
use tokio::sync::oneshot;

use crate::key::Via;
use crate::refusal::Refusal;

/// The recipient of a write's outcome.
#[derive(Debug)]
pub enum Origin {
    /// A connection. It receives the reply with the command's id instead of the event.
    Session(SessionOrigin),
    /// A caller that waits for the outcome, such as an HTTP request.
    Call(oneshot::Sender<Result<OkBody<Box<RawValue>>, Refusal>>),
    /// A user who waits for the outcome, such as of an HTTP request with a token.
    User(UserOrigin),
    /// A back end with an API key, which waits for the outcome. Its writes do not count against the allowances of the users
    /// it acts for.
    BackEnd(BackEndOrigin),
    /// The server itself, which needs no outcome.
    Internal,
}

/// The user who sent a write outside a connection.
#[derive(Debug)]
pub struct UserOrigin {
    /// Gets the outcome.
    pub reply: oneshot::Sender<Result<OkBody<Box<RawValue>>, Refusal>>,
    /// What the user may do.
    pub permissions: Arc<Permissions>,
}

/// The back end that sent a write.
#[derive(Debug)]
pub struct BackEndOrigin {
    /// Gets the outcome.
    pub reply: oneshot::Sender<Result<OkBody<Box<RawValue>>, Refusal>>,
    /// The back end's key.
    pub via: Via,
    /// The back end's address.
    pub address: Option<IpAddr>,
    /// The moderator in whose name it is written, whom the audit log names.
    pub by: Option<UserId>,
}

/// The connection that sent a write.
#[derive(Debug)]
pub struct SessionOrigin {
    /// The connection, which keeps the order of its writes.
    pub connection: Arc<dyn OriginConnection>,
    /// The id of the command, for the reply.
    pub id: Option<CommandId>,
    /// How the write keeps its order with the connection's other writes; `None` for cursors.
    pub order: Option<WriteOrder>,
    /// What the user may do.
    pub permissions: Arc<Permissions>,
}

/// How a write keeps its order with the other writes of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOrder {
    /// The client has numbered the write. It is stored only once the write that it follows is settled.
    Number(WriteNumber),
    /// The client does not number its writes. The write is stored only if no write of the connection was rejected since it
    /// was submitted.
    Epoch(WriteEpoch),
}

/// The epoch in which a write was submitted: the number of writes rejected before. A rejection makes all earlier epochs stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteEpoch(pub u64);

/// The highest numbers among a connection's writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Numbers {
    /// The highest number of a stored write.
    pub stored: u64,
    /// The highest number of a settled write: stored, or refused for good.
    pub settled: u64,
}

impl Numbers {
    /// Checks that the write before `number` is settled (stored, or refused for good), and that no later write is stored.
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

    /// Records a settled write. Does nothing if the write before it is not settled, because that one must still be settled
    /// first.
    pub(crate) fn record_final_outcome(&mut self, number: WriteNumber, is_stored: bool) {
        if number.after > self.settled {
            return;
        }
        self.settled = self.settled.max(number.n);
        if is_stored {
            self.stored = self.stored.max(number.n);
        }
    }
}

/// A client's connection as the writer sees it. No write of a connection may be stored before an earlier one that was not
/// stored.
pub trait OriginConnection: Any + Debug + Send + Sync {
    /// Whether a write of the connection was rejected since this epoch.
    fn is_stale(&self, epoch: WriteEpoch) -> bool;

    /// Called by the writer when it rejects a write without a number. Makes the writes stale that were submitted after it.
    fn count_rejected_write(&self);

    /// The highest numbers of the connection's stored and settled writes.
    fn numbers(&self) -> Numbers;

    /// Stores new numbers. Only the writer calls this, after a commit.
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
            Self::Session(_) | Self::User(_) | Self::Call(_) | Self::BackEnd(_) | Self::Internal => false,
        }
    }

    /// Whether the user writes directly, over a connection or with a token.
    pub(crate) fn is_user(&self) -> bool {
        matches!(self, Self::Session(_) | Self::User(_) | Self::Call(_))
    }

    /// What the user may do; `None` if nothing limits it.
    pub(crate) fn permissions(&self) -> Option<&Permissions> {
        match self {
            Self::Session(origin) => Some(&origin.permissions),
            Self::User(origin) => Some(&origin.permissions),
            Self::Call(_) | Self::BackEnd(_) | Self::Internal => None,
        }
    }

    /// What made the write in the user's name.
    pub(crate) fn via(&self) -> Via {
        match self {
            Self::BackEnd(origin) => origin.via,
            Self::Session(_) | Self::User(_) | Self::Call(_) | Self::Internal => Via::USER,
        }
    }

    /// The address of the back end that made the write.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        match self {
            Self::BackEnd(origin) => origin.address,
            Self::Session(_) | Self::User(_) | Self::Call(_) | Self::Internal => None,
        }
    }

    /// The moderator in whose name a back end made the write.
    pub(crate) fn by(&self) -> Option<&UserId> {
        match self {
            Self::BackEnd(origin) => origin.by.as_ref(),
            Self::Session(_) | Self::User(_) | Self::Call(_) | Self::Internal => None,
        }
    }

    /// The connection of a numbered write, and the connection's highest numbers at present.
    #[cfg(feature = "simulation")]
    pub(crate) fn numbers(&self) -> Option<(Arc<dyn OriginConnection>, Numbers)> {
        let Self::Session(origin) = self else { return None };
        origin.number().map(|_| (origin.connection.clone(), origin.connection.numbers()))
    }

    /// Called by the writer for a write that is stored, or refused for good.
    pub(crate) fn record_final_outcome(&self, is_stored: bool) {
        if let Self::Session(origin) = self
            && let Some(number) = origin.number()
        {
            let mut numbers = origin.connection.numbers();
            numbers.record_final_outcome(number, is_stored);
            origin.connection.set_numbers(numbers);
        }
    }

    /// Called by the writer for a write that the client has to send again. Makes the connection's later writes without a
    /// number stale.
    pub(crate) fn record_rejection(&self) {
        if let Self::Session(SessionOrigin { connection, order: Some(WriteOrder::Epoch(_)), .. }) = self {
            connection.count_rejected_write();
        }
    }
}
