//! Rate limits of connections, users and API keys.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use switchboard_protocol::{ConversationId, Limits, UserId};
use tokio::time::Instant;

use switchboard_store::bucket::{Bucket, Buckets, Rate};
use switchboard_store::profile::PeopleQuery;
use switchboard_store::refusal::Refusal;

/// The capacity of a bucket, in seconds of its rate. A client that reconnects sends several commands at once.
const BURST_SECONDS: u32 = 5;

/// How often the buckets of inactive users are dropped.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The shortest time between two `typing` signals of a user in a conversation. A signal is valid for 5 s, so a repeat within a
/// second adds nothing, but costs a copy for every member.
const TYPING_INTERVAL: Duration = Duration::from_secs(1);

/// The payer whose rate a command counts against.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum RateOwner {
    /// A user, over a connection or by a token.
    User(UserId),
    /// A back end, by the hash of its API key. It acts for many users, so the rate of one user does not apply.
    Key([u8; 32]),
    /// The server itself, or a client of a `dev` server that needs no token.
    Nobody,
}

/// The rates of each connection; `None` for no limit.
#[derive(Debug)]
pub(crate) struct ConnectionRates {
    sends: Option<Rate>,
    frames: Option<Rate>,
}

/// The buckets of one connection.
#[derive(Debug)]
pub(crate) struct ConnectionLimiter {
    sends: Bucket,
    frames: Bucket,
}

impl ConnectionLimiter {
    /// Makes full buckets.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self { sends: Bucket::full(now), frames: Bucket::full(now) }
    }

    /// Counts a frame of any kind, or refuses it if it exceeds the connection's rate.
    pub(crate) fn check_frame(&mut self, rates: &ConnectionRates) -> Result<(), Refusal> {
        check(&mut self.frames, rates.frames)
    }

    /// Counts a command that stores, or refuses it if it exceeds the connection's rate.
    pub(crate) fn check_send(&mut self, rates: &ConnectionRates) -> Result<(), Refusal> {
        check(&mut self.sends, rates.sends)
    }
}

fn check(bucket: &mut Bucket, rate: Option<Rate>) -> Result<(), Refusal> {
    rate.map_or(Ok(()), |rate| bucket.take_tokens(rate, 1)).map_err(Refusal::too_fast)
}

/// The buckets of all users and API keys.
#[derive(Debug)]
pub(crate) struct Limiter {
    connections: ConnectionRates,
    sends_by_user: Option<Buckets<UserId>>,
    /// Limits `typing` commands. They are separate from `sends`, so that a user who exceeds this rate can still send.
    typing_by_user: Option<Buckets<UserId>>,
    /// Limits `read` and `received` commands. They are separate, because a client sends them when other users send messages.
    cursors_by_user: Option<Buckets<UserId>>,
    /// Limits how many users `watch` commands name.
    watched_by_user: Option<Buckets<UserId>>,
    /// Limits all writes and signals of back ends.
    sends_by_key: Option<Buckets<[u8; 32]>>,
    /// Limits the writes of back ends whose keys have a rate of their own.
    own_rates: KeyRateBuckets,
    /// Limits repeated `typing` signals of a user in a conversation. This applies even if `limits` has no rate for them.
    typing_signals: Buckets<(UserId, ConversationId)>,
    /// Limits changes of a user's own profile; `None` if there are no rates.
    own_profiles: Option<Buckets<UserId>>,
    /// Limits searches for users.
    finds_by_user: Option<Buckets<UserId>>,
}

