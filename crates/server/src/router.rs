//! The router: which sessions of this node are in which conversation, and which events they have received.
//!
//! One task owns the registry. It receives committed batches in the order of commits, encodes each event once and queues it for
//! every session of every member on this node. Signals and presence also pass through this task, and are never stored.
//!
//! # How a session attaches without a gap
//! 1. *Enter*: the router registers the session. From here on the router records which events it publishes.
//! 2. The session reads memberships and heads from the store, in pages. Before the router applies a page, it publishes every batch
//!    that the page can contain ([`Memberships::mark`]). For each page but the last, it then adds the user to the members of the
//!    conversations on the page.
//! 3. *Subscribe*: the router applies the last page in the same way, and the session becomes live. The session reads the events
//!    between its cursors and the present from the log, as a lag. Live events wait in its queue until that lag has been sent.

mod apply;
mod attach;
mod bans;
mod blocks;
mod cluster;
mod coalesce;
mod departures;
mod handle;
mod parked;
mod presence;
mod profiles;
mod publish;
pub(crate) mod registry;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::value::RawValue;
use switchboard_protocol::reply::Reply;
use switchboard_protocol::{CloseCode, ConversationId, Limits, Seq, Signal, Timestamp, UserId};
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::attach::PageHeads;
use self::attach::{LoadRequest, RecentHeads};
use self::cluster::Cluster;
pub(crate) use self::cluster::ClusterParts;
pub(crate) use self::coalesce::COALESCE_FROM_USERS;
use self::coalesce::Coalescer;
pub(crate) use self::handle::RouterHandle;
pub(crate) use self::parked::LeftConversations;
use self::parked::ParkedSessions;
use self::presence::{ExpiredTimer, Presence};
use self::profiles::Profiles;
use self::registry::{Registry, SessionSlot};
use crate::attendees::Attendees;
use crate::encode::encode;
use crate::metrics::{DropReason, Metrics};
use crate::outbox::Outbox;
use crate::tasks::{TaskEnd, Tasks};
use switchboard_store::ban::Ban;
use switchboard_store::block::BlockList;
use switchboard_store::clock::Clock;
use switchboard_store::record::ConversationKey;
use switchboard_store::refusal::Refusal;
use switchboard_store::rename::RenamedConversations;
use switchboard_store::{Batch, Memberships, PresencePeer, SharedStore, WRITER_THREAD, WriteAccess};

/// Capacity of the queue of requests from sessions. A session waits while the queue is full.
const INPUT_QUEUE: usize = 8_192;

/// The most requests that the router handles before it handles commits again.
const MAX_INPUTS_PER_TURN: usize = 256;

/// The most departures (users who go offline) that the router handles before other work, and that wait in the queue of the store at
/// a time. When a load balancer dies, thousands of grace periods end together, and their writes must not fill that queue. The
/// router handles this number in a millisecond or two.
const MAX_QUEUED_DEPARTURES: usize = 64;

/// After this many batches the router handles users who go offline, even if more batches wait.
const BATCHES_IN_A_ROW: u64 = 16;
/// The most conversations from which the router removes a disconnected user before other work. This takes less than a millisecond.
const MAX_UNLOADED_CONVERSATIONS_PER_TURN: usize = 1_000;

/// How long the store may take to close after the deadline of a shutdown: it has to checkpoint its write-ahead log.
const STORE_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Conversations, each with the number of its members who are connected to this node.
pub(crate) type OnlineMembers = Vec<(ConversationKey, usize)>;

/// A request of a session.
#[derive(Debug)]
enum Input {
    Enter { user: UserId, outbox: Arc<Outbox>, reply: oneshot::Sender<Result<SessionSlot, Refusal>> },
    Load(Box<LoadRequest>),
    Subscribe(Box<Subscription>),
    Leave(SessionSlot),
    Typing { user: UserId, conversation: ConversationId, standing: WriteAccess, from: Option<Arc<Outbox>> },
    Watch { session: SessionSlot, users: Vec<PresencePeer> },
    Follow { session: SessionSlot, users: Vec<(UserId, u64)> },
    Revoke(UserId),
    Ban(UserId, Ban),
    Renamed { user: UserId, to: UserId, conversations: RenamedConversations },
    Notify(UserId, Box<Signal>),
    Online { conversations: Vec<ConversationKey>, reply: oneshot::Sender<OnlineMembers> },
    OnlineUsers(oneshot::Sender<Vec<UserId>>),
    Ping(oneshot::Sender<()>),
    Stop,
}

