//! Fuzz target: parses forwarding headers of proxies, and headers that clients forge.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::config::{ForwardedHeader, Network, ProxyConfig};
use crate::peer::Peer;
use crate::peer::proxy_protocol::{ConnectionSource, parse};

const PROXY: [u8; 4] = [10, 0, 0, 1];
const CLIENT: [u8; 4] = [203, 0, 113, 7];

/// Parses the lines of a forwarding header, which the first byte selects. Panics unless the server uses the address that a
/// trusted proxy appended to any text of a client, and, for an untrusted peer, the address of the connection.
pub fn forwarded(bytes: &[u8]) {
    let [which, rest @ ..] = bytes else { return };
    let (header, name, appended) = if which % 2 == 0 {
        (ForwardedHeader::XForwardedFor, "x-forwarded-for", "203.0.113.7")
    } else {
        (ForwardedHeader::Forwarded, "forwarded", "proto=https;for=\"203.0.113.7:80\"")
    };
    let proxies =
        ProxyConfig { trusted: vec![Network::containing(PROXY.into(), 8)], header, protocol: false };
    let (mut headers, name) = (HeaderMap::new(), HeaderName::from_static(name));
    for line in rest.split(|byte| *byte == b'\n') {
        let Ok(value) = HeaderValue::from_bytes(line) else { return };
        headers.append(&name, value);
    }
    let client = |peer: [u8; 4], headers: &HeaderMap| {
        let peer = IpAddr::from(peer);
        Peer::new(peer, &proxies).client(headers, &proxies)
    };
    assert_eq!(client(CLIENT, &headers), IpAddr::from(CLIENT));
    let _ = client(PROXY, &headers);
    let mut line_added = headers.clone();
    line_added.append(&name, HeaderValue::from_static(appended));
    assert_eq!(client(PROXY, &line_added), IpAddr::from(CLIENT));
    let last = rest.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    let longer = [last, b", ", appended.as_bytes()].concat();
    let Ok(value) = HeaderValue::from_bytes(&longer) else { return };
    let list_longer = HeaderMap::from_iter([(name, value)]);
    assert_eq!(client(PROXY, &list_longer), IpAddr::from(CLIENT));
}

/// Parses the start of a connection from a proxy. Panics unless a header lies within the bytes, and decodes to the same
/// address for every split.
pub fn proxy(bytes: &[u8]) {
    let whole = parse(bytes);
    let found = (1..=bytes.len()).map(|cut| parse(&bytes[..cut])).find(|parsed| *parsed != Ok(None));
    match whole {
        Ok(Some((source, len))) => {
            assert!(len <= bytes.len());
            assert_eq!(found, Some(whole), "in pieces");
            if let ConnectionSource::Client(address) = source {
                assert_eq!(address, address.to_canonical());
            }
        }
        Ok(None) => assert_eq!(found, None),
        Err(_) => assert!(found.is_some_and(|found| found.is_err()), "in pieces"),
    }
}
