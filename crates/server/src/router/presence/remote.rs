//! Who is online on other nodes: soft state, kept only of those whom somebody here watches.
//!
//! A node tells when a user comes or goes there, to the nodes on which somebody watches them and to no other. It says now and
//! then that it lives; one that says nothing for as long as a lease counts as dead, and its users as gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use switchboard_protocol::{Timestamp, UserId};
use tokio::time::Instant;
use tokio_util::time::{DelayQueue, delay_queue};

use super::Presence;
use super::lookups::Lookup;
use crate::bus::{Address, Bus, NodeId, Notice};
use crate::router::registry::Registry;
use crate::router::registry::SessionSlot;
use switchboard_store::record::ConversationKey;

/// How long other nodes may take to say that they have a user, before a watcher is told that nobody has.
const PATIENCE: Duration = Duration::from_millis(300);

/// What is known of other nodes' users.
#[derive(Debug)]
pub(super) struct Elsewhere {
    pub(super) bus: Arc<dyn Bus>,
    /// The nodes that live, and when they were heard of last.
    nodes: FxHashMap<NodeId, Instant>,
    users: FxHashMap<UserId, There>,
    /// Watchers who are told how things stand once it is known.
    asked: FxHashMap<UserId, Asking>,
    patience: DelayQueue<UserId>,
    /// Changes that wait for the store to say which conversations the user is in.
    pub(super) lookups: BTreeMap<UserId, Lookup>,
    /// When [`Elsewhere::expire`] looked last.
    looked: Instant,
    /// Of the last notice about presence that this node told.
    number: u64,
}

/// What nodes have said of a user.
#[derive(Debug, Default)]
struct There {
    nodes: FxHashMap<NodeId, Said>,
}

/// What a node said last of a user. That the user went is kept, too: that they came may be heard after it, though it was said
/// before.
#[derive(Debug, Default)]
struct Said {
    online: bool,
    /// The node may have said something else since that was not heard; it has been asked again.
    doubtful: bool,
    number: u64,
}

impl There {
    fn online(&self) -> bool {
        self.nodes.values().any(|said| said.online)
    }
}

#[derive(Debug)]
struct Asking {
    ends: delay_queue::Key,
    sessions: Waiting,
}

/// Sessions that get the state once it is known.
pub(super) type Waiting = FxHashMap<SessionSlot, Looked>;

/// What the store said when a session began to watch a user: they share a conversation, unless the watcher has left it since.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looked {
    /// When the user was there last.
    pub(super) last_seen: Option<Timestamp>,
    /// How often the watcher had left a conversation by then.
    pub(super) departures: u64,
}

impl Elsewhere {
    pub(super) fn new(bus: Arc<dyn Bus>) -> Self {
        Self {
            bus,
            nodes: FxHashMap::default(),
            users: FxHashMap::default(),
            asked: FxHashMap::default(),
            patience: DelayQueue::new(),
            lookups: BTreeMap::new(),
            looked: Instant::now(),
            number: 0,
        }
    }

    pub(super) fn has(&self, user: &UserId) -> bool {
        self.users.get(user).is_some_and(There::online)
    }

    /// For a notice about presence that this node tells.
    pub(super) fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Somebody here watches a user from now on: whoever has them is asked.
    pub(super) fn listen(&mut self, user: &UserId) {
        self.bus.subscribe(Address::Watched(user.clone()));
        let ends = self.patience.insert(user.clone(), PATIENCE);
        self.asked.insert(user.clone(), Asking { ends, sessions: Waiting::default() });
    }

    /// Nobody here does any more.
    pub(super) fn ignore(&mut self, user: &UserId) {
        self.bus.unsubscribe(Address::Watched(user.clone()));
        self.users.remove(user);
        if let Some(asking) = self.asked.remove(user) {
            self.patience.try_remove(&asking.ends);
        }
    }

    pub(super) fn patience(&mut self) -> &mut DelayQueue<UserId> {
        &mut self.patience
    }

    pub(super) fn is_asked_about(&self, user: &UserId) -> bool {
        self.asked.contains_key(user)
    }

    pub(super) fn answer_later(&mut self, user: &UserId, session: SessionSlot, looked: Looked) {
        if let Some(asking) = self.asked.get_mut(user) {
            asking.sessions.insert(session, looked);
        }
    }

    /// A session watches a user no more, of whom it has not been told yet.
    pub(super) fn expects_no_answer(&mut self, user: &UserId, session: SessionSlot) {
        if let Some(asking) = self.asked.get_mut(user) {
            asking.sessions.remove(&session);
        }
    }

