//! Presence: which users are online, and which sessions are notified of that. Presence never decides whether anything is stored.
//!
//! A user is online while any of their devices is connected, and for a grace period after, so that reloading a page does not
//! show its user as offline.
//!
//! # How a user goes offline
//! 1. The user's last session ends (`attach.rs`), and [`Presence::start_grace_period`] starts the grace period. A new session cancels it.
//! 2. The grace period ends: [`ExpiredTimer::GracePeriod`]. `departures.rs` begins to remove the user from the registry. If a session of the
//!    user was live, [`Presence::publish_departure`] publishes a notice to the nodes on which a session watches the user. Watchers
//!    here that share a conversation get a signal, unless another node has the user online. The store keeps when that was.
//! 3. Other nodes apply the notice. They also take the users of a dead node offline (`remote.rs`).
//!
//! *Departure* means: a user goes offline (`MAX_QUEUED_DEPARTURES`, `departures_in_flight`); when that was, until the store has it ([`Departures`]);
//! and in the counts `departures` of a user ([`Known`], `LocalUser`), a user leaves a conversation.

mod lookups;
mod remote;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use switchboard_protocol::{Signal, Timestamp, UserId};
use tokio::time::Instant;
use tokio_util::time::{DelayQueue, delay_queue};

pub(super) use self::lookups::Lookup;
use self::remote::{KnownPresence, RemotePresence, WaitingWatchers};
use crate::bus::{Address, Bus, Notice};
use crate::encode::encode;
use crate::router::registry::{DepartedUser, Registry, SessionSlot, UserSlot, VecSet};
use crate::timers::next_expired;
use switchboard_store::PresencePeer;
use switchboard_store::record::ConversationKey;

/// The presence of the users who are connected to this node, and the sessions that watch users.
#[derive(Debug)]
pub(crate) struct Presence {
    grace: Duration,
    local_users: FxHashMap<UserSlot, LocalPresence>,
    /// The timers of the grace periods.
    grace_timers: DelayQueue<UserSlot>,
    watchers: FxHashMap<UserId, VecSet<SessionSlot>>,
    departures: Departures,
    /// The watched users who are online on other nodes; `None` on a single node.
    remote: Option<RemotePresence>,
}

/// What a presence notice of another node says about a user.
#[derive(Debug)]
pub(in crate::router) struct RemoteChange {
    /// When the user went offline; `None` for a user who came online.
    pub(in crate::router) last_seen: Option<Timestamp>,
    /// Some of the user's conversations.
    pub(in crate::router) conversations: Vec<ConversationKey>,
    /// The number of the notice.
    pub(in crate::router) number: u64,
    /// The users who do not get the user's presence.
    pub(in crate::router) hidden_from: Vec<UserId>,
}

/// A timer that has expired.
#[derive(Debug)]
pub(crate) enum ExpiredTimer {
    /// The grace period of this user has ended.
    GracePeriod(UserSlot),
    /// The presence query about this user to the other nodes has timed out.
    PresenceQuery(UserId),
}

/// The most conversations of a user that a presence notice lists. Another node compares the list with the conversations of each
/// watcher. For a watcher who shares none of them with the user, the node queries the store.
const MAX_NAMED_CONVERSATIONS: usize = 500;

/// The presence of a user on this node.
#[derive(Debug, Default)]
struct LocalPresence {
    /// Whether watchers have been notified that the user is online. That happens once a session of the user is live.
    online: bool,
    /// When the last device disconnected, and the timer of the grace period.
    grace_period: Option<(Timestamp, delay_queue::Key)>,
}

/// The times at which users went offline a short while ago. Until the write is done, the store still has an older time, so an entry
/// is kept longer than a write and a read take. The entries are in two generations; the older one is dropped as a whole.
#[derive(Debug)]
struct Departures {
    current: FxHashMap<UserId, Timestamp>,
    previous: FxHashMap<UserId, Timestamp>,
    /// When the current generation began.
    since: Instant,
}

/// How long an entry is kept at least. Writes and reads wait for a second or two at most. If the store fails, it keeps the earlier
/// time.
const DEPARTURE_RETENTION: Duration = Duration::from_secs(60);

impl Departures {
    fn record(&mut self, user: &UserId, at: Timestamp) {
        if self.since.elapsed() >= DEPARTURE_RETENTION {
            self.previous = std::mem::take(&mut self.current);
            self.since = Instant::now();
        }
        self.current.insert(user.clone(), at);
    }

    fn last_departure(&self, user: &UserId) -> Option<Timestamp> {
        self.current.get(user).or_else(|| self.previous.get(user)).copied()
    }
}

