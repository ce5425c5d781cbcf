//! One device of a user, on the Rust client: it talks, listens, goes away, comes back, and holds the server to its word.

mod act;
mod hear;
mod place;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustc_hash::{FxHashMap, FxHashSet};
use switchboard_client::{Client, ClientError};
use switchboard_protocol::reply::Welcome;
use switchboard_protocol::{Command, ConversationId, Conversations, Ping, Seq, UserId};
use tokio::time::{Instant, sleep, timeout};

use self::place::Place;
use crate::record::Law;
use crate::world::{Phase, World, hello};

/// How long an answer may take before the connection is given up.
const PATIENCE: Duration = Duration::from_secs(6);

/// How long somebody may be seen in a room after they asked to come in, without their coming having been seen.
const COMING: Duration = Duration::from_secs(120);

/// Events of a page.
const PAGE: u32 = 200;

/// Sends that wait for their answers at once.
const AT_ONCE: usize = 64;

/// How often it is asked at the end whether there is more.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// How long after the faults are over everything may take to arrive.
const CATCHING_UP: Duration = Duration::from_secs(90);

/// A message on its way.
struct Outgoing {
    key: String,
    conversation: ConversationId,
    /// It is under way on this connection.
    under_way: bool,
}

/// A message that is stored.
struct Stored {
    key: String,
    conversation: ConversationId,
    seq: Seq,
}

/// What an answer will be to.
enum Asked {
    Send(String),
    /// A message that was acknowledged before.
    Again(String),
    /// A message under the key of another one.
    Conflict(String),
    /// A command that appends an event, of this kind.
    Write(ConversationId, &'static str),
    Read(ConversationId),
    Page(ConversationId),
    /// Something that the user may not see.
    Probe(ConversationId),
    Summaries,
    Other,
}

/// Why a connection ended.
type End = String;

pub(crate) struct Device {
    world: Arc<World>,
    id: u32,
    user: UserId,
    name: String,
    rng: fastrand::Rng,
    places: FxHashMap<ConversationId, Place>,
    outbox: VecDeque<Outgoing>,
    stored: Vec<Stored>,
    /// How many messages it has sent.
    number: u64,
    /// When it may send again.
    hold: Instant,
    /// How long it stays away, once its connection has ended.
    away: Duration,
    /// When it must have everything, once the faults are over.
    deadline: Option<Instant>,
    /// It has nothing more to say.
    quiet: bool,
    /// The node that it turns to, and whether that was in vain the last time.
    door: usize,
    turned_away: bool,
}

/// How a device stands at the end.
pub(crate) struct Standing {
    pub(crate) user: UserId,
    pub(crate) name: String,
    /// How far it is, and the event of leaving where the user has left.
    pub(crate) places: Vec<(ConversationId, Seq, Option<Seq>)>,
}

/// One connection of a device.
struct Link {
    client: Client,
    asked: FxHashMap<i64, (Asked, Instant)>,
    /// The last event that was pushed, by conversation.
    pushed: FxHashMap<ConversationId, Seq>,
    /// Where each conversation stood at hello.
    from: FxHashMap<ConversationId, Seq>,
    /// Own events that were acknowledged on this connection, in place of the event.
    own: FxHashSet<(ConversationId, Seq)>,
    heard: Instant,
    /// Since when it takes everything at once that comes.
    attentive: Instant,
}

impl Device {
    pub(crate) fn new(world: Arc<World>, user: UserId, number: usize, rng: fastrand::Rng) -> Self {
        let name = format!("{user}.{number}");
        let id = world.record.device(name.clone());
        let hold = Instant::now();
        Self {
            world,
            id,
            user,
            name,
            rng,
            places: FxHashMap::default(),
            outbox: VecDeque::new(),
            stored: Vec::new(),
            number: 0,
            hold,
            away: Duration::ZERO,
            deadline: None,
            quiet: false,
            door: 0,
            turned_away: false,
        }
    }

