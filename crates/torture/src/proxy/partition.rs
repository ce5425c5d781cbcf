//! Network partitions between the two sides of a proxy.

use tokio::sync::watch;

/// The direction of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

/// Which bytes pass between the two sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Partition {
    #[default]
    None,
    /// Connections are reset, and new ones refused.
    Refused,
    /// Connections stay open, and nothing passes.
    Silent,
    /// Requests pass, responses do not.
    NoResponses,
    /// Responses pass, requests do not.
    NoRequests,
}

impl Partition {
    fn allows(self, direction: Direction) -> bool {
        match self {
            Self::None => true,
            // With `Refused`, existing connections will be reset in a moment.
            Self::Refused | Self::Silent => false,
            Self::NoResponses => direction == Direction::ToServer,
            Self::NoRequests => direction == Direction::ToClient,
        }
    }
}

/// Blocks bytes while a partition does not allow them.
#[derive(Default)]
pub(super) struct PartitionGate(watch::Sender<Partition>);

impl PartitionGate {
    pub(super) fn set(&self, partition: Partition) {
        self.0.send_replace(partition);
    }

    pub(super) fn refuses_connections(&self) -> bool {
        *self.0.borrow() == Partition::Refused
    }

    /// Waits until bytes may pass in this direction.
    pub(super) async fn wait_until_open(&self, direction: Direction) {
        let mut partition = self.0.subscribe();
        // An error means that the proxy is gone.
        let _ = partition.wait_for(|partition| partition.allows(direction)).await;
    }
}
