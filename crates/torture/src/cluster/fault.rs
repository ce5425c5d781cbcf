//! The kinds of faults of a cluster, with their weights.

use clap::ValueEnum;

use crate::schedule::Weighted;

/// A kind of fault that is injected into a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Fault {
    /// A node is killed (SIGKILL).
    KillNode,
    /// A node is suspended (SIGSTOP), sometimes for longer than the database's time-outs.
    StopNode,
    /// A node gets SIGTERM, and is started again.
    RestartNode,
    /// All nodes are restarted, one after the other.
    RollingRestart,
    /// A node is slow: it is suspended again and again, or its clients' network is slow.
    SlowNode,
    /// A node's wall clock jumps.
    Clock,
    /// Client connections of a node are reset.
    CutClients,
    /// Client connections of a node become half-open: no bytes pass, and neither side gets an error.
    HalfOpenClients,
    /// The SDK's programs are suspended for a while.
    StopClient,
    /// NATS is killed, and started again.
    KillBus,
    /// NATS is suspended.
    PauseBus,
    /// NATS refuses a node's connections.
    CutBus,
    /// No bytes pass between a node and NATS, in one direction or both.
    SilentBus,
    /// Messages between a node and NATS are delayed.
    SlowBus,
    /// NATS loses, duplicates and reorders messages to some nodes.
    TamperBus,
    /// PostgreSQL refuses a node's connections.
    CutDatabase,
    /// No bytes pass between a node and PostgreSQL, in one direction or both.
    SilentDatabase,
    /// Messages between a node and PostgreSQL are delayed.
    SlowDatabase,
    /// PostgreSQL's primary is suspended.
    PauseDatabase,
    /// PostgreSQL's standby is suspended, so every commit waits for it.
    PauseStandby,
    /// PostgreSQL's primary is lost, and its standby is promoted.
    Failover,
}

impl Fault {
    /// The fault's name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether the fault can be injected only in a cluster with a bus.
    pub(crate) fn needs_bus(self) -> bool {
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
