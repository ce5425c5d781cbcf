//! The processes of a server, and the watchdog (a shell script) that ends them.
//!
//! A server must not outlive its owner, even if the owner is killed by SIGKILL and cannot clean up. So a shell that is no
//! child of the server reads a pipe whose other end only the owner has. When the owner dies, the kernel closes that end.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::time::{Instant, sleep};

use crate::account::Account;

/// How long a server may take to start: it may have to recover, on a busy machine.
pub(crate) const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a state is polled whose changes cause no event.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// How often the effect of a signal is polled, at an interval of one millisecond.
const MAX_SIGNAL_POLLS: usize = 10_000;

const WATCHDOG_SCRIPT: &str = include_str!("watchdog.sh");

/// A shell script that waits for a line on stdin and then becomes the server; without a line it exits. The line is sent only after
/// the watchdog knows the process id, so the server never runs without a watchdog.
const WAIT_FOR_LINE_SCRIPT: &str = r#"read -r _ && exec "$@" </dev/null"#;

/// A server process, which may be running or not.
#[derive(Debug)]
pub(crate) struct Server {
    watchdog: Child,
    /// When this pipe is closed, the watchdog ends the server.
    watchdog_pipe: Option<ChildStdin>,
    child: Option<Child>,
}

/// How the watchdog ends a server, and what it cleans up after that.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShutdownPlan<'a> {
    /// The signal that asks the server to stop cleanly.
    pub(crate) signal: &'a str,
    /// The data directory of a PostgreSQL, whose shared memory must be removed.
    pub(crate) data: Option<&'a Path>,
    /// The directory that the watchdog must delete.
    pub(crate) delete: Option<&'a Path>,
}

impl Server {
    /// Prepares a server without starting it. The watchdog starts at once, and deletes `delete` when the owner has ended.
    pub(crate) fn new(end_plan: ShutdownPlan<'_>) -> anyhow::Result<Self> {
        let mut watchdog = command_with_minimal_environment("sh".as_ref(), None);
        watchdog.args(["-c", WATCHDOG_SCRIPT, "watchdog", end_plan.signal]);
        watchdog.arg(end_plan.data.unwrap_or(Path::new(""))).arg(end_plan.delete.unwrap_or(Path::new("")));
        // The watchdog has its own process group, because signals from the terminal must not end it.
        watchdog.process_group(0).current_dir("/");
        watchdog.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut watchdog = watchdog.spawn().context("cannot start sh")?;
        let watchdog_pipe = watchdog.stdin.take();
        Ok(Self { watchdog, watchdog_pipe, child: None })
    }

    /// Starts a program in a directory, and appends its output to a log.
    pub(crate) fn start(
        &mut self,
        command: &[&str],
        directory: &Path,
        account: Option<Account>,
        log: &Path,
    ) -> anyhow::Result<()> {
        if self.child.is_some() {
            bail!("the server is already running");
        }
        let log =
            File::options().create(true).append(true).open(log).context("cannot open the server's log")?;
        let mut gate = command_with_minimal_environment("sh".as_ref(), account);
        gate.args(["-c", WAIT_FOR_LINE_SCRIPT, "gate"]).args(command).process_group(0).current_dir(directory);
        gate.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        let child = gate.spawn().with_context(|| format!("cannot start {}", command[0]))?;
        let id = child.id();
        let child = self.child.insert(child);
        let mut open = child.stdin.take().context("stdin is not piped")?;
        self.register_process_with_watchdog(&id.to_string())?;
        open.write_all(b"\n").context("the shell exited before the server started")?;
        Ok(())
    }

    /// Sends the watchdog the id of the process that it must end.
    fn register_process_with_watchdog(&mut self, process: &str) -> anyhow::Result<()> {
        let pipe = self.watchdog_pipe.as_mut().context("the watchdog's pipe is closed")?;
        writeln!(pipe, "{process}").context("the watchdog exited")
    }

    /// The process id of the server; `None` if it does not run.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The exit status of the server, if it has exited by itself since the last call; otherwise `None`.
    pub(crate) fn exit_status(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if self.child.is_none() {
            return Ok(None);
        }
        // The system may reuse the process id once the child is reaped, so the watchdog has to forget the id before that.
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if waitid(WaitId::Pid(self.running_process()?), how).context("cannot wait for the server")?.is_none()
        {
            return Ok(None);
        }
        self.register_process_with_watchdog("")?;
        let child = self.child.take();
        child.map(|mut child| child.wait()).transpose().context("cannot wait for the server")
    }

