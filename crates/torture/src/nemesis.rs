//! What goes wrong, by a schedule that its seed decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;
use rustix::process::Signal;
use switchboard_client::Client;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::proxy::Proxy;
use crate::record::Law;
use crate::sdk::Sdk;
use crate::server::Server;
use crate::world::{World, hello};

/// How often a server that ends while it starts is started again.
const STARTS: usize = 20;

/// Connections of a flood that say nothing.
const SILENT: usize = 300;

/// Frames of the one that does not stop.
const LOUD: usize = 5_000;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Fault {
    /// kill -9 of the server, at any moment.
    Kill,
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
    /// How often it comes, among the others.
    fn weight(self) -> u32 {
        match self {
            Self::Kill => 60,
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
    faults: Vec<Fault>,
    /// How often each came.
    pub(crate) done: BTreeMap<Fault, u64>,
}

impl Nemesis {
    pub(crate) fn new(
        world: Arc<World>,
        server: Server,
        proxy: Proxy,
        sdks: Vec<Sdk>,
        faults: Vec<Fault>,
        rng: fastrand::Rng,
    ) -> Self {
        Self { world, server, proxy, sdks, rng, faults, done: BTreeMap::new() }
    }

    /// Goes on until then, and leaves everything mended.
    pub(crate) async fn rage(&mut self, end: Instant) -> anyhow::Result<()> {
        while Instant::now() < end && self.world.record.lock().breaches.is_empty() {
            let calm = Duration::from_secs_f64((-self.rng.f64().max(1e-9).ln() * 0.8).min(5.0));
            sleep_until((Instant::now() + calm).min(end)).await;
            if self.faults.is_empty() {
                continue;
            }
            let all: u32 = self.faults.iter().map(|fault| fault.weight()).sum();
            let mut chosen = self.rng.u32(..all);
            let fault = self.faults.iter().find(|fault| {
                let here = chosen < fault.weight();
                chosen = chosen.saturating_sub(fault.weight());
                here
            });
            let Some(fault) = fault.copied() else { continue };
            *self.done.entry(fault).or_default() += 1;
            self.inflict(fault).await?;
            if self.server.has_ended() {
                let what = format!("the server ended by itself:\n{}", self.server.last_words());
                self.world.record.breach(Law::Stuck, what, &[], None);
                self.start().await?;
            }
        }
        self.proxy.heal();
        Ok(())
    }

    async fn inflict(&mut self, fault: Fault) -> anyhow::Result<()> {
        self.world.record.fault(format!("{fault:?}"));
        match fault {
            Fault::Kill => {
                self.server.kill().await?;
                self.rest(0..300).await;
                self.start().await?;
            }
            Fault::Restart => {
                self.server.signal(Signal::TERM);
                if !self.server.ends_within(Duration::from_secs(30)).await? {
                    self.world.record.breach(Law::Stuck, "the server did not stop".to_owned(), &[], None);
                    self.server.kill().await?;
                }
                self.start().await?;
            }
            Fault::Stop => {
                self.server.signal(Signal::STOP);
                self.rest(100..3_000).await;
                self.server.signal(Signal::CONT);
            }
            Fault::StopClient => {
                for sdk in &self.sdks {
                    sdk.signal(Signal::STOP);
                }
                self.rest(500..6_000).await;
                for sdk in &self.sdks {
                    sdk.signal(Signal::CONT);
                }
            }
            Fault::Cut => {
                let share = self.rng.f64();
                let rng = &mut self.rng;
                self.proxy.cut(|| rng.f64() < share);
            }
            Fault::HalfOpen => {
                let share = self.rng.f64() / 2.0;
                let rng = &mut self.rng;
                self.proxy.half_open(|| rng.f64() < share);
                self.rest(500..8_000).await;
                self.proxy.heal();
            }
            Fault::Slow => {
                if self.rng.bool() {
                    self.proxy.slow(true);
                } else {
                    self.proxy.delay(Duration::from_millis(self.rng.u64(10..300)));
                }
                self.rest(500..3_000).await;
                self.proxy.heal();
            }
            Fault::Flood => self.flood().await,
        }
        Ok(())
    }

    /// Whatever becomes of these connections, the others must not notice.
    async fn flood(&mut self) {
        let mut silent = Vec::new();
        for _ in 0..SILENT {
            silent.extend(TcpStream::connect(self.server.address).await);
        }
        let hello = hello(&self.world.users[0]);
        if let Ok((mut loud, _)) = Client::connect(&self.world.direct, hello).await {
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
            if self.server.start(|_| {}).await? {
                return Ok(());
            }
        }
        bail!("the server does not come back:\n{}", self.server.last_words())
    }

    async fn rest(&mut self, millis: std::ops::Range<u64>) {
        sleep(Duration::from_millis(self.rng.u64(millis))).await;
    }

    /// Gives back what it had in its hands.
    pub(crate) fn into_parts(self) -> (Server, Vec<Sdk>) {
        (self.server, self.sdks)
    }
}
