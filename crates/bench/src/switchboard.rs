//! Switchboard as `switchboard serve` runs it: durable and authenticated. Rates and limits of connections per address and user are
//! off, because all of the load comes from one machine.

use std::cell::Cell;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;
use switchboard_store::clock::Clock;
use tempfile::TempDir;

use crate::load::{ConnectionEvent, Load, QueuedFrames};
use crate::process::{self, Process};
use crate::server::{FrameMeaning, MeaningHandler, Server, Target};
use crate::stamp::{self, number_after};
use crate::wire;

/// Limits that the measurement switches off by setting them to 0.
const DISABLED_LIMITS: [&str; 5] = [
    "CONNECTIONS_PER_USER",
    "CONNECTIONS_PER_ADDRESS",
    "SENDS_PER_CONNECTION",
    "SENDS_PER_USER",
    "FRAMES_PER_CONNECTION",
];

/// The key that signs the tokens. It is for measurements only.
pub(crate) const SECRET: &str = "the secret of a measurement, known to everybody";

/// How long a token is valid, in seconds: longer than any measurement takes.
const TOKEN_LIFETIME_SECONDS: i64 = 24 * 3_600;

/// Signs a token for a user with [`SECRET`].
///
/// # Errors
/// The library cannot sign.
pub(crate) fn token(user: &str) -> anyhow::Result<String> {
    #[derive(Serialize)]
    struct Claims<'a> {
        sub: &'a str,
        exp: i64,
    }
    let now = Clock::system().now().as_millis() / 1_000;
    let claims = Claims { sub: user, exp: now + TOKEN_LIFETIME_SECONDS };
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    Ok(jsonwebtoken::encode(&Header::default(), &claims, &key)?)
}

/// A measured Switchboard server with its data directory.
pub(crate) struct Switchboard<'a> {
    program: &'a Path,
    process: Process,
    cores: &'static [usize],
    data: TempDir,
}

impl<'a> Switchboard<'a> {
    /// Starts a server on an empty directory below `scratch`, on these cores.
    pub(crate) fn start(program: &'a Path, scratch: &Path, cores: &'static [usize]) -> anyhow::Result<Self> {
        let data = process::create_scratch_directory(scratch)?;
        let process = start_switchboard(program, data.path(), "127.0.0.1:0", cores, None, &[])?;
        Ok(Self { program, process, cores, data })
    }

    /// Starts a node on an empty database of PostgreSQL.
    pub(crate) fn start_on(
        store: &str,
        program: &'a Path,
        scratch: &Path,
        cores: &'static [usize],
    ) -> anyhow::Result<Self> {
        let data = process::create_scratch_directory(scratch)?;
        let process = start_switchboard(program, data.path(), "127.0.0.1:0", cores, Some(store), &[])?;
        Ok(Self { program, process, cores, data })
    }

    /// Starts a server that asks a URL about every message.
    pub(crate) fn start_asking(
        hook: &str,
        program: &'a Path,
        scratch: &Path,
        cores: &'static [usize],
    ) -> anyhow::Result<Self> {
        let data = process::create_scratch_directory(scratch)?;
        let secret = data.path().join("hook");
        std::fs::write(&secret, BASE64_STANDARD.encode(SECRET))?;
        let settings = [
            ("SWITCHBOARD_HOOKS_URL", hook),
            ("SWITCHBOARD_HOOKS_SECRET_FILE", secret.to_str().context("the path is not UTF-8")?),
            ("SWITCHBOARD_HOOKS_ASK", "message"),
            ("SWITCHBOARD_HOOKS_ON_FAILURE", "message=refuse"),
        ];
        let process = start_switchboard(program, data.path(), "127.0.0.1:0", cores, None, &settings)?;
        Ok(Self { program, process, cores, data })
    }

    /// Kills the server without a clean stop.
    pub(crate) fn stop(&mut self) -> anyhow::Result<()> {
        self.process.kill()
    }

    /// The path of the server's database.
    pub(crate) fn database_file(&self) -> PathBuf {
        self.data.path().join("switchboard.db")
    }

