//! What every writer does with what waits: many writes in one transaction, each answered in its place.

use crossbeam_channel::Receiver;
use switchboard_protocol::Timestamp;

use super::change::rows::Rows;
use super::change::{self, Failed, Rules, StoreError as _};
use super::{Committed, Outcome, Submission};
use crate::refusal::Refusal;

/// Writes that may wait. At 20,000 a second that is under a second of work. Beyond: given back.
pub(super) const WAITING: usize = 16_384;

/// Most writes a transaction. Larger batches commit no more a second, and make the first one wait.
pub(super) const BATCH: usize = 1_024;

/// Batches that may wait for the router: a few keep the writer busy, more would only age.
pub(super) const BATCHES: usize = 8;

/// What becomes of the changes of a batch, in their order; `None` for those that are given back.
pub(super) type Results = Vec<Option<Result<Committed, Refusal>>>;

/// All that waits behind a first write, as far as it fits into a batch.
pub(super) fn gather(first: Submission, queue: &Receiver<Submission>) -> Vec<Submission> {
    let mut batch = vec![first];
    batch.extend(queue.try_iter().take(BATCH - 1));
    batch
}

/// Takes out and gives back what was made before its connection knew that something was given back.
pub(super) fn take_late(batch: &mut Vec<Submission>) -> Vec<Outcome> {
    batch.extract_if(.., |one| one.origin.is_out_of_turn()).map(give_back).collect()
}

/// What could not be stored; and what its connection has made behind it must not be stored before it.
pub(super) fn give_back(submission: Submission) -> Outcome {
    submission.origin.give_back();
    Outcome { origin: submission.origin, result: Err(Refusal::unavailable()) }
}

/// Applies the changes of a batch to the rows of a transaction.
pub(super) fn apply<R: Rows>(
    rows: &mut R,
    rules: &Rules,
    batch: &[Submission],
    now: Timestamp,
) -> Result<Results, R::Error> {
    let mut results = Vec::with_capacity(batch.len());
    let mut left: Vec<&Submission> = Vec::new();
    for one in batch {
        if left.iter().any(|earlier| one.origin.is_behind(&earlier.origin)) {
            results.push(None);
            continue;
        }
        // The copy is what a second try starts from.
        match change::apply(rows, rules, &one.actor, one.change.clone(), now) {
            Ok(committed) => results.push(Some(Ok(committed))),
            Err(Failed::Refused(refusal)) => results.push(Some(Err(refusal))),
            Err(Failed::Store(error)) if error.is_of_one() => {
                left.push(one);
                results.push(None);
            }
            Err(Failed::Store(error)) => return Err(error),
        }
    }
    Ok(results)
}

/// Each write of a batch with what became of it.
pub(super) fn told(batch: Vec<Submission>, results: Results) -> Vec<Outcome> {
    let pairs = batch.into_iter().zip(results);
    pairs.map(|(submission, result)| outcome(submission, result)).collect()
}

fn outcome(submission: Submission, result: Option<Result<Committed, Refusal>>) -> Outcome {
    match result {
        Some(result) => Outcome { origin: submission.origin, result },
        None => give_back(submission),
    }
}

/// Writes each of a batch in a transaction of its own: one bad row must not fail the others' writes.
pub(super) fn each_alone(
    batch: Vec<Submission>,
    mut write: impl FnMut(&[Submission]) -> Option<Results>,
) -> Vec<Outcome> {
    let alone = batch.into_iter().map(|one| {
        if one.origin.is_out_of_turn() {
            return give_back(one);
        }
        let result = write(std::slice::from_ref(&one)).and_then(|mut results| results.pop()).flatten();
        outcome(one, result)
    });
    alone.collect()
}
