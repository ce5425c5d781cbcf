//! Everybody comes back at once: the server is killed, messages were missed, and each client says its cursors.

use std::cell::RefCell;

use anyhow::{bail, ensure};

use super::Context;
use super::idle::GROUP;
use crate::clock;
use crate::load::{Heard, Load, Replies};
use crate::process::SERVER_CORE;
use crate::report::Name;
use crate::server::{Said, Server as _};
use crate::stamp::{self, number_after};
use crate::switchboard::{Groups, Switchboard, message, say};
use crate::traffic::TEXT;

pub(crate) fn run(context: &mut Context<'_>, clients: usize) -> anyhow::Result<()> {
    let groups = Groups { users: clients, size: GROUP };
    for round in 1..=context.rounds {
        context.progress(&format!("storm: round {round} of {}", context.rounds));
        let mut server = Switchboard::start(context.product, context.scratch, SERVER_CORE)?;
        groups.fill(&server)?;
        let text = stamp::text(0, TEXT);
        for member in (0..clients).step_by(GROUP) {
            server.says(member, groups.rooms_of(member).take(1).map(|room| message(&room, 1, &text)))?;
        }
        server.restart()?;
        let client = |user: usize| {
            let head = groups.head(user);
            let cursors = groups.rooms_of(user).map(|room| (room, head)).collect();
            Client { user, cursors, awaits: head + 1 }
        };
        let clients: Vec<_> = (0..clients).map(client).collect();
        let cpu = server.process().cpu()?;
        let begun = clock::now();
        come_back(&server, &clients)?;
        let (took, cpu) = (begun.elapsed().as_secs_f64(), server.process().cpu()? - cpu);
        let count = clients.len() as f64;
        let scenario = format!("storm, {count} clients with {} cursors", Groups::ROOMS);
        for (figure, unit, value) in [
            ("all are back after", "s", took),
            ("cpu a client", "µs", cpu * 1e6 / count),
            ("resumes a cpu-second", "/s", count / cpu),
        ] {
            context.report.add(Name { scenario: &scenario, subject: "switchboard", figure, unit }, value);
        }
    }
    Ok(())
}

/// Somebody who was away, and missed one message.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) user: usize,
    pub(crate) cursors: Vec<(String, u64)>,
    /// The number of the message in its conversation.
    pub(crate) awaits: u64,
}

/// Opens all connections, and waits until each has what it missed, and nothing else.
pub(crate) fn come_back(server: &Switchboard<'_>, clients: &[Client]) -> anyhow::Result<()> {
    struct Back {
        has: Vec<bool>,
        count: usize,
    }
    let mut load = Load::new()?;
    for _ in clients {
        load.connect(server.process().address, server.request());
    }
    let state = RefCell::new(Back { has: vec![false; clients.len()], count: 0 });
    let mut hear = |place: usize, heard: Heard<'_>, replies: &mut Replies| {
        let Client { user, cursors, awaits } = &clients[place];
        match heard {
            Heard::Open => replies.say(place, server.hello(*user, cursors)),
            Heard::Gone(why) => bail!("the server closed the connection of {user}: {why}"),
            Heard::Text(frame) => match say(frame) {
                Said::Delivered(_) => {
                    let state = &mut *state.borrow_mut();
                    let seq = number_after(frame, r#""seq":"#);
                    ensure!(seq == Some(*awaits), "{user} got {seq:?} in place of {awaits}");
                    ensure!(!state.has[place], "{user} got a message twice");
                    state.has[place] = true;
                    state.count += 1;
                }
                Said::Ready => {}
                _ => bail!("{user} was told {}", String::from_utf8_lossy(frame)),
            },
        }
        Ok(())
    };
    load.run_until(&mut hear, || state.borrow().count == clients.len())
}
