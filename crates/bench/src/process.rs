//! The processes of the measured servers. Each runs on its own core and is measured through `/proc` (proc(5)).

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::thread::CpuSet;

use crate::clock;

/// The core of a measured server: an index into the cores that this process may use.
pub(crate) const SERVER_CORE: &[usize] = &[0];
/// The core of the load generator, as an index into the same list.
pub(crate) const LOAD_CORE: &[usize] = &[1];
/// How long a program may take to start listening.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// The cores of the server and the load together.
pub(crate) const BOTH_CORES: &[usize] = &[0, 1];

/// Binds this thread, and the processes and threads that it starts later, to cores.
pub(crate) fn pin_to_cores(cores: &[usize]) -> anyhow::Result<()> {
    /// The cores that this process may use, read before it binds itself to any.
    static ALLOWED_CORES: OnceLock<Vec<usize>> = OnceLock::new();
    let allowed = ALLOWED_CORES.get_or_init(|| {
        let set = rustix::thread::sched_getaffinity(None).unwrap_or_default();
        (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect()
    });
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*allowed.get(*core).or(allowed.first()).context("there is no core to run on")?);
    }
    rustix::thread::sched_setaffinity(None, &set).context("cannot bind to a core")
}

/// The process of a measured server. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    /// The address on which the server listens.
    pub(crate) address: SocketAddr,
    /// The pipe stays open, because a server that prints to a closed pipe may exit.
    _stdout: Option<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts a program on these cores, and waits until it prints `http://` and its address.
    pub(crate) fn start(command: &mut Command, cores: &[usize]) -> anyhow::Result<Self> {
        let mut child = spawn_on_cores(command.stdout(Stdio::piped()), cores)?;
        let mut stdout = BufReader::new(child.stdout.take().context("stdout is not piped")?);
        let mut line = String::new();
        while stdout.read_line(&mut line)? > 0 {
            if let Some((_, address)) = line.split_once("http://") {
                let address =
                    address.trim().parse().with_context(|| format!("cannot parse the address: {line}"))?;
                return Ok(Self { child, address, _stdout: Some(stdout) });
            }
            line.clear();
        }
        bail!("the server exited before it printed its address")
    }

    /// Starts a program that does not print its address, on a free port, which `command` gets.
    pub(crate) fn start_on_port(
        cores: &[usize],
        command: impl FnOnce(u16) -> Command,
    ) -> anyhow::Result<Self> {
        // The port is free now. If another process takes it in a moment, the start fails.
        let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        let child = spawn_on_cores(command(address.port()).stdout(Stdio::null()), cores)?;
        let mut process = Self { child, address, _stdout: None };
        let begun = clock::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = process.child.try_wait()? {
                bail!("the server exited before it listened: {status}");
            }
            ensure!(begun.elapsed() < START_TIMEOUT, "the server does not listen after {START_TIMEOUT:?}");
            sleep_briefly();
        }
        Ok(process)
    }

    /// The server's processor time so far, in seconds. The kernel counts mostly in steps of 10 ms, so measure over some seconds.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = stat.rsplit_once(')').context("cannot parse /proc/PID/stat")?;
        // The line ends with fields after the name in parentheses; utime and stime are fields 14 and 15 of the whole line.
        let times = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = times.map(|ticks| ticks.parse::<u64>().unwrap_or(0)).sum();
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// The server's resident memory in bytes: the sum of its mappings, because `VmRSS` may be wrong by 64 pages for each thread.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let line =
            rollup.lines().find_map(|line| line.strip_prefix("Rss:")).context("smaps_rollup has no Rss")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse()?;
        Ok(kib * 1024)
    }

    /// Kills the server without a clean stop.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // This fails if the server has exited already, which does not matter.
        let _ = self.kill();
    }
}

fn spawn_on_cores(command: &mut Command, cores: &[usize]) -> anyhow::Result<Child> {
    pin_to_cores(cores)?;
    let started = command.stdin(Stdio::null()).spawn();
    pin_to_cores(LOAD_CORE)?;
    started.with_context(|| format!("cannot start {:?}", command.get_program()))
}

#[expect(
    clippy::disallowed_methods,
    reason = "no event reports that another program listens, so it is polled"
)]
fn sleep_briefly() {
    std::thread::sleep(Duration::from_millis(20));
}

/// Creates a directory for a server's data below `parent`. It must be on a disk: `/tmp` is memory on many machines, where a
/// commit costs nothing.
pub(crate) fn create_scratch_directory(parent: &Path) -> anyhow::Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("switchboard-bench-")
        .tempdir_in(parent)
        .with_context(|| format!("cannot make a directory in {}", parent.display()))
}
