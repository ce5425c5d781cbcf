//! A rolling restart of three nodes, with few clients and with many: how long clients are without a connection, how late messages
//! arrive, and how many connections end without `bye`.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use switchboard_client::Client;
use switchboard_protocol::reply::{Reply, ServerFrame};
use switchboard_protocol::{Hello, Seq};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::support::{
    Process, SharedEngines, command, conversation, reserve_descriptors_for_a_crowd, text_of, user,
};

const NODES: usize = 3;

/// Members of a room; each client is in one room.
const MEMBERS_PER_ROOM: usize = 20;

/// How often a message is sent, to one room after the other.
const SEND_INTERVAL: Duration = Duration::from_millis(20);

/// How long the nodes run before the first restart, between two, and after the last one.
const TIME_BETWEEN_RESTARTS: Duration = Duration::from_secs(6);

/// How long a client waits before it tries the next node after a failed attempt.
const RETRY_DELAY: Duration = Duration::from_millis(100);

/// The longest time that a client may be without a connection: the spread for many clients and as long again for the reconnect.
const MAX_INTERRUPTION: Duration = Duration::from_secs(10);

/// The addresses of the nodes that accept connections, as a load balancer knows them.
#[derive(Default)]
struct Balancer {
    nodes: Mutex<[Option<SocketAddr>; NODES]>,
    next: AtomicUsize,
}

impl Balancer {
    fn set_node_address(&self, node: usize, address: Option<SocketAddr>) {
        self.nodes.lock().expect("no panic holds the lock")[node] = address;
    }

    /// The next node in turn.
    fn next_node_url(&self) -> String {
        let nodes = *self.nodes.lock().expect("no panic holds the lock");
        let up: Vec<_> = nodes.into_iter().flatten().collect();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        format!("ws://{}/v1/ws", up[number % up.len()])
    }
}

/// What a client observes.
enum Observation {
    /// A message arrived this long after it was sent.
    Message(Duration),
    /// The client was without a connection for this long. `announced` says whether `bye` came before the end.
    Interruption { took: Duration, announced: bool },
    /// A message was missing or came twice.
    Disorder(String),
}

/// A client that reconnects as the protocol says, and reports what it observes.
struct Device {
    name: String,
    room: String,
    balancer: Arc<Balancer>,
    began: Instant,
    seen: Vec<Observation>,
    /// The last event received.
    cursor: u64,
}

impl Device {
    async fn connect(&self) -> Client {
        loop {
            let cursors = std::iter::once((conversation(&self.room), Seq(self.cursor))).collect();
            let hello = Hello { token: None, user: Some(user(&self.name)), device: None, cursors };
            match Client::connect(&self.balancer.next_node_url(), hello).await {
                Ok((client, _)) => return client,
                // waits for: the balancer to notice that a node has stopped
                Err(_) => tokio::time::sleep(RETRY_DELAY).await,
            }
        }
    }

    async fn run(mut self, ready: mpsc::Sender<()>, mut stop: watch::Receiver<bool>) -> Vec<Observation> {
        let mut client = self.connect().await;
        // The test may have stopped waiting.
        let _ = ready.send(()).await;
        loop {
            let ended = tokio::select! {
                ended = self.receive_until_closed(&mut client) => ended,
                _ = stop.changed() => return self.seen,
            };
            let lost = Instant::now();
            if let Some(delay) = ended {
                // waits for: the time that `bye` gave this client
                tokio::time::sleep(Duration::from_millis(delay)).await;
            }
            client = self.connect().await;
            self.seen.push(Observation::Interruption { took: lost.elapsed(), announced: ended.is_some() });
        }
    }

    /// Receives until the connection ends. Returns the delay of its `bye`.
    async fn receive_until_closed(&mut self, client: &mut Client) -> Option<u64> {
        let mut delay = None;
        while let Some(Ok(frame)) = client.next().await {
            match frame {
                ServerFrame::Reply(Reply::Bye { retry_after }) => delay = Some(retry_after),
                ServerFrame::Event(event) => {
                    if event.seq.0 != self.cursor + 1 {
                        let seen = format!("{} received {} after {}", self.name, event.seq.0, self.cursor);
                        self.seen.push(Observation::Disorder(seen));
                    }
                    self.cursor = event.seq.0;
                    let sent = text_of(&event).and_then(|text| text.parse().ok()).map(Duration::from_micros);
                    if let Some(sent) = sent {
                        self.seen.push(Observation::Message(self.began.elapsed().saturating_sub(sent)));
                    }
                }
                _ => {}
            }
        }
        delay
    }
}

async fn start_node(shared: &SharedEngines, data: &TempDir, number: usize) -> Process {
    let bus = shared.bus.as_ref().expect("a bus");
    let name = format!("chat-{number}");
    let settings = [
        ("SWITCHBOARD_STORE", shared.store.expose()),
        ("SWITCHBOARD_BUS", bus.expose()),
        ("SWITCHBOARD_CLUSTER_BUS_PREFIX", &shared.prefix),
        ("SWITCHBOARD_NAME", &name),
        ("SWITCHBOARD_LIMITS_CONNECTIONS_PER_ADDRESS", "0"),
    ];
    Process::start_with_log(data.path(), &settings, Stdio::null()).await
}

