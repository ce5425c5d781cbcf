//! Partitions of the network between the two sides of a proxy.

use tokio::sync::watch;

/// The direction in which bytes pass through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

/// Which bytes may pass between the two sides of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Partition {
    #[default]
    None,
    /// Connections are reset, and new connections are refused.
    Refused,
    /// Connections stay open, but no bytes pass.
    Silent,
    /// Bytes to the server pass; its responses do not.
    NoResponses,
    /// Bytes from the server pass; requests to it do not.
    NoRequests,
}

impl Partition {
    fn allows(self, direction: Direction) -> bool {
        match self {
            Self::None => true,
            // With `Refused`, existing connections are about to be reset.
            Self::Refused | Self::Silent => false,
            Self::NoResponses => direction == Direction::ToServer,
            Self::NoRequests => direction == Direction::ToClient,
        }
    }
}

/// Lets bytes pass only as far as the current partition allows it.
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
        // An error means that the proxy was dropped; then nothing has to wait.
        let _ = partition.wait_for(|partition| partition.allows(direction)).await;
    }
}
