//! How the nodes of a cluster agree: each applies the same events of a conversation in the same order, so that a user receives the
//! same events on every node, and none after their removal.
//!
//! There is no leader and no vote. The store makes the order: a write locks the row of its conversation, and gets the next number.
//! A node only has to learn how far each log goes, and to apply the log without a gap.
//! [Decision 44](../../../../docs/decisions/0044-nodes-keep-the-order.md) has what was rejected.
//!
//! A single node has no [`Cluster`]: its router applies each event as its writer stores it, with [`LocalNode::apply_event`].
//!
//! # What a node knows
//! - Of a conversation that it *hosts*, because a member is connected: the last event that it has **applied**
//!   ([`Registry::applied`](super::registry::Registry::applied)), and in which *subscription epoch* it began to host it.
//! - After a missing event: the later ones, and how far the log goes (`order.rs`).
//! - Of a connected user: the conversations as of the applied events, and the leaves that were applied, for as long as an older
//!   answer may come.
//! - Of a session that is attaching: what its pages wait for (`entry.rs`).
//! - Of the other nodes it knows only who is online there, which decides nothing here (`presence/remote.rs`).
//!
//! # What it asks the store
//! | query | when | the answer |
//! |---|---|---|
//! | `log` | an event is missing for 20 ms, or one with membership changes was announced | is applied (`order.rs`) |
//! | `heads` | a subscription was confirmed, an own write is in doubt, a membership is missing in the store | shows which events are missing |
//! | `places` | a sweep, a gap of the bus, a doubt about a user: pages of all memberships | shows missing events and unknown joins (`verify.rs`) |
//! | `places_in` | a notice or a page names a membership that this node does not know | the same |
//! | `log`, one event | a join is unknown here | the user becomes a member, if the join still holds |
//! | `log`, to the end | a page has a membership that no longer holds | the event up to which the session receives it |
//! | `revocations` | a sweep, a notice | closes the connections that are older |
//!
//! A query that fails is asked again.
//!
//! # What may be late, lost or doubled
//! A **notice** of another node may be lost, late, doubled or forged by an old recording. So it never changes a membership. An event
//! without membership changes is applied from it if it is the next one; everything else in it is only a reason to ask.
//!
//! An **answer** of the store is true for its moment, and this node may have applied later events since, or not have applied what
//! it contains. It may also contain events that this node has stored itself and not published yet. A **subscription** begins later
//! than the router asks for it.
//!
//! # What always holds
//! 1. The events of a conversation are applied by number, without a gap, each once (`Cluster::arrive`).
//! 2. Applying an event is what changes memberships. There are two beginnings from an answer: the page of a session
//!    (`Cluster::enter_page`), and a join that this node has missed (`Cluster::add_member`). Both need to know that the membership
//!    holds at the last applied event: nothing is applied beyond the answer, or all has been since the query
//!    ([`Registry::covers`](super::registry::Registry::covers)).
//! 3. An answer ends no membership. If the store does not have one, the log has a leave that is not applied yet.
//! 4. An answer is dropped and asked again if its user has left any conversation since the query (`departures`), because it may have
//!    that membership.
//! 5. A node that hosts a conversation anew may read its log again from an earlier event. Joins up to a recorded leave are then
//!    skipped (`gone`).
//! 6. An answer waits until this node has published all of its own events in it, because the connection that wrote one gets `ok`
//!    in its place.
//! 7. A session is admitted once this node has applied all that its pages contain, and the store has confirmed, in a later query,
//!    each membership that this node could not confirm itself, or the leave is found.
//!
//! # Why the result is one order
//! By 1, what a node has applied is a prefix of the log. By 2 to 5, the members that it knows are those of that prefix. So the log alone
//! decides who receives an event, on whichever node they are. It does not stand still either: each event is found by its notice, by
//! the next notice, by the query after a subscription, or by the next sweep, which needs no bus.

mod entry;
#[cfg(test)]
pub(super) mod fake;
mod lookups;
mod notices;
mod order;
mod store_reply;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use self::entry::Entry;
use self::order::Order;
use self::store_reply::StoreReply;
use self::verify::Comparisons;
use super::LocalNode;
use super::registry::{Interest, SessionSlot};
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

