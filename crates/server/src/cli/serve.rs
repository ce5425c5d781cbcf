//! `switchboard serve` and `switchboard dev`.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::num::NonZero;
use std::process::ExitCode;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{descriptors, output};
use crate::config::{Config, Flags, Mode, requested_log_format};
use crate::log::{self, Log};
use crate::{NodeName, Server, TaskFailure};
use switchboard_store::clock::Clock;
use switchboard_store::postgres::Outdated;

/// The exit code after a second signal: shells report the same code for a program that SIGINT has killed.
const EXIT_INTERRUPTED: i32 = 130;

/// The exit code after a critical task of the server has failed: `EX_SOFTWARE` of sysexits.h(3head).
const EXIT_FAILED: u8 = 70;

/// The exit code of a version that is too old for its installation: `EX_CONFIG` of sysexits.h(3head). A supervisor should not
/// restart the server then, because it would end again.
const EXIT_OUTDATED: u8 = 78;

/// The most connections that wait to be accepted; there are many after a restart, when all clients reconnect. The kernel drops
/// further attempts, and the client's kernel retries a second later. Linux lowers this number to `net.core.somaxconn`.
const LISTEN_BACKLOG: u32 = 4_096;

/// Runs a server until a signal stops it or a critical task fails. An error before the log has started is printed in the format of
/// the log, too.
pub(super) fn run(mode: Mode, flags: &Flags) -> ExitCode {
    let env = super::environment();
    run_with(mode, flags, &env).unwrap_or_else(|error| {
        let format = requested_log_format(flags, &env);
        output::eprint_line(log::fatal_line(format, &format!("{error:#}")).trim_end());
        ExitCode::FAILURE
    })
}

fn run_with(mode: Mode, flags: &Flags, env: &[(String, String)]) -> anyhow::Result<ExitCode> {
    let mut config = Config::load(mode, flags, env)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(network_threads())
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let signals = runtime.block_on(async { Signals::new() }).context("cannot listen for signals")?;
    let log = Log::start(&config.log, &config.name())?;
    // The log shows what the operator has set, and not what the limit of open files leaves of it.
    let settings = config.changed_settings()?;
    descriptors::reduce_limit_to_descriptors(&mut config);
    let ended = runtime.block_on(Box::pin(serve(config, &settings, signals, &log)));
    // Every task that must finish has finished. Waiting for the rest would block without handling signals.
    runtime.shutdown_background();
    let code = match ended {
        Ok(()) => ExitCode::SUCCESS,
        // The cause is already logged.
        Err(error) if error.is::<TaskFailure>() => ExitCode::from(EXIT_FAILED),
        Err(error) => {
            log.fatal(&format!("{error:#}"));
            if error.is::<Outdated>() { ExitCode::from(EXIT_OUTDATED) } else { ExitCode::FAILURE }
        }
    };
    log.flush();
    Ok(code)
}

/// The number of threads that serve connections. One core is left to the thread that writes to the database.
/// docs/decisions/0024-a-core-for-the-writer.md
fn network_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    cores.saturating_sub(1).max(1)
}

async fn serve(config: Config, settings: &str, signals: Signals, log: &Log) -> anyhow::Result<()> {
    // The signal handlers are set before the first line is printed, because its reader may send a signal at once.
    let stop = stop_on_signals(signals, log.clone());
    let listener = bind(config.listen)?;
    let address = listener.local_addr().context("the listener has no address")?;
    let dev = config.mode == Mode::Dev;
    let name = config.name();
    let (scheme, of_sockets) = if config.tls.is_some() { ("https", "wss") } else { ("http", "ws") };
    if dev && config.cluster.is_none() {
        let seeded = config.clone();
        tokio::task::spawn_blocking(move || crate::dev::create_example_conversation(&seeded)).await??;
    }
    let server = Server::start(listener, config, Clock::system()).await?;
    log_start(&name, (address, server.operator_address()), dev, settings);
    notify_ready(&format!("listening on {scheme}://{address}"));
    if let Some(operators) = server.operator_address() {
        notify_ready(&format!("probes and metrics on http://{operators}"));
    }
    if dev {
        notify_ready(&dev_greeting((scheme, of_sockets), address));
    }
    notify_supervisor(NotifyState::Ready);
    tokio::select! {
        () = stop.cancelled() => {}
        () = server.failed() => {}
        () = feed_watchdog(&server) => {}
    }
    notify_supervisor(NotifyState::Stopping);
    Ok(server.stop().await?)
}

/// Logs the first line of a server: its version, its addresses, and the settings that differ from the defaults.
fn log_start(
    node: &NodeName,
    (address, operator_address): (SocketAddr, Option<SocketAddr>),
    dev: bool,
    settings: &str,
) {
    tracing::info!(
        %node,
        version = env!("CARGO_PKG_VERSION"),
        %address,
        operator_address = operator_address.map(tracing::field::display),
        mode = if dev { "dev" } else { "serve" },
        settings,
        "started"
    );
}