    /// Waits until `is_ready`, which is called with the process id, returns true.
    ///
    /// # Errors
    /// The server exits before that, or takes too long; the error has the last lines of its log.
    pub(crate) async fn becomes_ready<F: Future<Output = bool>>(
        &mut self,
        name: &str,
        log: &Path,
        is_ready: impl Fn(u32) -> F,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = self.exit_status()? {
                bail!(
                    "{name} exited ({status}) before it was ready:
{}",
                    log_tail(log)
                );
            }
            if is_ready(self.id().context("the server does not run")?).await {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "{name} is not ready after {START_TIMEOUT:?}:
{}",
                    log_tail(log)
                );
            }
            // waits for: a port that accepts connections, or a line in a file, which cause no event
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Suspends all processes of the server.
    pub(crate) fn pause(&self) -> anyhow::Result<()> {
        let server = self.running_process()?;
        // The parent process is suspended first, so that it creates no further children.
        suspend_and_wait(server)?;
        children(server)?.into_iter().try_for_each(suspend_and_wait)
    }

    /// Resumes all processes of the server.
    pub(crate) fn resume(&self) -> anyhow::Result<()> {
        let server = self.running_process()?;
        for process in children(server)? {
            send_signal(process, Signal::CONT)?;
        }
        send_signal(server, Signal::CONT)
    }

    /// Kills all processes of the server, if it runs. They are suspended first, so that none can act while the others are killed.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.exit_status()?;
        if self.child.is_none() {
            return Ok(());
        }
        let server = self.running_process()?;
        suspend_and_wait(server)?;
        let family = children(server)?;
        for process in family.iter().copied().chain([server]) {
            send_signal(process, Signal::KILL)?;
        }
        let deadline = Instant::now() + START_TIMEOUT;
        while self.child.is_some() || family.iter().any(|process| is_alive(*process)) {
            self.exit_status()?;
            if Instant::now() > deadline {
                bail!("the server does not exit after SIGKILL");
            }
            // waits for: the exit of processes that are not children of this process
            sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    fn running_process(&self) -> anyhow::Result<Pid> {
        let id = self.id().context("the server does not run")?;
        pid(id).context("the process id is out of range")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.watchdog_pipe = None;
        // The watchdog ends within seconds in any case, and a destructor cannot report an error.
        let _ = self.watchdog.wait();
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A command with a minimal environment, because PGHOST, a preloaded library or a locale would change what the program does.
pub(crate) fn command_with_minimal_environment(program: &Path, account: Option<Account>) -> Command {
    let mut command = Command::new(program);
    let kept =
        ["PATH", "HOME", "TMPDIR"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.env_clear().envs(kept).env("LC_ALL", "C");
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
    command
}

/// The last lines of a log, for an error message.
pub(crate) fn log_tail(log: &Path) -> String {
    let log = fs::read(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

fn pid(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}

/// Sends a signal to a process. It is no error if the process has just exited.
fn send_signal(process: Pid, signal: Signal) -> anyhow::Result<()> {
    match kill_process(process, signal) {
        Err(error) if error != rustix::io::Errno::SRCH => Err(error).context("cannot send a signal"),
        _ => Ok(()),
    }
}

/// Suspends a process. Returns when the process has stopped.
fn suspend_and_wait(process: Pid) -> anyhow::Result<()> {
    send_signal(process, Signal::STOP)?;
    for _ in 0..MAX_SIGNAL_POLLS {
        match process_state_and_parent(process.as_raw_nonzero().get()) {
            None | Some(('T' | 'Z' | 'X', _)) => return Ok(()),
            Some(_) => sleep_briefly(),
        }
    }
    bail!("a process does not stop after SIGSTOP")
}

#[expect(clippy::disallowed_methods, reason = "suspending a server is not async")]
fn sleep_briefly() {
    // waits for: the effect of a signal, which causes no event
    std::thread::sleep(Duration::from_millis(1));
}

fn is_alive(process: Pid) -> bool {
    process_state_and_parent(process.as_raw_nonzero().get()).is_some_and(|(state, _)| state != 'Z')
}

/// The child processes of a process. Those of PostgreSQL have their own process groups, so no single signal reaches all of them.
fn children(parent: Pid) -> anyhow::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if process_state_and_parent(id)
            .is_some_and(|(_, its_parent)| its_parent == parent.as_raw_nonzero().get())
        {
            found.extend(Pid::from_raw(id));
        }
    }
    Ok(found)
}

/// The state of a process, and the id of its parent.
fn process_state_and_parent(id: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The process name is in parentheses, and may itself contain parentheses.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
