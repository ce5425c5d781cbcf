//! The least time for an acknowledgement: appends the same bytes to a file, syncs it by `fdatasync` once for all queued messages,
//! and acknowledges them, without a database and a network.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use crossbeam_channel::{Receiver, Sender, bounded};
use hdrhistogram::Histogram;

use crate::clock::{self, new_latency_histogram};
use crate::process::{self, LOAD_CORE, SERVER_CORE};

/// The most messages that one commit contains; the same limit as in Switchboard.
const MAX_BATCH: usize = 1_024;

/// How long messages are sent before the measurement starts.
pub(crate) const FLOOR_WARM_UP: Duration = Duration::from_millis(300);

/// A message that one of the senders wrote.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimedMessage {
    /// The number of the sender, from 0.
    pub(crate) sender: usize,
    /// The number of the message among those of its sender.
    pub(crate) number: u64,
    sent: Instant,
}

/// A storage that makes batches of messages durable.
pub(crate) trait BatchCommit: Send {
    /// Makes the batch durable; returns once it is on stable storage.
    fn commit(&mut self, batch: &[TimedMessage]) -> anyhow::Result<()>;
}

/// The measured rate and latency of acknowledgements.
#[derive(Debug)]
pub(crate) struct AckMeasurement {
    /// Acknowledgements a second.
    pub(crate) rate: f64,
    /// The time from the send to the acknowledgement, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
}

/// A file to which batches are appended and synced.
pub(crate) struct AppendFile {
    file: File,
    text: String,
    buffer: Vec<u8>,
}

impl AppendFile {
    /// Creates the file. Each message takes `len` bytes.
    pub(crate) fn new(directory: &Path, len: usize) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(directory.join("log"))?;
        Ok(Self { file, text: "x".repeat(len), buffer: Vec::new() })
    }
}

impl BatchCommit for AppendFile {
    fn commit(&mut self, batch: &[TimedMessage]) -> anyhow::Result<()> {
        self.buffer.clear();
        batch.iter().for_each(|_| self.buffer.extend_from_slice(self.text.as_bytes()));
        self.file.write_all(&self.buffer)?;
        Ok(self.file.sync_data()?)
    }
}

/// Measures acknowledgements: each sender sends its next message when the previous one is acknowledged. The committing thread
/// is on the server's core, the senders are on the load's.
pub(crate) fn measure_acks(
    commit: impl BatchCommit + 'static,
    senders: usize,
    time: Duration,
) -> anyhow::Result<AckMeasurement> {
    let (submit, queue) = bounded::<TimedMessage>(senders);
    let (acknowledge, acknowledged) = bounded::<Vec<TimedMessage>>(senders);
    process::pin_to_cores(SERVER_CORE)?;
    let writer = std::thread::spawn(move || commit_batches(commit, &queue, &acknowledge));
    process::pin_to_cores(LOAD_CORE)?;
    for sender in 0..senders {
        submit.send(TimedMessage { sender, number: 0, sent: clock::now() })?;
    }
    let mut latency = new_latency_histogram()?;
    let (begun, mut count) = (clock::now(), 0_u64);
    let from = begun + FLOOR_WARM_UP;
    loop {
        let batch = acknowledged.recv().context("the writer failed")?;
        let now = clock::now();
        if now > from + time {
            break;
        }
        for message in batch {
            if now > from {
                latency.saturating_record((now - message.sent).as_nanos() as u64);
                count += 1;
            }
            submit.send(TimedMessage { number: message.number + 1, sent: clock::now(), ..message })?;
        }
    }
    drop(submit);
    while acknowledged.recv().is_ok() {}
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    Ok(AckMeasurement { rate: count as f64 / time.as_secs_f64(), latency })
}

fn commit_batches(
    mut commit: impl BatchCommit,
    queue: &Receiver<TimedMessage>,
    acknowledge: &Sender<Vec<TimedMessage>>,
) -> anyhow::Result<()> {
    while let Ok(first) = queue.recv() {
        let mut batch = vec![first];
        batch.extend(queue.try_iter().take(MAX_BATCH - 1));
        commit.commit(&batch)?;
        if acknowledge.send(batch).is_err() {
            break;
        }
    }
    Ok(())
}
