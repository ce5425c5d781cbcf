//! Ports that stay the same while their server is down.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::TcpSocket;

/// A free port of 127.0.0.1, kept for a server by a socket that is bound to it and never listens. The kernel gives the
/// port to nobody who asks for any, a server that names it gets it, and while there is none, connections are refused.
#[derive(Debug)]
pub(crate) struct Port {
    address: SocketAddr,
    _socket: TcpSocket,
}

impl Port {
    pub(crate) fn reserve() -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4().context("cannot make a socket")?;
        // The server asks for the same: two who both do may be bound to one port, as long as one of them listens.
        socket.set_reuseaddr(true).context("cannot share a port")?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).context("no port of 127.0.0.1 is free")?;
        Ok(Self { address: socket.local_addr().context("the socket has no address")?, _socket: socket })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}
