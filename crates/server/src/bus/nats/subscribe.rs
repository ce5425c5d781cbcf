//! Subscribes: exact subjects while a slot has few desired keys, one wildcard for the whole slot when it has many
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
use super::desired::{DesiredChanges, DesiredKeys};
use super::subject::{self, Slot, SubjectKey};
use super::subscription::{StopHandle, Subscription};
use crate::bus::BusEvent;

/// The most exact subscriptions of a slot. A slot with more desired keys gets a wildcard. A subscription takes 5.2 KB, so if every
/// slot has this many, they take 64 MB.
pub(super) const MAX_EXACT_PER_SLOT: usize = 8;

/// A wildcard is replaced by exact subscriptions once its slot has at most this many desired keys. The difference from
/// [`MAX_EXACT_PER_SLOT`] keeps a slot from switching each time a key is added or removed.
pub(super) const MAX_EXACT_AFTER_WILDCARD: usize = 4;

/// How often the connection count is polled, because async-nats can drop connection events.
const CONNECTION_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// First and longest time to wait for a round trip before its message is sent again, because a reconnect may have lost it.
const ROUND_TRIP_TIMEOUTS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How long barriers may fail to arrive, although the connection is up, before a warning is logged.
const BARRIER_WARNING_DELAY: Duration = Duration::from_secs(10);

/// The task that adds and removes NATS subscriptions, so that they match those that the router wants.
pub(super) struct SubscriptionManager {
    shared: Arc<Shared>,
    client: Client,
    probe_client: Client,
    /// Hands new subscriptions to the receiving task.
    subscriptions: mpsc::Sender<Subscription>,
    out: mpsc::Sender<BusEvent>,
    slots: FxHashMap<Slot, SlotSubscriptions>,
    subscription_gauge: Gauge,
    /// How often the client had connected when all subscriptions were last confirmed. A higher count now means that it has
    /// reconnected.
    confirmed_connections: u64,
}

/// The subscriptions of a slot.
#[derive(Debug, Default)]
struct SlotSubscriptions {
    exact: FxHashMap<u64, StopHandle>,
    wildcard: Option<StopHandle>,
}

/// The work that remains once NATS has confirmed the new subscriptions of one set of changes.
#[derive(Debug, Default)]
struct Confirmation {
    /// Subscriptions to stop because new ones replace them.
    replaced: Vec<StopHandle>,
    has_subscribed: bool,
}

impl SubscriptionManager {
    pub(super) fn new(
        shared: Arc<Shared>,
        client: Client,
        probe_client: Client,
        subscriptions: mpsc::Sender<Subscription>,
        out: mpsc::Sender<BusEvent>,
    ) -> Self {
        let subscription_gauge = shared.metrics.bus.subscriptions.clone();
        Self {
            shared,
            client,
            probe_client,
            subscriptions,
            out,
            slots: FxHashMap::default(),
            subscription_gauge,
            confirmed_connections: 0,
        }
    }

    pub(super) async fn run(mut self) {
        let done = self.shared.done.clone();
        done.run_until_cancelled(async move {
            loop {
                tokio::select! {
                    () = self.shared.desired.wait_for_change() => {}
                    () = self.shared.connection.connected.notified() => {}
                    () = sleep(CONNECTION_POLL_INTERVAL) => {}
                }
                let changes = self.shared.desired.take_changes(MAX_EXACT_PER_SLOT);
                // This fails only when the client has ended, and then the other tasks end too.
                if self.apply(changes).await.is_err() {
                    return;
                }
            }
        })
        .await;
    }

    async fn apply(&mut self, changes: DesiredChanges) -> anyhow::Result<()> {
        let mut round = Confirmation::default();
        for (slot, keys) in changes.slots {
            self.apply_to_slot(slot, keys, &mut round).await?;
        }
        let connections = self.client.statistics().connects.load(Ordering::Relaxed);
        let reconnected = connections != self.confirmed_connections;
        if round.has_subscribed || reconnected || !changes.unconfirmed.is_empty() {
            self.confirm_subscriptions().await?;
        }
        if !round.replaced.is_empty() {
            // Messages for the replaced subscriptions may still be in flight. They arrive before the message of this round trip.
            complete_round_trip(&self.shared, &self.probe_client, subject::probe_subject(self.shared.node))
                .await?;
            round.replaced.into_iter().for_each(|handle| self.stop(handle));
        }
        if !changes.unconfirmed.is_empty() {
            self.out.send(BusEvent::Subscribed(changes.unconfirmed)).await?;
        }
        // The first connect causes no gap, because no subscription has been confirmed to the router before it.
        if reconnected && std::mem::replace(&mut self.confirmed_connections, connections) > 0 {
            self.shared.connection.messages_lost.notify_one();
        }
        Ok(())
    }

