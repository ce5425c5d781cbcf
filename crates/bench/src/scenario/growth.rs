//! Checks that stored messages do not slow down new ones: the same load with 1, 10 and 100 times as many messages stored.

use super::storm::{Client, reconnect};
use super::{Context, ack};
use crate::database;
use crate::process::{BOTH_CORES, Process};
use crate::report::FigureName;
use crate::server::{MeaningHandler, Server, Target};
use crate::stamp;
use crate::switchboard::{Groups, Switchboard, message_command};
use crate::traffic::TEXT_BYTES;

/// The number of users in a group. They share their rooms.
const GROWTH_GROUP_SIZE: usize = 10;

/// The number of messages that each room has.
const MESSAGES_PER_ROOM: usize = 100;

/// The number of groups at scale 1: a thousand rooms with 100,000 messages.
const GROUPS: usize = 100;

/// The number of groups whose users reconnect: all groups at scale 1.
const RECONNECTING_GROUPS: usize = 100;

/// The number of users who send and wait for acknowledgements, each in another group.
const SENDERS: usize = 64;

/// The distance between the first message ids of two rounds. The ids are also idempotency keys, so a sender must not repeat them.
const MESSAGE_IDS_PER_ROUND: u64 = 10_000_000;

/// Measures at each of `scales`, which multiply the smallest number of messages. The first scale is 1.
pub(crate) fn run(context: &mut Context<'_>, scales: &[usize]) -> anyhow::Result<()> {
    let mut servers = Vec::new();
    for &scale in scales {
        context.progress(&format!(
            "growth: {} messages are stored",
            scale * GROUPS * Groups::ROOMS_PER_USER * MESSAGES_PER_ROOM
        ));
        let mut server = Switchboard::start(context.program, context.scratch, BOTH_CORES)?;
        create_groups(&mut server, scale * GROUPS)?;
        servers.push(server);
    }
    for round in 1..=context.rounds {
        let mut first = None;
        for (&scale, server) in scales.iter().zip(&mut servers) {
            context.progress(&format!("growth: round {round} of {}, {scale}x", context.rounds));
            let scenario =
                format!("growth, {} messages", scale * GROUPS * Groups::ROOMS_PER_USER * MESSAGES_PER_ROOM);
            server.restart()?;
            let resume = reconnect_groups(server, scale * GROUPS)?;
            let spread = SpreadSenders {
                server,
                stride: scale * GROUPS / SENDERS,
                ids: u64::from(round) * MESSAGE_IDS_PER_ROUND,
            };
            let (acks, cpu) = ack::measure(&spread, SENDERS, context.time)?;
            let mut report = |figure: &str, unit: &str, value: f64| {
                context.report.add(
                    FigureName { scenario: &scenario, measured_server: "switchboard", figure, unit },
                    value,
                );
            };
            report("acks", "/s", acks.rate);
            report("cpu a message", "µs", cpu);
            report("cpu of a resume", "µs", resume);
            let (acks_first, resume_first) = *first.get_or_insert((acks.rate, resume));
            report("acks, times those of the first", "", acks.rate / acks_first);
            report("cpu of a resume, times that of the first", "", resume / resume_first);
        }
    }
    Ok(())
}

/// Creates one group through the server, and then copies the group's rows in the database.
fn create_groups(server: &mut Switchboard<'_>, groups: usize) -> anyhow::Result<()> {
    let one = Groups { users: GROWTH_GROUP_SIZE, size: GROWTH_GROUP_SIZE };
    one.create_all_rooms(server)?;
    let text = stamp::stamped_text(0, TEXT_BYTES);
    for user in 0..GROWTH_GROUP_SIZE {
        let rooms = Groups::rooms(0)
            .flat_map(|room| (0..MESSAGES_PER_ROOM / GROWTH_GROUP_SIZE).map(move |_| room.clone()));
        server.send_all_as(user, rooms.zip(1..).map(|(room, id)| message_command(&room, id, &text)))?;
    }
    server.stop()?;
    database::copy_group(&server.database_file(), GROWTH_GROUP_SIZE, groups)?;
    server.restart()
}

/// Reconnects the users of some groups, spread over all groups. Each user sends cursors for all rooms, one of which lacks the last
/// message, so each client receives one message. Returns the processor time for each client, in microseconds.
fn reconnect_groups(server: &Switchboard<'_>, groups: usize) -> anyhow::Result<f64> {
    let mut clients = Vec::new();
    for group in (0..RECONNECTING_GROUPS).map(|n| n * groups / RECONNECTING_GROUPS) {
        let mut cursors = database::read_heads(&server.database_file(), Groups::rooms(group))?;
        cursors[0].1 -= 1;
        clients.extend((0..GROWTH_GROUP_SIZE).map(|n| Client {
            user: group * GROWTH_GROUP_SIZE + n,
            awaited_events: cursors[0].1 + 1,
            cursors: cursors.clone(),
        }));
    }
    let cpu = server.server_process().cpu_seconds()?;
    reconnect(server, &clients)?;
    Ok((server.server_process().cpu_seconds()? - cpu) * 1e6 / clients.len() as f64)
}

/// Spreads the load over the tables: each sender is the first user of a group, and writes to the last of the group's rooms.
struct SpreadSenders<'a, 'b> {
    server: &'a Switchboard<'b>,
    /// The groups of two successive senders are this many groups apart.
    stride: usize,
    ids: u64,
}

impl Server for SpreadSenders<'_, '_> {
    fn name(&self) -> &'static str {
        self.server.name()
    }

    fn server_process(&self) -> &Process {
        self.server.server_process()
    }

    fn handshake_request(&self) -> Vec<u8> {
        self.server.handshake_request()
    }

    fn join_frame(&self, sender: usize, _: usize) -> String {
        self.server.hello_frame(sender * self.stride * GROWTH_GROUP_SIZE, &[])
    }

    fn decode_meanings(
        &self,
        user: usize,
        frame: &[u8],
        emit: &mut MeaningHandler<'_>,
    ) -> anyhow::Result<()> {
        self.server.decode_meanings(user, frame, emit)
    }

    /// Sends to a room of the sender. `to` is the sender's number plus the number of senders, because the scenario numbers
    /// receivers after senders.
    fn message_frame(&self, to: Target, id: u64, text: &str) -> String {
        let sender = match to {
            Target::User(user) => user - SENDERS,
            Target::Room(_) | Target::Pair { .. } => 0,
        };
        let room = Groups::rooms(sender * self.stride).last().unwrap_or_default();
        message_command(&room, self.ids + id, text)
    }
}
