//! The network between two sides, which fails as networks do: between clients and a server, or a node and its database or
//! bus.

mod messages;
mod way;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

pub(crate) use self::messages::{Messages, Tampered, Tampering};
use self::way::Ways;
pub(crate) use self::way::{Direction, Partition};

/// Bytes that are passed on at once.
const CHUNK: usize = 16 * 1024;

/// Bytes that are passed on at once where the network is slow.
const TRICKLE: usize = 512;

/// Stands between clients and the server, one connection each way for each that comes.
#[derive(Clone)]
pub(crate) struct Proxy {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    network: Arc<Network>,
}

/// What all connections of a proxy share.
struct Network {
    server: Mutex<SocketAddr>,
    weather: Weather,
    ways: Ways,
    links: Mutex<Vec<Weak<Link>>>,
    /// On the way to a client of NATS: what becomes of its messages.
    messages: Option<Messages>,
}

/// What holds for all connections.
#[derive(Default)]
struct Weather {
    /// Milliseconds that each chunk takes longer.
    delay: AtomicU64,
    /// Chunks are small, with a pause between them.
    slow: AtomicBool,
}

/// One connection.
#[derive(Default)]
struct Link {
    /// Nothing gets through, and nobody is told.
    half_open: AtomicBool,
    changed: Notify,
    cut: Notify,
}

impl Proxy {
    pub(crate) async fn start(server: SocketAddr) -> anyhow::Result<Self> {
        Self::start_with(server, None).await
    }

    /// One before a nats-server, which can lose, double and reorder messages on their way to a client.
    pub(crate) async fn start_before_nats(
        server: SocketAddr,
        rng: &mut fastrand::Rng,
    ) -> anyhow::Result<Self> {
        Self::start_with(server, Some(Messages::new(rng.fork()))).await
    }

    async fn start_with(server: SocketAddr, messages: Option<Messages>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let network = Arc::new(Network {
            server: Mutex::new(server),
            weather: Weather::default(),
            ways: Ways::default(),
            links: Mutex::default(),
            messages,
        });
        let proxy = Self { address: listener.local_addr()?, network: network.clone() };
        crate::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if network.ways.are_refused() {
                    refuse(&client);
                    continue;
                }
                let link = Arc::<Link>::default();
                let mut all = network.links.lock().unwrap_or_else(PoisonError::into_inner);
                all.retain(|link| link.strong_count() > 0);
                all.push(Arc::downgrade(&link));
                drop(all);
                crate::spawn(carry(client, link, network.clone()));
            }
        });
        Ok(proxy)
    }

    /// Sends whoever connects from now on to another server. Connections that are there stay.
    pub(crate) fn point_at(&self, server: SocketAddr) {
        *self.network.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }

    /// Cuts some of the connections; how many.
    pub(crate) fn cut(&self, choose: impl FnMut() -> bool) -> usize {
        self.each(choose, |link| link.cut.notify_waiters())
    }

    /// Lets nothing through some of the connections, in either direction; how many.
    pub(crate) fn half_open(&self, choose: impl FnMut() -> bool) -> usize {
        self.each(choose, |link| link.half_open.store(true, Ordering::Relaxed))
    }

    /// Parts the two sides, those who come later as well.
    pub(crate) fn part(&self, partition: Partition) {
        self.network.ways.part(partition);
        if partition == Partition::Refused {
            self.cut(|| true);
        }
    }

    pub(crate) fn delay(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(0);
        self.network.weather.delay.store(millis, Ordering::Relaxed);
    }

    pub(crate) fn slow(&self, slow: bool) {
        self.network.weather.slow.store(slow, Ordering::Relaxed);
    }

    /// Begins to lose, double and reorder messages, where they are those of NATS.
    pub(crate) fn tamper(&self, tampering: Tampering) {
        if let Some(messages) = &self.network.messages {
            messages.tamper(Some(tampering));
        }
    }

    /// What has become of messages so far.
    pub(crate) fn tampered(&self) -> Tampered {
        self.network.messages.as_ref().map(Messages::tampered).unwrap_or_default()
    }

    /// Fine weather. What was half open has been given up meanwhile, or goes on.
    pub(crate) fn heal(&self) {
        self.delay(Duration::ZERO);
        self.slow(false);
        if let Some(messages) = &self.network.messages {
            messages.tamper(None);
        }
        self.network.ways.part(Partition::None);
        self.each(
            || true,
            |link| {
                link.half_open.store(false, Ordering::Relaxed);
                link.changed.notify_waiters();
            },
        );
    }

    fn each(&self, mut choose: impl FnMut() -> bool, act: impl Fn(&Link)) -> usize {
        let links = self.network.links.lock().unwrap_or_else(PoisonError::into_inner);
        let chosen = links.iter().filter_map(Weak::upgrade).filter(|_| choose());
        chosen.map(|link| act(&link)).count()
    }
}

impl Network {
    fn server(&self) -> SocketAddr {
        *self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// Waits until something may go this way, and takes the time that it takes.
    async fn lets_pass(&self, network: &Network, direction: Direction, slow: bool) {
        let changed = self.changed.notified();
        if self.half_open.load(Ordering::Relaxed) {
            changed.await;
        }
        network.ways.open(direction).await;
        let delay = network.weather.delay.load(Ordering::Relaxed) + if slow { 20 } else { 0 };
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
    }
}

/// Ends a connection with a reset, as if nobody listened there.
fn refuse(client: &TcpStream) {
    // Without it, the end is an ordinary one.
    let _ = client.set_zero_linger();
}

async fn carry(client: TcpStream, link: Arc<Link>, network: Arc<Network>) {
    let both = async {
        // Whoever comes during a partition waits for its end.
        network.ways.open(Direction::ToServer).await;
        let Ok(server) = TcpStream::connect(network.server()).await else {
            refuse(&client);
            return;
        };
        // Small frames, and somebody waits for each; that it fails is no reason not to carry them.
        let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let there = pass(from_client, to_server, &link, &network, Direction::ToServer);
        match &network.messages {
            None => {
                let back = pass(from_server, to_client, &link, &network, Direction::ToClient);
                tokio::join!(there, back);
            }
            Some(messages) => {
                let back = messages.pass(from_server, to_client, &link, &network);
                tokio::join!(there, back);
            }
        }
    };
    tokio::select! {
        () = both => {}
        () = link.cut.notified() => {}
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    link: &Link,
    network: &Network,
    direction: Direction,
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let slow = network.weather.slow.load(Ordering::Relaxed);
        let room = if slow { TRICKLE } else { CHUNK };
        let Ok(count @ 1..) = from.read(&mut buffer[..room]).await else { break };
        link.lets_pass(network, direction, slow).await;
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    // The other side is told that there will be no more, once something can be told.
    network.ways.open(direction).await;
    let _ = to.shutdown().await;
}
