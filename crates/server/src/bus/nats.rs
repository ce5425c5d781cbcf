//! The bus over NATS: core messages, nothing of it stored.
//!
//! A node has two connections. Over the one it tells and listens; over the other it hears its own marks, which prove that
//! the bus has taken what was said before them, and sends probes, which prove that it hears. Three tasks share the first:
//! one tells, one changes where this node listens, one takes in what it hears.

mod echo;
mod feed;
mod hear;
mod link;
mod listen;
mod payload;
mod speak;
mod subject;
#[cfg(test)]
mod tests;
mod wanted;

use std::path::PathBuf;
use std::sync::Arc;

use async_nats::Client;
use async_nats::connection::State;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::echo::Echoes;
use self::hear::Hearer;
use self::link::{Link, Plan};
use self::listen::Listener;
use self::payload::Codec;
use self::speak::Voice;
use self::subject::{Place, Subjects};
use self::wanted::Wanted;
use super::{Address, Bus, Heard, NodeId, Notice, NoticeKey};
use crate::config::EngineUrl;
use crate::metrics::Metrics;
use crate::record::Answer;
use crate::refusal::Refusal;
use crate::tasks::Tasks;

/// What the router has not taken yet. Beyond, notices are dropped, and it is told of a gap.
const HEARD: usize = 4_096;

/// New subscriptions on their way among the others.
const FEEDS: usize = 64;

/// Where NATS is, and who this node is for it.
#[derive(Debug, Clone)]
pub(crate) struct NatsSettings {
    /// Its servers, `nats://` or `tls://`, with commas between them; a user and password or a token in it.
    pub(crate) url: EngineUrl,
    /// A file with a JWT and an nkey.
    pub(crate) credentials: Option<PathBuf>,
    /// A file with the certificates that its servers' are verified with, in PEM. With one, every server must have TLS.
    pub(crate) ca: Option<PathBuf>,
    /// What subjects begin with.
    pub(crate) prefix: String,
}

/// Whether the settings can be used; nothing is connected to.
pub(crate) fn check(settings: &NatsSettings) -> anyhow::Result<()> {
    Plan::new(settings).map(drop)
}

/// What the tasks of the bus share.
#[derive(Debug)]
struct Shared {
    node: NodeId,
    subjects: Subjects,
    codec: Codec,
    wanted: Wanted,
    echoes: Echoes,
    link: Arc<Link>,
    metrics: Arc<Metrics>,
    /// Cancelled when the tasks are to end.
    done: CancellationToken,
}

/// The bus over NATS. Its tasks end when nobody takes what is heard, or nobody tells.
#[derive(Debug)]
pub(crate) struct NatsBus {
    shared: Arc<Shared>,
    client: Client,
    witness: Client,
    voice: Voice,
}

/// Starts to connect; a bus that cannot be reached is tried again for as long as it takes.
///
/// # Errors
/// The settings cannot be used: a URL or the prefix is wrong, or a file cannot be read.
pub(crate) async fn connect(
    settings: &NatsSettings,
    key: &NoticeKey,
    node: NodeId,
    metrics: Arc<Metrics>,
    tasks: &Tasks,
) -> anyhow::Result<(NatsBus, mpsc::Receiver<Heard>)> {
    let (plan, subjects) = (Plan::new(settings)?, Subjects::new(&settings.prefix)?);
    let link = Link::new("bus", metrics.bus.connected.clone());
    let client = plan.connect(&link).await?;
    let witness = plan.connect(&Link::new("bus, for its health", Gauge::default())).await?;
    let shared = Arc::new(Shared {
        node,
        subjects,
        codec: Codec::new(key)?,
        wanted: Wanted::default(),
        echoes: Echoes::default(),
        link,
        metrics,
        done: CancellationToken::new(),
    });
    let (out, heard) = mpsc::channel(HEARD);
    let (feeds, new) = mpsc::channel(FEEDS);
    let (voice, speaker) = speak::new(shared.clone(), client.clone());
    listen::listen_to_itself(&shared, &witness, &feeds).await?;
    let listener = Listener::new(shared.clone(), client.clone(), witness.clone(), feeds, out.clone());
    let hearer = Hearer::new(shared.clone(), new, out.clone());
    let own = |tasks: &Tasks, name, task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        let cut = tasks.cut().clone();
        tasks.spawn_critical(name, async move {
            cut.run_until_cancelled(task).await;
        });
    };
    own(tasks, "bus reader", Box::pin(hearer.run()));
    own(tasks, "bus listener", Box::pin(listener.run()));
    // It ends with the router, and a moment later: the last word of a node that is cut off is that it is gone.
    tasks.spawn_critical("bus speaker", speaker.run(out));
    Ok((NatsBus { shared, client, witness, voice }, heard))
}

impl NatsBus {
    /// Whether there is a connection, as far as is known.
    pub(crate) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }
}

impl Bus for NatsBus {
    fn tell(&self, address: &Address, notice: &Notice) {
        if !(self.is_connected() && self.voice.tell(&self.shared, address, notice)) {
            self.shared.metrics.bus.dropped.inc();
        }
    }

    fn listen(&self, address: Address) {
        self.shared.wanted.listen(address);
    }

    fn ignore(&self, address: Address) {
        self.shared.wanted.ignore(Place::of(&address));
    }

    fn probe(&self) -> Answer<()> {
        // What is told without a connection lies and waits.
        let connected = self.is_connected() && self.witness.connection_state() == State::Connected;
        let (shared, witness) = (self.shared.clone(), self.witness.clone());
        Box::pin(async move {
            let refused =
                |message: &'static str| Refusal { message: message.into(), ..Refusal::unavailable() };
            if !connected {
                return Err(refused("NATS is not connected"));
            }
            let subject = shared.subjects.of(subject::probe(shared.node));
            let mut expected = shared.echoes.expect();
            let sent = witness.publish(subject, expected.payload()).await;
            sent.map_err(|_| refused("NATS takes no messages"))?;
            expected.heard().await;
            Ok(())
        })
    }
}