/// The request of a session to become live.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) session: SessionSlot,
    /// The number of a batch. The snapshot of the session contains nothing of later batches.
    pub(crate) mark: u64,
    /// Tokens of the user that were issued up to this time are revoked.
    pub(crate) not_before: Option<Timestamp>,
    /// The last page of memberships. The router has applied the pages before it.
    pub(crate) page: Memberships,
    /// The heads of the conversations of all pages.
    pub(crate) heads: PageHeads,
    /// The cursors of the client: the session receives these conversations from the event after the cursor, and the others from
    /// their heads.
    pub(crate) cursors: Vec<(ConversationKey, Seq)>,
    /// The heads of the conversations whose summaries are sent to the client.
    pub(crate) listed: Vec<(ConversationKey, Seq)>,
    /// Conversations that the user has left. The session receives the events after the first number, up to the second one, which is
    /// the last event that the user may see.
    pub(crate) former: Vec<(ConversationKey, Seq, Seq)>,
    /// The users whom the user blocks.
    pub(crate) blocks: BlockList,
    /// All conversations that the user has left, as far as the session knows, each with the event by which the user left.
    pub(crate) left_conversations: Vec<(ConversationKey, Seq)>,
    /// Conversations of earlier pages that the user has left since, each with the event by which the user left.
    pub(crate) left_since_read: Vec<(ConversationKey, Seq)>,
}

/// What a router is made of.
pub(crate) struct RouterParts {
    pub(crate) store: SharedStore,
    pub(crate) batches: mpsc::Receiver<Batch>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
    pub(crate) limits: Arc<Limits>,
    /// How long a user still counts as online after the last connection has closed.
    pub(crate) grace: std::time::Duration,
    /// The longest window over which clients reconnect after `bye`, in milliseconds.
    pub(crate) reconnect_spread_ms: u64,
    /// From this number of users on this node, a conversation coalesces its events.
    pub(crate) coalesce_from: usize,
    /// The connection to the other nodes; `None` on a single node.
    pub(crate) cluster: Option<ClusterParts>,
    /// Receives who comes and who goes.
    pub(crate) attendees: Arc<Attendees>,
}

/// Makes a router, which [`Router::run`] starts, and its handle.
pub(crate) fn new(parts: RouterParts) -> (RouterHandle, Router) {
    let (sender, inputs) = mpsc::channel(INPUT_QUEUE);
    let mut registry = Registry::default();
    if parts.cluster.is_some() {
        registry.record_subscription_changes();
    }
    let bus = parts.cluster.as_ref().map(|cluster| cluster.bus.clone());
    let now = parts.clock.now();
    let node = LocalNode {
        registry,
        recent: RecentHeads::default(),
        coalescer: Coalescer::new(parts.coalesce_from),
        parked: ParkedSessions::default(),
        published: 0,
        presence: Presence::new(parts.grace, bus),
        profiles: Profiles::default(),
        metrics: parts.metrics,
        clock: parts.clock,
        limits: parts.limits,
        attendees: parts.attendees,
    };
    let router = Router {
        inputs,
        batches: parts.batches,
        store: parts.store,
        node,
        cluster: parts.cluster.map(|cluster| Cluster::new(cluster, now)),
        departures_in_flight: 0,
        unstored: VecDeque::new(),
        unloading: VecDeque::new(),
        stopping: false,
        is_writer_gone: false,
        spread: parts.reconnect_spread_ms,
    };
    (RouterHandle::new(sender), router)
}

