//! The processes of a server, and the watchdog that ends them.
//!
//! A server must not outlive its owner, however that ends, and a SIGKILL leaves the owner no last word. So a shell that
//! is no child of the server's waits at the end of a pipe whose other end only the owner has; the kernel closes it.

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

/// How long a server may take to start: it may have to recover, on a machine that is busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often we look whether something has come about of which nobody tells.
pub(crate) const GLANCE: Duration = Duration::from_millis(5);

/// How often, a millisecond apart, we look whether a signal has taken effect.
const GLANCES: usize = 10_000;

const WATCHDOG: &str = include_str!("watchdog.sh");

/// Becomes the server when it gets a line, and ends when it gets none: until then nobody watches it.
const GATE: &str = r#"read -r _ && exec "$@" </dev/null"#;

/// A server, which may run or not.
#[derive(Debug)]
pub(crate) struct Server {
    watchdog: Child,
    /// Closed, it sets off the watchdog.
    leash: Option<ChildStdin>,
    child: Option<Child>,
}

/// How a server ends, and what is left to do then.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending<'a> {
    /// The signal that asks it to.
    pub(crate) signal: &'a str,
    /// The data directory of a PostgreSQL.
    pub(crate) data: Option<&'a Path>,
    /// A directory to delete.
    pub(crate) delete: Option<&'a Path>,
}

impl Server {
    /// A server that does not run yet. What is to be deleted in the end will be, from now on.
    pub(crate) fn new(ending: Ending<'_>) -> anyhow::Result<Self> {
        let mut watchdog = bare("sh".as_ref(), None);
        watchdog.args(["-c", WATCHDOG, "watchdog", ending.signal]);
        watchdog.arg(ending.data.unwrap_or(Path::new(""))).arg(ending.delete.unwrap_or(Path::new("")));
        // Not of our group: what a terminal sends to us all, the watchdog has to outlive.
        watchdog.process_group(0).current_dir("/");
        watchdog.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut watchdog = watchdog.spawn().context("cannot start sh")?;
        let leash = watchdog.stdin.take();
        Ok(Self { watchdog, leash, child: None })
    }

    /// Starts a program in a directory, with its output appended to a log.
    pub(crate) fn start(
        &mut self,
        command: &[&str],
        directory: &Path,
        account: Option<Account>,
        log: &Path,
    ) -> anyhow::Result<()> {
        if self.child.is_some() {
            bail!("it runs already");
        }
        let log = File::options().create(true).append(true).open(log).context("cannot write its log")?;
        let mut gate = bare("sh".as_ref(), account);
        gate.args(["-c", GATE, "gate"]).args(command).process_group(0).current_dir(directory);
        gate.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        let child = gate.spawn().with_context(|| format!("cannot start {}", command[0]))?;
        let id = child.id();
        let child = self.child.insert(child);
        let mut open = child.stdin.take().context("its input is not ours")?;
        self.watch(&id.to_string())?;
        open.write_all(b"\n").context("it ended before it started")?;
        Ok(())
    }

    /// Tells the watchdog which process to end.
    fn watch(&mut self, process: &str) -> anyhow::Result<()> {
        let leash = self.leash.as_mut().context("there is no watchdog")?;
        writeln!(leash, "{process}").context("the watchdog is gone")
    }

