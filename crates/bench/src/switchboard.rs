//! Switchboard itself, as `switchboard serve` runs it: durable and authenticated. The rates and the limits of
//! connections for each address and user are off, since all the load comes from one machine.

use std::cell::Cell;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::load::{Heard, Load, Replies};
use crate::process::{self, Process};
use crate::server::{Said, Server, Tell, To};
use crate::stamp::{self, number_after};
use crate::{Product, wire};

/// Unlimited, each of them (0).
const OFF: [&str; 5] = [
    "CONNECTIONS_PER_USER",
    "CONNECTIONS_PER_ADDRESS",
    "SENDS_PER_CONNECTION",
    "SENDS_PER_USER",
    "FRAMES_PER_CONNECTION",
];

/// A secret of nobody's.
pub const SECRET: &str = "the secret of a measurement, known to everybody";

/// A server with its data.
pub(crate) struct Switchboard<'a> {
    product: &'a Product<'a>,
    process: Process,
    cores: &'static [usize],
    data: TempDir,
}

impl<'a> Switchboard<'a> {
    /// Starts one on an empty directory below `scratch`, on these cores.
    pub(crate) fn start(
        product: &'a Product<'a>,
        scratch: &Path,
        cores: &'static [usize],
    ) -> anyhow::Result<Self> {
        let data = process::scratch(scratch)?;
        let process = launch(data.path(), "127.0.0.1:0", cores, None)?;
        Ok(Self { product, process, cores, data })
    }

    /// Starts a node on an empty PostgreSQL database.
    pub(crate) fn start_on(
        store: &str,
        product: &'a Product<'a>,
        scratch: &Path,
        cores: &'static [usize],
    ) -> anyhow::Result<Self> {
        let data = process::scratch(scratch)?;
        let process = launch(data.path(), "127.0.0.1:0", cores, Some(store))?;
        Ok(Self { product, process, cores, data })
    }

    /// Ends it as a power cut would.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        self.process.kill()
    }

    /// Where its messages are.
    pub(crate) fn database(&self) -> PathBuf {
        self.data.path().join("switchboard.db")
    }

    /// Ends it as a power cut would, if it runs, and starts it again on the same port.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        self.stop()?;
        self.process = launch(self.data.path(), &self.process.address.to_string(), self.cores, None)?;
        Ok(())
    }

    /// What a client of `user` says first, with the cursors that it has.
    pub(crate) fn hello(&self, user: usize, cursors: &[(String, u64)]) -> String {
        let token = (self.product.mint)(&user_id(user)).unwrap_or_default();
        let mut hello = format!(r#"{{"type":"hello","token":"{token}","cursors":{{"#);
        for (n, (conversation, seq)) in cursors.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            // Writing to a string does not fail.
            let _ = write!(hello, r#"{comma}"{conversation}":{seq}"#);
        }
        hello.push_str("}}");
        hello
    }

    /// Says commands as `user`, one after the other without waiting, and waits until all are answered.
    pub(crate) fn says(&self, user: usize, commands: impl Iterator<Item = String>) -> anyhow::Result<()> {
        /// Commands on their way: the server reads on at half as many answers.
        const AHEAD: usize = 256;
        let mut load = Load::new()?;
        load.connect(self.process.address, self.request());
        let hello = self.hello(user, &[]);
        let mut commands = commands.peekable();
        let (mut ready, mut said, answered) = (false, 0, Cell::new(0));
        let finished = Cell::new(false);
        let mut hear = |_: usize, heard: Heard<'_>, replies: &mut Replies| {
            match heard {
                Heard::Open => replies.say(0, hello.clone()),
                Heard::Gone(why) => anyhow::bail!("the server closed the connection: {why}"),
                Heard::Text(frame) => match say(frame) {
                    Said::Ready => ready = true,
                    Said::Acked(_) => answered.set(answered.get() + 1),
                    other => {
                        let frame = String::from_utf8_lossy(frame);
                        anyhow::bail!("{} was told {frame}: {other:?}", user_id(user))
                    }
                },
            }
            while ready && said < answered.get() + AHEAD {
                let Some(command) = commands.next() else { break };
                replies.say(0, command);
                said += 1;
            }
            finished.set(ready && commands.peek().is_none() && answered.get() == said);
            Ok(())
        };
        load.run_until(&mut hear, || finished.get())
    }
}

