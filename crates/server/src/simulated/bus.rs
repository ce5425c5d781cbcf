//! The bus of a simulation: notices that take their time, overtake each other, come twice or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashSet;
use tokio::sync::mpsc;

use crate::bus::{Address, Bus, BusEvent, NodeId, Notice};
use switchboard_store::record::Answer;

/// Notices that may wait for a node. It is told of a gap when there are more.
const WAITING: usize = 64;

/// What the bus does to notices.
pub trait Weather: Send + Sync + 'static {
    /// How long each copy of a notice takes to one of those who listen; none if it is lost.
    fn copies(&self) -> Vec<Duration>;

    /// How long it takes until a node that begins to listen does.
    fn pause(&self) -> Duration;
}

/// What nodes tell each other by. Clones share it.
#[derive(Clone)]
pub struct Air(Arc<Shared>);

struct Shared {
    weather: Arc<dyn Weather>,
    nodes: Mutex<Nodes>,
}

#[derive(Default)]
struct Nodes {
    /// Of the last node that came.
    number: u64,
    ears: BTreeMap<u64, Ears>,
    /// Places whose nodes hear nothing and are not heard.
    cut: BTreeSet<usize>,
}

/// What a node hears by.
struct Ears {
    place: usize,
    heard: mpsc::Sender<BusEvent>,
    /// Where it wants to listen, and the number of that wish.
    wanted: Vec<(Address, u64)>,
    wishes: u64,
    /// Where it listens.
    open: FxHashSet<Address>,
    /// It is yet to be told of a gap.
    overrun: bool,
}

/// A node's way to the others.
struct Voice {
    air: Air,
    node: NodeId,
    place: usize,
}

impl std::fmt::Debug for Voice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Voice").field(&self.node).finish()
    }
}

impl Air {
    /// Nobody is there yet.
    #[must_use]
    pub fn new(weather: Arc<dyn Weather>) -> Self {
        Self(Arc::new(Shared { weather, nodes: Mutex::default() }))
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node begins at a place; it ends when the bus is dropped.
    pub(super) fn join(&self, place: usize) -> (Arc<dyn Bus>, mpsc::Receiver<BusEvent>) {
        let (heard, ears) = mpsc::channel(WAITING);
        let mut nodes = self.nodes();
        nodes.number += 1;
        let number = nodes.number;
        let (wanted, open) = (Vec::new(), FxHashSet::default());
        nodes.ears.insert(number, Ears { place, heard, wanted, wishes: 0, open, overrun: false });
        drop(nodes);
        (Arc::new(Voice { air: self.clone(), node: NodeId(number), place }), ears)
    }

    /// The node at a place hears nothing and is not heard from now on.
    pub fn cut(&self, place: usize) {
        self.nodes().cut.insert(place);
    }

    /// It does again; whether it learns that it has not.
    pub fn heal(&self, place: usize, told: bool) {
        let mut nodes = self.nodes();
        nodes.cut.remove(&place);
        let here = nodes.ears.iter().filter(|(_, ears)| ears.place == place);
        let here: Vec<_> = here.map(|(number, _)| *number).collect();
        for number in here {
            let Some(ears) = nodes.ears.get_mut(&number) else { continue };
            let new: Vec<_> = ears.wanted.iter().map(|(address, _)| address.clone()).collect();
            let new: Vec<_> = new.into_iter().filter(|address| ears.open.insert(address.clone())).collect();
            if !new.is_empty() {
                self.hears(number, ears, BusEvent::Subscribed(new));
            }
            if told {
                self.hears(number, ears, BusEvent::Gap);
            }
        }
    }

    /// A node hears something, if it is quick enough.
    fn hears(&self, number: u64, ears: &mut Ears, heard: BusEvent) {
        if ears.heard.try_send(heard).is_err() && !std::mem::replace(&mut ears.overrun, true) {
            let (air, heard) = (self.clone(), ears.heard.clone());
            tokio::spawn(async move {
                // It may be gone by now.
                let _ = heard.send(BusEvent::Gap).await;
                if let Some(ears) = air.nodes().ears.get_mut(&number) {
                    ears.overrun = false;
                }
            });
        }
    }

    /// A copy of a notice arrives.
    fn arrives(&self, from: NodeId, number: u64, notice: Notice) {
        let mut nodes = self.nodes();
        let Nodes { ears, cut, .. } = &mut *nodes;
        if let Some(ears) = ears.get_mut(&number).filter(|ears| !cut.contains(&ears.place)) {
            self.hears(number, ears, BusEvent::Notice(from, notice));
        }
    }

    /// A node listens at an address, if it still wants to.
    fn opens(&self, number: u64, address: Address, wish: u64) {
        let mut nodes = self.nodes();
        let Nodes { ears, cut, .. } = &mut *nodes;
        let Some(ears) = ears.get_mut(&number).filter(|ears| !cut.contains(&ears.place)) else { return };
        let wanted = ears.wanted.iter().any(|(other, number)| *other == address && *number == wish);
        if wanted && ears.open.insert(address.clone()) {
            self.hears(number, ears, BusEvent::Subscribed(vec![address]));
        }
    }
}

impl Bus for Voice {
    fn publish(&self, address: &Address, notice: &Notice) {
        let nodes = self.air.nodes();
        if nodes.cut.contains(&self.place) {
            return;
        }
        let listen = nodes.ears.iter().filter(|(number, ears)| {
            **number != self.node.0 && ears.open.contains(address) && !nodes.cut.contains(&ears.place)
        });
        let copies: Vec<_> = listen
            .flat_map(|(number, _)| self.air.0.weather.copies().into_iter().map(|delay| (*number, delay)))
            .collect();
        drop(nodes);
        for (number, delay) in copies {
            let (air, from, notice) = (self.air.clone(), self.node, notice.clone());
            if delay.is_zero() {
                air.arrives(from, number, notice);
            } else {
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    air.arrives(from, number, notice);
                });
            }
        }
    }

    fn subscribe(&self, address: Address) {
        let mut nodes = self.air.nodes();
        let Some(ears) = nodes.ears.get_mut(&self.node.0) else { return };
        ears.wishes += 1;
        let wish = ears.wishes;
        ears.wanted.push((address.clone(), wish));
        drop(nodes);
        let (air, number) = (self.air.clone(), self.node.0);
        let pause = self.air.0.weather.pause();
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            air.opens(number, address, wish);
        });
    }

    fn unsubscribe(&self, address: Address) {
        if let Some(ears) = self.air.nodes().ears.get_mut(&self.node.0) {
            ears.wanted.retain(|(other, _)| *other != address);
            ears.open.remove(&address);
        }
    }

    fn probe(&self) -> Answer<()> {
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Drop for Voice {
    fn drop(&mut self) {
        self.air.nodes().ears.remove(&self.node.0);
    }
}
