//! The router: which local sessions are in which conversation, and what of the log they have.
//!
//! One task owns the registry. What the store committed comes in by batches, in the order of commits;
//! each event is encoded once and queued for every session of every member that is here. What does not
//! last (signals, presence) passes through here too and is never stored.
//!
//! # How a session comes in without a gap
//! 1. *Enter*: the session is registered. From here on the router notes what it publishes.
//! 2. The session reads memberships and heads from the store, in pages. The router puts the user into the conversations of each
//!    page but the last, once everything that the page can contain has been published.
//! 3. *Subscribe*: once everything that the last page can contain has been published ([`Memberships::mark`]),
//!    the session is put among the members' sessions, and whatever was published between its cursor and
//!    now is left to it as a lag, to be read from the log. Live events queue behind that.

mod attach;
mod departures;
mod entry;
mod gather;
mod hear;
mod order;
mod parked;
mod peers;
mod presence;
mod publish;
pub(crate) mod registry;
mod verify;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::value::RawValue;
use switchboard_protocol::reply::Reply;
use switchboard_protocol::{CloseCode, ConversationId, Limits, Seq, Signal, Timestamp, UserId};
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::attach::{Goings, Heads};
use self::attach::{Load, Recent};
use self::gather::Gathering;
pub(crate) use self::gather::MANY;
use self::parked::ParkedSessions;
pub(crate) use self::peers::Cluster;
use self::peers::Peers;
use self::presence::{Due, Presence};
use self::registry::{Registry, SessionSlot};
use crate::encode::encode;
use crate::metrics::{Drop, Metrics};
use crate::outbox::Outbox;
use crate::tasks::{End, Tasks};
use switchboard_store::clock::Clock;
use switchboard_store::record::ConversationKey;
use switchboard_store::refusal::Refusal;
use switchboard_store::{Acquaintance, Batch, Memberships, SharedStore, Standing, WRITER_THREAD};

/// Requests of sessions that may wait. Beyond, whoever asks waits.
const WAITING: usize = 8_192;

/// Requests handled before commits are looked at again, and the other way round.
const TURN: usize = 256;

/// Departures in one turn of the router, and in the store at a time: when a balancer dies, thousands of graces end together,
/// and their writes must not fill the writer's queue. So many take the router a millisecond or two.
const DEPARTURES: usize = 64;

/// Batches after which departures have their turn though more batches wait.
const BATCHES_IN_A_ROW: u64 = 16;
/// Conversations that a user who has gone is taken from before something else has its turn: less than a millisecond.
const UNLOADED: usize = 1_000;

/// How long the store may still take to close when the time for stopping is over: it empties its write-ahead log.
const CLOSING: Duration = Duration::from_secs(2);

/// What a session asks of the router.
#[derive(Debug)]
enum Input {
    Enter { user: UserId, outbox: Arc<Outbox>, reply: oneshot::Sender<Result<SessionSlot, Refusal>> },
    Load(Box<Load>),
    Subscribe(Box<Subscribe>),
    Leave(SessionSlot),
    Typing { user: UserId, conversation: ConversationId, standing: Standing, from: Option<Arc<Outbox>> },
    Watch { session: SessionSlot, users: Vec<Acquaintance> },
    Revoke(UserId),
    Stop,
}

/// A session's wish to be live.
#[derive(Debug)]
pub(crate) struct Subscribe {
    /// Who.
    pub(crate) session: SessionSlot,
    /// No batch after this one can have been seen by what the session started from.
    pub(crate) mark: u64,
    /// Up to when the user's tokens have been revoked.
    pub(crate) not_before: Option<Timestamp>,
    /// The last page of memberships; those before it have been loaded.
    pub(crate) page: Memberships,
    /// Where the conversations of all pages ended.
    pub(crate) heads: Heads,
    /// From which event on the session wants each of these conversations; the others from their head on.
    pub(crate) cursors: Vec<(ConversationKey, Seq)>,
    /// Where the conversations ended whose summaries the client has.
    pub(crate) listed: Vec<(ConversationKey, Seq)>,
    /// Conversations that the user has left: from which event on, and the last one to be seen.
    pub(crate) former: Vec<(ConversationKey, Seq, Seq)>,
    /// All conversations of which the session knows that the user has left them, by which event.
    pub(crate) gone: Vec<(ConversationKey, Seq)>,
    /// Conversations of earlier pages that the user has gone from, by which event.
    pub(crate) goings: Vec<(ConversationKey, Seq)>,
}

