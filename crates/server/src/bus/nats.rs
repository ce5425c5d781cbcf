//! The bus over NATS: core messages, without storage in NATS.
//!
//! A node has two connections. It publishes and subscribes over the first one. A *barrier* is a message that it sends over the
//! first connection and receives over the second one: its arrival proves that the NATS server has processed everything sent before
//! it. A *probe* is sent over the second connection and received over the first one: its arrival proves that the first connection
//! receives. Three tasks use the first connection: one publishes, one manages subscriptions, one receives.

mod connection;
mod desired;
pub(crate) mod payload;
mod publish;
mod receive;
mod round_trip;
pub(crate) mod subject;
mod subscribe;
mod subscription;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use async_nats::Client;
use async_nats::connection::State;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::connection::{ConnectionPlan, ConnectionState};
use self::desired::DesiredSubscriptions;
use self::payload::Codec;
use self::publish::Publisher;
use self::receive::MessageReceiver;
use self::round_trip::RoundTrips;
use self::subject::{SubjectKey, Subjects};
use self::subscribe::SubscriptionManager;
use super::{Address, Bus, BusEvent, NodeId, Notice};
use crate::engine_url::EngineUrl;
use crate::metrics::Metrics;
use crate::node_name::NodeName;
use crate::tasks::Tasks;
use switchboard_store::record::Answer;
use switchboard_store::record::NoticeKey;
use switchboard_store::refusal::Refusal;

/// The most bus events that wait for the router. Beyond this number, notices are dropped and the router receives a gap.
const MAX_QUEUED_EVENTS: usize = 4_096;

/// The most new subscriptions that wait for the receiving task.
const MAX_QUEUED_SUBSCRIPTIONS: usize = 64;

/// Where NATS is, and how this node authenticates.
#[derive(Debug, Clone)]
pub(crate) struct NatsSettings {
    /// Comma-separated `nats://` or `tls://` URLs of the NATS servers, with a user and password or a token.
    pub(crate) url: EngineUrl,
    /// Path of a credentials file with a JWT and an nkey.
    pub(crate) credentials: Option<PathBuf>,
    /// Path of the CA certificates in PEM that verify the servers. If it is set, every server must use TLS.
    pub(crate) ca: Option<PathBuf>,
    /// The first tokens of every subject, so that several installations can share a NATS server.
    pub(crate) prefix: String,
    /// The name of this node, for NATS' list of connections.
    pub(crate) name: NodeName,
}

/// Checks the settings without connecting.
pub(crate) fn check(settings: &NatsSettings) -> anyhow::Result<()> {
    ConnectionPlan::new(settings).map(drop)
}

/// Connects once, to check the settings.
pub(crate) async fn try_connect(settings: &NatsSettings) -> anyhow::Result<()> {
    ConnectionPlan::new(settings)?.try_connect().await
}

/// State that the bus's tasks share.
#[derive(Debug)]
struct Shared {
    node: NodeId,
    subjects: Subjects,
    codec: Codec,
    desired: DesiredSubscriptions,
    round_trips: RoundTrips,
    connection: Arc<ConnectionState>,
    metrics: Arc<Metrics>,
    /// The token that is cancelled to end the tasks.
    done: CancellationToken,
}

/// The bus over NATS. Its tasks end when the router drops the receiver of bus events, or this handle is dropped.
#[derive(Debug)]
pub(crate) struct NatsBus {
    shared: Arc<Shared>,
    client: Client,
    /// A second connection to NATS. The messages that this node sends to itself cross from one connection to the other: barriers,
    /// which show that NATS has handled all earlier requests of `client`, arrive here; probes of readiness leave here.
    probe_client: Client,
    publisher: Publisher,
}

/// Starts the connections. While NATS cannot be reached, the client retries without end.
///
/// # Errors
/// The settings cannot be used: a URL or the prefix is wrong, or a file cannot be read.
pub(crate) async fn connect(
    settings: &NatsSettings,
    key: &NoticeKey,
    node: NodeId,
    metrics: Arc<Metrics>,
    tasks: &Tasks,
) -> anyhow::Result<(NatsBus, mpsc::Receiver<BusEvent>)> {
    let (plan, subjects) = (ConnectionPlan::new(settings)?, Subjects::new(&settings.prefix)?);
    let connection = ConnectionState::new("bus", &plan, metrics.bus.connected.clone());
    let client = plan.connect(&connection).await?;
    let probe_client =
        plan.connect(&ConnectionState::new("bus, for its health", &plan, Gauge::default())).await?;
    let shared = Arc::new(Shared {
        node,
        subjects,
        codec: Codec::new(key)?,
        desired: DesiredSubscriptions::default(),
        round_trips: RoundTrips::default(),
        connection,
        metrics,
        done: CancellationToken::new(),
    });
    let (out, events) = mpsc::channel(MAX_QUEUED_EVENTS);
    let (subscriptions, new) = mpsc::channel(MAX_QUEUED_SUBSCRIPTIONS);
    let (publisher, publish_task) = publish::new(shared.clone(), client.clone());
    subscribe::subscribe_to_own_messages(&shared, &probe_client, &subscriptions).await?;
    let manager = SubscriptionManager::new(
        shared.clone(),
        client.clone(),
        probe_client.clone(),
        subscriptions,
        out.clone(),
    );
    let receiver = MessageReceiver::new(shared.clone(), new, out.clone());
    let spawn_until_cut = |tasks: &Tasks, name, task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        let cut = tasks.deadline_passed().clone();
        tasks.spawn_critical(name, async move {
            cut.run_until_cancelled(task).await;
        });
    };
    spawn_until_cut(tasks, "bus receiver", Box::pin(receiver.run()));
    spawn_until_cut(tasks, "bus subscriptions", Box::pin(manager.run()));
    // This task outlives the router for a moment, to send the router's last notice, which says that the node has stopped.
    tasks.spawn_critical("bus publisher", publish_task.run(out));
    Ok((NatsBus { shared, client, probe_client, publisher }, events))
}

impl NatsBus {
    /// Whether the NATS client reports that it is connected.
    pub(crate) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }
}

impl Bus for NatsBus {
    fn publish(&self, address: &Address, notice: &Notice) {
        if !(self.is_connected() && self.publisher.enqueue(&self.shared, address, notice)) {
            self.shared.metrics.bus.dropped.inc();
        }
    }

    fn subscribe(&self, address: Address) {
        self.shared.desired.subscribe(address);
    }

    fn unsubscribe(&self, address: Address) {
        self.shared.desired.remove(SubjectKey::for_address(&address));
    }

    fn probe(&self) -> Answer<()> {
        // Without a connection the client would queue the probe instead of sending it.
        let connected = self.is_connected() && self.probe_client.connection_state() == State::Connected;
        let (shared, client) = (self.shared.clone(), self.probe_client.clone());
        Box::pin(async move {
            let refused =
                |message: &'static str| Refusal { message: message.into(), ..Refusal::unavailable() };
            if !connected {
                return Err(refused("NATS is not connected"));
            }
            let subject = shared.subjects.name_of(subject::probe_subject(shared.node));
            let mut pending = shared.round_trips.begin();
            let sent = client.publish(subject, pending.payload()).await;
            sent.map_err(|_| refused("NATS does not accept messages"))?;
            pending.wait_until_completed().await;
            Ok(())
        })
    }
}