impl Limiter {
    pub(crate) fn new(limits: &Limits) -> Self {
        let users = || Rate::per_second(limits.sends_per_user, BURST_SECONDS).map(Buckets::new);
        // A server without rates for users is for load tools and developers.
        let has_rates = limits.sends_per_user > 0;
        let per_connection = |rate| Rate::per_second(rate, BURST_SECONDS);
        Self {
            connections: ConnectionRates {
                sends: per_connection(limits.sends_per_connection),
                frames: per_connection(limits.frames_per_connection),
            },
            sends_by_user: users(),
            typing_by_user: users(),
            cursors_by_user: Rate::per_second(limits.cursors_per_user, BURST_SECONDS).map(Buckets::new),
            watched_by_user: Rate::per_second(limits.watched_per_user, BURST_SECONDS).map(Buckets::new),
            own_rates: KeyRateBuckets::default(),
            sends_by_key: Rate::per_second(limits.sends_per_key, BURST_SECONDS).map(Buckets::new),
            typing_signals: Buckets::new(Rate::new(TYPING_INTERVAL, 1)),
            own_profiles: has_rates.then(|| {
                let interval = Duration::from_millis(Limits::OWN_PROFILE_INTERVAL_MS);
                Buckets::new(Rate::new(interval, Limits::OWN_PROFILE_BURST))
            }),
            finds_by_user: has_rates.then(|| {
                let interval = Duration::from_secs(1) / Limits::FINDS_PER_USER;
                Buckets::new(Rate::new(interval, Limits::FIND_USERS_BURST))
            }),
        }
    }

    /// The rates of each connection.
    pub(crate) fn connection_rates(&self) -> &ConnectionRates {
        &self.connections
    }

    /// Counts a command that stores, which costs `price` sends, over the WebSocket or HTTP.
    /// `own_rate` is that of the API key, if it has one: writes a second.
    pub(crate) fn check_send(
        &self,
        payer: &RateOwner,
        own_rate: Option<u32>,
        price: u32,
    ) -> Result<(), Refusal> {
        match payer {
            RateOwner::User(user) => take_tokens(self.sends_by_user.as_ref(), user, price),
            RateOwner::Key(key) => match own_rate.and_then(|rate| Rate::per_second(rate, BURST_SECONDS)) {
                Some(rate) => self.own_rates.take_tokens(*key, rate, price),
                None => take_tokens(self.sends_by_key.as_ref(), key, price),
            },
            RateOwner::Nobody => Ok(()),
        }
    }

    /// Counts a `typing` command over the WebSocket or HTTP.
    pub(crate) fn check_typing(&self, payer: &RateOwner) -> Result<(), Refusal> {
        match payer {
            RateOwner::User(user) => take_tokens(self.typing_by_user.as_ref(), user, 1),
            RateOwner::Key(key) => take_tokens(self.sends_by_key.as_ref(), key, 1),
            RateOwner::Nobody => Ok(()),
        }
    }

    /// Counts a cursor command over the WebSocket or HTTP.
    pub(crate) fn check_cursor(&self, payer: &RateOwner) -> Result<(), Refusal> {
        match payer {
            RateOwner::User(user) => take_tokens(self.cursors_by_user.as_ref(), user, 1),
            RateOwner::Key(key) => take_tokens(self.sends_by_key.as_ref(), key, 1),
            RateOwner::Nobody => Ok(()),
        }
    }

    /// Counts the users whom one of `user`'s connections names in a `watch`.
    pub(crate) fn check_watch(&self, user: &UserId, named: usize) -> Result<(), Refusal> {
        take_tokens(self.watched_by_user.as_ref(), user, u32::try_from(named).unwrap_or(u32::MAX))
    }

    /// Counts a change of a user's own profile.
    pub(crate) fn check_profile(&self, user: &UserId) -> Result<(), Refusal> {
        take_tokens(self.own_profiles.as_ref(), user, 1)
    }

    /// Counts a search for users, or the users whose profiles are asked for.
    pub(crate) fn check_people(&self, payer: &RateOwner, query: &PeopleQuery) -> Result<(), Refusal> {
        match (payer, query) {
            (RateOwner::User(user), PeopleQuery::Users(users)) => self.check_watch(user, users.len()),
            (RateOwner::User(user), PeopleQuery::Find { .. }) => {
                take_tokens(self.finds_by_user.as_ref(), user, 1)
            }
            (RateOwner::Key(key), _) => take_tokens(self.sends_by_key.as_ref(), key, 1),
            (RateOwner::Nobody, _) => Ok(()),
        }
    }

