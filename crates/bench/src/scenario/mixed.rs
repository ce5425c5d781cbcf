//! A chat day, many times faster: rooms and direct messages, typing, read cursors, and devices that lose their network and
//! reconnect with their cursors.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use fastrand::Rng;
use hdrhistogram::Histogram;
use serde::Deserialize;

use super::Context;
use super::idle::GROUP_SIZE;
use crate::clock::{self, new_latency_histogram};
use crate::load::{ConnectionEvent, Load, QueuedFrames};
use crate::process::SERVER_CORE;
use crate::report::FigureName;
use crate::server::{self, Server as _, Target};
use crate::stamp;
use crate::switchboard::{Groups, Switchboard, direct_conversation_id, message_command, target_id};
use crate::traffic::TEXT_BYTES;

/// How many simulated actions happen in a second. With 2,000 users and the shares below, each user sends a message every two and a half
/// seconds, some 350 times as often as people who send a hundred messages a day.
const ACTIONS_PER_SECOND: u32 = 1_000;

/// Shares of the actions, in percent: direct messages, messages to a room, typing. The remaining actions move read cursors.
const DIRECT_PERCENT: u32 = 55;
const ROOM_PERCENT: u32 = 25;
const TYPING_PERCENT: u32 = 15;

/// A device reconnects before each action whose index is a multiple of this.
const ACTIONS_PER_RECONNECT: u32 = 50;

/// The seed of the random actions, which are therefore the same in every run.
const RANDOM_SEED: u64 = 7;

pub(crate) fn run(context: &mut Context<'_>, users: usize) -> anyhow::Result<()> {
    for round in 1..=context.rounds {
        context.progress(&format!("mixed: round {round} of {}", context.rounds));
        let server = Switchboard::start(context.program, context.scratch, SERVER_CORE)?;
        let groups = Groups { users, size: GROUP_SIZE };
        groups.create_all_rooms(&server)?;
        let mut load = Load::new()?;
        server::join(&server, &mut load, 0..users, GROUP_SIZE)?;
        let time = context.time * 2;
        let (cpu, begun) = (server.server_process().cpu_seconds()?, clock::now());
        let day = run_load(&server, &mut load, groups, time)?;
        let cpu = (server.server_process().cpu_seconds()? - cpu) / begun.elapsed().as_secs_f64();
        let scenario = format!("mixed, {users} users, {ACTIONS_PER_SECOND} events a second");
        let mut report = |figure: &str, unit: &str, value: f64| {
            context
                .report
                .add(FigureName { scenario: &scenario, measured_server: "switchboard", figure, unit }, value);
        };
        report("cpu", "% of a core", cpu * 100.0);
        report("deliveries", "/s", day.latency.len() as f64 / time.as_secs_f64());
        context.report.add_latency(&scenario, "switchboard", &day.latency);
    }
    Ok(())
}

/// A user, whose only device is simulated.
struct User {
    connection: usize,
    /// Whether the connection has received `welcome`.
    is_online: bool,
    /// The seq of the last event that the device has of each conversation.
    cursors: BTreeMap<String, u64>,
    /// Messages that are not acknowledged yet, each with its conversation.
    pending: BTreeMap<u64, String>,
    /// The id of the last command that the device has sent.
    last: u64,
}

struct MixedLoad {
    users: Vec<User>,
    /// The number of the user to whom each connection belongs.
    user_of: Vec<usize>,
    begun: Instant,
    /// When each message was to be sent, from which its latency counts.
    due_times: Vec<Duration>,
    /// How many events all users together have still to receive. A user's own message counts when it is acknowledged.
    awaited_deliveries: u64,
    latency: Histogram<u64>,
}

/// The fields of a frame that the scenario needs.
#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    conversation: Option<Cow<'a, str>>,
    seq: Option<u64>,
    id: Option<u64>,
}

