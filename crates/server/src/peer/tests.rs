use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::Peer;
use super::proxy_protocol::{ConnectionSource, HeaderError, parse};
use crate::config::{ForwardedHeader, ProxyConfig};

fn address(text: &str) -> IpAddr {
    text.parse().expect(text)
}

fn proxy_config(header: ForwardedHeader) -> ProxyConfig {
    let trusted = ["10.0.0.0/8", "::1"].map(|network| network.parse().expect("a network"));
    ProxyConfig { trusted: trusted.into(), header, protocol: false }
}

fn headers(lines: &[(&'static str, &[u8])]) -> HeaderMap {
    let value = |value: &[u8]| HeaderValue::from_bytes(value).expect("a header");
    let mut headers = HeaderMap::new();
    for (name, line) in lines {
        headers.append(HeaderName::from_static(name), value(line));
    }
    headers
}

/// Returns the address that the server finds for the client of a request, which `peer` forwards with these header lines.
fn client_address(peer: &str, header: ForwardedHeader, lines: &[(&'static str, &str)]) -> String {
    let lines: Vec<_> = lines.iter().map(|(name, line)| (*name, line.as_bytes())).collect();
    let proxies = proxy_config(header);
    Peer::new(address(peer), &proxies).client(&headers(&lines), &proxies).to_string()
}

const XFF: &str = "x-forwarded-for";

#[test]
fn the_client_is_the_last_address_that_no_trusted_proxy_added() {
    for (line, expected) in [
        ("203.0.113.1", "203.0.113.1"),
        ("198.51.100.9, 203.0.113.1", "203.0.113.1"),
        ("203.0.113.1, 10.2.3.4", "203.0.113.1"),
        ("198.51.100.9,203.0.113.1 ,\t10.2.3.4,::1", "203.0.113.1"),
        ("10.9.9.9, 10.8.8.8", "10.9.9.9"),
        ("203.0.113.1:4711", "203.0.113.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("::ffff:203.0.113.1", "203.0.113.1"),
        ("203.0.113.1, ::ffff:10.0.0.2", "203.0.113.1"),
        // If an element is no address, the result is the proxy that added it.
        ("unknown", "10.0.0.1"),
        ("203.0.113.1, unknown", "10.0.0.1"),
        ("203.0.113.1, unknown, 10.2.3.4", "10.2.3.4"),
        ("203.0.113.1,", "10.0.0.1"),
        ("", "10.0.0.1"),
        ("203.0.113.256", "10.0.0.1"),
        ("\"203.0.113.1\"", "10.0.0.1"),
        // A quote that the client leaves open changes nothing.
        ("\", 203.0.113.1", "203.0.113.1"),
    ] {
        assert_eq!(
            client_address("10.0.0.1", ForwardedHeader::XForwardedFor, &[(XFF, line)]),
            expected,
            "{line:?}"
        );
    }
}

#[test]
fn the_parameter_for_of_the_forwarded_header_names_the_client() {
    for (line, expected) in [
        ("for=203.0.113.1", "203.0.113.1"),
        ("For=\"203.0.113.1:80\";proto=https;by=10.0.0.7", "203.0.113.1"),
        ("for=198.51.100.9, for=203.0.113.1;host=\"a,b;c\", for=10.1.1.1", "203.0.113.1"),
        ("proto=https; for=\"[2001:db8::1]:4711\"", "2001:db8::1"),
        ("for=\"[2001:db8::1]\"", "2001:db8::1"),
        ("for=\", for=203.0.113.1", "203.0.113.1"),
        ("for=\", for=\"[2001:db8::1]\"", "2001:db8::1"),
        ("for=_hidden", "10.0.0.1"),
        ("for=unknown, for=10.1.1.1", "10.1.1.1"),
        ("proto=https", "10.0.0.1"),
        ("for=203.0.113.1;for=203.0.113.2", "10.0.0.1"),
        ("203.0.113.1", "10.0.0.1"),
    ] {
        for header in [ForwardedHeader::Forwarded, ForwardedHeader::XForwardedFor] {
            assert_eq!(client_address("10.0.0.1", header, &[("forwarded", line)]), expected, "{line:?}");
        }
    }
}

#[test]
fn header_lines_of_one_name_are_read_as_one_list() {
    let lines = [(XFF, "198.51.100.9"), (XFF, "203.0.113.1"), (XFF, "10.2.3.4")];
    assert_eq!(client_address("10.0.0.1", ForwardedHeader::XForwardedFor, &lines), "203.0.113.1");
}

#[test]
fn a_header_that_the_proxies_do_not_write_is_ignored() {
    let lines = [(XFF, "203.0.113.1"), ("forwarded", "for=203.0.113.2")];
    assert_eq!(client_address("10.0.0.1", ForwardedHeader::XForwardedFor, &lines), "203.0.113.1");
    assert_eq!(client_address("10.0.0.1", ForwardedHeader::Forwarded, &lines), "203.0.113.2");
    assert_eq!(client_address("10.0.0.1", ForwardedHeader::Forwarded, &lines[..1]), "10.0.0.1");
}

#[test]
fn headers_of_an_untrusted_peer_are_ignored() {
    let lines = [(XFF, "203.0.113.1"), ("forwarded", "for=203.0.113.2")];
    for peer in ["192.0.2.1", "127.0.0.1", "::2"] {
        assert_eq!(client_address(peer, ForwardedHeader::XForwardedFor, &lines), peer);
    }
    assert_eq!(client_address("::ffff:192.0.2.1", ForwardedHeader::XForwardedFor, &lines), "192.0.2.1");
    assert_eq!(client_address("::ffff:10.0.0.1", ForwardedHeader::XForwardedFor, &lines), "203.0.113.1");
}

fn binary_header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([command, family]);
    bytes.extend(u16::try_from(body.len()).expect("short").to_be_bytes());
    bytes.extend(body);
    bytes
}

fn ipv4_addresses() -> Vec<u8> {
    [203, 0, 113, 1, 10, 0, 0, 9, 0x12, 0x67, 0x01, 0xBB].into()
}

#[test]
fn a_proxy_protocol_header_names_the_source_of_the_connection() {
    let client = |text| ConnectionSource::Client(address(text));
    let mut of_ipv6 =
        address("2001:db8::1").to_string().parse::<std::net::Ipv6Addr>().expect("v6").octets().to_vec();
    of_ipv6.extend([0; 20]);
    let with_extensions = [ipv4_addresses(), vec![0xEE; 1_000]].concat();
    for (bytes, source) in [
        (b"PROXY TCP4 203.0.113.1 10.0.0.9 4711 443\r\n".to_vec(), client("203.0.113.1")),
        (b"PROXY TCP6 2001:db8::1 ::1 65535 0\r\n".to_vec(), client("2001:db8::1")),
        (b"PROXY UNKNOWN\r\n".to_vec(), ConnectionSource::Proxy),
        (b"PROXY UNKNOWN ffff::1 whatever\r\n".to_vec(), ConnectionSource::Proxy),
        (binary_header(0x21, 0x11, &ipv4_addresses()), client("203.0.113.1")),
        (binary_header(0x21, 0x11, &with_extensions), client("203.0.113.1")),
        (binary_header(0x21, 0x21, &of_ipv6), client("2001:db8::1")),
        (binary_header(0x20, 0x00, b""), ConnectionSource::Proxy),
        (binary_header(0x20, 0x11, &ipv4_addresses()), ConnectionSource::Proxy),
        (binary_header(0x21, 0x00, b"xyz"), ConnectionSource::Proxy),
        (binary_header(0x21, 0x31, &[0; 216]), ConnectionSource::Proxy),
    ] {
        let text = bytes.escape_ascii().to_string();
        let followed = [&bytes[..], b"GET / HTTP/1.1\r\n"].concat();
        assert_eq!(parse(&followed), Ok(Some((source, bytes.len()))), "{text}");
        for cut in 1..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), Ok(None), "{cut} bytes of {text}");
        }
    }
}

#[test]
fn invalid_proxy_protocol_headers_are_refused() {
    use HeaderError::{Malformed, Missing, TooLong};
    let long = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 100]].concat();
    for (bytes, error) in [
        (b"GET / HTTP/1.1\r\n".to_vec(), Missing),
        (b"\r\nGET / HTTP/1.1\r\n".to_vec(), Missing),
        (b"proxy TCP4 ".to_vec(), Missing),
        (b"PROXY TCP4 203.0.113.1 10.0.0.9 4711\r\n".to_vec(), Malformed),
        (b"PROXY TCP4 203.0.113.1 10.0.0.9 4711 443 1\r\n".to_vec(), Malformed),
        (b"PROXY TCP4 203.0.113.1 10.0.0.9 4711 +443\r\n".to_vec(), Malformed),
        (b"PROXY TCP4 203.0.113.1 10.0.0.9 4711 65536\r\n".to_vec(), Malformed),
        (b"PROXY TCP4 203.0.113.1 10.0.0.9 4711 443\n".to_vec(), Malformed),
        (b"PROXY TCP4  203.0.113.1 10.0.0.9 4711 443\r\n".to_vec(), Malformed),
        (b"PROXY TCP4 ::1 ::1 4711 443\r\n".to_vec(), Malformed),
        (b"PROXY TCP6 203.0.113.1 10.0.0.9 4711 443\r\n".to_vec(), Malformed),
        (b"PROXY UDP4 203.0.113.1 10.0.0.9 4711 443\r\n".to_vec(), Malformed),
        (b"PROXY \xFF\r\n".to_vec(), Malformed),
        (long, TooLong),
        (binary_header(0x11, 0x11, &ipv4_addresses()), Malformed),
        (binary_header(0x22, 0x11, &ipv4_addresses()), Malformed),
        (binary_header(0x21, 0x12, &ipv4_addresses()), Malformed),
        (binary_header(0x21, 0x11, &ipv4_addresses()[..11]), Malformed),
        (binary_header(0x21, 0x21, &ipv4_addresses()), Malformed),
        (binary_header(0x21, 0x11, &[0; 2_033]), TooLong),
    ] {
        assert_eq!(parse(&bytes), Err(error), "{}", bytes.escape_ascii());
    }
}

