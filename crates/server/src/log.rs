//! The log of a server: tasks queue their lines, and a separate thread writes them to stderr.
//!
//! A pipe that no process reads, a full disk or a closed terminal can delay or lose lines. It never delays or ends a task.

mod json;
#[cfg(feature = "otlp")]
pub(crate) mod otlp;

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use crossbeam_channel::{Receiver, Sender};
use prometheus_client::metrics::counter::Counter;
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
#[cfg(feature = "otlp")]
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};

use crate::config::{LogConfig, LogFormat};
use crate::node_name::NodeName;
use crate::tasks;

/// The most lines that wait for the thread: several seconds of a busy log. Further lines are dropped and counted.
const MAX_QUEUED_LINES: usize = 8_192;

/// The most bytes of lines that wait for the thread. Further lines are dropped and counted.
const MAX_QUEUED_BYTES: usize = 4 * 1024 * 1024;

/// How soon a write is retried if another process has made the terminal or pipe non-blocking, and it is full.
const WRITE_RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// How long a process that ends waits for queued lines, in each of two steps.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(250);

/// How many lines were dropped since the process started. It is global, because all servers in a process share one log.
static DROPPED_LINES: LazyLock<Counter> = LazyLock::new(Counter::default);

/// How many lines of the log were dropped.
pub(crate) fn dropped_lines() -> Counter {
    DROPPED_LINES.clone()
}

/// A handle to the thread that writes the log. Clones share the thread.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    queue: Sender<Message>,
    queued_bytes: Arc<AtomicUsize>,
    format: LogFormat,
    #[cfg(feature = "otlp")]
    traces: Option<otlp::Traces>,
}

#[derive(Debug)]
enum Message {
    Line(Box<[u8]>),
    /// Asks the thread to drop this sender once all lines queued before are written.
    Flush(#[expect(dead_code, reason = "the other end waits for this one to be dropped")] Sender<()>),
}

/// The filter of the log: the configured levels, which win over those for two libraries.
fn directives(level: &str) -> String {
    // The NATS client logs the same line again and again while it cannot connect. `bus/nats/connection.rs` logs each warning once.
    let bus = "async_nats=off";
    // At `debug` this library logs the whole schema.
    let verbose = level.split(',').any(|part| matches!(part.trim(), "debug" | "trace"));
    let schema = if verbose { ",rusqlite_migration=info" } else { "" };
    // The store was a module of the server once, so its old module path must still work.
    let level = level.replace("switchboard::store", "switchboard_store");
    format!("{bus}{schema},{level}")
}

/// The line of an error that ends the process.
pub(crate) fn fatal_line(format: LogFormat, message: &str) -> String {
    match format {
        LogFormat::Text => format!("error: {message}\n"),
        LogFormat::Json => json::fatal(message),
    }
}

impl Log {
    /// Starts the thread, and makes it log every event of `tracing` and every panic. `node` is the name of this node in traces.
    ///
    /// # Errors
    /// The filter in `config` cannot be parsed, the thread cannot be started, another log has been started, or traces go to an
    /// address that cannot be used.
    #[cfg_attr(not(feature = "otlp"), expect(unused_variables, reason = "only traces have the node's name"))]
    pub(crate) fn start(config: &LogConfig, node: &NodeName) -> anyhow::Result<Self> {
        let filter = EnvFilter::try_new(directives(&config.level)).context("log.level")?;
        // The descriptor is duplicated, because a write that blocks must not hold the lock of `std::io::stderr`.
        let stderr = std::io::stderr().as_fd().try_clone_to_owned().context("stderr")?;
        #[cfg_attr(not(feature = "otlp"), expect(unused_mut, reason = "only traces change it"))]
        let mut log = Self::to_writer(File::from(stderr), config.format)?;
        #[cfg(feature = "otlp")]
        {
            log.traces = otlp::Traces::start(node)?;
        }
        let builder = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .log_internal_errors(false)
            .with_writer(log.clone());
        match config.format {
            LogFormat::Text => log.observe(builder.with_ansi(std::io::stderr().is_terminal()).finish()),
            LogFormat::Json => log.observe(builder.json().event_format(json::JsonLines).finish()),
        }
        .map_err(|e| anyhow::anyhow!("cannot start the log: {e}"))?;
        std::panic::set_hook(Box::new(log_panic));
        Ok(log)
    }

    /// Makes a subscriber the one of this process.
    fn observe(
        &self,
        subscriber: impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync + 'static,
    ) -> Result<(), TryInitError> {
        #[cfg(feature = "otlp")]
        if let Some(traces) = &self.traces {
            return subscriber.with(traces.layer()).try_init();
        }
        subscriber.try_init()
    }

    fn to_writer(out: impl Write + Send + 'static, format: LogFormat) -> anyhow::Result<Self> {
        let (queue, messages) = crossbeam_channel::bounded(MAX_QUEUED_LINES);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let writer = LineWriter {
            out,
            messages,
            queued_bytes: queued_bytes.clone(),
            has_partial_line: false,
            reported_drops: 0,
        };
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run())?;
        Ok(Self {
            queue,
            queued_bytes,
            format,
            #[cfg(feature = "otlp")]
            traces: None,
        })
    }

    /// Logs the error that ends the process, at any level.
    pub(crate) fn fatal(&self, message: &str) {
        let line = fatal_line(self.format, message);
        self.queue(line.as_bytes());
    }

