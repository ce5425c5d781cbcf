//! The router in a cluster: the bus, the shared store, and the timers.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::Router;
use super::order::Order;
use super::registry::Interest;
use super::store_reply::StoreReply;
use super::verify::Comparisons;
use crate::bus::{Address, Bus, BusEvent};
use switchboard_store::SharedLog;
use switchboard_store::record::{Answer, ConversationKey};
use switchboard_store::refusal::Refusal;

/// Notices that one turn of the router handles at most, before it handles commits and sessions again.
const MAX_NOTICES_PER_TURN: usize = 256;

/// How long a query waits after the store has failed to answer it.
const STORE_RETRY_DELAY: Duration = Duration::from_millis(250);

/// Heartbeats of a node within a lease: two of them may be lost.
const HEARTBEATS_PER_LEASE: u32 = 3;

/// What connects a router with the other nodes.
pub(crate) struct Cluster {
    /// The store that all nodes share.
    pub(crate) store: Arc<dyn SharedLog>,
    /// The bus to the other nodes.
    pub(crate) bus: Arc<dyn Bus>,
    /// What the bus delivers.
    pub(crate) events: mpsc::Receiver<BusEvent>,
    /// How often this node compares its users with the store.
    pub(crate) sweep: Duration,
    /// How long a node without a heartbeat counts as alive.
    pub(crate) lease: Duration,
}

/// The state of a router in a cluster.
pub(super) struct Peers {
    pub(super) store: Arc<dyn SharedLog>,
    pub(super) bus: Arc<dyn Bus>,
    events: mpsc::Receiver<BusEvent>,
    /// Received, and not handled yet.
    notices: Vec<BusEvent>,
    /// The bus has ended, because the server stops.
    bus_closed: bool,
    replies: FuturesUnordered<PendingReply>,
    /// Replies that may contain events which this node has stored and not published yet, by the batch to wait for.
    unpublished: BTreeMap<u64, Vec<StoreReply>>,
    pub(super) order: Order,
    /// What is to be compared with the store.
    pub(super) comparisons: Comparisons,
    /// Conversations of which events may have been missed.
    pub(super) unchecked: BTreeSet<ConversationKey>,
    /// Whether a query about the ends of conversations is pending.
    pub(super) checking: bool,
    /// Whether a query about users whose presence has changed is pending.
    pub(super) querying_presence: bool,
    sweeps: Interval,
    heartbeats: Interval,
    pub(super) lease: Duration,
}

type PendingReply = Pin<Box<dyn Future<Output = StoreReply> + Send>>;

/// An event of the cluster that the router handles next.
pub(super) enum Next {
    Received,
    StoreReply(StoreReply),
    Due(ConversationKey),
    Sweep,
    Heartbeat,
}

impl Peers {
    pub(super) fn new(cluster: Cluster) -> Self {
        let Cluster { store, bus, events, sweep, lease } = cluster;
        bus.subscribe(Address::Nodes);
        Self {
            store,
            bus,
            events,
            notices: Vec::with_capacity(MAX_NOTICES_PER_TURN),
            bus_closed: false,
            replies: FuturesUnordered::new(),
            unpublished: BTreeMap::new(),
            order: Order::default(),
            comparisons: Comparisons::default(),
            unchecked: BTreeSet::new(),
            checking: false,
            querying_presence: false,
            sweeps: every(sweep),
            heartbeats: every(lease / HEARTBEATS_PER_LEASE),
            lease,
        }
    }

