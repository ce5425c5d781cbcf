//! Injects faults into a single server, by a schedule that a seed determines. The name is [Jepsen](https://jepsen.io)'s.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;
use faults::{DroppedPages, KillPoint, SyncFilter};
use rustix::process::Signal;
use switchboard_client::{Client, ClientError};
use switchboard_protocol::{Key, Send, Seq, Sync, Target, Text};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::proxy::Proxy;
use crate::record::{AttemptedSend, Law, hash_of};
use crate::schedule::{Schedule, Weighted};
use crate::sdk::Sdk;
use crate::server::Server;
use crate::world::{World, hello};

/// Mean time from one fault to the next.
const MEAN_FAULT_INTERVAL: Duration = Duration::from_millis(500);

/// The most attempts to start a server that exits while it starts.
const MAX_START_ATTEMPTS: usize = 20;

/// How long a server may run before it reaches its kill point; then it is killed anyway.
const KILL_POINT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a server may take to stop after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a server that has no other fault may take to answer.
const SERVER_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The number of connections in a flood that send nothing.
const SILENT_CONNECTIONS: usize = 300;

/// The number of frames that the flooding connection sends.
const FLOOD_FRAMES: usize = 5_000;

/// A kind of fault that is injected into a single server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Fault {
    /// The server is killed (SIGKILL) at a random moment.
    Kill,
    /// The server is killed at a chosen call: before or after the sync of a commit, between `ok` and delivery, during a write.
    KillAt,
    /// The server is killed, and data that was not synced is lost, as in a power cut.
    PowerCut,
    /// The disk is full for a while.
    DiskFull,
    /// A sync fails, and the disk drops the data that it should have written.
    FailSync,
    /// Syncs are slow.
    SlowSync,
    /// The server's wall clock jumps.
    Clock,
    /// The server gets SIGTERM and is started again.
    Restart,
    /// The server is suspended (SIGSTOP) for a while.
    Stop,
    /// The SDK's programs are suspended for a while.
    StopClient,
    /// Connections are reset.
    Cut,
    /// Connections become half-open: no bytes pass, and neither side gets an error.
    HalfOpen,
    /// The network has a low bandwidth or a high latency.
    Slow,
    /// Hundreds of connections send nothing, and one connection floods the server with frames.
    Flood,
}

impl Fault {
    /// The fault's name on the command line.
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

/// Injects faults into a single server, and ends each of them.
pub(crate) struct Nemesis {
    world: Arc<World>,
    server: Server,
    proxy: Proxy,
    sdks: Vec<Sdk>,
    rng: fastrand::Rng,
    pub(crate) schedule: Schedule<Fault>,
    /// How many power cuts there were, including those that followed other faults.
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
        let schedule = Schedule::new(faults, MEAN_FAULT_INTERVAL, &mut rng);
        Self { world, server, proxy, sdks, rng, schedule, power_cuts: 0 }
    }

    /// Injects faults until `end`, or until a breach, and then ends all faults.
    pub(crate) async fn run_until(&mut self, end: Instant) -> anyhow::Result<()> {
        while Instant::now() < end && self.world.record.lock().breaches.is_empty() {
            let Some(fault) = self.schedule.next(&mut self.rng, end).await else { continue };
            self.inject(fault).await?;
            if self.server.process.has_exited() {
                let what = format!("the server exited by itself:\n{}", self.server.process.log_tail());
                self.world.record.breach(Law::Stuck, what, &[], None);
                self.start_server().await?;
            }
        }
        self.proxy.heal();
        self.server.disk.clear_faults();
        Ok(())
    }

