//! A chat day, many times faster: rooms and direct messages, typing, read marks, and devices that lose their network and
//! come back with their cursors.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use fastrand::Rng;
use hdrhistogram::Histogram;
use serde::Deserialize;

use super::Context;
use super::idle::GROUP;
use crate::clock::{self, latencies};
use crate::load::{Heard, Load, Replies};
use crate::process::SERVER_CORE;
use crate::report::Name;
use crate::server::{self, Server as _, To};
use crate::stamp;
use crate::switchboard::{Groups, Switchboard, direct, message, name};
use crate::traffic::TEXT;

/// Events a second: with 2,000 users and the shares below, each sends a message every two and a half seconds. That is
/// some 350 times the pace of people who send a hundred messages a day.
const RATE: u32 = 1_000;

/// Of a hundred events: messages to one of the others, messages to a room; then "typing" and read marks.
const DIRECT: u32 = 55;
const ROOM: u32 = 25;
const TYPING: u32 = 15;

/// One event in so many, a device loses its network first.
const BREAKS: u32 = 50;

/// Every run sees the same day.
const SEED: u64 = 7;

pub(crate) fn run(context: &mut Context<'_>, users: usize) -> anyhow::Result<()> {
    for round in 1..=context.rounds {
        context.progress(&format!("mixed: round {round} of {}", context.rounds));
        let server = Switchboard::start(context.product, context.scratch, SERVER_CORE)?;
        let groups = Groups { users, size: GROUP };
        groups.fill(&server)?;
        let mut load = Load::new()?;
        server::join(&server, &mut load, 0..users, GROUP)?;
        let time = context.time * 2;
        let (cpu, begun) = (server.process().cpu()?, clock::now());
        let day = live(&server, &mut load, groups, time)?;
        let cpu = (server.process().cpu()? - cpu) / begun.elapsed().as_secs_f64();
        let scenario = format!("mixed, {users} users, {RATE} events a second");
        let mut tell = |figure: &str, unit: &str, value: f64| {
            context.report.add(Name { scenario: &scenario, subject: "switchboard", figure, unit }, value);
        };
        tell("cpu", "% of a core", cpu * 100.0);
        tell("deliveries", "/s", day.latency.len() as f64 / time.as_secs_f64());
        context.report.add_latency(&scenario, "switchboard", &day.latency);
    }
    Ok(())
}

/// Somebody with a device.
struct User {
    connection: usize,
    /// It is welcomed there.
    here: bool,
    /// The last event of each conversation that it knows of.
    cursors: BTreeMap<String, u64>,
    /// Messages that are not acknowledged, and where they went.
    pending: BTreeMap<u64, String>,
    /// The id of the last command.
    last: u64,
}

struct Day {
    users: Vec<User>,
    /// Of each connection.
    user_of: Vec<usize>,
    begun: Instant,
    /// When each message was due.
    due: Vec<Duration>,
    /// Events that all users together have still to get; each gets its own messages as acknowledgements.
    awaited: u64,
    latency: Histogram<u64>,
}

/// What matters of a frame.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    conversation: Option<Cow<'a, str>>,
    seq: Option<u64>,
    id: Option<u64>,
}

fn live(server: &Switchboard<'_>, load: &mut Load, groups: Groups, time: Duration) -> anyhow::Result<Day> {
    let user = |user: usize| User {
        connection: user,
        here: true,
        cursors: groups.rooms_of(user).map(|room| (room, groups.head(user))).collect(),
        pending: BTreeMap::new(),
        last: 0,
    };
    let day = RefCell::new(Day {
        users: (0..groups.users).map(user).collect(),
        user_of: (0..groups.users).collect(),
        begun: clock::now(),
        due: Vec::new(),
        awaited: 0,
        latency: latencies()?,
    });
    let mut hear = |connection: usize, heard: Heard<'_>, replies: &mut Replies| {
        let day = &mut *day.borrow_mut();
        let user = day.user_of[connection];
        match heard {
            Heard::Open => {
                let cursors: Vec<_> = day.users[user].cursors.clone().into_iter().collect();
                replies.say(connection, server.hello(user, &cursors));
                Ok(())
            }
            Heard::Gone(why) => bail!("the server closed the connection of {user}: {why}"),
            Heard::Text(frame) => day.hear(user, frame),
        }
    };
    let (mut rng, mut events) = (Rng::with_seed(SEED), 0);
    let begun = day.borrow().begun;
    while begun.elapsed() < time {
        while due_at(events) <= begun.elapsed() {
            let due = due_at(events);
            if events.is_multiple_of(BREAKS) {
                day.borrow_mut().come_back(server, load, &mut rng);
            }
            let (connection, text) = day.borrow_mut().event(groups, due, &mut rng);
            load.say(connection, &text)?;
            events += 1;
        }
        load.turn(Some(due_at(events).saturating_sub(begun.elapsed())), &mut hear)?;
    }
    load.run_until(&mut hear, || day.borrow().awaited == 0)?;
    Ok(day.into_inner())
}