    /// Lives until the run is over and it has everything.
    pub(crate) async fn live(mut self) -> Standing {
        let mut pause = 20;
        loop {
            match self.connect().await {
                Ok(mut link) => {
                    pause = 20;
                    self.turned_away = false;
                    match self.talk(&mut link).await {
                        Ok(()) => break,
                        Err(end) => self.world.record.ended(self.id, end),
                    }
                    if self.rng.bool() {
                        // The others just vanish.
                        let _ = timeout(PATIENCE, link.client.close()).await;
                    }
                }
                Err(end) => {
                    self.turned_away = true;
                    self.world.record.ended(self.id, end);
                    pause = (pause * 2).min(500);
                }
            }
            if self.is_too_late() {
                break;
            }
            // Jittered, as clients are told to.
            let pause = Duration::from_millis(self.rng.u64(0..pause)) + std::mem::take(&mut self.away);
            let mut phase = self.world.phase.clone();
            tokio::select! {
                () = sleep(pause) => {}
                _ = phase.changed() => {}
            }
        }
        let places = self.places.into_iter().map(|(id, place)| (id, place.cursor, place.left)).collect();
        Standing { user: self.user, name: self.name, places }
    }

    async fn connect(&mut self) -> Result<Link, End> {
        let mut hello = hello(&self.user);
        hello.cursors = self.places.iter().map(|(id, place)| (id.clone(), place.cursor)).collect();
        let from: FxHashMap<_, _> = hello.cursors.iter().map(|(id, seq)| (id.clone(), *seq)).collect();
        let reads = self.reads();
        self.choose_door();
        let connected = timeout(PATIENCE, Client::connect(&self.world.doors[self.door], hello)).await;
        let (client, welcome) = match connected {
            Ok(Ok(connected)) => connected,
            Ok(Err(ClientError::Refused(failure))) if !failure.retryable => {
                self.breach(Law::Answer, format!("hello was answered with {failure:?}"), None);
                return Err("hello was refused".to_owned());
            }
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("no welcome in time".to_owned()),
        };
        self.world.record.connected(self.id);
        self.greeted(&welcome, &reads);
        for outgoing in &mut self.outbox {
            outgoing.under_way = false;
        }
        for place in self.places.values_mut() {
            place.paging = false;
        }
        Ok(Link {
            client,
            asked: FxHashMap::default(),
            pushed: FxHashMap::default(),
            from,
            own: FxHashSet::default(),
            heard: Instant::now(),
            attentive: Instant::now(),
        })
    }

    /// Any node, as whatever balances the load would have it; another one than that which it has just tried in vain.
    fn choose_door(&mut self) {
        let doors = self.world.doors.len();
        if doors > 1 {
            let step = self.rng.usize(usize::from(self.turned_away)..doors);
            self.door = (self.door + step) % doors;
        }
    }

    /// The cursors of reading that the user has been told.
    fn reads(&self) -> FxHashMap<ConversationId, Seq> {
        let inner = self.world.record.lock();
        let of = |id: &ConversationId| inner.reads.get(&(self.user.clone(), id.clone())).copied();
        self.places.keys().filter_map(|id| Some((id.clone(), of(id)?))).collect()
    }

    fn greeted(&mut self, welcome: &Welcome, reads: &FxHashMap<ConversationId, Seq>) {
        for summary in &welcome.conversations {
            let id = &summary.conversation;
            if reads.get(id).is_some_and(|read| *read > summary.read) {
                self.breach(
                    Law::WentBack,
                    format!("the cursor of reading in {id} went back: {summary:?}"),
                    None,
                );
            }
            match self.places.get(id) {
                Some(place) if place.cursor > summary.head && place.left.is_none() => {
                    let what = format!(
                        "{} has {id} up to {}, and it ends at {}",
                        self.name, place.cursor.0, summary.head.0
                    );
                    self.breach(Law::Lost, what, Some((id, place.cursor)));
                }
                Some(_) => {}
                None => {
                    self.places.insert(id.clone(), Place::at(summary.head));
                }
            }
        }
    }

