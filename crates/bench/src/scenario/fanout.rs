//! One sender, many receivers: what a delivery costs the server, and how late it is at half of the most that it can do.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use hdrhistogram::Histogram;

use super::{Context, TEXT};
use crate::clock::{self, latencies};
use crate::floor::sockets::Sockets;
use crate::load::{Heard, Load, Replies};
use crate::process::SERVER_CORE;
use crate::report::Name;
use crate::server::{self, Said, Server, To};
use crate::stamp;
use crate::switchboard::Switchboard;

/// Before the measurement begins.
const WARM_UP: Duration = Duration::from_millis(500);

/// What a run found.
struct Found {
    /// Microseconds of the server's processor for each delivery.
    cpu: f64,
    /// Deliveries a second.
    rate: f64,
    /// From when a message was due to its delivery, in nanoseconds.
    latency: Histogram<u64>,
}

/// How messages come.
#[derive(Debug, Clone, Copy)]
enum Pace {
    /// So many on their way; the next one when one of them is with everybody.
    InFlight(u64),
    /// One every so often, whatever became of those before: latency counts from when it was due.
    Every(Duration),
}

pub(crate) fn run(context: &mut Context<'_>, receivers: usize) -> anyhow::Result<()> {
    for round in 1..=context.rounds {
        context.progress(&format!("fanout: round {round} of {}", context.rounds));
        let floor = Sockets::start(TEXT)?;
        measure(context, &floor, receivers)?;
        drop(floor);
        let ours = Switchboard::start(context.product, context.scratch, SERVER_CORE)?;
        measure(context, &ours, receivers)?;
        drop(ours);
        context.against(SERVER_CORE, |_| true, |context, rival| measure(context, rival, receivers));
    }
    Ok(())
}

/// All figures of one server.
fn measure(context: &mut Context<'_>, server: &dyn Server, receivers: usize) -> anyhow::Result<()> {
    let mut load = Load::new()?;
    server.make_rooms(receivers + 1, receivers + 1)?;
    server::join(server, &mut load, 0..receivers + 1, receivers + 1)?;
    let subject = server.name();
    let mut sent = 0;
    for in_flight in [16, 1] {
        let found =
            deliver(server, &mut load, receivers, Pace::InFlight(in_flight), context.time, &mut sent)?;
        let scenario = format!("fanout 1 → {receivers}, {in_flight} in flight");
        context
            .report
            .add(Name { scenario: &scenario, subject, figure: "cpu a delivery", unit: "µs" }, found.cpu);
        context
            .report
            .add(Name { scenario: &scenario, subject, figure: "deliveries", unit: "/s" }, found.rate);
        if in_flight == 16 {
            let every = Duration::from_secs_f64(2.0 * receivers as f64 / found.rate);
            let late = deliver(server, &mut load, receivers, Pace::Every(every), context.time, &mut sent)?;
            let scenario = format!("fanout 1 → {receivers}, half of its rate");
            context.report.add_latency(&scenario, subject, &late.latency);
        }
    }
    Ok(())
}

/// The messages of a run, as they come.
struct Run<'a> {
    server: &'a dyn Server,
    receivers: u64,
    begun: Instant,
    /// Of each receiver, the message that it waits for, counted from the run's first.
    next: Vec<u64>,
    /// How many receivers have each message that not all have; the first is message number `complete`.
    had: VecDeque<u64>,
    complete: u64,
    delivered: u64,
    /// The number of the run's first message.
    first: u64,
    /// When each message was due.
    due: Vec<Duration>,
    measuring: bool,
    latency: Histogram<u64>,
}

