//! Admission of connections: how many there may be in all, from each address, and of strangers, who have not authenticated.
//!
//! Strangers have a share of the places, and in it the newest replaces the oldest. So a flood of connections that say nothing
//! keeps nobody out: a client that authenticates at once leaves the share before their turn to be replaced comes.

mod addresses;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustc_hash::FxHashSet;
use switchboard_protocol::{ErrorCode, Limits};
use tokio::sync::Notify;

use self::addresses::{AddressPlace, Addresses};

/// Most connections that have been evicted and are still on their way out, each for the time that its task takes to be
/// scheduled. Beyond: new connections are refused.
const MAX_EVICTING: usize = 1_024;

/// Fewest and most connections at once that get a 503 or 429, and of which probes are answered: a tenth of
/// `limits.connections` between these. Beyond: the oldest that has not sent its request is closed, or else the new one.
const REFUSED_PLACES: std::ops::RangeInclusive<u32> = 16..=256;

/// How many connections may be refused at once by a server with so many places.
pub(crate) fn refused_places(connections: u32) -> usize {
    (connections / 10).clamp(*REFUSED_PLACES.start(), *REFUSED_PLACES.end()) as usize
}

/// The places of one server.
#[derive(Debug)]
pub(crate) struct Places {
    /// Most connections in all.
    connections: usize,
    /// Most connections of one address; 0 is no limit.
    connections_per_address: u32,
    /// Most connections that have not authenticated.
    strangers: usize,
    /// Most refused connections that are answered at once. Of these, probes are answered as usual.
    refused: usize,
    addresses: Arc<Addresses>,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// The number of the last connection: they are numbered in the order in which they came.
    last: u64,
    /// Connections that are there, evicted ones included.
    admitted: usize,
    strangers: Evictable,
    /// Strangers whose probe is being answered: they are not evicted meanwhile.
    probing: usize,
    /// Refused connections that have not sent their request.
    refused: Evictable,
    /// Refused connections that are being answered.
    answering: usize,
}

/// Connections of which the oldest may be closed to make room.
#[derive(Debug, Default)]
struct Evictable {
    /// By their numbers, so that the first is the oldest.
    waiting: BTreeMap<u64, Arc<Notify>>,
    /// Told to end, and not gone yet.
    evicted: FxHashSet<u64>,
}

impl Evictable {
    /// Tells the oldest connection to end; whether there is one, and not too many are ending.
    fn evict_oldest(&mut self) -> bool {
        if self.evicted.len() >= MAX_EVICTING {
            return false;
        }
        let Some((number, evicted)) = self.waiting.pop_first() else { return false };
        self.evicted.insert(number);
        evicted.notify_one();
        true
    }

    /// From now on the connection is not evicted; false if it has been.
    fn keep(&mut self, number: u64) -> bool {
        self.waiting.remove(&number);
        !self.evicted.contains(&number)
    }

    fn forget(&mut self, number: u64) {
        self.waiting.remove(&number);
        self.evicted.remove(&number);
    }
}

/// Why a connection gets no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// All places are taken by those who have authenticated.
    Server,
    /// The address has as many as it may have.
    Address,
}

impl From<Full> for ErrorCode {
    fn from(full: Full) -> Self {
        match full {
            Full::Server => Self::Unavailable,
            Full::Address => Self::RateLimited,
        }
    }
}