fn run_load(
    server: &Switchboard<'_>,
    load: &mut Load,
    groups: Groups,
    time: Duration,
) -> anyhow::Result<MixedLoad> {
    let user = |user: usize| User {
        connection: user,
        is_online: true,
        cursors: groups.rooms_of(user).map(|room| (room, groups.last_seq(user))).collect(),
        pending: BTreeMap::new(),
        last: 0,
    };
    let day = RefCell::new(MixedLoad {
        users: (0..groups.users).map(user).collect(),
        user_of: (0..groups.users).collect(),
        begun: clock::now(),
        due_times: Vec::new(),
        awaited_deliveries: 0,
        latency: new_latency_histogram()?,
    });
    let mut on_event = |connection: usize, event: ConnectionEvent<'_>, replies: &mut QueuedFrames| {
        let day = &mut *day.borrow_mut();
        let user = day.user_of[connection];
        match event {
            ConnectionEvent::Open => {
                let cursors: Vec<_> = day.users[user].cursors.clone().into_iter().collect();
                replies.send(connection, server.hello_frame(user, &cursors));
                Ok(())
            }
            ConnectionEvent::Closed(why) => bail!("the server closed the connection of {user}: {why}"),
            ConnectionEvent::Text(frame) => day.on_event(user, frame),
        }
    };
    let (mut rng, mut events) = (Rng::with_seed(RANDOM_SEED), 0);
    let begun = day.borrow().begun;
    while begun.elapsed() < time {
        while start_time_of_action(events) <= begun.elapsed() {
            let due = start_time_of_action(events);
            if events.is_multiple_of(ACTIONS_PER_RECONNECT) {
                day.borrow_mut().reconnect(server, load, &mut rng);
            }
            let (connection, text) = day.borrow_mut().random_action(groups, due, &mut rng);
            load.send(connection, &text)?;
            events += 1;
        }
        load.poll_once(Some(start_time_of_action(events).saturating_sub(begun.elapsed())), &mut on_event)?;
    }
    load.run_until(&mut on_event, || day.borrow().awaited_deliveries == 0)?;
    Ok(day.into_inner())
}

/// How long after the start of the run the simulated action with this index happens.
fn start_time_of_action(index: u32) -> Duration {
    Duration::from_secs(1) * index / ACTIONS_PER_SECOND
}

impl MixedLoad {
    /// Closes the connection of a random device that has no unacknowledged messages, and opens another connection for it.
    fn reconnect(&mut self, server: &Switchboard<'_>, load: &mut Load, rng: &mut Rng) {
        let place = self.random_online_user(rng);
        let user = &mut self.users[place];
        if user.pending.is_empty() {
            user.is_online = false;
            load.close(user.connection);
            user.connection = self.user_of.len();
            self.user_of.push(place);
            load.connect(server.server_process().address, server.handshake_request());
        }
    }

    /// A random user whose device is connected.
    fn random_online_user(&self, rng: &mut Rng) -> usize {
        loop {
            let user = rng.usize(..self.users.len());
            if self.users[user].is_online {
                return user;
            }
        }
    }

    /// Chooses a random action. Returns the connection and the command to send.
    fn random_action(&mut self, groups: Groups, due: Duration, rng: &mut Rng) -> (usize, String) {
        let place = self.random_online_user(rng);
        let room = groups.rooms_of(place).nth(rng.usize(..Groups::ROOMS_PER_USER)).unwrap_or_default();
        let first = place / GROUP_SIZE * GROUP_SIZE;
        let size = GROUP_SIZE.min(groups.users - first);
        let other = first + (place - first + rng.usize(1..size)) % size;
        let user = &mut self.users[place];
        user.last += 1;
        let id = user.last;
        let (to, conversation) = match rng.u32(..100) {
            kind if kind < DIRECT_PERCENT => {
                self.awaited_deliveries += 2;
                (target_id(Target::User(other)), direct_conversation_id(place, other))
            }
            kind if kind < DIRECT_PERCENT + ROOM_PERCENT => {
                self.awaited_deliveries += size as u64;
                (room.clone(), room)
            }
            kind if kind < DIRECT_PERCENT + ROOM_PERCENT + TYPING_PERCENT => {
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
        let text = message_command(&to, id, &stamp::stamped_text(self.due_times.len() as u64, TEXT_BYTES));
        self.due_times.push(due);
        user.pending.insert(id, conversation);
        (user.connection, text)
    }

    fn on_event(&mut self, place: usize, frame: &[u8]) -> anyhow::Result<()> {
        let received: Frame<'_> = serde_json::from_slice(frame)?;
        let user = &mut self.users[place];
        let conversation = match received.kind {
            "welcome" => {
                user.is_online = true;
                return Ok(());
            }
            "message" => received.conversation.map(Cow::into_owned),
            "ok" => received.id.and_then(|id| user.pending.remove(&id)),
            "error" => bail!("{place} was refused: {}", String::from_utf8_lossy(frame)),
            _ => None,
        };
        let Some(conversation) = conversation else { return Ok(()) };
        let seq = received.seq.context("an event without a seq")?;
        let last = user.cursors.entry(conversation).or_default();
        ensure!(seq == *last + 1, "{place} got {seq} after {last}: {}", String::from_utf8_lossy(frame));
        *last = seq;
        self.awaited_deliveries -= 1;
        if let Some(due) = stamp::find_stamp(frame).and_then(|number| self.due_times.get(number as usize)) {
            self.latency.saturating_record(self.begun.elapsed().saturating_sub(*due).as_nanos() as u64);
        }
        Ok(())
    }
}