    async fn inject(&mut self, fault: Fault) -> anyhow::Result<()> {
        self.world.record.record_fault(format!("{fault:?}"));
        match fault {
            Fault::Kill => {
                self.server.process.kill().await?;
                self.sleep_random(0..300).await;
                self.start_server().await?;
            }
            Fault::KillAt => self.kill_at_write().await?,
            Fault::PowerCut => {
                self.server.process.kill().await?;
                self.cut_power()?;
                self.start_server().await?;
            }
            Fault::DiskFull => {
                self.server.disk.set_full_after(Some(self.rng.u64(..100_000)));
                self.sleep_random(200..3_000).await;
                self.server.disk.set_full_after(None);
            }
            Fault::FailSync => self.fail_sync().await?,
            Fault::SlowSync => {
                self.server.disk.set_sync_delay(Duration::from_millis(self.rng.u64(1..100)));
                self.sleep_random(200..2_000).await;
                self.server.disk.set_sync_delay(Duration::ZERO);
            }
            // The clock keeps this offset, also after a restart of the server, until the next jump.
            Fault::Clock => self.server.disk.set_clock_offset(self.rng.i64(-7_200..7_200)),
            Fault::Restart => {
                self.server.process.signal(Signal::TERM);
                if !self.server.process.exits_within(STOP_TIMEOUT).await? {
                    self.world.record.breach(Law::Stuck, "the server did not stop".to_owned(), &[], None);
                    self.server.process.kill().await?;
                }
                self.start_server().await?;
            }
            Fault::Stop => {
                self.server.process.signal(Signal::STOP);
                self.sleep_random(100..3_000).await;
                self.server.process.signal(Signal::CONT);
            }
            Fault::StopClient => {
                self.sdks.iter().for_each(|sdk| sdk.signal(Signal::STOP));
                self.sleep_random(500..6_000).await;
                self.sdks.iter().for_each(|sdk| sdk.signal(Signal::CONT));
            }
            Fault::Cut | Fault::HalfOpen | Fault::Slow => self.disturb_network(fault).await,
            Fault::Flood => self.flood_server().await,
        }
        Ok(())
    }

    async fn disturb_network(&mut self, fault: Fault) {
        let share = self.rng.f64();
        match fault {
            Fault::Cut => {
                let rng = &mut self.rng;
                self.proxy.reset(|| rng.f64() < share);
                return;
            }
            Fault::HalfOpen => {
                let rng = &mut self.rng;
                self.proxy.make_half_open(|| rng.f64() < share / 2.0);
            }
            _ if self.rng.bool() => self.proxy.set_slow(true),
            _ => self.proxy.set_delay(Duration::from_millis(self.rng.u64(10..300))),
        }
        self.sleep_random(500..6_000).await;
        self.proxy.heal();
    }

    /// Lets the server run to a kill point, and starts it again. It may be killed a second time while it starts.
    async fn kill_at_write(&mut self) -> anyhow::Result<()> {
        let n = self.rng.u64(1..20);
        let point = match self.rng.u32(..5) {
            0 => KillPoint::BeforeWalSync(n),
            1 => KillPoint::AfterWalSync(n),
            2 => KillPoint::AfterSocketWrite(n),
            3 => KillPoint::AtWrite(self.rng.u64(1..200)),
            _ => KillPoint::InWrite(self.rng.u64(1..200)),
        };
        self.world.record.record_fault(format!("{point:?}"));
        self.server.disk.set_kill(Some(point));
        // A server that writes nothing does not reach its kill point, so it is killed here.
        if !self.server.process.exits_within(KILL_POINT_TIMEOUT).await? {
            self.server.process.kill().await?;
        }
        if self.rng.bool() {
            self.cut_power()?;
        }
        // The first writes of a server are those of its recovery.
        let recovery = self.rng.u64(1..60);
        self.server.disk.set_kill((self.rng.u32(..4) == 0).then_some(KillPoint::InWrite(recovery)));
        self.start_server().await
    }

    fn cut_power(&mut self) -> anyhow::Result<()> {
        let cut = self.server.disk.cut_power(&mut self.rng)?;
        self.power_cuts += 1;
        self.world.record.record_fault(format!("{cut:?}"));
        Ok(())
    }

