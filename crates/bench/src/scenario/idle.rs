//! Connections that do nothing: what each costs in memory, and what their pings cost.

use std::time::Duration;

use anyhow::bail;

use super::Context;
use crate::clock;
use crate::load::{Heard, Load, Replies};
use crate::process::SERVER_CORE;
use crate::report::Name;
use crate::server::{self, Said, Server};
use crate::switchboard::{Groups, Switchboard};

/// Users of a group. Those of Switchboard are together in ten rooms, those of other servers in one.
pub(crate) const GROUP: usize = 50;

/// How long pings are looked at: each connection gets one every 30 s.
const PINGS: Duration = Duration::from_secs(30);

/// How long the allocator may take to give memory back, and connections to be gone.
const SETTLING: Duration = Duration::from_secs(2);

/// How long a user without a connection still counts as online, and is kept in memory: the default of `presence_grace`.
const GRACE: Duration = Duration::from_secs(5);

/// `few` and `many` are counts of connections; between them memory is measured as a slope.
pub(crate) fn run(context: &mut Context<'_>, few: usize, many: usize) -> anyhow::Result<()> {
    for round in 1..=context.rounds {
        context.progress(&format!("idle: round {round} of {}", context.rounds));
        let server = Switchboard::start(context.product, context.scratch, SERVER_CORE)?;
        Groups { users: many, size: GROUP }.fill(&server)?;
        measure(context, &server, few, many, round == 1)?;
        drop(server);
        context.against(SERVER_CORE, |_| true, |context, rival| measure(context, rival, few, many, false));
    }
    Ok(())
}

/// All figures of one server; those of pings take half a minute.
fn measure(
    context: &mut Context<'_>,
    server: &dyn Server,
    few: usize,
    many: usize,
    with_pings: bool,
) -> anyhow::Result<()> {
    let scenario = format!("idle, {few} → {many} connections");
    let memory = || Ok::<_, anyhow::Error>(server.process().memory()? as f64);
    wait(server, &mut Load::new()?, SETTLING)?;
    let start = memory()?;
    let mut load = Load::new()?;
    server::join(server, &mut load, 0..few, GROUP)?;
    wait(server, &mut load, SETTLING)?;
    let with_few = memory()?;
    server::join(server, &mut load, few..many, GROUP)?;
    wait(server, &mut load, SETTLING)?;
    let with_many = memory()?;
    let mut tell = |figure: &str, unit: &str, value: f64| {
        context.report.add(Name { scenario: &scenario, subject: server.name(), figure, unit }, value);
    };
    tell("memory a connection", "bytes", (with_many - with_few) / (many - few) as f64);
    tell("memory before", "MB", start / 1e6);
    tell("memory with all", "MB", with_many / 1e6);
    if with_pings {
        let (cpu, begun) = (server.process().cpu()?, clock::now());
        wait(server, &mut load, PINGS)?;
        let used = (server.process().cpu()? - cpu) / begun.elapsed().as_secs_f64();
        tell("cpu with pings", "% of a core", used * 100.0);
    }
    drop(load);
    wait(server, &mut Load::new()?, GRACE + SETTLING)?;
    tell("memory after", "MB", memory()? / 1e6);
    Ok(())
}

/// Lets the server be, and answers its pings meanwhile.
fn wait(server: &dyn Server, load: &mut Load, time: Duration) -> anyhow::Result<()> {
    let begun = clock::now();
    let mut hear = |user: usize, heard: Heard<'_>, replies: &mut Replies| match heard {
        Heard::Open => Ok(()),
        Heard::Gone(why) => bail!("{} closed connection {user}: {why}", server.name()),
        Heard::Text(frame) => server.understand(user, frame, &mut |said| {
            if let Said::Wants(answer) = said {
                replies.say(user, answer);
            }
            Ok(())
        }),
    };
    while begun.elapsed() < time {
        load.turn(Some(time.saturating_sub(begun.elapsed())), &mut hear)?;
    }
    Ok(())
}
