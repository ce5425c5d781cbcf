//! How the nodes of a cluster agree: each applies the same events of a conversation in the same order, so that a user receives the
//! same events on every node, and none after their removal.
//!
//! There is no leader and no vote. The store makes the order: a write locks the row of its conversation, and gets the next number.
//! A node only has to learn how far each log goes, and to apply the log without a gap.
//! [Decision 44](../../../../docs/decisions/0044-nodes-keep-the-order.md) lists the designs that were rejected.
//!
//! A single node has no [`Cluster`]: its router applies each event as its writer stores it, with [`LocalNode::apply_event`].
//!
//! # What a node knows
//! - A node *hosts* a conversation while a member is connected to it. It knows the last event of the conversation that it has
//!   **applied** ([`Registry::applied`](super::registry::Registry::applied)), and the *subscription epoch* in which it began to
//!   host the conversation.
//! - If an event of a conversation is missing, it knows the later events, and how far the log goes (`order.rs`).
//! - For each connected user, it knows the conversations as of the applied events. It also knows the applied leaves, for as long as
//!   an answer of the store from before a leave may arrive.
//! - For each session that is attaching, it knows what the pages of memberships wait for (`entry.rs`).
//! - Of the other nodes, it knows only which users are online there. No delivery of events depends on that (`presence/remote.rs`).
//!
//! # What a node asks the store
//! | query | when | use of the answer |
//! |---|---|---|
//! | `log` | an event is missing for 20 ms, or a notice announced one with membership changes | is applied (`order.rs`) |
//! | `heads` | a subscription was confirmed, or a write's outcome or a membership is in doubt | shows missing events |
//! | `places`: pages of all memberships | a sweep, or lost notices | shows missing events and unknown joins (`verify.rs`) |
//! | `current_memberships` | a notice or a page names a membership that this node does not know | the same |
//! | `log`, one event | the store has a join that this node has not applied | the user becomes a member, if still one |
//! | `log`, to the end | a page has a membership that has ended since | its leave is the last event that the session receives |
//! | `revocations` | a sweep, or a notice | closes the connections that are older than the revocation |
//!
//! A query that fails is repeated.
//!
//! # What may be late, lost or duplicated
//! A **notice** of another node may be lost, late or duplicated, or an attacker may replay a recorded one. So a notice never
//! changes a membership. If the notice contains the next event of a conversation, and that event changes no membership, the event
//! is applied. Everything else in a notice is only a reason to query the store.
//!
//! An **answer** of the store is true for the moment of the query. This node may have applied later events since, or may not have
//! applied all events in the answer. The answer may also contain events that this node has stored itself and not published yet. A
//! **subscription** becomes active some time after the router requests it.
//!
//! # Invariants
//! 1. The events of a conversation are applied in the order of their numbers, without a gap, each once (`Cluster::accept_event`).
//! 2. Only an applied event changes memberships, with two exceptions, in which an answer of the store adds a member: the page of an
//!    attaching session (`Cluster::join_page`), and a join that this node has missed (`Cluster::add_member`). Both must know that
//!    the user is a member at the last applied event: either this node has applied nothing later than the answer, or it has applied
//!    every event since the query ([`Registry::is_membership_current`](super::registry::Registry::is_membership_current)).
//! 3. An answer never ends a membership. If a membership is missing in the store, the log has a leave that is not applied yet.
//! 4. If a user has left any conversation since a query about them (`departures`), the answer is dropped and the query is repeated,
//!    because the answer may contain the membership that has ended.
//! 5. A node that hosts a conversation again may read its log again from an earlier event. It then skips joins up to a recorded
//!    leave (`left_conversations`).
//! 6. An answer is applied only after this node has published all of its own events in it, because the connection that wrote one of
//!    them receives `ok` instead of the event.
//! 7. A session becomes live once this node has applied all events that its pages contain. For each membership on a page that this
//!    node could not confirm itself, a later query must have confirmed it or found the leave.
//!
//! # Why all nodes have the same order
//! By 1, the events that a node has applied are a prefix of the log. By 2 to 5, the members that the node knows are the members at
//! the end of that prefix. So the log alone decides which users receive an event, on every node. Every event is applied at some
//! time: the node learns of it from its notice, from a later notice, from the query after a subscription, or from the next sweep,
//! which does not need the bus.

