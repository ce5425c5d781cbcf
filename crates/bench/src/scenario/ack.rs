//! Senders who each wait for the acknowledgement of one message before they send the next: how many a second, how long.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use hdrhistogram::Histogram;

use super::Context;
use crate::clock::{self, latencies};
use crate::floor::append::{Acks, Append, WARM_UP, acks};
use crate::floor::log_first::LogFirst;
use crate::floor::sqlite::Sqlite;
use crate::load::{Heard, Load, Replies};
use crate::process::{self, BOTH_CORES};
use crate::report::Name;
use crate::rivals::Rival;
use crate::server::{self, Said, Server, To};
use crate::stamp;
use crate::switchboard::Switchboard;
use crate::traffic::TEXT;

/// Bytes of a message around its text, in the log.
const AROUND: usize = 100;

pub(crate) fn run(context: &mut Context<'_>, senders: &[usize]) -> anyhow::Result<()> {
    for round in 1..=context.rounds {
        for &count in senders {
            context.progress(&format!("ack: round {round} of {}, {count} senders", context.rounds));
            let directory = process::scratch(context.scratch)?;
            let append = Append::new(directory.path(), TEXT + AROUND)?;
            let raw = acks(append, count, context.time)?;
            tell(context, "raw fdatasync", count, &raw, None);
            let sqlite = Sqlite::new(&directory.path().join("floor.db"), context.product, count, TEXT)?;
            let floor = acks(sqlite, count, context.time)?;
            tell(context, "floor: SQLite", count, &floor, None);
            let log_first = LogFirst::new(directory.path(), context.product, count, TEXT)?;
            let other = acks(log_first, count, context.time)?;
            tell(context, "log first, SQLite behind", count, &other, None);
            let server = Switchboard::start(context.product, context.scratch, BOTH_CORES)?;
            let (ours, cpu) = measure(&server, count, context.time)?;
            tell(context, "switchboard", count, &ours, Some(cpu));
            drop(server);
            context.against(BOTH_CORES, Rival::acknowledges, |context, rival| {
                let (theirs, cpu) = measure(rival, count, context.time)?;
                tell(context, rival.name(), count, &theirs, Some(cpu));
                Ok(())
            });
        }
    }
    Ok(())
}

/// `cpu` is the server's, in microseconds for each message.
pub(super) fn tell(context: &mut Context<'_>, subject: &str, senders: usize, acks: &Acks, cpu: Option<f64>) {
    let scenario = format!("ack, {senders} senders");
    context.report.add(Name { scenario: &scenario, subject, figure: "acks", unit: "/s" }, acks.rate);
    context.report.add_latency(&scenario, subject, &acks.latency);
    if let Some(cpu) = cpu {
        let name = Name { scenario: &scenario, subject, figure: "cpu a message", unit: "µs" };
        context.report.add(name, cpu);
    }
}

#[derive(Debug, Clone)]
struct Sender {
    /// Messages that were sent.
    sent: u64,
    /// When the last was.
    last: Instant,
    /// Of the last message in its conversation, if the server counts them.
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
    fn say(&mut self, user: usize) -> String {
        let count = self.senders.len();
        let Sender { sent, last, .. } = &mut self.senders[user];
        *last = clock::now();
        let text = stamp::text(*sent, TEXT);
        *sent += 1;
        // Somebody who is not there.
        let to = To::User(user + count);
        self.server.message(to, *sent, &text)
    }

    fn acknowledged(&mut self, user: usize, seq: Option<u64>, replies: &mut Replies) -> anyhow::Result<()> {
        let now = clock::now();
        let sender = &mut self.senders[user];
        let last = sender.last;
        if let (Some(before), Some(seq)) = (sender.seq, seq) {
            ensure!(seq == before + 1, "a message of {user} was acknowledged as {seq} after {before}");
        }
        sender.seq = seq;
        if (self.from..self.end).contains(&now) {
            self.count += 1;
            self.latency.saturating_record((now - last).as_nanos() as u64);
        }
        if now < self.end {
            replies.say(user, self.say(user));
        } else {
            self.waiting -= 1;
        }
        Ok(())
    }
}

/// Acknowledgements over sockets, and microseconds of the server's processor for each. Every sender writes to a
/// conversation of their own, which is the most that there is to do.
pub(crate) fn measure(server: &dyn Server, senders: usize, time: Duration) -> anyhow::Result<(Acks, f64)> {
    // Where the system finds room. On a core of its own it would share that one with whatever part of the server is
    // there, and the system moves a busy thread away from a core only half a millisecond later.
    process::pin(BOTH_CORES)?;
    let mut load = Load::new()?;
    server::join(server, &mut load, 0..senders, 1)?;
    let cpu = server.process().cpu()?;
    let begun = clock::now();
    let from = begun + WARM_UP;
    let state = RefCell::new(Senders {
        server,
        from,
        end: from + time,
        senders: vec![Sender { sent: 0, last: begun, seq: None }; senders],
        waiting: senders,
        count: 0,
        latency: latencies()?,
    });
    for user in 0..senders {
        let text = state.borrow_mut().say(user);
        load.say(user, &text)?;
    }
    let mut hear = |user: usize, heard: Heard<'_>, replies: &mut Replies| {
        let Heard::Text(frame) = heard else { bail!("the server closed connection {user}") };
        server.understand(user, frame, &mut |said| match said {
            Said::Acked(seq) => state.borrow_mut().acknowledged(user, seq, replies),
            Said::Wants(answer) => {
                replies.say(user, answer);
                Ok(())
            }
            other => bail!("{other:?} in place of an acknowledgement: {}", String::from_utf8_lossy(frame)),
        })
    };
    load.run_until(&mut hear, || state.borrow().waiting == 0)?;
    let cpu = server.process().cpu()? - cpu;
    let state = state.into_inner();
    let sent: u64 = state.senders.iter().map(|sender| sender.sent).sum();
    let acks = Acks { rate: state.count as f64 / time.as_secs_f64(), latency: state.latency };
    Ok((acks, cpu * 1e6 / sent as f64))
}
