//! A nats-server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::account::Place;
use crate::port::Port;
use crate::programs;
use crate::server::{Ending, PATIENCE, Server};

/// A nats-server of its own. Dropping it ends its process.
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
    /// Starts one on free ports of 127.0.0.1, with its log in a directory below `scratch` and further arguments.
    pub async fn start(scratch: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::start_in(scratch, arguments, false).await
    }

    /// As [`Nats::start`]; its files are deleted when it ends, if they are `disposable`.
    pub(crate) async fn start_in(
        scratch: &Path,
        arguments: &[&str],
        disposable: bool,
    ) -> anyhow::Result<Self> {
        let program = programs::nats()?;
        let Place { path: directory, .. } = Place::new(scratch, "nats-", None)?;
        let delete = disposable.then_some(directory.as_path());
        let server = Server::new(Ending { signal: "KILL", data: None, delete })?;
        let (port, monitor) = (Port::reserve()?, Port::reserve()?);
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut nats = Self { server, port, monitor, program, directory, arguments };
        nats.start_again().await?;
        Ok(nats)
    }

    /// Where it listens, or will when it runs again.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// Where it answers questions about itself over HTTP, on `/varz`, `/connz` or `/subsz`.
    pub fn monitor(&self) -> SocketAddr {
        self.monitor.address()
    }

    /// Ends it at once.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.server.kill().await
    }

    /// Starts it again after [`Nats::kill`], on its ports. Returns when it accepts connections.
    pub async fn start_again(&mut self) -> anyhow::Result<()> {
        self.server.ended()?;
        let program = self.program.to_str().context("the program's name is no text")?;
        let (port, monitor) =
            (self.port.address().port().to_string(), self.monitor.address().port().to_string());
        let mut command = vec![program, "-a", "127.0.0.1", "-p", &port, "-m", &monitor];
        command.extend(self.arguments.iter().map(String::as_str));
        let log = self.directory.join("log");
        self.server.start(&command, &self.directory, None, &log)?;
        let (address, monitor) = (self.address(), self.monitor());
        let is_ready = |_| async move { greets(address).await && TcpStream::connect(monitor).await.is_ok() };
        self.server.becomes_ready("nats-server", &log, is_ready).await
    }

    /// Stops it where it is. Connections stay open, and nobody answers.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.server.pause()
    }

    /// Lets it go on.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.server.resume()
    }
}

/// Whether a nats-server greets who connects.
async fn greets(address: SocketAddr) -> bool {
    let greeting = async {
        let mut line = String::new();
        BufReader::new(TcpStream::connect(address).await?).read_line(&mut line).await?;
        std::io::Result::Ok(line)
    };
    matches!(timeout(PATIENCE, greeting).await, Ok(Ok(line)) if line.starts_with("INFO "))
}
