//! Token buckets that can go into debt: the generic cell rate algorithm (GCRA).
//!
//! A bucket is stored as the instant at which it will be full again. Taking tokens moves that instant into the future; a
//! bucket whose instant has passed is full. The time is tokio's, which tests can pause.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hash};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How many locks the buckets of all keys are spread over. A sweep holds one of them at a time, so it blocks few keys.
const SHARD_COUNT: usize = 16;

/// How fast a bucket refills, and how many tokens a full bucket has.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// The time in which one token is refilled.
    interval: Duration,
    burst: u32,
}

impl Rate {
    /// A rate of one token each `interval`, with `burst` tokens in a full bucket.
    pub const fn new(interval: Duration, burst: u32) -> Self {
        Self { interval, burst }
    }

    /// A rate of `rate` tokens a second, with `seconds` seconds' worth in a full bucket; `None` for a rate of 0.
    pub fn per_second(rate: u32, seconds: u32) -> Option<Self> {
        let interval = Duration::from_secs(1).checked_div(rate)?;
        Some(Self::new(interval, rate.saturating_mul(seconds)))
    }

    /// Takes `price` tokens, or returns how long to wait. A price above the burst takes a full bucket and leaves a debt:
    /// the bucket stays empty until the rest is refilled as well.
    fn take_tokens(self, full_at: &mut Instant, price: u32, now: Instant) -> Result<(), Duration> {
        let missing = full_at.saturating_duration_since(now);
        let needed = self.interval * price.min(self.burst);
        let wait = (missing + needed).saturating_sub(self.interval * self.burst);
        if !wait.is_zero() {
            return Err(wait);
        }
        *full_at = now.max(*full_at) + self.interval * price;
        Ok(())
    }
}

/// A token bucket without its rate. The owner keeps the rate, because many buckets have the same one.
#[derive(Debug)]
pub struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// Makes a full bucket.
    pub fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes `price` tokens, or returns how long to wait.
    pub fn take_tokens(&mut self, rate: Rate, price: u32) -> Result<(), Duration> {
        rate.take_tokens(&mut self.full_at, price, Instant::now())
    }
}

type Shard<K> = Mutex<HashMap<K, Instant>>;

/// Buckets by key, all of one rate. A key without an entry has a full bucket.
#[derive(Debug)]
pub struct Buckets<K> {
    rate: Rate,
    shards: [Shard<K>; SHARD_COUNT],
    hasher: RandomState,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    /// Makes full buckets with this rate.
    pub fn new(rate: Rate) -> Self {
        Self { rate, shards: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }

    /// Takes `price` tokens from the bucket of `key`, or returns how long to wait.
    pub fn take_tokens(&self, key: &K, price: u32) -> Result<(), Duration> {
        let now = Instant::now();
        let mut shard = self.shard(key);
        if let Some(full_at) = shard.get_mut(key) {
            return self.rate.take_tokens(full_at, price, now);
        }
        let mut full_at = now;
        self.rate.take_tokens(&mut full_at, price, now)?;
        shard.insert(key.clone(), full_at);
        Ok(())
    }

    /// Drops the buckets that are full again.
    pub fn sweep(&self) {
        let now = Instant::now();
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.retain(|_, full_at| *full_at > now);
            shard.shrink_to_fit();
        }
    }

    fn shard(&self, key: &K) -> MutexGuard<'_, HashMap<K, Instant>> {
        let at = self.hasher.hash_one(key) % SHARD_COUNT as u64;
        lock(&self.shards[usize::try_from(at).unwrap_or(0)])
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock is safe to use, because no code panics while it holds the lock.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MS: Duration = Duration::from_millis(1);

    /// A function that takes tokens from a bucket, which begins with five seconds' worth.
    fn bucket(rate: u32) -> impl FnMut(u32) -> Result<(), Duration> {
        let (mut bucket, rate) = (Bucket::full(Instant::now()), Rate::per_second(rate, 5).expect("a rate"));
        move |price| bucket.take_tokens(rate, price)
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_allowed_and_one_token_comes_back_each_interval() {
        let mut take = bucket(2);
        assert!((0..10).all(|_| take(1).is_ok()), "5 seconds' worth at once");
        assert_eq!(take(1), Err(SECOND / 2));
        assert_eq!(take(1), Err(SECOND / 2), "a refusal costs nothing");
        tokio::time::advance(SECOND / 2 - MS).await;
        assert_eq!(take(1), Err(MS));
        tokio::time::advance(MS).await;
        assert_eq!(take(1), Ok(()));
        assert_eq!(take(1), Err(SECOND / 2));
        tokio::time::advance(60 * SECOND).await;
        assert!((0..10).all(|_| take(1).is_ok()), "it is full and no more");
        assert_eq!(take(1), Err(SECOND / 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_price_within_the_burst_needs_that_many_tokens() {
        let mut take = bucket(10);
        assert_eq!(take(30), Ok(()));
        assert_eq!(take(30), Err(SECOND), "20 tokens are left");
        assert_eq!(take(20), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_price_above_the_burst_takes_a_full_bucket_and_leaves_a_debt() {
        let mut take = bucket(50);
        assert_eq!(take(1), Ok(()));
        assert_eq!(take(1_001), Err(20 * MS), "one of 250 tokens is missing");
        tokio::time::advance(20 * MS).await;
        assert_eq!(take(1_001), Ok(()));
        assert_eq!(take(1), Err(752 * 20 * MS), "751 tokens of debt and one to take");
        tokio::time::advance(751 * 20 * MS).await;
        assert_eq!(take(1), Err(20 * MS));
        assert_eq!(take(1_001), Err(5 * SECOND), "the next of the kind waits for a full bucket");
        tokio::time::advance(20 * MS).await;
        assert_eq!(take(1), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn keys_have_buckets_of_their_own_and_full_ones_are_dropped() {
        let buckets = Buckets::new(Rate::per_second(1, 5).expect("a rate"));
        assert_eq!(buckets.take_tokens(&"alice", 5), Ok(()));
        assert_eq!(buckets.take_tokens(&"alice", 1), Err(SECOND));
        assert_eq!(buckets.take_tokens(&"bob", 1), Ok(()));
        tokio::time::advance(SECOND).await;
        buckets.sweep();
        assert_eq!(buckets.len(), 1, "bob's is full");
        assert_eq!(buckets.take_tokens(&"alice", 2), Err(SECOND));
        tokio::time::advance(4 * SECOND).await;
        buckets.sweep();
        assert_eq!(buckets.len(), 0);
    }

    #[test]
    fn a_rate_of_zero_means_no_limit() {
        assert!(Rate::per_second(0, 5).is_none());
    }
}
