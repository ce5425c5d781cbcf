//! Everybody who talks, from the beginning of a run to its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::device::{Device, Standing};
use crate::record::Law;
use crate::report::say;
use crate::sdk::Sdk;
use crate::spawn;
use crate::verify::{self, Logs};
use crate::world::{Phase, SDK_USERS, World};

/// Devices of each user behind the Rust client.
const DEVICES: usize = 2;

/// How long everybody has, after the faults, to have everything acknowledged.
const SETTLING: Duration = Duration::from_secs(90);

/// How often it says how it stands.
const PROGRESS: Duration = Duration::from_secs(10);

/// The devices on the Rust client, and a voice that says how they stand.
pub(crate) struct Company {
    devices: Vec<JoinHandle<Standing>>,
    voice: JoinHandle<()>,
}

impl Company {
    pub(crate) fn gather(world: &Arc<World>, rng: &mut fastrand::Rng) -> Self {
        let devices = (0..DEVICES)
            .flat_map(|number| world.users.iter().map(move |user| (user.clone(), number)))
            .map(|(user, number)| spawn(Device::new(world.clone(), user, number, rng.fork()).live()))
            .collect();
        Self { devices, voice: spawn(progress(world.clone())) }
    }
}

/// The programs on the SDK.
pub(crate) fn programs(world: &Arc<World>, rng: &mut fastrand::Rng) -> anyhow::Result<Vec<Sdk>> {
    let mut sdks = Vec::new();
    for users in world.sdk_users.chunks(SDK_USERS) {
        sdks.extend(Sdk::start(world, users, rng.u64(..u64::from(u32::MAX)))?);
    }
    Ok(sdks)
}

/// Lets everybody finish, and holds what there is against what was promised. Returns how many messages are in the log.
pub(crate) async fn to_the_end(
    world: &Arc<World>,
    phase: &watch::Sender<Phase>,
    company: Company,
    sdks: Vec<Sdk>,
) -> u64 {
    company.voice.abort();
    let stored = match settle(world, phase, company.devices, sdks).await {
        Ok(logs) => logs.stored,
        // A client that died is to be looked into like anything else, and so is what was found before.
        Err(error) => {
            world.record.breach(
                Law::Stuck,
                format!("the run does not come to its end: {error:#}"),
                &[],
                None,
            );
            0
        }
    };
    if world.record.counts().acknowledged == 0 {
        world.record.breach(
            Law::Stuck,
            "nothing was acknowledged: that proves nothing".to_owned(),
            &[],
            None,
        );
    }
    stored
}

/// Lets everybody finish, and holds what there is against what was promised.
async fn settle(
    world: &Arc<World>,
    phase: &watch::Sender<Phase>,
    devices: Vec<JoinHandle<Standing>>,
    mut sdks: Vec<Sdk>,
) -> anyhow::Result<Logs> {
    phase.send_replace(Phase::Calm);
    for sdk in &mut sdks {
        if !sdk.settle().await? {
            world.record.breach(
                Law::Stuck,
                "the SDK has not had everything acknowledged".to_owned(),
                &[],
                None,
            );
        }
    }
    let deadline = Instant::now() + SETTLING;
    while world.quiet.load(Ordering::SeqCst) < devices.len() && Instant::now() < deadline {
        sleep(Duration::from_millis(50)).await;
    }
    phase.send_replace(Phase::End);
    let mut standings = Vec::new();
    for device in devices {
        standings.push(device.await?);
    }
    let logs = match verify::everything(world, &standings).await {
        Ok(logs) => logs,
        // Everybody may read it now.
        Err(error) => {
            world.record.breach(Law::Answer, format!("the log cannot be read: {error:#}"), &[], None);
            return Ok(Logs::default());
        }
    };
    let last = logs.messages.iter().filter_map(|(id, all)| Some((id.clone(), all.last()?.0))).collect();
    for sdk in sdks {
        match sdk.finish(&last).await? {
            Some(screens) => verify::screens(world, &logs, &screens),
            None => world.record.breach(Law::Stuck, "the SDK does not show everything".to_owned(), &[], None),
        }
    }
    Ok(logs)
}

async fn progress(world: Arc<World>) {
    let begun = Instant::now();
    loop {
        sleep(PROGRESS).await;
        let (counts, faults) = (world.record.counts(), world.record.lock().faults);
        say(&format!(
            "{:>5} s: {faults} faults, {} tried, {} acknowledged, {} delivered",
            begun.elapsed().as_secs(),
            counts.tried,
            counts.acknowledged,
            counts.delivered
        ));
    }
}
