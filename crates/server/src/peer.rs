//! Whose a request is: the address of its client, which proxies that are trusted may name. Limits for an address and log lines
//! use it, nothing else does: an address proves no identity.

mod forwarded;
pub(crate) mod proxy_protocol;

use std::net::IpAddr;

use axum::http::HeaderMap;

use crate::config::ProxyConfig;

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    address: IpAddr,
    trusted: bool,
}

impl Peer {
    /// The peer at an address, which is a trusted proxy if the configuration says so.
    pub(crate) fn new(address: IpAddr, proxies: &ProxyConfig) -> Self {
        let address = address.to_canonical();
        Self { address, trusted: is_trusted(address, proxies) }
    }

    /// Its own address.
    pub(crate) fn address(self) -> IpAddr {
        self.address
    }

    /// Whether it is a trusted proxy, whose connection carries the requests of many clients.
    pub(crate) fn is_proxy(self) -> bool {
        self.trusted
    }

    /// The address of the client whose request has these headers: the right-most one in the forwarding header that no trusted
    /// proxy added. Everything to the left of it may have been made up by that client. Where an element is no address, the
    /// proxy that added it is the last that is known.
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
