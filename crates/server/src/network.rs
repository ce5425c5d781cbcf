//! A network of IP addresses, as in `trusted_proxies`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The number of bits before the IPv4 address in an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2).
const MAPPED_IPV4_PREFIX_BITS: u8 = 96;

/// A network of IP addresses, such as `10.0.0.0/8`. A single address is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// The network of an address with a prefix of `prefix` bits, at most the address's length.
    pub fn containing(address: IpAddr, prefix: u8) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let prefix = prefix.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                Self { address: Ipv4Addr::from_bits(v4.to_bits() & mask).into(), prefix }
            }
            IpAddr::V6(v6) => {
                let prefix = prefix.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                Self { address: Ipv6Addr::from_bits(v6.to_bits() & mask).into(), prefix }
            }
        }
    }

    /// How many bits all its addresses have in common.
    pub(crate) fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether the network contains an address. An IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.address.is_ipv4() == address.is_ipv4() && Self::containing(address, self.prefix) == *self
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is not a network: write an address with a prefix length, such as 10.0.0.0/8 or \
                 fd00::/8, or one address"
            )
        };
        let (address, prefix) = match text.split_once('/') {
            None => (text, None),
            Some((address, prefix)) => (address, Some(prefix)),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix: u8 = match prefix {
            None => most,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().ok().filter(|prefix| *prefix <= most).ok_or_else(wrong)?
            }
            Some(_) => return Err(wrong()),
        };
        let mapped = address.is_ipv6() && address.to_canonical().is_ipv4();
        let prefix =
            if mapped { prefix.checked_sub(MAPPED_IPV4_PREFIX_BITS).ok_or_else(wrong)? } else { prefix };
        let network = Self::containing(address, prefix);
        if network.address != address.to_canonical() {
            return Err(format!(
                "{text:?} has bits set after its prefix: did you mean {network}, or the one address {address}?"
            ));
        }
        Ok(network)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_contains_the_addresses_with_its_prefix() {
        for (network, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("10.0.0.0/8", "::10.0.0.1", false),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("::1", "::1", true),
            ("::1", "127.0.0.1", false),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe00::1", false),
            ("2001:db8::/33", "2001:db8:7fff::1", true),
            ("2001:db8::/33", "2001:db8:8000::1", false),
        ] {
            let parsed: Network = network.parse().expect(network);
            assert_eq!(parsed.contains(address.parse().expect(address)), inside, "{network} {address}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed), "display and parse agree");
        }
    }

    #[test]
    fn text_that_is_not_a_network_is_refused() {
        for (text, words) in [
            ("", "is not a network"),
            ("10.0.0.0/33", "is not a network"),
            ("::/129", "is not a network"),
            ("10.0.0.0/", "is not a network"),
            ("10.0.0.0/+8", "is not a network"),
            ("10.0.0.0/256", "is not a network"),
            ("::ffff:10.0.0.0/8", "is not a network"),
            ("proxy.example", "is not a network"),
            ("10.0.0.1:80", "is not a network"),
            ("10.1.2.3/8", "did you mean 10.0.0.0/8"),
        ] {
            let error = text.parse::<Network>().expect_err(text);
            assert!(error.contains(words), "{error}");
        }
    }
}
