//! Loses, duplicates and delays messages on their way from a nats-server to a client, for tests of the cluster's bus.
//!
//! NATS's protocol consists of lines. The last word of a `MSG` or `HMSG` line is the number of bytes that follow the line.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep_until};

use super::{CHUNK_BYTES, Direction, Link, Network};

/// The longest line that a nats-server sends, in bytes: its `INFO`.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// The most delayed messages of one connection. Further messages are not delayed.
const MAX_DELAYED_PER_CONNECTION: usize = 1_000;

/// The longest delay of a message.
const MAX_MESSAGE_DELAY: Duration = Duration::from_millis(1_500);

/// Which share of the messages to lose, to duplicate and to delay, in percent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TamperingRates {
    pub(crate) lost: u32,
    pub(crate) doubled: u32,
    /// The share that is delivered after messages that were sent later.
    pub(crate) late: u32,
}

/// How many messages were lost, duplicated and delayed.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub(crate) struct TamperingCounts {
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) late: u64,
}

impl std::ops::AddAssign for TamperingCounts {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.late += other.late;
    }
}

/// Tampers with the messages on all connections of a proxy.
pub(crate) struct MessageTamperer {
    rng: Mutex<fastrand::Rng>,
    tampering: Mutex<Option<TamperingRates>>,
    lost: AtomicU64,
    doubled: AtomicU64,
    late: AtomicU64,
}

/// What the proxy does with one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TamperingAction {
    Forward,
    Lose,
    /// The message is forwarded now, and again after this delay.
    Duplicate(Duration),
    Delay(Duration),
}

impl MessageTamperer {
    pub(super) fn new(rng: fastrand::Rng) -> Self {
        let rng = Mutex::new(rng);
        let (lost, doubled, late) = Default::default();
        Self { rng, tampering: Mutex::default(), lost, doubled, late }
    }

    pub(super) fn tamper(&self, tampering: Option<TamperingRates>) {
        *self.tampering.lock().unwrap_or_else(PoisonError::into_inner) = tampering;
    }

    pub(super) fn tampered(&self) -> TamperingCounts {
        TamperingCounts {
            lost: self.lost.load(Ordering::Relaxed),
            doubled: self.doubled.load(Ordering::Relaxed),
            late: self.late.load(Ordering::Relaxed),
        }
    }

    fn choose_action(&self) -> TamperingAction {
        let Some(tampering) = *self.tampering.lock().unwrap_or_else(PoisonError::into_inner) else {
            return TamperingAction::Forward;
        };
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let chosen = rng.u32(..100);
        let after = MAX_MESSAGE_DELAY.mul_f64(rng.f64());
        let TamperingRates { lost, doubled, late } = tampering;
        if chosen < lost {
            self.lost.fetch_add(1, Ordering::Relaxed);
            TamperingAction::Lose
        } else if chosen < lost + doubled {
            self.doubled.fetch_add(1, Ordering::Relaxed);
            TamperingAction::Duplicate(after)
        } else if chosen < lost + doubled + late {
            self.late.fetch_add(1, Ordering::Relaxed);
            TamperingAction::Delay(after)
        } else {
            TamperingAction::Forward
        }
    }

    /// Forwards the server's bytes, frame by frame.
    pub(super) async fn forward(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        link: &Link,
        network: &Network,
    ) {
        let mut frames = FrameSplitter::default();
        let mut late: Vec<(Instant, Vec<u8>)> = Vec::new();
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let mut out = Vec::new();
            let due = late.iter().map(|(due, _)| *due).min();
            tokio::select! {
                read = from.read(&mut buffer) => {
                    let Ok(count @ 1..) = read else { break };
                    frames.extend(&buffer[..count]);
                    while let Some(frame) = frames.next() {
                        self.forward_or_tamper(frame, &mut late, &mut out);
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
            let now = Instant::now();
            late.sort_by_key(|(due, _)| *due);
            let due_count = late.partition_point(|(due, _)| *due <= now);
            out.extend(late.drain(..due_count).flat_map(|(_, bytes)| bytes));
            if out.is_empty() {
                continue;
            }
            let slow = network.conditions.slow.load(Ordering::Relaxed);
            link.wait_to_pass(network, Direction::ToClient, slow).await;
            if to.write_all(&out).await.is_err() {
                break;
            }
        }
        network.gate.wait_until_open(Direction::ToClient).await;
        let _ = to.shutdown().await;
    }

    fn forward_or_tamper(&self, frame: NatsFrame, late: &mut Vec<(Instant, Vec<u8>)>, out: &mut Vec<u8>) {
        let action = if frame.is_message && late.len() < MAX_DELAYED_PER_CONNECTION {
            self.choose_action()
        } else {
            TamperingAction::Forward
        };
        match action {
            TamperingAction::Forward => out.extend(frame.bytes),
            TamperingAction::Lose => {}
            TamperingAction::Duplicate(after) => {
                out.extend(&frame.bytes);
                late.push((Instant::now() + after, frame.bytes));
            }
            TamperingAction::Delay(after) => late.push((Instant::now() + after, frame.bytes)),
        }
    }
}

/// A line of NATS's protocol, with its payload if it has one.
#[derive(Debug, PartialEq, Eq)]
struct NatsFrame {
    /// Whether the frame is a message (`MSG` or `HMSG`), not a frame about the connection itself.
    is_message: bool,
    bytes: Vec<u8>,
}

/// Splits the server's byte stream into frames.
#[derive(Default)]
struct FrameSplitter {
    bytes: Vec<u8>,
    /// The bytes before this position contain no end of a line.
    scanned: usize,
}

impl FrameSplitter {
    fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next frame; `None` if it is not complete yet.
    fn next(&mut self) -> Option<NatsFrame> {
        let Some(end) = self.bytes[self.scanned..].iter().position(|byte| *byte == b'\n') else {
            self.scanned = self.bytes.len();
            assert!(self.scanned <= MAX_LINE_BYTES, "this is not NATS: a line of {} bytes", self.scanned);
            return None;
        };
        let line_end = self.scanned + end + 1;
        let payload = payload_of(&self.bytes[..line_end]);
        // A line end (two bytes) follows the payload.
        let whole = line_end + payload.map_or(0, |length| length + 2);
        if self.bytes.len() < whole {
            return None;
        }
        let rest = self.bytes.split_off(whole);
        let bytes = std::mem::replace(&mut self.bytes, rest);
        self.scanned = 0;
        Some(NatsFrame { is_message: payload.is_some(), bytes })
    }
}

/// The length of the payload that follows this line; `None` if the line is not `MSG` or `HMSG`.
fn payload_of(line: &[u8]) -> Option<usize> {
    let line = str::from_utf8(line).ok()?;
    let mut words = line.split_ascii_whitespace();
    let kind = words.next()?;
    if !(kind.eq_ignore_ascii_case("MSG") || kind.eq_ignore_ascii_case("HMSG")) {
        return None;
    }
    words.last()?.parse().ok()
}

#[cfg(test)]
mod tests;
