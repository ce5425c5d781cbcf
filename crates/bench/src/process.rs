//! The servers under load: started on a core of their own, looked at through `/proc` (proc(5)), ended.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, bail};
use rustix::thread::CpuSet;

/// The core of a server whose cost is measured, among those that may be used. Of more than two, the first two are.
pub(crate) const SERVER_CORE: &[usize] = &[0];
/// The core of the load.
pub(crate) const LOAD_CORE: &[usize] = &[1];
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
    _stdout: BufReader<ChildStdout>,
}

impl Process {
    /// Starts a program on these cores, and waits until it prints `http://ADDRESS`.
    pub(crate) fn start(command: &mut Command, cores: &[usize]) -> anyhow::Result<Self> {
        pin(cores)?;
        let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        pin(LOAD_CORE)?;
        let mut child = started.with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let mut stdout = BufReader::new(child.stdout.take().context("its output is not ours")?);
        let mut line = String::new();
        while stdout.read_line(&mut line)? > 0 {
            if let Some((_, address)) = line.split_once("http://") {
                let address = address.trim().parse().with_context(|| format!("no address: {line}"))?;
                return Ok(Self { child, address, _stdout: stdout });
            }
            line.clear();
        }
        bail!("it ended without a word of where it listens")
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

/// A directory for a server's data, on the disk of the working directory: `/tmp` is memory on many machines, and
/// then a commit costs nothing.
pub(crate) fn scratch(parent: &Path) -> anyhow::Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("switchboard-bench-")
        .tempdir_in(parent)
        .with_context(|| format!("cannot make a directory in {}", parent.display()))
}
