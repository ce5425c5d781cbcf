//! A user's device: it connects, sends commands, and records for each conversation which events it has.

mod numbers;
mod presence;
mod receiving;
mod settling;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt as _, DuplexStream, split};
use tokio::time::{Instant, sleep_until};

use self::numbers::WriteNumbers;
use crate::chance::Chance;
use crate::truth::LawResult;
use crate::wait_simulated;
use crate::wire::{self, FrameReader, Received};
use crate::world::{Phase, SimulatedWorld};

/// After the users have stopped, a device that receives no frames checks this often for remaining work.
const IDLE_INTERVAL: Duration = Duration::from_millis(250);

/// A user's device.
pub(crate) struct Device {
    pub(crate) world: Arc<SimulatedWorld>,
    pub(crate) name: String,
    pub(crate) user: &'static str,
    pub(crate) chance: Chance,
    pub(crate) local_logs: BTreeMap<String, LocalLog>,
    /// Messages that the server has not answered yet, oldest first.
    pub(crate) unsent: VecDeque<Message>,
    /// The last number that the device used in an idempotency key or as a command id.
    pub(crate) number: u64,
    /// Whether the world has counted the device among those that have no more unsent messages.
    is_finished: bool,
    /// Whether the device knows all of the user's conversations, because the final audit has listed them.
    has_all_conversations: bool,
    /// The conversations that the final audit has read.
    audited_logs: BTreeSet<String>,
}

/// The events of one conversation that a device has received.
#[derive(Default)]
pub(crate) struct LocalLog {
    /// The device has every event up to this seq, or the missing ones are older than its first connection.
    pub(crate) cursor: u64,
    /// The seqs above `cursor` that the device has already received.
    received_ahead: BTreeSet<u64>,
    /// The highest seq that the device knows in the conversation.
    pub(crate) head: u64,
}

/// A message that the server has not answered yet.
pub(crate) struct Message {
    pub(crate) key: String,
    pub(crate) command: Value,
    /// The id of the command that sent the message on this connection; `None` if it was not sent yet.
    sent_as_command: Option<u64>,
    /// The number of the write on this connection, if the connection numbers its writes.
    number: Option<u64>,
    /// The device does not send the message before this time.
    not_before: Instant,
}

/// The purpose of a command that waits for its answer.
#[derive(Debug, Clone)]
pub(crate) enum PendingCommand {
    Message { key: String, to: String, at: Instant },
    Change { join: bool },
    Cursor { conversation: String, upto: u64 },
    Log { conversation: String, after: u64, seen: bool },
    History { before: Option<u64>, seen: bool, conversation: String },
    Conversations { since: Option<Instant>, first: bool },
    Other,
}

/// The state of one connection of the device.
pub(crate) struct Session {
    since: Instant,
    welcome: bool,
    /// The time at which `welcome` arrived.
    welcomed: Instant,
    /// Whether [`Device::check_all_events_arrived`] has checked this connection.
    is_settled: bool,
    /// The seq of the next event that the device expects in each conversation on this connection.
    next_expected: BTreeMap<String, u64>,
    /// The device's own events, as conversation and seq. The server acknowledges these with `ok` and does not send them.
    own_events: BTreeSet<(String, u64)>,
    /// For each conversation, the ranges of events that a `gap` frame skipped: above the first seq, up to and including the second.
    gaps: BTreeMap<String, Vec<(u64, u64)>>,
    /// Conversations that the user has left, with the seq of the leave event.
    left_at: BTreeMap<String, u64>,
    watching: presence::WatchState,
    /// The highest cursor position received for each conversation, user, and kind (true for the read cursor).
    cursors: BTreeMap<(String, String, bool), u64>,
    /// The last stored message of this device in each conversation: its write number or command id, and its seq.
    last_order: BTreeMap<String, (u64, u64)>,
    pub(crate) pending: BTreeMap<u64, PendingCommand>,
    /// The numbers of the writes; `None` if this connection does not number its writes.
    numbers: Option<WriteNumbers>,
    /// Bytes that the device has not written to the connection yet.
    unwritten: Vec<u8>,
    /// The device does not read before this time.
    pub(crate) reads_from: Instant,
    /// The device sends nothing before this time, because the server answered with `retry_after`.
    no_answer_until: Instant,
    /// Whether the device is to close the connection.
    pub(crate) is_closing: bool,
    /// Whether the device closes the connection in the middle of a frame.
    pub(crate) closes_in_mid_frame: bool,
}

impl LocalLog {
    /// Records that the device has the event with this seq.
    fn record_received(&mut self, seq: u64) {
        self.head = self.head.max(seq);
        if seq > self.cursor {
            self.received_ahead.insert(seq);
            while self.received_ahead.remove(&(self.cursor + 1)) {
                self.cursor += 1;
            }
        }
    }

    fn at(base: u64) -> Self {
        Self { cursor: base, received_ahead: BTreeSet::new(), head: base }
    }
}

