//! What goes wrong, by a schedule that its seed decides.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;
use faults::{Dropped, KillPoint, Syncs};
use rustix::process::Signal;
use switchboard_client::{Client, ClientError};
use switchboard_protocol::{Key, Send, Seq, Sync, Target, Text};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::proxy::Proxy;
use crate::record::{Law, Sent, digest};
use crate::schedule::{Schedule, Weighted};
use crate::sdk::Sdk;
use crate::server::Server;
use crate::world::{World, hello};

/// From one fault to the next, on average.
const CALM: Duration = Duration::from_millis(500);

/// How often a server that ends while it starts is started again.
const STARTS: usize = 20;

/// How long a server may take until it comes to the place where it is killed.
const RUNNING_INTO: Duration = Duration::from_secs(2);

/// How long a server may take to stop when it is asked to.
const STOPPING: Duration = Duration::from_secs(30);

/// How long an answer may take, of a server that is otherwise well.
const ANSWER: Duration = Duration::from_secs(10);

/// Connections of a flood that say nothing.
const SILENT: usize = 300;

/// Frames of the one that does not stop.
const LOUD: usize = 5_000;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Fault {
    /// kill -9 of the server, at any moment.
    Kill,
    /// kill -9 at a chosen place: before or after the sync of a commit, between `ok` and delivery, in a write.
    KillAt,
    /// kill -9, and what was not synced is gone, as when the power fails.
    PowerCut,
    /// The disk is full for a while.
    DiskFull,
    /// A sync fails, and the disk has dropped what it should have written.
    FailSync,
    /// Syncs take long.
    SlowSync,
    /// The server's clock of the day jumps.
    Clock,
    /// The server is asked to stop, and started again.
    Restart,
    /// The server stands still for a while.
    Stop,
    /// The SDK's program stands still for a while.
    StopClient,
    /// Connections are cut.
    Cut,
    /// Connections go dead without a word.
    HalfOpen,
    /// The network is slow, or takes its time.
    Slow,
    /// Hundreds of connections that say nothing, and one that does not stop.
    Flood,
}

impl Fault {
    /// What it is called on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

impl Weighted for Fault {
    fn weight(self) -> u32 {
        match self {
            Self::Kill => 35,
            Self::KillAt => 30,
            Self::PowerCut => 20,
            Self::DiskFull => 3,
            Self::FailSync => 5,
            Self::SlowSync => 3,
            Self::Clock => 6,
            Self::Restart => 4,
            Self::Stop => 6,
            Self::StopClient => 5,
            Self::Cut => 12,
            Self::HalfOpen => 6,
            Self::Slow => 7,
            Self::Flood => 3,
        }
    }
}

/// Breaks things, and mends them.
pub(crate) struct Nemesis {
    world: Arc<World>,
    server: Server,
    proxy: Proxy,
    sdks: Vec<Sdk>,
    rng: fastrand::Rng,
    pub(crate) schedule: Schedule<Fault>,
    /// Power cuts, those after other faults included.
    pub(crate) power_cuts: u64,
}

impl Nemesis {
    pub(crate) fn new(
        world: Arc<World>,
        server: Server,
        proxy: Proxy,
        sdks: Vec<Sdk>,
        faults: Vec<Fault>,
        mut rng: fastrand::Rng,
    ) -> Self {
        let schedule = Schedule::new(faults, CALM, &mut rng);
        Self { world, server, proxy, sdks, rng, schedule, power_cuts: 0 }
    }

    /// Goes on until then, and leaves everything mended.
    pub(crate) async fn rage(&mut self, end: Instant) -> anyhow::Result<()> {
        while Instant::now() < end && self.world.record.lock().breaches.is_empty() {
            let Some(fault) = self.schedule.next(&mut self.rng, end).await else { continue };
            self.inflict(fault).await?;
            if self.server.process.has_ended() {
                let what = format!("the server ended by itself:\n{}", self.server.process.last_words());
                self.world.record.breach(Law::Stuck, what, &[], None);
                self.start().await?;
            }
        }
        self.proxy.heal();
        self.server.disk.clear();
        Ok(())
    }