/// The way to the router. Clones share it; the router ends when all are gone.
#[derive(Debug, Clone)]
pub(crate) struct RouterHandle {
    inputs: mpsc::Sender<Input>,
}

impl RouterHandle {
    async fn say(&self, input: Input) -> Result<(), Refusal> {
        self.inputs.send(input).await.map_err(|_| Refusal::unavailable())
    }

    /// Registers a session of `user`. Whoever entered must leave.
    pub(crate) async fn enter(&self, user: UserId, outbox: Arc<Outbox>) -> Result<SessionSlot, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.say(Input::Enter { user, outbox, reply }).await?;
        answer.await.unwrap_or_else(|_| Err(Refusal::unavailable()))
    }

    /// Puts the user of a session that is not live yet into the conversations of a page of memberships; those that they have gone
    /// from by now, and by which event. The answer comes when everything that the page can contain has been published.
    pub(crate) async fn load(&self, session: SessionSlot, page: Memberships) -> Result<Goings, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.say(Input::Load(Box::new(Load { session, page, reply }))).await?;
        answer.await.map_err(|_| Refusal::unavailable())
    }

    /// Makes a session live.
    pub(crate) async fn subscribe(&self, subscribe: Subscribe) -> Result<(), Refusal> {
        self.say(Input::Subscribe(Box::new(subscribe))).await
    }

    /// Removes a session.
    pub(crate) async fn leave(&self, session: SessionSlot) {
        // Without a router there is nothing to be removed from.
        let _ = self.say(Input::Leave(session)).await;
    }

    /// Tells the other members that `user` is typing. Lost when the router is busy: it does not last.
    pub(crate) fn typing(
        &self,
        user: UserId,
        conversation: ConversationId,
        standing: Standing,
        from: Option<Arc<Outbox>>,
    ) {
        let _ = self.inputs.try_send(Input::Typing { user, conversation, standing, from });
    }

    /// Sets whose presence a session is told.
    pub(crate) fn watch(&self, session: SessionSlot, users: Vec<Acquaintance>) -> Result<(), Refusal> {
        self.inputs.try_send(Input::Watch { session, users }).map_err(|_| Refusal::unavailable())
    }

    /// Closes every connection of `user`, those on their way in included.
    pub(crate) async fn revoke(&self, user: UserId) {
        // Without a router there is no connection.
        let _ = self.say(Input::Revoke(user)).await;
    }

    /// Tells every connection to come back later, and to close once it has its answers.
    pub(crate) async fn stop(&self) {
        let _ = self.say(Input::Stop).await;
    }
}

/// What the router is made of.
pub(crate) struct Parts {
    pub(crate) store: SharedStore,
    pub(crate) batches: mpsc::Receiver<Batch>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
    pub(crate) limits: Arc<Limits>,
    /// How long a user without a connection still counts as online.
    pub(crate) grace: std::time::Duration,
    /// The window, in milliseconds, over which clients are told to come back.
    pub(crate) spread: u64,
    /// Users of a conversation who are here, from which on its events gather.
    pub(crate) many: usize,
    /// The other nodes, if this one is not alone.
    pub(crate) cluster: Option<Cluster>,
}

/// Makes a router and the way to it.
pub(crate) fn new(parts: Parts) -> (RouterHandle, Router) {
    let (sender, inputs) = mpsc::channel(WAITING);
    let mut registry = Registry::default();
    if parts.cluster.is_some() {
        registry.keep_interests();
    }
    let bus = parts.cluster.as_ref().map(|cluster| cluster.bus.clone());
    let router = Router {
        inputs,
        registry,
        recent: Recent::default(),
        gathering: Gathering::new(parts.many),
        parked: ParkedSessions::default(),
        departing: 0,
        unloading: VecDeque::new(),
        published: 0,
        presence: Presence::new(parts.grace, bus),
        peers: parts.cluster.map(Peers::new),
        stopping: false,
        bereft: false,
        store: parts.store,
        batches: parts.batches,
        metrics: parts.metrics,
        clock: parts.clock,
        limits: parts.limits,
        spread: parts.spread,
    };
    (RouterHandle { inputs: sender }, router)
}

