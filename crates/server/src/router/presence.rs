//! Who is online, and who is told. Presence never decides whether anything is stored.
//!
//! A user is online while any of their devices is connected, and for a short grace after: a page that
//! is reloaded does not make its user blink.

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
use self::remote::{Elsewhere, Looked, Waiting};
use crate::bus::{Address, Bus, Notice};
use crate::encode::encode;
use crate::router::registry::{Gone, Registry, SessionSlot, UserSlot, VecSet};
use crate::timers::expired;
use switchboard_store::Acquaintance;
use switchboard_store::record::ConversationKey;

/// The presence of the users who are here.
#[derive(Debug)]
pub(crate) struct Presence {
    grace: Duration,
    here: FxHashMap<UserSlot, Here>,
    graces: DelayQueue<UserSlot>,
    watchers: FxHashMap<UserId, VecSet<SessionSlot>>,
    departures: Departures,
    /// Who of those that are watched here is online on other nodes, if there are any.
    elsewhere: Option<Elsewhere>,
}

/// What is due.
#[derive(Debug)]
pub(crate) enum Due {
    /// A user's grace is over.
    Departed(UserSlot),
    /// No other node has said that it has a user.
    Unanswered(UserId),
}

/// Conversations of a user that other nodes are told of at most, to find one that a watcher shares.
const TOLD: usize = 500;

/// What is known of a user who is here.
#[derive(Debug, Default)]
struct Here {
    /// Whether watchers were told that the user is online.
    online: bool,
    /// When the last device left, and the end of the grace.
    leaving: Option<(Timestamp, delay_queue::Key)>,
}

/// Who went lately, and when. What is read from the store may be older than that, so this is kept for
/// longer than a write and a read take, in two generations: the older is dropped as a whole.
#[derive(Debug)]
struct Departures {
    current: FxHashMap<UserId, Timestamp>,
    previous: FxHashMap<UserId, Timestamp>,
    /// Since when there is the current generation.
    since: Instant,
}

/// How long a departure is remembered at least. Writes and reads wait for a second or two at most, unless the
/// store fails; then the last time before stands.
const REMEMBERED: Duration = Duration::from_secs(60);

impl Departures {
    fn note(&mut self, user: &UserId, at: Timestamp) {
        if self.since.elapsed() >= REMEMBERED {
            self.previous = std::mem::take(&mut self.current);
            self.since = Instant::now();
        }
        self.current.insert(user.clone(), at);
    }

    fn last(&self, user: &UserId) -> Option<Timestamp> {
        self.current.get(user).or_else(|| self.previous.get(user)).copied()
    }
}

impl Presence {
    /// A user without a connection still counts as online for as long as `grace`. `bus` is the way to other nodes.
    pub(crate) fn new(grace: Duration, bus: Option<Arc<dyn Bus>>) -> Self {
        Self {
            grace,
            here: FxHashMap::default(),
            graces: DelayQueue::new(),
            watchers: FxHashMap::default(),
            departures: Departures {
                current: FxHashMap::default(),
                previous: FxHashMap::default(),
                since: Instant::now(),
            },
            elsewhere: bus.map(Elsewhere::new),
        }
    }

    /// A device of the user connects: they are not leaving after all.
    pub(crate) fn returned(&mut self, user: UserSlot) {
        if let Some((_, grace)) = self.here.entry(user).or_default().leaving.take() {
            self.graces.remove(&grace);
        }
    }

    /// A device of the user is live.
    pub(crate) fn arrived(&mut self, registry: &Registry, user: UserSlot) {
        let here = self.here.entry(user).or_default();
        if !std::mem::replace(&mut here.online, true)
            && let Some(local) = registry.user(user)
        {
            self.tell_nodes(&local.name, &local.conversations, None);
            if !self.is_elsewhere(&local.name) {
                self.came_online(registry, &local.name, &local.conversations);
            }
        }
    }

    /// Tells the nodes of a user's watchers that they came or went here.
    fn tell_nodes(&mut self, user: &UserId, conversations: &[ConversationKey], last_seen: Option<Timestamp>) {
        let Some(elsewhere) = &mut self.elsewhere else { return };
        let conversations = conversations.iter().copied().take(TOLD).collect();
        let number = elsewhere.next_number();
        let notice = Notice::Presence { user: user.clone(), last_seen, conversations, number };
        elsewhere.bus.publish(&Address::Watched(user.clone()), &notice);
    }

    fn is_elsewhere(&self, user: &UserId) -> bool {
        self.elsewhere.as_ref().is_some_and(|elsewhere| elsewhere.has(user))
    }

    fn is_here(&self, registry: &Registry, user: &UserId) -> bool {
        registry.find(user).and_then(|slot| self.here.get(&slot)).is_some_and(|here| here.online)
    }

    /// The user's last device left at `at`.
    pub(crate) fn leaving(&mut self, user: UserSlot, at: Timestamp) {
        let grace = self.graces.insert(user, self.grace);
        self.here.entry(user).or_default().leaving = Some((at, grace));
    }