mod blocks;
mod entry;
#[cfg(test)]
pub(super) mod fake;
mod lookups;
mod notices;
mod order;
mod profiles;
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
use switchboard_protocol::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use self::blocks::BlockComparison;
use self::entry::EnteringPage;
use self::order::EventOrder;
use self::profiles::ProfileComparison;
use self::store_reply::StoreReply;
use self::verify::Comparisons;
use super::LocalNode;
use super::registry::{SessionSlot, SubscriptionChange};
use crate::bus::{Address, Bus, BusEvent};
use crate::connections::Connections;
use crate::nodes::Nodes;
use crate::throttle::Throttle;
use switchboard_store::SharedLog;
use switchboard_store::record::{Answer, ConversationKey};
use switchboard_store::refusal::Refusal;

/// The most notices that the router handles before it handles commits and sessions again.
const MAX_NOTICES_PER_TURN: usize = 256;

/// How long the router waits before it repeats a query that the store has failed to answer.
const STORE_RETRY_DELAY: Duration = Duration::from_millis(250);

/// How many heartbeats a node sends within a lease. Two of them may be lost before other nodes count it as dead.
const HEARTBEATS_PER_LEASE: u32 = 3;

/// What connects a node with the other nodes.
pub(crate) struct ClusterParts {
    /// The store that all nodes share.
    pub(crate) store: Arc<dyn SharedLog>,
    /// The bus to the other nodes.
    pub(crate) bus: Arc<dyn Bus>,
    /// The notices and state changes that the bus delivers.
    pub(crate) events: mpsc::Receiver<BusEvent>,
    /// How often this node compares its users with the store.
    pub(crate) sweep_interval: Duration,
    /// How long a node counts as alive after its last heartbeat.
    pub(crate) lease: Duration,
    /// The table of the other nodes.
    pub(crate) nodes: Arc<Nodes>,
    /// The connections of this node, about which operators at other nodes ask.
    pub(crate) connections: Arc<Connections>,
}

impl ClusterParts {
    /// What the doors need of the cluster.
    pub(crate) fn bus_and_nodes(&self) -> (Arc<dyn Bus>, Arc<Nodes>) {
        (self.bus.clone(), self.nodes.clone())
    }
}

/// The state by which this node stays consistent with the others: missing events, pending queries and comparisons. The
/// documentation of the module explains it.
pub(super) struct Cluster {
    store: Arc<dyn SharedLog>,
    bus: Arc<dyn Bus>,
    events: mpsc::Receiver<BusEvent>,
    /// Events of the bus that were received and are not handled yet.
    notices: Vec<BusEvent>,
    /// Whether the bus has ended, because the server stops.
    bus_closed: bool,
    replies: FuturesUnordered<PendingReply>,
    /// Replies that may contain events which this node has stored and not published yet, by the number of the batch to wait for.
    unpublished: BTreeMap<u64, Vec<StoreReply>>,
    order: EventOrder,
    /// The pages of the parked sessions, with what each waits for.
    entries: FxHashMap<SessionSlot, EnteringPage>,
    /// The users and memberships that are still to be compared with the store.
    comparisons: Comparisons,
    /// Conversations whose heads are to be queried, because this node may have missed events.
    heads_to_query: BTreeSet<ConversationKey>,
    /// Whether a query of heads is pending.
    querying_heads: bool,
    /// Whether a query about the conversations of users whose presence has changed is pending.
    querying_presence: bool,
    sweeps: Interval,
    heartbeats: Interval,
    lease: Duration,
    nodes: Arc<Nodes>,
    connections: Arc<Connections>,
    /// Limits the log lines about clock skew.
    clock_log: Throttle,
    profiles: ProfileComparison,
    blocks: BlockComparison,
}

type PendingReply = Pin<Box<dyn Future<Output = StoreReply> + Send>>;

/// Work that [`Cluster::next`] has found, for [`Cluster::handle`].
pub(super) struct ClusterWork(Work);

enum Work {
    Received,
    StoreReply(StoreReply),
    Due(ConversationKey),
    Sweep,
    Heartbeat,
}

