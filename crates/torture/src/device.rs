//! One device of a user, which uses the Rust client: it sends, receives, disconnects, resumes, and checks the server's answers.

mod act;
mod progress;
mod receive;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use switchboard_client::{Client, ClientError};
use switchboard_protocol::reply::Welcome;
use switchboard_protocol::{Command, ConversationId, Conversations, Ping, Seq, UserId};
use tokio::time::{Instant, sleep, timeout};

use self::progress::Progress;
use crate::record::Law;
use crate::world::{Phase, World, hello};

/// How long an answer may take before the device closes the connection.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(6);

/// A user who tried to join a room may receive its events before the event of the join, for this long after the attempt.
const MAX_JOIN_TIME: Duration = Duration::from_secs(120);

/// The most events that the device requests in a page.
const PAGE_SIZE: u32 = 200;

/// The most sends of the device that have no answer yet.
const MAX_IN_FLIGHT: usize = 64;

/// How often a device asks at the end of the run whether it has every event.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long a device may take to catch up after the faults have ended.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(90);

/// A message that the server has not acknowledged yet.
struct Outgoing {
    key: String,
    conversation: ConversationId,
    /// Whether the message was sent on the current connection and has no answer yet.
    in_flight: bool,
    /// The id of the command that first sent the message on the current connection.
    in_flight_id: Option<i64>,
}

/// A message that the server has acknowledged.
struct StoredMessage {
    key: String,
    conversation: ConversationId,
    seq: Seq,
}

/// What a command was about; needed to interpret its answer.
enum PendingRequest {
    Send(String),
    /// A retry of an acknowledged message, which must be answered as a duplicate.
    Retry(String),
    /// A different message with the key of an acknowledged one, which must be refused.
    Conflict(String),
    /// A command that appends an event, of this kind.
    Write(ConversationId, &'static str),
    Read(ConversationId),
    Page(ConversationId),
    /// A command about a conversation that the user may not see, which must be refused.
    Probe(ConversationId),
    Summaries,
    Other,
}

/// The reason why a connection ended, for the history of the run.
type Disconnect = String;

pub(crate) struct Device {
    world: Arc<World>,
    id: u32,
    user: UserId,
    name: String,
    rng: fastrand::Rng,
    progress: FxHashMap<ConversationId, Progress>,
    /// For each room whose first received event did not add the user, the event before the received one.
    first_received_after: Vec<(ConversationId, Seq)>,
    outbox: VecDeque<Outgoing>,
    stored: Vec<StoredMessage>,
    /// How many messages the device has written; the next message gets the next number.
    next_message_number: u64,
    /// After a refusal, the device sends nothing before this time.
    hold_until: Instant,
    /// How long the device stays disconnected the next time that it disconnects.
    offline: Duration,
    /// When the device must have caught up; `None` while faults are injected.
    deadline: Option<Instant>,
    /// Whether the device is counted in `World::idle_devices`.
    is_idle: bool,
    /// The index of the node to which the device connects.
    node: usize,
    /// Whether the last attempt to connect failed.
    connect_failed: bool,
}

/// What a device has received by the end of the run.
pub(crate) struct FinalState {
    pub(crate) user: UserId,
    pub(crate) name: String,
    /// The cursor in each conversation, and the event with which the user left, if they left.
    pub(crate) cursors: Vec<(ConversationId, Seq, Option<Seq>)>,
    /// Rooms whose first received event did not add the user, each with the event before it. That event must be the one with which
    /// the user had left, after which the user rejoined.
    pub(crate) first_received_after: Vec<(ConversationId, Seq)>,
}

/// One connection of a device.
struct Connection {
    client: Client,
    pending: FxHashMap<i64, (PendingRequest, Instant)>,
    /// The last event that the server pushed, by conversation.
    last_pushed: FxHashMap<ConversationId, Seq>,
    /// The cursors that the device sent in `hello`.
    started_after: FxHashMap<ConversationId, Seq>,
    /// The device's own events that were acknowledged on this connection, and that the server therefore must not push.
    own_events: FxHashSet<(ConversationId, Seq)>,
    /// Since when the device has been reading without a pause.
    reading_since: Instant,
}

impl Device {
    pub(crate) fn new(world: Arc<World>, user: UserId, number: usize, rng: fastrand::Rng) -> Self {
        let name = format!("{user}.{number}");
        let id = world.record.register_device(name.clone());
        let hold_until = Instant::now();
        Self {
            world,
            id,
            user,
            name,
            rng,
            progress: FxHashMap::default(),
            first_received_after: Vec::new(),
            outbox: VecDeque::new(),
            stored: Vec::new(),
            next_message_number: 0,
            hold_until,
            offline: Duration::ZERO,
            deadline: None,
            is_idle: false,
            node: 0,
            connect_failed: false,
        }
    }

