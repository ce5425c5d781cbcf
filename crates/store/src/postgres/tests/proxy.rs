//! A proxy between a node and its database that breaks connections at a chosen moment.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// When the proxy breaks the connection of the next batch. A batch takes two round trips; the second contains the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CutPoint {
    /// The proxy does not break the connection.
    None,
    /// The proxy breaks the connection after the database answered the first round trip.
    BeforeReading,
    /// The proxy breaks the connection before the commit reaches the database.
    BeforeCommit,
    /// The proxy breaks the connection right after it forwarded the commit, so that the node cannot know whether it succeeds.
    AtCommit,
    /// The proxy breaks the connection after the commit, before its answer reaches the node.
    AfterCommit,
}

const CUT_POINTS: [CutPoint; 5] = [
    CutPoint::None,
    CutPoint::BeforeReading,
    CutPoint::BeforeCommit,
    CutPoint::AtCommit,
    CutPoint::AfterCommit,
];

/// Forwards bytes between a node and its database, until it breaks the connection.
pub(super) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    database: SocketAddr,
    cut: AtomicU8,
    refuses_connections: AtomicBool,
}

impl Proxy {
    pub(super) async fn in_front_of(database: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared =
            Arc::new(Shared { database, cut: AtomicU8::new(0), refuses_connections: AtomicBool::new(false) });
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(listener, shared.clone()));
        Self { address, shared, _tasks: tasks }
    }

    /// The URL of a database through this proxy.
    pub(super) fn url(&self, url: &str) -> String {
        url.replace(&self.shared.database.to_string(), &self.address.to_string())
    }

    /// Sets when to break the next batch's connection.
    pub(super) fn set_cut_point(&self, cut: CutPoint) {
        self.shared.cut.store(cut as u8, Ordering::SeqCst);
    }

    /// Sets whether the proxy refuses new connections.
    pub(super) fn set_refuses_connections(&self, refuses: bool) {
        self.shared.refuses_connections.store(refuses, Ordering::SeqCst);
    }
}

async fn listen(listener: TcpListener, shared: Arc<Shared>) {
    let mut ways = JoinSet::new();
    while let Ok((node, _)) = listener.accept().await {
        if !shared.refuses_connections.load(Ordering::SeqCst) {
            ways.spawn(forward(node, shared.clone()));
        }
    }
}

async fn forward(node: TcpStream, shared: Arc<Shared>) {
    let Ok(database) = TcpStream::connect(shared.database).await else { return };
    let (mut from_node, mut to_node) = node.into_split();
    let (mut from_database, mut to_database) = database.into_split();
    let (mut asked, mut answered) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    // Whether the database has begun a transaction since a cut was set.
    let mut begun = false;
    loop {
        tokio::select! {
            read = from_node.read(&mut asked) => {
                let Ok(length @ 1..) = read else { return };
                let cut = shared.cut();
                if cut == CutPoint::BeforeCommit && begun {
                    return shared.take_cut();
                }
                if to_database.write_all(&asked[..length]).await.is_err() {
                    return;
                }
                if cut == CutPoint::AtCommit && begun {
                    return shared.take_cut();
                }
            }
            read = from_database.read(&mut answered) => {
                let Ok(length @ 1..) = read else { return };
                let (said, cut) = (&answered[..length], shared.cut());
                begun = cut != CutPoint::None && (begun || contains_completion(said, b"BEGIN\0"));
                if (cut == CutPoint::BeforeReading && begun) || (cut == CutPoint::AfterCommit && contains_completion(said, b"COMMIT\0")) {
                    return shared.take_cut();
                }
                if to_node.write_all(said).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Whether the database's answer contains the completion tag of this command.
fn contains_completion(bytes: &[u8], command: &[u8]) -> bool {
    bytes.windows(command.len()).any(|window| window == command)
}

impl Shared {
    fn cut(&self) -> CutPoint {
        CUT_POINTS[usize::from(self.cut.load(Ordering::SeqCst))]
    }

    fn take_cut(&self) {
        self.cut.store(0, Ordering::SeqCst);
    }
}
