//! The servers under load: started on a core of their own, looked at through `/proc` (proc(5)), ended.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::thread::CpuSet;

use crate::clock;

/// The core of a server whose cost is measured, among those that may be used. Of more than two, the first two are.
pub(crate) const SERVER_CORE: &[usize] = &[0];
/// The core of the load.
pub(crate) const LOAD_CORE: &[usize] = &[1];
/// How long a program may take until it listens.
const PATIENCE: Duration = Duration::from_secs(30);
/// Both.
pub(crate) const BOTH_CORES: &[usize] = &[0, 1];

/// Binds this thread, and the processes and threads that it starts from now on, to cores.
pub(crate) fn pin(cores: &[usize]) -> anyhow::Result<()> {
    /// Those that this process may use, from before it bound itself to any.
    static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();
    let allowed = ALLOWED.get_or_init(|| {
        let set = rustix::thread::sched_getaffinity(None).unwrap_or_default();
        (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
    });
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*allowed.get(*core).or(allowed.first()).context("there is no core to run on")?);
    }
    rustix::thread::sched_setaffinity(None, &set).context("cannot bind to a core")
}

/// A server that was started for a measurement; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Open for as long as it prints.
    _stdout: Option<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts a program on these cores, and waits until it prints `http://ADDRESS`.
    pub(crate) fn start(command: &mut Command, cores: &[usize]) -> anyhow::Result<Self> {
        let mut child = spawn(command.stdout(Stdio::piped()), cores)?;
        let mut stdout = BufReader::new(child.stdout.take().context("its output is not ours")?);
        let mut line = String::new();
        while stdout.read_line(&mut line)? > 0 {
            if let Some((_, address)) = line.split_once("http://") {
                let address = address.trim().parse().with_context(|| format!("no address: {line}"))?;
                return Ok(Self { child, address, _stdout: Some(stdout) });
            }
            line.clear();
        }
        bail!("it ended without a word of where it listens")
    }

    /// Starts a program that does not tell where it listens, on a port that it is given.
    pub(crate) fn start_on_port(
        cores: &[usize],
        command: impl FnOnce(u16) -> Command,
    ) -> anyhow::Result<Self> {
        // Free now; a moment later somebody may have taken it, and then the start fails.
        let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        let child = spawn(command(address.port()).stdout(Stdio::null()), cores)?;
        let mut process = Self { child, address, _stdout: None };
        let begun = clock::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = process.child.try_wait()? {
                bail!("it ended before it listened: {status}");
            }
            ensure!(begun.elapsed() < PATIENCE, "it does not listen after {PATIENCE:?}");
            pause();
        }
        Ok(process)
    }

    /// The processor time that it has used, in seconds. The kernel counts in ticks, 10 ms mostly: measure over seconds.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has another form")?;
        // utime and stime are the fields 14 and 15, after pid and comm.
        let times = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = times.map(|ticks| ticks.parse::<u64>().unwrap_or(0)).sum();
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Its resident memory, in bytes. `VmRSS` lags behind by up to 64 pages a thread; this sums the mappings.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).context("no Rss")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kill();
    }
}

fn spawn(command: &mut Command, cores: &[usize]) -> anyhow::Result<Child> {
    pin(cores)?;
    let started = command.stdin(Stdio::null()).spawn();
    pin(LOAD_CORE)?;
    started.with_context(|| format!("cannot start {:?}", command.get_program()))
}

#[expect(
    clippy::disallowed_methods,
    reason = "nothing tells when another program listens; it is asked again and again"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

/// A directory for a server's data, on the disk of the working directory: `/tmp` is memory on many machines, and
/// then a commit costs nothing.
pub(crate) fn scratch(parent: &Path) -> anyhow::Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("switchboard-bench-")
        .tempdir_in(parent)
        .with_context(|| format!("cannot make a directory in {}", parent.display()))
}