/// Prints a line for the person or program that started the server. The server keeps running if the reader closes stdout, as
/// `head` does after a line.
fn notify_ready(line: &str) {
    if let Err(error) = output::print_line(line)
        && !error.is::<output::StdoutClosed>()
    {
        tracing::warn!(error = format!("{error:#}"), "cannot print the server's address");
    }
}

/// Notifies systemd if it started the server with `NOTIFY_SOCKET` (sd_notify(3)).
fn notify_supervisor(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot notify the supervisor at NOTIFY_SOCKET");
    }
}

/// Notifies systemd's watchdog, if the unit has `WatchdogSec=`, for as long as the router answers. Never returns.
async fn feed_watchdog(server: &Server) {
    let Some(timeout) = sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero()) else {
        return std::future::pending().await;
    };
    // Half of the time-out, as sd_watchdog_enabled(3) advises.
    let mut ticks = tokio::time::interval(timeout / 2);
    loop {
        ticks.tick().await;
        server.wait_for_router().await;
        notify_supervisor(NotifyState::Watchdog);
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Allows binding while connections of an earlier process are in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(LISTEN_BACKLOG)
}

pub(super) fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let error = match listen(address) {
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
            "this machine does not have that address; 0.0.0.0 or [::] listen on all addresses"
        }
        _ => "choose another address with --listen",
    };
    Err(error).with_context(|| format!("cannot listen on {address}: {advice}"))
}

/// Returns a token that the first signal cancels. A second signal ends the process at once, except SIGHUP, because a shell that
/// loses its terminal may send it more than once.
#[expect(
    clippy::disallowed_methods,
    reason = "the task runs for the life of the process, so no owner waits for it"
)]
fn stop_on_signals(mut signals: Signals, log: Log) -> CancellationToken {
    let stop = CancellationToken::new();
    let trigger = stop.clone();
    tokio::spawn(async move {
        signals.next().await;
        tracing::info!("shutting down gracefully; send the signal again to exit immediately");
        trigger.cancel();
        while signals.next().await == SignalKind::hangup() {}
        tracing::warn!("exiting immediately after a second signal");
        log.flush();
        std::process::exit(EXIT_INTERRUPTED);
    });
    stop
}

/// The signals that stop the server.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// SIGHUP: the terminal has been closed. `None` if the server was started with nohup(1).
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        // With a handler for SIGXFSZ a write beyond RLIMIT_FSIZE is an error, as on a full disk, and does not kill the
        // process. The handler stays installed when the `Signal` is dropped.
        drop(signal(SignalKind::from_raw(libc::SIGXFSZ))?);
        let hangup = if is_ignored(libc::SIGHUP) { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup,
        })
    }

    async fn next(&mut self) -> SignalKind {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = hangup => SignalKind::hangup(),
        }
    }
}

/// Whether the process was started with this signal ignored (proc_pid_status(5)). False if `/proc` cannot be read.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// The text that `dev` prints: first commands, which a developer can copy from the terminal.
fn dev_greeting((scheme, of_sockets): (&str, &str), address: SocketAddr) -> String {
    format!(
        r##"
*** NOT FOR PRODUCTION: this server does not authenticate anyone. Use `switchboard serve` for that. ***

In a browser, side by side:
  {scheme}://{address}/#user=alice&conversation=%23general
  {scheme}://{address}/#user=bob&conversation=%23general

By hand:
  websocat {of_sockets}://{address}/v1/ws
and then type
  {{"type":"hello","user":"alice"}}
  {{"type":"send","to":"#general","text":"hi from websocat"}}

From a script:
  curl -s {scheme}://{address}/v1/send -H 'content-type: application/json' -d '{{"as":"alice","to":"#general","text":"hi from curl"}}'
"##
    )
}

#[cfg(test)]
mod tests {
    use switchboard_protocol::{Command, decode};

    use super::*;

    #[test]
    fn the_frames_of_the_greeting_are_valid_commands() {
        let greeting = dev_greeting(("http", "ws"), SocketAddr::from(([127, 0, 0, 1], 9501)));
        let frames: Vec<_> = greeting.lines().map(str::trim).filter(|line| line.starts_with('{')).collect();
        let commands: Vec<_> = frames.iter().map(|frame| decode(frame).expect(frame).command).collect();
        assert!(matches!(commands.as_slice(), [Command::Hello(_), Command::Send(_)]), "{commands:?}");
        assert!(greeting.contains("http://127.0.0.1:9501/#user=bob&conversation=%23general"), "{greeting}");
    }

    #[tokio::test]
    async fn a_port_in_use_is_an_error_that_names_the_flag() {
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("any port");
        let error = bind(first.local_addr().expect("address")).expect_err("taken");
        assert!(format!("{error:#}").contains("--listen"), "{error:#}");
    }
}