    /// Until the connection ends, or all is done.
    async fn talk(&mut self, link: &mut Link) -> Result<(), End> {
        let mut next = Instant::now();
        let mut pinged = Instant::now();
        let mut asked = Instant::now();
        loop {
            self.flush(link).await?;
            let phase = self.world.phase();
            if phase > Phase::Fair && self.outbox.is_empty() && link.asked.is_empty() {
                if !std::mem::replace(&mut self.quiet, true) {
                    self.world.quiet.fetch_add(1, Ordering::SeqCst);
                }
                if phase == Phase::End && asked.elapsed() > ASK_AGAIN {
                    asked = Instant::now();
                    let command = Conversations { before: None, limit: Some(PAGE) };
                    self.say(link, command, Asked::Summaries).await?;
                }
            }
            if let Some((_, (_, since))) = link.asked.iter().min_by_key(|(_, (_, since))| *since)
                && since.elapsed() > PATIENCE
            {
                return Err(format!("no answer for {PATIENCE:?}"));
            }
            tokio::select! {
                frame = link.client.next() => match frame {
                    Some(Ok(frame)) => {
                        link.heard = Instant::now();
                        if self.hear(link, frame).await? {
                            return Ok(());
                        }
                    }
                    Some(Err(error)) => return Err(error.to_string()),
                    None => return Err(format!("closed with {:?}", link.client.close_code())),
                },
                () = tokio::time::sleep_until(next) => {
                    if self.is_too_late() {
                        return Ok(());
                    }
                    if pinged.elapsed() > Duration::from_secs(2) {
                        pinged = Instant::now();
                        self.say(link, Ping {}, Asked::Other).await?;
                    }
                    next = Instant::now() + self.pause();
                    if phase <= Phase::Fair {
                        self.act(link).await?;
                    } else {
                        next = Instant::now() + ASK_AGAIN;
                    }
                }
            }
        }
    }

    /// Whether it has had its time to catch up.
    fn is_too_late(&mut self) -> bool {
        if self.world.phase() <= Phase::Fair {
            return false;
        }
        let deadline = *self.deadline.get_or_insert_with(|| Instant::now() + CATCHING_UP);
        if Instant::now() < deadline {
            return false;
        }
        let what = format!(
            "{} has not got everything after {CATCHING_UP:?}; {} messages wait",
            self.name,
            self.outbox.len()
        );
        self.breach(Law::Stuck, what, None);
        true
    }

    fn breach(&self, law: Law, what: String, place: Option<(&ConversationId, Seq)>) {
        self.world.record.breach(law, what, &[], place);
    }

    async fn say(&self, link: &mut Link, command: impl Into<Command>, asked: Asked) -> Result<(), End> {
        match timeout(PATIENCE, link.client.submit(command)).await {
            Ok(Ok(id)) => {
                link.asked.insert(id, (asked, Instant::now()));
                Ok(())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("it takes nothing".to_owned()),
        }
    }

    /// Sends what waits, in order.
    async fn flush(&mut self, link: &mut Link) -> Result<(), End> {
        if Instant::now() < self.hold {
            return Ok(());
        }
        let under_way = self.outbox.iter().filter(|outgoing| outgoing.under_way).count();
        let waiting: Vec<usize> = (0..self.outbox.len()).filter(|i| !self.outbox[*i].under_way).collect();
        // Behind one that was refused and waits, nothing new overtakes.
        for index in waiting.into_iter().take(AT_ONCE.saturating_sub(under_way)) {
            let outgoing = &mut self.outbox[index];
            outgoing.under_way = true;
            let (key, conversation) = (outgoing.key.clone(), outgoing.conversation.clone());
            let command = act::message(&key, &conversation);
            self.say(link, command, Asked::Send(key)).await?;
        }
        Ok(())
    }
}
