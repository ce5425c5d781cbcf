//! The part of the writer that all stores share: gathers the queued writes into one transaction and returns an outcome for
//! each.

mod coalesce;
mod transaction_order;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::Receiver;
use switchboard_protocol::{Timestamp, UserId};
use tokio::sync::mpsc;

use self::transaction_order::TransactionOrder;
use super::change::rows::Rows;
use super::change::{self, Actor, OperationError, Rules, StoreError as _};
use super::write_fault::WriteFault;
use super::{Batch, Change, Committed, Outcome, Submission};
use crate::clock::Clock;
use crate::origin::Origin;
use crate::record::ConversationKey;
use crate::refusal::Refusal;

/// The most writes that may be queued for the writer: less than a second of work at 20,000 a second. Further writes are
/// rejected.
pub(super) const MAX_QUEUED_WRITES: usize = 16_384;

/// The most writes in one transaction. Larger batches do not commit more writes per second; they only delay the first one.
pub(super) const MAX_WRITES_PER_BATCH: usize = 1_024;

/// The most committed batches that may wait for the router. A few keep the writer busy; more would only add latency.
pub(super) const MAX_QUEUED_BATCHES: usize = 8;

/// The result of one write of a batch.
#[derive(Debug)]
pub(super) enum WriteResult {
    /// The write is stored, or refused because of its content.
    Answered(Result<Committed, Refusal>),
    /// The write could not be stored.
    Rejected,
    /// The write is a `read` for which readers have to count messages first; it is queued again afterwards.
    Uncounted,
}

/// The results of a batch, in the order of its writes.
pub(super) type WriteResults = Vec<WriteResult>;

/// The state that the writer shares with its readers.
#[derive(Debug, Default)]
pub(super) struct WriterState {
    /// The number of the batch whose commit began last.
    pub(super) mark: AtomicU64,
    /// The clock of the store, for readers.
    pub(super) clock: Clock,
    /// Why every write is refused at present; `None` while writes are stored.
    fault: Mutex<Option<WriteFault>>,
}

impl WriterState {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, ..Self::default() }
    }

    pub(super) fn fault(&self) -> Option<WriteFault> {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the store refuse writes, for good if the fault is final.
    pub(super) fn set_fault(&self, fault: WriteFault) {
        let mut now = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if !now.is_some_and(WriteFault::is_final) {
            *now = Some(fault);
        }
    }

    /// Makes the store accept writes again, unless the fault is final. Called when a write was stored.
    pub(super) fn clear_fault(&self) {
        let mut now = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        now.take_if(|fault| !fault.is_final());
    }

    /// Whether the store refuses all writes until a restart.
    pub(super) fn has_failed(&self) -> bool {
        self.fault().is_some_and(WriteFault::is_final)
    }
}

/// A write that changes nothing, to probe whether writes can be stored.
pub(super) fn probe_submission() -> Option<Submission> {
    let actor = UserId::parse("probe").ok()?;
    Some(Submission { actor, change: Change::Probe, origin: Origin::Internal })
}

/// Counts the writes of a batch, without its probes and checks.
pub(super) fn count_writes(batch: &[Submission]) -> usize {
    batch.iter().filter(|one| !matches!(one.change, Change::Probe | Change::Check(_))).count()
}

/// Records the final fault if the writer's thread panics.
struct PanicGuard(Arc<WriterState>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.set_fault(WriteFault::WriterEnded);
        }
    }
}

/// The writer's queue of submissions, and its channel of committed batches.
pub(super) struct WriterChannels {
    /// Dropped before `batches`, so that the fault is recorded by the time the router sees that channel close.
    panic_guard: PanicGuard,
    pub(super) queue: Receiver<Submission>,
    batches: mpsc::Sender<Batch>,
    /// The number of the current batch.
    number: u64,
}

impl WriterChannels {
    pub(super) fn new(
        queue: Receiver<Submission>,
        batches: mpsc::Sender<Batch>,
        state: Arc<WriterState>,
    ) -> Self {
        Self { panic_guard: PanicGuard(state), queue, batches, number: 0 }
    }

    /// Writes a batch: the first write and all that are queued after it, up to the limit. `write` returns the batch's
    /// outcomes and the conversations for [`Batch::stored_after_all`]. Returns `false` if the receiver of batches is gone.
    pub(super) fn write_queued(
        &mut self,
        first: Submission,
        mut write: impl FnMut(Vec<Submission>) -> (Vec<Outcome>, Vec<ConversationKey>),
    ) -> bool {
        #[cfg(any(debug_assertions, feature = "fault-injection"))]
        crate::fault::panic_if_due("writer");
        let mut batch = vec![first];
        batch.extend(self.queue.try_iter().take(MAX_WRITES_PER_BATCH - 1));
        // Writes that were submitted before their connection learned of an earlier rejection are rejected in a batch of their
        // own.
        let late = reject_stale(&mut batch);
        // An import that is refused half-way rolls its transaction back, so it has one of its own. It follows the other writes,
        // which clients wait for.
        let imports: Vec<_> = batch.extract_if(.., |one| matches!(one.change, Change::Import(_))).collect();
        (late.is_empty() || self.commit_and_publish(|| (late, Vec::new())))
            && (batch.is_empty() || self.commit_and_publish(|| write(batch)))
            && imports.into_iter().all(|import| self.commit_and_publish(|| write(vec![import])))
    }

