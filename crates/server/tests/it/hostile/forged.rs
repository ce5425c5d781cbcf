//! Clients that claim another address in a forwarding header.

use std::net::Ipv4Addr;

use crate::proxy::{PROXY, handshake_through_proxy, proxy_header, server_behind_proxy};
use crate::support::{RawSocket, Server};

/// Forwarding headers with a different address for each client.
fn forged_header(client: u8) -> String {
    format!(
        "X-Forwarded-For: 198.51.100.{client}\r\nForwarded: for=198.51.100.{client}\r\n\
         X-Real-IP: 198.51.100.{client}\r\nCF-Connecting-IP: 198.51.100.{client}\r\n"
    )
}

/// Sends handshakes with forged addresses and counts the accepted ones.
async fn count_accepted(server: &Server) -> usize {
    let mut open = Vec::new();
    for client in 0..8 {
        let mut raw = RawSocket::connect(server.address()).await;
        let status = raw.upgrade_status(&forged_header(client)).await;
        assert!(status == 101 || status == 429, "{status}");
        open.push((status, raw));
    }
    open.iter().filter(|(status, _)| *status == 101).count()
}

#[tokio::test]
async fn hostile_03_a_forged_forwarding_header_has_no_effect() {
    let without = Server::start_with_auth_and(|config| config.limits.connections_per_address = 3).await;
    assert_eq!(count_accepted(&without).await, 3, "no proxy is trusted");
    let server = server_behind_proxy(3, |_| {}).await;
    assert_eq!(count_accepted(&server).await, 3, "the client is not the trusted proxy");

    // These handshakes come through the proxy, which appends the real address to the forged one.
    let mut open = Vec::new();
    for client in 0..8 {
        for forged in ["198.51.100.7", "\"", "for=\"", "10.0.0.1, 127.0.0.2", "nonsense", ""] {
            let real = format!("203.0.113.{client}");
            let headers = [
                format!("X-Forwarded-For: {forged}, {real}\r\nForwarded: for=198.51.100.{client}\r\n"),
                format!("X-Forwarded-For: {forged}\r\nX-Forwarded-For: {real}\r\n"),
            ];
            let (status, raw) = handshake_through_proxy(&server, &headers[open.len() % 2]).await;
            open.push((client, status, raw));
        }
    }
    for client in 0..8 {
        let inside = open.iter().filter(|(of, status, _)| *of == client && *status == 101).count();
        assert_eq!(inside, 3, "each real address has three connections, regardless of its headers");
    }
}

#[tokio::test]
async fn hostile_01_a_proxy_header_is_accepted_from_trusted_proxies_only() {
    let server = server_behind_proxy(0, |config| config.proxies.protocol = true).await;
    let client = Ipv4Addr::new(198, 51, 100, 7);
    for header in [proxy_header(1, client), proxy_header(2, client)] {
        let mut raw = RawSocket::connect(server.address()).await;
        raw.writes([&header[..], raw.handshake().as_bytes(), b"\r\n"].concat()).await;
        raw.is_disconnected().await;
    }
    let mut raw = RawSocket::connect(server.address()).await;
    assert_eq!(raw.upgrade_status("").await, 101, "a connection without a proxy header is accepted");

    let too_long = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 4_096]].concat();
    let too_long_in_binary = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xFF\xFF".to_vec(), vec![0; 4_096]].concat();
    let get = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    for start in [get, too_long, too_long_in_binary, b"PROXY TCP4 nowhere\r\n".to_vec()] {
        let mut raw = RawSocket::connect_from(PROXY, server.address()).await;
        let _ = raw.tries_to_write(start).await;
        raw.is_disconnected().await;
    }

    // Without the setting, the header of the PROXY protocol is an invalid request, from any address.
    let server = server_behind_proxy(0, |_| {}).await;
    for header in [proxy_header(1, client), proxy_header(2, client)] {
        let mut raw = RawSocket::connect_from(PROXY, server.address()).await;
        raw.writes([&header[..], raw.handshake().as_bytes(), b"\r\n"].concat()).await;
        assert!(raw.read_head().await.starts_with("HTTP/1.1 400 "));
    }
}
