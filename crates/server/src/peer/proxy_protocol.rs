//! The PROXY protocol, versions 1 and 2: a TCP proxy sends a header with the client's address before the bytes of the client.
//! <https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt>

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// The time-out of the header. A proxy sends it in the first packet of the connection.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The most bytes of a header of version 1, including its line end (section 2.1).
const MAX_TEXT_HEADER_BYTES: usize = 107;

/// The most bytes of a header of version 2 that is accepted. Addresses take 36 bytes at most. The rest are extensions, such as
/// names of certificates, which are skipped.
const MAX_BINARY_HEADER_BYTES: usize = 2_048;

/// The beginning of every header of version 1.
const TEXT_SIGNATURE: &[u8] = b"PROXY ";

/// The beginning of every header of version 2. No other protocol accepts these bytes.
const BINARY_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The number of bytes of a header of version 2 before its addresses: signature, version and command, family, length.
const BINARY_PREFIX_BYTES: usize = 16;

/// The most bytes that are peeked at once.
const MAX_PEEKED_BYTES: usize = 512;

/// Why a connection's header cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    /// The connection does not begin with the signature of a header.
    #[error("the connection does not begin with a header of the PROXY protocol")]
    Missing,
    /// The header has a signature, but breaks the rules of the protocol.
    #[error("the header of the PROXY protocol is malformed")]
    Malformed,
    /// The header is longer than the accepted maximum.
    #[error("the header of the PROXY protocol is too long")]
    TooLong,
    /// The header did not arrive in time, or the connection ended before.
    #[error("the header of the PROXY protocol did not come in time")]
    TimedOut,
}

/// The source of the connection that a header names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionSource {
    /// The connection comes from a client at this address.
    Client(IpAddr),
    /// The connection comes from the proxy itself, for example a health check, or the proxy does not know the client's address.
    Proxy,
}

/// A decoded header: the source that it names, and its length in bytes.
pub(crate) type Header = (ConnectionSource, usize);

/// Reads the header at the start of a connection, and no byte after it.
pub(crate) async fn read_source(stream: &mut TcpStream) -> Result<ConnectionSource, HeaderError> {
    match tokio::time::timeout(HEADER_TIMEOUT, read_header(stream)).await {
        Ok(read) => read,
        Err(_) => Err(HeaderError::TimedOut),
    }
}

async fn read_header(stream: &mut TcpStream) -> Result<ConnectionSource, HeaderError> {
    let (mut header, mut chunk) = (Vec::new(), [0; MAX_PEEKED_BYTES]);
    loop {
        let peeked = stream.peek(&mut chunk).await.map_err(|_| HeaderError::TimedOut)?;
        if peeked == 0 {
            return Err(HeaderError::TimedOut);
        }
        let before = header.len();
        header.extend_from_slice(&chunk[..peeked]);
        let found = parse(&header)?;
        // Only the header is read here, because the HTTP server reads the bytes after it.
        let used = found.map_or(peeked, |(_, len)| len - before);
        stream.read_exact(&mut chunk[..used]).await.map_err(|_| HeaderError::TimedOut)?;
        if let Some((source, _)) = found {
            return Ok(source);
        }
    }
}

/// Whether the first bytes of a connection, as far as they have arrived, are the beginning of a header.
pub(crate) async fn starts_with_header(stream: &TcpStream) -> bool {
    let mut first = [0; BINARY_SIGNATURE.len()];
    match tokio::time::timeout(HEADER_TIMEOUT, stream.peek(&mut first)).await {
        Ok(Ok(peeked)) if peeked >= TEXT_SIGNATURE.len() => detect_version(&first[..peeked]).is_ok(),
        _ => false,
    }
}

/// The version whose signature the bytes contain, completely or as far as they have arrived.
fn detect_version(bytes: &[u8]) -> Result<HeaderVersion, HeaderError> {
    let begins = |signature: &[u8]| {
        let common = bytes.len().min(signature.len());
        bytes[..common] == signature[..common]
    };
    if begins(TEXT_SIGNATURE) {
        Ok(HeaderVersion::Text)
    } else if begins(BINARY_SIGNATURE) {
        Ok(HeaderVersion::Binary)
    } else {
        Err(HeaderError::Missing)
    }
}

enum HeaderVersion {
    Text,
    Binary,
}

/// Decodes a header at the start of `bytes`; `None` if it is incomplete.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    match detect_version(bytes)? {
        HeaderVersion::Text => parse_text(bytes),
        HeaderVersion::Binary => parse_binary(bytes),
    }
}

fn parse_text(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let Some(end) = bytes.iter().take(MAX_TEXT_HEADER_BYTES).position(|byte| *byte == b'\n') else {
        return if bytes.len() < MAX_TEXT_HEADER_BYTES { Ok(None) } else { Err(HeaderError::TooLong) };
    };
    let line = bytes[..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    let line = line.ok_or(HeaderError::Malformed)?;
    let source = text_source(line).ok_or(HeaderError::Malformed)?;
    Ok(Some((source, end + 1)))
}

fn text_source(line: &str) -> Option<ConnectionSource> {
    let mut words = line.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(ConnectionSource::Proxy);
    }
    let (source, destination): (IpAddr, IpAddr) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    for port in [words.next()?, words.next()?] {
        port.parse::<u16>().ok().filter(|_| port.bytes().all(|b| b.is_ascii_digit()))?;
    }
    let right = match family {
        "TCP4" => source.is_ipv4() && destination.is_ipv4(),
        "TCP6" => source.is_ipv6() && destination.is_ipv6(),
        _ => false,
    };
    (right && words.next().is_none()).then_some(ConnectionSource::Client(source))
}

fn parse_binary(bytes: &[u8]) -> Result<Option<Header>, HeaderError> {
    let Some((head, rest)) = bytes.split_at_checked(BINARY_PREFIX_BYTES) else { return Ok(None) };
    let [.., version_and_command, family, high, low] = *head else { return Ok(None) };
    let len = usize::from(u16::from_be_bytes([high, low]));
    if BINARY_PREFIX_BYTES + len > MAX_BINARY_HEADER_BYTES {
        return Err(HeaderError::TooLong);
    }
    let Some(addresses) = rest.get(..len) else {
        // A wrong version or command is an error at once, before the rest of the header has arrived.
        return match version_and_command {
            0x20 | 0x21 => Ok(None),
            _ => Err(HeaderError::Malformed),
        };
    };
    let source = match version_and_command {
        // The command is LOCAL, so the rest of the header is skipped.
        0x20 => ConnectionSource::Proxy,
        0x21 => binary_source(family, addresses).ok_or(HeaderError::Malformed)?,
        _ => return Err(HeaderError::Malformed),
    };
    Ok(Some((source, BINARY_PREFIX_BYTES + len)))
}

fn binary_source(family: u8, addresses: &[u8]) -> Option<ConnectionSource> {
    match family {
        // TCP over IPv4: two addresses, two ports.
        0x11 => {
            let octets: [u8; 4] = addresses.get(..12)?.first_chunk().copied()?;
            Some(ConnectionSource::Client(Ipv4Addr::from(octets).into()))
        }
        // TCP over IPv6.
        0x21 => {
            let octets: [u8; 16] = addresses.get(..36)?.first_chunk().copied()?;
            Some(ConnectionSource::Client(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()))
        }
        // The family is unspecified, or the client uses a Unix socket on the proxy's machine: there is no address.
        0x00 | 0x31 => Some(ConnectionSource::Proxy),
        _ => None,
    }
}
