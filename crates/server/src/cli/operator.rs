//! Requests to the operators' listener of a running server, for `who`, `kick`, `rooms` and `sizes`.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::Value;

use super::{FileArgs, environment, output};
use crate::config::{Config, Flags, Mode, Secret};

/// The time-out of connecting, writing and reading. It is longer than what the server allows its queries.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(12);

/// The most bytes that are read of a response.
const MAX_RESPONSE_BYTES: u64 = 4 * 1024 * 1024;

/// The flags that name a server's listener for operators.
#[derive(Debug, Args)]
pub(super) struct OperatorArgs {
    #[command(flatten)]
    file: FileArgs,
    /// The address of the server's listener for operators [default: operator.listen of the configuration]
    #[arg(long, value_name = "ADDRESS:PORT")]
    operator_listen: Option<String>,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// The listener for operators of a running server.
pub(super) struct OperatorClient {
    address: SocketAddr,
    token: Option<Secret>,
}

impl OperatorArgs {
    /// The listener that the flags or the configuration name.
    pub(super) fn client(self) -> anyhow::Result<OperatorClient> {
        let flags = Flags { operator_listen: self.operator_listen, ..self.file.flags() };
        let config = Config::read(Mode::Serve, &flags, &environment())?;
        let Some(listen) = config.operator_listen else {
            bail!(
                "the server has no listener for operators: set `operator.listen`, or name it with --operator-listen"
            );
        };
        Ok(OperatorClient { address: loopback_if_unspecified(listen), token: config.operator_token })
    }
}

impl OperatorClient {
    /// Requests a path with these query parameters.
    pub(super) fn get(&self, path: &str, parameters: &[(&str, Option<String>)]) -> anyhow::Result<Value> {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        for (name, value) in parameters {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        self.request("GET", &format!("{path}?{}", query.finish()), "")
    }

    /// Sends a body to a path.
    pub(super) fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.request("POST", path, &body.to_string())
    }

    fn request(&self, method: &str, path: &str, body: &str) -> anyhow::Result<Value> {
        let mut head = format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        if let Some(token) = &self.token {
            head.push_str(&format!("authorization: Bearer {}\r\n", token.text()));
        }
        let response = send(self.address, (method, path), &head, body, (REQUEST_TIMEOUT, MAX_RESPONSE_BYTES))
            .with_context(|| format!("no response from {}", self.address))?;
        let answer: Value = serde_json::from_str(&response.body)
            .with_context(|| format!("{} {}", response.status, output::printable(&response.body)))?;
        if response.status != "200" {
            let detail = answer.get("detail").and_then(Value::as_str).unwrap_or_default();
            bail!("{}: {}", response.status, output::printable(detail));
        }
        Ok(answer)
    }
}

/// A response.
pub(super) struct Response {
    pub(super) status: String,
    pub(super) body: String,
}

/// The address to connect to for a listen address: loopback instead of the unspecified address.
pub(super) fn loopback_if_unspecified(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Sends one request on a new connection, and reads the whole response.
pub(super) fn send(
    address: SocketAddr,
    (method, path): (&str, &str),
    headers: &str,
    body: &str,
    (timeout, max_bytes): (Duration, u64),
) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\r\n{body}"
    )?;
    let mut response = Vec::new();
    stream.take(max_bytes).read_to_end(&mut response)?;
    let response = String::from_utf8_lossy(&response);
    let status = response.split(' ').nth(1).unwrap_or_default().to_owned();
    let body = response.split_once("\r\n\r\n").map_or("", |(_, body)| body.trim()).to_owned();
    Ok(Response { status, body })
}

/// Formats rows of text as a table, each column as wide as its widest cell. The first row is the heading.
pub(super) fn format_table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The text of a field for a table: escaped, and `-` if it is absent.
pub(super) fn format_cell(object: &Value, field: &str) -> String {
    match &object[field] {
        Value::Null => "-".to_owned(),
        Value::String(text) => output::printable(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unspecified_address_is_probed_at_loopback() {
        for (listen, connected) in
            [("0.0.0.0:9501", "127.0.0.1:9501"), ("[::]:80", "[::1]:80"), ("10.0.0.1:9501", "10.0.0.1:9501")]
        {
            assert_eq!(loopback_if_unspecified(listen.parse().expect("an address")).to_string(), connected);
        }
    }

    #[test]
    fn a_table_has_columns_as_wide_as_their_cells() {
        let rows =
            [["USER", "LAG"], ["a-long-name", "1"], ["b", "22"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(format_table(&rows), "USER         LAG\na-long-name  1\nb            22");
    }
}
