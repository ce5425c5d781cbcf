//! Everybody comes back at once: the server is killed, messages were missed, and each client says its cursors.

use std::cell::RefCell;

use anyhow::{bail, ensure};

use super::Context;
use super::idle::{ROOM, ROOMS_EACH, fill_rooms, head, rooms_of};
use crate::clock;
use crate::load::{Heard, Load, Replies};
use crate::process::SERVER_CORE;
use crate::report::Name;
use crate::server::{Said, Server as _};
use crate::stamp::{self, number_after};
use crate::switchboard::{Switchboard, message, say};
use crate::traffic::TEXT;

/// Messages that everybody missed, in one of their rooms.
const MISSED: u64 = 1;

pub(crate) fn run(context: &mut Context<'_>, clients: usize) -> anyhow::Result<()> {
    for round in 1..=context.rounds {
        context.progress(&format!("storm: round {round} of {}", context.rounds));
        let mut server = Switchboard::start(context.product, context.scratch, SERVER_CORE)?;
        fill_rooms(&server, clients)?;
        let text = stamp::text(0, TEXT);
        for member in (0..clients).step_by(ROOM) {
            server.says(member, rooms_of(member).take(1).map(|room| message(&room, 1, &text)))?;
        }
        server.restart()?;
        let cpu = server.process().cpu()?;
        let begun = clock::now();
        come_back(&server, clients)?;
        let (took, cpu) = (begun.elapsed().as_secs_f64(), server.process().cpu()? - cpu);
        let scenario = format!("storm, {clients} clients with {ROOMS_EACH} cursors");
        for (figure, unit, value) in [
            ("all are back after", "s", took),
            ("cpu a client", "µs", cpu * 1e6 / clients as f64),
            ("resumes a cpu-second", "/s", clients as f64 / cpu),
        ] {
            context.report.add(Name { scenario: &scenario, subject: "switchboard", figure, unit }, value);
        }
    }
    Ok(())
}

/// Opens all connections, and waits until each has what it missed, and nothing else.
fn come_back(server: &Switchboard<'_>, clients: usize) -> anyhow::Result<()> {
    struct Clients {
        missing: Vec<u64>,
        back: usize,
    }
    let mut load = Load::new()?;
    for _ in 0..clients {
        load.connect(server.process().address, server.request());
    }
    let state = RefCell::new(Clients { missing: vec![MISSED; clients], back: 0 });
    let mut hear = |user: usize, heard: Heard<'_>, replies: &mut Replies| {
        match heard {
            Heard::Open => {
                let cursors: Vec<_> = rooms_of(user).map(|room| (room, head(user, clients))).collect();
                replies.say(user, server.hello(user, &cursors));
            }
            Heard::Gone => bail!("the server closed connection {user}"),
            Heard::Text(frame) => match say(frame) {
                Said::Delivered(_) => {
                    let state = &mut *state.borrow_mut();
                    let seq = number_after(frame, r#""seq":"#);
                    let head = head(user, clients);
                    ensure!(seq == Some(head + 1), "{user} got {seq:?} behind {head}");
                    ensure!(state.missing[user] > 0, "{user} got a message twice");
                    state.missing[user] -= 1;
                    state.back += 1;
                }
                Said::Ready => {}
                _ => bail!("{user} was told {}", String::from_utf8_lossy(frame)),
            },
        }
        Ok(())
    };
    load.run_until(&mut hear, || state.borrow().back == clients)
}
