//! The server's process: started, stopped, killed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use faults::Control;
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// What tokens are signed with.
pub(crate) const SECRET: &str = "a secret of thirty-two bytes or more, for tests";

/// Events that a replay has at most: few, so that gaps are told often.
const REPLAY: &str = "400";

/// Bytes that wait for a connection at most: few, so that slow readers fall back to the log often.
const QUEUE: &str = "16384";

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a server is started, again and again.
pub(crate) struct Server {
    binary: PathBuf,
    /// Its disk, which fails when told to.
    pub(crate) disk: Control,
    pub(crate) address: SocketAddr,
    /// What it writes to stderr.
    log: PathBuf,
    child: Option<Child>,
}

impl Server {
    /// Everything that it writes goes below `scratch`.
    pub(crate) fn new(binary: &Path, scratch: &Path) -> anyhow::Result<Self> {
        let disk = Control::create(&scratch.join("control"), &scratch.join("data"), &scratch.join("undo"))?;
        let log = scratch.join("server.log");
        // Free now; the server takes it in a moment, and again after each restart.
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        Ok(Self { binary: binary.to_owned(), disk, address, log, child: None })
    }

    /// Starts it, and waits until it listens. `false` if it ended before that.
    pub(crate) async fn start(&mut self) -> anyhow::Result<bool> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.binary);
        command.args(["serve", "--listen", &self.address.to_string(), "--data"]).arg(self.disk.data());
        command.env("SWITCHBOARD_AUTH_SECRET", SECRET).env("SWITCHBOARD_LOG_LEVEL", "info");
        command.env("SWITCHBOARD_LIMITS_REPLAY", REPLAY).env("SWITCHBOARD_LIMITS_QUEUE", QUEUE);
        for limit in [
            "CONNECTIONS_PER_USER",
            "CONNECTIONS_PER_ADDRESS",
            "SENDS_PER_CONNECTION",
            "SENDS_PER_USER",
            "FRAMES_PER_CONNECTION",
        ] {
            command.env(format!("SWITCHBOARD_LIMITS_{limit}"), "0");
        }
        self.disk.command_env(command.as_std_mut())?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot start {}", self.binary.display()))?;
        let mut lines = BufReader::new(child.stdout.take().context("its output is not ours")?).lines();
        self.child = Some(child);
        let listens = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains("http://") {
                    return true;
                }
            }
            false
        };
        let Ok(listens) = timeout(PATIENCE, listens).await else {
            bail!("the server does not listen after {PATIENCE:?}")
        };
        if !listens {
            self.wait().await?;
        }
        Ok(listens)
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// Waits until it has ended.
    pub(crate) async fn wait(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        match self.child.take() {
            Some(mut child) => Ok(Some(child.wait().await?)),
            None => Ok(None),
        }
    }

    /// Waits so long at most until it has ended; whether it has.
    pub(crate) async fn ends_within(&mut self, time: Duration) -> anyhow::Result<bool> {
        let Some(child) = &mut self.child else { return Ok(true) };
        match timeout(time, child.wait()).await {
            Ok(status) => {
                status?;
                self.child = None;
                Ok(true)
            }
            Err(_) => Ok(false),
        }
    }

    /// Sends it a signal, if it lives.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().and_then(Child::id).and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            // It may have ended this moment.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Ends it as a crash would.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::KILL);
        self.wait().await?;
        Ok(())
    }

    /// The last lines of its log.
    pub(crate) fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}
