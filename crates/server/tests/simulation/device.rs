//! A device of somebody's: it connects, says things, and keeps for each conversation what of the log it has.

mod hearing;
mod presence;
mod settling;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt as _, DuplexStream, split};
use tokio::time::{Instant, sleep_until};

use crate::chance::Chance;
use crate::network::Arrivals;
use crate::truth::Held;
use crate::wait;
use crate::wire::{self, Heard, Reader};
use crate::world::{Phase, World};

/// How often a device looks what is left to do, in the end, if it hears nothing.
const CALM: Duration = Duration::from_millis(250);

/// Somebody's device.
pub(crate) struct Device {
    pub(crate) world: Arc<World>,
    pub(crate) name: String,
    pub(crate) user: &'static str,
    pub(crate) chance: Chance,
    pub(crate) places: BTreeMap<String, Place>,
    /// Messages without an answer yet, oldest first.
    pub(crate) unsaid: VecDeque<Message>,
    /// Of the last key and the last command.
    pub(crate) number: u64,
    has_said_all: bool,
    /// All conversations have been listed, in the end.
    knows_all: bool,
    /// Which of them have been looked through.
    audited: BTreeSet<String>,
}

/// What a device has of a conversation.
#[derive(Default)]
pub(crate) struct Place {
    /// Everything up to here is there, or was before the device's time.
    pub(crate) cursor: u64,
    /// What is there beyond.
    beyond: BTreeSet<u64>,
    /// There are events up to here.
    pub(crate) head: u64,
}

/// A message on its way.
pub(crate) struct Message {
    pub(crate) key: String,
    pub(crate) command: Value,
    /// The command on this connection that carries it.
    flight: Option<u64>,
    /// Not again before this time.
    not_before: Instant,
}

/// What a command was for.
#[derive(Debug, Clone)]
pub(crate) enum Asked {
    Message { key: String, to: String, at: Instant },
    Change { join: bool },
    Cursor { conversation: String, upto: u64 },
    Log { conversation: String, after: u64, seen: bool },
    History { before: Option<u64>, seen: bool, conversation: String },
    Conversations { since: Option<Instant>, first: bool },
    Other,
}

/// A command that is stored in its turn.
struct Write {
    /// It was the connection's bytes up to here.
    end: u64,
    outcome: Outcome,
}

/// What became of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Unknown,
    Stored,
    /// To be said again; what arrives within this time is not to be stored before it.
    Refused(Duration),
}

/// One connection.
pub(crate) struct Session {
    since: Instant,
    welcome: bool,
    /// When it was welcome.
    welcomed: Instant,
    /// It was looked at when everything was to have arrived.
    settled: bool,
    /// The next event of each conversation that the connection follows.
    next: BTreeMap<String, u64>,
    /// Own events, of which `ok` told.
    own: BTreeSet<(String, u64)>,
    /// What `gap` told to be left out: after, up to.
    gaps: BTreeMap<String, Vec<(u64, u64)>>,
    /// Conversations that one has gone from, with the event of going.
    left: BTreeMap<String, u64>,
    watching: presence::Watching,
    /// Cursors that signals have told of: conversation, user, kind.
    cursors: BTreeMap<(String, String, bool), u64>,
    /// The last own message of each conversation that was stored: command and seq.
    order: BTreeMap<String, (u64, u64)>,
    pub(crate) asked: BTreeMap<u64, Asked>,
    /// What became of each command that is to be stored in its turn.
    writes: BTreeMap<u64, Write>,
    arrivals: Arrivals,
    /// Bytes that were said.
    said: u64,
    /// Bytes to be written.
    out: Vec<u8>,
    /// The device reads on at this time.
    pub(crate) reads_from: Instant,
    /// The server has asked for patience.
    quiet_until: Instant,
    /// The connection is given up.
    pub(crate) over: bool,
    /// It is dropped in the middle of a word.
    pub(crate) rude: bool,
}

impl Place {
    /// Takes note of an event; whether it is new.
    fn has(&mut self, seq: u64) {
        self.head = self.head.max(seq);
        if seq > self.cursor {
            self.beyond.insert(seq);
            while self.beyond.remove(&(self.cursor + 1)) {
                self.cursor += 1;
            }
        }
    }

    fn at(base: u64) -> Self {
        Self { cursor: base, beyond: BTreeSet::new(), head: base }
    }
}

impl Device {
    pub(crate) fn new(world: Arc<World>, name: String, user: &'static str, chance: Chance) -> Self {
        Self {
            world,
            name,
            user,
            chance,
            places: BTreeMap::new(),
            unsaid: VecDeque::new(),
            number: 0,
            has_said_all: false,
            knows_all: false,
            audited: BTreeSet::new(),
        }
    }

    pub(crate) fn note(&self, what: std::fmt::Arguments<'_>) {
        self.world.truth().note(&self.name, what);
    }

