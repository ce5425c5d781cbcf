//! The server's program in a process of its own, for tests of kills, signals and memory.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rlimit::Resource;
use serde_json::Value;
use switchboard::auth::Authenticator;
use switchboard::config::{AuthConfig, AuthKey, Secret};
use switchboard_client::Client;
use switchboard_protocol::{Hello, Timestamp};
use switchboard_store::clock::Clock;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::{Answer, Person, SECRET, conversation, in_time, user};

/// A ping interval of an hour: raw connections answer no pings, and a test may take longer than `limits.pong_timeout`.
const PING_INTERVAL: (&str, &str) = ("SWITCHBOARD_LIMITS_PING_INTERVAL", "3600000");

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_switchboard"))
}

/// A server process. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    address: SocketAddr,
    /// Makes tokens for users, if the server is a production server.
    mint: Option<Authenticator>,
    /// The server's standard output.
    output: Option<Lines<BufReader<ChildStdout>>>,
}

impl Process {
    /// Starts a `dev` server on a data directory.
    pub(crate) async fn start(data: &Path) -> Self {
        Self::start_with(data, &[]).await
    }

    /// Starts a `dev` server with these settings, as environment variables.
    pub(crate) async fn start_with(data: &Path, settings: &[(&str, &str)]) -> Self {
        Self::run(program(), "dev", data, settings, Stdio::null(), None).await
    }

    /// Starts a `dev` server that logs to `log`.
    pub(crate) async fn start_with_log(data: &Path, settings: &[(&str, &str)], log: Stdio) -> Self {
        Self::run(program(), "dev", data, settings, log, None).await
    }

    /// Starts a production server that logs to `log`.
    pub(crate) async fn start_production(data: &Path, settings: &[(&str, &str)], log: Stdio) -> Self {
        Self::start_production_by(program(), data, settings, log).await
    }

    /// Starts a production server with a limit of file descriptors.
    pub(crate) async fn start_production_with_descriptors(
        descriptors: u32,
        data: &Path,
        settings: &[(&str, &str)],
        log: Stdio,
    ) -> Self {
        let mut command = Command::new("sh");
        let limited = format!(r#"ulimit -n {descriptors}; exec "$0" "$@""#);
        command.args(["-c", &limited, env!("CARGO_BIN_EXE_switchboard")]);
        Self::start_production_by(command, data, settings, log).await
    }

    /// Starts a production server in a terminal, to which it logs.
    pub(crate) async fn start_production_in_terminal(
        data: &Path,
        settings: &[(&str, &str)],
        terminal: OwnedFd,
    ) -> Self {
        let mut command = Command::new("sh");
        // setsid(1) makes stdin the controlling terminal, so that the kernel sends SIGHUP to this process.
        command.args(["-c", r#"exec setsid --ctty "$0" "$@" <&2"#, env!("CARGO_BIN_EXE_switchboard")]);
        Self::start_production_by(command, data, settings, Stdio::from(terminal)).await
    }

    async fn start_production_by(
        command: Command,
        data: &Path,
        settings: &[(&str, &str)],
        log: Stdio,
    ) -> Self {
        let key = AuthKey::Secret(Secret::new(SECRET).expect("long enough"));
        let auth = AuthConfig { keys: vec![key], ..AuthConfig::default() };
        let settings = [&[("SWITCHBOARD_AUTH_SECRET", SECRET)], settings].concat();
        let mint = Authenticator::new(&auth).expect("a secret");
        Self::run(command, "serve", data, &settings, log, Some(mint)).await
    }

    async fn run(
        mut command: Command,
        mode: &str,
        data: &Path,
        settings: &[(&str, &str)],
        log: Stdio,
        mint: Option<Authenticator>,
    ) -> Self {
        command
            .args([mode, "--listen", "127.0.0.1:0"])
            .env("SWITCHBOARD_DATA", data)
            .envs([PING_INTERVAL])
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true);
        let mut child = command.spawn().expect("the program starts");
        let mut output = BufReader::new(child.stdout.take().expect("its output")).lines();
        let line = in_time("the first line", output.next_line()).await.expect("readable");
        let line = line.expect("a line with the address; is the data directory usable?");
        let address = line.split_once("://").and_then(|(_, address)| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("no address in {line:?}"));
        Self { child, address, mint, output: Some(output) }
    }

    /// Closes the test's end of the server's standard output, so that the server can no longer write to it.
    pub(crate) fn close_output(&mut self) {
        self.output = None;
    }

    /// Makes a token for a user of a production server.
    pub(crate) fn token(&self, name: &str) -> String {
        let mint = self.mint.as_ref().expect("a production server");
        mint.mint(&user(name), Duration::from_secs(3_600)).expect("a token")
    }

    /// Makes a token as an issuer whose clock is slow by this much.
    pub(crate) fn token_of_slow_clock(&self, name: &str, slow_by: Duration) -> String {
        let key = AuthKey::Secret(Secret::new(SECRET).expect("long enough"));
        let auth = AuthConfig { keys: vec![key], ..AuthConfig::default() };
        let slow_by = i64::try_from(slow_by.as_millis()).expect("a short time");
        let slow = move || Timestamp::from_millis(Clock::system().now().as_millis() - slow_by);
        let mint = Authenticator::with_clock(&auth, Clock::from_fn(slow)).expect("a secret");
        mint.mint(&user(name), Duration::from_secs(3_600)).expect("a token")
    }

    /// Requests a path with GET.
    pub(crate) async fn gets(&self, path: &str) -> Answer {
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        in_time("an answer over HTTP", Answer::to(http.get(format!("http://{}{path}", self.address)))).await
    }

    /// Sends a command over HTTP as a user of a production server or with another bearer token, and with additional headers.
    pub(crate) async fn posts(
        &self,
        bearer: &str,
        command: &str,
        body: Value,
        headers: &[(&str, &str)],
    ) -> Answer {
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        let mut request =
            http.post(format!("http://{}/v1/{command}", self.address)).bearer_auth(bearer).json(&body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        in_time("an answer over HTTP", Answer::to(request)).await
    }

    /// The address on which the server listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Kills the server with SIGKILL.
    pub(crate) async fn kill(mut self) {
        self.kill_now().await;
    }

    /// Like [`Self::kill`], for a test that keeps the process until it starts another one.
    pub(crate) async fn kill_now(&mut self) {
        self.child.kill().await.expect("it ran");
    }

    /// Sends a signal, such as `TERM`.
    pub(crate) async fn signal(&self, name: &str) {
        // Every shell has `kill` built in, but not every machine has it as a program.
        let kill = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.pid())]).status().await;
        assert!(kill.expect("a shell").success(), "it runs");
    }

