//! Starts the clients of a run, stops them and verifies the results.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::device::{Device, FinalState};
use crate::held::HeldMessages;
use crate::record::Law;
use crate::report::{Outcome, print_line};
use crate::sdk::Sdk;
use crate::spawn;
use crate::verify::{self, Logs};
use crate::world::{Phase, SDK_USERS, World};

/// The number of devices that each user of the Rust client has.
const DEVICES_PER_USER: usize = 2;

/// After the faults, how long clients may take until everything that they sent is acknowledged.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(90);

/// How often progress is printed.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// The devices on the Rust client, and a task that prints their progress.
pub(crate) struct Devices {
    tasks: Vec<JoinHandle<FinalState>>,
    held: HeldMessages,
    progress: JoinHandle<()>,
}

impl Devices {
    pub(crate) async fn start(world: &Arc<World>, rng: &mut fastrand::Rng) -> anyhow::Result<Self> {
        let held = HeldMessages::start(world, rng).await?;
        let tasks = (0..DEVICES_PER_USER)
            .flat_map(|number| world.users.iter().map(move |user| (user.clone(), number)))
            .map(|(user, number)| spawn(Device::new(world.clone(), user, number, rng.fork()).run()))
            .collect();
        Ok(Self { tasks, held, progress: spawn(print_progress(world.clone())) })
    }
}

/// Starts the programs that use the SDK.
pub(crate) fn start_sdks(world: &Arc<World>, rng: &mut fastrand::Rng) -> anyhow::Result<Vec<Sdk>> {
    let mut sdks = Vec::new();
    for users in world.sdk_users.chunks(SDK_USERS) {
        sdks.extend(Sdk::start(world, users, rng.u64(..u64::from(u32::MAX)))?);
    }
    Ok(sdks)
}

/// Stops the clients' sending, lets every client catch up, and verifies the log and what was held. Puts into the outcome how many
/// messages are in the log, and what became of those that were held.
pub(crate) async fn finish_and_verify(
    world: &Arc<World>,
    phase: &watch::Sender<Phase>,
    devices: Devices,
    sdks: Vec<Sdk>,
    outcome: &mut Outcome,
) {
    devices.progress.abort();
    let held = devices.held;
    outcome.stored = match drain_and_verify(world, phase, devices.tasks, sdks).await {
        Ok(logs) => logs.stored,
        // A client that fails is a breach, too. Breaches that were found before still count.
        Err(error) => {
            world.record.breach(Law::Stuck, format!("the run does not finish: {error:#}"), &[], None);
            0
        }
    };
    match held.finish_and_verify().await {
        Ok(line) => outcome.extra_lines.push(line),
        Err(error) => {
            world.record.breach(
                Law::Stuck,
                format!("held messages cannot be verified: {error:#}"),
                &[],
                None,
            );
        }
    }
    if world.record.counts().acknowledged == 0 {
        world.record.breach(
            Law::Stuck,
            "nothing was acknowledged, so the run proves nothing".to_owned(),
            &[],
            None,
        );
    }
}

/// Waits until every client has its acknowledgements and has caught up, and then verifies the log.
async fn drain_and_verify(
    world: &Arc<World>,
    phase: &watch::Sender<Phase>,
    tasks: Vec<JoinHandle<FinalState>>,
    mut sdks: Vec<Sdk>,
) -> anyhow::Result<Logs> {
    phase.send_replace(Phase::Draining);
    for sdk in &mut sdks {
        if !sdk.stop_sending_and_drain().await? {
            world.record.breach(
                Law::Stuck,
                "the SDK did not get an acknowledgement for everything that it sent".to_owned(),
                &[],
                None,
            );
        }
    }
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    while world.idle_devices.load(Ordering::SeqCst) < tasks.len() && Instant::now() < deadline {
        sleep(Duration::from_millis(50)).await;
    }
    phase.send_replace(Phase::CatchUp);
    let mut final_states = Vec::new();
    for task in tasks {
        final_states.push(task.await?);
    }
    let logs = match verify::verify(world, &final_states).await {
        Ok(logs) => logs,
        // No fault is active at this point, so a log that cannot be read is a breach.
        Err(error) => {
            world.record.breach(Law::WrongAnswer, format!("the log cannot be read: {error:#}"), &[], None);
            return Ok(Logs::default());
        }
    };
    let last = logs.messages.iter().filter_map(|(id, all)| Some((id.clone(), all.last()?.0))).collect();
    for sdk in sdks {
        match sdk.finish(&last).await? {
            Some(screens) => verify::check_shown_messages(world, &logs, &screens),
            None => {
                world.record.breach(Law::Stuck, "the SDK does not show every message".to_owned(), &[], None);
            }
        }
    }
    Ok(logs)
}

async fn print_progress(world: Arc<World>) {
    let started = Instant::now();
    loop {
        sleep(PROGRESS_INTERVAL).await;
        let (counts, faults) = (world.record.counts(), world.record.lock().faults);
        print_line(&format!(
            "{:>5} s: {faults} faults, {} tried, {} acknowledged, {} delivered",
            started.elapsed().as_secs(),
            counts.tried,
            counts.acknowledged,
            counts.delivered
        ));
    }
}
