//! Runs the tests of the bus contract against NATS. Each test starts its own nats-server.

use std::sync::Weak;

use super::*;
use crate::bus::contract::{self, Network, contract_tests};

/// A nats-server with its nodes.
struct NatsNetwork {
    nats: Nats,
    nodes: Vec<Weak<NatsBus>>,
    /// The directory of the server's files. It is deleted when this is dropped.
    _scratch: tempfile::TempDir,
}

impl NatsNetwork {
    /// Waits until every node that has not ended is connected, or none is.
    async fn until_connected(&self, connected: bool) {
        for node in self.nodes.iter().filter_map(Weak::upgrade) {
            wait_until(|| if connected { node.has_both_connections() } else { !node.is_connected() }).await;
        }
    }
}

impl Network for NatsNetwork {
    async fn start() -> Self {
        let scratch = tempfile::tempdir().expect("a directory");
        let nats = Nats::start(scratch.path(), &[]).await.expect("a nats-server");
        Self { nats, nodes: Vec::new(), _scratch: scratch }
    }

    async fn join(&mut self, installation: u8) -> contract::Node {
        let id = u64::try_from(self.nodes.len()).expect("a number") + 1;
        let node = Node::with_key(&settings(&self.nats.url(), "sw"), installation, id).await;
        wait_until(|| node.bus.has_both_connections()).await;
        let Node { bus, events, tasks, .. } = node;
        let bus = Arc::new(bus);
        self.nodes.push(Arc::downgrade(&bus));
        contract::Node { id: NodeId(id), bus, events, resources: Box::new(tasks) }
    }

    async fn cut(&mut self) {
        self.nats.kill().await.expect("NATS is killed");
        self.until_connected(false).await;
    }

    async fn restore(&mut self) {
        self.nats.start_again().await.expect("NATS restarts");
        self.until_connected(true).await;
    }
}

contract_tests!(NatsNetwork);
