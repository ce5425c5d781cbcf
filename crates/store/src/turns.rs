//! Whose read is next: each in turn, and of one only one at a time. So whoever asks much waits for their own reads, and the
//! others wait for one of theirs at most.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use switchboard_protocol::UserId;

use crate::record::{ConversationKey, UserKey};
use crate::refusal::Refusal;

/// Reads that may wait: one for each connection of a server that everybody comes back to at once. A waiting read takes
/// some 300 bytes. Beyond: `unavailable`.
const WAITING: usize = 65_536;

/// Reads of one that may wait. A connection asks for one after the other, so this is more than `connections_per_user`, and as
/// many as come over HTTP from one address. Beyond: `rate_limited`.
const WAITING_OF_ONE: usize = 1_024;

/// Who waits for a read.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// A user who asks for something.
    User(UserId),
    /// The check of a user's token, so that what a request is to write does not wait for what its user reads.
    Token(UserId),
    /// A user whose connections are behind; what they ask for meanwhile does not wait for that.
    Behind(UserKey),
    /// A probe of the server's own: it is next, and never one too many. One or two of them wait at a time.
    Probe,
    /// Whoever shows an API key. Nobody knows yet whose it is, so a wrong one makes only itself wait.
    Key([u8; 32]),
    /// The router, for the log of a conversation that other nodes write to as well.
    Log(ConversationKey),
    /// The router, for where many conversations stand.
    Heads,
    /// The router, for where many users stand.
    People,
    /// The router, for whether some users have come into conversations.
    Newcomers,
}

/// The reads that wait.
#[derive(Debug)]
pub(super) struct Turns<J> {
    queue: Mutex<Queue<J>>,
    ready: Condvar,
}

#[derive(Debug)]
struct Queue<J> {
    lanes: FxHashMap<Who, Lane<J>>,
    /// Whose turn it is: those with reads that wait and none in work.
    next: VecDeque<Who>,
    waiting: usize,
    closed: bool,
}

#[derive(Debug)]
struct Lane<J> {
    jobs: VecDeque<J>,
    /// One of them is in work.
    busy: bool,
}

impl<J> Queue<J> {
    fn line_up(&mut self, who: Who) {
        match who {
            Who::Probe => self.next.push_front(who),
            _ => self.next.push_back(who),
        }
    }
}

/// What a thread is to do.
pub(super) enum Turn<J> {
    /// To do this, and to say that it is done.
    Work(Who, J),
    /// Nothing came for the time given.
    Quiet,
    /// Nothing more will come.
    End,
}

