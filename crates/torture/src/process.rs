//! A process of the server under test: start, stop, kill.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The key with which users' tokens are signed.
pub(crate) const SECRET: &str = "a secret of thirty-two bytes or more, for tests";

/// The setting for the most events that a server replays. It is low, so that servers send `gap` often.
const MAX_REPLAY_EVENTS: &str = "400";

/// The setting for a connection's queue. It is low, so that the queues of slow consumers are often full.
const MAX_QUEUE_BYTES: &str = "16384";

/// How long a server may take to start listening.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Limits that are switched off, because only the faults should slow the clients down.
const NO_LIMITS: [&str; 5] = [
    "CONNECTIONS_PER_USER",
    "CONNECTIONS_PER_ADDRESS",
    "SENDS_PER_CONNECTION",
    "SENDS_PER_USER",
    "FRAMES_PER_CONNECTION",
];

/// A process that can be restarted.
pub(crate) struct Process {
    /// The file to which the process's stderr is appended.
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    pub(crate) fn new(log: &Path) -> Self {
        Self { log: log.to_owned(), child: None }
    }

    /// Starts the process and waits until it listens. Returns `false` if it exited before that.
    pub(crate) async fn start(&mut self, mut command: Command) -> anyhow::Result<bool> {
        // Messages with this word are held.
        let words = self.log.with_file_name("words");
        std::fs::write(&words, crate::held::WORD)?;
        command.env("SWITCHBOARD_MODERATION_WORDS_FILE", &words).env("SWITCHBOARD_MODERATION_ACTION", "hold");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        command.env("SWITCHBOARD_AUTH_SECRET", SECRET).env("SWITCHBOARD_LOG_LEVEL", "info");
        command
            .env("SWITCHBOARD_LIMITS_REPLAY", MAX_REPLAY_EVENTS)
            .env("SWITCHBOARD_LIMITS_QUEUE", MAX_QUEUE_BYTES);
        for limit in NO_LIMITS {
            command.env(format!("SWITCHBOARD_LIMITS_{limit}"), "0");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let program = command.as_std().get_program().to_owned();
        let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let mut lines = BufReader::new(child.stdout.take().context("stdout is not piped")?).lines();
        self.child = Some(child);
        let listens = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains("http://") {
                    return true;
                }
            }
            false
        };
        let Ok(listens) = timeout(START_TIMEOUT, listens).await else {
            bail!("the server does not listen after {START_TIMEOUT:?}")
        };
        if !listens {
            self.wait().await?;
        }
        Ok(listens)
    }

    /// Whether the process has exited.
    pub(crate) fn has_exited(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// Waits until the process exits.
    pub(crate) async fn wait(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        match self.child.take() {
            Some(mut child) => Ok(Some(child.wait().await?)),
            None => Ok(None),
        }
    }

    /// Waits for the exit of the process, at most this long. Returns whether it exited.
    pub(crate) async fn exits_within(&mut self, time: Duration) -> anyhow::Result<bool> {
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

    /// Sends a signal to the process; does nothing if it does not run.
    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().and_then(Child::id).and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            // Sending fails if the process has just exited, which does not matter.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Kills the process without a clean stop.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::KILL);
        self.wait().await?;
        Ok(())
    }

    /// The last lines of the process's log.
    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}
