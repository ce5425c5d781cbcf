//! A trusted proxy names the client's address, in an HTTP header or by the PROXY protocol.

use std::net::Ipv4Addr;

use switchboard::config::Config;

use crate::support::{RawSocket, Server, eventually};

/// The address of the tests' trusted proxy. Other clients connect from 127.0.0.1.
pub(crate) const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Starts a production server that trusts the proxy and allows `per_address` connections for each client address.
pub(crate) async fn server_behind_proxy(per_address: u32, settings: impl FnOnce(&mut Config)) -> Server {
    Server::start_with_auth_and(|config| {
        config.proxies.trusted = vec![PROXY.to_string().parse().expect("a network")];
        config.limits.connections_per_address = per_address;
        settings(config);
    })
    .await
}

/// Sends a WebSocket handshake through the proxy. Returns its status and the connection.
pub(crate) async fn handshake_through_proxy(server: &Server, headers: &str) -> (u16, RawSocket) {
    let mut raw = RawSocket::connect_from(PROXY, server.address()).await;
    let status = raw.upgrade_status(headers).await;
    (status, raw)
}

/// A PROXY protocol header, version 1 or 2, with the client's address.
pub(crate) fn proxy_header(version: u8, client: Ipv4Addr) -> Vec<u8> {
    if version == 1 {
        return format!("PROXY TCP4 {client} 127.0.0.1 4711 443\r\n").into();
    }
    let addresses = [client.octets(), Ipv4Addr::LOCALHOST.octets()].concat();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0C", &addresses[..], &[0x12, 0x67, 0x01, 0xBB]].concat()
}

/// Connects from the proxy, sends these bytes and then a WebSocket handshake. Returns its status and the connection.
async fn handshake_with_header(server: &Server, header: &[u8]) -> (u16, RawSocket) {
    let mut raw = RawSocket::connect_from(PROXY, server.address()).await;
    raw.writes(header).await;
    let status = raw.upgrade_status("").await;
    (status, raw)
}

#[tokio::test]
async fn a_websocket_counts_against_the_address_that_its_proxy_forwards() {
    let server = server_behind_proxy(2, |_| {}).await;
    let mut open = Vec::new();
    for (headers, status) in [
        ("X-Forwarded-For: 203.0.113.1\r\n", 101),
        ("Forwarded: for=203.0.113.1;proto=https\r\n", 101),
        ("X-Forwarded-For: 203.0.113.1\r\n", 429),
        ("X-Forwarded-For: 203.0.113.2\r\n", 101),
        ("X-Forwarded-For: 2001:db8::1\r\n", 101),
        ("X-Forwarded-For: 203.0.113.1, 127.0.0.2\r\n", 429),
    ] {
        let (answered, raw) = handshake_through_proxy(&server, headers).await;
        assert_eq!(answered, status, "{headers}");
        open.push(raw);
    }
    drop(open.remove(0));
    eventually("its place is free again", || async {
        (handshake_through_proxy(&server, "X-Forwarded-For: 203.0.113.1\r\n").await.0 == 101).then_some(())
    })
    .await;
}

#[tokio::test]
async fn http_connections_of_a_proxy_are_not_limited_by_address() {
    let server = server_behind_proxy(2, |_| {}).await;
    let mut open = Vec::new();
    for client in 0..8 {
        let mut raw = RawSocket::connect_from(PROXY, server.address()).await;
        raw.writes(format!("GET /livez HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.{client}\r\n\r\n"))
            .await;
        assert!(raw.read_head().await.starts_with("HTTP/1.1 200 "));
        open.push(raw);
    }
}

#[tokio::test]
async fn a_connection_counts_against_the_address_in_its_proxy_header() {
    let server = server_behind_proxy(2, |config| config.proxies.protocol = true).await;
    let (one, other) = (Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2));
    let mut open = Vec::new();
    for (header, status) in [
        (proxy_header(1, one), 101),
        (proxy_header(2, one), 101),
        (proxy_header(1, one), 429),
        (proxy_header(2, one), 429),
        (proxy_header(2, other), 101),
    ] {
        let (answered, raw) = handshake_with_header(&server, &header).await;
        assert_eq!(answered, status, "{}", header.escape_ascii());
        open.push(raw);
    }
}

#[tokio::test]
async fn a_proxys_own_request_without_a_client_address_is_answered() {
    let server = server_behind_proxy(1, |config| config.proxies.protocol = true).await;
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\0\0".to_vec();
    for header in [local, b"PROXY UNKNOWN\r\n".to_vec()] {
        for _ in 0..3 {
            let mut raw = RawSocket::connect_from(PROXY, server.address()).await;
            // Sends each byte in its own segment, and then the request.
            for byte in &header {
                raw.writes([*byte]).await;
            }
            raw.writes("GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert!(raw.read_head().await.starts_with("HTTP/1.1 200 "));
        }
    }
}