/// The actor.
pub(crate) struct Router {
    inputs: mpsc::Receiver<Input>,
    batches: mpsc::Receiver<Batch>,
    store: SharedStore,
    registry: Registry,
    recent: Recent,
    gathering: Gathering,
    /// Sessions whose snapshot may be newer than what has been published.
    parked: ParkedSessions,
    /// Departures that the store has been given and has not stored.
    departing: usize,
    /// Users who have gone, and whose conversations do not all know it yet.
    unloading: VecDeque<registry::UserSlot>,
    /// The number of the last batch that was published.
    published: u64,
    presence: Presence,
    /// The other nodes, if this one is not alone.
    peers: Option<Peers>,
    stopping: bool,
    /// The writer has ended before everybody else, which only a panic does.
    bereft: bool,
    metrics: Arc<Metrics>,
    clock: Clock,
    limits: Arc<Limits>,
    spread: u64,
}

impl Router {
    /// Runs until every handle is gone, then until the store has told the outcome of every write and has closed.
    /// The cut of `tasks` ends it at once, but for the closing.
    pub(crate) async fn run(mut self, tasks: Tasks) {
        let cut = tasks.cut().clone();
        let mut inputs = Vec::with_capacity(TURN);
        let mut batches = 0_u64;
        loop {
            // In this order, so that the same causes have the same effects: docs/decisions/0034-simulation.md. Acknowledgements
            // come before departures, of which there may be very many at once. None waits for long: after some batches in
            // a row departures have their turn, and a batch takes what was asked before it along.
            tokio::select! {
                biased;
                () = cut.cancelled() => break,
                () = self.gathering.ended() => self.release(),
                batch = self.batches.recv(), if !self.bereft => match batch {
                    Some(batch) => {
                        self.catch_up(&mut inputs);
                        self.publish(batch);
                        batches += 1;
                        if batches.is_multiple_of(BATCHES_IN_A_ROW) {
                            self.take_due(None);
                        }
                    }
                    None => {
                        self.give_up();
                        tasks.fail(WRITER_THREAD, End::Panicked);
                    }
                },
                due = self.presence.due(self.departing < DEPARTURES) => self.take_due(Some(due)),
                next = peers::next(self.peers.as_mut()) => {
                    self.catch_up(&mut inputs);
                    self.attend(next);
                }
                count = self.inputs.recv_many(&mut inputs, TURN) => {
                    if count == 0 {
                        break;
                    }
                    inputs.drain(..).for_each(|input| self.handle(input));
                }
                () = std::future::ready(()), if !self.unloading.is_empty() => {}
            }
            self.unload();
            self.settle();
        }
        if cut.is_cancelled() {
            self.tell_gone();
        } else {
            self.release();
            self.depart_all(&cut).await;
        }
        let Self { mut batches, store, peers, .. } = self;
        // The writer ends with the last owner of the store, after the last write.
        drop((store, peers));
        tokio::select! {
            biased;
            () = async { while batches.recv().await.is_some() {} } => {}
            () = async { cut.cancelled().await; tokio::time::sleep(CLOSING).await } => {}
        }
    }