/// What connects a node with the other nodes.
pub(crate) struct ClusterParts {
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

/// What a node knows of the others, and what it has asked. The module documents it.
pub(super) struct Cluster {
    store: Arc<dyn SharedLog>,
    bus: Arc<dyn Bus>,
    events: mpsc::Receiver<BusEvent>,
    /// Received, and not handled yet.
    notices: Vec<BusEvent>,
    /// The bus has ended, because the server stops.
    bus_closed: bool,
    replies: FuturesUnordered<PendingReply>,
    /// Replies that may contain events which this node has stored and not published yet, by the batch to wait for.
    unpublished: BTreeMap<u64, Vec<StoreReply>>,
    order: Order,
    /// What the pages of the parked sessions wait for.
    entries: FxHashMap<SessionSlot, Entry>,
    /// What is to be compared with the store.
    comparisons: Comparisons,
    /// Conversations of which events may have been missed.
    unchecked: BTreeSet<ConversationKey>,
    /// Whether a query about the ends of conversations is pending.
    checking: bool,
    /// Whether a query about users whose presence has changed is pending.
    querying_presence: bool,
    sweeps: Interval,
    heartbeats: Interval,
    lease: Duration,
}

type PendingReply = Pin<Box<dyn Future<Output = StoreReply> + Send>>;

/// What the router handles next with [`Cluster::handle`].
pub(super) struct Next(Work);

enum Work {
    Received,
    StoreReply(StoreReply),
    Due(ConversationKey),
    Sweep,
    Heartbeat,
}

impl Cluster {
    pub(super) fn new(parts: ClusterParts) -> Self {
        let ClusterParts { store, bus, events, sweep, lease } = parts;
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
            entries: FxHashMap::default(),
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
    fn query<T: 'static>(
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
    fn awaits_nothing(&self) -> bool {
        self.replies.is_empty() && self.unpublished.is_empty()
    }

    /// Waits for what the router handles next with [`Self::handle`].
    pub(super) async fn next(&mut self) -> Next {
        loop {
            tokio::select! {
                biased;
                Some(reply) = self.replies.next() => return Next(Work::StoreReply(reply)),
                conversation = self.order.due() => return Next(Work::Due(conversation)),
                _ = self.heartbeats.tick() => return Next(Work::Heartbeat),
                _ = self.sweeps.tick() => return Next(Work::Sweep),
                // Last: notices may arrive without a pause, and the others make up for lost notices.
                count = self.events.recv_many(&mut self.notices, MAX_NOTICES_PER_TURN), if !self.bus_closed => match count {
                    0 => self.bus_closed = true,
                    _ => return Next(Work::Received),
                },
            }
        }
    }

    pub(super) fn handle(&mut self, node: &mut LocalNode, Next(work): Next) {
        match work {
            Work::Received => {
                let mut notices = std::mem::take(&mut self.notices);
                notices.drain(..).for_each(|event| self.receive(node, event));
                self.notices = notices;
            }
            Work::StoreReply(reply) => self.apply_reply(node, reply),
            Work::Due(conversation) => self.read_due(node, conversation),
            Work::Sweep => self.sweep(node),
            Work::Heartbeat => self.heartbeat(node),
        }
    }

    /// Applies an answer of the store, once this node has published all of its own events in it. Only then does the router know
    /// which connection must not receive an event because it has received the `ok`.
    fn apply_reply(&mut self, node: &mut LocalNode, reply: StoreReply) {
        if reply.mark() > node.published {
            self.unpublished.entry(reply.mark()).or_default().push(reply);
            return;
        }
        match reply {
            StoreReply::Log { conversation, result: Ok(excerpt) } => {
                self.apply_log(node, conversation, excerpt.events);
            }
            StoreReply::Log { conversation, result: Err(_) } => self.read_missing(node, conversation),
            StoreReply::Heads { asked, result } => self.apply_heads(node, &asked, result),
            StoreReply::Revocations { asked, result } => self.apply_revocations(node, asked, result),
            StoreReply::Places { asked, result } => self.apply_places(node, asked, result),
            StoreReply::Newcomers { asked, result } => self.apply_newcomers(node, asked, result),
            StoreReply::Presence { asked, result } => self.apply_presence(node, asked, result),
            StoreReply::Entry { newcomer, result } => self.apply_entry(node, newcomer, result),
            StoreReply::Leave { pending, result } => self.apply_leave(node, &pending, result),
        }
    }

    /// Runs after every input of the router: updates the subscriptions, queries the store for what may have been missed, and admits
    /// sessions that waited for an applied event.
    pub(super) fn after_input(&mut self, node: &mut LocalNode) {
        self.apply_published(node);
        for interest in node.registry.take_interests() {
            match interest {
                Interest::SubscribeConversation(conversation) => {
                    self.bus.subscribe(Address::Conversation(conversation));
                }
                Interest::UnsubscribeConversation(conversation) => {
                    self.order.forget(conversation);
                    self.unchecked.remove(&conversation);
                    self.bus.unsubscribe(Address::Conversation(conversation));
                }
                Interest::SubscribeUser(user) => self.bus.subscribe(Address::User(user)),
                Interest::UnsubscribeUser(user) => self.bus.unsubscribe(Address::User(user)),
            }
        }
        self.query_store(node);
        self.unpark(node);
    }

    fn apply_published(&mut self, node: &mut LocalNode) {
        let mut ready = Vec::new();
        while let Some(first) = self.unpublished.first_entry().filter(|first| *first.key() <= node.published)
        {
            ready.extend(first.remove());
        }
        ready.into_iter().for_each(|reply| self.apply_reply(node, reply));
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
