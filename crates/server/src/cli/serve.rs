//! `switchboard serve` and `switchboard dev`.

use std::io::{ErrorKind, IsTerminal};
use std::net::SocketAddr;
use std::num::NonZero;
use std::process::ExitCode;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use super::output;
use crate::Server;
use crate::clock::Clock;
use crate::config::{Config, Flags, LogConfig, LogFormat, Mode};

/// The exit code after a second signal: what shells report for a program that SIGINT killed.
const INTERRUPTED: i32 = 130;

/// Open files besides one a connection: the database, the log, the listener.
const SPARE_FILES: u64 = 64;

/// Runs a server until it is told to stop.
pub(super) fn run(mode: Mode, flags: &Flags) -> anyhow::Result<ExitCode> {
    let config = Config::load(mode, flags, &super::environment())?;
    start_log(&config.log)?;
    raise_file_limit(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(network_threads())
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let ended = runtime.block_on(Box::pin(serve(config)));
    // Whatever had to end has ended; waiting for more would leave signals unheard.
    runtime.shutdown_background();
    ended.map(|()| ExitCode::SUCCESS)
}

/// Threads that serve connections: all cores but one, which is for the thread that writes to the database.
/// docs/decisions/0024-a-core-for-the-writer.md
fn network_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    cores.saturating_sub(1).max(1)
}

async fn serve(config: Config) -> anyhow::Result<()> {
    // Before anything is printed: whoever waits for the line may send a signal at once.
    let stop = stop_on_signals()?;
    let listener = bind(config.listen).await?;
    let address = listener.local_addr().context("the listener has no address")?;
    let dev = config.mode == Mode::Dev;
    if dev && config.cluster.is_none() {
        crate::dev::seed(&config)?;
    }
    let server = Server::start(listener, config, Clock::system()).await?;
    output::line(&format!("listening on http://{address}"))?;
    if dev {
        output::line(&dev_greeting(address))?;
    }
    tell_supervisor(NotifyState::Ready);
    stop.cancelled().await;
    tell_supervisor(NotifyState::Stopping);
    server.stop().await;
    Ok(())
}

/// Tells systemd, if it started us and waits for word (sd_notify(3)).
fn tell_supervisor(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot tell the supervisor at NOTIFY_SOCKET");
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let error = match TcpListener::bind(address).await {
        Ok(listener) => return Ok(listener),
        Err(error) => error,
    };
    let advice = match error.kind() {
        ErrorKind::AddrInUse => {
            "another program listens there, perhaps another switchboard; stop it, or choose another port \
             with --listen (port 0 takes any free one)"
        }
        ErrorKind::PermissionDenied => "ports below 1024 need a privilege; choose another with --listen",
        ErrorKind::AddrNotAvailable => {
            "this machine does not have that address; 0.0.0.0 or [::] stand for all that it has"
        }
        _ => "choose another address with --listen",
    };
    Err(error).with_context(|| format!("cannot listen on {address}: {advice}"))
}

fn start_log(log: &LogConfig) -> anyhow::Result<()> {
    // The client of the bus repeats itself while it cannot connect; bus/nats/link.rs says what there is to say, once.
    let filter = EnvFilter::try_new(format!("async_nats=off,{}", log.level)).context("log.level")?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|e| anyhow::anyhow!("cannot start the log: {e}"))
}

/// Every connection is an open file, and the soft limit is 1024 on most systems.
fn raise_file_limit(config: &Config) {
    let wanted = u64::from(config.limits.connections) + SPARE_FILES;
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) if files < wanted && config.mode == Mode::Serve => tracing::warn!(
            files,
            connections = config.limits.connections,
            "fewer open files are allowed than connections; raise the hard limit (ulimit -Hn, or \
             LimitNOFILE= in a unit) or lower limits.connections"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "cannot raise the limit of open files"),
    }
}

/// A token that the first signal cancels; the second ends the process.
#[expect(
    clippy::disallowed_methods,
    reason = "it listens for as long as the process lives, so nobody waits for it"
)]
fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let stop = CancellationToken::new();
    let trigger = stop.clone();
    tokio::spawn(async move {
        signals.next().await;
        tracing::info!("stopping; once more stops at once");
        trigger.cancel();
        signals.next().await;
        tracing::warn!("stopped at once");
        std::process::exit(INTERRUPTED);
    });
    Ok(stop)
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// What a developer can do next, to be copied from the terminal.
fn dev_greeting(address: SocketAddr) -> String {
    format!(
        r##"
*** NOT FOR PRODUCTION: this server believes whoever connects. Use `switchboard serve` for that. ***

In a browser, side by side:
  http://{address}/#user=alice
  http://{address}/#user=bob

By hand:
  websocat ws://{address}/v1/ws
and then type
  {{"type":"hello","user":"alice"}}
  {{"type":"send","to":"#general","text":"hi from websocat"}}

From a script:
  curl -s http://{address}/v1/send -H 'content-type: application/json' -d '{{"as":"alice","to":"#general","text":"hi from curl"}}'
"##
    )
}

#[cfg(test)]
mod tests {
    use switchboard_protocol::{Command, decode};

    use super::*;

    #[test]
    fn the_lines_to_type_are_commands() {
        let greeting = dev_greeting(SocketAddr::from(([127, 0, 0, 1], 9501)));
        let frames: Vec<_> = greeting.lines().map(str::trim).filter(|line| line.starts_with('{')).collect();
        let commands: Vec<_> = frames.iter().map(|frame| decode(frame).expect(frame).command).collect();
        assert!(matches!(commands.as_slice(), [Command::Hello(_), Command::Send(_)]), "{commands:?}");
        assert!(greeting.contains("http://127.0.0.1:9501/#user=bob"), "{greeting}");
    }

    #[tokio::test]
    async fn a_taken_port_says_what_to_do() {
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("any port");
        let error = bind(first.local_addr().expect("address")).await.expect_err("taken");
        assert!(format!("{error:#}").contains("--listen"), "{error:#}");
    }
}
