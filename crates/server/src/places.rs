//! Admission of connections. Limits bound the number of all connections, of those from each address, and of unauthenticated ones.
//!
//! Each admitted connection has a *place*, a permit that counts towards these limits. An unauthenticated client is a *stranger*.
//! Strangers may have only a share of the places. When the share is full, a new stranger replaces the oldest one. So a flood of
//! connections that never authenticate keeps no other client out: a client that authenticates at once is no stranger any more
//! before it would be replaced.

mod addresses;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustc_hash::FxHashSet;
use switchboard_protocol::{ErrorCode, Limits};
use tokio::sync::Notify;

use self::addresses::{AddressPlace, Addresses};

/// The most connections that have been evicted and have not ended yet. Each ends as soon as its task is scheduled. If there are
/// this many, new connections are refused.
const MAX_EVICTED_CONNECTIONS: usize = 1_024;

/// The lowest and the highest number of refused connections that are served at once: they receive 503 or 429, or the answer of a
/// probe. The number is a tenth of `limits.connections` within this range. For a further connection, the oldest of them that has
/// sent no request is closed; if there is none, the new one is closed.
const REFUSED_PLACES: std::ops::RangeInclusive<u32> = 16..=256;

/// How many refused connections a server that allows `connections` serves at once.
pub(crate) fn refused_places(connections: u32) -> usize {
    (connections / 10).clamp(*REFUSED_PLACES.start(), *REFUSED_PLACES.end()) as usize
}

/// The limits of one server, and the counts of its connections.
#[derive(Debug)]
pub(crate) struct Places {
    /// The most connections in all.
    connections: usize,
    /// The most connections from one address; 0 is no limit.
    connections_per_address: u32,
    /// The most connections that have not authenticated.
    max_unauthenticated: usize,
    /// The most refused connections that are served at once. Probes on them are answered as usual.
    max_refused: usize,
    addresses: Arc<Addresses>,
    counts: Mutex<PlaceCounts>,
}

#[derive(Debug, Default)]
struct PlaceCounts {
    /// The number of the newest connection. Connections are numbered in the order in which they were accepted.
    last: u64,
    /// How many admitted connections have not ended, including evicted ones.
    admitted: usize,
    unauthenticated: Evictable,
    /// How many probes of unauthenticated clients are being answered. Such a client is not evicted before it has its answer.
    probing: usize,
    /// The refused connections that have not sent their request.
    refused: Evictable,
    /// How many refused connections are being answered.
    answering: usize,
}

/// Connections, the oldest of which may be closed to make room for a new one.
#[derive(Debug, Default)]
struct Evictable {
    /// The connections that may be evicted, by their numbers, so that the first is the oldest.
    waiting: BTreeMap<u64, Arc<Waiting>>,
    /// The connections that were notified to end and have not ended yet.
    evicted: FxHashSet<u64>,
}

/// A connection that may be evicted.
#[derive(Debug, Default)]
struct Waiting {
    evicted: Notify,
    /// The client's address, once it is known.
    address: OnceLock<IpAddr>,
}

/// An evicted connection, with its client's address if that was known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Evicted(pub(crate) Option<IpAddr>);

impl Evictable {
    /// Tells the oldest connection to end. Returns `None` if there is none, or if too many evicted connections have not ended
    /// yet.
    fn evict_oldest(&mut self) -> Option<Evicted> {
        if self.evicted.len() >= MAX_EVICTED_CONNECTIONS {
            return None;
        }
        let (number, waiting) = self.waiting.pop_first()?;
        self.evicted.insert(number);
        waiting.evicted.notify_one();
        Some(Evicted(waiting.address.get().copied()))
    }

    /// Protects a connection from eviction from now on. Returns `false` if it has been evicted already.
    fn protect(&mut self, number: u64) -> bool {
        self.waiting.remove(&number);
        !self.evicted.contains(&number)
    }

    fn remove(&mut self, number: u64) {
        self.waiting.remove(&number);
        self.evicted.remove(&number);
    }
}

/// Why a connection is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AdmissionError {
    /// The server has as many connections as it may have, and none that it can evict.
    Server,
    /// The client's address has as many connections as it may have.
    Address,
}

impl From<AdmissionError> for ErrorCode {
    fn from(full: AdmissionError) -> Self {
        match full {
            AdmissionError::Server => Self::Unavailable,
            AdmissionError::Address => Self::RateLimited,
        }
    }
}

