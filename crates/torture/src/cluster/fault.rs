//! The kinds of faults of a cluster, and how often each comes.

use clap::ValueEnum;

use crate::schedule::Weighted;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Fault {
    /// kill -9 of a node.
    KillNode,
    /// A node stands still, at times for longer than the database waits for it.
    StopNode,
    /// A node is asked to stop, and started again.
    RestartNode,
    /// All nodes are, one after the other.
    RollingRestart,
    /// A node gets little done: it stands still again and again, or its network is slow.
    SlowNode,
    /// A node's clock of the day jumps.
    Clock,
    /// Connections of clients to a node are cut.
    CutClients,
    /// Connections of clients to a node go dead without a word.
    HalfOpenClients,
    /// The SDK's programs stand still for a while.
    StopClient,
    /// NATS is killed, and started again.
    KillBus,
    /// NATS stands still.
    PauseBus,
    /// A node cannot reach NATS: it is refused.
    CutBus,
    /// A node and NATS hear nothing of each other, or only one of them does.
    SilentBus,
    /// What NATS says takes long to a node.
    SlowBus,
    /// NATS loses, doubles and reorders messages to some of the nodes.
    TamperBus,
    /// A node cannot reach PostgreSQL: it is refused.
    CutDatabase,
    /// A node and PostgreSQL hear nothing of each other, or only one of them does.
    SilentDatabase,
    /// What a node and PostgreSQL say to each other takes long.
    SlowDatabase,
    /// The primary stands still.
    PauseDatabase,
    /// The standby stands still, and every commit waits for it.
    PauseStandby,
    /// The primary is lost, and the standby takes its place.
    Failover,
}

impl Fault {
    /// What it is called on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether it is one of the bus, which need not be there.
    pub(crate) fn is_of_the_bus(self) -> bool {
        matches!(
            self,
            Self::KillBus | Self::PauseBus | Self::CutBus | Self::SilentBus | Self::SlowBus | Self::TamperBus
        )
    }
}

impl Weighted for Fault {
    fn weight(self) -> u32 {
        match self {
            Self::KillNode => 25,
            Self::StopNode | Self::TamperBus => 12,
            Self::RestartNode | Self::CutClients | Self::CutDatabase | Self::SilentDatabase => 8,
            Self::SilentBus | Self::CutBus | Self::Failover => 7,
            Self::SlowNode | Self::KillBus | Self::PauseDatabase => 5,
            Self::HalfOpenClients | Self::Clock | Self::PauseBus | Self::SlowDatabase => 4,
            Self::RollingRestart | Self::StopClient | Self::SlowBus | Self::PauseStandby => 3,
        }
    }
}