    /// Changes a slot's subscriptions to the desired ones. Replaced subscriptions stay active until NATS has confirmed the new
    /// ones.
    async fn apply_to_slot(
        &mut self,
        slot: Slot,
        keys: DesiredKeys,
        round: &mut Confirmation,
    ) -> Result<(), SubscribeError> {
        let mut current = self.slots.remove(&slot).unwrap_or_default();
        match keys {
            DesiredKeys::Few(keys)
                if current.wildcard.is_none() || keys.len() <= MAX_EXACT_AFTER_WILDCARD =>
            {
                for (_, handle) in current.exact.extract_if(|key, _| !keys.contains(key)) {
                    self.stop(handle);
                }
                for key in keys {
                    if let Entry::Vacant(entry) = current.exact.entry(key) {
                        let subject = self.shared.subjects.name_of(SubjectKey { kind: slot.kind, key });
                        entry.insert(self.subscribe(subject).await?);
                        round.has_subscribed = true;
                    }
                }
                round.replaced.extend(current.wildcard.take());
            }
            DesiredKeys::Few(_) | DesiredKeys::Many if current.wildcard.is_some() => {}
            DesiredKeys::Few(_) | DesiredKeys::Many => {
                current.wildcard = Some(self.subscribe(self.shared.subjects.wildcard_of_slot(slot)).await?);
                round.has_subscribed = true;
                round.replaced.extend(current.exact.drain().map(|(_, handle)| handle));
            }
        }
        if current.wildcard.is_some() || !current.exact.is_empty() {
            self.slots.insert(slot, current);
        }
        Ok(())
    }

    async fn subscribe(&self, subject: String) -> Result<StopHandle, SubscribeError> {
        let (subscription, handle) = Subscription::new(self.client.subscribe(subject).await?);
        self.subscription_gauge.inc();
        // This fails only when the receiving task has ended, and then this task ends too.
        let _ = self.subscriptions.send(subscription).await;
        Ok(handle)
    }

    fn stop(&self, handle: StopHandle) {
        handle.stop();
        self.subscription_gauge.dec();
    }

    /// Returns once NATS has processed everything that this node sent before. Logs a warning if that takes too long although the
    /// connection is up.
    async fn confirm_subscriptions(&self) -> anyhow::Result<()> {
        let passed = wait_for_barrier(&self.shared, &self.client);
        tokio::pin!(passed);
        if let Ok(result) = timeout(BARRIER_WARNING_DELAY, &mut passed).await {
            return result;
        }
        if self.client.connection_state() == State::Connected {
            self.shared
                .connection
                .warn_once("NATS is connected, but this node does not receive its own messages over it");
        }
        passed.await
    }
}

/// Sends a message over `client`, and returns once it has arrived over the second connection, because then NATS has processed
/// everything that was sent over `client` before. (The client's own `flush` covers only this machine's socket.)
pub(super) async fn wait_for_barrier(shared: &Shared, client: &Client) -> anyhow::Result<()> {
    complete_round_trip(shared, client, subject::barrier_subject(shared.node)).await
}

/// Sends a message over one connection to `destination`, again and again until one arrives over the other connection.
async fn complete_round_trip(
    shared: &Shared,
    client: &Client,
    destination: SubjectKey,
) -> anyhow::Result<()> {
    let subject = shared.subjects.name_of(destination);
    let (mut wait, longest) = ROUND_TRIP_TIMEOUTS;
    let mut pending = shared.round_trips.begin();
    loop {
        if client.connection_state() == State::Connected {
            client.publish(subject.clone(), pending.payload()).await?;
        }
        if timeout(wait, pending.wait_until_completed()).await.is_ok() {
            return Ok(());
        }
        wait = (wait * 2).min(longest);
    }
}

/// Subscribes to this node's own barriers (over the second connection) and probes (over the first).
pub(super) async fn subscribe_to_own_messages(
    shared: &Shared,
    probe_client: &Client,
    subscriptions: &mpsc::Sender<Subscription>,
) -> anyhow::Result<()> {
    shared.desired.add(subject::probe_subject(shared.node));
    let barriers =
        probe_client.subscribe(shared.subjects.name_of(subject::barrier_subject(shared.node))).await?;
    // This subscription lives as long as the bus, so its stop handle is not needed.
    let (subscription, _) = Subscription::new(barriers);
    subscriptions.send(subscription).await?;
    Ok(())
}
