//! What is stored must not slow down what is new: the same load on 1, 10 and 100 times as many conversations and messages.

use super::storm::{Client, come_back};
use super::{Context, ack};
use crate::database;
use crate::process::{BOTH_CORES, Process};
use crate::report::Name;
use crate::server::{Server, Tell, To};
use crate::stamp;
use crate::switchboard::{Groups, Switchboard, message};
use crate::traffic::TEXT;

/// Users of a group, who are together in rooms of their own.
const GROUP: usize = 10;

/// Messages of a room.
const MESSAGES: usize = 100;

/// Groups at 1x: a thousand rooms, 100,000 messages.
const GROUPS: usize = 100;

/// Groups whose users come back: all of them at 1x.
const BACK: usize = 100;

/// Senders of the acknowledgements, each in a group of their own.
const SENDERS: usize = 64;

/// The ids of a round's messages, which are their keys, too, begin there: a key counts once for a sender.
const IDS: u64 = 10_000_000;

/// `scales` are multiples of 1x, which comes first.
pub(crate) fn run(context: &mut Context<'_>, scales: &[usize]) -> anyhow::Result<()> {
    let mut servers = Vec::new();
    for &scale in scales {
        context
            .progress(&format!("growth: {} messages are stored", scale * GROUPS * Groups::ROOMS * MESSAGES));
        let mut server = Switchboard::start(context.product, context.scratch, BOTH_CORES)?;
        fill(&mut server, scale * GROUPS)?;
        servers.push(server);
    }
    for round in 1..=context.rounds {
        let mut first = None;
        for (&scale, server) in scales.iter().zip(&mut servers) {
            context.progress(&format!("growth: round {round} of {}, {scale}x", context.rounds));
            let scenario = format!("growth, {} messages", scale * GROUPS * Groups::ROOMS * MESSAGES);
            server.restart()?;
            let resume = resume(server, scale * GROUPS)?;
            let spread = Spread { server, stride: scale * GROUPS / SENDERS, ids: u64::from(round) * IDS };
            let (acks, cpu) = ack::measure(&spread, SENDERS, context.time)?;
            let mut tell = |figure: &str, unit: &str, value: f64| {
                context.report.add(Name { scenario: &scenario, subject: "switchboard", figure, unit }, value);
            };
            tell("acks", "/s", acks.rate);
            tell("cpu a message", "µs", cpu);
            tell("cpu of a resume", "µs", resume);
            let (acks_first, resume_first) = *first.get_or_insert((acks.rate, resume));
            tell("acks, times those of the first", "", acks.rate / acks_first);
            tell("cpu of a resume, times that of the first", "", resume / resume_first);
        }
    }
    Ok(())
}

/// Makes one group through the server itself, and copies of its rows in the database.
fn fill(server: &mut Switchboard<'_>, groups: usize) -> anyhow::Result<()> {
    let one = Groups { users: GROUP, size: GROUP };
    one.fill(server)?;
    let text = stamp::text(0, TEXT);
    for user in 0..GROUP {
        let rooms = Groups::rooms(0).flat_map(|room| (0..MESSAGES / GROUP).map(move |_| room.clone()));
        server.says(user, rooms.zip(1..).map(|(room, id)| message(&room, id, &text)))?;
    }
    server.stop()?;
    database::copy_group(&server.database(), GROUP, groups)?;
    server.restart()
}

/// The users of some groups, spread over all, come back with what they have of their rooms: the last message of one of
/// them is missing. Returns microseconds of processor time for each.
fn resume(server: &Switchboard<'_>, groups: usize) -> anyhow::Result<f64> {
    let mut clients = Vec::new();
    for group in (0..BACK).map(|n| n * groups / BACK) {
        let mut cursors = database::heads(&server.database(), Groups::rooms(group))?;
        cursors[0].1 -= 1;
        clients.extend((0..GROUP).map(|n| Client {
            user: group * GROUP + n,
            awaits: cursors[0].1 + 1,
            cursors: cursors.clone(),
        }));
    }
    let cpu = server.process().cpu()?;
    come_back(server, &clients)?;
    Ok((server.process().cpu()? - cpu) * 1e6 / clients.len() as f64)
}

/// Users and conversations that are far apart in the tables: each sender is the first of a group, and writes to the last
/// of its rooms.
struct Spread<'a, 'b> {
    server: &'a Switchboard<'b>,
    /// From one sender's group to the next one's.
    stride: usize,
    ids: u64,
}

impl Server for Spread<'_, '_> {
    fn name(&self) -> &'static str {
        self.server.name()
    }

    fn process(&self) -> &Process {
        self.server.process()
    }

    fn request(&self) -> Vec<u8> {
        self.server.request()
    }

    fn greeting(&self, sender: usize, _: usize) -> String {
        self.server.hello(sender * self.stride * GROUP, &[])
    }

    fn understand(&self, user: usize, frame: &[u8], tell: &mut Tell<'_>) -> anyhow::Result<()> {
        self.server.understand(user, frame, tell)
    }

    /// The user of `to` who is not there is that of the sender, counted behind the senders.
    fn message(&self, to: To, id: u64, text: &str) -> String {
        let sender = match to {
            To::User(user) => user - SENDERS,
            To::Room(_) | To::Pair { .. } => 0,
        };
        let room = Groups::rooms(sender * self.stride).last().unwrap_or_default();
        message(&room, self.ids + id, text)
    }
}
