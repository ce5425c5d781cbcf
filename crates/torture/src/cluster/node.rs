//! One node of the cluster, with a network of its own to its clients, its database and its bus.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use faults::Control;
use rustix::process::Signal;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::process::Process;
use crate::proxy::Proxy;

/// How often a node compares what it hosts with the store.
pub(crate) const SWEEP: Duration = Duration::from_millis(4_000);

/// How long the users of a dead node count as online.
pub(crate) const LEASE: Duration = Duration::from_millis(10_000);

/// How long a user is shown online after the last connection has gone.
pub(crate) const GRACE: Duration = Duration::from_millis(5_000);

/// How long a node may take to come back, whatever fails meanwhile; a supervisor starts it again and again.
const COMING_BACK: Duration = Duration::from_secs(120);

/// How long a supervisor waits between two starts.
const BETWEEN_STARTS: Duration = Duration::from_millis(500);

/// How long a node may take to stop when it is asked to.
pub(crate) const STOPPING: Duration = Duration::from_secs(30);

/// A node with all that belongs to it. The parts that a fault has in its hands are locked.
pub(crate) struct Site {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) node: Mutex<Node>,
    pub(crate) clients: Line,
    pub(crate) database: Line,
    pub(crate) bus: Option<Line>,
}

/// A network, which one fault at a time may disturb.
pub(crate) struct Line {
    pub(crate) proxy: Proxy,
    pub(crate) busy: Mutex<()>,
}

/// The process of a node.
pub(crate) struct Node {
    binary: PathBuf,
    address: SocketAddr,
    directory: PathBuf,
    store: String,
    bus: Option<String>,
    pub(crate) clock: Control,
    pub(crate) process: Process,
}

/// Where a node finds what it needs.
pub(crate) struct Engines {
    pub(crate) database: SocketAddr,
    pub(crate) store: String,
    pub(crate) bus: Option<SocketAddr>,
}

impl Line {
    fn new(proxy: Proxy) -> Self {
        Self { proxy, busy: Mutex::default() }
    }
}

impl Site {
    /// A node that has not been started. What it writes goes below `scratch`.
    pub(crate) async fn new(
        binary: &Path,
        scratch: &Path,
        number: usize,
        engines: &Engines,
        rng: &mut fastrand::Rng,
    ) -> anyhow::Result<Self> {
        let name = format!("node {number}");
        let directory = scratch.join(format!("node-{number}"));
        std::fs::create_dir(&directory)?;
        // Free now; the node takes it in a moment, and again after each restart.
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let database = Proxy::start(engines.database).await?;
        let bus = match engines.bus {
            Some(bus) => Some(Proxy::start_before_nats(bus, rng).await?),
            None => None,
        };
        let node = Node {
            binary: binary.to_owned(),
            address,
            store: through(&engines.store, engines.database, database.address)?,
            bus: bus.as_ref().map(|proxy| format!("nats://{}", proxy.address)),
            // It has no disk of its own; only its clock is played.
            clock: Control::create(
                &directory.join("control"),
                &directory.join("data"),
                &directory.join("undo"),
            )?,
            process: Process::new(&directory.join("log")),
            directory,
        };
        Ok(Self {
            name,
            address,
            node: Mutex::new(node),
            clients: Line::new(Proxy::start(address).await?),
            database: Line::new(database),
            bus: bus.map(Line::new),
        })
    }
}

impl Node {
    /// Starts it once. `false` if it ended before it listened.
    pub(crate) async fn start(&mut self) -> anyhow::Result<bool> {
        let mut command = Command::new(&self.binary);
        command.current_dir(&self.directory);
        command.args(["serve", "--listen", &self.address.to_string(), "--store", &self.store]);
        if let Some(bus) = &self.bus {
            command.args(["--bus", bus]);
        }
        for (name, time) in [("CLUSTER_SWEEP", SWEEP), ("CLUSTER_LEASE", LEASE), ("PRESENCE_GRACE", GRACE)] {
            command.env(format!("SWITCHBOARD_{name}"), time.as_millis().to_string());
        }
        self.clock.command_env(command.as_std_mut())?;
        self.process.start(command).await
    }

    /// Starts it until it listens, as a supervisor does. What it needs may be away meanwhile.
    pub(crate) async fn comes_back(&mut self) -> anyhow::Result<()> {
        let given_up = Instant::now() + COMING_BACK;
        while !self.start().await? {
            if Instant::now() > given_up {
                bail!("a node does not come back within {COMING_BACK:?}:\n{}", self.process.last_words());
            }
            // waits for: the time that a supervisor leaves between two starts
            sleep(BETWEEN_STARTS).await;
        }
        Ok(())
    }

    /// Asks it to stop, and kills it if it does not; whether it did.
    pub(crate) async fn stops(&mut self) -> anyhow::Result<bool> {
        self.process.signal(Signal::TERM);
        let stopped = self.process.ends_within(STOPPING).await?;
        if !stopped {
            self.process.kill().await?;
        }
        Ok(stopped)
    }
}

/// The URL of a server, with the address of a proxy in the place of the server's.
fn through(url: &str, server: SocketAddr, proxy: SocketAddr) -> anyhow::Result<String> {
    let server = server.to_string();
    anyhow::ensure!(url.contains(&server), "{url} does not lead to {server}");
    Ok(url.replacen(&server, &proxy.to_string(), 1))
}
