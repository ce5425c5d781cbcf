//! Parses `X-Forwarded-For` and `Forwarded` (RFC 7239) from the right, so that the text of a client, such as an open quote, cannot
//! change how the elements are read that proxies append to it.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::header::FORWARDED;
use axum::http::{HeaderMap, HeaderName};

use crate::config::ForwardedHeader;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The addresses in the header, from right to left; `None` for an element that is no address.
pub(super) fn addresses(
    headers: &HeaderMap,
    header: ForwardedHeader,
) -> impl Iterator<Item = Option<IpAddr>> + '_ {
    let plain = header == ForwardedHeader::XForwardedFor && headers.contains_key(X_FORWARDED_FOR);
    let name = if plain { X_FORWARDED_FOR } else { FORWARDED };
    // Several header lines of one name form one list (RFC 9110 section 5.3).
    let lines = headers.get_all(name).iter().rev();
    lines.flat_map(|line| Elements(Some(line.as_bytes()))).map(move |element| {
        let element = std::str::from_utf8(element).ok()?;
        if plain { parse_node_address(element.trim()) } else { forwarded_for(element) }
    })
}

/// The elements of a list, from right to left. A comma within quotes separates no elements.
struct Elements<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0.take()?;
        match rposition_unquoted(rest, b',') {
            None => Some(rest),
            Some(comma) => {
                self.0 = Some(&rest[..comma]);
                Some(&rest[comma + 1..])
            }
        }
    }
}

fn rposition_unquoted(bytes: &[u8], separator: u8) -> Option<usize> {
    let mut quoted = false;
    bytes.iter().rposition(|byte| {
        quoted ^= *byte == b'"';
        !quoted && *byte == separator
    })
}

/// The address in `for=` of an element of `Forwarded`; `None` if it has no such parameter or several.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut found = None;
    let mut rest = element;
    loop {
        let (before, parameter) = match rposition_unquoted(rest.as_bytes(), b';') {
            Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
            None => (None, rest),
        };
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        if name.trim().eq_ignore_ascii_case("for") {
            let value = value.trim();
            let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
            if found.replace(parse_node_address(value)?).is_some() {
                return None;
            }
        }
        match before {
            Some(before) => rest = before,
            None => return found,
        }
    }
}

/// Parses the address of a node, with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`. `None` for
/// a name such as `unknown`.
fn parse_node_address(text: &str) -> Option<IpAddr> {
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let address = text.parse::<IpAddr>().ok().or_else(bracketed).or_else(with_port);
    address.map(|address| address.to_canonical())
}