/// Sends a message to one room after the other until `stop`. The text is the time in microseconds. Repeats a failed message with the
/// same key, at another node.
async fn send_until(
    rooms: usize,
    balancer: Arc<Balancer>,
    began: Instant,
    stop: watch::Receiver<bool>,
) -> usize {
    let mut ticks = tokio::time::interval(SEND_INTERVAL);
    let hello =
        || Hello { token: None, user: Some(user("sender")), device: None, cursors: Default::default() };
    let mut connection = None;
    let mut sent = 0;
    while !*stop.borrow() {
        ticks.tick().await;
        let text = began.elapsed().as_micros().to_string();
        let message =
            json!({"to": format!("#room{}", sent % rooms), "text": text, "key": format!("k{sent}")});
        loop {
            if connection.is_none() {
                connection =
                    Client::connect(&balancer.next_node_url(), hello()).await.ok().map(|(client, _)| client);
            }
            if let Some(client) = &mut connection
                && client.call(command("send", &message)).await.is_ok()
            {
                break;
            }
            connection = None;
            // waits for: the balancer to notice that a node has stopped
            tokio::time::sleep(RETRY_DELAY).await;
        }
        sent += 1;
    }
    sent
}

/// The value below which this share of the sorted values lies.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted
        .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

/// Makes rooms of [`MEMBERS_PER_ROOM`] for the clients, and returns how many.
async fn make_rooms(node: &Process, clients: usize) -> usize {
    let rooms = clients.div_ceil(MEMBERS_PER_ROOM);
    let mut maker = node.connects("sender").await;
    for room in 0..rooms {
        let members = room * MEMBERS_PER_ROOM..((room + 1) * MEMBERS_PER_ROOM).min(clients);
        let members: Vec<_> = members.map(|client| format!("client{client}")).collect();
        maker
            .makes_room(&format!("room{room}"), &members.iter().map(String::as_str).collect::<Vec<_>>())
            .await;
    }
    maker.client.close().await;
    rooms
}

/// Restarts each of three nodes while `clients` are connected, and prints what they observed.
#[expect(clippy::print_stdout, reason = "a soak reports what it measured")]
async fn restart_nodes_under_clients(clients: usize) {
    let (shared, data) = (SharedEngines::new().await, TempDir::new().expect("a directory"));
    let balancer = Arc::new(Balancer::default());
    let mut nodes = Vec::new();
    for number in 0..NODES {
        let node = start_node(&shared, &data, number).await;
        balancer.set_node_address(number, Some(node.address()));
        nodes.push(node);
    }
    let rooms = make_rooms(&nodes[0], clients).await;
    let (began, (stop, stopped)) = (Instant::now(), watch::channel(false));
    let (ready, mut connected) = mpsc::channel(1);
    let mut devices = JoinSet::new();
    for client in 0..clients {
        let (name, room) = (format!("client{client}"), format!("#room{}", client / MEMBERS_PER_ROOM));
        let device = Device { name, room, balancer: balancer.clone(), began, seen: Vec::new(), cursor: 1 };
        devices.spawn(device.run(ready.clone(), stopped.clone()));
        if client % 50 == 49 || client + 1 == clients {
            for _ in 0..=client % 50 {
                connected.recv().await.expect("the clients run");
            }
        }
    }
    let mut sending = JoinSet::new();
    sending.spawn(send_until(rooms, balancer.clone(), began, stopped));
    let mut restarts = Vec::new();
    for (number, node) in nodes.iter_mut().enumerate() {
        // waits for: the clients that have moved to settle, as docs/scaling.md advises
        tokio::time::sleep(TIME_BETWEEN_RESTARTS).await;
        let started = Instant::now();
        balancer.set_node_address(number, None);
        node.signal("TERM").await;
        assert_eq!(node.wait_for_exit().await.code(), Some(0));
        *node = start_node(&shared, &data, number).await;
        restarts.push(started.elapsed());
        balancer.set_node_address(number, Some(node.address()));
    }
    // waits for: the last clients and messages
    tokio::time::sleep(TIME_BETWEEN_RESTARTS).await;
    stop.send(true).expect("the tasks run");
    let sent: usize = sending.join_all().await.into_iter().sum();
    let seen = devices.join_all().await;
    let (mut delays, mut interruptions, mut cut, mut disorder) = (Vec::new(), Vec::new(), 0, Vec::new());
    for one in seen.into_iter().flatten() {
        match one {
            Observation::Message(delay) => delays.push(delay),
            Observation::Interruption { took, announced } => {
                interruptions.push(took);
                cut += usize::from(!announced);
            }
            Observation::Disorder(what) => disorder.push(what),
        }
    }
    delays.sort_unstable();
    interruptions.sort_unstable();
    let of = |sorted: &[Duration]| [50, 99, 100].map(|percent| percentile(sorted, percent));
    println!(
        "{clients} clients, {sent} messages, {} deliveries: p50, p99, max {:?}; {} reconnects, without a connection for p50, p99, \
         max {:?}; {cut} connections without `bye`; restarts {restarts:?}",
        delays.len(),
        of(&delays),
        interruptions.len(),
        of(&interruptions),
    );
    assert!(disorder.is_empty(), "{disorder:?}");
    assert_eq!(cut, 0, "every client is told when to reconnect");
    assert!(interruptions.len() >= clients, "every client moves at least once");
    assert!(percentile(&interruptions, 100) < MAX_INTERRUPTION, "{:?}", of(&interruptions));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak"]
async fn a_rolling_restart_interrupts_few_clients_for_a_moment_and_many_for_the_spread() {
    let _room = reserve_descriptors_for_a_crowd().await;
    for clients in [20, 5_000] {
        restart_nodes_under_clients(clients).await;
    }
}
