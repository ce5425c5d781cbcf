//! What stands before the nodes for clients that know one address: it takes the next node that listens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpListener, TcpStream};

/// A node as the balancer knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backend {
    /// Where it listens, to see whether it does.
    pub(crate) node: SocketAddr,
    /// Where it is reached.
    pub(crate) door: SocketAddr,
}

/// Starts one; its address.
pub(crate) async fn start(backends: Vec<Backend>) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let backends = Arc::new(backends);
    let turn = Arc::new(AtomicUsize::new(0));
    crate::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            crate::spawn(carry(client, backends.clone(), turn.clone()));
        }
    });
    Ok(address)
}

async fn carry(mut client: TcpStream, backends: Arc<Vec<Backend>>, turn: Arc<AtomicUsize>) {
    let first = turn.fetch_add(1, Ordering::Relaxed);
    for backend in backends.iter().cycle().skip(first % backends.len()).take(backends.len()) {
        // One that stands still listens all the same: nobody notices before it does not answer.
        if TcpStream::connect(backend.node).await.is_err() {
            continue;
        }
        let Ok(mut server) = TcpStream::connect(backend.door).await else { continue };
        let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
        // Whichever side ends it, the other one is told.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        return;
    }
}
