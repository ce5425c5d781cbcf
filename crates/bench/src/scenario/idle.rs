//! Connections that do nothing: what each costs in memory, and what their pings cost.

use std::time::Duration;

use anyhow::bail;

use super::Context;
use crate::clock;
use crate::load::{Heard, Load, Replies};
use crate::process::SERVER_CORE;
use crate::report::Name;
use crate::server::{self, Server as _};
use crate::switchboard::{Switchboard, make_room};

/// Users of a room.
pub(crate) const ROOM: usize = 50;

/// Rooms that each user is in.
pub(crate) const ROOMS_EACH: usize = 10;

/// Measurements that the pings are looked at for: two rounds of them, 30 s apart, if one takes 2 s.
const PINGS: u32 = 30;

/// How long the allocator may take to give memory back, and connections to be gone.
const SETTLING: Duration = Duration::from_secs(5);

/// How long a user without a connection still counts as online, and is kept in memory: the default of `presence_grace`.
const GRACE: Duration = Duration::from_secs(5);

/// Puts users into rooms of 50, each into ten of them.
pub(crate) fn fill_rooms(server: &Switchboard<'_>, users: usize) -> anyhow::Result<()> {
    for group in 0..users.div_ceil(ROOM) {
        let members = group * ROOM..((group + 1) * ROOM).min(users);
        let commands = (0..ROOMS_EACH).flat_map(|n| make_room(&room(group, n), members.clone()));
        server.says(members.start, commands)?;
    }
    Ok(())
}

/// The last event of each room of a user after [`fill_rooms`]: one for every member.
pub(crate) fn head(user: usize, users: usize) -> u64 {
    let first = user / ROOM * ROOM;
    (users - first).min(ROOM) as u64
}

/// The rooms of a user.
pub(crate) fn rooms_of(user: usize) -> impl Iterator<Item = String> {
    (0..ROOMS_EACH).map(move |n| room(user / ROOM, n))
}

fn room(group: usize, n: usize) -> String {
    format!("#g{group}-{n}")
}

/// `few` and `many` are counts of connections; between them memory is measured as a slope.
pub(crate) fn run(context: &mut Context<'_>, few: usize, many: usize) -> anyhow::Result<()> {
    for round in 1..=context.rounds {
        context.progress(&format!("idle: round {round} of {}", context.rounds));
        let server = Switchboard::start(context.product, context.scratch, SERVER_CORE)?;
        fill_rooms(&server, many)?;
        settle(&mut Load::new()?)?;
        let start = server.process().memory()?;
        let mut load = Load::new()?;
        server::join(&server, &mut load, 0..few, ROOM)?;
        settle(&mut load)?;
        let with_few = server.process().memory()?;
        server::join(&server, &mut load, few..many, ROOM)?;
        settle(&mut load)?;
        let with_many = server.process().memory()?;
        let mut tell = |figure: &str, unit: &str, value: f64| {
            let scenario = format!("idle, {few} → {many} connections in {ROOMS_EACH} rooms");
            context.report.add(Name { scenario: &scenario, subject: "switchboard", figure, unit }, value);
        };
        tell("memory a connection", "bytes", (with_many as f64 - with_few as f64) / (many - few) as f64);
        tell("memory before", "MB", start as f64 / 1e6);
        tell("memory with all", "MB", with_many as f64 / 1e6);
        if round == 1 {
            let (cpu, time) = (server.process().cpu()?, context.time * PINGS);
            wait(&mut load, time)?;
            let used = (server.process().cpu()? - cpu) / time.as_secs_f64();
            tell("cpu with pings", "% of a core", used * 100.0);
        }
        drop(load);
        wait(&mut Load::new()?, GRACE + SETTLING)?;
        let end = server.process().memory()?;
        tell("memory after", "MB", end as f64 / 1e6);
    }
    Ok(())
}

/// Lets the server come to rest, and answers its pings meanwhile.
fn settle(load: &mut Load) -> anyhow::Result<()> {
    wait(load, SETTLING)
}

fn wait(load: &mut Load, time: Duration) -> anyhow::Result<()> {
    let begun = clock::now();
    let mut hear = |connection: usize, heard: Heard<'_>, _: &mut Replies| {
        if let Heard::Gone = heard {
            bail!("the server closed connection {connection}");
        }
        Ok(())
    };
    while begun.elapsed() < time {
        load.turn(Some(time.saturating_sub(begun.elapsed())), &mut hear)?;
    }
    Ok(())
}
