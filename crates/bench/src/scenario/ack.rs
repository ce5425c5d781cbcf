//! Acknowledgements: each sender waits for the `ok` of one message before it sends the next. Measures rate and latency.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use hdrhistogram::Histogram;

use super::Context;
use crate::clock::{self, new_latency_histogram};
use crate::floor::append::{AckMeasurement, AppendFile, FLOOR_WARM_UP, measure_acks};
use crate::floor::log_first::LogFirst;
use crate::floor::sqlite::Sqlite;
use crate::load::{ConnectionEvent, Load, QueuedFrames};
use crate::process::{self, BOTH_CORES};
use crate::report::FigureName;
use crate::rivals::Rival;
use crate::server::{self, FrameMeaning, Server, Target};
use crate::stamp;
use crate::switchboard::Switchboard;
use crate::traffic::TEXT_BYTES;

/// The bytes that a message takes in the log besides its text.
const LOG_OVERHEAD_BYTES: usize = 100;

pub(crate) fn run(context: &mut Context<'_>, senders: &[usize]) -> anyhow::Result<()> {
    for round in 1..=context.rounds {
        for &count in senders {
            context.progress(&format!("ack: round {round} of {}, {count} senders", context.rounds));
            let directory = process::create_scratch_directory(context.scratch)?;
            let append = AppendFile::new(directory.path(), TEXT_BYTES + LOG_OVERHEAD_BYTES)?;
            let raw = measure_acks(append, count, context.time)?;
            report_acks(context, "raw fdatasync", count, &raw, None);
            let sqlite = Sqlite::new(&directory.path().join("floor.db"), count, TEXT_BYTES)?;
            let floor = measure_acks(sqlite, count, context.time)?;
            report_acks(context, "floor: SQLite", count, &floor, None);
            let log_first = LogFirst::new(directory.path(), count, TEXT_BYTES)?;
            let other = measure_acks(log_first, count, context.time)?;
            report_acks(context, "log first, SQLite behind", count, &other, None);
            let server = Switchboard::start(context.program, context.scratch, BOTH_CORES)?;
            let (ours, cpu) = measure(&server, count, context.time)?;
            report_acks(context, "switchboard", count, &ours, Some(cpu));
            drop(server);
            context.for_each_rival(BOTH_CORES, Rival::acknowledges, |context, rival| {
                let (theirs, cpu) = measure(rival, count, context.time)?;
                report_acks(context, rival.name(), count, &theirs, Some(cpu));
                Ok(())
            });
        }
    }
    Ok(())
}

/// Adds rate and latency to the report. `cpu` is the server's processor time for each message, in microseconds.
pub(super) fn report_acks(
    context: &mut Context<'_>,
    subject: &str,
    senders: usize,
    acks: &AckMeasurement,
    cpu: Option<f64>,
) {
    report_as(context, &format!("ack, {senders} senders"), subject, acks, cpu);
}

/// Like [`report_acks`], under the name of another scenario.
pub(super) fn report_as(
    context: &mut Context<'_>,
    scenario: &str,
    subject: &str,
    acks: &AckMeasurement,
    cpu: Option<f64>,
) {
    context
        .report
        .add(FigureName { scenario, measured_server: subject, figure: "acks", unit: "/s" }, acks.rate);
    context.report.add_latency(scenario, subject, &acks.latency);
    if let Some(cpu) = cpu {
        let name = FigureName { scenario, measured_server: subject, figure: "cpu a message", unit: "µs" };
        context.report.add(name, cpu);
    }
}

#[derive(Debug, Clone)]
struct Sender {
    /// The number of messages that the sender has sent.
    sent: u64,
    /// When the last message was sent.
    last_sent: Instant,
    /// The seq of the last message in its conversation; `None` if the server does not report it.
    seq: Option<u64>,
}

struct Senders<'a> {
    server: &'a dyn Server,
    end: Instant,
    from: Instant,
    senders: Vec<Sender>,
    waiting: usize,
    count: u64,
    latency: Histogram<u64>,
}

impl Senders<'_> {
    fn next_message(&mut self, user: usize) -> String {
        let count = self.senders.len();
        let Sender { sent, last_sent: last, .. } = &mut self.senders[user];
        *last = clock::now();
        let text = stamp::stamped_text(*sent, TEXT_BYTES);
        *sent += 1;
        // The receiver is a user who is not connected, so that nothing is delivered.
        let to = Target::User(user + count);
        self.server.message_frame(to, *sent, &text)
    }

    fn on_ack(&mut self, user: usize, seq: Option<u64>, replies: &mut QueuedFrames) -> anyhow::Result<()> {
        let now = clock::now();
        let sender = &mut self.senders[user];
        let last = sender.last_sent;
        if let (Some(before), Some(seq)) = (sender.seq, seq) {
            ensure!(seq == before + 1, "a message of {user} was acknowledged as {seq} after {before}");
        }
        sender.seq = seq;
        if (self.from..self.end).contains(&now) {
            self.count += 1;
            self.latency.saturating_record((now - last).as_nanos() as u64);
        }
        if now < self.end {
            replies.send(user, self.next_message(user));
        } else {
            self.waiting -= 1;
        }
        Ok(())
    }
}

/// Measures acknowledgements over sockets, and the server's processor time for each, in microseconds. Every sender writes to
/// another conversation, which is the most expensive case.
pub(crate) fn measure(
    server: &dyn Server,
    senders: usize,
    time: Duration,
) -> anyhow::Result<(AckMeasurement, f64)> {
    // The scheduler chooses the core of the load. If the load was bound to one core, the server's threads would run there, too, and
    // the scheduler moves a busy thread to another core only after half a millisecond.
    process::pin_to_cores(BOTH_CORES)?;
    let mut load = Load::new()?;
    server::join(server, &mut load, 0..senders, 1)?;
    let cpu = server.server_process().cpu_seconds()?;
    let started = clock::now();
    let from = started + FLOOR_WARM_UP;
    let state = RefCell::new(Senders {
        server,
        from,
        end: from + time,
        senders: vec![Sender { sent: 0, last_sent: started, seq: None }; senders],
        waiting: senders,
        count: 0,
        latency: new_latency_histogram()?,
    });
    for user in 0..senders {
        let text = state.borrow_mut().next_message(user);
        load.send(user, &text)?;
    }
    let mut on_event = |user: usize, event: ConnectionEvent<'_>, replies: &mut QueuedFrames| {
        let ConnectionEvent::Text(frame) = event else { bail!("the server closed connection {user}") };
        server.decode_meanings(user, frame, &mut |meaning| match meaning {
            FrameMeaning::Acked(seq) => state.borrow_mut().on_ack(user, seq, replies),
            FrameMeaning::MustAnswer(answer) => {
                replies.send(user, answer);
                Ok(())
            }
            other => bail!("{other:?} in place of an acknowledgement: {}", String::from_utf8_lossy(frame)),
        })
    };
    load.run_until(&mut on_event, || state.borrow().waiting == 0)?;
    let cpu = server.server_process().cpu_seconds()? - cpu;
    let state = state.into_inner();
    let sent: u64 = state.senders.iter().map(|sender| sender.sent).sum();
    let acks = AckMeasurement { rate: state.count as f64 / time.as_secs_f64(), latency: state.latency };
    Ok((acks, cpu * 1e6 / sent as f64))
}