impl Server for Switchboard<'_> {
    fn name(&self) -> &'static str {
        "switchboard"
    }

    fn process(&self) -> &Process {
        &self.process
    }

    fn request(&self) -> Vec<u8> {
        wire::request("/v1/ws", "sec-websocket-protocol: switchboard.v1\r\n")
    }

    fn make_rooms(&self, users: usize, size: usize) -> anyhow::Result<()> {
        for room in 0..users.div_ceil(size) {
            let members = room * size..users.min((room + 1) * size);
            self.says(members.start, make_room(&name(To::Room(room)), members))?;
        }
        Ok(())
    }

    fn greeting(&self, user: usize, _: usize) -> String {
        self.hello(user, &[])
    }

    fn understand(&self, _: usize, frame: &[u8], tell: &mut Tell<'_>) -> anyhow::Result<()> {
        anyhow::ensure!(!is(frame, "error"), "it refused: {}", String::from_utf8_lossy(frame));
        tell(say(frame))
    }

    fn message(&self, to: To, id: u64, text: &str) -> String {
        message(&name(to), id, text)
    }
}

/// Users in groups: those of a group are together in [`Groups::ROOMS`] rooms, and in no others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Groups {
    pub(crate) users: usize,
    /// Users of a group.
    pub(crate) size: usize,
}

impl Groups {
    /// Rooms that each user is in.
    pub(crate) const ROOMS: usize = 10;

    /// Makes all rooms: an event for every member.
    pub(crate) fn fill(self, server: &Switchboard<'_>) -> anyhow::Result<()> {
        for group in 0..self.users.div_ceil(self.size) {
            let members = group * self.size..((group + 1) * self.size).min(self.users);
            let commands = Self::rooms(group).flat_map(|room| make_room(&room, members.clone()));
            server.says(members.start, commands)?;
        }
        Ok(())
    }

    /// The rooms of a user.
    pub(crate) fn rooms_of(self, user: usize) -> impl Iterator<Item = String> {
        Self::rooms(user / self.size)
    }

    /// The last event of each room of a user after [`Self::fill`].
    pub(crate) fn head(self, user: usize) -> u64 {
        let first = user / self.size * self.size;
        (self.users - first).min(self.size) as u64
    }

    /// The rooms of a group.
    pub(crate) fn rooms(group: usize) -> impl Iterator<Item = String> {
        (0..Self::ROOMS).map(move |n| format!("#g{group}-{n}"))
    }
}

/// What a frame says. One frame, one thing.
pub(crate) fn say(frame: &[u8]) -> Said {
    if is(frame, "message") {
        // Whoever looks for a number gets none that was sent, if it is missing.
        Said::Delivered(Some(stamp::find(frame).unwrap_or(u64::MAX)))
    } else if is(frame, "ok") {
        Said::Acked(number_after(frame, r#""seq":"#))
    } else if is(frame, "welcome") {
        Said::Ready
    } else {
        Said::Other
    }
}

/// The commands with which the first of `members` makes a room for all of them; an event for each.
pub(crate) fn make_room(room: &str, members: Range<usize>) -> impl Iterator<Item = String> + use<> {
    let id = room.trim_start_matches('#').to_owned();
    let create = format!(r#"{{"type":"create","id":0,"room":"{id}","public":true}}"#);
    let invites = members.skip(1).map(move |user| {
        let user = user_id(user);
        format!(r##"{{"type":"invite","id":0,"conversation":"#{id}","user":"{user}"}}"##)
    });
    std::iter::once(create).chain(invites)
}

/// A `send` to any conversation.
pub(crate) fn message(to: &str, id: u64, text: &str) -> String {
    format!(r#"{{"type":"send","id":{id},"to":"{to}","key":"{id}","text":"{text}"}}"#)
}

/// How a conversation is called.
pub(crate) fn name(to: To) -> String {
    match to {
        To::Room(room) => format!("#bench{room}"),
        To::User(user) | To::Pair { user, .. } => format!("@{}", user_id(user)),
    }
}

/// How the conversation of two users is called where both are named.
pub(crate) fn direct(a: usize, b: usize) -> String {
    let (a, b) = (user_id(a), user_id(b));
    format!("@{}:{}", (&a).min(&b), (&a).max(&b))
}

fn user_id(user: usize) -> String {
    format!("u{user}")
}

/// Whether a frame is of this type.
fn is(frame: &[u8], kind: &str) -> bool {
    frame.strip_prefix(br#"{"type":""#).is_some_and(|rest| {
        rest.strip_prefix(kind.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'"'))
    })
}

fn launch(data: &Path, listen: &str, cores: &[usize], store: Option<&str>) -> anyhow::Result<Process> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["serve", "--listen", listen]);
    command.env("SWITCHBOARD_AUTH_SECRET", SECRET).env("SWITCHBOARD_LOG_LEVEL", "error");
    match store {
        Some(store) => command.env("SWITCHBOARD_STORE", store),
        None => command.arg("--data").arg(data),
    };
    for limit in OFF {
        command.env(format!("SWITCHBOARD_LIMITS_{limit}"), "0");
    }
    Process::start(&mut command, cores)
}