impl Device {
    pub(crate) fn new(world: Arc<SimulatedWorld>, name: String, user: &'static str, chance: Chance) -> Self {
        Self {
            world,
            name,
            user,
            chance,
            local_logs: BTreeMap::new(),
            unsent: VecDeque::new(),
            number: 0,
            is_finished: false,
            has_all_conversations: false,
            audited_logs: BTreeSet::new(),
        }
    }

    pub(crate) fn record_in_history(&self, what: std::fmt::Arguments<'_>) {
        self.world.lock_model().record(&self.name, what);
    }

    /// Connects repeatedly until the run is over or the device's audit is complete.
    pub(crate) async fn run(mut self) {
        while !self.world.is_in_phase(Phase::Ended) && !self.has_all_events() {
            self.world.end_if_violated();
            let storm = self.world.is_in_phase(Phase::Faults);
            if let Some((stream, node)) = self.world.connect(&self.chance) {
                self.record_in_history(format_args!("connects to server {node}"));
                self.run_connection(stream, storm).await;
                self.world.is_connected(&self.name, None);
            }
            let pause = if storm { self.chance.random_delay(4_000) } else { Duration::from_millis(200) };
            wait_simulated(pause + Duration::from_millis(10)).await;
        }
    }

    /// Runs a connection from `hello` to its end.
    async fn run_connection(&mut self, stream: DuplexStream, storm: bool) {
        let (mut read, mut write) = split(stream);
        // Half of the connections number their writes. No random number decides it, so that known seeds keep their runs.
        let mut session = Session::new(self.number.is_multiple_of(2));
        self.says_hello(&mut session);
        let mut reader = FrameReader::default();
        let chunk = self.chance.random_choice(&[16, 100, 4_096]);
        let phases = self.world.phase.clone();
        let mut act = Instant::now();
        let (mut received_at, silence) = (Instant::now(), self.silence_timeout());
        loop {
            let now = Instant::now();
            let phase = phases.get();
            let over = if storm { phase != Phase::Faults } else { phase == Phase::Ended };
            if session.is_closing && (session.closes_in_mid_frame || session.unwritten.is_empty())
                || over
                || self.has_all_events()
            {
                return;
            }
            received_at = received_at.max(session.reads_from);
            if received_at + silence <= now {
                self.record_in_history(format_args!("receives nothing"));
                return;
            }
            if act <= now {
                self.world.end_if_violated();
                let lively = self.world.has_load();
                if lively {
                    self.random_actions(&mut session);
                }
                act = now + if lively { self.chance.random_millis(1, 400) } else { IDLE_INTERVAL };
            }
            self.continue_session(&mut session);
            let mut timer = act.min(received_at + silence);
            if session.reads_from > now {
                timer = timer.min(session.reads_from);
            }
            tokio::select! {
                biased;
                _ = phases.until(|now| now != phase) => {}
                written = write.write(&session.unwritten), if !session.unwritten.is_empty() => match written {
                    Ok(written) => drop(session.unwritten.drain(..written)),
                    Err(_) => return,
                },
                received = reader.next(&mut read, chunk), if session.reads_from <= now => {
                    received_at = Instant::now();
                    match self.receives(&mut session, received) {
                        Ok(true) => {}
                        Ok(false) => return,
                        Err(_) => {
                            self.world.enter_phase(Phase::Ended);
                            return;
                        }
                    }
                }
                () = sleep_until(timer) => {}
            }
        }
    }

    /// The device closes a connection on which it has received no frame for this long.
    fn silence_timeout(&self) -> Duration {
        let limits = &self.world.limits;
        Duration::from_millis(u64::from(limits.ping_interval + limits.pong_timeout) * 3 + 5_000)
    }

    fn says_hello(&mut self, session: &mut Session) {
        let forgets = self.world.is_in_phase(Phase::Faults) && self.chance.once_in(12);
        let mut cursors = serde_json::Map::new();
        for (name, place) in &self.local_logs {
            if !forgets || self.chance.once_in(2) {
                cursors.insert(name.clone(), place.cursor.into());
                session.next_expected.insert(name.clone(), place.cursor + 1);
            }
        }
        let hello = json!({"type": "hello", "user": self.user, "device": self.name, "cursors": cursors});
        self.queue_frame_and_record(session, &hello);
    }

    /// Queues a frame to be sent, and adds it to the record of the run.
    fn queue_frame_and_record(&self, session: &mut Session, frame: &Value) {
        self.record_in_history(format_args!("> {frame}"));
        session.queue_frame(&wire::text(&frame.to_string()));
    }

    /// Sends a command and records in `asked` what to do with its answer.
    pub(crate) fn send_command(&mut self, session: &mut Session, mut command: Value, asked: PendingCommand) {
        self.number += 1;
        command["id"] = self.number.into();
        let message = match &asked {
            PendingCommand::Message { key, .. } => self.unsent.iter_mut().find(|message| message.key == *key),
            _ => None,
        };
        if let Some(numbers) = &mut session.numbers
            && matches!(asked, PendingCommand::Message { .. } | PendingCommand::Change { .. })
        {
            let before = message.as_ref().and_then(|message| message.number);
            let (number, after) = numbers.assign_number(self.number, before);
            if let Some(message) = message {
                message.number = Some(number);
            }
            (command["n"], command["after"]) = (number.into(), after.into());
        }
        session.pending.insert(self.number, asked);
        self.queue_frame_and_record(session, &command);
    }

