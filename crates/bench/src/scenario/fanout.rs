//! Deliveries in rooms: their cost to the server, and their latency at half of the server's highest rate.

use std::time::Duration;

use super::Context;
use crate::floor::sockets::SocketFloor;
use crate::load::Load;
use crate::process::SERVER_CORE;
use crate::report::FigureName;
use crate::server::{self, Server};
use crate::switchboard::Switchboard;
use crate::traffic::{RunResult, SendSchedule, TEXT_BYTES, Traffic, TrafficShape};

/// Measures one sender and many receivers in one room.
pub(crate) fn one_to_many(context: &mut Context<'_>, receivers: usize) -> anyhow::Result<()> {
    let shape = TrafficShape { rooms: 1, room_size: receivers + 1, senders: 1, is_direct: false };
    run(context, &format!("fanout, 1 to {receivers}"), shape, &[16, 1])
}

/// Measures rooms in which every user sends.
pub(crate) fn measure_rooms(context: &mut Context<'_>, rooms: usize, size: usize) -> anyhow::Result<()> {
    let shape = TrafficShape { rooms, room_size: size, senders: size, is_direct: false };
    run(context, &format!("{rooms} rooms of {size}, all to all"), shape, &[1])
}

/// Measures direct conversations. Few messages are in flight, because more would fill the writer's queue and be refused.
pub(crate) fn measure_pairs(context: &mut Context<'_>, pairs: usize) -> anyhow::Result<()> {
    let shape = TrafficShape { rooms: pairs, room_size: 2, senders: 2, is_direct: true };
    run(context, &format!("direct, {pairs} pairs"), shape, &[1])
}

/// `in_flight`: how many rounds are in flight in each measurement. The first measurement determines the server's highest rate.
fn run(context: &mut Context<'_>, name: &str, shape: TrafficShape, in_flight: &[u64]) -> anyhow::Result<()> {
    for round in 1..=context.rounds {
        context.progress(&format!("{name}: round {round} of {}", context.rounds));
        let floor = SocketFloor::start(TEXT_BYTES, shape.room_size)?;
        measure(context, &floor, name, shape, in_flight)?;
        drop(floor);
        let ours = Switchboard::start(context.program, context.scratch, SERVER_CORE)?;
        measure(context, &ours, name, shape, in_flight)?;
        drop(ours);
        context.for_each_rival(
            SERVER_CORE,
            |_| true,
            |context, rival| measure(context, rival, name, shape, in_flight),
        );
    }
    Ok(())
}

/// Makes all measurements of one server.
fn measure(
    context: &mut Context<'_>,
    server: &dyn Server,
    name: &str,
    shape: TrafficShape,
    in_flight: &[u64],
) -> anyhow::Result<()> {
    let mut load = Load::new()?;
    if !shape.is_direct {
        server.make_rooms(shape.users(), shape.room_size)?;
    }
    server::join(server, &mut load, 0..shape.users(), shape.room_size)?;
    let mut traffic = Traffic::new(server, shape);
    let mut most = None;
    for &count in in_flight {
        let scenario = format!("{name}, {count} in flight");
        let result = measure_rounds_in_flight(context, &mut traffic, &mut load, &scenario, server, count)?;
        most.get_or_insert(result.deliveries_per_second);
    }
    if let Some(rate) = most {
        let every = Duration::from_secs_f64(2.0 * (shape.room_size - 1) as f64 / rate);
        let late = traffic.run(&mut load, SendSchedule::Every(every), context.time)?;
        context.report.add_latency(&format!("{name}, half of its rate"), server.name(), &late.latency);
    }
    Ok(())
}

/// Measures with a fixed number of rounds in flight. Adds the result to the report and returns it.
pub(crate) fn measure_rounds_in_flight(
    context: &mut Context<'_>,
    traffic: &mut Traffic<'_>,
    load: &mut Load,
    scenario: &str,
    server: &dyn Server,
    in_flight: u64,
) -> anyhow::Result<RunResult> {
    let result = traffic.run(load, SendSchedule::InFlight(in_flight), context.time)?;
    let subject = server.name();
    context.report.add(
        FigureName { scenario, measured_server: subject, figure: "cpu a delivery", unit: "µs" },
        result.cpu_us_per_delivery,
    );
    context.report.add(
        FigureName { scenario, measured_server: subject, figure: "deliveries", unit: "/s" },
        result.deliveries_per_second,
    );
    if result.is_limited_by_load {
        context.print_note(&format!("{scenario}: the load is the bottleneck, not {subject}"));
    }
    Ok(result)
}