    /// Kills the server, if it runs, and starts it again on the same port.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        self.stop()?;
        self.process = start_switchboard(
            self.program,
            self.data.path(),
            &self.process.address.to_string(),
            self.cores,
            None,
            &[],
        )?;
        Ok(())
    }

    /// The first frame of a client of `user`. It contains the client's cursors.
    pub(crate) fn hello_frame(&self, user: usize, cursors: &[(String, u64)]) -> String {
        let token = token(&user_id(user)).unwrap_or_default();
        let mut hello = format!(r#"{{"type":"hello","token":"{token}","cursors":{{"#);
        for (n, (conversation, seq)) in cursors.iter().enumerate() {
            let comma = if n > 0 { "," } else { "" };
            // Writing to a string does not fail.
            let _ = write!(hello, r#"{comma}"{conversation}":{seq}"#);
        }
        hello.push_str("}}");
        hello
    }

    /// Sends commands as `user` without waiting for each answer, and returns when all are answered.
    pub(crate) fn send_all_as(
        &self,
        user: usize,
        commands: impl Iterator<Item = String>,
    ) -> anyhow::Result<()> {
        /// The most commands without an answer. The server stops reading at `limits.in_flight`.
        const MAX_IN_FLIGHT: usize = 256;
        let mut load = Load::new()?;
        load.connect(self.process.address, self.handshake_request());
        let hello = self.hello_frame(user, &[]);
        let mut commands = commands.peekable();
        let (mut ready, mut sent, answered) = (false, 0, Cell::new(0));
        let finished = Cell::new(false);
        let mut on_event = |_: usize, event: ConnectionEvent<'_>, replies: &mut QueuedFrames| {
            match event {
                ConnectionEvent::Open => replies.send(0, hello.clone()),
                ConnectionEvent::Closed(why) => anyhow::bail!("the server closed the connection: {why}"),
                ConnectionEvent::Text(frame) => match decode_frame(frame) {
                    FrameMeaning::Ready => ready = true,
                    FrameMeaning::Acked(_) => answered.set(answered.get() + 1),
                    other => {
                        let frame = String::from_utf8_lossy(frame);
                        anyhow::bail!("{} received {frame}: {other:?}", user_id(user))
                    }
                },
            }
            while ready && sent < answered.get() + MAX_IN_FLIGHT {
                let Some(command) = commands.next() else { break };
                replies.send(0, command);
                sent += 1;
            }
            finished.set(ready && commands.peek().is_none() && answered.get() == sent);
            Ok(())
        };
        load.run_until(&mut on_event, || finished.get())
    }
}

impl Server for Switchboard<'_> {
    fn name(&self) -> &'static str {
        "switchboard"
    }

    fn server_process(&self) -> &Process {
        &self.process
    }

    fn handshake_request(&self) -> Vec<u8> {
        wire::handshake_request("/v1/ws", "sec-websocket-protocol: switchboard.v1\r\n")
    }

    fn make_rooms(&self, users: usize, size: usize) -> anyhow::Result<()> {
        for room in 0..users.div_ceil(size) {
            let members = room * size..users.min((room + 1) * size);
            self.send_all_as(members.start, make_room_commands(&target_id(Target::Room(room)), members))?;
        }
        Ok(())
    }

    fn join_frame(&self, user: usize, _: usize) -> String {
        self.hello_frame(user, &[])
    }

    fn decode_meanings(&self, _: usize, frame: &[u8], emit: &mut MeaningHandler<'_>) -> anyhow::Result<()> {
        anyhow::ensure!(
            !is_frame_of_type(frame, "error"),
            "the server refused: {}",
            String::from_utf8_lossy(frame)
        );
        emit(decode_frame(frame))
    }

    fn message_frame(&self, to: Target, id: u64, text: &str) -> String {
        message_command(&target_id(to), id, text)
    }
}

/// Users in groups: the users of a group share [`Groups::ROOMS_PER_USER`] rooms and are in no other rooms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Groups {
    pub(crate) users: usize,
    /// The number of users in each group.
    pub(crate) size: usize,
}

impl Groups {
    /// The number of rooms that each user is in.
    pub(crate) const ROOMS_PER_USER: usize = 10;

