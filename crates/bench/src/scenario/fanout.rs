//! Messages in rooms: what a delivery costs the server, and how late it is at half of the most that the server can do.

use std::time::Duration;

use super::Context;
use crate::floor::sockets::Sockets;
use crate::load::Load;
use crate::process::SERVER_CORE;
use crate::report::Name;
use crate::server::{self, Server};
use crate::switchboard::Switchboard;
use crate::traffic::{Found, Pace, Shape, TEXT, Traffic};

/// One sender, so many receivers.
pub(crate) fn one_to_many(context: &mut Context<'_>, receivers: usize) -> anyhow::Result<()> {
    let shape = Shape { rooms: 1, size: receivers + 1, senders: 1, direct: false };
    run(context, &format!("fanout, 1 to {receivers}"), shape, &[16, 1])
}

/// Rooms in which everybody talks.
pub(crate) fn rooms(context: &mut Context<'_>, rooms: usize, size: usize) -> anyhow::Result<()> {
    let shape = Shape { rooms, size, senders: size, direct: false };
    run(context, &format!("{rooms} rooms of {size}, all to all"), shape, &[1])
}

/// Two and two. With more of each on their way the server refuses some: its queue to the store is full.
pub(crate) fn pairs(context: &mut Context<'_>, pairs: usize) -> anyhow::Result<()> {
    let shape = Shape { rooms: pairs, size: 2, senders: 2, direct: true };
    run(context, &format!("direct, {pairs} pairs"), shape, &[1])
}

/// The first of `in_flight` says how much the server can do.
fn run(context: &mut Context<'_>, name: &str, shape: Shape, in_flight: &[u64]) -> anyhow::Result<()> {
    for round in 1..=context.rounds {
        context.progress(&format!("{name}: round {round} of {}", context.rounds));
        let floor = Sockets::start(TEXT, shape.size)?;
        measure(context, &floor, name, shape, in_flight)?;
        drop(floor);
        let ours = Switchboard::start(context.product, context.scratch, SERVER_CORE)?;
        measure(context, &ours, name, shape, in_flight)?;
        drop(ours);
        context.against(
            SERVER_CORE,
            |_| true,
            |context, rival| measure(context, rival, name, shape, in_flight),
        );
    }
    Ok(())
}

/// All figures of one server.
fn measure(
    context: &mut Context<'_>,
    server: &dyn Server,
    name: &str,
    shape: Shape,
    in_flight: &[u64],
) -> anyhow::Result<()> {
    let mut load = Load::new()?;
    if !shape.direct {
        server.make_rooms(shape.users(), shape.size)?;
    }
    server::join(server, &mut load, 0..shape.users(), shape.size)?;
    let mut traffic = Traffic::new(server, shape);
    let mut most = None;
    for &count in in_flight {
        let scenario = format!("{name}, {count} in flight");
        let found = closed(context, &mut traffic, &mut load, &scenario, server, count)?;
        most.get_or_insert(found.rate);
    }
    if let Some(rate) = most {
        let every = Duration::from_secs_f64(2.0 * (shape.size - 1) as f64 / rate);
        let late = traffic.run(&mut load, Pace::Every(every), context.time)?;
        context.report.add_latency(&format!("{name}, half of its rate"), server.name(), &late.latency);
    }
    Ok(())
}

/// So many rounds on their way; reports what was found, and returns it.
pub(crate) fn closed(
    context: &mut Context<'_>,
    traffic: &mut Traffic<'_>,
    load: &mut Load,
    scenario: &str,
    server: &dyn Server,
    in_flight: u64,
) -> anyhow::Result<Found> {
    let found = traffic.run(load, Pace::InFlight(in_flight), context.time)?;
    let subject = server.name();
    context.report.add(Name { scenario, subject, figure: "cpu a delivery", unit: "µs" }, found.cpu);
    context.report.add(Name { scenario, subject, figure: "deliveries", unit: "/s" }, found.rate);
    if found.load_bound {
        context.note(&format!("{scenario}: the load is the bottleneck, not {subject}"));
    }
    Ok(found)
}