    async fn inflict(&mut self, fault: Fault) -> anyhow::Result<()> {
        self.world.record.fault(format!("{fault:?}"));
        match fault {
            Fault::Kill => {
                self.server.process.kill().await?;
                self.rest(0..300).await;
                self.start().await?;
            }
            Fault::KillAt => self.kill_at().await?,
            Fault::PowerCut => {
                self.server.process.kill().await?;
                self.cut_power()?;
                self.start().await?;
            }
            Fault::DiskFull => {
                self.server.disk.set_full(Some(self.rng.u64(..100_000)));
                self.rest(200..3_000).await;
                self.server.disk.set_full(None);
            }
            Fault::FailSync => self.fail_sync().await?,
            Fault::SlowSync => {
                self.server.disk.set_sync_delay(Duration::from_millis(self.rng.u64(1..100)));
                self.rest(200..2_000).await;
                self.server.disk.set_sync_delay(Duration::ZERO);
            }
            // It stays there: the next jump is from there, and so is the next start.
            Fault::Clock => self.server.disk.set_clock_offset(self.rng.i64(-7_200..7_200)),
            Fault::Restart => {
                self.server.process.signal(Signal::TERM);
                if !self.server.process.ends_within(STOPPING).await? {
                    self.world.record.breach(Law::Stuck, "the server did not stop".to_owned(), &[], None);
                    self.server.process.kill().await?;
                }
                self.start().await?;
            }
            Fault::Stop => {
                self.server.process.signal(Signal::STOP);
                self.rest(100..3_000).await;
                self.server.process.signal(Signal::CONT);
            }
            Fault::StopClient => {
                self.sdks.iter().for_each(|sdk| sdk.signal(Signal::STOP));
                self.rest(500..6_000).await;
                self.sdks.iter().for_each(|sdk| sdk.signal(Signal::CONT));
            }
            Fault::Cut | Fault::HalfOpen | Fault::Slow => self.disturb_network(fault).await,
            Fault::Flood => self.flood().await,
        }
        Ok(())
    }

    async fn disturb_network(&mut self, fault: Fault) {
        let share = self.rng.f64();
        match fault {
            Fault::Cut => {
                let rng = &mut self.rng;
                self.proxy.cut(|| rng.f64() < share);
                return;
            }
            Fault::HalfOpen => {
                let rng = &mut self.rng;
                self.proxy.half_open(|| rng.f64() < share / 2.0);
            }
            _ if self.rng.bool() => self.proxy.slow(true),
            _ => self.proxy.delay(Duration::from_millis(self.rng.u64(10..300))),
        }
        self.rest(500..6_000).await;
        self.proxy.heal();
    }

    /// Lets the server run into its death, and starts it again; it may die again while it starts.
    async fn kill_at(&mut self) -> anyhow::Result<()> {
        let n = self.rng.u64(1..20);
        let point = match self.rng.u32(..5) {
            0 => KillPoint::BeforeWalSync(n),
            1 => KillPoint::AfterWalSync(n),
            2 => KillPoint::AfterSocketWrite(n),
            3 => KillPoint::AtWrite(self.rng.u64(1..200)),
            _ => KillPoint::InWrite(self.rng.u64(1..200)),
        };
        self.world.record.fault(format!("{point:?}"));
        self.server.disk.set_kill(Some(point));
        // Where nothing is written any more, it is killed at once.
        if !self.server.process.ends_within(RUNNING_INTO).await? {
            self.server.process.kill().await?;
        }
        if self.rng.bool() {
            self.cut_power()?;
        }
        // Among the first writes of a server are those of its recovery.
        let recovery = self.rng.u64(1..60);
        self.server.disk.set_kill((self.rng.u32(..4) == 0).then_some(KillPoint::InWrite(recovery)));
        self.start().await
    }

    fn cut_power(&mut self) -> anyhow::Result<()> {
        let cut = self.server.disk.cut_power(&mut self.rng)?;
        self.power_cuts += 1;
        self.world.record.fault(format!("{cut:?}"));
        Ok(())
    }