/// The actor that owns the registry.
pub(crate) struct Router {
    inputs: mpsc::Receiver<Input>,
    batches: mpsc::Receiver<Batch>,
    store: SharedStore,
    node: LocalNode,
    /// Keeps this node consistent with the other nodes; `None` on a single node, which needs none of it.
    cluster: Option<Cluster>,
    /// How many writes that store when a user went offline wait in the queue of the store.
    departures_in_flight: usize,
    /// Users who went offline and whose write did not fit the queue of the store, with when they were last seen.
    unstored: VecDeque<(UserId, Timestamp)>,
    /// Disconnected users whom the router still has to remove from their conversations.
    unloading: VecDeque<registry::UserSlot>,
    stopping: bool,
    /// Whether the store's writer thread has ended. While the router runs, only a panic ends it.
    is_writer_gone: bool,
    spread: u64,
}

/// The users, sessions and conversations of this node, and the delivery to them. Other nodes are the business of [`Cluster`].
struct LocalNode {
    registry: Registry,
    recent: RecentHeads,
    coalescer: Coalescer,
    /// Attaching sessions that wait because their snapshot may be newer than what has been published.
    parked: ParkedSessions,
    /// The number of the last batch that was published.
    published: u64,
    presence: Presence,
    profiles: Profiles,
    metrics: Arc<Metrics>,
    clock: Clock,
    limits: Arc<Limits>,
    attendees: Arc<Attendees>,
}

impl Router {
    /// Runs until every handle is dropped, then until the store has returned the outcome of every write and has closed. At the
    /// deadline of `tasks` it stops at once, and waits only for the store to close, for at most [`STORE_CLOSE_TIMEOUT`].
    pub(crate) async fn run(mut self, tasks: Tasks) {
        let cut = tasks.deadline_passed().clone();
        let mut inputs = Vec::with_capacity(MAX_INPUTS_PER_TURN);
        let mut batches = 0_u64;
        loop {
            // The order is fixed, so that a run is deterministic: docs/decisions/0034-simulation.md. Acknowledgements come before
            // departures, of which there may be thousands at once. No branch starves: departures are handled after every
            // `BATCHES_IN_A_ROW` batches, and requests that were made before a batch are handled before that batch.
            tokio::select! {
                biased;
                () = cut.cancelled() => break,
                () = self.node.coalescer.wait_until_due() => self.node.flush_coalesced(),
                batch = self.batches.recv(), if !self.is_writer_gone => match batch {
                    Some(batch) => {
                        self.handle_queued(&mut inputs);
                        self.publish_batch(batch);
                        self.store_unstored();
                        batches += 1;
                        if batches.is_multiple_of(BATCHES_IN_A_ROW) {
                            self.handle_due_timer(None);
                        }
                    }
                    None => {
                        self.fail_store();
                        tasks.record_failure(WRITER_THREAD, TaskEnd::Panicked);
                    }
                },
                due = self.node.presence.next_timer(self.departures_in_flight < MAX_QUEUED_DEPARTURES) => self.handle_due_timer(Some(due)),
                user = self.node.profiles.next_timer() => {
                    self.node.profiles.timer_expired(&self.node.registry, &user);
                }
                next = next_work(self.cluster.as_mut()) => {
                    self.handle_queued(&mut inputs);
                    if let Some(cluster) = &mut self.cluster {
                        cluster.handle(&mut self.node, next);
                    }
                }
                count = self.inputs.recv_many(&mut inputs, MAX_INPUTS_PER_TURN) => {
                    if count == 0 {
                        break;
                    }
                    inputs.drain(..).for_each(|input| self.handle(input));
                }
                () = std::future::ready(()), if !self.unloading.is_empty() => {}
            }
            self.unload_users();
            if let Some(cluster) = &mut self.cluster {
                cluster.update_after_input(&mut self.node);
            }
        }
        if cut.is_cancelled() {
            if let Some(cluster) = &self.cluster {
                cluster.publish_stopped();
            }
        } else {
            self.node.flush_coalesced();
            self.store_all_departures(&cut).await;
        }
        let Self { mut batches, store, cluster, .. } = self;
        // The writer thread ends after the last write, once no owner of the store is left.
        drop((store, cluster));
        tokio::select! {
            biased;
            () = async { while batches.recv().await.is_some() {} } => {}
            () = async { cut.cancelled().await; tokio::time::sleep(STORE_CLOSE_TIMEOUT).await } => {}
        }
    }

