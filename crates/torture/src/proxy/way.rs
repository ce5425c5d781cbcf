//! Partitions: whether anything gets from one side to the other.

use tokio::sync::watch;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

/// How two sides are parted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Partition {
    #[default]
    None,
    /// Connections end, and new ones are refused.
    Refused,
    /// Connections are there, and nothing gets through.
    Silent,
    /// What is said gets there, and no answer comes back.
    NoAnswer,
    /// Nothing that is said gets there; what is on its way back arrives.
    Unheard,
}

impl Partition {
    fn lets_pass(self, direction: Direction) -> bool {
        match self {
            Self::None => true,
            // What was there is being cut.
            Self::Refused | Self::Silent => false,
            Self::NoAnswer => direction == Direction::ToServer,
            Self::Unheard => direction == Direction::ToClient,
        }
    }
}

/// The ways between the two sides.
#[derive(Default)]
pub(super) struct Ways(watch::Sender<Partition>);

impl Ways {
    pub(super) fn part(&self, partition: Partition) {
        self.0.send_replace(partition);
    }

    pub(super) fn are_refused(&self) -> bool {
        *self.0.borrow() == Partition::Refused
    }

    /// Waits until something may go this way.
    pub(super) async fn open(&self, direction: Direction) {
        let mut partition = self.0.subscribe();
        // It ends with an error only if there is no proxy any more.
        let _ = partition.wait_for(|partition| partition.lets_pass(direction)).await;
    }
}
