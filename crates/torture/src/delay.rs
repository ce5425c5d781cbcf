//! How long an acknowledged message takes to those who are connected to another node, while nothing fails.

use std::time::Duration;

use rustc_hash::FxHashMap;
use switchboard_protocol::{ConversationId, Seq};
use tokio::time::Instant;

/// Measures while it is told to.
#[derive(Default)]
pub(crate) struct Delays {
    measuring: bool,
    /// When each message was acknowledged, and by which node.
    acked: FxHashMap<(ConversationId, Seq), (Instant, usize)>,
    taken: Vec<Duration>,
}

/// What was measured.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct Measured {
    /// Arrivals at devices on another node.
    pub(crate) arrivals: usize,
    pub(crate) p50_ms: u64,
    pub(crate) p99_ms: u64,
    pub(crate) longest_ms: u64,
}

impl Delays {
    /// From now on messages are measured.
    pub(crate) fn begin(&mut self) {
        self.measuring = true;
    }

    /// No more messages are measured. Those that are under way still are.
    pub(crate) fn end(&mut self) {
        self.measuring = false;
    }

    /// A message was acknowledged by this node.
    pub(crate) fn acked(&mut self, (conversation, seq): (&ConversationId, Seq), node: usize) {
        if self.measuring {
            self.acked.entry((conversation.clone(), seq)).or_insert_with(|| (Instant::now(), node));
        }
    }

    /// It arrived at a device on this node, which has been listening since then. What arrives before the sender is told
    /// counts for nothing.
    pub(crate) fn arrived(
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
            self.taken.push(at.elapsed());
        }
    }

    /// What was measured so far, if anything.
    pub(crate) fn measured(&self) -> Option<Measured> {
        let mut sorted = self.taken.clone();
        sorted.sort_unstable();
        let millis =
            |duration: &Duration| u64::try_from(duration.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
        let at = |share: usize| sorted.get((sorted.len() * share / 100).min(sorted.len().saturating_sub(1)));
        Some(Measured {
            arrivals: sorted.len(),
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
    async fn only_what_others_hear_on_another_node_counts() {
        let mut delays = Delays::default();
        let room = ConversationId::parse("#general").unwrap();
        let since = Instant::now();
        delays.acked((&room, Seq(1)), 0);
        advance(Duration::from_millis(5)).await;
        delays.begin();
        delays.acked((&room, Seq(2)), 0);
        advance(Duration::from_millis(30)).await;
        delays.arrived((&room, Seq(1)), 1, since);
        delays.arrived((&room, Seq(2)), 0, since);
        delays.arrived((&room, Seq(2)), 1, Instant::now());
        assert!(delays.measured().is_none(), "{:?}", delays.measured());
        delays.arrived((&room, Seq(2)), 1, since);
        delays.end();
        advance(Duration::from_millis(70)).await;
        delays.acked((&room, Seq(3)), 0);
        delays.arrived((&room, Seq(3)), 1, since);
        delays.arrived((&room, Seq(2)), 2, since);
        let measured = delays.measured().unwrap();
        assert_eq!((measured.arrivals, measured.longest_ms), (2, 100));
    }
}
