//! The bus of the simulation: notices are delayed, reordered, duplicated or lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashSet;
use tokio::sync::mpsc;

use crate::bus::{Address, Bus, BusEvent, NodeId, Notice};
use switchboard_store::record::Answer;

/// Capacity of the receive queue of a node. When it is full, notices are dropped and the node receives a gap.
const RECEIVE_QUEUE: usize = 64;

/// The faults of the bus.
pub trait Weather: Send + Sync + 'static {
    /// The delay of each copy of a notice to one subscriber; empty if it is lost.
    fn copies(&self) -> Vec<Duration>;

    /// The delay until a subscription is active.
    fn pause(&self) -> Duration;
}

/// The network of the bus. Clones share it.
#[derive(Clone)]
pub struct Air(Arc<Shared>);

struct Shared {
    weather: Arc<dyn Weather>,
    nodes: Mutex<Nodes>,
}

#[derive(Default)]
struct Nodes {
    /// The number of the last node that joined.
    number: u64,
    receivers: BTreeMap<u64, Receiver>,
    /// Places whose nodes are partitioned: they receive and send nothing.
    cut: BTreeSet<usize>,
}

/// The receiving side of a node.
struct Receiver {
    place: usize,
    events: mpsc::Sender<BusEvent>,
    /// The desired subscriptions, each with the number of its request.
    desired: Vec<(Address, u64)>,
    requests: u64,
    /// The active subscriptions.
    active: FxHashSet<Address>,
    /// A gap is yet to be delivered.
    overrun: bool,
}

/// The bus of one node.
struct NodeBus {
    air: Air,
    node: NodeId,
    place: usize,
}

impl std::fmt::Debug for NodeBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("NodeBus").field(&self.node).finish()
    }
}

impl Air {
    /// A network without nodes.
    #[must_use]
    pub fn new(weather: Arc<dyn Weather>) -> Self {
        Self(Arc::new(Shared { weather, nodes: Mutex::default() }))
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a node at a place until its bus is dropped.
    pub(super) fn join(&self, place: usize) -> (Arc<dyn Bus>, mpsc::Receiver<BusEvent>) {
        let (events, receiver) = mpsc::channel(RECEIVE_QUEUE);
        let mut nodes = self.nodes();
        nodes.number += 1;
        let number = nodes.number;
        let (desired, active) = (Vec::new(), FxHashSet::default());
        nodes
            .receivers
            .insert(number, Receiver { place, events, desired, requests: 0, active, overrun: false });
        drop(nodes);
        (Arc::new(NodeBus { air: self.clone(), node: NodeId(number), place }), receiver)
    }

    /// Partitions the node at a place from the others.
    pub fn cut(&self, place: usize) {
        self.nodes().cut.insert(place);
    }

    /// Ends the partition of a place. With `announced`, its node receives a gap.
    pub fn heal(&self, place: usize, announced: bool) {
        let mut nodes = self.nodes();
        nodes.cut.remove(&place);
        let here = nodes.receivers.iter().filter(|(_, receiver)| receiver.place == place);
        let here: Vec<_> = here.map(|(number, _)| *number).collect();
        for number in here {
            let Some(receiver) = nodes.receivers.get_mut(&number) else { continue };
            let new: Vec<_> = receiver.desired.iter().map(|(address, _)| address.clone()).collect();
            let new: Vec<_> =
                new.into_iter().filter(|address| receiver.active.insert(address.clone())).collect();
            if !new.is_empty() {
                self.deliver(number, receiver, BusEvent::Subscribed(new));
            }
            if announced {
                self.deliver(number, receiver, BusEvent::Gap);
            }
        }
    }

    /// Delivers an event to a node, unless its queue is full.
    fn deliver(&self, number: u64, receiver: &mut Receiver, event: BusEvent) {
        if receiver.events.try_send(event).is_err() && !std::mem::replace(&mut receiver.overrun, true) {
            let (air, events) = (self.clone(), receiver.events.clone());
            tokio::spawn(async move {
                // The node may have ended.
                let _ = events.send(BusEvent::Gap).await;
                if let Some(receiver) = air.nodes().receivers.get_mut(&number) {
                    receiver.overrun = false;
                }
            });
        }
    }

    /// Delivers a copy of a notice.
    fn arrive(&self, from: NodeId, number: u64, notice: Notice) {
        let mut nodes = self.nodes();
        let Nodes { receivers, cut, .. } = &mut *nodes;
        if let Some(receiver) = receivers.get_mut(&number).filter(|receiver| !cut.contains(&receiver.place)) {
            self.deliver(number, receiver, BusEvent::Notice(from, notice));
        }
    }

    /// Activates a subscription, unless the node has unsubscribed.
    fn activate(&self, number: u64, address: Address, request: u64) {
        let mut nodes = self.nodes();
        let Nodes { receivers, cut, .. } = &mut *nodes;
        let Some(receiver) = receivers.get_mut(&number).filter(|receiver| !cut.contains(&receiver.place))
        else {
            return;
        };
        let desired = receiver.desired.iter().any(|(other, number)| *other == address && *number == request);
        if desired && receiver.active.insert(address.clone()) {
            self.deliver(number, receiver, BusEvent::Subscribed(vec![address]));
        }
    }
}

impl Bus for NodeBus {
    fn publish(&self, address: &Address, notice: &Notice) {
        let nodes = self.air.nodes();
        if nodes.cut.contains(&self.place) {
            return;
        }
        let subscribers = nodes.receivers.iter().filter(|(number, receiver)| {
            **number != self.node.0
                && receiver.active.contains(address)
                && !nodes.cut.contains(&receiver.place)
        });
        let copies: Vec<_> = subscribers
            .flat_map(|(number, _)| self.air.0.weather.copies().into_iter().map(|delay| (*number, delay)))
            .collect();
        drop(nodes);
        for (number, delay) in copies {
            let (air, from, notice) = (self.air.clone(), self.node, notice.clone());
            if delay.is_zero() {
                air.arrive(from, number, notice);
            } else {
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    air.arrive(from, number, notice);
                });
            }
        }
    }

    fn subscribe(&self, address: Address) {
        let mut nodes = self.air.nodes();
        let Some(receiver) = nodes.receivers.get_mut(&self.node.0) else { return };
        receiver.requests += 1;
        let request = receiver.requests;
        receiver.desired.push((address.clone(), request));
        drop(nodes);
        let (air, number) = (self.air.clone(), self.node.0);
        let pause = self.air.0.weather.pause();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            air.activate(number, address, request);
        });
    }

    fn unsubscribe(&self, address: Address) {
        if let Some(receiver) = self.air.nodes().receivers.get_mut(&self.node.0) {
            receiver.desired.retain(|(other, _)| *other != address);
            receiver.active.remove(&address);
        }
    }

    fn probe(&self) -> Answer<()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Drop for NodeBus {
    fn drop(&mut self) {
        self.air.nodes().receivers.remove(&self.node.0);
    }
}