    /// Makes a sync fail. Until its next start, the server must refuse every write and answer reads.
    async fn fail_sync(&mut self) -> anyhow::Result<()> {
        let (which, dropped) = match self.rng.u32(..4) {
            0 => (SyncFilter::Other, DroppedPages::AtOnce),
            1 => (SyncFilter::Other, DroppedPages::Later),
            2 => (SyncFilter::Wal, DroppedPages::AtOnce),
            _ => (SyncFilter::Wal, DroppedPages::Later),
        };
        self.server.disk.fail_sync(1, which, dropped);
        self.sleep_random(300..3_000).await;
        // Only a checkpoint syncs the database file, so the server may not have made the sync that should fail.
        let failed = self.server.disk.sync_failures_left() == 0;
        self.server.disk.fail_sync(0, which, dropped);
        self.world.record.record_fault(format!("{which:?} {dropped:?}, failed: {failed}"));
        if failed && let Err(why) = self.check_reads_succeed().await {
            self.world.record.breach(Law::WrongAnswer, format!("after a failed sync {why}"), &[], None);
        }
        self.server.process.kill().await?;
        // If there is no power cut now, the program may read the dropped data from the page cache until the next power cut.
        if self.rng.bool() {
            self.cut_power()?;
        }
        self.start_server().await
    }

    /// Checks that the server refuses a write but answers a read.
    async fn check_reads_succeed(&self) -> Result<(), String> {
        let user = &self.world.users[0];
        let connected =
            timeout(SERVER_ANSWER_TIMEOUT, Client::connect(self.world.direct_url(0), hello(user))).await;
        let Ok(Ok((mut client, _))) = connected else { return Err("no client can connect".to_owned()) };
        let conversation = self.world.rooms[0].id.clone();
        let room = Target::from(conversation.clone());
        let (key, text) =
            (format!("refused.{}", self.schedule.counts()[&Fault::FailSync]), "a write that must be refused");
        let sent = AttemptedSend {
            conversation,
            from: user.clone(),
            device: u32::MAX,
            number: 0,
            text: hash_of(text),
            acked: None,
        };
        self.world.record.record_send(&key, sent);
        let send = Send {
            to: room.clone(),
            text: Text::parse(text).ok(),
            data: None,
            key: Key::parse(&key).ok(),
            reply_to: None,
        };
        match timeout(SERVER_ANSWER_TIMEOUT, client.call(send)).await {
            Ok(Err(ClientError::Refused(failure))) if failure.retryable => {}
            other => return Err(format!("a write was answered with {other:?}")),
        }
        let sync = Sync { conversation: room, after: Seq(0), limit: Some(1) };
        match timeout(SERVER_ANSWER_TIMEOUT, client.call(sync)).await {
            Ok(Ok(_)) => Ok(()),
            other => Err(format!("a read was answered with {other:?}")),
        }
    }

    /// Floods the server for a while. Other connections must not be affected.
    async fn flood_server(&mut self) {
        let mut silent = Vec::new();
        for _ in 0..SILENT_CONNECTIONS {
            silent.extend(TcpStream::connect(self.server.address).await);
        }
        let hello = hello(&self.world.users[0]);
        if let Ok((mut flooding, _)) = Client::connect(self.world.direct_url(0), hello).await {
            for n in 0..FLOOD_FRAMES {
                let nonsense =
                    ["[]", "{\"type\":\"send\"}", "{\"type\":\"sync\",\"conversation\":\"#nowhere\"}"];
                if flooding.send_raw(nonsense[n % nonsense.len()]).await.is_err() {
                    break;
                }
                // Reads the answers that have arrived, because the server reads nothing more from a client that does not read.
                while let Ok(Some(_)) = timeout(Duration::ZERO, flooding.next()).await {}
            }
        }
        self.sleep_random(100..2_000).await;
    }

    /// Starts the server again. The server must recover without help.
    async fn start_server(&mut self) -> anyhow::Result<()> {
        for _ in 0..MAX_START_ATTEMPTS {
            if self.server.start().await? {
                // The server is running, so it has not reached a kill point in its recovery; the kill point is removed.
                self.server.disk.set_kill(None);
                return Ok(());
            }
        }
        bail!(
            "the server does not recover after {MAX_START_ATTEMPTS} starts:\n{}",
            self.server.process.log_tail()
        )
    }

    async fn sleep_random(&mut self, millis: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.rng.u64(millis))).await;
    }

    /// Returns the server and the SDK's programs.
    pub(crate) fn into_server_and_sdks(self) -> (Server, Vec<Sdk>) {
        (self.server, self.sdks)
    }
}