    /// Connects again and again, until all is over or nothing is left to do.
    pub(crate) async fn lives(mut self) {
        while !self.world.is(Phase::Over) && !self.is_done() {
            self.world.minds_verdict();
            let storm = self.world.is(Phase::Storm);
            if let Some((stream, arrivals, node)) = self.world.connect(&self.chance) {
                self.note(format_args!("connects to server {node}"));
                self.connection(stream, arrivals, storm).await;
                self.world.is_connected(&self.name, None);
            }
            let pause = if storm { self.chance.hiccup(4_000) } else { Duration::from_millis(200) };
            wait(pause + Duration::from_millis(10)).await;
        }
    }

    /// A connection from its `hello` to its end.
    async fn connection(&mut self, stream: DuplexStream, arrivals: Arrivals, storm: bool) {
        let (mut read, mut write) = split(stream);
        let mut session = Session::new(arrivals);
        self.says_hello(&mut session);
        let mut reader = Reader::default();
        let chunk = self.chance.one_of(&[16, 100, 4_096]);
        let phases = self.world.phase.clone();
        let mut act = Instant::now();
        let (mut heard_at, silence) = (Instant::now(), self.silence());
        loop {
            let now = Instant::now();
            let phase = phases.get();
            let over = if storm { phase != Phase::Storm } else { phase == Phase::Over };
            if session.over && (session.rude || session.out.is_empty()) || over || self.is_done() {
                return;
            }
            heard_at = heard_at.max(session.reads_from);
            if heard_at + silence <= now {
                self.note(format_args!("hears nothing"));
                return;
            }
            if act <= now {
                self.world.minds_verdict();
                let lively = self.world.is_lively();
                if lively {
                    self.acts(&mut session);
                }
                act = now + if lively { self.chance.millis(1, 400) } else { CALM };
            }
            self.goes_on(&mut session);
            let mut timer = act.min(heard_at + silence);
            if session.reads_from > now {
                timer = timer.min(session.reads_from);
            }
            tokio::select! {
                biased;
                _ = phases.until(|now| now != phase) => {}
                written = write.write(&session.out), if !session.out.is_empty() => match written {
                    Ok(written) => drop(session.out.drain(..written)),
                    Err(_) => return,
                },
                heard = reader.next(&mut read, chunk), if session.reads_from <= now => {
                    heard_at = Instant::now();
                    match self.hears(&mut session, heard) {
                        Ok(true) => {}
                        Ok(false) => return,
                        Err(_) => {
                            self.world.enters(Phase::Over);
                            return;
                        }
                    }
                }
                () = sleep_until(timer) => {}
            }
        }
    }

    /// A server that says nothing for so long is gone.
    fn silence(&self) -> Duration {
        let limits = &self.world.limits;
        Duration::from_millis(u64::from(limits.ping_interval + limits.pong_timeout) * 3 + 5_000)
    }

    fn says_hello(&mut self, session: &mut Session) {
        let forgets = self.world.is(Phase::Storm) && self.chance.once_in(12);
        let mut cursors = serde_json::Map::new();
        for (name, place) in &self.places {
            if !forgets || self.chance.once_in(2) {
                cursors.insert(name.clone(), place.cursor.into());
                session.next.insert(name.clone(), place.cursor + 1);
            }
        }
        let hello = json!({"type": "hello", "user": self.user, "device": self.name, "cursors": cursors});
        self.says(session, &hello);
    }

    /// Says something.
    fn says(&self, session: &mut Session, frame: &Value) {
        self.note(format_args!("> {frame}"));
        session.puts(&wire::text(&frame.to_string()));
    }

    /// Says a command.
    pub(crate) fn asks(&mut self, session: &mut Session, mut command: Value, asked: Asked) {
        self.number += 1;
        command["id"] = self.number.into();
        let write = matches!(asked, Asked::Message { .. } | Asked::Change { .. });
        session.asked.insert(self.number, asked);
        self.says(session, &command);
        if write {
            session.writes.insert(self.number, Write { end: session.said, outcome: Outcome::Unknown });
        }
    }

