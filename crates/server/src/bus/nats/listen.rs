//! Listening: one subscription for each place while a slot has few of them, one for the whole slot when it has many
//! (docs/decisions/0043-wildcards-bound-subscriptions.md).

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, SubscribeError};
use prometheus_client::metrics::gauge::Gauge;
use rustc_hash::FxHashMap;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::Shared;
use super::feed::{Ending, Feed};
use super::subject::{self, Place, Slot};
use super::wanted::{Changes, Keys};
use crate::bus::Heard;

/// Places of a slot that are listened at one by one. A subscription takes 5.2 KB, so that all slots full of them take
/// 64 MB.
pub(super) const MOST: usize = 8;

/// A slot that is listened at as a whole goes back to its places one by one when it has so few: it does not change with
/// each of them that comes and goes.
pub(super) const FEW: usize = 4;

/// What the client says of its connection can be lost. So often this looks for itself.
const LOOK: Duration = Duration::from_secs(1);

/// How long what a node sends itself is waited for at first, and at last, before it is sent again: a connection may be lost.
const ECHO: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How long marks may fail to come back over a connection that is there before it is said.
const SUSPICIOUS: Duration = Duration::from_secs(10);

/// The task that listens where the router wants to.
pub(super) struct Listener {
    shared: Arc<Shared>,
    client: Client,
    witness: Client,
    /// To the task that takes in what is heard.
    feeds: mpsc::Sender<Feed>,
    out: mpsc::Sender<Heard>,
    slots: FxHashMap<Slot, Subscribed>,
    subscriptions: Gauge,
    /// Connections there had been when everything was last known to be listened at.
    connections: u64,
}

/// What a slot is listened at with.
#[derive(Debug, Default)]
struct Subscribed {
    each: FxHashMap<u64, Ending>,
    all: Option<Ending>,
}

/// What a round of changes leaves to be done once the bus has it.
#[derive(Debug, Default)]
struct Round {
    /// Subscriptions that others replace.
    replaced: Vec<Ending>,
    began: bool,
}

impl Listener {
    pub(super) fn new(
        shared: Arc<Shared>,
        client: Client,
        witness: Client,
        feeds: mpsc::Sender<Feed>,
        out: mpsc::Sender<Heard>,
    ) -> Self {
        let subscriptions = shared.metrics.bus.subscriptions.clone();
        Self {
            shared,
            client,
            witness,
            feeds,
            out,
            slots: FxHashMap::default(),
            subscriptions,
            connections: 0,
        }
    }

    pub(super) async fn run(mut self) {
        let done = self.shared.done.clone();
        done.run_until_cancelled(async move {
            loop {
                tokio::select! {
                    () = self.shared.wanted.changed() => {}
                    () = self.shared.link.connected.notified() => {}
                    () = sleep(LOOK) => {}
                }
                let changes = self.shared.wanted.take_changes(MOST);
                // It fails when the client has ended, as it does with everything else.
                if self.follow(changes).await.is_err() {
                    return;
                }
            }
        })
        .await;
    }

    async fn follow(&mut self, changes: Changes) -> anyhow::Result<()> {
        let mut round = Round::default();
        for (slot, keys) in changes.slots {
            self.arrange(slot, keys, &mut round).await?;
        }
        let connections = self.client.statistics().connects.load(Ordering::Relaxed);
        let again = connections != self.connections;
        if round.began || again || !changes.asked.is_empty() {
            self.confirm().await?;
        }
        if !round.replaced.is_empty() {
            // What they alone were sent may be under way here still: it comes before this.
            arrive(&self.shared, &self.witness, subject::probe(self.shared.node)).await?;
            round.replaced.into_iter().for_each(|ending| self.end(ending));
        }
        if !changes.asked.is_empty() {
            self.out.send(Heard::Listening(changes.asked)).await?;
        }
        // Before the first connection there was nobody to miss anything: whoever has asked to listen is told.
        if again && std::mem::replace(&mut self.connections, connections) > 0 {
            self.shared.link.missed.notify_one();
        }
        Ok(())
    }

    /// Makes the subscriptions of a slot what they are to be. Those that others replace go on until the bus has these.
    async fn arrange(&mut self, slot: Slot, keys: Keys, round: &mut Round) -> Result<(), SubscribeError> {
        let mut now = self.slots.remove(&slot).unwrap_or_default();
        match keys {
            Keys::Few(keys) if now.all.is_none() || keys.len() <= FEW => {
                for (_, ending) in now.each.extract_if(|key, _| !keys.contains(key)) {
                    self.end(ending);
                }
                for key in keys {
                    if let Entry::Vacant(place) = now.each.entry(key) {
                        let subject = self.shared.subjects.of(Place { kind: slot.kind, key });
                        place.insert(self.begin(subject).await?);
                        round.began = true;
                    }
                }
                round.replaced.extend(now.all.take());
            }
            Keys::Few(_) | Keys::Many if now.all.is_some() => {}
            Keys::Few(_) | Keys::Many => {
                now.all = Some(self.begin(self.shared.subjects.all_of(slot)).await?);
                round.began = true;
                round.replaced.extend(now.each.drain().map(|(_, ending)| ending));
            }
        }
        if now.all.is_some() || !now.each.is_empty() {
            self.slots.insert(slot, now);
        }
        Ok(())
    }

    async fn begin(&self, subject: String) -> Result<Ending, SubscribeError> {
        let (feed, ending) = Feed::new(self.client.subscribe(subject).await?);
        self.subscriptions.inc();
        // It is taken at once, or everything ends.
        let _ = self.feeds.send(feed).await;
        Ok(ending)
    }

    fn end(&self, ending: Ending) {
        ending.end();
        self.subscriptions.dec();
    }

    /// Returns once the bus has taken everything that this node has said to it before.
    async fn confirm(&self) -> anyhow::Result<()> {
        let sure = mark(&self.shared, &self.client);
        tokio::pin!(sure);
        if let Ok(marked) = timeout(SUSPICIOUS, &mut sure).await {
            return marked;
        }
        if self.client.connection_state() == State::Connected {
            self.shared
                .link
                .complain("NATS is connected, but what this node tells itself over it does not arrive");
        }
        sure.await
    }
}

/// Returns once the bus has taken everything that was said to it before: a mark has gone out behind it, and has come in
/// over the other connection. (The client's own `flush` ends at this machine's socket.)
pub(super) async fn mark(shared: &Shared, client: &Client) -> anyhow::Result<()> {
    arrive(shared, client, subject::mark(shared.node)).await
}

/// Returns once something sent over a connection now has been heard there over the other.
async fn arrive(shared: &Shared, client: &Client, there: Place) -> anyhow::Result<()> {
    let subject = shared.subjects.of(there);
    let (mut patience, longest) = ECHO;
    let mut expected = shared.echoes.expect();
    loop {
        if client.connection_state() == State::Connected {
            client.publish(subject.clone(), expected.payload()).await?;
        }
        if timeout(patience, expected.heard()).await.is_ok() {
            return Ok(());
        }
        patience = (patience * 2).min(longest);
    }
}

/// Listens for this node's own marks and probes.
pub(super) async fn listen_to_itself(
    shared: &Shared,
    witness: &Client,
    feeds: &mpsc::Sender<Feed>,
) -> anyhow::Result<()> {
    shared.wanted.add(subject::probe(shared.node));
    let marks = witness.subscribe(shared.subjects.of(subject::mark(shared.node))).await?;
    // It ends with everything else.
    let (feed, _) = Feed::new(marks);
    feeds.send(feed).await?;
    Ok(())
}