impl Places {
    /// Makes the admission of connections with these limits.
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            connections: limits.connections as usize,
            connections_per_address: limits.connections_per_address,
            max_unauthenticated: limits.max_unauthenticated() as usize,
            max_refused: refused_places(limits.connections),
            addresses: Arc::default(),
            counts: Mutex::default(),
        })
    }

    fn lock_counts(&self) -> MutexGuard<'_, PlaceCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits a new connection. Returns its place, and the oldest unauthenticated connection if that was evicted for it. `address`
    /// is `None` for a connection of a proxy, which counts for no address until the proxy has named the client.
    pub(crate) fn admit(
        self: &Arc<Self>,
        address: Option<IpAddr>,
    ) -> Result<(Arc<Place>, Option<Evicted>), AdmissionError> {
        let of_address = OnceLock::new();
        if let Some(address) = address {
            let _ = of_address.set(self.take_address_place(address)?);
        }
        let mut counts = self.lock_counts();
        let full = counts.admitted - counts.unauthenticated.evicted.len() >= self.connections;
        let crowded = full || counts.unauthenticated.waiting.len() >= self.max_unauthenticated;
        let evicted = if crowded { counts.unauthenticated.evict_oldest() } else { None };
        if crowded && evicted.is_none() {
            return Err(AdmissionError::Server);
        }
        counts.admitted += 1;
        let (number, waiting) = counts.next_number();
        if let Some(address) = address {
            let _ = waiting.address.set(address);
        }
        counts.unauthenticated.waiting.insert(number, waiting.clone());
        drop(counts);
        Ok((Arc::new(Place { places: self.clone(), of_address, number, waiting }), evicted))
    }

    fn take_address_place(&self, address: IpAddr) -> Result<AddressPlace, AdmissionError> {
        self.addresses.take_place(address, self.connections_per_address).ok_or(AdmissionError::Address)
    }

    /// Takes a place for a connection that is refused, so that it can be answered. If too many are being served, evicts the oldest
    /// that has sent no request; `None` if there is none.
    pub(crate) fn take_refused_place(self: &Arc<Self>) -> Option<RefusedPlace> {
        let mut counts = self.lock_counts();
        let taken = counts.answering + counts.refused.waiting.len();
        if taken >= self.max_refused && counts.refused.evict_oldest().is_none() {
            return None;
        }
        let (number, waiting) = counts.next_number();
        counts.refused.waiting.insert(number, waiting.clone());
        drop(counts);
        Some(RefusedPlace { places: self.clone(), number, waiting, answering: AtomicBool::new(false) })
    }

    /// Evicts at most `most` of the oldest unauthenticated connections, to free their file descriptors. Returns how many it has
    /// evicted.
    pub(crate) fn evict_unauthenticated(&self, most: usize) -> usize {
        let mut counts = self.lock_counts();
        (0..most).take_while(|_| counts.unauthenticated.evict_oldest().is_some()).count()
    }

    /// The number of unauthenticated connections from an address.
    pub(crate) fn unauthenticated_of(&self, address: IpAddr) -> usize {
        let counts = self.lock_counts();
        counts
            .unauthenticated
            .waiting
            .values()
            .filter(|waiting| waiting.address.get() == Some(&address))
            .count()
    }
}

impl PlaceCounts {
    fn next_number(&mut self) -> (u64, Arc<Waiting>) {
        self.last += 1;
        (self.last, Arc::default())
    }
}

/// The permit of an admitted connection, which counts towards the limits. Dropping it makes room for another connection.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    /// The permit that counts towards the limit of the connection's address, once that address is known.
    of_address: OnceLock<AddressPlace>,
    number: u64,
    waiting: Arc<Waiting>,
}

impl Place {
    /// Counts the connection for the address of its client, unless it already counts for an address.
    pub(crate) fn count_for_address(&self, address: IpAddr) -> Result<(), AdmissionError> {
        if self.of_address.get().is_none() {
            // If two requests on the connection count it at the same time, the second count is dropped here.
            let _ = self.of_address.set(self.places.take_address_place(address)?);
            let _ = self.waiting.address.set(address);
        }
        Ok(())
    }

    /// Called when the connection has authenticated: it cannot be evicted any more. Returns `false` if it has been evicted
    /// already.
    pub(crate) fn mark_authenticated(&self) -> bool {
        self.places.lock_counts().unauthenticated.protect(self.number)
    }

    /// Called when a probe has arrived: protects an unauthenticated connection from eviction until the probe is answered. `None`
    /// if too many probes are being answered, or if the connection has authenticated or has been evicted.
    pub(crate) fn begin_probe(self: &Arc<Self>) -> Option<ProbeGuard> {
        let mut counts = self.places.lock_counts();
        if counts.probing >= self.places.max_refused
            || counts.unauthenticated.waiting.remove(&self.number).is_none()
        {
            return None;
        }
        counts.probing += 1;
        drop(counts);
        Some(ProbeGuard(self.clone()))
    }

    /// Resolves when the connection must end because newer unauthenticated connections need its place.
    pub(crate) async fn wait_for_eviction(&self) {
        self.waiting.evicted.notified().await;
    }
}

/// Protects an unauthenticated connection from eviction until this is dropped, because its probe is being answered.
#[derive(Debug)]
pub(crate) struct ProbeGuard(Arc<Place>);

impl Drop for ProbeGuard {
    fn drop(&mut self) {
        let Place { places, number, waiting, .. } = &*self.0;
        let mut counts = places.lock_counts();
        counts.probing -= 1;
        counts.unauthenticated.waiting.insert(*number, waiting.clone());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.places.lock_counts();
        counts.admitted -= 1;
        counts.unauthenticated.remove(self.number);
    }
}

