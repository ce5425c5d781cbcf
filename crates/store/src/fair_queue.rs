//! A fair queue of reads: round robin over lanes, with at most one running read for each lane. A user with many reads waits
//! for their own earlier ones, and delays another user by at most one read.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use switchboard_protocol::UserId;

use crate::record::{ConversationKey, UserKey};
use crate::refusal::Refusal;

/// The most reads that may be queued: one for each connection when all clients reconnect at once. A queued read takes some
/// 300 bytes. Further reads are refused with `unavailable`.
const MAX_QUEUED_READS: usize = 65_536;

/// The most reads of one lane that may be queued: more than `connections_per_user`, because a connection sends its reads
/// one after the other, and as many as one address may send over HTTP. Further reads are refused with `rate_limited`.
const MAX_QUEUED_READS_PER_LANE: usize = 1_024;

/// The owner of a lane of the queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum LaneOwner {
    /// A user's own queries.
    User(UserId),
    /// The check of a user's token. It has its own lane, so that a request that writes does not wait for the user's reads.
    Token(UserId),
    /// Replays for a user's connections that lag. They have their own lane, so that the user's own queries do not wait for
    /// them.
    Replays(UserKey),
    /// A health probe of the server. It is served first and is never refused. At most two wait at a time.
    Probe,
    /// A request with an API key. The key is not verified yet, so a wrong key delays only its own requests.
    ApiKeyHash([u8; 32]),
    /// Pages of the feed, for all keys.
    Feed,
    /// The lists of all users and rooms, and unread counts, for all keys.
    Lists,
    /// The router's reads of the log of a conversation to which other nodes also write.
    Log(ConversationKey),
    /// The router's comparison of the heads of many conversations.
    Heads,
    /// The router's comparison of the memberships of many users.
    Memberships,
    /// The router's search for changed profiles.
    Profiles,
    /// The router's search for users who joined conversations.
    Newcomers,
}

/// The queue that the reader threads take from.
#[derive(Debug)]
pub(super) struct FairQueue<J> {
    queue: Mutex<Queue<J>>,
    ready: Condvar,
}

#[derive(Debug)]
struct Queue<J> {
    lanes: FxHashMap<LaneOwner, Lane<J>>,
    /// The lanes that have queued reads and no running one, in the order in which they are served.
    ready_lanes: VecDeque<LaneOwner>,
    queued_jobs: usize,
    closed: bool,
}

#[derive(Debug)]
struct Lane<J> {
    jobs: VecDeque<J>,
    /// Whether a read of this lane is running.
    busy: bool,
}

impl<J> Queue<J> {
    fn enqueue_lane(&mut self, who: LaneOwner) {
        match who {
            LaneOwner::Probe => self.ready_lanes.push_front(who),
            _ => self.ready_lanes.push_back(who),
        }
    }
}

/// What [`FairQueue::take`] tells a reader thread to do next.
pub(super) enum NextJob<J> {
    /// Run this job, then call [`FairQueue::finish`].
    Run(LaneOwner, J),
    /// No job came within the time-out.
    TimedOut,
    /// The queue is closed.
    End,
}

impl<J> FairQueue<J> {
    pub(super) fn new() -> Self {
        let queue = Queue {
            lanes: FxHashMap::default(),
            ready_lanes: VecDeque::new(),
            queued_jobs: 0,
            closed: false,
        };
        Self { queue: Mutex::new(queue), ready: Condvar::new() }
    }

    fn lock_queue(&self) -> MutexGuard<'_, Queue<J>> {
        // No job runs while the lock is held, so a panic cannot leave the queue inconsistent.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a job.
    pub(super) fn push(&self, who: LaneOwner, job: J) -> Result<(), Refusal> {
        let mut queue = self.lock_queue();
        if queue.queued_jobs >= MAX_QUEUED_READS && who != LaneOwner::Probe || queue.closed {
            return Err(Refusal::unavailable());
        }
        let lane =
            queue.lanes.entry(who.clone()).or_insert_with(|| Lane { jobs: VecDeque::new(), busy: false });
        if lane.jobs.len() >= MAX_QUEUED_READS_PER_LANE {
            return Err(Refusal::rate_limited(1_000));
        }
        lane.jobs.push_back(job);
        let comes_in = !lane.busy && lane.jobs.len() == 1;
        queue.queued_jobs += 1;
        if comes_in {
            queue.enqueue_lane(who);
            drop(queue);
            self.ready.notify_one();
        }
        Ok(())
    }

