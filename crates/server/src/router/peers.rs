//! A router that is one of several: what it knows of the others, and what it waits for.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use switchboard_protocol::UserId;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::Router;
use super::entry::Going;
use super::order::Order;
use super::presence::Lookup;
use super::registry::{Interest, UserSlot};
use super::verify::{Asked, Comparisons, Entries, Newcomer};
use crate::bus::{Address, Bus, BusEvent};
use switchboard_store::record::{Answer, ConversationKey};
use switchboard_store::refusal::Refusal;
use switchboard_store::{Excerpt, Place, PlacesPage, Revocations, Seqs, SharedLog};

/// Notices handled before commits and sessions are looked at again.
const TURN: usize = 256;

/// How long after a question that the store could not answer it is asked again.
const AGAIN: Duration = Duration::from_millis(250);

/// A node says so often within a lease that it lives: two of them may be lost.
const BEATS: u32 = 3;

/// What joins a router to others.
pub(crate) struct Cluster {
    /// What all of them write to.
    pub(crate) store: Arc<dyn SharedLog>,
    /// The way to the others.
    pub(crate) bus: Arc<dyn Bus>,
    /// What they tell.
    pub(crate) heard: mpsc::Receiver<BusEvent>,
    /// How often this node compares what it hosts with the store.
    pub(crate) sweep: Duration,
    /// How long a node that says nothing counts as alive.
    pub(crate) lease: Duration,
}

/// The others, as a router knows them.
pub(super) struct Peers {
    pub(super) store: Arc<dyn SharedLog>,
    pub(super) bus: Arc<dyn Bus>,
    heard: mpsc::Receiver<BusEvent>,
    /// Those that are being taken in.
    notices: Vec<BusEvent>,
    /// The bus has ended, as it does with the server.
    deaf: bool,
    finds: FuturesUnordered<Find>,
    /// Parts of the log that may have what this node has stored and not published.
    unpublished: BTreeMap<u64, Vec<Found>>,
    pub(super) order: Order,
    /// Users who are to be compared with the store.
    pub(super) comparisons: Comparisons,
    /// Conversations of which something may have been missed.
    pub(super) unchecked: BTreeSet<ConversationKey>,
    /// Whether the store has been asked about conversations and has not answered.
    pub(super) checking: bool,
    /// The same for users whose presence has changed.
    pub(super) asking_presence: bool,
    sweeps: Interval,
    beats: Interval,
    pub(super) lease: Duration,
}

type Find = Pin<Box<dyn Future<Output = Found> + Send>>;

/// What the store answered.
pub(super) enum Found {
    /// Events that were missing.
    Log { conversation: ConversationKey, result: Result<Excerpt, Refusal> },
    /// Where conversations end that something may have been missed of.
    Heads { asked: Vec<ConversationKey>, result: Result<Seqs, Refusal> },
    /// Whose tokens have been revoked.
    Revocations { asked: Vec<UserSlot>, result: Result<Revocations, Refusal> },
    /// Pages of the conversations that users are in.
    Places { asked: Vec<Asked>, result: Result<Vec<PlacesPage>, Refusal> },
    /// Whether users are in conversations that they may have come into.
    Newcomers { asked: Vec<Entries>, result: Result<Vec<Option<Place>>, Refusal> },
    /// The event by which somebody came into a conversation.
    Entry { newcomer: Newcomer, result: Result<Excerpt, Refusal> },
    /// Which conversations users are in whose presence has changed.
    Presence { asked: Vec<(UserId, Lookup)>, result: Result<Vec<PlacesPage>, Refusal> },
    /// Events by one of which a session's user went.
    Going { going: Going, result: Result<Excerpt, Refusal> },
}

impl Found {
    /// Up to which batch of this node there may be events in it.
    fn mark(&self) -> u64 {
        match self {
            Self::Log { result: Ok(excerpt), .. }
            | Self::Entry { result: Ok(excerpt), .. }
            | Self::Going { result: Ok(excerpt), .. } => excerpt.mark,
            _ => 0,
        }
    }
}

/// What a router does next because of the others.
pub(super) enum Next {
    Heard,
    Found(Found),
    Due(ConversationKey),
    Sweep,
    Beat,
}

impl Peers {
    pub(super) fn new(cluster: Cluster) -> Self {
        let Cluster { store, bus, heard, sweep, lease } = cluster;
        bus.subscribe(Address::Nodes);
        Self {
            store,
            bus,
            heard,
            notices: Vec::with_capacity(TURN),
            deaf: false,
            finds: FuturesUnordered::new(),
            unpublished: BTreeMap::new(),
            order: Order::default(),
            comparisons: Comparisons::default(),
            unchecked: BTreeSet::new(),
            checking: false,
            asking_presence: false,
            sweeps: every(sweep),
            beats: every(lease / BEATS),
            lease,
        }
    }