/// The permit of a connection over the limits, until it has its answer and is closed. Dropping it makes room for another such
/// connection.
#[derive(Debug)]
pub(crate) struct RefusedPlace {
    places: Arc<Places>,
    number: u64,
    waiting: Arc<Waiting>,
    answering: AtomicBool,
}

impl RefusedPlace {
    /// Called when the request has arrived: protects the connection from eviction until it is answered.
    pub(crate) fn begin_answer(&self) {
        let mut counts = self.places.lock_counts();
        if counts.refused.protect(self.number) && !self.answering.swap(true, Ordering::Relaxed) {
            counts.answering += 1;
        }
    }

    /// Resolves when the connection must end because newer refused connections need its place.
    pub(crate) async fn wait_for_eviction(&self) {
        self.waiting.evicted.notified().await;
    }
}

impl Drop for RefusedPlace {
    fn drop(&mut self) {
        let mut counts = self.places.lock_counts();
        counts.refused.remove(self.number);
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
        Arc::new(Places {
            connections,
            connections_per_address: 1,
            max_unauthenticated: strangers,
            max_refused: 2,
            addresses,
            counts,
        })
    }

    fn admit(places: &Arc<Places>) -> Arc<Place> {
        places.admit(None).expect("a place").0
    }

    fn was_evicted(place: &Place) -> bool {
        futures_util::FutureExt::now_or_never(place.wait_for_eviction()).is_some()
    }

    #[test]
    fn the_newest_stranger_replaces_the_oldest_and_authenticated_ones_stay() {
        let places = places(10, 2);
        let (first, second, third) = (admit(&places), admit(&places), admit(&places));
        assert!(was_evicted(&first) && !was_evicted(&second));
        assert!(!first.mark_authenticated(), "too late");
        assert!(second.mark_authenticated());
        let fourth = admit(&places);
        assert!(!was_evicted(&third), "an authenticated connection has left the share");
        admit(&places);
        assert!(was_evicted(&third) && !was_evicted(&second) && !was_evicted(&fourth));
    }

    #[test]
    fn when_all_places_are_taken_only_a_stranger_makes_room() {
        let places = places(2, 2);
        let (user, stranger) = (admit(&places), admit(&places));
        assert!(user.mark_authenticated());
        let newest = admit(&places);
        assert!(was_evicted(&stranger));
        assert!(newest.mark_authenticated());
        assert_eq!(places.admit(None).err(), Some(AdmissionError::Server));
        // The evicted connection still has its descriptor. Its end frees only its own place.
        drop(stranger);
        assert_eq!(places.admit(None).err(), Some(AdmissionError::Server));
        drop(user);
        drop(admit(&places));
        drop(newest);
        let counts = places.lock_counts();
        assert!(counts.admitted == 0);
        assert!(counts.unauthenticated.waiting.is_empty() && counts.unauthenticated.evicted.is_empty());
    }

    #[test]
    fn a_stranger_is_not_evicted_while_its_probe_is_answered() {
        let places = places(2, 2);
        let (probe, other) = (admit(&places), admit(&places));
        let probing = probe.begin_probe().expect("a stranger");
        let newest = admit(&places);
        assert!(was_evicted(&other) && !was_evicted(&probe));
        drop(probing);
        admit(&places);
        assert!(was_evicted(&probe) && !was_evicted(&newest), "it is the oldest again");
        assert!(newest.mark_authenticated() && newest.begin_probe().is_none());
        drop((probe, other, newest));
        assert!(places.lock_counts().probing == 0 && places.lock_counts().unauthenticated.waiting.is_empty());
    }

    #[test]
    fn a_connection_counts_for_its_client_once_that_is_known() {
        let places = places(10, 10);
        let (first, second) = (admit(&places), admit(&places));
        assert_eq!((first.count_for_address(ADDRESS), first.count_for_address(ADDRESS)), (Ok(()), Ok(())));
        assert_eq!(second.count_for_address(ADDRESS), Err(AdmissionError::Address));
        assert_eq!(places.admit(Some(ADDRESS)).err(), Some(AdmissionError::Address));
        drop(first);
        assert_eq!(second.count_for_address(ADDRESS), Ok(()));
    }

    #[test]
    fn refused_connections_that_are_being_answered_are_not_evicted() {
        let places = places(0, 0);
        let (first, second) =
            (places.take_refused_place().expect("a place"), places.take_refused_place().expect("a place"));
        first.begin_answer();
        let third = places.take_refused_place().expect("in place of the second");
        assert!(futures_util::FutureExt::now_or_never(second.wait_for_eviction()).is_some());
        third.begin_answer();
        assert!(places.take_refused_place().is_none());
        drop((first, second, third));
        let counts = places.lock_counts();
        assert!(
            counts.answering == 0 && counts.refused.waiting.is_empty() && counts.refused.evicted.is_empty()
        );
    }
}
