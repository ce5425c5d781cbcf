//! Checks whether the server can deliver a message now, not only whether it answers.
//!
//! The check submits a write, which passes through the store's queue, the writer, a commit and the router like any other write. It
//! also reads the store, and sends a notice from this node to itself over the bus.

use std::time::Duration;

use serde::Serialize;
use switchboard_protocol::UserId;
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;

use crate::bus::Bus;
use switchboard_store::origin::Origin;
use switchboard_store::refusal::Refusal;
use switchboard_store::{Change, SharedStore, Submission};

/// How long each step may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a report is reused. Each check costs a commit, and any client may request one.
const REPORT_TTL: Duration = Duration::from_secs(1);

/// The last report, and when it was made.
#[derive(Debug, Default)]
pub(crate) struct Health(Mutex<Option<(Instant, HealthReport)>>);

/// The result of a check of delivery.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct HealthReport {
    /// Whether every step succeeded.
    pub(crate) delivers: bool,
    /// A write: from its submission until the router has returned its outcome.
    write: StepResult,
    /// A read of the store.
    read: StepResult,
    /// A notice to this node itself; `None` if there is no bus.
    #[serde(skip_serializing_if = "Option::is_none")]
    bus: Option<StepResult>,
}

/// How long a step took in milliseconds, or why it failed.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case")]
enum StepResult {
    Milliseconds(u64),
    Error(String),
}

impl HealthReport {
    /// Whether the report and the store still agree on whether writes succeed.
    fn fits_store_state(&self, store: &SharedStore) -> bool {
        matches!(self.write, StepResult::Milliseconds(_)) == store.write_fault().is_none()
    }
}

impl Health {
    /// Runs every step of a delivery, and reports how long each took. Returns the last report if it is fresh.
    pub(crate) async fn report(&self, store: &SharedStore, bus: Option<&dyn Bus>) -> HealthReport {
        let mut last = self.0.lock().await;
        match &*last {
            Some((at, report)) if at.elapsed() < REPORT_TTL && report.fits_store_state(store) => {
                report.clone()
            }
            _ => {
                let report = probe(store, bus).await;
                *last = Some((Instant::now(), report.clone()));
                report
            }
        }
    }
}

async fn probe(store: &SharedStore, bus: Option<&dyn Bus>) -> HealthReport {
    let bus = async {
        match bus {
            Some(bus) => Some(run_step(bus.probe()).await),
            None => None,
        }
    };
    let read = store.probe();
    let (write, read, bus) = tokio::join!(run_step(write_probe(store)), run_step(read), bus);
    let well = |step: &StepResult| matches!(step, StepResult::Milliseconds(_));
    let delivers = well(&write) && well(&read) && bus.as_ref().is_none_or(well);
    HealthReport { delivers, write, read, bus }
}

async fn run_step(work: impl Future<Output = Result<(), Refusal>>) -> StepResult {
    let began = Instant::now();
    match tokio::time::timeout(STEP_TIMEOUT, work).await {
        Ok(Ok(())) => {
            StepResult::Milliseconds(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX))
        }
        Ok(Err(refusal)) => StepResult::Error(refusal.message.to_string()),
        Err(_) => StepResult::Error(format!("no answer within {STEP_TIMEOUT:?}")),
    }
}

async fn write_probe(store: &SharedStore) -> Result<(), Refusal> {
    let (reply, told) = oneshot::channel();
    // A write needs an actor. No user of this name is created, because a probe changes nothing.
    let actor = UserId::parse("probe").map_err(|_| Refusal::unavailable())?;
    let submission = Submission { actor, change: Change::Probe, origin: Origin::Call(reply) };
    store.submit(submission).map_err(|_| Refusal::unavailable())?;
    let written = told.await.unwrap_or_else(|_| Err(Refusal::unavailable()));
    written.map(drop).map_err(|refusal| match store.write_fault() {
        Some(fault) => Refusal { message: format!("writes are refused: {fault}").into(), ..refusal },
        None => refusal,
    })
}