    /// Its process, if it runs.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// How it has ended, if it has by itself.
    pub(crate) fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        if self.child.is_none() {
            return Ok(None);
        }
        // Its number is its own until somebody has waited for it; the watchdog has to forget it before.
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if waitid(WaitId::Pid(self.running()?), how).context("cannot wait for it")?.is_none() {
            return Ok(None);
        }
        self.watch("")?;
        let child = self.child.take();
        child.map(|mut child| child.wait()).transpose().context("cannot wait for it")
    }

    /// Waits until it does what it was started for; `is_ready` gets the number of its process.
    ///
    /// # Errors
    /// It ends before, or takes too long: with the last lines of its log.
    pub(crate) async fn becomes_ready<F: Future<Output = bool>>(
        &mut self,
        name: &str,
        log: &Path,
        is_ready: impl Fn(u32) -> F,
    ) -> anyhow::Result<()> {
        let given_up = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.ended()? {
                bail!(
                    "{name} ended ({status}) before it was ready:
{}",
                    last_words(log)
                );
            }
            if is_ready(self.id().context("it does not run")?).await {
                return Ok(());
            }
            if Instant::now() > given_up {
                bail!(
                    "{name} is not ready after {PATIENCE:?}:
{}",
                    last_words(log)
                );
            }
            // waits for: a port to be listened on, or a line in a file, of which nobody tells
            sleep(GLANCE).await;
        }
    }

    /// Stops all of its processes where they are.
    pub(crate) fn pause(&self) -> anyhow::Result<()> {
        let server = self.running()?;
        // The first process first: stopped, it makes no more of them.
        halt(server)?;
        children(server)?.into_iter().try_for_each(halt)
    }

    /// Lets all of its processes go on.
    pub(crate) fn resume(&self) -> anyhow::Result<()> {
        let server = self.running()?;
        for process in children(server)? {
            signal(process, Signal::CONT)?;
        }
        signal(server, Signal::CONT)
    }

    /// Ends all of its processes at once, none of which gets to do anything more. Nothing if there are none.
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        self.ended()?;
        if self.child.is_none() {
            return Ok(());
        }
        let server = self.running()?;
        halt(server)?;
        let family = children(server)?;
        for process in family.iter().copied().chain([server]) {
            signal(process, Signal::KILL)?;
        }
        let given_up = Instant::now() + PATIENCE;
        while self.child.is_some() || family.iter().any(|process| is_alive(*process)) {
            self.ended()?;
            if Instant::now() > given_up {
                bail!("it does not end when it is killed");
            }
            // waits for: processes to end, which are not our children
            sleep(GLANCE).await;
        }
        Ok(())
    }

    fn running(&self) -> anyhow::Result<Pid> {
        let id = self.id().context("it does not run")?;
        pid(id).context("a process without a number")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.leash = None;
        // It ends within seconds, whatever the server does; there is nobody to tell of a failure.
        let _ = self.watchdog.wait();
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A command that knows nothing of our environment: PGHOST, a preloaded library or a language would change what it does.
pub(crate) fn bare(program: &Path, account: Option<Account>) -> Command {
    let mut command = Command::new(program);
    let kept =
        ["PATH", "HOME", "TMPDIR"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
    command.env_clear().envs(kept).env("LC_ALL", "C");
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
    command
}

/// The last lines of a log, for a person.
pub(crate) fn last_words(log: &Path) -> String {
    let log = fs::read(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

fn pid(id: u32) -> Option<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw)
}

/// Sends a signal; a process that has ended this moment is none to send it to.
fn signal(process: Pid, signal: Signal) -> anyhow::Result<()> {
    match kill_process(process, signal) {
        Err(error) if error != rustix::io::Errno::SRCH => Err(error).context("cannot send a signal"),
        _ => Ok(()),
    }
}

/// Stops a process; returns when it does nothing more.
fn halt(process: Pid) -> anyhow::Result<()> {
    signal(process, Signal::STOP)?;
    for _ in 0..GLANCES {
        match look(process.as_raw_nonzero().get()) {
            None | Some(('T' | 'Z' | 'X', _)) => return Ok(()),
            Some(_) => a_moment(),
        }
    }
    bail!("a process does not stop")
}

#[expect(
    clippy::disallowed_methods,
    reason = "to pause is not async: what pauses a server need not be, either"
)]
fn a_moment() {
    // waits for: a signal to take effect, of which nobody tells
    std::thread::sleep(Duration::from_millis(1));
}

fn is_alive(process: Pid) -> bool {
    look(process.as_raw_nonzero().get()).is_some_and(|(state, _)| state != 'Z')
}

/// The children of a process. Those of PostgreSQL are each in a group of its own, so that no signal goes to all.
fn children(parent: Pid) -> anyhow::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if look(id).is_some_and(|(_, its_parent)| its_parent == parent.as_raw_nonzero().get()) {
            found.extend(Pid::from_raw(id));
        }
    }
    Ok(found)
}

/// The state of a process, and its parent.
fn look(id: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name is in parentheses, and may have some in it.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