    /// Notes what a node says of a user; `false` if it has said something later.
    fn note(&mut self, node: NodeId, user: &UserId, online: bool, number: u64) -> bool {
        let said = self.users.entry(user.clone()).or_default().nodes.entry(node).or_default();
        let news = number > said.number || number == 0;
        if news {
            *said = Said { online, doubtful: false, number };
        }
        news
    }

    /// The nodes that have said nothing for as long as `lease`.
    fn expire(&mut self, lease: Duration) -> Vec<(NodeId, Duration)> {
        let late = self.looked.elapsed() > lease;
        self.looked = Instant::now();
        if late {
            // This node was stopped for a while; what the others said meanwhile is still to be read.
            self.nodes.values_mut().for_each(|heard| *heard = Instant::now());
        }
        let silent = self.nodes.iter().map(|(node, heard)| (*node, heard.elapsed()));
        silent.filter(|(_, silence)| *silence > lease).collect()
    }

    /// What is known of a node's users, or of those of all nodes, may be wrong. Those who do not say so again are gone.
    fn doubt(&mut self, node: Option<NodeId>) {
        for (user, there) in &mut self.users {
            let mut any = false;
            for (other, said) in &mut there.nodes {
                if said.online && node.is_none_or(|node| node == *other) {
                    said.doubtful = true;
                    any = true;
                }
            }
            if any && !self.asked.contains_key(user) {
                let ends = self.patience.insert(user.clone(), PATIENCE);
                self.asked.insert(user.clone(), Asking { ends, sessions: Waiting::default() });
            }
        }
    }

    /// Nodes that have not said again that they have a user do not have them; whether that leaves none that was believed to.
    fn resolve(&mut self, user: &UserId) -> bool {
        let Some(there) = self.users.get_mut(user) else { return false };
        let before = there.online();
        for said in there.nodes.values_mut() {
            said.online &= !std::mem::take(&mut said.doubtful);
        }
        before && !there.online()
    }

    /// Forgets a node; returns the users who were online there and nowhere else.
    fn lose(&mut self, node: NodeId) -> Vec<UserId> {
        self.nodes.remove(&node);
        let mut gone = Vec::new();
        self.users.retain(|user, there| {
            let was_there = there.nodes.remove(&node).is_some_and(|said| said.online);
            if was_there && !there.online() {
                gone.push(user.clone());
            }
            !there.nodes.is_empty()
        });
        gone
    }
}

impl Presence {
    /// A node lives. One that was believed dead, or is new, may have users whom somebody here watches.
    pub(crate) fn heard_from(&mut self, node: NodeId) {
        if let Some(elsewhere) = &mut self.elsewhere
            && elsewhere.nodes.insert(node, Instant::now()).is_none()
        {
            self.ask_again();
        }
    }

    /// Asks who has those whom somebody here watches.
    pub(crate) fn ask_again(&self) {
        self.watchers.keys().for_each(|user| self.ask(user));
    }

    /// Something may have been missed of a node, or of all of them: whom they had is asked again.
    pub(crate) fn doubt(&mut self, node: Option<NodeId>) {
        if let Some(elsewhere) = &mut self.elsewhere {
            elsewhere.doubt(node);
        }
        self.ask_again();
    }

    /// Asks who has a user.
    pub(crate) fn ask(&self, user: &UserId) {
        if let Some(elsewhere) = &self.elsewhere {
            elsewhere
                .bus
                .publish(&Address::User(user.clone()), &Notice::PresenceQuery { user: user.clone() });
        }
    }

    /// Says that a user is online here, if that is so.
    pub(crate) fn answer(&mut self, registry: &Registry, user: &UserId) {
        let local = registry.find(user).and_then(|slot| registry.user(slot));
        if let Some(local) = local.filter(|_| self.is_here(registry, user)) {
            self.tell_nodes(user, &local.conversations, None);
        }
    }

    /// Another node says that a user came or went there.
    pub(crate) fn changed_elsewhere(
        &mut self,
        registry: &Registry,
        node: NodeId,
        user: &UserId,
        last_seen: Option<Timestamp>,
        conversations: &[ConversationKey],
        number: u64,
    ) {
        let watched = self.watchers.contains_key(user);
        let here = self.is_here(registry, user);
        let Some(elsewhere) = self.elsewhere.as_mut().filter(|_| watched) else { return };
        let before = here || elsewhere.has(user);
        if !elsewhere.note(node, user, last_seen.is_none(), number) {
            return;
        }
        let after = here || elsewhere.has(user);
        if let Some(last_seen) = last_seen {
            self.departures.note(user, last_seen);
        }
        match (before, after) {
            (false, true) => self.came_online(registry, user, conversations),
            (true, false) => self.went_offline(registry, user, conversations, last_seen),
            _ => {}
        }
    }

