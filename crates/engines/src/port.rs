//! Ports that stay reserved for a server while it is down.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::net::TcpSocket;

/// A free port of 127.0.0.1, reserved by a socket that is bound to it and never listens. The kernel assigns the port to no
/// other socket, but a server can bind it by its number. While no server listens, the kernel refuses connections.
#[derive(Debug)]
pub(crate) struct Port {
    address: SocketAddr,
    _socket: TcpSocket,
}

impl Port {
    pub(crate) fn reserve() -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4().context("cannot create a socket")?;
        // With SO_REUSEADDR on both sockets, the server can bind the same port, as long as only one of them listens.
        socket.set_reuseaddr(true).context("cannot set SO_REUSEADDR")?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).context("no port of 127.0.0.1 is free")?;
        Ok(Self { address: socket.local_addr().context("the socket has no address")?, _socket: socket })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}
