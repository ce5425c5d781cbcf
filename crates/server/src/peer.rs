//! Finds the address of a request's client, which a trusted proxy may name. Only limits per address and log lines use it, because
//! an address proves no identity.

mod forwarded;
pub(crate) mod proxy_protocol;

use std::net::IpAddr;

use axum::http::HeaderMap;

use crate::config::ProxyConfig;

/// The host at the other end of a TCP connection: a client or a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    address: IpAddr,
    trusted: bool,
}

impl Peer {
    /// Makes the peer at an address. The configuration says whether it is a trusted proxy.
    pub(crate) fn new(address: IpAddr, proxies: &ProxyConfig) -> Self {
        let address = address.to_canonical();
        Self { address, trusted: is_trusted(address, proxies) }
    }

    /// The peer's own address.
    pub(crate) fn address(self) -> IpAddr {
        self.address
    }

    /// Whether the peer is a trusted proxy. The connection of a proxy carries the requests of many clients.
    pub(crate) fn is_proxy(self) -> bool {
        self.trusted
    }

    /// The address of the client whose request has these headers: the right-most address in the forwarding header that is not
    /// itself a trusted proxy. The client may have made up everything to the left of it. If an element is no address, the result is
    /// the proxy that added the element.
    pub(crate) fn client(self, headers: &HeaderMap, proxies: &ProxyConfig) -> IpAddr {
        if !self.trusted {
            return self.address;
        }
        let mut client = self.address;
        for named in forwarded::addresses(headers, proxies.header) {
            let Some(named) = named else { break };
            client = named;
            if !is_trusted(named, proxies) {
                break;
            }
        }
        client
    }
}

fn is_trusted(address: IpAddr, proxies: &ProxyConfig) -> bool {
    proxies.trusted.iter().any(|network| network.contains(address))
}

#[cfg(test)]
mod tests;
