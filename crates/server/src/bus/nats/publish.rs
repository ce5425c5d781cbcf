//! Publishes: hands queued notices to the NATS client as fast as it accepts them, and drops those that waited too long.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::Client;
use async_nats::connection::State;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::Shared;
use super::subscribe::wait_for_barrier;
use crate::bus::{Address, BusEvent, Notice};

use super::subject::SubjectKey;

/// The most notices that wait for the NATS client. Further notices are dropped.
const MAX_QUEUED_NOTICES: usize = 16_384;
/// The most bytes of the notices that wait for the NATS client. Further notices are dropped.
const MAX_QUEUED_BYTES: usize = 32 * 1024 * 1024;

/// The longest time that a notice waits. Older notices are dropped, because the other nodes soon read the change from the store.
const MAX_NOTICE_AGE: Duration = Duration::from_secs(1);

/// The most notices that are taken from the queue at once.
const MAX_NOTICES_PER_TURN: usize = 64;

/// How long the last notices may take to reach NATS when the server stops.
pub(super) const FINAL_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A notice in the queue.
#[derive(Debug)]
struct QueuedNotice {
    subject: String,
    payload: Bytes,
    queued_at: Instant,
}

/// The handle that queues notices for the publishing task.
#[derive(Debug)]
pub(super) struct Publisher {
    queue: mpsc::Sender<QueuedNotice>,
    queued_bytes: Arc<AtomicUsize>,
}

/// The task that publishes.
pub(super) struct PublishTask {
    shared: Arc<Shared>,
    client: Client,
    queue: mpsc::Receiver<QueuedNotice>,
    queued_bytes: Arc<AtomicUsize>,
}

pub(super) fn new(shared: Arc<Shared>, client: Client) -> (Publisher, PublishTask) {
    let (sender, queue) = mpsc::channel(MAX_QUEUED_NOTICES);
    let queued_bytes = Arc::new(AtomicUsize::new(0));
    (
        Publisher { queue: sender, queued_bytes: queued_bytes.clone() },
        PublishTask { shared, client, queue, queued_bytes },
    )
}

impl Publisher {
    /// Queues a notice. Returns `false` if the queue is full.
    pub(super) fn enqueue(&self, shared: &Shared, address: &Address, notice: &Notice) -> bool {
        let subject = SubjectKey::for_address(address);
        let Ok(payload) = shared.codec.encode(subject, shared.node, notice) else { return false };
        let bytes = payload.len();
        let queued =
            QueuedNotice { subject: shared.subjects.name_of(subject), payload, queued_at: Instant::now() };
        let fits = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= MAX_QUEUED_BYTES;
        let accepted = fits && self.queue.try_send(queued).is_ok();
        if !accepted {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        accepted
    }
}

impl PublishTask {
    /// Publishes until the router drops the receiver of bus events or the [`Publisher`]; then ends the other tasks.
    pub(super) async fn run(mut self, out: mpsc::Sender<BusEvent>) {
        let _done = self.shared.done.clone().drop_guard();
        let deadline = async {
            out.closed().await;
            sleep(FINAL_FLUSH_TIMEOUT).await;
        };
        tokio::select! {
            biased;
            () = self.publish_queue(&out) => {
                // The connection closes after this, and messages that have not reached NATS are lost with it.
                let _ = timeout(FINAL_FLUSH_TIMEOUT, wait_for_barrier(&self.shared, &self.client)).await;
            }
            () = deadline => {}
        }
    }

    async fn publish_queue(&mut self, out: &mpsc::Sender<BusEvent>) {
        let mut notices = Vec::with_capacity(MAX_NOTICES_PER_TURN);
        loop {
            tokio::select! {
                biased;
                count = self.queue.recv_many(&mut notices, MAX_NOTICES_PER_TURN) => if count == 0 {
                    return;
                },
                () = out.closed() => return,
            }
            for notice in notices.drain(..) {
                self.queued_bytes.fetch_sub(notice.payload.len(), Ordering::Relaxed);
                self.publish(notice).await;
            }
        }
    }

    async fn publish(&self, QueuedNotice { subject, payload, queued_at }: QueuedNotice) {
        let metrics = &self.shared.metrics.bus;
        if queued_at.elapsed() > MAX_NOTICE_AGE || self.client.connection_state() != State::Connected {
            metrics.dropped.inc();
            return;
        }
        match self.client.publish(subject, payload).await {
            Ok(()) => metrics.published.inc(),
            Err(error) => {
                self.shared.connection.warn_once(&format!("cannot publish a notice to NATS: {error}"));
                metrics.dropped.inc()
            }
        };
    }
}
