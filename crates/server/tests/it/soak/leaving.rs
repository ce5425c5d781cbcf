//! Most users of three nodes disconnect at once and many reconnect, while others keep sending.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::memberships::rows;
use crate::support::{
    Person, Process, RawSocket, SharedEngines, connect_crowd, in_time, reserve_descriptors_for_a_crowd,
};

const NODES: usize = 3;

/// Users who disconnect, each of whom has a direct conversation, and how many of them reconnect.
const DISCONNECTING_USERS: usize = 50_000;
const RECONNECTING_USERS: usize = 10_000;

/// The time over which the reconnecting users are spread.
const RECONNECT_TIME: Duration = Duration::from_secs(10);

/// Users who keep sending on each node, and the interval between two sends of such a user.
const SENDERS_PER_NODE: usize = 2;
const SEND_INTERVAL: Duration = Duration::from_millis(20);

/// How long delays are measured before users disconnect, and after. The disconnected users go offline 5 s later.
const BASELINE_TIME: Duration = Duration::from_secs(20);
const LEAVING_TIME: Duration = Duration::from_secs(15);

/// By which factor the 99th percentile of the delay may grow under load.
const MAX_P99_RATIO: f64 = 1.5;

/// The number of cores from which [`MAX_P99_RATIO`] applies: on fewer, clients, database, bus and nodes compete for them.
const MIN_CORES: usize = 8;

/// The longest allowed 99th percentile of the delay, on any machine.
const MAX_P99: Duration = Duration::from_millis(250);

/// The environment variable with the address of the node for a process of clients.
const ENV_NODE: &str = "SOAK_LEAVING_NODE";

/// The environment variables with the range of users of a process of clients, and the milliseconds over which they connect.
const ENV_FIRST_USER: &str = "SOAK_LEAVING_FIRST";
const ENV_END_USER: &str = "SOAK_LEAVING_END";
const ENV_CONNECT_TIME_MS: &str = "SOAK_LEAVING_OVER";

/// The line that a process of clients prints when all of its users are connected.
const CONNECTED_LINE: &str = "all connected";

/// Connects these users to a node, evenly over the duration `over`. If it is zero, they connect as fast as possible.
async fn connect_users(node: SocketAddr, users: Range<usize>, over: Duration) -> Vec<RawSocket> {
    let connects = |address, number| async move {
        let mut raw = RawSocket::connect(address).await;
        raw.says_hello_as(&rows::customer_id(number)).await;
        raw
    };
    if over.is_zero() {
        return connect_crowd(users, node, connects).await;
    }
    let (begun, count, mut connecting) = (Instant::now(), users.len(), JoinSet::new());
    for (index, number) in users.enumerate() {
        // waits for: the rate of connections
        tokio::time::sleep_until(begun + over.mul_f64(index as f64 / count as f64)).await;
        connecting.spawn(connects(node, number));
    }
    connecting.join_all().await
}

/// The program of the process that [`ClientProcess`] starts: one process has too few file descriptors for all clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "soak"]
async fn process_of_clients() {
    let Ok(node) = std::env::var(ENV_NODE) else { return };
    let _room = reserve_descriptors_for_a_crowd().await;
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse().ok()).expect("a number");
    let users = number(ENV_FIRST_USER)..number(ENV_END_USER);
    let over = Duration::from_millis(number(ENV_CONNECT_TIME_MS) as u64);
    let _connected = connect_users(node.parse().expect("an address"), users, over).await;
    println!("{CONNECTED_LINE}");
    std::future::pending::<()>().await;
}

/// ClientProcess in their own process. When this is dropped, the process is killed and all of them disconnect at once.
struct ClientProcess {
    process: Child,
    /// The output is kept open, because the process ends when it is closed.
    _output: Lines<BufReader<ChildStdout>>,
}

impl ClientProcess {
    async fn connect_users(node: SocketAddr, users: Range<usize>, over: Duration) -> Self {
        // Real clients run on other machines, so here they get a lower priority than the nodes.
        let priority = if over.is_zero() { "0" } else { "19" };
        let mut program = Command::new("nice");
        program
            .args(["-n", priority])
            .arg(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "--nocapture", "soak::leaving::process_of_clients"])
            .env(ENV_NODE, node.to_string())
            .env(ENV_FIRST_USER, users.start.to_string())
            .env(ENV_END_USER, users.end.to_string())
            .env(ENV_CONNECT_TIME_MS, over.as_millis().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut process = program.spawn().expect("it starts");
        let mut output = BufReader::new(process.stdout.take().expect("its output")).lines();
        while let Some(line) = output.next_line().await.expect("readable") {
            if line.contains(CONNECTED_LINE) {
                return Self { process, _output: output };
            }
        }
        panic!("clients could not connect")
    }

    /// Ends all connections without a close frame.
    async fn disconnect_all(mut self) {
        self.process.kill().await.expect("it ran");
    }
}

