//! A TCP proxy that simulates network faults: between clients and a server, or between a node and its database or bus.

mod messages;
mod partition;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

pub(crate) use self::messages::{MessageTamperer, TamperingCounts, TamperingRates};
use self::partition::PartitionGate;
pub(crate) use self::partition::{Direction, Partition};

/// The most bytes that the proxy forwards at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// The most bytes that the proxy forwards at once while the network is slow.
const SLOW_CHUNK_BYTES: usize = 512;

/// A proxy that forwards each of its connections to the server.
#[derive(Clone)]
pub(crate) struct Proxy {
    /// The address to which clients connect.
    pub(crate) address: SocketAddr,
    network: Arc<Network>,
}

/// The state that all connections of a proxy share.
struct Network {
    server: Mutex<SocketAddr>,
    conditions: NetworkConditions,
    gate: PartitionGate,
    links: Mutex<Vec<Weak<Link>>>,
    /// Tampers with NATS's messages; `None` if the server is not a nats-server.
    messages: Option<MessageTamperer>,
}

/// The network conditions that apply to all connections of a proxy.
#[derive(Default)]
struct NetworkConditions {
    /// The latency added to each chunk, in milliseconds.
    delay: AtomicU64,
    /// Whether the network is slow: chunks are small, with a pause between them.
    slow: AtomicBool,
}

/// One proxied connection.
#[derive(Default)]
struct Link {
    /// Whether the connection is half-open: it forwards nothing, and neither side gets an error.
    half_open: AtomicBool,
    changed: Notify,
    cut: Notify,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr) -> anyhow::Result<Self> {
        Self::start_with(server, None).await
    }

    /// Starts a proxy for a nats-server that can also lose, duplicate and reorder the messages to a client.
    pub(crate) async fn start_before_nats(
        server: SocketAddr,
        rng: &mut fastrand::Rng,
    ) -> anyhow::Result<Self> {
        Self::start_with(server, Some(MessageTamperer::new(rng.fork()))).await
    }

    async fn start_with(server: SocketAddr, messages: Option<MessageTamperer>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let network = Arc::new(Network {
            server: Mutex::new(server),
            conditions: NetworkConditions::default(),
            gate: PartitionGate::default(),
            links: Mutex::default(),
            messages,
        });
        let proxy = Self { address: listener.local_addr()?, network: network.clone() };
        crate::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if network.gate.refuses_connections() {
                    reset_connection(&client);
                    continue;
                }
                let link = Arc::<Link>::default();
                let mut all = network.links.lock().unwrap_or_else(PoisonError::into_inner);
                all.retain(|link| link.strong_count() > 0);
                all.push(Arc::downgrade(&link));
                drop(all);
                crate::spawn(forward_both_directions(client, link, network.clone()));
            }
        });
        Ok(proxy)
    }

    /// Forwards new connections to another server. Existing connections are not changed.
    pub(crate) fn redirect_to(&self, server: SocketAddr) {
        *self.network.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }

    /// Resets the connections for which `choose` returns true. Returns how many.
    pub(crate) fn reset(&self, choose: impl FnMut() -> bool) -> usize {
        self.for_chosen_links(choose, |link| link.cut.notify_waiters())
    }

    /// Makes the connections half-open for which `choose` returns true. Returns how many.
    pub(crate) fn make_half_open(&self, choose: impl FnMut() -> bool) -> usize {
        self.for_chosen_links(choose, |link| link.half_open.store(true, Ordering::Relaxed))
    }

    /// Partitions the two sides, for new connections as well.
    pub(crate) fn set_partition(&self, partition: Partition) {
        self.network.gate.set(partition);
        if partition == Partition::Refused {
            self.reset(|| true);
        }
    }

    pub(crate) fn set_delay(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(0);
        self.network.conditions.delay.store(millis, Ordering::Relaxed);
    }

    pub(crate) fn set_slow(&self, slow: bool) {
        self.network.conditions.slow.store(slow, Ordering::Relaxed);
    }

    /// Starts to lose, duplicate and delay messages. No effect on a proxy that is not for NATS.
    pub(crate) fn tamper(&self, tampering: TamperingRates) {
        if let Some(messages) = &self.network.messages {
            messages.tamper(Some(tampering));
        }
    }

    /// How many messages were lost, duplicated and delayed so far.
    pub(crate) fn tampered(&self) -> TamperingCounts {
        self.network.messages.as_ref().map(MessageTamperer::tampered).unwrap_or_default()
    }

    /// Ends all faults. A half-open connection works again, unless one of its sides has closed it.
    pub(crate) fn heal(&self) {
        self.set_delay(Duration::ZERO);
        self.set_slow(false);
        if let Some(messages) = &self.network.messages {
            messages.tamper(None);
        }
        self.network.gate.set(Partition::None);
        self.for_chosen_links(
            || true,
            |link| {
                link.half_open.store(false, Ordering::Relaxed);
                link.changed.notify_waiters();
            },
        );
    }

    fn for_chosen_links(&self, mut choose: impl FnMut() -> bool, act: impl Fn(&Link)) -> usize {
        let links = self.network.links.lock().unwrap_or_else(PoisonError::into_inner);
        let chosen = links.iter().filter_map(Weak::upgrade).filter(|_| choose());
        chosen.map(|link| act(&link)).count()
    }
}

impl Network {
    fn server_address(&self) -> SocketAddr {
        *self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// Waits as long as the connection is half-open or partitioned, and then for the added latency.
    async fn wait_to_pass(&self, network: &Network, direction: Direction, slow: bool) {
        let changed = self.changed.notified();
        if self.half_open.load(Ordering::Relaxed) {
            changed.await;
        }
        network.gate.wait_until_open(direction).await;
        let delay = network.conditions.delay.load(Ordering::Relaxed) + if slow { 20 } else { 0 };
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
    }
}

/// Makes the client's connection end with a reset, as if the server had refused it.
fn reset_connection(client: &TcpStream) {
    // Without this option the connection would end with FIN instead of a reset.
    let _ = client.set_zero_linger();
}

async fn forward_both_directions(client: TcpStream, link: Arc<Link>, network: Arc<Network>) {
    let both = async {
        // A connection that is opened during a partition waits for the partition's end.
        network.gate.wait_until_open(Direction::ToServer).await;
        let Ok(server) = TcpStream::connect(network.server_address()).await else {
            reset_connection(&client);
            return;
        };
        // Disables Nagle's algorithm, which would delay small frames. If that fails, the connection is only slower.
        let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let requests = forward(from_client, to_server, &link, &network, Direction::ToServer);
        match &network.messages {
            None => {
                let responses = forward(from_server, to_client, &link, &network, Direction::ToClient);
                tokio::join!(requests, responses);
            }
            Some(messages) => {
                let responses = messages.forward(from_server, to_client, &link, &network);
                tokio::join!(requests, responses);
            }
        }
    };
    tokio::select! {
        () = both => {}
        () = link.cut.notified() => {}
    }
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    link: &Link,
    network: &Network,
    direction: Direction,
) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let slow = network.conditions.slow.load(Ordering::Relaxed);
        let size = if slow { SLOW_CHUNK_BYTES } else { CHUNK_BYTES };
        let Ok(count @ 1..) = from.read(&mut buffer[..size]).await else { break };
        link.wait_to_pass(network, direction, slow).await;
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    // The end of the stream, too, must not pass a partition.
    network.gate.wait_until_open(direction).await;
    let _ = to.shutdown().await;
}