    /// Whether to signal that `user` is typing. `false` if a signal was sent less than [`TYPING_INTERVAL`] ago.
    pub(crate) fn is_new_typing(&self, user: &UserId, conversation: &ConversationId) -> bool {
        self.typing_signals.take_tokens(&(user.clone(), conversation.clone()), 1).is_ok()
    }

    /// Drops the buckets that are full again, because a new bucket would be the same.
    pub(crate) fn sweep(&self) {
        let by_user = [
            &self.sends_by_user,
            &self.typing_by_user,
            &self.cursors_by_user,
            &self.watched_by_user,
            &self.own_profiles,
            &self.finds_by_user,
        ];
        for users in by_user.into_iter().flatten() {
            users.sweep();
        }
        if let Some(keys) = &self.sends_by_key {
            keys.sweep();
        }
        self.typing_signals.sweep();
    }
}

/// The buckets of API keys that have a rate of their own: one for each such key that was used.
#[derive(Debug, Default)]
struct KeyRateBuckets(Mutex<FxHashMap<[u8; 32], Bucket>>);

impl KeyRateBuckets {
    fn take_tokens(&self, key: [u8; 32], rate: Rate, price: u32) -> Result<(), Refusal> {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(key).or_insert_with(|| Bucket::full(Instant::now()));
        bucket.take_tokens(rate, price).map_err(Refusal::too_fast)
    }
}

fn take_tokens<K: std::hash::Hash + Eq + Clone>(
    buckets: Option<&Buckets<K>>,
    key: &K,
    price: u32,
) -> Result<(), Refusal> {
    buckets.map_or(Ok(()), |buckets| buckets.take_tokens(key, price)).map_err(Refusal::too_fast)
}

#[cfg(test)]
mod tests {
    use super::*;
    use switchboard_protocol::ErrorCode;

    fn alice() -> RateOwner {
        RateOwner::User(UserId::parse("alice").expect("id"))
    }

    #[tokio::test(start_paused = true)]
    async fn commands_after_a_full_burst_are_refused_with_the_time_to_wait() {
        let limits = Limits { sends_per_connection: 2, ..Limits::default() };
        let (limiter, mut connection) = (Limiter::new(&limits), ConnectionLimiter::new());
        let check = |_| connection.check_send(limiter.connection_rates()).err();
        let refused: Vec<_> = (0..11).filter_map(check).collect();
        assert_eq!(refused.len(), 1, "2 a second, 5 seconds' worth at once");
        assert_eq!(refused[0].code, ErrorCode::RateLimited);
        assert_eq!(refused[0].retry_after, Some(500));
    }

    #[test]
    fn zero_is_no_limit() {
        let limiter = Limiter::new(&Limits::default().without_rates());
        assert!((0..10_000).all(|_| limiter.check_send(&alice(), None, 1_001).is_ok()));
        assert!((0..10_000).all(|_| limiter.check_send(&RateOwner::Key([1; 32]), None, 1_001).is_ok()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_has_a_rate_of_its_own() {
        let limits = Limits { sends_per_key: 10, sends_per_user: 1, ..Limits::default() };
        let limiter = Limiter::new(&limits);
        let stored =
            |payer: &RateOwner| (0..100).filter(|_| limiter.check_send(payer, None, 1).is_ok()).count();
        assert_eq!(stored(&alice()), 5);
        assert_eq!(stored(&RateOwner::Key([1; 32])), 50);
        assert_eq!(stored(&RateOwner::Key([2; 32])), 50, "another key");
        assert_eq!(stored(&RateOwner::Nobody), 100);
    }
}
