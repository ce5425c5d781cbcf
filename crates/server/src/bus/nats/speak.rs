//! Telling: what waits is handed to the client as fast as it takes it, and what has waited too long is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::Shared;
use super::listen::mark;
use crate::bus::{Address, Heard, Notice};

use super::subject::Place;

/// Notices that wait for the client, and their bytes. Beyond, they are dropped.
const NOTICES: usize = 16_384;
const BYTES: usize = 32 * 1024 * 1024;

/// What is older than this is dropped: whoever would hear it has found it in the store by then, or soon will.
const STALE: Duration = Duration::from_secs(1);

/// Notices that are taken at once.
const TURN: usize = 64;

/// How long what was told last may take to reach the bus when the server stops.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

/// A notice under way.
#[derive(Debug)]
struct Told {
    subject: String,
    payload: Bytes,
    at: Instant,
}

/// The way to the task that tells.
#[derive(Debug)]
pub(super) struct Voice {
    queue: mpsc::Sender<Told>,
    waiting: Arc<AtomicUsize>,
}

/// The task that tells.
pub(super) struct Speaker {
    shared: Arc<Shared>,
    client: Client,
    queue: mpsc::Receiver<Told>,
    waiting: Arc<AtomicUsize>,
}

pub(super) fn new(shared: Arc<Shared>, client: Client) -> (Voice, Speaker) {
    let (sender, queue) = mpsc::channel(NOTICES);
    let waiting = Arc::new(AtomicUsize::new(0));
    (Voice { queue: sender, waiting: waiting.clone() }, Speaker { shared, client, queue, waiting })
}

impl Voice {
    /// Whether there was room for it.
    pub(super) fn tell(&self, shared: &Shared, address: &Address, notice: &Notice) -> bool {
        let place = Place::of(address);
        let Ok(payload) = shared.codec.encode(place, shared.node, notice) else { return false };
        let bytes = payload.len();
        let told = Told { subject: shared.subjects.of(place), payload, at: Instant::now() };
        let fits = self.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes <= BYTES;
        let queued = fits && self.queue.try_send(told).is_ok();
        if !queued {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
        queued
    }
}

impl Speaker {
    /// Tells until nobody listens to what is heard here any more, or nobody tells; then ends the other tasks.
    pub(super) async fn run(mut self, out: mpsc::Sender<Heard>) {
        let _done = self.shared.done.clone().drop_guard();
        let farewell = async {
            out.closed().await;
            sleep(FAREWELL).await;
        };
        tokio::select! {
            biased;
            () = self.speak(&out) => {
                // The connection closes behind this, and with it goes what has not arrived.
                let _ = timeout(FAREWELL, mark(&self.shared, &self.client)).await;
            }
            () = farewell => {}
        }
    }

    async fn speak(&mut self, out: &mpsc::Sender<Heard>) {
        let mut turn = Vec::with_capacity(TURN);
        loop {
            tokio::select! {
                biased;
                count = self.queue.recv_many(&mut turn, TURN) => if count == 0 {
                    return;
                },
                () = out.closed() => return,
            }
            for told in turn.drain(..) {
                self.waiting.fetch_sub(told.payload.len(), Ordering::Relaxed);
                self.publish(told).await;
            }
        }
    }

    async fn publish(&self, Told { subject, payload, at }: Told) {
        let metrics = &self.shared.metrics.bus;
        if at.elapsed() > STALE || self.client.connection_state() != State::Connected {
            metrics.dropped.inc();
            return;
        }
        match self.client.publish(subject, payload).await {
            Ok(()) => metrics.told.inc(),
            Err(error) => {
                self.shared.link.complain(&format!("a notice cannot be told: {error}"));
                metrics.dropped.inc()
            }
        };
    }
}