    /// Handles the requests that were made before a batch arrived. The batch may contain a write of a session whose request to
    /// become live still waits; the session must be live first, so that the router recognizes the session's own event.
    fn handle_queued(&mut self, inputs: &mut Vec<Input>) {
        let waiting = self.inputs.len();
        inputs.extend(std::iter::from_fn(|| self.inputs.try_recv().ok()).take(waiting));
        inputs.drain(..).for_each(|input| self.handle(input));
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Enter { user, outbox, reply } => self.enter_session(&user, outbox, reply),
            Input::Load(load) => self.load_page(*load),
            Input::Subscribe(subscribe) => self.subscribe_session(*subscribe),
            Input::Leave(session) => self.leave_session(session),
            Input::Typing { user, conversation, standing, from } => {
                self.forward_typing(&user, conversation, &standing, from.as_ref());
            }
            Input::Watch { session, users } => self.watch_presence(session, users),
            Input::Follow { session, users } => {
                let most = self.node.limits.follow as usize;
                self.node.profiles.follow_users(&mut self.node.registry, session, &users, most);
            }
            Input::Revoke(user) => {
                if let Some(cluster) = &self.cluster {
                    cluster.publish_revoked(&user);
                }
                self.revoke(&user);
            }
            Input::Ban(user, ban) => {
                if let Some(cluster) = &self.cluster {
                    cluster.publish_revoked(&user);
                }
                self.node.close_banned(&user, &ban);
            }
            Input::Notify(user, notice) => {
                if let Some(cluster) = &self.cluster {
                    cluster.publish_private(&user, &notice);
                }
                self.node.send_private(&user, &encode(&*notice));
            }
            Input::Renamed { user, to, conversations } => {
                if let Some(cluster) = &self.cluster {
                    cluster.publish_revoked(&user);
                    cluster.publish_renamed((&user, &to), &conversations);
                }
                self.revoke(&user);
                self.node.registry.rename_blocked(&user, &to);
                self.node.forget_names(&conversations);
            }
            Input::Online { conversations, reply } => {
                let online = conversations
                    .into_iter()
                    .map(|key| (key, self.node.registry.count_connected_members(key)));
                drop(reply.send(online.collect()));
            }
            Input::OnlineUsers(reply) => {
                drop(reply.send(self.node.presence.local_users(&self.node.registry)));
            }
            Input::Ping(reply) => drop(reply.send(())),
            Input::Stop => self.stop(),
        }
    }

    fn forward_typing(
        &mut self,
        user: &UserId,
        conversation: ConversationId,
        standing: &WriteAccess,
        from: Option<&Arc<Outbox>>,
    ) {
        let signal = Signal::Typing { conversation, user: user.clone() };
        let is_for_members = standing.members <= u64::from(self.node.limits.signal_room);
        let by = (user, &standing.hidden_from[..]);
        self.forward_signal(&signal, by, standing.conversation, is_for_members, from);
    }

    /// Forwards a signal of `user` to the sessions of all members, but not of those in `hidden_from`, or only to the sessions of the
    /// user.
    fn forward_signal(
        &mut self,
        signal: &Signal,
        (user, hidden_from): (&UserId, &[UserId]),
        conversation: ConversationKey,
        is_for_members: bool,
        from: Option<&Arc<Outbox>>,
    ) {
        let frame = encode(signal);
        if let Some(cluster) = &self.cluster {
            cluster.publish_signal(signal, (user, hidden_from), conversation, !is_for_members);
        }
        let tell = |outbox: &Arc<Outbox>| {
            if !from.is_some_and(|from| Arc::ptr_eq(from, outbox)) {
                outbox.push_signal(&frame);
            }
        };
        if is_for_members {
            self.node.send_signal_to_members(conversation, (user, hidden_from), &frame, from);
        } else if let Some(user) = self.node.registry.find_user(user) {
            // The user may have left since the permission check.
            if self.node.registry.is_member(user, conversation) {
                self.node.registry.live_sessions(user).for_each(tell);
            }
        }
    }

    /// Handles at most [`MAX_QUEUED_DEPARTURES`] expired presence timers.
    fn handle_due_timer(&mut self, mut due: Option<ExpiredTimer>) {
        for _ in 0..MAX_QUEUED_DEPARTURES {
            let departures = self.departures_in_flight < MAX_QUEUED_DEPARTURES;
            match due.take().or_else(|| self.node.presence.next_timer(departures).now_or_never()) {
                Some(ExpiredTimer::GracePeriod(user)) => self.store_departure(user),
                Some(ExpiredTimer::PresenceQuery(user)) => {
                    self.node.presence.query_timed_out(&self.node.registry, &user, self.node.clock.now());
                }
                None => return,
            }
        }
    }

    /// Removes a disconnected user from at most [`MAX_UNLOADED_CONVERSATIONS_PER_TURN`] conversations, so that other work does not wait long. If the user
    /// connects again meanwhile, they stay a member of the others.
    fn unload_users(&mut self) {
        let Some(user) = self.unloading.front().copied() else { return };
        if !self.node.registry.unload(user, MAX_UNLOADED_CONVERSATIONS_PER_TURN) {
            return;
        }
        self.unloading.pop_front();
        if self.node.registry.shrink() {
            self.node.presence.shrink();
            self.node.profiles.shrink();
            self.node.recent.shrink();
        }
    }

    fn watch_presence(&mut self, session: SessionSlot, users: Vec<PresencePeer>) {
        self.node.presence.watch(&mut self.node.registry, session, users);
    }

    fn revoke(&mut self, user: &UserId) {
        for outbox in self.node.registry.all_sessions_of(user) {
            self.node.metrics.count_dropped(DropReason::Revoked);
            outbox.close(CloseCode::Revoked);
        }
    }

    /// Closes all sessions because the store's writer has ended: no write would get an outcome, and attaching sessions would wait
    /// for ever.
    fn fail_store(&mut self) {
        self.is_writer_gone = true;
        self.node.flush_coalesced();
        for session in self.node.registry.sessions() {
            session.outbox.close_without_outcomes(CloseCode::TryLater);
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.node.flush_coalesced();
        self.spread = reconnect_spread_ms(self.node.registry.sessions().count(), self.spread);
        for session in self.node.registry.sessions() {
            send_bye(&session.outbox, self.spread);
        }
    }
}

