//! A nats-server process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::account::ServerDirectory;
use crate::port::Port;
use crate::programs;
use crate::server::{START_TIMEOUT, Server, ShutdownPlan};

/// A nats-server. Dropping it ends its process.
#[derive(Debug)]
pub struct Nats {
    server: Server,
    port: Port,
    monitor: Port,
    program: PathBuf,
    directory: PathBuf,
    arguments: Vec<String>,
}

impl Nats {
    /// Starts a nats-server on free ports of 127.0.0.1, with its log in a directory below `scratch` and these arguments.
    pub async fn start(scratch: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::start_in(scratch, arguments, false).await
    }

    /// Like [`Nats::start`]. If `disposable`, the server's files are deleted when it ends.
    pub(crate) async fn start_in(
        scratch: &Path,
        arguments: &[&str],
        disposable: bool,
    ) -> anyhow::Result<Self> {
        let program = programs::find_nats()?;
        let ServerDirectory { path: directory, .. } = ServerDirectory::new(scratch, "nats-", None)?;
        let delete = disposable.then_some(directory.as_path());
        let server = Server::new(ShutdownPlan { signal: "KILL", data: None, delete })?;
        let (port, monitor) = (Port::reserve()?, Port::reserve()?);
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut nats = Self { server, port, monitor, program, directory, arguments };
        nats.start_again().await?;
        Ok(nats)
    }

    /// The server's address, which stays the same after a restart.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The server's URL.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// The address of the server's HTTP monitoring: `/varz`, `/connz`, `/subsz`.
    pub fn monitor_address(&self) -> SocketAddr {
        self.monitor.address()
    }

    /// Kills the server's process.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.server.kill().await
    }

    /// Starts the server again after [`Nats::kill`], on the same ports. Returns when it accepts connections.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.server.exit_status()?;
        let program = self.program.to_str().context("the program's path is not UTF-8")?;
        let (port, monitor) =
            (self.port.address().port().to_string(), self.monitor.address().port().to_string());
        let mut command = vec![program, "-a", "127.0.0.1", "-p", &port, "-m", &monitor];
        command.extend(self.arguments.iter().map(String::as_str));
        let log = self.directory.join("log");
        self.server.start(&command, &self.directory, None, &log)?;
        let (address, monitor) = (self.address(), self.monitor_address());
        let is_ready =
            |_| async move { sends_greeting(address).await && TcpStream::connect(monitor).await.is_ok() };
        self.server.becomes_ready("nats-server", &log, is_ready).await
    }

    /// Suspends the server's process. Connections stay open, but the server does not answer.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.server.pause()
    }

    /// Resumes the server's process.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.server.resume()
    }
}

/// Whether a nats-server at this address sends its greeting, which means that it accepts clients.
async fn sends_greeting(address: SocketAddr) -> bool {
    let greeting = async {
        let mut line = String::new();
        BufReader::new(TcpStream::connect(address).await?).read_line(&mut line).await?;
        std::io::Result::Ok(line)
    };
    matches!(timeout(START_TIMEOUT, greeting).await, Ok(Ok(line)) if line.starts_with("INFO "))
}