    /// Connects again and again until the run is over and the device has caught up.
    pub(crate) async fn run(mut self) -> FinalState {
        let mut backoff = 20;
        loop {
            match self.connect().await {
                Ok(mut connection) => {
                    backoff = 20;
                    self.connect_failed = false;
                    match self.run_connection(&mut connection).await {
                        Ok(()) => break,
                        Err(reason) => self.world.record.record_disconnected(self.id, reason),
                    }
                    if self.rng.bool() {
                        // If the server does not answer in time, the connection ends without the closing handshake.
                        let _ = timeout(REQUEST_TIMEOUT, connection.client.close()).await;
                    }
                }
                Err(reason) => {
                    self.connect_failed = true;
                    self.world.record.record_disconnected(self.id, reason);
                    backoff = (backoff * 2).min(500);
                }
            }
            if self.catch_up_timed_out() {
                break;
            }
            // The delay is random (jitter), because docs/protocol.md requires that of clients.
            let pause = Duration::from_millis(self.rng.u64(0..backoff)) + std::mem::take(&mut self.offline);
            let mut phase = self.world.phase.clone();
            tokio::select! {
                () = sleep(pause) => {}
                _ = phase.changed() => {}
            }
        }
        let cursors = self
            .progress
            .into_iter()
            .map(|(id, progress)| (id, progress.cursor, progress.left_with))
            .collect();
        FinalState {
            user: self.user,
            name: self.name,
            cursors,
            first_received_after: self.first_received_after,
        }
    }

    async fn connect(&mut self) -> Result<Connection, Disconnect> {
        let mut hello = hello(&self.user);
        hello.cursors = self.progress.iter().map(|(id, progress)| (id.clone(), progress.cursor)).collect();
        let from: FxHashMap<_, _> = hello.cursors.iter().map(|(id, seq)| (id.clone(), *seq)).collect();
        let reads = self.read_cursors();
        self.choose_node();
        let connected =
            timeout(REQUEST_TIMEOUT, Client::connect(&self.world.proxied_urls[self.node], hello)).await;
        let (client, welcome) = match connected {
            Ok(Ok(connected)) => connected,
            Ok(Err(ClientError::Refused(failure))) if !failure.retryable => {
                self.breach(Law::WrongAnswer, format!("hello was answered with {failure:?}"), None);
                return Err("hello was refused".to_owned());
            }
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("no welcome before the time-out".to_owned()),
        };
        self.world.record.record_connected(self.id);
        self.check_welcome(&welcome, &reads);
        for outgoing in &mut self.outbox {
            outgoing.in_flight = false;
            outgoing.in_flight_id = None;
        }
        for progress in self.progress.values_mut() {
            progress.is_paging = false;
        }
        Ok(Connection {
            client,
            pending: FxHashMap::default(),
            last_pushed: FxHashMap::default(),
            started_after: from,
            own_events: FxHashSet::default(),
            reading_since: Instant::now(),
        })
    }

    /// Chooses a random node, as a load balancer does; a different one if the last attempt to connect failed.
    fn choose_node(&mut self) {
        let nodes = self.world.proxied_urls.len();
        if nodes > 1 {
            let step = self.rng.usize(usize::from(self.connect_failed)..nodes);
            self.node = (self.node + step) % nodes;
        }
    }

    /// The read cursors that the server has reported to this user so far.
    fn read_cursors(&self) -> FxHashMap<ConversationId, Seq> {
        let inner = self.world.record.lock();
        let of = |id: &ConversationId| inner.reads.get(&(self.user.clone(), id.clone())).copied();
        self.progress.keys().filter_map(|id| Some((id.clone(), of(id)?))).collect()
    }

    fn check_welcome(&mut self, welcome: &Welcome, reads: &FxHashMap<ConversationId, Seq>) {
        for summary in &welcome.conversations {
            let id = &summary.conversation;
            if reads.get(id).is_some_and(|read| *read > summary.read) {
                self.breach(Law::WentBack, format!("the read cursor in {id} went back: {summary:?}"), None);
            }
            match self.progress.get(id) {
                Some(progress) if progress.cursor > summary.head && progress.left_with.is_none() => {
                    let what = format!(
                        "{} has {id} up to {}, and its head is {}",
                        self.name, progress.cursor.0, summary.head.0
                    );
                    self.breach(Law::Lost, what, Some((id, progress.cursor)));
                }
                Some(_) => {}
                None => {
                    self.progress.insert(id.clone(), Progress::at(summary.head));
                }
            }
        }
    }

