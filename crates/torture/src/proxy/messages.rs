//! Messages of NATS on their way from the server to a client: lost, doubled, late.
//!
//! The protocol is text: a line, and after `MSG` and `HMSG` as many bytes as its last word says.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep_until};

use super::{CHUNK, Direction, Link, Network};

/// Longest line that a nats-server sends; its `INFO` is the longest.
const LINE: usize = 64 * 1024;

/// Messages of one connection that are late at once, at most. Beyond it they go in order.
const LATE: usize = 1_000;

/// How late a message is at most.
const LATENESS: Duration = Duration::from_millis(1_500);

/// What becomes of messages: a share of each, in hundredths.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tampering {
    pub(crate) lost: u32,
    pub(crate) doubled: u32,
    /// They come later than others that were sent after them.
    pub(crate) late: u32,
}

/// What has become of messages.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub(crate) struct Tampered {
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) late: u64,
}

impl std::ops::AddAssign for Tampered {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.late += other.late;
    }
}

/// What becomes of the messages on all connections of a proxy.
pub(crate) struct Messages {
    rng: Mutex<fastrand::Rng>,
    tampering: Mutex<Option<Tampering>>,
    lost: AtomicU64,
    doubled: AtomicU64,
    late: AtomicU64,
}

/// What becomes of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passes,
    Lost,
    /// It passes, and comes again after this time.
    Doubled(Duration),
    Late(Duration),
}

impl Messages {
    pub(super) fn new(rng: fastrand::Rng) -> Self {
        let rng = Mutex::new(rng);
        let (lost, doubled, late) = Default::default();
        Self { rng, tampering: Mutex::default(), lost, doubled, late }
    }

    pub(super) fn tamper(&self, tampering: Option<Tampering>) {
        *self.tampering.lock().unwrap_or_else(PoisonError::into_inner) = tampering;
    }

    pub(super) fn tampered(&self) -> Tampered {
        Tampered {
            lost: self.lost.load(Ordering::Relaxed),
            doubled: self.doubled.load(Ordering::Relaxed),
            late: self.late.load(Ordering::Relaxed),
        }
    }

    fn fate(&self) -> Fate {
        let Some(tampering) = *self.tampering.lock().unwrap_or_else(PoisonError::into_inner) else {
            return Fate::Passes;
        };
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let chosen = rng.u32(..100);
        let after = LATENESS.mul_f64(rng.f64());
        let Tampering { lost, doubled, late } = tampering;
        if chosen < lost {
            self.lost.fetch_add(1, Ordering::Relaxed);
            Fate::Lost
        } else if chosen < lost + doubled {
            self.doubled.fetch_add(1, Ordering::Relaxed);
            Fate::Doubled(after)
        } else if chosen < lost + doubled + late {
            self.late.fetch_add(1, Ordering::Relaxed);
            Fate::Late(after)
        } else {
            Fate::Passes
        }
    }

    /// Passes on what a server says, frame by frame.
    pub(super) async fn pass(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        link: &Link,
        network: &Network,
    ) {
        let mut frames = Frames::default();
        let mut late: Vec<(Instant, Vec<u8>)> = Vec::new();
        let mut buffer = vec![0; CHUNK];
        loop {
            let mut out = Vec::new();
            let due = late.iter().map(|(due, _)| *due).min();
            tokio::select! {
                read = from.read(&mut buffer) => {
                    let Ok(count @ 1..) = read else { break };
                    frames.take_in(&buffer[..count]);
                    while let Some(frame) = frames.next() {
                        self.sort(frame, &mut late, &mut out);
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
            let now = Instant::now();
            late.sort_by_key(|(due, _)| *due);
            let come = late.partition_point(|(due, _)| *due <= now);
            out.extend(late.drain(..come).flat_map(|(_, bytes)| bytes));
            if out.is_empty() {
                continue;
            }
            let slow = network.weather.slow.load(Ordering::Relaxed);
            link.lets_pass(network, Direction::ToClient, slow).await;
            if to.write_all(&out).await.is_err() {
                break;
            }
        }
        network.ways.open(Direction::ToClient).await;
        let _ = to.shutdown().await;
    }

    fn sort(&self, frame: Frame, late: &mut Vec<(Instant, Vec<u8>)>, out: &mut Vec<u8>) {
        let fate = if frame.message && late.len() < LATE { self.fate() } else { Fate::Passes };
        match fate {
            Fate::Passes => out.extend(frame.bytes),
            Fate::Lost => {}
            Fate::Doubled(after) => {
                out.extend(&frame.bytes);
                late.push((Instant::now() + after, frame.bytes));
            }
            Fate::Late(after) => late.push((Instant::now() + after, frame.bytes)),
        }
    }
}

/// A line with what belongs to it.
#[derive(Debug, PartialEq, Eq)]
struct Frame {
    /// It is a message, and nothing about the connection itself.
    message: bool,
    bytes: Vec<u8>,
}

/// Frames from a stream of bytes.
#[derive(Default)]
struct Frames {
    bytes: Vec<u8>,
    /// Up to here it has been looked for the end of the line.
    looked: usize,
}

impl Frames {
    fn take_in(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame.
    fn next(&mut self) -> Option<Frame> {
        let Some(end) = self.bytes[self.looked..].iter().position(|byte| *byte == b'\n') else {
            self.looked = self.bytes.len();
            assert!(self.looked <= LINE, "this is not NATS: a line of {} bytes", self.looked);
            return None;
        };
        let line_end = self.looked + end + 1;
        let payload = payload_of(&self.bytes[..line_end]);
        // Behind the payload is the end of a line.
        let whole = line_end + payload.map_or(0, |length| length + 2);
        if self.bytes.len() < whole {
            return None;
        }
        let rest = self.bytes.split_off(whole);
        let bytes = std::mem::replace(&mut self.bytes, rest);
        self.looked = 0;
        Some(Frame { message: payload.is_some(), bytes })
    }
}

/// The length of what follows a line, if it is that of a message.
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
