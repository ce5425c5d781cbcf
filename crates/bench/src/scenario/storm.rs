//! All clients reconnect at once after the server was killed. Each has missed a message and sends its cursors.

use std::cell::RefCell;

use anyhow::{bail, ensure};

use super::Context;
use super::idle::GROUP_SIZE;
use crate::clock;
use crate::load::{ConnectionEvent, Load, QueuedFrames};
use crate::process::SERVER_CORE;
use crate::report::FigureName;
use crate::server::{FrameMeaning, Server as _};
use crate::stamp::{self, number_after};
use crate::switchboard::{Groups, Switchboard, decode_frame, message_command};
use crate::traffic::TEXT_BYTES;

pub(crate) fn run(context: &mut Context<'_>, clients: usize) -> anyhow::Result<()> {
    let groups = Groups { users: clients, size: GROUP_SIZE };
    for round in 1..=context.rounds {
        context.progress(&format!("storm: round {round} of {}", context.rounds));
        let mut server = Switchboard::start(context.program, context.scratch, SERVER_CORE)?;
        groups.create_all_rooms(&server)?;
        let text = stamp::stamped_text(0, TEXT_BYTES);
        for member in (0..clients).step_by(GROUP_SIZE) {
            server.send_all_as(
                member,
                groups.rooms_of(member).take(1).map(|room| message_command(&room, 1, &text)),
            )?;
        }
        server.restart()?;
        let client = |user: usize| {
            let head = groups.last_seq(user);
            let cursors = groups.rooms_of(user).map(|room| (room, head)).collect();
            Client { user, cursors, awaited_events: head + 1 }
        };
        let clients: Vec<_> = (0..clients).map(client).collect();
        let cpu = server.server_process().cpu_seconds()?;
        let begun = clock::now();
        reconnect(&server, &clients)?;
        let (took, cpu) = (begun.elapsed().as_secs_f64(), server.server_process().cpu_seconds()? - cpu);
        let count = clients.len() as f64;
        let scenario = format!("storm, {count} clients with {} cursors", Groups::ROOMS_PER_USER);
        for (figure, unit, value) in [
            ("all are back after", "s", took),
            ("cpu a client", "µs", cpu * 1e6 / count),
            ("resumes a cpu-second", "/s", count / cpu),
        ] {
            context
                .report
                .add(FigureName { scenario: &scenario, measured_server: "switchboard", figure, unit }, value);
        }
    }
    Ok(())
}

/// A client that has missed one message.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) user: usize,
    pub(crate) cursors: Vec<(String, u64)>,
    /// The seq of the missed message.
    pub(crate) awaited_events: u64,
}

/// Opens all connections, and waits until each client has received the missed message and nothing else.
pub(crate) fn reconnect(server: &Switchboard<'_>, clients: &[Client]) -> anyhow::Result<()> {
    struct Reconnected {
        has_all_events: Vec<bool>,
        count: usize,
    }
    let mut load = Load::new()?;
    for _ in clients {
        load.connect(server.server_process().address, server.handshake_request());
    }
    let state = RefCell::new(Reconnected { has_all_events: vec![false; clients.len()], count: 0 });
    let mut on_event = |place: usize, event: ConnectionEvent<'_>, replies: &mut QueuedFrames| {
        let Client { user, cursors, awaited_events: awaits } = &clients[place];
        match event {
            ConnectionEvent::Open => replies.send(place, server.hello_frame(*user, cursors)),
            ConnectionEvent::Closed(why) => bail!("the server closed the connection of {user}: {why}"),
            ConnectionEvent::Text(frame) => match decode_frame(frame) {
                FrameMeaning::Delivered(_) => {
                    let state = &mut *state.borrow_mut();
                    let seq = number_after(frame, r#""seq":"#);
                    ensure!(seq == Some(*awaits), "{user} got {seq:?} in place of {awaits}");
                    ensure!(!state.has_all_events[place], "{user} got a message twice");
                    state.has_all_events[place] = true;
                    state.count += 1;
                }
                FrameMeaning::Ready => {}
                _ => bail!("{user} received {}", String::from_utf8_lossy(frame)),
            },
        }
        Ok(())
    };
    load.run_until(&mut on_event, || state.borrow().count == clients.len())
}
