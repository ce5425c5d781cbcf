//! Counts messages for `read` commands whose cursor is far from both ends of the range. Readers count, so that the writer
//! need not.
//!
//! The writer hands such a read over ([`Counter::start_count`]) and continues. Readers count a slice of the log at a time, in the
//! queue share of the user who sent the read. Then the read is queued for the writer again, with its counts. The counts
//! stay true, because the events before a position of the log never change; the writer still decides whether the cursor
//! moves.

use std::cmp::Reverse;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crossbeam_channel::Sender;
use rustc_hash::FxHashMap;
use switchboard_protocol::{ConversationId, Seq, UserId};

use super::fair_queue::{FairQueue, LaneOwner};
use super::read::counts::{CountProgress, CountStep};
use super::readers::{Job, ReaderConnection};
use super::{Change, CountedRead, MessageCounts, Outcome, Submission, batch};
use crate::refusal::Refusal;

/// The user and the conversation of a count. One count runs for each key at a time.
type CountKey = (UserId, ConversationId);

/// Hands `read` commands over to readers, and back to the writer.
pub(super) struct Counter<D> {
    read_queue: Arc<FairQueue<Job<D>>>,
    queue: Sender<Submission>,
    /// The `read` commands that wait for a count. The count is for the first of each list; the others arrived meanwhile,
    /// and the writer examines them again afterwards.
    waiting: Mutex<FxHashMap<CountKey, Vec<Submission>>>,
}

/// The writer's handle, which is weak so that the writer does not keep its own queue open.
pub(super) type CounterHandle<D> = Weak<Counter<D>>;

/// Starts counts for `read` commands. Returns the outcomes of those that are rejected because the readers' queue is full.
pub(super) fn start_counts<D: ReaderConnection>(
    counter: &CounterHandle<D>,
    mut reads: Vec<Submission>,
) -> Vec<Outcome> {
    if reads.is_empty() {
        return Vec::new();
    }
    // The highest cursor of a conversation is counted for first. Once that one is applied, the others change nothing.
    reads.sort_by_key(|one| Reverse(one.change.cursor().map(|(_, _, upto)| upto)));
    match counter.upgrade() {
        Some(counter) => reads.into_iter().flat_map(|read| counter.start_count(read)).collect(),
        // The store is being closed, so no count can be made.
        None => reads.into_iter().map(batch::rejected_outcome).collect(),
    }
}

impl<D> std::fmt::Debug for Counter<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Counter")
    }
}

impl<D: ReaderConnection> Counter<D> {
    pub(super) fn new(turns: Arc<FairQueue<Job<D>>>, queue: Sender<Submission>) -> Arc<Self> {
        Arc::new(Self { read_queue: turns, queue, waiting: Mutex::default() })
    }

    fn lock_waiting(&self) -> MutexGuard<'_, FxHashMap<CountKey, Vec<Submission>>> {
        // A poisoned lock is safe to use, because no code panics while it holds the lock.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_count(self: &Arc<Self>, submission: Submission) -> Vec<Outcome> {
        let Change::Read(read) = &submission.change else { return vec![batch::rejected_outcome(submission)] };
        let (key, upto) =
            ((submission.actor.clone(), read.conversation.resolve(&submission.actor)), read.upto);
        {
            let mut waiting = self.lock_waiting();
            if let Some(waiting) = waiting.get_mut(&key) {
                waiting.push(submission);
                return Vec::new();
            }
            waiting.insert(key.clone(), vec![submission]);
        }
        let Err(refusal) = self.enqueue_slice(key.clone(), upto, None) else { return Vec::new() };
        let refused = self.lock_waiting().remove(&key).unwrap_or_default();
        refused.into_iter().map(|one| Outcome { origin: one.origin, result: Err(refusal.clone()) }).collect()
    }

    /// Queues a read of the next slice of the log.
    fn enqueue_slice(
        self: &Arc<Self>,
        key: CountKey,
        upto: Seq,
        so_far: Option<CountProgress>,
    ) -> Result<(), Refusal> {
        let (counter, who) = (self.clone(), LaneOwner::User(key.0.clone()));
        self.read_queue
            .push(who, Box::new(move |connection| counter.count_slice(connection, &key, upto, so_far)))
    }

    fn count_slice(
        self: &Arc<Self>,
        connection: &mut D,
        key: &CountKey,
        upto: Seq,
        so_far: Option<CountProgress>,
    ) {
        let (user, name) = key;
        // A panic is caught, so that the waiting reads are answered in every case.
        let step = catch_unwind(AssertUnwindSafe(|| {
            connection.read(|reader| reader.count(user, name, upto, so_far))
        }));
        let step = step.unwrap_or_else(|_| {
            tracing::error!("a count panicked; its read was answered as unavailable");
            Err(Refusal::unavailable())
        });
        match step {
            Ok(CountStep::More(progress)) => {
                if let Err(refusal) = self.enqueue_slice(key.clone(), upto, Some(progress)) {
                    self.requeue_reads(key, Err(refusal));
                }
            }
            Ok(CountStep::Done(counts)) => self.requeue_reads(key, Ok(counts)),
            Err(refusal) => self.requeue_reads(key, Err(refusal)),
        }
    }

    /// Queues the reads that waited for a count. The reader thread blocks here while the writer's queue is full. That
    /// cannot deadlock, because the writer empties the queue and waits for no reader.
    fn requeue_reads(&self, key: &CountKey, counts: Result<MessageCounts, Refusal>) {
        let mut counts = Some(counts);
        let waiting = self.lock_waiting().remove(key).unwrap_or_default();
        for mut submission in waiting {
            if let Change::Read(read) = &submission.change
                && let Some(counts) = counts.take()
            {
                submission.change = Change::CountedRead(Box::new(CountedRead { read: read.clone(), counts }));
            }
            // If the writer has ended, the store is closed and no write is answered any more.
            let _ = self.queue.send(submission);
        }
    }
}