impl Presence {
    /// A user counts as online for `grace` after the last connection has closed. `bus` connects this node to others.
    pub(crate) fn new(grace: Duration, bus: Option<Arc<dyn Bus>>) -> Self {
        Self {
            grace,
            local_users: FxHashMap::default(),
            grace_timers: DelayQueue::new(),
            watchers: FxHashMap::default(),
            departures: Departures {
                current: FxHashMap::default(),
                previous: FxHashMap::default(),
                since: Instant::now(),
            },
            remote: bus.map(RemotePresence::new),
        }
    }

    /// Cancels the grace period of a user who connects again.
    pub(crate) fn cancel_grace_period(&mut self, user: UserSlot) {
        if let Some((_, grace)) = self.local_users.entry(user).or_default().grace_period.take() {
            self.grace_timers.remove(&grace);
        }
    }

    /// Called when a session of a user becomes live. The first session brings the user online. Returns the user if it does.
    pub(crate) fn session_became_live<'r>(
        &mut self,
        registry: &'r Registry,
        user: UserSlot,
    ) -> Option<&'r UserId> {
        let presence = self.local_users.entry(user).or_default();
        if std::mem::replace(&mut presence.online, true) {
            return None;
        }
        let local = registry.user(user)?;
        self.publish_change(registry, &local.name, &local.conversations, None);
        if !self.is_remote(&local.name) {
            self.send_online(registry, &local.name, &local.conversations);
        }
        Some(&local.name)
    }

    /// The users who are online on this node.
    pub(crate) fn local_users(&self, registry: &Registry) -> Vec<UserId> {
        let online = self.local_users.iter().filter(|(_, presence)| presence.online);
        online.filter_map(|(user, _)| registry.user(*user)).map(|user| user.name.clone()).collect()
    }

    /// Publishes to the nodes of a user's watchers that the user came online here (`last_seen` is `None`) or went offline.
    fn publish_change(
        &mut self,
        registry: &Registry,
        user: &UserId,
        conversations: &[ConversationKey],
        last_seen: Option<Timestamp>,
    ) {
        let Some(remote) = &mut self.remote else { return };
        let conversations = conversations.iter().copied().take(MAX_NAMED_CONVERSATIONS).collect();
        let (number, hidden_from) = (remote.next_number(), registry.blocked_by(user));
        let notice = Notice::Presence { user: user.clone(), last_seen, conversations, number, hidden_from };
        remote.bus.publish(&Address::Watched(user.clone()), &notice);
    }

    /// Whether a user is online on another node.
    fn is_remote(&self, user: &UserId) -> bool {
        self.remote.as_ref().is_some_and(|remote| remote.is_online(user))
    }

    /// Whether a user is online on this node.
    fn is_local(&self, registry: &Registry, user: &UserId) -> bool {
        registry
            .find_user(user)
            .and_then(|slot| self.local_users.get(&slot))
            .is_some_and(|presence| presence.online)
    }

    fn is_online(&self, registry: &Registry, user: &UserId) -> bool {
        self.is_local(registry, user) || self.is_remote(user)
    }

    /// Starts the grace period of a user whose last device disconnected at `at`.
    pub(crate) fn start_grace_period(&mut self, user: UserSlot, at: Timestamp) {
        let grace = self.grace_timers.insert(user, self.grace);
        self.local_users.entry(user).or_default().grace_period = Some((at, grace));
    }

    /// Waits for the next timer, for ever if there is none. If `departures` is false, grace periods do not end.
    pub(crate) async fn next_timer(&mut self, departures: bool) -> ExpiredTimer {
        let unanswered = async {
            match &mut self.remote {
                Some(remote) => next_expired(remote.query_timeouts()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            user = next_expired(&mut self.grace_timers), if departures => ExpiredTimer::GracePeriod(user),
            user = unanswered => ExpiredTimer::PresenceQuery(user),
        }
    }

    /// Removes a user who has disconnected. Returns when the user was last seen, if they were online.
    pub(crate) fn remove_departed(&mut self, user: UserSlot) -> Option<Timestamp> {
        let presence = self.local_users.remove(&user)?;
        let (at, grace) = presence.grace_period?;
        self.grace_timers.try_remove(&grace);
        presence.online.then_some(at)
    }

    /// Frees memory after the number of users and watchers has fallen.
    pub(crate) fn shrink(&mut self) {
        self.local_users.shrink_to_fit();
        self.grace_timers.shrink_to_fit();
        self.watchers.shrink_to_fit();
    }

    /// Publishes that a user went offline, to other nodes and to the watchers on this node that share a conversation with the user.
    pub(crate) fn publish_departure(
        &mut self,
        registry: &Registry,
        gone: &DepartedUser,
        last_seen: Timestamp,
    ) {
        self.departures.record(&gone.name, last_seen);
        self.publish_change(registry, &gone.name, &gone.conversations, Some(last_seen));
        if !self.is_remote(&gone.name) {
            self.send_offline(registry, &gone.name, &gone.conversations, Some(last_seen));
        }
    }

    /// Sends the presence of a user to the watchers that are in one of `conversations`, except the sessions in `waiting`, which
    /// wait for other nodes' answers. Returns the watchers that are in none of the conversations.
    fn send_to_watchers(
        &self,
        registry: &Registry,
        user: &UserId,
        conversations: &[ConversationKey],
        last_seen: Option<Timestamp>,
        waiting: &WaitingWatchers,
    ) -> BTreeSet<SessionSlot> {
        let mut others = BTreeSet::new();
        let Some(watchers) = self.watchers.get(user) else { return others };
        let signal = Signal::Presence { user: user.clone(), online: last_seen.is_none(), last_seen };
        let frame = encode(&signal);
        for slot in watchers.iter().filter(|watcher| !waiting.contains_key(*watcher)) {
            let Some(session) = registry.session(*slot) else { continue };
            if self.are_apart(registry, session.user, user) {
                continue;
            }
            let own = registry.find_user(user) == Some(session.user);
            if own || registry.shares_conversation(conversations, session.user) {
                session.outbox.push_signal(&frame);
            } else {
                others.insert(*slot);
            }
        }
        others
    }

    /// Replaces the list of users that a session watches, and sends it their presence. Only users who were not on the list before
    /// cause a subscription and a query.
    pub(crate) fn watch(&mut self, registry: &mut Registry, session: SessionSlot, users: Vec<PresencePeer>) {
        let Some(local) = registry.session_mut(session) else { return };
        let watcher = local.user;
        let names: Box<[_]> = users.iter().map(|user| user.user.clone()).collect();
        let before = std::mem::replace(&mut local.watching, names.clone());
        let kept: FxHashSet<&UserId> = names.iter().collect();
        let (stay, go): (Vec<_>, Vec<_>) = before.iter().cloned().partition(|user| kept.contains(user));
        self.unwatch(session, &go);
        let stay: FxHashSet<UserId> = stay.into_iter().collect();
        let departures = registry.user(watcher).map_or(0, |local| local.leave_count);
        for PresencePeer { user, last_seen } in users {
            let watchers = self.watchers.entry(user.clone()).or_default();
            let first = watchers.is_empty();
            if !stay.contains(&user) {
                watchers.insert(session);
            }
            let local = self.is_local(registry, &user);
            if let Some(remote) = &mut self.remote {
                if first {
                    remote.subscribe(&user);
                }
                if !local && remote.is_query_pending(&user) {
                    remote.wait_for_answer(&user, session, KnownPresence { last_seen, departures });
                    continue;
                }
            }
            self.send_state(registry, session, user, last_seen);
        }
    }

    /// Sends the current presence of a user to a session.
    fn send_state(
        &self,
        registry: &Registry,
        session: SessionSlot,
        user: UserId,
        last_seen: Option<Timestamp>,
    ) {
        let Some(local) = registry.session(session) else { return };
        if self.are_apart(registry, local.user, &user) {
            return;
        }
        let online = self.is_online(registry, &user);
        let last_seen = last_seen.max(self.departures.last_departure(&user)).filter(|_| !online);
        let signal = Signal::Presence { user, online, last_seen };
        local.outbox.push_signal(&encode(&signal));
    }

    /// Whether a watcher does not get the presence of a user, because one of the two blocks the other.
    fn are_apart(&self, registry: &Registry, watcher: UserSlot, user: &UserId) -> bool {
        let hidden_from = self.remote.as_ref().map_or(&[][..], |remote| remote.hidden_from(user));
        registry.are_apart(watcher, user, hidden_from)
    }

    /// Publishes to other nodes who does not get the presence of a user from now on.
    pub(crate) fn blocks_changed(&mut self, registry: &Registry, user: UserSlot) {
        let is_online = self.local_users.get(&user).is_some_and(|presence| presence.online);
        if let Some(local) = registry.user(user).filter(|_| is_online) {
            self.publish_change(registry, &local.name, &local.conversations, None);
        }
    }

    /// Removes a session from the watchers of these users.
    pub(crate) fn unwatch(&mut self, session: SessionSlot, watching: &[UserId]) {
        for user in watching {
            if let Some(watchers) = self.watchers.get_mut(user) {
                watchers.remove(session);
                let last = watchers.is_empty();
                if last {
                    self.watchers.remove(user);
                }
                match &mut self.remote {
                    Some(remote) if last => remote.unsubscribe(user),
                    Some(remote) => remote.stop_waiting(user, session),
                    None => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
