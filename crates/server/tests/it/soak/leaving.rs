//! Most of the users of three nodes lose their connections at once, and many come back: others go on sending at their pace.

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
use crate::support::{Person, Process, Raw, Shared, crowd, room_for_a_crowd, soon};

const NODES: usize = 3;

/// Users who leave, each with a direct conversation, and how many of them come back.
const LEAVING: usize = 50_000;
const COMING_BACK: usize = 10_000;

/// In which time they come back.
const RETURN: Duration = Duration::from_secs(10);

/// Others on each node, and the time from one send of theirs to the next.
const OTHERS: usize = 2;
const SEND_INTERVAL: Duration = Duration::from_millis(20);

/// How long the quiet part takes, and the loud one: users go offline 5 s after their last connection.
const QUIET: Duration = Duration::from_secs(20);
const LOUD: Duration = Duration::from_secs(15);

/// How much later than in the quiet part the slowest sends of a hundred may be acknowledged.
const BOUND: f64 = 1.5;

/// The least number of cores for that: on fewer, what waits is the processor, which clients, database, bus and nodes share.
const CORES: usize = 8;

/// How late the slowest sends of a hundred may be on any machine.
const LONGEST_P99: Duration = Duration::from_millis(250);

/// In which variable a process of clients finds the address of its node.
const NODE: &str = "SOAK_LEAVING_NODE";

/// In which variables it finds the numbers of its users, and in how many milliseconds they are to connect.
const FIRST: &str = "SOAK_LEAVING_FIRST";
const END: &str = "SOAK_LEAVING_END";
const OVER: &str = "SOAK_LEAVING_OVER";

/// What it says when all of them are connected.
const CONNECTED: &str = "all connected";

/// Connects these users to a node, over a time or, if that is none, as fast as it goes.
async fn connect(node: SocketAddr, users: Range<usize>, over: Duration) -> Vec<Raw> {
    let connects = |address, number| async move {
        let mut raw = Raw::connect(address).await;
        raw.enters_as(&rows::customer(number)).await;
        raw
    };
    if over.is_zero() {
        return crowd(users, node, connects).await;
    }
    let (begun, count, mut connecting) = (Instant::now(), users.len(), JoinSet::new());
    for (index, number) in users.enumerate() {
        // waits for: the rate at which they come
        tokio::time::sleep_until(begun + over.mul_f64(index as f64 / count as f64)).await;
        connecting.spawn(connects(node, number));
    }
    connecting.join_all().await
}

/// The process of clients that [`Clients`] starts: a process has too few descriptors for all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "soak"]
async fn clients_of_one_node() {
    let Ok(node) = std::env::var(NODE) else { return };
    let _room = room_for_a_crowd().await;
    let number = |name| std::env::var(name).ok().and_then(|number| number.parse().ok()).expect("a number");
    let users = number(FIRST)..number(END);
    let over = Duration::from_millis(number(OVER) as u64);
    let _connected = connect(node.parse().expect("an address"), users, over).await;
    println!("{CONNECTED}");
    std::future::pending::<()>().await;
}

/// Clients in a process of their own, which is killed when this is dropped: then all of them leave at once.
struct Clients {
    process: Child,
    /// It goes on only as long as what it prints can be read.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Clients {
    async fn connect(node: SocketAddr, users: Range<usize>, over: Duration) -> Self {
        // Clients have machines of their own: here those that come while others are measured leave the processor to the nodes.
        let priority = if over.is_zero() { "0" } else { "19" };
        let mut program = Command::new("nice");
        program
            .args(["-n", priority])
            .arg(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "--nocapture", "soak::leaving::clients_of_one_node"])
            .env(NODE, node.to_string())
            .env(FIRST, users.start.to_string())
            .env(END, users.end.to_string())
            .env(OVER, over.as_millis().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut process = program.spawn().expect("it starts");
        let mut output = BufReader::new(process.stdout.take().expect("its output")).lines();
        while let Some(line) = output.next_line().await.expect("readable") {
            if line.contains(CONNECTED) {
                return Self { process, _output: output };
            }
        }
        panic!("clients could not connect")
    }

