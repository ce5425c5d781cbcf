//! What differs among the servers that are measured: what is said to one, and what it means by what it says.

use std::cell::Cell;
use std::ops::Range;

use crate::load::{Heard, Load, Replies};
use crate::process::Process;

/// What a server says in a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// The connection is authenticated, in its room, and gets what is sent from now on.
    Ready,
    /// Somebody's message, with the number in its text; without one, if this server's messages are all the same.
    Delivered(Option<u64>),
    /// One's own message was accepted, as this one of its conversation, if the server counts them.
    Acked(Option<u64>),
    /// Its protocol wants this for an answer: a pong, the next step of an authentication.
    Wants(String),
    /// Nothing that matters here.
    Other,
}

/// Where a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum To {
    /// The room of this number.
    Room(usize),
    /// A conversation with this user, who is not there.
    User(usize),
    /// A conversation with this user, who is the other one in a room of two: for a server that has only rooms.
    Pair { room: usize, user: usize },
}

/// Is told what a frame says.
pub(crate) type Tell<'a> = dyn FnMut(Said) -> anyhow::Result<()> + 'a;

/// A server that runs. Users are numbers; so are rooms, and each user is in one of them.
pub(crate) trait Server {
    /// How it is called in tables.
    fn name(&self) -> &'static str;
    /// The process, to connect to and to look at.
    fn process(&self) -> &Process;
    /// Puts users into rooms of `size` before they connect. Most servers know nobody who is not connected.
    fn make_rooms(&self, _users: usize, _size: usize) -> anyhow::Result<()> {
        Ok(())
    }
    /// The request of the WebSocket handshake.
    fn request(&self) -> Vec<u8>;
    /// What a client of this user says first, who wants to be in this room. Nothing if it is empty.
    fn greeting(&self, user: usize, room: usize) -> String;
    /// Tells what a frame to this user says: in some protocols, more than one thing.
    fn understand(&self, user: usize, frame: &[u8], tell: &mut Tell<'_>) -> anyhow::Result<()>;
    /// The frame that sends a text. `id` is above those of the sender's earlier messages.
    fn message(&self, to: To, id: u64, text: &str) -> String;
}

/// Connects users, behind those who are there, and waits until all of them are ready. Connection and user have the same
/// number; rooms are of `size`.
pub(crate) fn join(
    server: &dyn Server,
    load: &mut Load,
    users: Range<usize>,
    size: usize,
) -> anyhow::Result<()> {
    for _ in users.clone() {
        load.connect(server.process().address, server.request());
    }
    let ready = Cell::new(0);
    let mut hear = |user: usize, heard: Heard<'_>, replies: &mut Replies| match heard {
        Heard::Open => {
            replies.say(user, server.greeting(user, user / size));
            Ok(())
        }
        Heard::Gone(why) => {
            anyhow::bail!("{} closed connection {user} before it was ready: {why}", server.name())
        }
        Heard::Text(frame) => server.understand(user, frame, &mut |said| {
            match said {
                Said::Ready => ready.set(ready.get() + 1),
                Said::Wants(answer) => replies.say(user, answer),
                Said::Delivered(_) | Said::Acked(_) | Said::Other => {}
            }
            Ok(())
        }),
    };
    load.run_until(&mut hear, || ready.get() == users.len())
}
