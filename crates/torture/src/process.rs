//! A process of the program under test: started, stopped, killed.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
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

/// Limits that would stop the clients here, not the faults.
const NO_LIMITS: [&str; 5] = [
    "CONNECTIONS_PER_USER",
    "CONNECTIONS_PER_ADDRESS",
    "SENDS_PER_CONNECTION",
    "SENDS_PER_USER",
    "FRAMES_PER_CONNECTION",
];

/// A process that is started again and again.
pub(crate) struct Process {
    /// What it writes to stderr.
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    pub(crate) fn new(log: &Path) -> Self {
        Self { log: log.to_owned(), child: None }
    }

    /// Starts it, and waits until it listens. `false` if it ended before that.
    pub(crate) async fn start(&mut self, mut command: Command) -> anyhow::Result<bool> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        command.env("SWITCHBOARD_AUTH_SECRET", SECRET).env("SWITCHBOARD_LOG_LEVEL", "info");
        command.env("SWITCHBOARD_LIMITS_REPLAY", REPLAY).env("SWITCHBOARD_LIMITS_QUEUE", QUEUE);
        for limit in NO_LIMITS {
            command.env(format!("SWITCHBOARD_LIMITS_{limit}"), "0");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let program = command.as_std().get_program().to_owned();
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
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
