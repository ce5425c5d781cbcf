//! The network between clients and server, which fails as networks do.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// Bytes that are passed on at once.
const CHUNK: usize = 16 * 1024;

/// Bytes that are passed on at once where the network is slow.
const TRICKLE: usize = 512;

/// Stands between clients and the server, one connection each way for each that comes.
pub(crate) struct Proxy {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    weather: Arc<Weather>,
    links: Arc<Mutex<Vec<Weak<Link>>>>,
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
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = Self { address: listener.local_addr()?, weather: Arc::default(), links: Arc::default() };
        let (weather, links) = (proxy.weather.clone(), proxy.links.clone());
        crate::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let link = Arc::<Link>::default();
                let mut all = links.lock().unwrap_or_else(PoisonError::into_inner);
                all.retain(|link| link.strong_count() > 0);
                all.push(Arc::downgrade(&link));
                drop(all);
                crate::spawn(carry(client, server, link, weather.clone()));
            }
        });
        Ok(proxy)
    }

    /// Cuts some of the connections; how many.
    pub(crate) fn cut(&self, choose: impl FnMut() -> bool) -> usize {
        self.each(choose, |link| link.cut.notify_waiters())
    }

    /// Lets nothing through some of the connections, in either direction; how many.
    pub(crate) fn half_open(&self, choose: impl FnMut() -> bool) -> usize {
        self.each(choose, |link| link.half_open.store(true, Ordering::Relaxed))
    }

    pub(crate) fn delay(&self, delay: Duration) {
        self.weather.delay.store(u64::try_from(delay.as_millis()).unwrap_or(0), Ordering::Relaxed);
    }

    pub(crate) fn slow(&self, slow: bool) {
        self.weather.slow.store(slow, Ordering::Relaxed);
    }

    /// Fine weather. What was half open has been given up meanwhile, or goes on.
    pub(crate) fn heal(&self) {
        self.delay(Duration::ZERO);
        self.slow(false);
        self.each(
            || true,
            |link| {
                link.half_open.store(false, Ordering::Relaxed);
                link.changed.notify_waiters();
            },
        );
    }

    fn each(&self, mut choose: impl FnMut() -> bool, act: impl Fn(&Link)) -> usize {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let chosen = links.iter().filter_map(Weak::upgrade).filter(|_| choose());
        chosen.map(|link| act(&link)).count()
    }
}

async fn carry(client: TcpStream, server: SocketAddr, link: Arc<Link>, weather: Arc<Weather>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    // Small frames, and somebody waits for each; that it fails is no reason not to carry them.
    let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let both = async {
        tokio::join!(
            pass(from_client, to_server, &link, &weather),
            pass(from_server, to_client, &link, &weather)
        );
    };
    tokio::select! {
        () = both => {}
        () = link.cut.notified() => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, link: &Link, weather: &Weather) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let slow = weather.slow.load(Ordering::Relaxed);
        let room = if slow { TRICKLE } else { CHUNK };
        let Ok(count @ 1..) = from.read(&mut buffer[..room]).await else { break };
        let changed = link.changed.notified();
        if link.half_open.load(Ordering::Relaxed) {
            changed.await;
        }
        let delay = weather.delay.load(Ordering::Relaxed) + if slow { 20 } else { 0 };
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
    // The other side is told that there will be no more.
    let _ = to.shutdown().await;
}
