//! Where the server may send requests of its own: addresses of the internet, unless the configuration allows private ones. Names are resolved at
//! each connection, and the connection goes to the address that was checked.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::Name;
use tower::Service;
use url::{Host, Url};

use crate::network::Network;

/// The networks of IPv4 that are not of the internet (IANA's registry of special-purpose addresses), multicast, and the address by
/// which Azure's machines reach their host and its metadata.
const PRIVATE_V4: [&str; 17] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// The networks within `2000::/3` that are not of the internet, or that carry an IPv4 address: Teredo, 6to4, documentation.
const PRIVATE_V6: [&str; 4] = ["2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"];

static PRIVATE: LazyLock<Vec<Network>> = LazyLock::new(|| {
    PRIVATE_V4.iter().chain(&PRIVATE_V6).filter_map(|network| network.parse().ok()).collect()
});

/// Whether an address is one of the internet. IPv4 addresses within IPv6, as of NAT64, are not.
pub(super) fn is_public(address: IpAddr) -> bool {
    let is_listed = || PRIVATE.iter().any(|network| network.contains(address));
    match address {
        IpAddr::V4(_) => !is_listed(),
        IpAddr::V6(v6) => is_global_unicast(v6) && !is_listed(),
    }
}

/// Whether an address is in `2000::/3`. All others are private, link-local, multicast, mapped from IPv4, or not assigned.
fn is_global_unicast(address: Ipv6Addr) -> bool {
    address.segments()[0] >> 13 == 1
}

/// Which addresses may be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Allowed {
    /// Those of the internet.
    Public,
    /// Those of the internet and all others.
    All,
    /// Only those that are not of the internet: for `http:`, which would carry texts over it in the clear.
    Private,
}

impl Allowed {
    /// The addresses that a URL may have.
    ///
    /// # Errors
    /// The URL cannot be used with any address.
    pub(crate) fn of(url: &Url, private: bool) -> Result<Self, &'static str> {
        match (url.scheme(), private) {
            ("https", false) => Ok(Self::Public),
            ("https", true) => Ok(Self::All),
            ("http", true) => Ok(Self::Private),
            ("http", false) => Err("use https; `webhooks.private` allows http to private addresses"),
            _ => Err("use an https URL"),
        }
    }

    /// Whether an address may be connected to.
    pub(super) fn allows(self, address: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::Public => is_public(address),
            Self::Private => !is_public(address),
        }
    }

    /// Checks what a name resolves to. The connection goes to these addresses and no others.
    ///
    /// # Errors
    /// One address is not allowed. That is enough to refuse the name, because it is how rebinding begins.
    fn check_all(self, found: Vec<SocketAddr>) -> io::Result<Vec<SocketAddr>> {
        if found.iter().all(|address| self.allows(address.ip())) {
            return Ok(found);
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, self.advice()))
    }

    /// Why no other address is allowed.
    fn advice(self) -> &'static str {
        match self {
            Self::Private => "http is only for private addresses; use https",
            _ => "its address is not one of the internet; `webhooks.private` allows others",
        }
    }

    /// Checks a URL that names an address. Names are checked when they are resolved.
    ///
    /// # Errors
    /// The address is not allowed.
    pub(crate) fn check_address(self, url: &Url) -> Result<(), &'static str> {
        let address: IpAddr = match url.host() {
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            Some(Host::Domain(_)) => return Ok(()),
            None => return Err("the URL names no host"),
        };
        if self.allows(address) { Ok(()) } else { Err(self.advice()) }
    }
}

/// Resolves names to allowed addresses only.
#[derive(Debug, Clone)]
pub(crate) struct Resolver(pub(super) Allowed);

impl Resolver {
    async fn resolve(self, name: String) -> io::Result<std::vec::IntoIter<SocketAddr>> {
        let Self(allowed) = self;
        #[cfg(any(debug_assertions, feature = "fault-injection"))]
        if let Some(found) = switchboard_store::fault::addresses_of(&name) {
            return allowed.check_all(found).map(Vec::into_iter);
        }
        let found = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
        allowed.check_all(found).map(Vec::into_iter)
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(self.clone().resolve(name.as_str().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        assert_eq!(PRIVATE.len(), PRIVATE_V4.len() + PRIVATE_V6.len(), "all are networks");
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "168.63.129.15",
            "172.32.0.1",
            "100.128.0.1",
            "192.0.1.1",
            "223.255.255.255",
        ] {
            assert!(is_public(public.parse().expect("an address")), "{public}");
        }
        for public in ["2606:4700::1111", "2a00:1450:4001::1", "2001:4860:4860::8888"] {
            assert!(is_public(public.parse().expect("an address")), "{public}");
        }
        for private in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:8.8.8.8",
            "::ffff:127.0.0.1",
            "::8.8.8.8",
            "64:ff9b::808:808",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "64:ff9b:1:ffff::a9fe:a9fe",
            "::ffff:0:8.8.8.8",
            "::ffff:a83f:8110",
            "100::1",
            "2001::1",
            "2001:0:7f00:1::1",
            "2001:db8::1",
            "3fff::1",
            "2002:7f00:1::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(private.parse().expect("an address")), "{private}");
        }
    }

    #[test]
    fn a_url_is_checked_in_each_form_of_its_address() {
        for (url, private, is_allowed) in [
            ("https://shop.example/hook", false, true),
            ("https://8.8.8.8/", false, true),
            ("https://127.0.0.1/", false, false),
            ("https://2130706433/", false, false),
            ("https://0x7f.1/", false, false),
            ("https://017700000001/", false, false),
            ("https://[::1]/", false, false),
            ("https://[::ffff:169.254.169.254]/", false, false),
            ("https://[64:ff9b::a9fe:a9fe]/", false, false),
            ("https://127.0.0.1/", true, true),
            ("http://shop.example/", false, false),
            ("http://127.0.0.1/", false, false),
            ("http://127.0.0.1/", true, true),
            ("http://8.8.8.8/", true, false),
            ("ftp://8.8.8.8/", true, false),
        ] {
            let parsed = Url::parse(url).expect("a URL");
            let checked = Allowed::of(&parsed, private).and_then(|allowed| allowed.check_address(&parsed));
            assert_eq!(checked.is_ok(), is_allowed, "{url} {private}");
        }
    }

    #[test]
    fn each_address_of_a_name_is_checked_and_those_are_used() {
        for (addresses, is_allowed) in [
            (&["8.8.8.8"][..], true),
            (&["8.8.8.8", "2606:4700::1111", "1.1.1.1"], true),
            (&["10.0.0.1"], false),
            (&["8.8.8.8", "10.0.0.1"], false),
            (&["10.0.0.1", "8.8.8.8"], false),
            (&["8.8.8.8", "1.1.1.1", "fd00:ec2::254"], false),
            (&["2606:4700::1111", "::ffff:8.8.8.8"], false),
        ] {
            let found: Vec<SocketAddr> =
                addresses.iter().map(|ip| (ip.parse::<IpAddr>().expect("an address"), 0).into()).collect();
            let checked = Allowed::Public.check_all(found.clone());
            assert_eq!(checked.ok(), is_allowed.then_some(found), "{addresses:?}");
        }
    }

    #[tokio::test]
    async fn a_name_of_a_private_address_is_refused_when_it_is_resolved() {
        let resolved = |allowed| Resolver(allowed).resolve("localhost".to_owned());
        assert!(resolved(Allowed::Public).await.is_err());
        assert!(resolved(Allowed::Private).await.is_ok());
        assert!(resolved(Allowed::All).await.is_ok());
    }
}
