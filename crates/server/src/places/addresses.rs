//! Counts the connections of each address. One attacker may have many IPv6 addresses, so connections are also counted by network.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustc_hash::FxHashMap;

use crate::config::Network;

/// The IPv6 networks whose connections are counted together: the length of their prefix in bits, and how many times
/// `limits.connections_per_address` each may have. A host has a /64 (RFC 4291 section 2.5.1), a household a /56, and an
/// organisation or the customer of a tunnel broker a /48 (RFC 6177). Independent users share the larger networks, so these may have
/// more connections, but not 256 and 65,536 times as many.
const IPV6_NETWORKS: [(u8, u32); 3] = [(64, 1), (56, 4), (48, 16)];

/// Each IPv4 address is counted alone, because IPv4 addresses are scarce, and many people share one.
const IPV4_NETWORKS: [(u8, u32); 1] = [(32, 1)];

/// How many connections there are from each network.
#[derive(Debug, Default)]
pub(super) struct Addresses(Mutex<FxHashMap<Network, u32>>);

/// The permit of a connection, which counts towards the limit of its address. Dropping it makes room for another connection.
#[derive(Debug)]
pub(super) struct AddressPlace {
    addresses: Arc<Addresses>,
    address: IpAddr,
}

/// The networks for which a connection of an address counts, each with the factor for its limit.
fn networks(address: IpAddr) -> impl Iterator<Item = (Network, u32)> {
    let address = address.to_canonical();
    let networks: &[_] = if address.is_ipv4() { &IPV4_NETWORKS } else { &IPV6_NETWORKS };
    networks.iter().map(move |(prefix, share)| (Network::containing(address, *prefix), *share))
}

impl Addresses {
    fn lock_counts(&self) -> MutexGuard<'_, FxHashMap<Network, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more connection of an address; `None` if one of its networks has as many as it may have. A limit of 0 is no
    /// limit.
    pub(super) fn take_place(self: &Arc<Self>, address: IpAddr, limit: u32) -> Option<AddressPlace> {
        let mut counts = self.lock_counts();
        let here = |network| counts.get(&network).copied().unwrap_or(0);
        if limit > 0 && networks(address).any(|(network, share)| here(network) >= limit.saturating_mul(share))
        {
            return None;
        }
        for (network, _) in networks(address) {
            *counts.entry(network).or_insert(0) += 1;
        }
        Some(AddressPlace { addresses: self.clone(), address })
    }
}

impl Drop for AddressPlace {
    fn drop(&mut self) {
        let mut counts = self.addresses.lock_counts();
        for (network, _) in networks(self.address) {
            if let Some(here) = counts.get_mut(&network) {
                *here -= 1;
                if *here == 0 {
                    counts.remove(&network);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn ipv6_addresses_are_counted_by_their_network() {
        for (one, other, same) in [
            ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", true),
            ("2001:db8:1:2::1", "2001:db8:1:3::1", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
            ("192.0.2.1", "192.0.2.2", false),
            ("::1", "::2", true),
        ] {
            let addresses = Arc::new(Addresses::default());
            let place = addresses.take_place(address(one), 1).expect("the first");
            assert_eq!(addresses.take_place(address(other), 1).is_none(), same, "{one} {other}");
            drop(place);
            assert!(addresses.take_place(address(other), 1).is_some());
            assert!(addresses.lock_counts().is_empty(), "nothing is left behind");
        }
    }

    /// How many connections are admitted that each come from another /64 network, all within one network of `prefix` bits.
    fn places_within(prefix: u8, limit: u32) -> usize {
        let addresses = Arc::new(Addresses::default());
        let base = address("2001:db8::");
        let IpAddr::V6(base) = base else { panic!("IPv6") };
        let networks = 1_u128 << (64 - prefix).min(12);
        let tries = (0..networks).flat_map(|network| (0..limit + 1).map(move |host| (network, host)));
        let places: Vec<_> = tries
            .filter_map(|(network, host)| {
                let bits = base.to_bits() | network << 64 | u128::from(host);
                addresses.take_place(IpAddr::V6(bits.into()), limit)
            })
            .collect();
        places.len()
    }

    #[test]
    fn a_larger_network_has_more_connections_but_not_as_many_as_its_addresses() {
        assert_eq!(places_within(64, 10), 10);
        assert_eq!(places_within(56, 10), 40);
        assert_eq!(places_within(48, 10), 160);
    }

    #[test]
    fn zero_is_no_limit() {
        let addresses = Arc::new(Addresses::default());
        let places: Vec<_> = (0..5_000).map(|_| addresses.take_place(address("192.0.2.1"), 0)).collect();
        assert!(places.iter().all(Option::is_some));
    }
}