    /// Waits for what is due next, forever if there is nothing; without `departures` for nobody's grace.
    pub(crate) async fn due(&mut self, departures: bool) -> Due {
        let unanswered = async {
            match &mut self.elsewhere {
                Some(elsewhere) => expired(elsewhere.patience()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            user = expired(&mut self.graces), if departures => Due::Departed(user),
            user = unanswered => Due::Unanswered(user),
        }
    }

    /// Forgets a user. For one who was online, when they were seen last.
    pub(crate) fn departed(&mut self, user: UserSlot) -> Option<Timestamp> {
        let here = self.here.remove(&user)?;
        let (at, grace) = here.leaving?;
        self.graces.try_remove(&grace);
        here.online.then_some(at)
    }

    /// Gives back what a crowd needed that has left.
    pub(crate) fn shrink(&mut self) {
        self.here.shrink_to_fit();
        self.graces.shrink_to_fit();
        self.watchers.shrink_to_fit();
    }

    /// Notes that a user went, and tells those who watch them and share a conversation with them still.
    pub(crate) fn tell_gone(&mut self, registry: &Registry, gone: &Gone, last_seen: Timestamp) {
        self.departures.note(&gone.name, last_seen);
        self.tell_nodes(&gone.name, &gone.conversations, Some(last_seen));
        if !self.is_elsewhere(&gone.name) {
            self.went_offline(registry, &gone.name, &gone.conversations, Some(last_seen));
        }
    }

    /// Tells the watchers of a user who share one of these conversations that the user came or went, except those that wait for
    /// other nodes' answers. The watchers that share none of them.
    fn tell_watchers(
        &self,
        registry: &Registry,
        user: &UserId,
        conversations: &[ConversationKey],
        last_seen: Option<Timestamp>,
        waiting: &Waiting,
    ) -> BTreeSet<SessionSlot> {
        let mut others = BTreeSet::new();
        let Some(watchers) = self.watchers.get(user) else { return others };
        let signal = Signal::Presence { user: user.clone(), online: last_seen.is_none(), last_seen };
        let frame = encode(&signal);
        for slot in watchers.iter().filter(|watcher| !waiting.contains_key(*watcher)) {
            let Some(session) = registry.session(*slot) else { continue };
            let oneself = registry.find(user) == Some(session.user);
            if oneself || registry.share(conversations, session.user) {
                session.outbox.push_signal(&frame);
            } else {
                others.insert(*slot);
            }
        }
        others
    }

    /// Sets whose presence a session is told, and tells it how things stand. Those of the list before who stay cause nothing on
    /// the bus.
    pub(crate) fn watch(&mut self, registry: &mut Registry, session: SessionSlot, users: Vec<Acquaintance>) {
        let Some(local) = registry.session_mut(session) else { return };
        let watcher = local.user;
        let names: Box<[_]> = users.iter().map(|user| user.user.clone()).collect();
        let before = std::mem::replace(&mut local.watching, names.clone());
        let kept: FxHashSet<&UserId> = names.iter().collect();
        let (stay, go): (Vec<_>, Vec<_>) = before.iter().cloned().partition(|user| kept.contains(user));
        self.unwatch(session, &go);
        let stay: FxHashSet<UserId> = stay.into_iter().collect();
        let departures = registry.user(watcher).map_or(0, |local| local.departures);
        for Acquaintance { user, last_seen } in users {
            let watchers = self.watchers.entry(user.clone()).or_default();
            let first = watchers.is_empty();
            if !stay.contains(&user) {
                watchers.insert(session);
            }
            let here = self.is_here(registry, &user);
            if let Some(elsewhere) = &mut self.elsewhere {
                if first {
                    elsewhere.listen(&user);
                }
                if !here && elsewhere.is_asked_about(&user) {
                    elsewhere.answer_later(&user, session, Looked { last_seen, departures });
                    continue;
                }
            }
            self.tell_state(registry, session, user, last_seen);
        }
    }

    /// Tells a session how things stand with a user.
    fn tell_state(
        &self,
        registry: &Registry,
        session: SessionSlot,
        user: UserId,
        last_seen: Option<Timestamp>,
    ) {
        let online = self.is_here(registry, &user) || self.is_elsewhere(&user);
        let last_seen = last_seen.max(self.departures.last(&user)).filter(|_| !online);
        let signal = Signal::Presence { user, online, last_seen };
        if let Some(local) = registry.session(session) {
            local.outbox.push_signal(&encode(&signal));
        }
    }

    /// A session watches nobody any more.
    pub(crate) fn unwatch(&mut self, session: SessionSlot, watching: &[UserId]) {
        for user in watching {
            if let Some(watchers) = self.watchers.get_mut(user) {
                watchers.remove(session);
                let last = watchers.is_empty();
                if last {
                    self.watchers.remove(user);
                }
                match &mut self.elsewhere {
                    Some(elsewhere) if last => elsewhere.ignore(user),
                    Some(elsewhere) => elsewhere.expects_no_answer(user, session),
                    None => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