impl Run<'_> {
    fn hear(&mut self, user: usize, heard: &Heard<'_>, replies: &mut Replies) -> anyhow::Result<()> {
        let server = self.server;
        let Heard::Text(frame) = heard else { bail!("{} closed connection {user}", server.name()) };
        server.understand(user, frame, &mut |said| match said {
            // The sender may get its own messages, or not.
            Said::Delivered(told) if user > 0 => self.deliver(user, told),
            Said::Wants(answer) => {
                replies.say(user, answer);
                Ok(())
            }
            _ => Ok(()),
        })
    }

    fn deliver(&mut self, user: usize, told: Option<u64>) -> anyhow::Result<()> {
        let number = self.next[user];
        self.next[user] += 1;
        let wanted = self.first + number;
        ensure!(told.is_none_or(|told| told == wanted), "{user} got message {told:?} in place of {wanted}");
        if let Some(due) = self.due.get(number as usize).filter(|_| self.measuring) {
            self.latency.saturating_record(self.begun.elapsed().saturating_sub(*due).as_nanos() as u64);
        }
        self.delivered += 1;
        let place = (number - self.complete) as usize;
        ensure!(place < self.had.len(), "{user} got more messages than were sent");
        self.had[place] += 1;
        while self.had.front() == Some(&self.receivers) {
            self.had.pop_front();
            self.complete += 1;
        }
        Ok(())
    }
}

/// Sends for `time` and waits for the last delivery. `sent` counts the sender's messages over all runs.
fn deliver(
    server: &dyn Server,
    load: &mut Load,
    receivers: usize,
    pace: Pace,
    time: Duration,
    sent: &mut u64,
) -> anyhow::Result<Found> {
    let begun = clock::now();
    let run = RefCell::new(Run {
        server,
        receivers: receivers as u64,
        begun,
        next: vec![0; receivers + 1],
        had: VecDeque::new(),
        complete: 0,
        delivered: 0,
        first: *sent,
        due: Vec::new(),
        measuring: false,
        latency: latencies()?,
    });
    let mut hear =
        |user: usize, heard: Heard<'_>, replies: &mut Replies| run.borrow_mut().hear(user, &heard, replies);
    let mut marks = None;
    while begun.elapsed() < WARM_UP + time {
        let due = {
            let mut run = run.borrow_mut();
            if marks.is_none() && begun.elapsed() >= WARM_UP {
                marks = Some((server.process().cpu()?, run.delivered, clock::now()));
                run.measuring = true;
            }
            due(&mut run, pace, *sent)
        };
        let numbers = *sent..*sent + due;
        *sent = numbers.end;
        let texts: Vec<String> = numbers
            .map(|number| server.message(To::Room(0), number + 1, &stamp::text(number, TEXT)))
            .collect();
        load.say_all(0, texts.iter().map(String::as_str))?;
        let wait = match pace {
            Pace::InFlight(_) => Duration::from_millis(100),
            Pace::Every(every) => {
                let next = every * (*sent - run.borrow().first) as u32;
                next.saturating_sub(begun.elapsed())
            }
        };
        load.turn(Some(wait), &mut hear)?;
    }
    let (cpu, delivered, from) = marks.unwrap_or((0.0, 0, begun));
    let cpu = server.process().cpu()? - cpu;
    let (count, took) = (run.borrow().delivered - delivered, from.elapsed());
    load.run_until(&mut hear, || run.borrow().had.is_empty())?;
    let run = run.into_inner();
    Ok(Found { cpu: cpu * 1e6 / count as f64, rate: count as f64 / took.as_secs_f64(), latency: run.latency })
}

/// How many messages are due; notes when each was.
fn due(run: &mut Run<'_>, pace: Pace, sent: u64) -> u64 {
    let now = run.begun.elapsed();
    let sent = sent - run.first;
    match pace {
        Pace::InFlight(most) => run.due.extend((sent..run.complete + most).map(|_| now)),
        Pace::Every(every) => {
            run.due.extend((sent..).map(|n| every * n as u32).take_while(|due| *due <= now));
        }
    }
    let due = run.due.len() as u64 - sent;
    run.had.extend((0..due).map(|_| 0));
    due
}