    /// Uses the connection until it ends, which is an error, or until the device has caught up at the end of the run.
    async fn run_connection(&mut self, connection: &mut Connection) -> Result<(), Disconnect> {
        let mut next = Instant::now();
        let mut pinged = Instant::now();
        let mut polled = Instant::now();
        loop {
            self.flush(connection).await?;
            let phase = self.world.phase();
            if phase > Phase::Measuring && self.outbox.is_empty() && connection.pending.is_empty() {
                if !std::mem::replace(&mut self.is_idle, true) {
                    self.world.idle_devices.fetch_add(1, Ordering::SeqCst);
                }
                if phase == Phase::CatchUp && polled.elapsed() > POLL_INTERVAL {
                    polled = Instant::now();
                    let command = Conversations { before: None, limit: Some(PAGE_SIZE) };
                    self.submit(connection, command, PendingRequest::Summaries).await?;
                }
            }
            if let Some((_, (_, since))) = connection.pending.iter().min_by_key(|(_, (_, since))| *since)
                && since.elapsed() > REQUEST_TIMEOUT
            {
                return Err(format!("no answer for {REQUEST_TIMEOUT:?}"));
            }
            tokio::select! {
                frame = connection.client.next() => match frame {
                    Some(Ok(frame)) => {
                        if self.on_frame(connection, frame).await? {
                            return Ok(());
                        }
                    }
                    Some(Err(error)) => return Err(error.to_string()),
                    None => return Err(format!("closed with {:?}", connection.client.close_code())),
                },
                () = tokio::time::sleep_until(next) => {
                    if self.catch_up_timed_out() {
                        return Ok(());
                    }
                    if pinged.elapsed() > Duration::from_secs(2) {
                        pinged = Instant::now();
                        self.submit(connection, Ping {}, PendingRequest::Other).await?;
                    }
                    next = Instant::now() + self.time_until_next_action();
                    if phase <= Phase::Measuring {
                        self.random_action(connection).await?;
                    } else {
                        next = Instant::now() + POLL_INTERVAL;
                    }
                }
            }
        }
    }

    /// Reports a breach if the time to catch up is over. Returns whether it is.
    fn catch_up_timed_out(&mut self) -> bool {
        if self.world.phase() <= Phase::Measuring {
            return false;
        }
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + CATCH_UP_TIMEOUT);
        if Instant::now() < deadline {
            return false;
        }
        let what = format!(
            "{} has not caught up after {CATCH_UP_TIMEOUT:?}; {} messages are not acknowledged",
            self.name,
            self.outbox.len()
        );
        self.breach(Law::Stuck, what, None);
        true
    }

    fn breach(&self, law: Law, what: String, position: Option<(&ConversationId, Seq)>) {
        self.world.record.breach(law, what, &[], position);
    }

    async fn submit(
        &self,
        connection: &mut Connection,
        command: impl Into<Command>,
        request: PendingRequest,
    ) -> Result<(), Disconnect> {
        self.resubmit(connection, None, command, request).await?;
        Ok(())
    }

    /// Submits a command and returns its id. A write that was refused before is sent with its old number.
    async fn resubmit(
        &self,
        connection: &mut Connection,
        sent_as: Option<i64>,
        command: impl Into<Command>,
        request: PendingRequest,
    ) -> Result<i64, Disconnect> {
        let client = &mut connection.client;
        let submitted = async {
            match sent_as {
                Some(id) => client.resend(id, command).await,
                None => client.submit(command).await,
            }
        };
        match timeout(REQUEST_TIMEOUT, submitted).await {
            Ok(Ok(id)) => {
                connection.pending.insert(id, (request, Instant::now()));
                Ok(id)
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the server does not read".to_owned()),
        }
    }

    /// Sends queued messages in order.
    async fn flush(&mut self, connection: &mut Connection) -> Result<(), Disconnect> {
        if Instant::now() < self.hold_until {
            return Ok(());
        }
        let in_flight = self.outbox.iter().filter(|outgoing| outgoing.in_flight).count();
        let waiting: Vec<usize> = (0..self.outbox.len()).filter(|i| !self.outbox[*i].in_flight).collect();
        // Messages are sent in order, so that no new message overtakes a refused one that waits for its retry.
        for index in waiting.into_iter().take(MAX_IN_FLIGHT.saturating_sub(in_flight)) {
            let outgoing = &mut self.outbox[index];
            outgoing.in_flight = true;
            let (key, conversation) = (outgoing.key.clone(), outgoing.conversation.clone());
            let sent_as = outgoing.in_flight_id;
            let command = act::message(&key, &conversation);
            let id = self.resubmit(connection, sent_as, command, PendingRequest::Send(key)).await?;
            self.outbox[index].in_flight_id = Some(id);
        }
        Ok(())
    }
}
