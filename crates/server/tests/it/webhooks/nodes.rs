//! Servers of a run: processes that are killed and start again, with a clock that the test moves.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{SECRET, rows};
use crate::support::{FailingDisk, Process, SharedEngines};

/// How long a call may take before it is sent to another node.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a caller waits after a call that failed.
const RETRY_DELAY: Duration = Duration::from_millis(20);

/// The clock of all servers.
#[derive(Clone)]
pub(crate) struct MovedClock {
    disk: Arc<FailingDisk>,
    offset: Arc<AtomicI64>,
}

impl MovedClock {
    /// By how many seconds it was moved.
    pub(crate) fn offset(&self) -> i64 {
        self.offset.load(Ordering::SeqCst)
    }

    pub(crate) fn advance(&self, seconds: i64) {
        let offset = self.offset.fetch_add(seconds, Ordering::SeqCst) + seconds;
        self.disk.control.set_clock_offset(offset);
    }
}

/// Calls the servers over HTTP.
#[derive(Clone)]
pub(crate) struct Door {
    http: reqwest::Client,
    addresses: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Door {
    /// Calls one node after another until one answers `ok`.
    pub(crate) async fn posts(&self, first: usize, command: &str, body: &Value) -> Value {
        for turn in first.. {
            let address = {
                let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
                addresses[turn % addresses.len()]
            };
            let call = self.http.post(format!("http://{address}/v1/{command}")).json(body);
            if let Ok(answer) = call.timeout(CALL_TIMEOUT).send().await {
                let status = answer.status().as_u16();
                match answer.json::<Value>().await {
                    Ok(body) if status == 200 => return body,
                    Ok(problem) => assert!(problem["retryable"] == true, "{command}: {problem}"),
                    Err(_) => {}
                }
            }
            // waits for: the start of a server that was killed
            tokio::time::sleep(RETRY_DELAY).await;
        }
        unreachable!("it ends with an answer")
    }

    pub(crate) async fn list(&self) -> Vec<Value> {
        let list = self.posts(0, "list_webhooks", &json!({})).await;
        list["webhooks"].as_array().expect("webhooks").clone()
    }
}

/// The servers.
pub(crate) struct Nodes {
    shared: Option<SharedEngines>,
    settings: Vec<(String, String)>,
    directories: Vec<TempDir>,
    processes: Vec<Process>,
    pub(crate) door: Door,
    pub(crate) clock: MovedClock,
}

impl Nodes {
    /// Starts one server on SQLite, or nodes on PostgreSQL with NATS.
    pub(crate) async fn start(shared: Option<SharedEngines>) -> Self {
        let count = if shared.is_some() { 3 } else { 1 };
        let disk = FailingDisk::new();
        let secret = disk.data().join("webhooks");
        std::fs::write(&secret, SECRET).expect("written");
        let mut settings = disk.environment().to_vec();
        let mut set = |name: &str, value: &str| settings.push((name.to_owned(), value.to_owned()));
        set("SWITCHBOARD_WEBHOOKS_SECRET_FILE", secret.to_str().expect("a path"));
        set("SWITCHBOARD_LIMITS_CONNECTIONS_PER_ADDRESS", "0");
        if let Some(SharedEngines { store, bus, prefix }) = &shared {
            set("SWITCHBOARD_STORE", store.expose());
            set("SWITCHBOARD_BUS", bus.as_ref().expect("a bus").expose());
            set("SWITCHBOARD_CLUSTER_BUS_PREFIX", prefix);
        }
        let clock = MovedClock { disk: Arc::new(disk), offset: Arc::default() };
        let http = reqwest::Client::builder().no_proxy().build().expect("an HTTP client");
        let door = Door { http, addresses: Arc::default() };
        let directories = (0..count).map(|_| TempDir::new().expect("a directory")).collect();
        let mut nodes = Self { shared, settings, directories, processes: Vec::new(), door, clock };
        for number in 0..count {
            let process = nodes.start_node(number).await;
            nodes.addresses(|addresses| addresses.push(process.address()));
            nodes.processes.push(process);
        }
        nodes
    }

    fn addresses(&self, change: impl FnOnce(&mut Vec<SocketAddr>)) {
        change(&mut self.door.addresses.lock().unwrap_or_else(PoisonError::into_inner));
    }

    async fn start_node(&self, number: usize) -> Process {
        let name = format!("chat-{number}");
        let mut settings: Vec<_> =
            self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        settings.push(("SWITCHBOARD_NAME", &name));
        Process::start_with_log(self.directories[number].path(), &settings, Stdio::null()).await
    }

    /// The first server.
    pub(crate) fn first(&self) -> &Process {
        &self.processes[0]
    }

    pub(crate) fn are_several(&self) -> bool {
        self.shared.is_some()
    }

    /// The number of the node that sends for a webhook.
    async fn sender_of(&self, webhook: &str) -> usize {
        let list = self.door.list().await;
        let found = list.iter().find(|listed| listed["name"] == webhook).expect("the webhook");
        let number = found["node"].as_str().and_then(|node| node.strip_prefix("chat-"));
        number.map_or(0, |number| number.parse().expect("a number"))
    }

    /// Stops the node that sends for a webhook for a while.
    pub(crate) async fn freeze_sender_of(&self, webhook: &str, time: Duration) {
        let process = &self.processes[self.sender_of(webhook).await];
        process.signal("STOP").await;
        // waits for: the end of the lease of the node
        tokio::time::sleep(time).await;
        process.signal("CONT").await;
    }

    /// Kills the node that sends for a webhook, and starts it again.
    pub(crate) async fn kill_sender_of(&mut self, webhook: &str) {
        let number = self.sender_of(webhook).await;
        self.processes[number].kill_now().await;
        if let Some(shared) = &self.shared {
            // The lease of a node that is gone ends after 30 s of the database's clock, which no test can move.
            shared.sql(&rows::end_leases_of(number)).await;
        }
        self.processes[number] = self.start_node(number).await;
        let address = self.processes[number].address();
        self.addresses(|addresses| addresses[number] = address);
    }
}
