//! Keeps the order of each connection's writes within a transaction.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::WriteResult;
use crate::origin::{Numbers, Origin, OriginConnection, SessionOrigin, WriteOrder};

/// How the current transaction has changed the order of each connection's writes. The changes count only once the
/// transaction is committed, so each attempt starts with an empty value.
#[derive(Debug, Default)]
pub(super) struct TransactionOrder<'a> {
    /// The connections whose write without a number was rejected in this transaction.
    rejected_connections: Vec<&'a Arc<dyn OriginConnection>>,
    /// The highest numbers of each connection that had a numbered write settled in this transaction, by the connection's
    /// address.
    numbers: FxHashMap<usize, Numbers>,
}

impl<'a> TransactionOrder<'a> {
    /// Checks whether a write may be stored now, after the earlier writes of its connection.
    ///
    /// # Errors
    /// If it may not, the result that the write gets instead.
    pub(super) fn check(&self, origin: &Origin) -> Result<(), WriteResult> {
        let Origin::Session(SessionOrigin { connection, order: Some(order), .. }) = origin else {
            return Ok(());
        };
        match order {
            WriteOrder::Number(number) => {
                self.numbers(connection).check(*number).map_err(|refusal| WriteResult::Answered(Err(refusal)))
            }
            WriteOrder::Epoch(_)
                if self.rejected_connections.iter().any(|one| Arc::ptr_eq(one, connection)) =>
            {
                Err(WriteResult::Rejected)
            }
            WriteOrder::Epoch(_) => Ok(()),
        }
    }

    /// Records a write that is stored, or refused for good.
    pub(super) fn record_final_outcome(&mut self, origin: &Origin, is_stored: bool) {
        if let Origin::Session(origin) = origin
            && let Some(number) = origin.number()
        {
            let mut numbers = self.numbers(&origin.connection);
            numbers.record_final_outcome(number, is_stored);
            self.numbers.insert(connection_address(&origin.connection), numbers);
        }
    }

    /// Records a write that the client has to send again. Later writes of its connection must not be stored before it.
    pub(super) fn reject(&mut self, origin: &'a Origin) {
        if let Origin::Session(SessionOrigin { connection, order: Some(WriteOrder::Epoch(_)), .. }) = origin {
            self.rejected_connections.push(connection);
        }
    }

    fn numbers(&self, connection: &Arc<dyn OriginConnection>) -> Numbers {
        self.numbers.get(&connection_address(connection)).copied().unwrap_or_else(|| connection.numbers())
    }
}

fn connection_address(connection: &Arc<dyn OriginConnection>) -> usize {
    Arc::as_ptr(connection).addr()
}
