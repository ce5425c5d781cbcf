//! The bus of the simulation: notices are delayed, reordered, duplicated or lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rustc_hash::FxHashSet;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::bus::nats::payload::Codec;
use crate::bus::nats::subject::SubjectKey;
use crate::bus::{Address, Bus, BusEvent, NodeId, Notice};
use switchboard_store::record::{Answer, NoticeKey};
use switchboard_store::refusal::Refusal;

/// Capacity of the receive queue of a node. When it is full, notices are dropped and the node receives a gap.
const RECEIVE_QUEUE: usize = 64;

/// The faults of the bus.
pub trait BusFaults: Send + Sync + 'static {
    /// Returns the delay of each copy of a notice to one subscriber. The list is empty if the notice is lost.
    fn copies(&self) -> Vec<Duration>;

    /// Returns the delay until a subscription is active.
    fn delivery_delay(&self) -> Duration;
}

/// The network of the bus. Clones share it.
#[derive(Clone)]
pub struct SimulatedNetwork(Arc<Shared>);

struct Shared {
    faults: Arc<dyn BusFaults>,
    nodes: Mutex<Nodes>,
}

#[derive(Default)]
struct Nodes {
    /// The number of the last node that joined.
    next_number: u64,
    receivers: BTreeMap<u64, Receiver>,
    /// The indexes of partitioned nodes, which receive and send nothing.
    cut_nodes: BTreeSet<usize>,
}

/// The receiving side of a node.
struct Receiver {
    node_index: usize,
    events: mpsc::Sender<BusEvent>,
    codec: Codec,
    desired: Vec<RequestedSubscription>,
    requests: u64,
    /// The active subscriptions.
    confirmed: FxHashSet<Address>,
    /// Whether the queue was full and the gap has not been delivered yet.
    has_lost_notices: bool,
}

/// A subscription that a node has requested, and that may not be active yet.
struct RequestedSubscription {
    address: Address,
    /// The number of the request.
    request: u64,
    confirmed: bool,
}

/// The bus of one node.
struct NodeBus {
    network: SimulatedNetwork,
    node: NodeId,
    node_index: usize,
    codec: Codec,
}

impl std::fmt::Debug for NodeBus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("NodeBus").field(&self.node).finish()
    }
}

