//! Rooms with many offline members: a message must cost as little as in a room that has only the online members.

use super::Context;
use super::fanout::measure_rounds_in_flight;
use crate::load::Load;
use crate::process::SERVER_CORE;
use crate::report::FigureName;
use crate::server::{self, Server as _};
use crate::switchboard::Switchboard;
use crate::traffic::{Traffic, TrafficShape};

/// Compares two rooms with a sender and `online` receivers: one has no other members, the other has `members` members.
pub(crate) fn run(context: &mut Context<'_>, online: usize, members: usize) -> anyhow::Result<()> {
    let shape = TrafficShape { rooms: 1, room_size: online + 1, senders: 1, is_direct: false };
    let sizes = [online, members];
    let mut servers = Vec::new();
    for size in sizes {
        context.progress(&format!("room: {size} members come in"));
        let server = Switchboard::start(context.program, context.scratch, SERVER_CORE)?;
        server.make_rooms(size + 1, size + 1)?;
        servers.push(server);
    }
    let mut rooms = Vec::new();
    for server in &servers {
        let mut load = Load::new()?;
        server::join(server, &mut load, 0..shape.users(), shape.room_size)?;
        rooms.push((server, Traffic::new(server, shape), load));
    }
    for round in 1..=context.rounds {
        context.progress(&format!("room: round {round} of {}", context.rounds));
        for in_flight in [16, 1] {
            let mut cost = [0.0; 2];
            for ((size, cost), (server, traffic, load)) in sizes.iter().zip(&mut cost).zip(&mut rooms) {
                let scenario = format!("room of {size}, {online} online, {in_flight} in flight");
                *cost = measure_rounds_in_flight(context, traffic, load, &scenario, *server, in_flight)?
                    .cpu_us_per_delivery;
            }
            let scenario = format!("room of {members}, {online} online, {in_flight} in flight");
            let figure = "cpu, times that in a room of those online";
            context.report.add(
                FigureName { scenario: &scenario, measured_server: "switchboard", figure, unit: "" },
                cost[1] / cost[0],
            );
        }
    }
    Ok(())
}