    /// Tells the watchers of a user that the user is offline. The user's node may not have learned of a conversation that a
    /// watcher shares; then the store is asked.
    pub(super) fn went_offline(
        &mut self,
        registry: &Registry,
        user: &UserId,
        conversations: &[ConversationKey],
        last_seen: Option<Timestamp>,
    ) {
        let others = self.tell_watchers(registry, user, conversations, last_seen, &Waiting::default());
        self.look_up(user, false, last_seen, others);
    }

    /// Tells the watchers of a user that the user is online, each once: also those who wait for what other nodes answer. The
    /// user's node may not have learned of a conversation that a watcher shares; then the store is asked.
    pub(super) fn came_online(
        &mut self,
        registry: &Registry,
        user: &UserId,
        conversations: &[ConversationKey],
    ) {
        let waiting = self.stop_asking(user);
        let mut others = self.tell_watchers(registry, user, conversations, None, &waiting);
        others.extend(self.tell_waiting(registry, user, conversations, waiting));
        self.look_up(user, true, None, others);
    }

    /// Those who waited to be told how things stand.
    fn stop_asking(&mut self, user: &UserId) -> Waiting {
        let Some(elsewhere) = &mut self.elsewhere else { return Waiting::default() };
        let Some(asking) = elsewhere.asked.remove(user) else { return Waiting::default() };
        elsewhere.patience.try_remove(&asking.ends);
        asking.sessions
    }

    /// No other node has that user: whoever waited for that is told how things stand.
    pub(crate) fn give_up_asking(&mut self, registry: &Registry, user: &UserId, now: Timestamp) {
        let waiting = self.stop_asking(user);
        let gone = self.elsewhere.as_mut().is_some_and(|elsewhere| elsewhere.resolve(user));
        if gone && !self.is_here(registry, user) {
            self.note_lost(user, now);
        }
        let last_seen = waiting.values().filter_map(|looked| looked.last_seen).max();
        let online = self.is_here(registry, user) || self.is_elsewhere(user);
        let others = self.tell_waiting(registry, user, &[], waiting);
        self.look_up(user, online, last_seen, others);
    }

    /// Tells those who have just begun to watch a user how things stand. That they share a conversation was looked up, and the
    /// user's node may not have learned of it yet; only a watcher who has left one since must share one of those that it names.
    /// The sessions that are not told because they do not.
    fn tell_waiting(
        &self,
        registry: &Registry,
        user: &UserId,
        conversations: &[ConversationKey],
        waiting: Waiting,
    ) -> BTreeSet<SessionSlot> {
        let mut others = BTreeSet::new();
        for (session, looked) in waiting {
            let Some(watcher) = registry.session(session).map(|local| local.user) else { continue };
            let departures = registry.user(watcher).map(|local| local.departures);
            if departures == Some(looked.departures) || registry.share(conversations, watcher) {
                self.tell_state(registry, session, user.clone(), looked.last_seen);
            } else {
                others.insert(session);
            }
        }
        others
    }

    /// Nodes that have said nothing for as long as a lease are dead, and their users gone.
    pub(crate) fn expire_nodes(&mut self, registry: &Registry, lease: Duration, now: Timestamp) {
        let silent = self.elsewhere.as_mut().map(|elsewhere| elsewhere.expire(lease)).unwrap_or_default();
        for (node, silence) in silent {
            let silence = i64::try_from(silence.as_millis()).unwrap_or(i64::MAX);
            let heard = Timestamp::from_millis(now.as_millis().saturating_sub(silence));
            tracing::warn!(
                ?node,
                "another node has said nothing for as long as a lease; its users count as gone"
            );
            self.lost(registry, node, heard);
        }
    }

    /// A node's users are gone since `at`.
    pub(crate) fn lost(&mut self, registry: &Registry, node: NodeId, at: Timestamp) {
        let lost = self.elsewhere.as_mut().map(|elsewhere| elsewhere.lose(node)).unwrap_or_default();
        for user in lost {
            if !self.is_here(registry, &user) {
                self.note_lost(&user, at);
            }
        }
    }

    /// Notes that a user whom a node had is gone. Only that node knew which conversations they are in, so the store is asked.
    fn note_lost(&mut self, user: &UserId, at: Timestamp) {
        self.departures.note(user, at);
        let watchers = self.watchers.get(user).into_iter().flat_map(|watchers| watchers.iter().copied());
        self.look_up(user, false, Some(at), watchers.collect());
    }
}
