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
    stdout: Option<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts a program on these cores.
    pub(crate) fn start(command: &mut Command, cores: &[usize]) -> anyhow::Result<Self> {
        pin(cores)?;
        let started = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        pin(LOAD_CORE)?;
        let mut child = started.with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let stdout = child.stdout.take().map(BufReader::new);
        Ok(Self { child, stdout })
    }

    /// Reads what it prints until a line has `http://ADDRESS` in it.
    pub(crate) fn address(&mut self) -> anyhow::Result<SocketAddr> {
        let stdout = self.stdout.as_mut().context("its output is read already")?;
        let mut line = String::new();
        while stdout.read_line(&mut line)? > 0 {
            if let Some((_, address)) = line.split_once("http://") {
                return address.trim().parse().with_context(|| format!("no address: {line}"));
            }
            line.clear();
        }
        bail!("it ended without a word of where it listens")
    }

    /// The processor time that the process and its children have used, in seconds. The kernel counts in ticks,
    /// 10 ms mostly: measure over seconds.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        let mut ticks = 0;
        for pid in self.family()? {
            // One that has just ended is counted with its parent's waited-for children.
            let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
            let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has another form")?;
            // utime and stime are the fields 14 and 15, after pid and comm.
            let times = fields.split_whitespace().skip(11).take(2);
            ticks += times.map(|t| t.parse::<u64>().unwrap_or(0)).sum::<u64>();
        }
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// Resident memory of the process and its children, in bytes, after the kernel has taken stock.
    pub(crate) fn memory(&self) -> anyhow::Result<u64> {
        let mut bytes = 0;
        for pid in self.family()? {
            // `VmRSS` lags behind by up to 64 pages a thread; this sums the mappings.
            let Ok(rollup) = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
            let line = rollup.lines().find_map(|line| line.strip_prefix("Rss:")).context("no Rss")?;
            let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
            bytes += kib * 1024;
        }
        Ok(bytes)
    }

    /// The process and what it has started.
    fn family(&self) -> anyhow::Result<Vec<u32>> {
        let mut family = vec![self.child.id()];
        let mut at = 0;
        while let Some(pid) = family.get(at) {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
            for task in tasks.into_iter().flatten().flatten() {
                let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
                family.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
            at += 1;
        }
        Ok(family)
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