/// Sends messages until `end` and returns the times until their `ok`, sorted. Prints the longest time of each second.
#[expect(clippy::print_stdout, reason = "a soak reports what it measured")]
async fn sends_until(end: Instant, others: &mut [Person]) -> Vec<Duration> {
    let begun = Instant::now();
    let sending = others.iter_mut().enumerate().map(async |(number, person)| {
        let (to, mut took) = (format!("@partner{number}"), Vec::new());
        let mut due = Instant::now();
        while Instant::now() < end {
            // The delay of a send is measured from the time at which it was due, even if it began later.
            due = (due + SEND_INTERVAL).max(Instant::now());
            // waits for: the time of the next send
            tokio::time::sleep_until(due).await;
            let sent = Instant::now();
            person.says(&to, "hi").await;
            took.push(((sent - begun).as_secs(), sent.elapsed()));
        }
        took
    });
    let took = join_all(sending).await.concat();
    let mut seconds = BTreeMap::<u64, Duration>::new();
    for (second, wait) in &took {
        let longest = seconds.entry(*second).or_default();
        *longest = (*longest).max(*wait);
    }
    println!(
        "the longest time of each second, in ms: {:?}",
        seconds.values().map(Duration::as_millis).collect::<Vec<_>>()
    );
    let mut took: Vec<_> = took.into_iter().map(|(_, wait)| wait).collect();
    took.sort_unstable();
    took
}

/// The median, the 99th percentile, the maximum and the number of these durations, as text.
fn describe_durations(took: &[Duration]) -> String {
    let at = |percent| took[(took.len() - 1) * percent / 100];
    format!("p50 {:?}, p99 {:?}, longest {:?} of {}", at(50), at(99), at(100), took.len())
}

/// Starts the nodes on one PostgreSQL and one NATS.
async fn start_nodes(shared: &SharedEngines, data: &TempDir) -> Vec<Process> {
    let settings = [
        ("SWITCHBOARD_STORE", shared.store.expose()),
        ("SWITCHBOARD_BUS", shared.bus.as_ref().expect("a bus").expose()),
        ("SWITCHBOARD_CLUSTER_BUS_PREFIX", &*shared.prefix),
        ("SWITCHBOARD_LIMITS_CONNECTIONS_PER_ADDRESS", "0"),
    ];
    let mut nodes = Vec::new();
    for number in 0..NODES {
        nodes.push(Process::start_with(&data.path().join(number.to_string()), &settings).await);
    }
    nodes
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "soak"]
async fn sends_stay_fast_while_50_000_users_disconnect_and_10_000_reconnect() {
    let _room = reserve_descriptors_for_a_crowd().await;
    let (shared, data) = (SharedEngines::new().await, TempDir::new().expect("a directory"));
    drop(start_nodes(&shared, &data).await);
    shared.sql(&rows::fill_postgres("shop", DISCONNECTING_USERS)).await;
    let nodes = start_nodes(&shared, &data).await;
    let share = |number: usize, of: usize| 1 + of * number / NODES..1 + of * (number + 1) / NODES;
    let shop = nodes[0].connects("shop").await;
    let mut others = Vec::new();
    for number in 0..SENDERS_PER_NODE * NODES {
        others.push(nodes[number % NODES].connects(&format!("other{number}")).await);
    }
    let all = |of, over| {
        let each = nodes.iter().enumerate();
        join_all(each.map(move |(n, node)| ClientProcess::connect_users(node.address(), share(n, of), over)))
    };
    let begun = Instant::now();
    let clients = all(DISCONNECTING_USERS, Duration::ZERO).await;
    println!("{DISCONNECTING_USERS} users on {NODES} nodes after {:?}", begun.elapsed());

    let processor = || nodes.iter().map(Process::processor_time).sum::<Duration>();
    let before = processor();
    let quiet = sends_until(Instant::now() + BASELINE_TIME, &mut others).await;
    let quiet_time = processor() - before;
    println!("quiet: {}; {quiet_time:?} of processor", describe_durations(&quiet));
    let end = Instant::now() + LEAVING_TIME;
    let loud = async {
        let begun = Instant::now();
        join_all(clients.into_iter().map(ClientProcess::disconnect_all)).await;
        println!("{DISCONNECTING_USERS} left within {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(1));
        let begun = Instant::now();
        let back = all(RECONNECTING_USERS, RECONNECT_TIME).await;
        println!("{RECONNECTING_USERS} came back within {:?}", begun.elapsed());
        back
    };
    let (loud, back) = tokio::join!(sends_until(end, &mut others), loud);
    let loud_time = processor() - before - quiet_time;
    println!("while they leave and come back: {}; {loud_time:?} of processor", describe_durations(&loud));
    let gone = shared.sql(rows::COUNT_USERS_WITH_LAST_SEEN).await;
    println!("{gone} are known to have gone");
    drop((back, shop));
    let p99 = |took: &[Duration]| took[(took.len() - 1) * 99 / 100];
    assert!(p99(&loud) <= MAX_P99, "{:?}", p99(&loud));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let bound = p99(&quiet).mul_f64(MAX_P99_RATIO);
    assert!(cores < MIN_CORES || p99(&loud) <= bound, "{:?} is more than {bound:?}", p99(&loud));
    assert!(in_time("an answer", others[0].log("@partner0")).await.len() > 1);
}