    /// Handles what was asked before a batch came: a session that writes has asked to be live before, and
    /// must be, so that its own events are known to be its own.
    fn catch_up(&mut self, inputs: &mut Vec<Input>) {
        let waiting = self.inputs.len();
        inputs.extend(std::iter::from_fn(|| self.inputs.try_recv().ok()).take(waiting));
        inputs.drain(..).for_each(|input| self.handle(input));
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::Enter { user, outbox, reply } => self.enter(&user, outbox, reply),
            Input::Load(load) => self.load(*load),
            Input::Subscribe(subscribe) => self.subscribe(*subscribe),
            Input::Leave(session) => self.leave(session),
            Input::Typing { user, conversation, standing, from } => {
                self.typing(&user, conversation, standing, from.as_ref());
            }
            Input::Watch { session, users } => self.watch(session, users),
            Input::Revoke(user) => {
                self.tell_revoked(&user);
                self.revoke(&user);
            }
            Input::Stop => self.stop(),
        }
    }

    fn typing(
        &mut self,
        user: &UserId,
        conversation: ConversationId,
        standing: Standing,
        from: Option<&Arc<Outbox>>,
    ) {
        let signal = Signal::Typing { conversation, user: user.clone() };
        self.signal(&signal, user, standing.conversation, standing.members, from);
    }

    /// Passes a signal of `user`'s on to the members' sessions, in a large room only to the user's own.
    fn signal(
        &mut self,
        signal: &Signal,
        user: &UserId,
        conversation: ConversationKey,
        members: u64,
        from: Option<&Arc<Outbox>>,
    ) {
        let frame = encode(signal);
        let small = members <= u64::from(self.limits.signal_room);
        self.tell_signal(signal, user, conversation, !small);
        let tell = |outbox: &Arc<Outbox>| {
            if !from.is_some_and(|from| Arc::ptr_eq(from, outbox)) {
                outbox.push_signal(&frame);
            }
        };
        if small {
            self.registry.sessions_in(conversation).for_each(tell);
        } else if let Some(user) = self.registry.find(user) {
            // They may have gone since that they may write was looked up.
            if self.registry.is_member(user, conversation) {
                self.registry.live_sessions(user).for_each(tell);
            }
        }
    }

    /// Does what is due of presence, a portion of it.
    fn take_due(&mut self, mut due: Option<Due>) {
        for _ in 0..DEPARTURES {
            let departures = self.departing < DEPARTURES;
            match due.take().or_else(|| self.presence.due(departures).now_or_never()) {
                Some(Due::Departed(user)) => self.depart(user),
                Some(Due::Unanswered(user)) => {
                    self.presence.give_up_asking(&self.registry, &user, self.clock.now());
                }
                None => return,
            }
        }
    }

    /// A user whose last session left some time ago goes offline.
    fn depart(&mut self, user: registry::UserSlot) {
        if let Some((user, at)) = self.go_offline(user) {
            self.store_last_seen(user, at);
        }
    }

    /// Takes a user who has gone from among the members of their conversations, so many at a time that nothing else waits for
    /// long. One who comes back meanwhile stays in the others.
    fn unload(&mut self) {
        let Some(user) = self.unloading.front().copied() else { return };
        if !self.registry.unload(user, UNLOADED) {
            return;
        }
        self.unloading.pop_front();
        if self.registry.shrink() {
            self.presence.shrink();
            self.recent.shrink();
        }
    }

    fn watch(&mut self, session: SessionSlot, users: Vec<Acquaintance>) {
        self.presence.watch(&mut self.registry, session, users);
    }

    fn revoke(&mut self, user: &UserId) {
        for outbox in self.registry.all_sessions_of(user) {
            self.metrics.dropped(Drop::Revoked);
            outbox.close(CloseCode::Revoked);
        }
    }

    /// No write has an outcome any more, and what a snapshot waits for is never published: nobody is to wait for either.
    fn give_up(&mut self) {
        self.bereft = true;
        self.release();
        for session in self.registry.sessions() {
            session.outbox.abandon(CloseCode::TryLater);
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.release();
        for session in self.registry.sessions() {
            bid_farewell(&session.outbox, self.spread);
        }
    }
}

/// Tells a client when to come back. The delays of all clients are spread evenly over the window, so
/// that a restart is not met by everybody at once.
fn bid_farewell(outbox: &Outbox, spread: u64) {
    let mut random = [0; 8];
    // Without randomness they all come back at once, which the next server survives too.
    let _ = getrandom::fill(&mut random);
    let bye = Reply::<Box<RawValue>>::Bye { retry_after: u64::from_ne_bytes(random) % spread.max(1) };
    outbox.push_reply(encode(&bye));
    outbox.close(CloseCode::Restart);
}