impl Places {
    /// The places that these limits allow.
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            connections: limits.connections as usize,
            connections_per_address: limits.connections_per_address,
            strangers: limits.max_unauthenticated() as usize,
            refused: refused_places(limits.connections),
            addresses: Arc::default(),
            counts: Mutex::default(),
        })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection, and whether the oldest stranger was evicted for it. It counts for the address, or for none
    /// if a proxy has not named its client yet.
    pub(crate) fn enter(self: &Arc<Self>, address: Option<IpAddr>) -> Result<(Arc<Place>, bool), Full> {
        let of_address = OnceLock::new();
        if let Some(address) = address {
            let _ = of_address.set(self.enter_address(address)?);
        }
        let mut counts = self.counts();
        let full = counts.admitted - counts.strangers.evicted.len() >= self.connections;
        let crowded = full || counts.strangers.waiting.len() >= self.strangers;
        if crowded && !counts.strangers.evict_oldest() {
            return Err(Full::Server);
        }
        counts.admitted += 1;
        let (number, evicted) = counts.number();
        counts.strangers.waiting.insert(number, evicted.clone());
        drop(counts);
        Ok((Arc::new(Place { places: self.clone(), of_address, number, evicted }), crowded))
    }

    fn enter_address(&self, address: IpAddr) -> Result<AddressPlace, Full> {
        self.addresses.take(address, self.connections_per_address).ok_or(Full::Address)
    }

    /// A place for a connection that is to be answered that there is none; the oldest of its kind that has not sent its
    /// request is evicted for it. `None` if all of them are being answered.
    pub(crate) fn refuse(self: &Arc<Self>) -> Option<RefusedPlace> {
        let mut counts = self.counts();
        let taken = counts.answering + counts.refused.waiting.len();
        if taken >= self.refused && !counts.refused.evict_oldest() {
            return None;
        }
        let (number, evicted) = counts.number();
        counts.refused.waiting.insert(number, evicted.clone());
        drop(counts);
        Some(RefusedPlace { places: self.clone(), number, evicted, answering: AtomicBool::new(false) })
    }

    /// Evicts up to so many of the oldest strangers, to free their descriptors; how many.
    pub(crate) fn evict_strangers(&self, most: usize) -> usize {
        let mut counts = self.counts();
        (0..most).take_while(|_| counts.strangers.evict_oldest()).count()
    }
}

impl Counts {
    fn number(&mut self) -> (u64, Arc<Notify>) {
        self.last += 1;
        (self.last, Arc::default())
    }
}

/// A connection's place; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    /// Among those of its address, once that is known.
    of_address: OnceLock<AddressPlace>,
    number: u64,
    evicted: Arc<Notify>,
}

impl Place {
    /// Counts the connection for the address of its client, unless it counts for one already.
    pub(crate) fn count(&self, address: IpAddr) -> Result<(), Full> {
        if self.of_address.get().is_none() {
            // Only one of two that count it at the same time keeps its place.
            let _ = self.of_address.set(self.places.enter_address(address)?);
        }
        Ok(())
    }

    /// The connection has authenticated: it leaves the share of strangers for good. False if it has been evicted.
    pub(crate) fn authenticate(&self) -> bool {
        self.places.counts().strangers.keep(self.number)
    }

    /// A probe has come: a stranger is not evicted before it has been answered, unless many probes are being answered.
    pub(crate) fn begin_probe(self: &Arc<Self>) -> Option<Probing> {
        let mut counts = self.places.counts();
        if counts.probing >= self.places.refused || counts.strangers.waiting.remove(&self.number).is_none() {
            return None;
        }
        counts.probing += 1;
        drop(counts);
        Some(Probing(self.clone()))
    }

    /// Ready when the connection is to end because newer strangers need its place.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

/// A stranger whose probe is being answered, until this is dropped.
#[derive(Debug)]
pub(crate) struct Probing(Arc<Place>);

impl Drop for Probing {
    fn drop(&mut self) {
        let Place { places, number, evicted, .. } = &*self.0;
        let mut counts = places.counts();
        counts.probing -= 1;
        counts.strangers.waiting.insert(*number, evicted.clone());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.places.counts();
        counts.admitted -= 1;
        counts.strangers.forget(self.number);
    }
}

/// The place of a connection that is refused; free again when dropped.
#[derive(Debug)]
pub(crate) struct RefusedPlace {
    places: Arc<Places>,
    number: u64,
    evicted: Arc<Notify>,
    answering: AtomicBool,
}

impl RefusedPlace {
    /// The request has come: the connection is not evicted before it has been answered.
    pub(crate) fn begin_answer(&self) {
        let mut counts = self.places.counts();
        if counts.refused.keep(self.number) && !self.answering.swap(true, Ordering::Relaxed) {
            counts.answering += 1;
        }
    }

