//! Idle connections: the memory that each needs, and the processor time of their pings.

use std::time::Duration;

use anyhow::bail;

use super::Context;
use crate::clock;
use crate::load::{ConnectionEvent, Load, QueuedFrames};
use crate::process::SERVER_CORE;
use crate::report::FigureName;
use crate::server::{self, FrameMeaning, Server};
use crate::switchboard::{Groups, Switchboard};

/// The number of users in a group. A group shares ten rooms on Switchboard, and one room on other servers.
pub(crate) const GROUP_SIZE: usize = 50;

/// How long pings are measured: each connection gets one every 30 s.
const PING_WINDOW: Duration = Duration::from_secs(30);

/// How long the allocator has to return memory, and the server to close connections.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// How long a user without a connection counts as online and stays in memory: the default of `presence_grace`.
const OFFLINE_GRACE: Duration = Duration::from_secs(5);

/// `few` and `many` are numbers of connections. The memory of one connection is the growth from `few` to `many`, divided by the
/// difference of these numbers.
pub(crate) fn run(context: &mut Context<'_>, few: usize, many: usize) -> anyhow::Result<()> {
    for round in 1..=context.rounds {
        context.progress(&format!("idle: round {round} of {}", context.rounds));
        let server = Switchboard::start(context.program, context.scratch, SERVER_CORE)?;
        Groups { users: many, size: GROUP_SIZE }.create_all_rooms(&server)?;
        measure(context, &server, few, many, round == 1)?;
        drop(server);
        context.for_each_rival(
            SERVER_CORE,
            |_| true,
            |context, rival| measure(context, rival, few, many, false),
        );
    }
    Ok(())
}

/// Makes all measurements of one server. The pings alone are measured for half a minute.
fn measure(
    context: &mut Context<'_>,
    server: &dyn Server,
    few: usize,
    many: usize,
    with_pings: bool,
) -> anyhow::Result<()> {
    let scenario = format!("idle, {few} → {many} connections");
    let memory = || Ok::<_, anyhow::Error>(server.server_process().resident_bytes()? as f64);
    poll_for(server, &mut Load::new()?, SETTLE_TIME)?;
    let start = memory()?;
    let mut load = Load::new()?;
    server::join(server, &mut load, 0..few, GROUP_SIZE)?;
    poll_for(server, &mut load, SETTLE_TIME)?;
    let with_few = memory()?;
    server::join(server, &mut load, few..many, GROUP_SIZE)?;
    poll_for(server, &mut load, SETTLE_TIME)?;
    let with_many = memory()?;
    let mut report = |figure: &str, unit: &str, value: f64| {
        context
            .report
            .add(FigureName { scenario: &scenario, measured_server: server.name(), figure, unit }, value);
    };
    report("memory a connection", "bytes", (with_many - with_few) / (many - few) as f64);
    report("memory before", "MB", start / 1e6);
    report("memory with all", "MB", with_many / 1e6);
    if with_pings {
        let (cpu, begun) = (server.server_process().cpu_seconds()?, clock::now());
        poll_for(server, &mut load, PING_WINDOW)?;
        let used = (server.server_process().cpu_seconds()? - cpu) / begun.elapsed().as_secs_f64();
        report("cpu with pings", "% of a core", used * 100.0);
    }
    drop(load);
    poll_for(server, &mut Load::new()?, OFFLINE_GRACE + SETTLE_TIME)?;
    report("memory after", "MB", memory()? / 1e6);
    Ok(())
}

/// Waits for `time`, and answers the server's pings meanwhile.
fn poll_for(server: &dyn Server, load: &mut Load, time: Duration) -> anyhow::Result<()> {
    let begun = clock::now();
    let mut on_event = |user: usize, event: ConnectionEvent<'_>, replies: &mut QueuedFrames| match event {
        ConnectionEvent::Open => Ok(()),
        ConnectionEvent::Closed(why) => bail!("{} closed connection {user}: {why}", server.name()),
        ConnectionEvent::Text(frame) => server.decode_meanings(user, frame, &mut |meaning| {
            if let FrameMeaning::MustAnswer(answer) = meaning {
                replies.send(user, answer);
            }
            Ok(())
        }),
    };
    while begun.elapsed() < time {
        load.poll_once(Some(time.saturating_sub(begun.elapsed())), &mut on_event)?;
    }
    Ok(())
}