    /// Waits for an answer of the store in the background. A failure comes back after a delay.
    pub(super) fn query<T: 'static>(
        &self,
        answer: Answer<T>,
        reply: impl FnOnce(Result<T, Refusal>) -> StoreReply + Send + 'static,
    ) where
        Result<T, Refusal>: Send,
    {
        self.replies.push(Box::pin(async move {
            let result = answer.await;
            if result.is_err() {
                tokio::time::sleep(STORE_RETRY_DELAY).await;
            }
            reply(result)
        }));
    }

    /// Whether no query is pending and no reply waits.
    pub(super) fn awaits_nothing(&self) -> bool {
        self.replies.is_empty() && self.unpublished.is_empty()
    }

    async fn next(&mut self) -> Next {
        loop {
            tokio::select! {
                biased;
                Some(reply) = self.replies.next() => return Next::StoreReply(reply),
                conversation = self.order.due() => return Next::Due(conversation),
                _ = self.heartbeats.tick() => return Next::Heartbeat,
                _ = self.sweeps.tick() => return Next::Sweep,
                // Last: notices may arrive without a pause, and the others make up for lost notices.
                count = self.events.recv_many(&mut self.notices, MAX_NOTICES_PER_TURN), if !self.bus_closed => match count {
                    0 => self.bus_closed = true,
                    _ => return Next::Received,
                },
            }
        }
    }
}

/// Waits for the next event of the cluster; for ever on a single node.
pub(super) async fn next(peers: Option<&mut Peers>) -> Next {
    match peers {
        Some(peers) => peers.next().await,
        None => std::future::pending().await,
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

impl Router {
    pub(super) fn handle_peer_event(&mut self, next: Next) {
        match next {
            Next::Received => {
                let notices = self.peers.as_mut().map(|peers| std::mem::take(&mut peers.notices));
                let mut notices = notices.unwrap_or_default();
                notices.drain(..).for_each(|event| self.receive(event));
                if let Some(peers) = &mut self.peers {
                    peers.notices = notices;
                }
            }
            Next::StoreReply(reply) => self.apply_reply(reply),
            Next::Due(conversation) => self.read_due(conversation),
            Next::Sweep => self.sweep(),
            Next::Heartbeat => self.heartbeat(),
        }
    }

    /// Applies an answer of the store, once this node has published all of its own events in it. Only then does the router know
    /// which connection must not receive an event because it has received the `ok`.
    fn apply_reply(&mut self, reply: StoreReply) {
        if reply.mark() > self.published {
            if let Some(peers) = &mut self.peers {
                peers.unpublished.entry(reply.mark()).or_default().push(reply);
            }
            return;
        }
        match reply {
            StoreReply::Log { conversation, result: Ok(excerpt) } => {
                self.apply_log(conversation, excerpt.events);
            }
            StoreReply::Log { conversation, result: Err(_) } => self.read_missing(conversation),
            StoreReply::Heads { asked, result } => self.apply_heads(&asked, result),
            StoreReply::Revocations { asked, result } => self.apply_revocations(asked, result),
            StoreReply::Places { asked, result } => self.apply_places(asked, result),
            StoreReply::Newcomers { asked, result } => self.apply_newcomers(asked, result),
            StoreReply::Presence { asked, result } => self.apply_presence(asked, result),
            StoreReply::Entry { newcomer, result } => self.apply_entry(newcomer, result),
            StoreReply::Leave { pending, result } => self.apply_leave(&pending, result),
        }
    }

    /// Runs after every input: updates the subscriptions, queries the store for what may have been missed, and admits sessions that
    /// waited for an applied event.
    pub(super) fn after_input(&mut self) {
        if self.peers.is_none() {
            return;
        }
        self.apply_published();
        for interest in self.registry.take_interests() {
            let Some(peers) = &mut self.peers else { return };
            match interest {
                Interest::SubscribeConversation(conversation) => {
                    peers.bus.subscribe(Address::Conversation(conversation));
                }
                Interest::UnsubscribeConversation(conversation) => {
                    peers.order.forget(conversation);
                    peers.unchecked.remove(&conversation);
                    peers.bus.unsubscribe(Address::Conversation(conversation));
                }
                Interest::SubscribeUser(user) => peers.bus.subscribe(Address::User(user)),
                Interest::UnsubscribeUser(user) => peers.bus.unsubscribe(Address::User(user)),
            }
        }
        self.query_store();
        self.unpark();
    }

    fn apply_published(&mut self) {
        let Some(peers) = &mut self.peers else { return };
        let mut ready = Vec::new();
        while let Some(first) = peers.unpublished.first_entry().filter(|first| *first.key() <= self.published)
        {
            ready.extend(first.remove());
        }
        ready.into_iter().for_each(|reply| self.apply_reply(reply));
    }
}
