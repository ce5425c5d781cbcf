//! A load balancer, so that clients need one address only: it chooses the listening nodes in turn (round robin).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};

/// A node as the balancer knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BalancedNode {
    /// The node's own address, with which the balancer checks whether the node listens.
    pub(crate) node: SocketAddr,
    /// The address of the proxy to which the balancer forwards connections.
    pub(crate) forward_to: SocketAddr,
}

/// Starts a load balancer for these nodes and returns its address.
pub(crate) async fn start(backends: Vec<BalancedNode>) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let backends = Arc::new(backends);
    let next = Arc::new(AtomicUsize::new(0));
    crate::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            crate::spawn(forward_to_next_node(client, backends.clone(), next.clone()));
        }
    });
    Ok(address)
}

async fn forward_to_next_node(
    mut client: TcpStream,
    backends: Arc<Vec<BalancedNode>>,
    next: Arc<AtomicUsize>,
) {
    let first = next.fetch_add(1, Ordering::Relaxed);
    for backend in backends.iter().cycle().skip(first % backends.len()).take(backends.len()) {
        // A suspended node still accepts connections; its clients notice the fault only because no answer arrives.
        if TcpStream::connect(backend.node).await.is_err() {
            continue;
        }
        let Ok(mut server) = TcpStream::connect(backend.forward_to).await else { continue };
        let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
        // `copy_bidirectional` returns when either side has ended, and then both connections are closed.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        return;
    }
}
