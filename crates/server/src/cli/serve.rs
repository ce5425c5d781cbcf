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
use crate::clock::Clock;
use crate::config::{Config, Flags, Mode};
use crate::log::Log;
use crate::{Failure, Server};

/// The exit code after a second signal: what shells report for a program that SIGINT killed.
const INTERRUPTED: i32 = 130;

/// The exit code after a part of the server has ended by itself: `EX_SOFTWARE` of sysexits.h(3head).
const FAILED: u8 = 70;

/// Connections that may wait to be accepted, as after a restart, when all clients come back. Beyond: the system drops the
/// attempt, and the client's system repeats it a second later. Linux lowers this to `net.core.somaxconn`.
const BACKLOG: u32 = 4_096;

/// Runs a server until it is told to stop.
pub(super) fn run(mode: Mode, flags: &Flags) -> anyhow::Result<ExitCode> {
    let mut config = Config::load(mode, flags, &super::environment())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(network_threads())
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let signals = runtime.block_on(async { Signals::new() }).context("cannot listen for signals")?;
    let log = Log::start(&config.log)?;
    descriptors::fit(&mut config);
    let ended = runtime.block_on(Box::pin(serve(config, signals, &log)));
    // Whatever had to end has ended; waiting for more would leave signals unheard.
    runtime.shutdown_background();
    let code = match ended {
        Ok(()) => ExitCode::SUCCESS,
        // The log has its cause.
        Err(error) if error.is::<Failure>() => ExitCode::from(FAILED),
        Err(error) => {
            log.fatal(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    };
    log.flush();
    Ok(code)
}

/// Threads that serve connections: all cores but one, which is for the thread that writes to the database.
/// docs/decisions/0024-a-core-for-the-writer.md
fn network_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    cores.saturating_sub(1).max(1)
}

async fn serve(config: Config, signals: Signals, log: &Log) -> anyhow::Result<()> {
    // Before anything is printed: whoever waits for the line may send a signal at once.
    let stop = stop_on_signals(signals, log.clone());
    let listener = bind(config.listen)?;
    let address = listener.local_addr().context("the listener has no address")?;
    let dev = config.mode == Mode::Dev;
    if dev && config.cluster.is_none() {
        let seeded = config.clone();
        tokio::task::spawn_blocking(move || crate::dev::seed(&seeded)).await??;
    }
    let server = Server::start(listener, config, Clock::system()).await?;
    announce(&format!("listening on http://{address}"));
    if let Some(operators) = server.operator_address() {
        announce(&format!("probes and metrics on http://{operators}"));
    }
    if dev {
        announce(&dev_greeting(address));
    }
    tell_supervisor(NotifyState::Ready);
    tokio::select! {
        () = stop.cancelled() => {}
        () = server.failed() => {}
    }
    tell_supervisor(NotifyState::Stopping);
    Ok(server.stop().await?)
}

/// Prints a line for the person or program that started the server. It serves all the same if they read no more, as `head`
/// does after a line.
fn announce(line: &str) {
    if let Err(error) = output::line(line)
        && !error.is::<output::Closed>()
    {
        tracing::warn!(error = format!("{error:#}"), "cannot print where the server listens");
    }
}

/// Tells systemd, if it started us and waits for word (sd_notify(3)).
fn tell_supervisor(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot tell the supervisor at NOTIFY_SOCKET");
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // The port is free though connections of the process before linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
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
            "this machine does not have that address; 0.0.0.0 or [::] stand for all that it has"
        }
        _ => "choose another address with --listen",
    };
    Err(error).with_context(|| format!("cannot listen on {address}: {advice}"))
}

/// A token that the first signal cancels; the second ends the process, unless it is SIGHUP: a shell whose terminal goes
/// sends that more than once.
#[expect(
    clippy::disallowed_methods,
    reason = "it listens for as long as the process lives, so nobody waits for it"
)]
fn stop_on_signals(mut signals: Signals, log: Log) -> CancellationToken {
    let stop = CancellationToken::new();
    let trigger = stop.clone();
    tokio::spawn(async move {
        signals.next().await;
        tracing::info!("stopping; once more stops at once");
        trigger.cancel();
        while signals.next().await == SignalKind::hangup() {}
        tracing::warn!("stopped at once");
        log.flush();
        std::process::exit(INTERRUPTED);
    });
    stop
}

/// The signals that stop the server.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// The terminal has gone; `None` if the server was started to outlive it, with nohup(1).
    hangup: Option<Signal>,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        // A write beyond RLIMIT_FSIZE is then an error, as on a full disk, and does not kill the process. Its handler
        // stays when this is dropped.
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

/// Whether the process was started with this signal ignored, as far as the system says (proc_pid_status(5)).
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
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
        let first = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("any port");
        let error = bind(first.local_addr().expect("address")).expect_err("taken");
        assert!(format!("{error:#}").contains("--listen"), "{error:#}");
    }
}