    /// Ready when the connection is to end because newer ones need its place.
    pub(crate) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for RefusedPlace {
    fn drop(&mut self) {
        let mut counts = self.places.counts();
        counts.refused.forget(self.number);
        if *self.answering.get_mut() {
            counts.answering -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn places(connections: usize, strangers: usize) -> Arc<Places> {
        let (addresses, counts) = (Arc::default(), Mutex::default());
        Arc::new(Places { connections, connections_per_address: 1, strangers, refused: 2, addresses, counts })
    }

    fn enter(places: &Arc<Places>) -> Arc<Place> {
        places.enter(None).expect("a place").0
    }

    fn is_evicted(place: &Place) -> bool {
        futures_util::FutureExt::now_or_never(place.evicted()).is_some()
    }

    #[test]
    fn the_newest_stranger_replaces_the_oldest_and_authenticated_ones_stay() {
        let places = places(10, 2);
        let (first, second, third) = (enter(&places), enter(&places), enter(&places));
        assert!(is_evicted(&first) && !is_evicted(&second));
        assert!(!first.authenticate(), "too late");
        assert!(second.authenticate());
        let fourth = enter(&places);
        assert!(!is_evicted(&third), "an authenticated connection has left the share");
        enter(&places);
        assert!(is_evicted(&third) && !is_evicted(&second) && !is_evicted(&fourth));
    }

    #[test]
    fn when_all_places_are_taken_only_a_stranger_makes_room() {
        let places = places(2, 2);
        let (user, stranger) = (enter(&places), enter(&places));
        assert!(user.authenticate());
        let newest = enter(&places);
        assert!(is_evicted(&stranger));
        assert!(newest.authenticate());
        assert_eq!(places.enter(None).err(), Some(Full::Server));
        // The evicted one still has its descriptor, and frees no place that is not its own.
        drop(stranger);
        assert_eq!(places.enter(None).err(), Some(Full::Server));
        drop(user);
        drop(enter(&places));
        drop(newest);
        let counts = places.counts();
        assert!(counts.admitted == 0);
        assert!(counts.strangers.waiting.is_empty() && counts.strangers.evicted.is_empty());
    }

    #[test]
    fn a_stranger_is_not_evicted_while_its_probe_is_answered() {
        let places = places(2, 2);
        let (probe, other) = (enter(&places), enter(&places));
        let probing = probe.begin_probe().expect("a stranger");
        let newest = enter(&places);
        assert!(is_evicted(&other) && !is_evicted(&probe));
        drop(probing);
        enter(&places);
        assert!(is_evicted(&probe) && !is_evicted(&newest), "it is the oldest again");
        assert!(newest.authenticate() && newest.begin_probe().is_none());
        drop((probe, other, newest));
        assert!(places.counts().probing == 0 && places.counts().strangers.waiting.is_empty());
    }

    #[test]
    fn a_connection_counts_for_its_client_once_that_is_known() {
        let places = places(10, 10);
        let (first, second) = (enter(&places), enter(&places));
        assert_eq!((first.count(ADDRESS), first.count(ADDRESS)), (Ok(()), Ok(())));
        assert_eq!(second.count(ADDRESS), Err(Full::Address));
        assert_eq!(places.enter(Some(ADDRESS)).err(), Some(Full::Address));
        drop(first);
        assert_eq!(second.count(ADDRESS), Ok(()));
    }

    #[test]
    fn refused_connections_that_are_being_answered_are_not_evicted() {
        let places = places(0, 0);
        let (first, second) = (places.refuse().expect("a place"), places.refuse().expect("a place"));
        first.begin_answer();
        let third = places.refuse().expect("in place of the second");
        assert!(futures_util::FutureExt::now_or_never(second.evicted()).is_some());
        third.begin_answer();
        assert!(places.refuse().is_none());
        drop((first, second, third));
        let counts = places.counts();
        assert!(
            counts.answering == 0 && counts.refused.waiting.is_empty() && counts.refused.evicted.is_empty()
        );
    }
}