    /// What a device does by itself on a connection that works: says its messages again, fills its holes.
    fn goes_on(&mut self, session: &mut Session) {
        let now = Instant::now();
        if self.world.is(Phase::Audit) && !std::mem::replace(&mut session.settled, true) {
            self.has_settled(session);
        }
        if !session.welcome || session.over || session.quiet_until > now {
            return;
        }
        let waiting = |message: &Message| message.flight.is_none() && message.not_before <= now;
        while let Some(at) = self.unsaid.iter().position(waiting) {
            let (key, command) = (self.unsaid[at].key.clone(), self.unsaid[at].command.clone());
            let to = command["to"].as_str().unwrap_or_default().to_owned();
            self.asks(session, command, Asked::Message { key, to, at: now });
            self.unsaid[at].flight = Some(self.number);
        }
        let holes = self.places.iter().filter(|(_, place)| place.cursor < place.head);
        let holes: Vec<_> = holes.map(|(name, place)| (name.clone(), place.cursor)).collect();
        for (name, after) in holes {
            let asks =
                |asked: &Asked| matches!(asked, Asked::Log { conversation, .. } if *conversation == name);
            if !session.asked.values().any(asks) {
                self.asks_log(session, &name, after);
            }
        }
        match self.world.phase.get() {
            Phase::Calm if self.unsaid.is_empty() && !self.has_said_all && !self.world.is_lively() => {
                self.has_said_all = true;
            }
            Phase::Audit => return self.audits(session),
            // Pages that are on their way may fill the queue, and signals are dropped then.
            Phase::Settle if session.asked.is_empty() => return self.watches_at_last(session),
            _ => return,
        }
        self.world.has_said_all();
    }

    pub(crate) fn asks_log(&mut self, session: &mut Session, name: &str, after: u64) {
        let limit = if self.world.is(Phase::Audit) { 200 } else { self.chance.one_of(&[1, 2, 5, 200]) };
        let command = json!({"type": "sync", "conversation": name, "after": after, "limit": limit});
        let seen = self.world.truth().visible(self.user, name).is_some();
        self.asks(session, command, Asked::Log { conversation: name.to_owned(), after, seen });
    }

    /// Everything has been looked through.
    fn is_done(&self) -> bool {
        self.world.is(Phase::Audit) && self.audited.len() == self.places.len() && {
            let truth = self.world.truth();
            let complete =
                |(name, place): (&String, &Place)| truth.is_complete(self.user, name, place.cursor);
            let known = truth.conversations(self.user);
            self.places.iter().all(complete) && known.iter().all(|name| self.places.contains_key(name))
        }
    }

    /// What is done in the end: everything is read once more, from the first event on.
    fn audits(&mut self, session: &mut Session) {
        if !session.welcome || !session.asked.is_empty() || session.quiet_until > Instant::now() {
            return;
        }
        if !self.knows_all {
            let asked = Asked::Conversations { since: Some(Instant::now()), first: true };
            return self.asks(session, json!({"type": "conversations"}), asked);
        }
        if let Some(name) = self.places.keys().find(|name| !self.audited.contains(*name)).cloned() {
            self.places.insert(name.clone(), Place { head: self.places[&name].head, ..Place::default() });
            self.audited.insert(name.clone());
            self.asks_log(session, &name, 0);
            let command = json!({"type": "history", "conversation": name, "limit": 200});
            let seen = true;
            self.asks(session, command, Asked::History { before: None, seen, conversation: name });
        }
    }
}

impl Session {
    fn new(arrivals: Arrivals) -> Self {
        let now = Instant::now();
        Self {
            since: now,
            welcome: false,
            welcomed: now,
            settled: false,
            next: BTreeMap::new(),
            own: BTreeSet::new(),
            gaps: BTreeMap::new(),
            left: BTreeMap::new(),
            watching: presence::Watching::default(),
            cursors: BTreeMap::new(),
            order: BTreeMap::new(),
            asked: BTreeMap::new(),
            writes: BTreeMap::new(),
            arrivals,
            said: 0,
            out: Vec::new(),
            reads_from: now,
            quiet_until: now,
            over: false,
            rude: false,
        }
    }
}

impl Session {
    fn puts(&mut self, bytes: &[u8]) {
        self.said += bytes.len() as u64;
        self.out.extend(bytes);
    }

    /// Notes what became of a write. If one was stored though it came so soon behind one that is to be said again: which, and
    /// the refused one.
    fn becomes(&mut self, id: u64, outcome: Outcome) -> Option<(u64, u64)> {
        self.writes.get_mut(&id)?.outcome = outcome;
        let arrived = |id: &u64| self.arrivals.at(self.writes[id].end);
        let passes = |refused: &u64, stored: &u64| match self.writes[refused].outcome {
            Outcome::Refused(hold) => {
                arrived(refused).zip(arrived(stored)).is_some_and(|(refused, stored)| stored < refused + hold)
            }
            Outcome::Unknown | Outcome::Stored => false,
        };
        match outcome {
            Outcome::Unknown => None,
            Outcome::Stored => {
                let refused = self.writes.range(..id).find(|(other, _)| passes(other, &id));
                refused.map(|(refused, _)| (id, *refused))
            }
            Outcome::Refused(_) => {
                let stored =
                    self.writes.range(id + 1..).filter(|(_, write)| write.outcome == Outcome::Stored);
                stored.map(|(stored, _)| (*stored, id)).find(|(stored, refused)| passes(refused, stored))
            }
        }
    }
}

impl Message {
    pub(crate) fn new(key: String, command: Value) -> Self {
        Self { key, command, flight: None, not_before: Instant::now() }
    }
}