    /// The server must refuse every write after it, until it is started again, and go on to read.
    async fn fail_sync(&mut self) -> anyhow::Result<()> {
        let (which, dropped) = match self.rng.u32(..4) {
            0 => (Syncs::Other, Dropped::AtOnce),
            1 => (Syncs::Other, Dropped::Later),
            2 => (Syncs::Wal, Dropped::AtOnce),
            _ => (Syncs::Wal, Dropped::Later),
        };
        self.server.disk.fail_sync(1, which, dropped);
        self.rest(300..3_000).await;
        // The database itself is synced at checkpoints only.
        let failed = self.server.disk.sync_failures_left() == 0;
        self.server.disk.fail_sync(0, which, dropped);
        self.world.record.fault(format!("{which:?} {dropped:?}, failed: {failed}"));
        if failed && let Err(why) = self.reads_go_on().await {
            self.world.record.breach(Law::Answer, format!("after a failed sync {why}"), &[], None);
        }
        self.server.process.kill().await?;
        // Without a power cut, what was dropped may still be read from the cache, now and until the next one.
        if self.rng.bool() {
            self.cut_power()?;
        }
        self.start().await
    }

    /// Whether a write is refused as it should, and a read answered.
    async fn reads_go_on(&self) -> Result<(), String> {
        let user = &self.world.users[0];
        let connected = timeout(ANSWER, Client::connect(self.world.direct(0), hello(user))).await;
        let Ok(Ok((mut client, _))) = connected else { return Err("nobody can connect".to_owned()) };
        let conversation = self.world.rooms[0].id.clone();
        let room = Target::from(conversation.clone());
        let (key, text) =
            (format!("refused.{}", self.schedule.done()[&Fault::FailSync]), "a write that must be refused");
        let sent = Sent {
            conversation,
            from: user.clone(),
            device: u32::MAX,
            number: 0,
            text: digest(text),
            acked: None,
            refused: true,
        };
        self.world.record.tried(&key, sent);
        let send = Send {
            to: room.clone(),
            text: Text::parse(text).ok(),
            data: None,
            key: Key::parse(&key).ok(),
            reply_to: None,
        };
        match timeout(ANSWER, client.call(send)).await {
            Ok(Err(ClientError::Refused(failure))) if failure.retryable => {}
            other => return Err(format!("a write was answered with {other:?}")),
        }
        let sync = Sync { conversation: room, after: Seq(0), limit: Some(1) };
        match timeout(ANSWER, client.call(sync)).await {
            Ok(Ok(_)) => Ok(()),
            other => Err(format!("a read was answered with {other:?}")),
        }
    }

    /// Whatever becomes of these connections, the others must not notice.
    async fn flood(&mut self) {
        let mut silent = Vec::new();
        for _ in 0..SILENT {
            silent.extend(TcpStream::connect(self.server.address).await);
        }
        let hello = hello(&self.world.users[0]);
        if let Ok((mut loud, _)) = Client::connect(self.world.direct(0), hello).await {
            for n in 0..LOUD {
                let nonsense =
                    ["[]", "{\"type\":\"send\"}", "{\"type\":\"sync\",\"conversation\":\"#nowhere\"}"];
                if loud.send_raw(nonsense[n % nonsense.len()]).await.is_err() {
                    break;
                }
                // The answers are read, as far as they are there: a server need not read on otherwise.
                while let Ok(Some(_)) = timeout(Duration::ZERO, loud.next()).await {}
            }
        }
        self.rest(100..2_000).await;
    }

    /// Starts the server, which must come back by itself, whatever happened.
    async fn start(&mut self) -> anyhow::Result<()> {
        for _ in 0..STARTS {
            if self.server.start().await? {
                // One for the recovery that was not reached.
                self.server.disk.set_kill(None);
                return Ok(());
            }
        }
        bail!("the server does not come back after {STARTS} starts:\n{}", self.server.process.last_words())
    }

    async fn rest(&mut self, millis: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.rng.u64(millis))).await;
    }

    /// Gives back what it had in its hands.
    pub(crate) fn into_parts(self) -> (Server, Vec<Sdk>) {
        (self.server, self.sdks)
    }
}