    /// Waits for a job, at most for `timeout`.
    pub(super) fn take(&self, timeout: Option<Duration>) -> NextJob<J> {
        let mut queue = self.lock_queue();
        loop {
            while let Some(who) = queue.ready_lanes.pop_front() {
                let Some(lane) = queue.lanes.get_mut(&who) else { continue };
                let Some(job) = lane.jobs.pop_front() else { continue };
                lane.busy = true;
                queue.queued_jobs -= 1;
                return NextJob::Run(who, job);
            }
            if queue.closed {
                return NextJob::End;
            }
            queue = match timeout {
                None => self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(timeout) => {
                    let (queue, waited) =
                        self.ready.wait_timeout(queue, timeout).unwrap_or_else(PoisonError::into_inner);
                    if waited.timed_out() && queue.ready_lanes.is_empty() && !queue.closed {
                        return NextJob::TimedOut;
                    }
                    queue
                }
            }
        }
    }

    /// Marks the running job of a lane as finished, so that the lane's next job can run. No thread is woken, because the
    /// calling thread takes the next job itself.
    pub(super) fn finish_job(&self, who: LaneOwner) {
        let mut queue = self.lock_queue();
        let Some(lane) = queue.lanes.get_mut(&who) else { return };
        lane.busy = false;
        if lane.jobs.is_empty() {
            queue.lanes.remove(&who);
            // Frees the memory that a burst of many lanes needed.
            if queue.lanes.is_empty() {
                (queue.lanes, queue.ready_lanes) = (FxHashMap::default(), VecDeque::new());
            }
        } else {
            queue.enqueue_lane(who);
        }
    }

    /// Closes the queue: the threads end once no job is queued.
    pub(super) fn close(&self) {
        self.lock_queue().closed = true;
        self.ready.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> LaneOwner {
        LaneOwner::User(UserId::parse(name).expect("a user id"))
    }

    fn take_now<J>(turns: &FairQueue<J>) -> Option<(LaneOwner, J)> {
        match turns.take(Some(Duration::ZERO)) {
            NextJob::Run(who, job) => Some((who, job)),
            NextJob::TimedOut | NextJob::End => None,
        }
    }

    #[test]
    fn each_owner_gets_one_job_before_any_gets_two() {
        let turns = FairQueue::new();
        for (name, job) in
            [("alice", "a1"), ("alice", "a2"), ("alice", "a3"), ("bob", "b1"), ("bob", "b2"), ("carol", "c1")]
        {
            turns.push(user(name), job).expect("room");
        }
        let mut order = Vec::new();
        while let Some((who, job)) = take_now(&turns) {
            order.push(job);
            turns.finish_job(who);
        }
        assert_eq!(order, ["a1", "b1", "c1", "a2", "b2", "a3"]);
    }

    #[test]
    fn one_user_has_one_read_at_a_time() {
        let turns = FairQueue::new();
        turns.push(user("alice"), 1).expect("room");
        turns.push(user("alice"), 2).expect("room");
        let (alice, _) = take_now(&turns).expect("the first");
        assert!(take_now(&turns).is_none(), "the second waits for the first");
        turns.push(user("bob"), 3).expect("room");
        assert!(matches!(take_now(&turns), Some((_, 3))), "another lane is not full");
        turns.finish_job(alice);
        assert!(matches!(take_now(&turns), Some((_, 2))));
    }

    #[test]
    fn a_probe_is_next_however_many_wait() {
        let turns = FairQueue::new();
        for n in 0..MAX_QUEUED_READS {
            turns.push(LaneOwner::Replays(UserKey(n as i64)), "read").expect("room");
        }
        turns.push(user("alice"), "read").expect_err("full");
        turns.push(LaneOwner::Probe, "one").expect("always");
        turns.push(LaneOwner::Probe, "two").expect("always");
        for expected in ["one", "two", "read"] {
            let (who, job) = take_now(&turns).expect("it waits");
            assert_eq!(job, expected);
            turns.finish_job(who);
        }
    }

    #[test]
    fn a_full_lane_is_refused_and_other_lanes_are_not() {
        let turns = FairQueue::new();
        for _ in 0..MAX_QUEUED_READS_PER_LANE {
            turns.push(user("alice"), ()).expect("room");
        }
        let refusal = turns.push(user("alice"), ()).expect_err("enough");
        assert_eq!(refusal.code, switchboard_protocol::ErrorCode::RateLimited);
        turns.push(user("bob"), ()).expect("room");
        for n in 0..MAX_QUEUED_READS - MAX_QUEUED_READS_PER_LANE - 1 {
            turns.push(LaneOwner::Replays(UserKey(n as i64)), ()).expect("room");
        }
        let refusal = turns.push(user("carol"), ()).expect_err("full");
        assert_eq!(refusal.code, switchboard_protocol::ErrorCode::Unavailable);
    }

    #[test]
    fn queued_jobs_run_before_the_queue_ends() {
        let turns = FairQueue::new();
        turns.push(user("alice"), ()).expect("room");
        turns.close();
        let NextJob::Run(who, ()) = turns.take(None) else { panic!("it waits") };
        turns.finish_job(who);
        assert!(matches!(turns.take(None), NextJob::End));
        let queue = turns.lock_queue();
        assert!(queue.lanes.is_empty() && queue.ready_lanes.is_empty() && queue.queued_jobs == 0);
    }
}