/// Waits for the next work that comes from other nodes or concerns them. On a single node it waits for ever.
async fn next_work(cluster: Option<&mut Cluster>) -> cluster::ClusterWork {
    match cluster {
        Some(cluster) => cluster.next().await,
        None => std::future::pending().await,
    }
}

/// The window over which the clients of this node reconnect, in milliseconds: a millisecond for each, so that a thousand of them
/// reconnect in a second and few of them at once, and at most `longest`.
fn reconnect_spread_ms(clients: usize, longest: u64) -> u64 {
    longest.min(clients as u64)
}

/// Sends `bye` with a random delay within the window `spread`, so that not all clients reconnect at once after a restart.
fn send_bye(outbox: &Outbox, spread: u64) {
    let mut random = [0; 8];
    // If the system has no randomness, all clients reconnect at once. The next server survives that, too.
    let _ = getrandom::fill(&mut random);
    let bye = Reply::<Box<RawValue>>::Bye { retry_after: u64::from_ne_bytes(random) % spread.max(1) };
    outbox.push_reply(encode(&bye));
    outbox.close(CloseCode::Restart);
}

#[cfg(test)]
mod tests {
    use super::reconnect_spread_ms;

    #[test]
    fn a_thousand_clients_reconnect_in_a_second_and_few_at_once() {
        for (clients, window) in [(0, 0), (20, 20), (1_000, 1_000), (5_000, 5_000), (100_000, 5_000)] {
            assert_eq!(reconnect_spread_ms(clients, 5_000), window, "{clients}");
        }
    }
}