    /// Sends pending messages, requests missing events and continues the final audit, as far as the connection allows.
    fn continue_session(&mut self, session: &mut Session) {
        let now = Instant::now();
        if self.world.is_in_phase(Phase::Audit) && !std::mem::replace(&mut session.is_settled, true) {
            self.check_all_events_arrived(session);
        }
        if !session.welcome || session.is_closing || session.no_answer_until > now {
            return;
        }
        let waiting = |message: &Message| message.sent_as_command.is_none() && message.not_before <= now;
        while let Some(at) = self.unsent.iter().position(waiting) {
            let (key, command) = (self.unsent[at].key.clone(), self.unsent[at].command.clone());
            let to = command["to"].as_str().unwrap_or_default().to_owned();
            self.send_command(session, command, PendingCommand::Message { key, to, at: now });
            self.unsent[at].sent_as_command = Some(self.number);
        }
        let holes = self.local_logs.iter().filter(|(_, place)| place.cursor < place.head);
        let holes: Vec<_> = holes.map(|(name, place)| (name.clone(), place.cursor)).collect();
        for (name, after) in holes {
            let asks = |asked: &PendingCommand| matches!(asked, PendingCommand::Log { conversation, .. } if *conversation == name);
            if !session.pending.values().any(asks) {
                self.request_log(session, &name, after);
            }
        }
        match self.world.phase.get() {
            Phase::WithoutFaults if self.unsent.is_empty() && !self.is_finished && !self.world.has_load() => {
                self.is_finished = true;
            }
            Phase::Audit => return self.audit_next_log(session),
            // Waits for all requested pages first, because the server drops signals while pages fill the queue.
            Phase::CatchUp if session.pending.is_empty() => return self.send_final_list(session),
            _ => return,
        }
        self.world.count_finished_device();
    }

    pub(crate) fn request_log(&mut self, session: &mut Session, name: &str, after: u64) {
        let limit = if self.world.is_in_phase(Phase::Audit) {
            200
        } else {
            self.chance.random_choice(&[1, 2, 5, 200])
        };
        let command = json!({"type": "sync", "conversation": name, "after": after, "limit": limit});
        let seen = self.world.lock_model().visible_head(self.user, name).is_some();
        self.send_command(
            session,
            command,
            PendingCommand::Log { conversation: name.to_owned(), after, seen },
        );
    }

    /// Whether the device has read every conversation again in the final audit.
    fn has_all_events(&self) -> bool {
        self.world.is_in_phase(Phase::Audit) && self.audited_logs.len() == self.local_logs.len() && {
            let truth = self.world.lock_model();
            let complete =
                |(name, place): (&String, &LocalLog)| truth.is_complete(self.user, name, place.cursor);
            let known = truth.conversations(self.user);
            self.local_logs.iter().all(complete)
                && known.iter().all(|name| self.local_logs.contains_key(name))
        }
    }

    /// The final audit: reads every conversation again from the first event on.
    fn audit_next_log(&mut self, session: &mut Session) {
        if !session.welcome || !session.pending.is_empty() || session.no_answer_until > Instant::now() {
            return;
        }
        if !self.has_all_conversations {
            let asked = PendingCommand::Conversations { since: Some(Instant::now()), first: true };
            return self.send_command(session, json!({"type": "conversations"}), asked);
        }
        if let Some(name) = self.local_logs.keys().find(|name| !self.audited_logs.contains(*name)).cloned() {
            self.local_logs
                .insert(name.clone(), LocalLog { head: self.local_logs[&name].head, ..LocalLog::default() });
            self.audited_logs.insert(name.clone());
            self.request_log(session, &name, 0);
            let command = json!({"type": "history", "conversation": name, "limit": 200});
            let seen = true;
            self.send_command(
                session,
                command,
                PendingCommand::History { before: None, seen, conversation: name },
            );
        }
    }
}

impl Session {
    fn new(numbered: bool) -> Self {
        let now = Instant::now();
        Self {
            since: now,
            welcome: false,
            welcomed: now,
            is_settled: false,
            next_expected: BTreeMap::new(),
            own_events: BTreeSet::new(),
            gaps: BTreeMap::new(),
            left_at: BTreeMap::new(),
            watching: presence::WatchState::default(),
            cursors: BTreeMap::new(),
            last_order: BTreeMap::new(),
            pending: BTreeMap::new(),
            numbers: numbered.then(WriteNumbers::default),
            unwritten: Vec::new(),
            reads_from: now,
            no_answer_until: now,
            is_closing: false,
            closes_in_mid_frame: false,
        }
    }
}

impl Session {
    fn queue_frame(&mut self, bytes: &[u8]) {
        self.unwritten.extend(bytes);
    }
}

impl Message {
    pub(crate) fn new(key: String, command: Value) -> Self {
        Self { key, command, sent_as_command: None, number: None, not_before: Instant::now() }
    }
}