/// When the event of this number is due.
fn due_at(event: u32) -> Duration {
    Duration::from_secs(1) * event / RATE
}

impl Day {
    /// A device without messages on their way loses its connection, and opens another one.
    fn come_back(&mut self, server: &Switchboard<'_>, load: &mut Load, rng: &mut Rng) {
        let place = self.somebody(rng);
        let user = &mut self.users[place];
        if user.pending.is_empty() {
            user.here = false;
            load.close(user.connection);
            user.connection = self.user_of.len();
            self.user_of.push(place);
            load.connect(server.process().address, server.request());
        }
    }

    /// Somebody whose device is connected.
    fn somebody(&self, rng: &mut Rng) -> usize {
        loop {
            let user = rng.usize(..self.users.len());
            if self.users[user].here {
                return user;
            }
        }
    }

    /// What somebody does next, and on which connection.
    fn event(&mut self, groups: Groups, due: Duration, rng: &mut Rng) -> (usize, String) {
        let place = self.somebody(rng);
        let room = groups.rooms_of(place).nth(rng.usize(..Groups::ROOMS)).unwrap_or_default();
        let first = place / GROUP * GROUP;
        let size = GROUP.min(groups.users - first);
        let other = first + (place - first + rng.usize(1..size)) % size;
        let user = &mut self.users[place];
        user.last += 1;
        let id = user.last;
        let (to, conversation) = match rng.u32(..100) {
            kind if kind < DIRECT => {
                self.awaited += 2;
                (name(To::User(other)), direct(place, other))
            }
            kind if kind < DIRECT + ROOM => {
                self.awaited += size as u64;
                (room.clone(), room)
            }
            kind if kind < DIRECT + ROOM + TYPING => {
                return (
                    user.connection,
                    format!(r#"{{"type":"typing","id":{id},"conversation":"{room}"}}"#),
                );
            }
            _ => {
                let seq = user.cursors.get(&room).copied().unwrap_or_default();
                let read = format!(r#"{{"type":"read","id":{id},"conversation":"{room}","upto":{seq}}}"#);
                return (user.connection, read);
            }
        };
        let text = message(&to, id, &stamp::text(self.due.len() as u64, TEXT));
        self.due.push(due);
        user.pending.insert(id, conversation);
        (user.connection, text)
    }

    fn hear(&mut self, place: usize, frame: &[u8]) -> anyhow::Result<()> {
        let told: Frame<'_> = serde_json::from_slice(frame)?;
        let user = &mut self.users[place];
        let conversation = match told.kind {
            "welcome" => {
                user.here = true;
                return Ok(());
            }
            "message" => told.conversation.map(Cow::into_owned),
            "ok" => told.id.and_then(|id| user.pending.remove(&id)),
            "error" => bail!("{place} was refused: {}", String::from_utf8_lossy(frame)),
            _ => None,
        };
        let Some(conversation) = conversation else { return Ok(()) };
        let seq = told.seq.context("an event without a number")?;
        let last = user.cursors.entry(conversation).or_default();
        ensure!(seq == *last + 1, "{place} got {seq} after {last}: {}", String::from_utf8_lossy(frame));
        *last = seq;
        self.awaited -= 1;
        if let Some(due) = stamp::find(frame).and_then(|number| self.due.get(number as usize)) {
            self.latency.saturating_record(self.begun.elapsed().saturating_sub(*due).as_nanos() as u64);
        }
        Ok(())
    }
}
