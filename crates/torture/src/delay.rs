//! Measures the time from the acknowledgement of a message to its delivery on another node, while no fault is active.

use std::time::Duration;

use rustc_hash::FxHashMap;
use switchboard_protocol::{ConversationId, Seq};
use tokio::time::Instant;

/// Records the delays of messages that are acknowledged between [`Delays::start`] and [`Delays::stop`].
#[derive(Default)]
pub(crate) struct Delays {
    is_measuring: bool,
    /// When each message was acknowledged, and by which node.
    acked: FxHashMap<(ConversationId, Seq), (Instant, usize)>,
    delays: Vec<Duration>,
}

/// The distribution of the delays.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct DelaySummary {
    /// Deliveries to devices on other nodes than the one that acknowledged the message.
    pub(crate) deliveries: usize,
    pub(crate) p50_ms: u64,
    pub(crate) p99_ms: u64,
    pub(crate) longest_ms: u64,
}

impl Delays {
    /// Starts to record acknowledged messages.
    pub(crate) fn start_measuring(&mut self) {
        self.is_measuring = true;
    }

    /// Stops recording acknowledged messages. Later deliveries of recorded messages still count.
    pub(crate) fn stop_measuring(&mut self) {
        self.is_measuring = false;
    }

    /// Records that the node acknowledged the message.
    pub(crate) fn on_ack(&mut self, (conversation, seq): (&ConversationId, Seq), node: usize) {
        if self.is_measuring {
            self.acked.entry((conversation.clone(), seq)).or_insert_with(|| (Instant::now(), node));
        }
    }

    /// Records that the message was delivered to a device on this node, which has been reading since `since`. A delivery before
    /// the acknowledgement does not count.
    pub(crate) fn on_delivery(
        &mut self,
        (conversation, seq): (&ConversationId, Seq),
        node: usize,
        since: Instant,
    ) {
        if self.acked.is_empty() {
            return;
        }
        if let Some((at, acked_by)) = self.acked.get(&(conversation.clone(), seq))
            && *acked_by != node
            && since < *at
        {
            self.delays.push(at.elapsed());
        }
    }

    /// The distribution of the delays so far; `None` if nothing was delivered.
    pub(crate) fn delay_summary(&self) -> Option<DelaySummary> {
        let mut sorted = self.delays.clone();
        sorted.sort_unstable();
        let millis =
            |duration: &Duration| u64::try_from(duration.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
        let at = |share: usize| sorted.get((sorted.len() * share / 100).min(sorted.len().saturating_sub(1)));
        Some(DelaySummary {
            deliveries: sorted.len(),
            p50_ms: at(50).map(millis)?,
            p99_ms: at(99).map(millis)?,
            longest_ms: sorted.last().map(millis)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_deliveries_on_another_node_to_a_reading_device_count() {
        let mut delays = Delays::default();
        let room = ConversationId::parse("#general").unwrap();
        let since = Instant::now();
        delays.on_ack((&room, Seq(1)), 0);
        advance(Duration::from_millis(5)).await;
        delays.start_measuring();
        delays.on_ack((&room, Seq(2)), 0);
        advance(Duration::from_millis(30)).await;
        delays.on_delivery((&room, Seq(1)), 1, since);
        delays.on_delivery((&room, Seq(2)), 0, since);
        delays.on_delivery((&room, Seq(2)), 1, Instant::now());
        assert!(delays.delay_summary().is_none(), "{:?}", delays.delay_summary());
        delays.on_delivery((&room, Seq(2)), 1, since);
        delays.stop_measuring();
        advance(Duration::from_millis(70)).await;
        delays.on_ack((&room, Seq(3)), 0);
        delays.on_delivery((&room, Seq(3)), 1, since);
        delays.on_delivery((&room, Seq(2)), 2, since);
        let measured = delays.delay_summary().unwrap();
        assert_eq!((measured.deliveries, measured.longest_ms), (2, 100));
    }
}