    /// Waits until all queued lines are written, for at most two times `FLUSH_TIMEOUT`, and before it until the last traces are sent.
    pub(crate) fn flush(&self) {
        #[cfg(feature = "otlp")]
        if let Some(traces) = &self.traces {
            traces.shut_down();
        }
        let (done, written) = crossbeam_channel::bounded(0);
        if self.queue.send_timeout(Message::Flush(done), FLUSH_TIMEOUT).is_ok() {
            // The thread sends nothing. It drops the sender, which ends this wait.
            let _ = written.recv_timeout(FLUSH_TIMEOUT);
        }
    }

    fn queue(&self, line: &[u8]) {
        let length = line.len();
        let before = self.queued_bytes.fetch_add(length, Ordering::Relaxed);
        if before + length > MAX_QUEUED_BYTES || self.queue.try_send(Message::Line(line.into())).is_err() {
            self.queued_bytes.fetch_sub(length, Ordering::Relaxed);
            DROPPED_LINES.inc();
        }
    }
}

impl Write for &Log {
    /// `tracing` writes each event with one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// The state of the thread that writes the lines.
struct LineWriter<W> {
    out: W,
    messages: Receiver<Message>,
    queued_bytes: Arc<AtomicUsize>,
    /// Whether only a part of the last line was written.
    has_partial_line: bool,
    /// How many dropped lines the log has reported.
    reported_drops: u64,
}

impl<W: Write> LineWriter<W> {
    fn run(mut self) {
        while let Ok(message) = self.messages.recv() {
            let Message::Line(line) = message else { continue };
            self.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            match self.write(&line) {
                Ok(()) if self.messages.is_empty() => self.report_dropped_lines(),
                Ok(()) => {}
                Err(_) => drop(DROPPED_LINES.inc()),
            }
        }
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.has_partial_line {
            self.write_all(b"\n")?;
        }
        self.write_all(line)
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.out.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    self.has_partial_line = true;
                    bytes = &bytes[written..];
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(WRITE_RETRY_INTERVAL),
                Err(error) => return Err(error),
            }
        }
        self.has_partial_line = false;
        Ok(())
    }

    /// Logs how many lines were dropped, once lines can be written again.
    fn report_dropped_lines(&mut self) {
        let dropped = DROPPED_LINES.get();
        let lines = dropped - self.reported_drops;
        if lines > 0 {
            self.reported_drops = dropped;
            tracing::warn!(
                lines,
                "lines of this log were dropped: they could not be written, or not in time"
            );
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the thread of the log has nothing else to do")]
fn sleep(pause: Duration) {
    std::thread::sleep(pause);
}

/// Logs a panic in one line. It replaces the standard hook, which writes to stderr itself, and would block on a pipe that no
/// process reads.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let cause = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    let place = panic.location().map(ToString::to_string);
    let at = place.as_deref().unwrap_or("unknown");
    if let Some(task) = tasks::current_critical_task() {
        tracing::error!(task, at, ?cause, "the {task} has panicked; the server ends");
    } else {
        let thread = std::thread::current();
        tracing::error!(thread = thread.name().unwrap_or("unnamed"), at, ?cause, "a task has panicked");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// A disk that becomes full: it takes a part of a line, then each write fails.
    #[derive(Clone, Default)]
    struct FullDisk(Arc<Mutex<(Vec<u8>, bool)>>);

    impl Write for FullDisk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (written, full) = &mut *self.0.lock().expect("nobody panicked");
            if !*full {
                written.extend(bytes);
                return Ok(bytes.len());
            }
            if bytes.len() < 4 {
                return Err(ErrorKind::StorageFull.into());
            }
            written.extend(&bytes[..4]);
            Ok(4)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_schema_is_not_logged_unless_asked_for() {
        assert_eq!(directives("info"), "async_nats=off,info");
        assert_eq!(directives("debug"), "async_nats=off,rusqlite_migration=info,debug");
        assert_eq!(directives("info,switchboard=debug"), "async_nats=off,info,switchboard=debug");
        assert_eq!(
            directives("switchboard::store::sqlite=trace"),
            "async_nats=off,switchboard_store::sqlite=trace"
        );
        let asked = directives("debug,rusqlite_migration=trace");
        assert!(asked.ends_with(",debug,rusqlite_migration=trace"), "{asked}");
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted_and_the_next_one_begins_a_line() {
        let (disk, before) = (FullDisk::default(), DROPPED_LINES.get());
        let log = Log::to_writer(disk.clone(), LogFormat::Text).expect("a thread");
        (&log).write_all(b"one\n").expect("queued");
        log.flush();
        disk.0.lock().expect("nobody panicked").1 = true;
        (&log).write_all(b"half.\n").expect("queued");
        log.flush();
        disk.0.lock().expect("nobody panicked").1 = false;
        (&log).write_all(b"two\n").expect("queued");
        log.flush();
        assert_eq!(String::from_utf8_lossy(&disk.0.lock().expect("nobody panicked").0), "one\nhalf\ntwo\n");
        assert!(DROPPED_LINES.get() > before);
    }

    /// A pipe that no process reads: each write blocks.
    struct BlockedPipe(Receiver<()>);

    impl Write for BlockedPipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_pipe_that_nobody_reads_delays_no_writer_and_takes_bounded_memory() {
        let (_unread, reader) = crossbeam_channel::bounded(0);
        let log = Log::to_writer(BlockedPipe(reader), LogFormat::Text).expect("a thread");
        let (line, before) = (vec![b'x'; 1_024], DROPPED_LINES.get());
        for _ in 0..2 * MAX_QUEUED_BYTES / line.len() {
            (&log).write_all(&line).expect("queued or dropped");
        }
        assert!(log.queued_bytes.load(Ordering::Relaxed) <= MAX_QUEUED_BYTES);
        assert!(DROPPED_LINES.get() - before >= 4_000);
        log.flush();
    }
}
