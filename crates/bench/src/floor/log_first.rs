//! The baseline of a rejected design (docs/decisions/0025-no-log-before-the-database.md): a message is durable once it is in
//! an append-only, checksummed file (the log), and another thread later updates SQLite (the view) without syncing. It has no
//! checks, no network and no recovery, so it is the most that such a design could reach.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::thread::JoinHandle;

use anyhow::Context as _;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::append::{BatchCommit, TimedMessage};
use super::sqlite::Sqlite;

/// How many batches the view may lag behind the log; if it lags further, the log waits for the view.
const MAX_QUEUED_BATCHES: usize = 64;

/// A transaction that updates the view takes no further batch once it has this many messages.
const MAX_VIEW_BATCH: usize = 4_096;

/// The log (a file), and the thread that updates the view (SQLite).
pub(crate) struct LogFirst {
    file: File,
    buffer: Vec<u8>,
    text: String,
    view: Option<ViewWriter>,
}

struct ViewWriter {
    logged_batches: Sender<Vec<TimedMessage>>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl LogFirst {
    /// Creates the log and the view for this many senders; `len` is the length of a message's text in bytes.
    pub(crate) fn new(directory: &Path, senders: usize, len: usize) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(directory.join("first.log"))?;
        let sqlite = Sqlite::unsynced(&directory.join("view.db"), senders, len)?;
        let (ahead, behind) = bounded(MAX_QUEUED_BATCHES);
        let thread = std::thread::spawn(move || write_view_from_queue(sqlite, &behind));
        Ok(Self {
            file,
            buffer: Vec::new(),
            text: "x".repeat(len),
            view: Some(ViewWriter { logged_batches: ahead, thread }),
        })
    }
}

impl BatchCommit for LogFirst {
    fn commit(&mut self, batch: &[TimedMessage]) -> anyhow::Result<()> {
        self.buffer.clear();
        for TimedMessage { sender, number, .. } in batch {
            // Each record of the log is its length and checksum, followed by its bytes.
            let start = self.buffer.len();
            self.buffer.extend([0; 8]);
            write!(self.buffer, r#"{{"conversation":"@u{sender}","from":"u{sender}","seq":{number},"#)?;
            write!(self.buffer, r#""at":1763899200000,"key":"{number}","text":"{}"}}"#, self.text)?;
            let (head, record) = self.buffer[start..].split_at_mut(8);
            head[..4].copy_from_slice(&(record.len() as u32).to_le_bytes());
            head[4..].copy_from_slice(&crc32fast::hash(record).to_le_bytes());
        }
        self.file.write_all(&self.buffer)?;
        self.file.sync_data()?;
        let view = self.view.as_ref().context("the view's thread was joined")?;
        view.logged_batches.send(batch.to_vec()).context("the view failed")
    }
}

impl Drop for LogFirst {
    /// Waits until the view contains everything in the log.
    fn drop(&mut self) {
        if let Some(ViewWriter { logged_batches: ahead, thread }) = self.view.take() {
            drop(ahead);
            // An earlier call of `commit` has already reported the thread's error.
            let _ = thread.join();
        }
    }
}

fn write_view_from_queue(mut sqlite: Sqlite, behind: &Receiver<Vec<TimedMessage>>) -> anyhow::Result<()> {
    while let Ok(mut messages) = behind.recv() {
        while messages.len() < MAX_VIEW_BATCH {
            let Ok(more) = behind.try_recv() else { break };
            messages.extend(more);
        }
        sqlite.commit(&messages)?;
    }
    Ok(())
}