impl SimulatedNetwork {
    /// Makes a network without nodes.
    #[must_use]
    pub fn new(faults: Arc<dyn BusFaults>) -> Self {
        Self(Arc::new(Shared { faults, nodes: Mutex::default() }))
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the node with the index `place`. Dropping its bus removes the node. A restarted node has the same index and
    /// another id.
    pub(super) fn join(&self, place: usize) -> (Arc<dyn Bus>, mpsc::Receiver<BusEvent>) {
        let (bus, events) = self.join_with_key(place, &NoticeKey::new([7; 32]));
        (Arc::new(bus), events)
    }

    fn join_with_key(&self, place: usize, key: &NoticeKey) -> (NodeBus, mpsc::Receiver<BusEvent>) {
        let codec = || Codec::new(key).unwrap_or_else(|_| unreachable!("a key of any length is fine"));
        let (events, receiver) = mpsc::channel(RECEIVE_QUEUE);
        let mut nodes = self.nodes();
        nodes.next_number += 1;
        let number = nodes.next_number;
        let (desired, active) = (Vec::new(), FxHashSet::default());
        let joined = Receiver {
            node_index: place,
            events,
            codec: codec(),
            desired,
            requests: 0,
            confirmed: active,
            has_lost_notices: false,
        };
        nodes.receivers.insert(number, joined);
        drop(nodes);
        (NodeBus { network: self.clone(), node: NodeId(number), node_index: place, codec: codec() }, receiver)
    }

    /// Partitions the node with the index `place` from the others.
    pub fn cut(&self, place: usize) {
        self.nodes().cut_nodes.insert(place);
    }

    /// Ends the partition of the node with the index `place`. If `announced`, the node receives a gap.
    pub fn heal(&self, place: usize, announced: bool) {
        let mut nodes = self.nodes();
        nodes.cut_nodes.remove(&place);
        let here = nodes.receivers.iter().filter(|(_, receiver)| receiver.node_index == place);
        let here: Vec<_> = here.map(|(number, _)| *number).collect();
        for number in here {
            let Some(receiver) = nodes.receivers.get_mut(&number) else { continue };
            let mut new = Vec::new();
            for desired in receiver.desired.iter_mut().filter(|desired| !desired.confirmed) {
                desired.confirmed = true;
                receiver.confirmed.insert(desired.address.clone());
                new.push(desired.address.clone());
            }
            if !new.is_empty() {
                receiver.confirm(new);
            }
            if announced {
                self.deliver_event(number, receiver, BusEvent::Gap);
            }
        }
    }

    /// Delivers an event to a node, unless its queue is full.
    fn deliver_event(&self, number: u64, receiver: &mut Receiver, event: BusEvent) {
        if receiver.events.try_send(event).is_err()
            && !std::mem::replace(&mut receiver.has_lost_notices, true)
        {
            let (network, events) = (self.clone(), receiver.events.clone());
            tokio::spawn(async move {
                // The node may have ended.
                let _ = events.send(BusEvent::Gap).await;
                if let Some(receiver) = network.nodes().receivers.get_mut(&number) {
                    receiver.has_lost_notices = false;
                }
            });
        }
    }

    /// Delivers a copy of a notice, unless it comes from another installation.
    fn deliver_copy(&self, from: NodeId, number: u64, subject: SubjectKey, payload: &Bytes) {
        let mut nodes = self.nodes();
        let Nodes { receivers, cut_nodes: cut, .. } = &mut *nodes;
        if let Some(receiver) =
            receivers.get_mut(&number).filter(|receiver| !cut.contains(&receiver.node_index))
            && let Ok(notice) = receiver.codec.decode(subject, payload)
        {
            self.deliver_event(number, receiver, BusEvent::Notice(from, notice));
        }
    }

    /// Activates a subscription, unless the node has unsubscribed.
    fn activate_subscription(&self, number: u64, request: u64) {
        let mut nodes = self.nodes();
        let Nodes { receivers, cut_nodes: cut, .. } = &mut *nodes;
        let Some(receiver) =
            receivers.get_mut(&number).filter(|receiver| !cut.contains(&receiver.node_index))
        else {
            return;
        };
        let desired = receiver.desired.iter_mut().find(|desired| desired.request == request);
        if let Some(desired) = desired.filter(|desired| !desired.confirmed) {
            desired.confirmed = true;
            let address = desired.address.clone();
            receiver.confirmed.insert(address.clone());
            receiver.confirm(vec![address]);
        }
    }
}

impl Receiver {
    /// Confirms subscriptions to the node, once its queue has room.
    fn confirm(&self, addresses: Vec<Address>) {
        let confirmed = BusEvent::Subscribed(addresses);
        if let Err(TrySendError::Full(confirmed)) = self.events.try_send(confirmed) {
            let events = self.events.clone();
            tokio::spawn(async move {
                // The node may have ended.
                let _ = events.send(confirmed).await;
            });
        }
    }
}

impl Bus for NodeBus {
    fn publish(&self, address: &Address, notice: &Notice) {
        let nodes = self.network.nodes();
        if nodes.cut_nodes.contains(&self.node_index) {
            return;
        }
        let subscribers = nodes.receivers.iter().filter(|(number, receiver)| {
            **number != self.node.0
                && receiver.confirmed.contains(address)
                && !nodes.cut_nodes.contains(&receiver.node_index)
        });
        let copies: Vec<_> = subscribers
            .flat_map(|(number, _)| self.network.0.faults.copies().into_iter().map(|delay| (*number, delay)))
            .collect();
        drop(nodes);
        let subject = SubjectKey::for_address(address);
        let Ok(payload) = self.codec.encode(subject, self.node, notice) else { return };
        for (number, delay) in copies {
            let (network, from, payload) = (self.network.clone(), self.node, payload.clone());
            if delay.is_zero() {
                network.deliver_copy(from, number, subject, &payload);
            } else {
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    network.deliver_copy(from, number, subject, &payload);
                });
            }
        }
    }

    fn subscribe(&self, address: Address) {
        let mut nodes = self.network.nodes();
        let Some(receiver) = nodes.receivers.get_mut(&self.node.0) else { return };
        receiver.requests += 1;
        let request = receiver.requests;
        receiver.desired.retain(|desired| desired.address != address);
        receiver.desired.push(RequestedSubscription { address, request, confirmed: false });
        drop(nodes);
        let (network, number) = (self.network.clone(), self.node.0);
        let pause = self.network.0.faults.delivery_delay();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            network.activate_subscription(number, request);
        });
    }

    fn unsubscribe(&self, address: Address) {
        if let Some(receiver) = self.network.nodes().receivers.get_mut(&self.node.0) {
            receiver.desired.retain(|desired| desired.address != address);
            receiver.confirmed.remove(&address);
        }
    }

    fn probe(&self) -> Answer<()> {
        let cut = self.network.nodes().cut_nodes.contains(&self.node_index);
        Box::pin(std::future::ready(if cut { Err(Refusal::unavailable()) } else { Ok(()) }))
    }
}

impl Drop for NodeBus {
    fn drop(&mut self) {
        self.network.nodes().receivers.remove(&self.node.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::contract::{Network, Node, contract_tests};

    /// A network without faults.
    struct NoFaults;

    impl BusFaults for NoFaults {
        fn copies(&self) -> Vec<Duration> {
            vec![Duration::ZERO]
        }

        fn delivery_delay(&self) -> Duration {
            Duration::from_millis(1)
        }
    }

    struct ContractNetwork {
        network: SimulatedNetwork,
        places: usize,
    }

    impl Network for ContractNetwork {
        async fn start() -> Self {
            Self { network: SimulatedNetwork::new(Arc::new(NoFaults)), places: 0 }
        }

        async fn join(&mut self, installation: u8) -> Node {
            let (bus, events) = self.network.join_with_key(self.places, &NoticeKey::new([installation; 32]));
            self.places += 1;
            Node { id: bus.node, bus: Arc::new(bus), events, resources: Box::new(()) }
        }

        async fn cut(&mut self) {
            (0..self.places).for_each(|place| self.network.cut(place));
        }

        async fn restore(&mut self) {
            (0..self.places).for_each(|place| self.network.heal(place, true));
        }
    }

    contract_tests!(ContractNetwork);
}