    /// Numbers a batch, writes it and sends its outcomes to the router. Returns `false` if the receiver of batches is gone.
    pub(super) fn commit_and_publish(
        &mut self,
        write: impl FnOnce() -> (Vec<Outcome>, Vec<ConversationKey>),
    ) -> bool {
        self.number += 1;
        // The batch's number is set before the commit, so that a reader that sees any row of this batch also sees its number.
        self.panic_guard.0.mark.store(self.number, Ordering::SeqCst);
        let (outcomes, check) = write();
        let batch = Batch {
            number: self.number,
            outcomes,
            has_more: !self.queue.is_empty(),
            stored_after_all: check,
        };
        self.batches.blocking_send(batch).is_ok()
    }

    /// Stops taking writes from the queue; new submissions are rejected.
    pub(super) fn close(&mut self) {
        self.queue = crossbeam_channel::never();
    }
}

/// Removes and rejects the stale writes of a batch: those submitted before their connection learned of an earlier
/// rejection.
pub(super) fn reject_stale(batch: &mut Vec<Submission>) -> Vec<Outcome> {
    batch.extract_if(.., |one| one.origin.is_stale()).map(rejected_outcome).collect()
}

/// Rejects a write that could not be stored. Later writes of its connection without numbers become stale, because they must
/// not be stored before the client has sent this one again.
pub(super) fn rejected_outcome(submission: Submission) -> Outcome {
    submission.origin.record_rejection();
    Outcome { origin: submission.origin, result: Err(Refusal::unavailable()) }
}

/// Applies the changes of a batch to the rows of a transaction.
pub(super) fn apply<R: Rows>(
    rows: &mut R,
    rules: &Rules,
    batch: &[Submission],
    now: Timestamp,
) -> Result<WriteResults, R::Error> {
    let mut results: WriteResults = batch.iter().map(|_| WriteResult::Rejected).collect();
    let mut turns = TransactionOrder::default();
    for index in coalesce::apply_order(batch) {
        let (Some(one), Some(result)) = (batch.get(index), results.get_mut(index)) else { continue };
        if let Err(early) = turns.check(&one.origin) {
            *result = early;
            continue;
        }
        // The change is cloned, because a second attempt at the transaction needs it again.
        let actor = Actor {
            name: &one.actor,
            has_allowances: one.origin.is_user(),
            via: one.origin.via(),
            address: one.origin.address(),
            by: one.origin.by(),
            permissions: one.origin.permissions(),
        };
        *result = match change::apply(rows, rules, actor, one.change.clone(), now) {
            Ok(committed) => {
                turns.record_final_outcome(&one.origin, true);
                WriteResult::Answered(Ok(committed))
            }
            Err(OperationError::Refused(refusal)) => {
                if refusal.code.retryable() {
                    turns.reject(&one.origin);
                } else {
                    turns.record_final_outcome(&one.origin, false);
                }
                WriteResult::Answered(Err(refusal))
            }
            Err(OperationError::Uncounted) => WriteResult::Uncounted,
            // Only a check ends so, and `change::apply` has made it an answer.
            Err(OperationError::Checked) => WriteResult::Rejected,
            Err(OperationError::Store(error)) if error.concerns_one_change() => {
                turns.reject(&one.origin);
                WriteResult::Rejected
            }
            Err(OperationError::Store(error)) => return Err(error),
        };
    }
    Ok(results)
}

/// Pairs the writes of a batch with their results. The reads that need a count go into `uncounted` and get no outcome yet.
pub(super) fn pair_outcomes(
    batch: Vec<Submission>,
    results: WriteResults,
    uncounted: &mut Vec<Submission>,
) -> Vec<Outcome> {
    let pairs = batch.into_iter().zip(results);
    pairs
        .filter_map(|(submission, result)| record_and_convert_outcome(submission, result, uncounted))
        .collect()
}

fn record_and_convert_outcome(
    submission: Submission,
    result: WriteResult,
    uncounted: &mut Vec<Submission>,
) -> Option<Outcome> {
    match result {
        WriteResult::Answered(result) => {
            match &result {
                Err(refusal) if refusal.code.retryable() => submission.origin.record_rejection(),
                settled => submission.origin.record_final_outcome(settled.is_ok()),
            }
            Some(Outcome { origin: submission.origin, result })
        }
        WriteResult::Rejected => Some(rejected_outcome(submission)),
        WriteResult::Uncounted => {
            uncounted.push(submission);
            None
        }
    }
}

/// Commits each write of a batch in its own transaction, so that a damaged row fails only the writes that need it.
pub(super) fn write_each_alone(
    batch: Vec<Submission>,
    uncounted: &mut Vec<Submission>,
    mut write: impl FnMut(&[Submission]) -> Option<WriteResults>,
) -> Vec<Outcome> {
    let alone = batch.into_iter().filter_map(|one| {
        if one.origin.is_stale() {
            return Some(rejected_outcome(one));
        }
        let result = write(std::slice::from_ref(&one)).and_then(|mut results| results.pop());
        record_and_convert_outcome(one, result.unwrap_or(WriteResult::Rejected), uncounted)
    });
    alone.collect()
}
