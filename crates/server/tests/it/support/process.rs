//! The real binary in a process of its own: for what only a process can show, its death and its memory.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rlimit::Resource;
use switchboard::auth::Authenticator;
use switchboard::config::{AuthConfig, AuthKey, Secret};
use switchboard_client::Client;
use switchboard_protocol::Hello;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::{Answer, Person, SECRET, conversation, soon, user};

/// An hour. A bare connection answers no pings, and on a busy machine a test takes longer than silence is borne.
const PING_INTERVAL: (&str, &str) = ("SWITCHBOARD_LIMITS_PING_INTERVAL", "3600000");

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_switchboard"))
}

/// A server that runs by itself. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    address: SocketAddr,
    /// What makes tokens, where it asks for them.
    mint: Option<Authenticator>,
    /// What it prints.
    output: Option<Lines<BufReader<ChildStdout>>>,
}

impl Process {
    /// Starts a `dev` server on the data in a directory.
    pub(crate) async fn start(data: &Path) -> Self {
        Self::start_with(data, &[]).await
    }

    /// The same with other settings, by the names of their environment variables.
    pub(crate) async fn start_with(data: &Path, settings: &[(&str, &str)]) -> Self {
        Self::run(program(), "dev", data, settings, Stdio::null(), None).await
    }

    /// A `dev` server, whose log goes somewhere.
    pub(crate) async fn start_with_log(data: &Path, settings: &[(&str, &str)], log: Stdio) -> Self {
        Self::run(program(), "dev", data, settings, log, None).await
    }

    /// A production server, whose log goes somewhere.
    pub(crate) async fn serves(data: &Path, settings: &[(&str, &str)], log: Stdio) -> Self {
        Self::serves_by(program(), data, settings, log).await
    }

    /// The same with so few file descriptors.
    pub(crate) async fn serves_with_descriptors(
        descriptors: u32,
        data: &Path,
        settings: &[(&str, &str)],
        log: Stdio,
    ) -> Self {
        let mut command = Command::new("sh");
        let limited = format!(r#"ulimit -n {descriptors}; exec "$0" "$@""#);
        command.args(["-c", &limited, env!("CARGO_BIN_EXE_switchboard")]);
        Self::serves_by(command, data, settings, log).await
    }

    /// A production server that was started in a terminal, which its log goes to.
    pub(crate) async fn serves_in_terminal(
        data: &Path,
        settings: &[(&str, &str)],
        terminal: OwnedFd,
    ) -> Self {
        let mut command = Command::new("sh");
        // The kernel sends SIGHUP to the process whose controlling terminal it is, which setsid(1) makes it of its stdin.
        command.args(["-c", r#"exec setsid --ctty "$0" "$@" <&2"#, env!("CARGO_BIN_EXE_switchboard")]);
        Self::serves_by(command, data, settings, Stdio::from(terminal)).await
    }

    async fn serves_by(command: Command, data: &Path, settings: &[(&str, &str)], log: Stdio) -> Self {
        let key = AuthKey::Secret(Secret::new(SECRET).expect("long enough"));
        let auth = AuthConfig { key: Some(key), ..AuthConfig::default() };
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
        let line = soon("the first line", output.next_line()).await.expect("readable");
        let line = line.expect("it says where it listens; is the data directory usable?");
        let address = line.strip_prefix("listening on http://").and_then(|address| address.parse().ok());
        let address = address.unwrap_or_else(|| panic!("no address in {line:?}"));
        Self { child, address, mint, output: Some(output) }
    }

    /// Nobody reads what it prints any more.
    pub(crate) fn stops_being_read(&mut self) {
        self.output = None;
    }

    /// A token for somebody, of a production server.
    pub(crate) fn token(&self, name: &str) -> String {
        let mint = self.mint.as_ref().expect("it asks for tokens");
        mint.mint(&user(name), Duration::from_secs(3_600)).expect("a token")
    }

    /// Asks for a page.
    pub(crate) async fn gets(&self, path: &str) -> Answer {
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        soon("an answer over HTTP", Answer::of(http.get(format!("http://{}{path}", self.address)))).await
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// `kill -9`, and it is gone.
    pub(crate) async fn dies(mut self) {
        self.child.kill().await.expect("it ran");
    }

    /// Sends it a signal, such as `TERM`.
    pub(crate) async fn signal(&self, name: &str) {
        // Every shell has it built in; a program of this name is not everywhere.
        let kill = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.pid())]).status().await;
        assert!(kill.expect("a shell").success(), "it runs");
    }

    /// Waits for its end.
    pub(crate) async fn ends(&mut self) -> ExitStatus {
        soon("the program ends", self.child.wait()).await.expect("it ran")
    }

    /// Bytes of its memory that are resident.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("Linux tells");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kilobytes * 1024
    }

    /// How long the thread that waited longest has been ready to run and was not, because the machine had other things to do.
    pub(crate) fn kept_waiting(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("Linux tells");
        let wait = |thread: std::fs::DirEntry| {
            // A thread may end, and not every kernel keeps count.
            let counts = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
            counts.split(' ').nth(1)?.parse::<u64>().ok()
        };
        Duration::from_nanos(threads.filter_map(|thread| wait(thread.ok()?)).max().unwrap_or_default())
    }

    /// The processor time that it has taken so far, in steps of 10 ms.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("Linux tells");
        let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace().skip(11).take(2);
        let ticks: u64 = fields.map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(ticks * 10)
    }

    /// How many times it has read from files.
    pub(crate) fn file_reads(&self) -> u64 {
        let io = std::fs::read_to_string(format!("/proc/{}/io", self.pid())).expect("Linux tells");
        let count = io.lines().find_map(|line| line.strip_prefix("syscr: ")).expect("syscr");
        count.parse().expect("a number")
    }

    /// From now on it can write no file beyond so many bytes; with [`rlimit::INFINITY`] it can again.
    pub(crate) fn limit_files(&self, bytes: u64) {
        let pid = i32::try_from(self.pid()).expect("a process id");
        rlimit::prlimit(pid, Resource::FSIZE, Some((bytes, rlimit::INFINITY)), None).expect("Linux obeys");
    }

    /// From now on it has so many file descriptors besides those that are open.
    pub(crate) fn limit_descriptors(&self, spare: u64) {
        let pid = self.pid();
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("Linux tells").count() as u64;
        let (pid, limit) = (i32::try_from(pid).expect("a process id"), open + spare);
        rlimit::prlimit(pid, Resource::NOFILE, Some((limit, limit)), None).expect("Linux obeys");
    }

    /// Somebody connects.
    pub(crate) async fn connects(&self, name: &str) -> Person {
        self.resumes(name, &[]).await
    }

    /// Somebody connects who has read these conversations up to these events.
    pub(crate) async fn resumes(&self, name: &str, cursors: &[(&str, u64)]) -> Person {
        let cursors = cursors.iter().map(|(name, seq)| (conversation(name), switchboard_protocol::Seq(*seq)));
        let token = self.mint.as_ref().map(|_| self.token(name));
        let named = token.is_none().then(|| user(name));
        let hello = Hello { token, user: named, device: None, cursors: cursors.collect() };
        let url = format!("ws://{}/v1/ws", self.address);
        let (client, welcome) = soon("welcome", Client::connect(&url, hello)).await.expect("welcome");
        Person::new(client, welcome)
    }
}