impl Cluster {
    pub(super) fn new(parts: ClusterParts, now: Timestamp) -> Self {
        let ClusterParts { store, bus, events, sweep_interval, lease, nodes, connections } = parts;
        bus.subscribe(Address::Nodes);
        bus.subscribe(Address::Status);
        bus.subscribe(Address::Profiles);
        Self {
            store,
            bus,
            events,
            notices: Vec::with_capacity(MAX_NOTICES_PER_TURN),
            bus_closed: false,
            replies: FuturesUnordered::new(),
            unpublished: BTreeMap::new(),
            order: EventOrder::default(),
            entries: FxHashMap::default(),
            comparisons: Comparisons::default(),
            heads_to_query: BTreeSet::new(),
            querying_heads: false,
            querying_presence: false,
            sweeps: interval_with_period(sweep_interval),
            heartbeats: interval_with_period(lease / HEARTBEATS_PER_LEASE),
            lease,
            nodes,
            connections,
            clock_log: Throttle::default(),
            profiles: ProfileComparison::new(now),
            blocks: BlockComparison::default(),
        }
    }

    /// Waits for an answer of the store in the background. A failure is returned only after [`STORE_RETRY_DELAY`], so that the
    /// router can repeat the query at once.
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
    fn has_no_query(&self) -> bool {
        self.replies.is_empty() && self.unpublished.is_empty()
    }

    /// Waits for the next work for [`Self::handle`].
    pub(super) async fn next(&mut self) -> ClusterWork {
        loop {
            tokio::select! {
                biased;
                Some(reply) = self.replies.next() => return ClusterWork(Work::StoreReply(reply)),
                conversation = self.order.next_due_conversation() => return ClusterWork(Work::Due(conversation)),
                _ = self.heartbeats.tick() => return ClusterWork(Work::Heartbeat),
                _ = self.sweeps.tick() => return ClusterWork(Work::Sweep),
                // Notices come last: they may arrive without a pause, and the work above repairs what lost notices have caused.
                count = self.events.recv_many(&mut self.notices, MAX_NOTICES_PER_TURN), if !self.bus_closed => match count {
                    0 => self.bus_closed = true,
                    _ => return ClusterWork(Work::Received),
                },
            }
        }
    }

    pub(super) fn handle(&mut self, node: &mut LocalNode, ClusterWork(work): ClusterWork) {
        match work {
            Work::Received => {
                let mut notices = std::mem::take(&mut self.notices);
                notices.drain(..).for_each(|event| self.receive(node, event));
                self.notices = notices;
            }
            Work::StoreReply(reply) => self.apply_reply(node, reply),
            Work::Due(conversation) => self.read_due(node, conversation),
            Work::Sweep => {
                self.sweep(node);
                self.compare_profiles(node);
                self.sweep_blocks(node);
            }
            Work::Heartbeat => self.publish_heartbeat(node),
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
            StoreReply::Memberships { asked, result } => self.apply_memberships(node, asked, result),
            StoreReply::MissingMemberships { asked, result } => {
                self.apply_missing_memberships(node, asked, result);
            }
            StoreReply::Presence { asked, result } => self.apply_presence(node, asked, result),
            StoreReply::Entry { newcomer, result } => self.apply_join_events(node, newcomer, result),
            StoreReply::Profiles { asked, result } => self.apply_changed_profiles(node, asked, result),
            StoreReply::Blocks { asked, result } => self.apply_changed_blocks(node, asked, result),
            StoreReply::Leave { pending, result } => self.apply_leave(node, &pending, result),
        }
    }

    /// Runs after every input of the router: updates the subscriptions, sends the queries that are due to the store, and admits
    /// sessions whose obstacle is gone.
    pub(super) fn update_after_input(&mut self, node: &mut LocalNode) {
        self.apply_published_events(node);
        for change in node.registry.take_subscription_changes() {
            match change {
                SubscriptionChange::SubscribeConversation(conversation) => {
                    self.bus.subscribe(Address::Conversation(conversation));
                }
                SubscriptionChange::UnsubscribeConversation(conversation) => {
                    self.order.remove(conversation);
                    self.heads_to_query.remove(&conversation);
                    self.bus.unsubscribe(Address::Conversation(conversation));
                }
                SubscriptionChange::SubscribeUser(user) => self.bus.subscribe(Address::User(user)),
                SubscriptionChange::UnsubscribeUser(user) => self.bus.unsubscribe(Address::User(user)),
            }
        }
        self.query_store(node);
        self.admit_unblocked(node);
    }

    fn apply_published_events(&mut self, node: &mut LocalNode) {
        let mut ready = Vec::new();
        while let Some(first) = self.unpublished.first_entry().filter(|first| *first.key() <= node.published)
        {
            ready.extend(first.remove());
        }
        ready.into_iter().for_each(|reply| self.apply_reply(node, reply));
    }
}

fn interval_with_period(period: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
