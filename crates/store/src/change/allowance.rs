//! Rate limits on effects whose cost is known only in the transaction.
//!
//! Each store counts in its own memory, so several nodes allow several times as much, and a restart resets the counts.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use switchboard_protocol::{Limits, UserId};

use crate::bucket::{Buckets, Rate};
use crate::refusal::Refusal;

const MINUTE: Duration = Duration::from_secs(60);

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// How many minutes' worth of new direct conversations a user may begin at once.
const DIRECT_CONVERSATIONS_BURST: u32 = 5;

/// How many edits a deletion erases at the price of one send. With the default limits a user erases at most 100 edits a
/// second, and 500 at once, which is also the most that one message can have.
const ERASED_EDITS_PER_SEND: u32 = 2;

/// How many erased reactions cost as much as one erased edit. Erasing a reaction and its index entry takes 0.6 µs in
/// SQLite, and erasing an edit takes 50 µs.
const REACTIONS_PER_ERASED_EDIT: u64 = 50;

/// How many seconds' worth of erased edits a user may spend at once, as for sends.
const ERASURES_BURST: u32 = 5;

/// After how many counted effects the buckets that are full again are dropped.
const TAKES_PER_SWEEP: u32 = 4_096;

/// The allowances of all users.
#[derive(Debug)]
pub(super) struct Allowances {
    /// The budget for beginning direct conversations.
    direct_conversations: Option<Buckets<UserId>>,
    /// The budget for creating rooms.
    created_rooms: Option<Buckets<UserId>>,
    /// The budget for erasing edits and reactions.
    erasures: Option<Buckets<UserId>>,
    take_count: AtomicU32,
}

impl Allowances {
    pub(super) fn new(limits: &Limits) -> Self {
        let each = |time: Duration, count: u32, burst: u32| {
            let interval = time.checked_div(count)?;
            Some(Buckets::new(Rate::new(interval, burst)))
        };
        let directs = limits.directs_per_minute;
        let edits = limits.sends_per_user.saturating_mul(ERASED_EDITS_PER_SEND);
        Self {
            direct_conversations: each(MINUTE, directs, directs.saturating_mul(DIRECT_CONVERSATIONS_BURST)),
            created_rooms: each(DAY, limits.rooms, limits.rooms),
            erasures: Rate::per_second(edits, ERASURES_BURST).map(Buckets::new),
            take_count: AtomicU32::new(0),
        }
    }

    /// Counts a direct conversation that `user` begins; refuses it if the user has begun too many.
    pub(super) fn charge_direct_conversation(&self, user: &UserId) -> Result<(), Refusal> {
        self.take_tokens(self.direct_conversations.as_ref(), user, 1).map_err(Refusal::too_fast)
    }

    /// Counts a room that `user` creates; `false` if the user has created too many.
    pub(super) fn charge_room(&self, user: &UserId) -> bool {
        self.take_tokens(self.created_rooms.as_ref(), user, 1).is_ok()
    }

    /// Counts edits and reactions that `user` erases; refuses if the user has erased too many.
    pub(super) fn charge_erasures(&self, user: &UserId, edits: usize, reactions: u64) -> Result<(), Refusal> {
        let edits = (edits as u64).saturating_add(reactions.div_ceil(REACTIONS_PER_ERASED_EDIT));
        let edits = u32::try_from(edits).unwrap_or(u32::MAX);
        self.take_tokens(self.erasures.as_ref(), user, edits).map_err(Refusal::too_fast)
    }

    fn take_tokens(&self, of: Option<&Buckets<UserId>>, user: &UserId, price: u32) -> Result<(), Duration> {
        if self.take_count.fetch_add(1, Ordering::Relaxed) % TAKES_PER_SWEEP == TAKES_PER_SWEEP - 1 {
            self.sweep();
        }
        of.map_or(Ok(()), |buckets| buckets.take_tokens(user, price))
    }

    /// Drops the buckets that are full again.
    fn sweep(&self) {
        for buckets in [&self.direct_conversations, &self.created_rooms, &self.erasures].into_iter().flatten()
        {
            buckets.sweep();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(n: u32) -> UserId {
        UserId::parse(&format!("user{n}")).expect("an id")
    }

    #[tokio::test(start_paused = true)]
    async fn direct_conversations_that_a_user_begins_are_rate_limited() {
        let allowances = Allowances::new(&Limits::default());
        assert_eq!((0..200).filter(|_| allowances.charge_direct_conversation(&user(1)).is_ok()).count(), 100);
        assert_eq!(allowances.charge_direct_conversation(&user(1)), Err(Refusal::rate_limited(3_000)));
        assert_eq!(allowances.charge_direct_conversation(&user(2)), Ok(()));
        tokio::time::advance(MINUTE).await;
        assert_eq!((0..200).filter(|_| allowances.charge_direct_conversation(&user(1)).is_ok()).count(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn rooms_that_a_user_creates_are_limited_per_day() {
        let allowances = Allowances::new(&Limits { rooms: 10, ..Limits::default() });
        assert_eq!((0..20).filter(|_| allowances.charge_room(&user(1))).count(), 10);
        tokio::time::advance(DAY).await;
        assert_eq!((0..20).filter(|_| allowances.charge_room(&user(1))).count(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deletion_uses_the_allowance_for_the_edits_it_erases() {
        let allowances = Allowances::new(&Limits::default());
        assert_eq!(allowances.charge_erasures(&user(1), 500, 0), Ok(()));
        assert_eq!(allowances.charge_erasures(&user(1), 0, 0), Ok(()), "a message that was never edited");
        assert_eq!(allowances.charge_erasures(&user(1), 500, 0), Err(Refusal::rate_limited(5_000)));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(allowances.charge_erasures(&user(1), 500, 0), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn fifty_reactions_that_a_deletion_erases_count_as_an_edit() {
        let allowances = Allowances::new(&Limits::default());
        assert_eq!(allowances.charge_erasures(&user(1), 479, 1_001), Ok(()), "500 at once");
        assert_eq!(allowances.charge_erasures(&user(1), 0, 1), Err(Refusal::rate_limited(10)));
    }

    #[test]
    fn without_configured_rates_nothing_is_limited() {
        let allowances = Allowances::new(&Limits::default().without_rates());
        assert!(
            (0..10_000).all(|_| allowances.charge_room(&user(1))
                && allowances.charge_direct_conversation(&user(1)).is_ok())
        );
        assert_eq!(allowances.charge_erasures(&user(1), 1_000_000, 1_000_000), Ok(()));
    }
}