    /// Ends all of its connections, without a word.
    async fn leave(mut self) {
        self.process.kill().await.expect("it ran");
    }
}

/// How long sends until a time waited for their `ok`, shortest first. Prints the longest waits of each second.
async fn sends_until(end: Instant, others: &mut [Person]) -> Vec<Duration> {
    let begun = Instant::now();
    let sending = others.iter_mut().enumerate().map(async |(number, person)| {
        let (to, mut took) = (format!("@partner{number}"), Vec::new());
        let mut due = Instant::now();
        while Instant::now() < end {
            // Late sends are not made up for: each is measured from when it was due.
            due = (due + SEND_INTERVAL).max(Instant::now());
            // waits for: the rate of sends
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
        "the longest wait of each second, in ms: {:?}",
        seconds.values().map(Duration::as_millis).collect::<Vec<_>>()
    );
    let mut took: Vec<_> = took.into_iter().map(|(_, wait)| wait).collect();
    took.sort_unstable();
    took
}

/// The median, the 99th of a hundred and the longest, and how many there are.
fn summary(took: &[Duration]) -> String {
    let at = |percent| took[(took.len() - 1) * percent / 100];
    format!("p50 {:?}, p99 {:?}, longest {:?} of {}", at(50), at(99), at(100), took.len())
}

/// The nodes, on one PostgreSQL and one NATS.
async fn nodes(shared: &Shared, data: &TempDir) -> Vec<Process> {
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
async fn others_keep_their_pace_while_50_000_users_leave_three_nodes_and_10_000_come_back() {
    let _room = room_for_a_crowd().await;
    let (shared, data) = (Shared::new().await, TempDir::new().expect("a directory"));
    drop(nodes(&shared, &data).await);
    shared.sql(&rows::fill_postgres("shop", LEAVING)).await;
    let nodes = nodes(&shared, &data).await;
    let share = |number: usize, of: usize| 1 + of * number / NODES..1 + of * (number + 1) / NODES;
    let shop = nodes[0].connects("shop").await;
    let mut others = Vec::new();
    for number in 0..OTHERS * NODES {
        others.push(nodes[number % NODES].connects(&format!("other{number}")).await);
    }
    let all = |of, over| {
        let each = nodes.iter().enumerate();
        join_all(each.map(move |(n, node)| Clients::connect(node.address(), share(n, of), over)))
    };
    let begun = Instant::now();
    let clients = all(LEAVING, Duration::ZERO).await;
    println!("{LEAVING} users on {NODES} nodes after {:?}", begun.elapsed());

    let processor = || nodes.iter().map(Process::processor_time).sum::<Duration>();
    let before = processor();
    let quiet = sends_until(Instant::now() + QUIET, &mut others).await;
    let quiet_time = processor() - before;
    println!("quiet: {}; {quiet_time:?} of processor", summary(&quiet));
    let end = Instant::now() + LOUD;
    let loud = async {
        let begun = Instant::now();
        join_all(clients.into_iter().map(Clients::leave)).await;
        println!("{LEAVING} left within {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(1));
        let begun = Instant::now();
        let back = all(COMING_BACK, RETURN).await;
        println!("{COMING_BACK} came back within {:?}", begun.elapsed());
        back
    };
    let (loud, back) = tokio::join!(sends_until(end, &mut others), loud);
    let loud_time = processor() - before - quiet_time;
    println!("while they leave and come back: {}; {loud_time:?} of processor", summary(&loud));
    let gone = shared.sql(rows::USERS_SEEN).await;
    println!("{gone} are known to have gone");
    drop((back, shop));
    let p99 = |took: &[Duration]| took[(took.len() - 1) * 99 / 100];
    assert!(p99(&loud) <= LONGEST_P99, "{:?}", p99(&loud));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let bound = p99(&quiet).mul_f64(BOUND);
    assert!(cores < CORES || p99(&loud) <= bound, "{:?} is more than {bound:?}", p99(&loud));
    assert!(soon("an answer", others[0].log("@partner0")).await.len() > 1);
}