    /// Asks the store, and does not wait.
    pub(super) fn find<T: 'static>(
        &self,
        answer: Answer<T>,
        found: impl FnOnce(Result<T, Refusal>) -> Found + Send + 'static,
    ) where
        Result<T, Refusal>: Send,
    {
        self.finds.push(Box::pin(async move {
            let result = answer.await;
            if result.is_err() {
                tokio::time::sleep(AGAIN).await;
            }
            found(result)
        }));
    }

    /// Whether the store has answered everything, and nothing of that waits.
    pub(super) fn awaits_nothing(&self) -> bool {
        self.finds.is_empty() && self.unpublished.is_empty()
    }

    async fn next(&mut self) -> Next {
        loop {
            tokio::select! {
                biased;
                Some(found) = self.finds.next() => return Next::Found(found),
                conversation = self.order.due() => return Next::Due(conversation),
                _ = self.beats.tick() => return Next::Beat,
                _ = self.sweeps.tick() => return Next::Sweep,
                // Last: there may always be more of them, and what the others are for is to make up for those that are lost.
                count = self.heard.recv_many(&mut self.notices, TURN), if !self.deaf => match count {
                    0 => self.deaf = true,
                    _ => return Next::Heard,
                },
            }
        }
    }
}

/// What is to be done next because of the others; nothing ever, if there are none.
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
    pub(super) fn attend(&mut self, next: Next) {
        match next {
            Next::Heard => {
                let notices = self.peers.as_mut().map(|peers| std::mem::take(&mut peers.notices));
                let mut notices = notices.unwrap_or_default();
                notices.drain(..).for_each(|heard| self.hear(heard));
                if let Some(peers) = &mut self.peers {
                    peers.notices = notices;
                }
            }
            Next::Found(found) => self.found(found),
            Next::Due(conversation) => self.read_due(conversation),
            Next::Sweep => self.sweep(),
            Next::Beat => self.beat(),
        }
    }

    /// Takes in what the store answered, once everything of this node's own in it has been published: only then is known
    /// which connection is not told of an event, because it has its `ok`.
    fn found(&mut self, found: Found) {
        if found.mark() > self.published {
            if let Some(peers) = &mut self.peers {
                peers.unpublished.entry(found.mark()).or_default().push(found);
            }
            return;
        }
        match found {
            Found::Log { conversation, result: Ok(excerpt) } => {
                self.found_missing(conversation, excerpt.events);
            }
            Found::Log { conversation, result: Err(_) } => self.read_missing(conversation),
            Found::Heads { asked, result } => self.checked(&asked, result),
            Found::Revocations { asked, result } => self.found_revocations(asked, result),
            Found::Places { asked, result } => self.found_places(asked, result),
            Found::Newcomers { asked, result } => self.found_newcomers(asked, result),
            Found::Presence { asked, result } => self.found_presence(asked, result),
            Found::Entry { newcomer, result } => self.found_entry(newcomer, result),
            Found::Going { going, result } => self.found_going(&going, result),
        }
    }

    /// What is to be done after whatever was done: the bus is told of what this node has come to host, the store is asked
    /// about what may have been missed, and sessions come in that waited for what has been published.
    pub(super) fn settle(&mut self) {
        if self.peers.is_none() {
            return;
        }
        self.take_published();
        for interest in self.registry.take_interests() {
            let Some(peers) = &mut self.peers else { return };
            match interest {
                Interest::Hosts(conversation) => {
                    peers.bus.subscribe(Address::Conversation(conversation));
                }
                Interest::Drops(conversation) => {
                    peers.order.forget(conversation);
                    peers.unchecked.remove(&conversation);
                    peers.bus.unsubscribe(Address::Conversation(conversation));
                }
                Interest::Has(user) => peers.bus.subscribe(Address::User(user)),
                Interest::Lacks(user) => peers.bus.unsubscribe(Address::User(user)),
            }
        }
        self.ask();
        self.unpark();
    }

    fn take_published(&mut self) {
        let Some(peers) = &mut self.peers else { return };
        let mut ready = Vec::new();
        while let Some(first) = peers.unpublished.first_entry().filter(|first| *first.key() <= self.published)
        {
            ready.extend(first.remove());
        }
        ready.into_iter().for_each(|found| self.found(found));
    }
}