    /// Creates all rooms. Each has one event for each member.
    pub(crate) fn create_all_rooms(self, server: &Switchboard<'_>) -> anyhow::Result<()> {
        for group in 0..self.users.div_ceil(self.size) {
            let members = group * self.size..((group + 1) * self.size).min(self.users);
            let commands = Self::rooms(group).flat_map(|room| make_room_commands(&room, members.clone()));
            server.send_all_as(members.start, commands)?;
        }
        Ok(())
    }

    /// The names of a user's rooms.
    pub(crate) fn rooms_of(self, user: usize) -> impl Iterator<Item = String> {
        Self::rooms(user / self.size)
    }

    /// The seq of the last event in each room of a user after [`Self::create_all_rooms`].
    pub(crate) fn last_seq(self, user: usize) -> u64 {
        let first = user / self.size * self.size;
        (self.users - first).min(self.size) as u64
    }

    /// The names of a group's rooms.
    pub(crate) fn rooms(group: usize) -> impl Iterator<Item = String> {
        (0..Self::ROOMS_PER_USER).map(move |n| format!("#g{group}-{n}"))
    }
}

/// Decodes a frame. Each frame of Switchboard has one meaning.
pub(crate) fn decode_frame(frame: &[u8]) -> FrameMeaning {
    if is_frame_of_type(frame, "message") {
        // A message without a number gets a number that was never sent, so that the check of deliveries fails.
        FrameMeaning::Delivered(Some(stamp::find_stamp(frame).unwrap_or(u64::MAX)))
    } else if is_frame_of_type(frame, "ok") {
        FrameMeaning::Acked(number_after(frame, r#""seq":"#))
    } else if is_frame_of_type(frame, "welcome") {
        FrameMeaning::Ready
    } else {
        FrameMeaning::Other
    }
}

/// The commands with which the first of `members` creates a room and invites the others. Each command stores one event.
pub(crate) fn make_room_commands(room: &str, members: Range<usize>) -> impl Iterator<Item = String> + use<> {
    let id = room.trim_start_matches('#').to_owned();
    let create = format!(r#"{{"type":"create","id":0,"room":"{id}","public":true}}"#);
    let invites = members.skip(1).map(move |user| {
        let user = user_id(user);
        format!(r##"{{"type":"invite","id":0,"conversation":"#{id}","user":"{user}"}}"##)
    });
    std::iter::once(create).chain(invites)
}

/// The command that sends a message to any conversation.
pub(crate) fn message_command(to: &str, id: u64, text: &str) -> String {
    format!(r#"{{"type":"send","id":{id},"to":"{to}","key":"{id}","text":"{text}"}}"#)
}

/// The name of the conversation with this target.
pub(crate) fn target_id(to: Target) -> String {
    match to {
        Target::Room(room) => format!("#bench{room}"),
        Target::User(user) | Target::Pair { user, .. } => format!("@{}", user_id(user)),
    }
}

/// The name of the direct conversation of two users.
pub(crate) fn direct_conversation_id(a: usize, b: usize) -> String {
    let (a, b) = (user_id(a), user_id(b));
    format!("@{}:{}", (&a).min(&b), (&a).max(&b))
}

fn user_id(user: usize) -> String {
    format!("u{user}")
}

/// Whether the `type` of a frame is `kind`.
fn is_frame_of_type(frame: &[u8], kind: &str) -> bool {
    frame.strip_prefix(br#"{"type":""#).is_some_and(|rest| {
        rest.strip_prefix(kind.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'"'))
    })
}

fn start_switchboard(
    program: &Path,
    data: &Path,
    listen: &str,
    cores: &[usize],
    store: Option<&str>,
    settings: &[(&str, &str)],
) -> anyhow::Result<Process> {
    let mut command = Command::new(program);
    command.args(["serve", "--listen", listen]);
    command.env("SWITCHBOARD_AUTH_SECRET", SECRET).env("SWITCHBOARD_LOG_LEVEL", "error");
    match store {
        Some(store) => command.env("SWITCHBOARD_STORE", store),
        None => command.arg("--data").arg(data),
    };
    command.envs(settings.iter().copied());
    for limit in DISABLED_LIMITS {
        command.env(format!("SWITCHBOARD_LIMITS_{limit}"), "0");
    }
    Process::start(&mut command, cores)
}
