//! Servers of other projects, measured in the same way over the same sockets, with frames as their own clients send them.
//! `bench/rivals` has their settings and installs them.

mod centrifugo;
mod ejabberd;
mod node;

use std::path::Path;

use clap::ValueEnum;

use self::centrifugo::Centrifugo;
use self::ejabberd::Ejabberd;
use self::node::{SocketIo, Ws};
use crate::server::{Server, Target};

/// A server of another project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rival {
    /// Centrifugo: JSON over WebSocket, history in memory
    Centrifugo,
    /// Socket.IO on Node.js
    SocketIo,
    /// A loop over the connections of a room, with `ws` on Node.js
    Ws,
    /// ejabberd: XMPP over WebSocket
    Ejabberd,
}

impl Rival {
    /// Starts the server on these cores. `directory` is `bench/rivals` of the sources; data is stored below `scratch`.
    pub(crate) fn start<'a>(
        self,
        directory: &Path,
        scratch: &Path,
        cores: &[usize],
    ) -> anyhow::Result<Box<dyn Server + 'a>> {
        Ok(match self {
            Self::Centrifugo => Box::new(Centrifugo::start(directory, cores)?),
            Self::SocketIo => Box::new(SocketIo::start(directory, cores)?),
            Self::Ws => Box::new(Ws::start(directory, cores)?),
            Self::Ejabberd => Box::new(Ejabberd::start(directory, scratch, cores)?),
        })
    }

    /// Whether the server acknowledges a message to its sender (ejabberd does not).
    pub(crate) fn acknowledges(self) -> bool {
        self != Self::Ejabberd
    }
}

/// The name of a room or a user, for servers to which any name may be given.
fn channel_name(to: Target) -> String {
    match to {
        Target::Room(room) | Target::Pair { room, .. } => format!("room{room}"),
        Target::User(user) => format!("user{user}"),
    }
}