impl<J> Turns<J> {
    pub(super) fn new() -> Self {
        let queue = Queue { lanes: FxHashMap::default(), next: VecDeque::new(), waiting: 0, closed: false };
        Self { queue: Mutex::new(queue), ready: Condvar::new() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue<J>> {
        // No job runs under the lock, so whatever panicked has left it whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a job wait for its turn.
    pub(super) fn push(&self, who: Who, job: J) -> Result<(), Refusal> {
        let mut queue = self.queue();
        if queue.waiting >= WAITING && who != Who::Probe || queue.closed {
            return Err(Refusal::unavailable());
        }
        let lane =
            queue.lanes.entry(who.clone()).or_insert_with(|| Lane { jobs: VecDeque::new(), busy: false });
        if lane.jobs.len() >= WAITING_OF_ONE {
            return Err(Refusal::rate_limited(1_000));
        }
        lane.jobs.push_back(job);
        let comes_in = !lane.busy && lane.jobs.len() == 1;
        queue.waiting += 1;
        if comes_in {
            queue.line_up(who);
            drop(queue);
            self.ready.notify_one();
        }
        Ok(())
    }

    /// Waits for something to do, for so long at most.
    pub(super) fn take(&self, patience: Option<Duration>) -> Turn<J> {
        let mut queue = self.queue();
        loop {
            while let Some(who) = queue.next.pop_front() {
                let Some(lane) = queue.lanes.get_mut(&who) else { continue };
                let Some(job) = lane.jobs.pop_front() else { continue };
                lane.busy = true;
                queue.waiting -= 1;
                return Turn::Work(who, job);
            }
            if queue.closed {
                return Turn::End;
            }
            queue = match patience {
                None => self.ready.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(patience) => {
                    let (queue, waited) =
                        self.ready.wait_timeout(queue, patience).unwrap_or_else(PoisonError::into_inner);
                    if waited.timed_out() && queue.next.is_empty() && !queue.closed {
                        return Turn::Quiet;
                    }
                    queue
                }
            }
        }
    }

    /// Says that what was taken for `who` is done. The thread that says so takes the next itself.
    pub(super) fn done(&self, who: Who) {
        let mut queue = self.queue();
        let Some(lane) = queue.lanes.get_mut(&who) else { return };
        lane.busy = false;
        if lane.jobs.is_empty() {
            queue.lanes.remove(&who);
            // What a crowd needed that came at once.
            if queue.lanes.is_empty() {
                (queue.lanes, queue.next) = (FxHashMap::default(), VecDeque::new());
            }
        } else {
            queue.line_up(who);
        }
    }

    /// Ends the threads once nothing waits.
    pub(super) fn close(&self) {
        self.queue().closed = true;
        self.ready.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Who {
        Who::User(UserId::parse(name).expect("a user id"))
    }

    fn takes<J>(turns: &Turns<J>) -> Option<(Who, J)> {
        match turns.take(Some(Duration::ZERO)) {
            Turn::Work(who, job) => Some((who, job)),
            Turn::Quiet | Turn::End => None,
        }
    }

    #[test]
    fn everybody_has_a_turn_before_anybody_has_two() {
        let turns = Turns::new();
        for (name, job) in
            [("alice", "a1"), ("alice", "a2"), ("alice", "a3"), ("bob", "b1"), ("bob", "b2"), ("carol", "c1")]
        {
            turns.push(user(name), job).expect("room");
        }
        let mut order = Vec::new();
        while let Some((who, job)) = takes(&turns) {
            order.push(job);
            turns.done(who);
        }
        assert_eq!(order, ["a1", "b1", "c1", "a2", "b2", "a3"]);
    }

    #[test]
    fn one_user_has_one_read_at_a_time() {
        let turns = Turns::new();
        turns.push(user("alice"), 1).expect("room");
        turns.push(user("alice"), 2).expect("room");
        let (alice, _) = takes(&turns).expect("the first");
        assert!(takes(&turns).is_none(), "the second waits for the first");
        turns.push(user("bob"), 3).expect("room");
        assert!(matches!(takes(&turns), Some((_, 3))), "somebody else does not");
        turns.done(alice);
        assert!(matches!(takes(&turns), Some((_, 2))));
    }

    #[test]
    fn a_probe_is_next_however_many_wait() {
        let turns = Turns::new();
        for n in 0..WAITING {
            turns.push(Who::Behind(UserKey(n as i64)), "read").expect("room");
        }
        turns.push(user("alice"), "read").expect_err("full");
        turns.push(Who::Probe, "one").expect("always");
        turns.push(Who::Probe, "two").expect("always");
        for expected in ["one", "two", "read"] {
            let (who, job) = takes(&turns).expect("it waits");
            assert_eq!(job, expected);
            turns.done(who);
        }
    }

    #[test]
    fn whoever_asks_too_much_is_refused_and_the_others_are_not() {
        let turns = Turns::new();
        for _ in 0..WAITING_OF_ONE {
            turns.push(user("alice"), ()).expect("room");
        }
        let refusal = turns.push(user("alice"), ()).expect_err("enough");
        assert_eq!(refusal.code, switchboard_protocol::ErrorCode::RateLimited);
        turns.push(user("bob"), ()).expect("room");
        for n in 0..WAITING - WAITING_OF_ONE - 1 {
            turns.push(Who::Behind(UserKey(n as i64)), ()).expect("room");
        }
        let refusal = turns.push(user("carol"), ()).expect_err("full");
        assert_eq!(refusal.code, switchboard_protocol::ErrorCode::Unavailable);
    }

    #[test]
    fn what_waits_is_done_before_the_end_and_leaves_nothing_behind() {
        let turns = Turns::new();
        turns.push(user("alice"), ()).expect("room");
        turns.close();
        let Turn::Work(who, ()) = turns.take(None) else { panic!("it waits") };
        turns.done(who);
        assert!(matches!(turns.take(None), Turn::End));
        let queue = turns.queue();
        assert!(queue.lanes.is_empty() && queue.next.is_empty() && queue.waiting == 0);
    }
}
