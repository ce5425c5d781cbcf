//! Keeps the order of each connection's writes within a transaction.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::Settled;
use crate::origin::{Connection, Numbers, Origin, SessionOrigin, WriteOrder};

/// What a transaction has done so far to the order of each connection's writes. It counts only once the transaction is committed,
/// so each attempt starts with an empty one.
#[derive(Debug, Default)]
pub(super) struct Turns<'a> {
    /// Connections of which a write without a number was rejected.
    rejected: Vec<&'a Arc<dyn Connection>>,
    /// The numbers of connections with a write in this transaction that is settled, by the connection's address.
    numbers: FxHashMap<usize, Numbers>,
}

impl<'a> Turns<'a> {
    /// # Errors
    /// The result of a write that must not be stored yet.
    pub(super) fn check(&self, origin: &Origin) -> Result<(), Settled> {
        let Origin::Session(SessionOrigin { connection, order: Some(order), .. }) = origin else {
            return Ok(());
        };
        match order {
            WriteOrder::Number(number) => {
                self.numbers(connection).check(*number).map_err(|refusal| Settled::Answered(Err(refusal)))
            }
            WriteOrder::Epoch(_) if self.rejected.iter().any(|one| Arc::ptr_eq(one, connection)) => {
                Err(Settled::Rejected)
            }
            WriteOrder::Epoch(_) => Ok(()),
        }
    }

    /// Records a write that is stored, or refused for good.
    pub(super) fn settle(&mut self, origin: &Origin, is_stored: bool) {
        if let Origin::Session(origin) = origin
            && let Some(number) = origin.number()
        {
            let mut numbers = self.numbers(&origin.connection);
            numbers.settle(number, is_stored);
            self.numbers.insert(address(&origin.connection), numbers);
        }
    }

    /// Records a write that the client has to retry. Its later writes must not be stored before it.
    pub(super) fn reject(&mut self, origin: &'a Origin) {
        if let Origin::Session(SessionOrigin { connection, order: Some(WriteOrder::Epoch(_)), .. }) = origin {
            self.rejected.push(connection);
        }
    }

    fn numbers(&self, connection: &Arc<dyn Connection>) -> Numbers {
        self.numbers.get(&address(connection)).copied().unwrap_or_else(|| connection.numbers())
    }
}

fn address(connection: &Arc<dyn Connection>) -> usize {
    Arc::as_ptr(connection).addr()
}