    /// Stops the server and returns its log. The log is complete only after the stop, because another thread writes it.
    pub(crate) async fn log_after_stop(&mut self, log: &Path) -> String {
        self.signal("TERM").await;
        assert!(self.wait_for_exit().await.success());
        std::fs::read_to_string(log).expect("the log")
    }

    /// Waits until the server exits.
    pub(crate) async fn wait_for_exit(&mut self) -> ExitStatus {
        in_time("the program ends", self.child.wait()).await.expect("it ran")
    }

    /// The server's resident memory, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("Linux has /proc");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kilobytes * 1024
    }

    /// The longest total time for which a thread of the process was ready to run but waited for a processor.
    pub(crate) fn longest_scheduling_delay(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("Linux has /proc");
        let wait = |thread: std::fs::DirEntry| {
            // The thread may have ended, and some kernels have no `schedstat`.
            let counts = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            counts.split(' ').nth(1)?.parse::<u64>().ok()
        };
        Duration::from_nanos(threads.filter_map(|thread| wait(thread.ok()?)).max().unwrap_or_default())
    }

    /// Keeps all threads of the process on one processor.
    pub(crate) async fn run_on_one_processor(&self) {
        let pid = self.pid().to_string();
        let set =
            Command::new("taskset").args(["-a", "-c", "-p", "0", &pid]).stdout(Stdio::null()).status().await;
        assert!(set.expect("util-linux has taskset").success());
    }

    /// The processor time that the process has used, in steps of 10 ms.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("Linux has /proc");
        let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace().skip(11).take(2);
        let ticks: u64 = fields.map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(ticks * 10)
    }

    /// The number of system calls with which the process has read.
    pub(crate) fn file_reads(&self) -> u64 {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.pid())).expect("Linux has /proc");
        let count = io.lines().find_map(|line| line.strip_prefix("syscr: ")).expect("syscr");
        count.parse().expect("a number")
    }

    /// Limits the size of the files that the process writes; [`rlimit::INFINITY`] ends the limit.
    pub(crate) fn limit_files(&self, bytes: u64) {
        let pid = i32::try_from(self.pid()).expect("a process id");
        rlimit::prlimit(pid, Resource::FSIZE, Some((bytes, rlimit::INFINITY)), None)
            .expect("the limit is set");
    }

    /// Limits the file descriptors of the process to those that are open and `spare` more.
    pub(crate) fn limit_descriptors(&self, spare: u64) {
        let pid = self.pid();
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("Linux has /proc").count() as u64;
        let (pid, limit) = (i32::try_from(pid).expect("a process id"), open + spare);
        rlimit::prlimit(pid, Resource::NOFILE, Some((limit, limit)), None).expect("the limit is set");
    }

    /// Connects a user on a new device.
    pub(crate) async fn connects(&self, name: &str) -> Person {
        self.resumes(name, &[]).await
    }

    /// Connects a user who sends these cursors in `hello`.
    pub(crate) async fn resumes(&self, name: &str, cursors: &[(&str, u64)]) -> Person {
        let cursors = cursors.iter().map(|(name, seq)| (conversation(name), switchboard_protocol::Seq(*seq)));
        let token = self.mint.as_ref().map(|_| self.token(name));
        let named = token.is_none().then(|| user(name));
        let hello = Hello { token, user: named, device: None, cursors: cursors.collect() };
        let url = format!("ws://{}/v1/ws", self.address);
        let (client, welcome) = in_time("welcome", Client::connect(&url, hello)).await.expect("welcome");
        Person::new(client, welcome)
    }
}
