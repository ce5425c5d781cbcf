//! One node of the cluster, with proxies between it and its clients, its database and its bus.

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

/// The setting `cluster.sweep`: how often a node compares its state with the store.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_millis(4_000);

/// The setting `cluster.lease`: how long the users of a dead node count as online.
pub(crate) const LEASE: Duration = Duration::from_millis(10_000);

/// The setting `presence.grace`: how long a user is shown online after their last connection ended.
pub(crate) const OFFLINE_GRACE: Duration = Duration::from_millis(5_000);

/// How long a node may take to start while other faults are active; meanwhile it is started again and again.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(120);

/// The time between two attempts to start a node.
const RESTART_DELAY: Duration = Duration::from_millis(500);

/// How long a node may take to stop after SIGTERM.
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A node with its proxies. A fault locks the part on which it acts.
pub(crate) struct NodeSite {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) node: Mutex<Node>,
    pub(crate) clients: LockedProxy,
    pub(crate) database: LockedProxy,
    pub(crate) bus: Option<LockedProxy>,
}

/// A proxy with a lock, so that one fault at a time acts on it.
pub(crate) struct LockedProxy {
    pub(crate) proxy: Proxy,
    pub(crate) lock: Mutex<()>,
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

/// The addresses of PostgreSQL and NATS, to which a node's proxies forward.
pub(crate) struct Engines {
    pub(crate) database: SocketAddr,
    pub(crate) store: String,
    pub(crate) bus: Option<SocketAddr>,
}

impl LockedProxy {
    fn new(proxy: Proxy) -> Self {
        Self { proxy, lock: Mutex::default() }
    }
}

impl NodeSite {
    /// Prepares a node without starting it. The node writes only below `scratch`.
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
        // The port is free now but not reserved; the node binds it in a moment, and again after each restart.
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let database = Proxy::start(engines.database).await?;
        let bus = match engines.bus {
            Some(bus) => Some(Proxy::start_before_nats(bus, rng).await?),
            None => None,
        };
        let node = Node {
            binary: binary.to_owned(),
            address,
            store: url_through_proxy(&engines.store, engines.database, database.address)?,
            bus: bus.as_ref().map(|proxy| format!("nats://{}", proxy.address)),
            // A node of a cluster stores nothing on its own disk, so only its clock gets faults.
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
            clients: LockedProxy::new(Proxy::start(address).await?),
            database: LockedProxy::new(database),
            bus: bus.map(LockedProxy::new),
        })
    }
}

impl Node {
    /// Starts the process once. Returns `false` if it exited before it listened.
    pub(crate) async fn start(&mut self) -> anyhow::Result<bool> {
        let mut command = Command::new(&self.binary);
        command.current_dir(&self.directory);
        command.args(["serve", "--listen", &self.address.to_string(), "--store", &self.store]);
        if let Some(bus) = &self.bus {
            command.args(["--bus", bus]);
        }
        for (name, time) in
            [("CLUSTER_SWEEP", SWEEP_INTERVAL), ("CLUSTER_LEASE", LEASE), ("PRESENCE_GRACE", OFFLINE_GRACE)]
        {
            command.env(format!("SWITCHBOARD_{name}"), time.as_millis().to_string());
        }
        self.clock.command_env(command.as_std_mut())?;
        self.process.start(command).await
    }

    /// Starts the process again and again until it listens, as a supervisor does, because PostgreSQL or NATS may be unavailable.
    pub(crate) async fn start_until_listening(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + RECOVERY_TIMEOUT;
        while !self.start().await? {
            if Instant::now() > deadline {
                bail!("a node does not start within {RECOVERY_TIMEOUT:?}:\n{}", self.process.log_tail());
            }
            // waits for: the delay between two starts, as with a supervisor
            sleep(RESTART_DELAY).await;
        }
        Ok(())
    }

    /// Sends SIGTERM, and kills the process after a time-out. Returns whether it stopped by itself.
    pub(crate) async fn stop_or_kill(&mut self) -> anyhow::Result<bool> {
        self.process.signal(Signal::TERM);
        let stopped = self.process.exits_within(STOP_TIMEOUT).await?;
        if !stopped {
            self.process.kill().await?;
        }
        Ok(stopped)
    }
}

/// Replaces the server's address in its URL by the proxy's address.
fn url_through_proxy(url: &str, server: SocketAddr, proxy: SocketAddr) -> anyhow::Result<String> {
    let server = server.to_string();
    anyhow::ensure!(url.contains(&server), "{url} does not contain {server}");
    Ok(url.replacen(&server, &proxy.to_string(), 1))
}