proptest! {
    /// A client may write anything into the header. The server uses the address that the proxy appends after it.
    #[test]
    fn values_that_a_client_forges_are_ignored(forged in "[ -~]{0,60}", with_port in any::<bool>()) {
        let real = if with_port { "[2001:db8::7]:9" } else { "203.0.113.7" };
        let expected = if with_port { "2001:db8::7" } else { "203.0.113.7" };
        let plain = format!("{forged}, {real}");
        prop_assert_eq!(client_address("10.0.0.1", ForwardedHeader::XForwardedFor, &[(XFF, &plain)]), expected);
        let lines = [(XFF, forged.as_str()), (XFF, real)];
        prop_assert_eq!(client_address("10.0.0.1", ForwardedHeader::XForwardedFor, &lines), expected);
        let structured = format!("{forged}, proto=https;for=\"{real}\"");
        let lines = [("forwarded", structured.as_str())];
        prop_assert_eq!(client_address("10.0.0.1", ForwardedHeader::Forwarded, &lines), expected);
    }

    /// No input makes the parser panic, and a header is never longer than the input.
    #[test]
    fn any_proxy_protocol_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300), sign in 0..3_u8) {
        let start: &[u8] = match sign { 0 => b"PROXY ", 1 => b"\r\n\r\n\0\r\nQUIT\n\x21", _ => b"" };
        let bytes = [start, &bytes].concat();
        if let Ok(Some((_, len))) = parse(&bytes) {
            prop_assert!(len <= bytes.len());
            prop_assert_eq!(parse(&bytes[..len]), parse(&bytes));
        }
    }
}
