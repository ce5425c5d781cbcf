//! The interface to a measured server: the frames to send to it, and the meaning of its frames.

use std::cell::Cell;
use std::ops::Range;

use crate::load::{ConnectionEvent, Load, Replies};
use crate::process::Process;

/// The meaning of a server's frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The connection is authenticated and in its room, and receives messages from now on.
    Ready,
    /// Another user's message, with the number in its text; `None` if all messages of this server are the same.
    Delivered(Option<u64>),
    /// The connection's own message was accepted, with its seq if the server reports one.
    Acked(Option<u64>),
    /// The protocol requires this answer: a pong, or the next step of an authentication.
    MustAnswer(String),
    /// The measurement ignores the frame.
    Other,
}

/// The target of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The room of this number.
    Room(usize),
    /// A conversation with this user, who is not connected.
    User(usize),
    /// A direct conversation with `user`; for a server that only has rooms, the room of the two users.
    Pair { room: usize, user: usize },
}

/// Receives the meaning of a frame.
pub(crate) type OnMeaning<'a> = dyn FnMut(Meaning) -> anyhow::Result<()> + 'a;

/// A running server. Users and rooms are numbers; each user is in one room.
pub(crate) trait Server {
    /// The server's name in tables.
    fn name(&self) -> &'static str;
    /// The server's process.
    fn process(&self) -> &Process;
    /// Creates rooms of `size` users before they connect. Most servers know only connected users.
    fn make_rooms(&self, _users: usize, _size: usize) -> anyhow::Result<()> {
        Ok(())
    }
    /// The request of the WebSocket handshake.
    fn request(&self) -> Vec<u8>;
    /// The first frame of a client of this user, to join this room. Empty if there is none.
    fn greeting(&self, user: usize, room: usize) -> String;
    /// Decodes a frame to this user and emits its meaning; in some protocols a frame has several.
    fn decode(&self, user: usize, frame: &[u8], emit: &mut OnMeaning<'_>) -> anyhow::Result<()>;
    /// The frame that sends a text. `id` is higher than those of the sender's earlier messages.
    fn message(&self, to: Target, id: u64, text: &str) -> String;
}

/// Connects users after those that are connected already, and waits until all of them are ready. A connection has the number of
/// its user; rooms have `size` users.
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
    let mut on_event = |user: usize, event: ConnectionEvent<'_>, replies: &mut Replies| match event {
        ConnectionEvent::Open => {
            replies.send(user, server.greeting(user, user / size));
            Ok(())
        }
        ConnectionEvent::Closed(why) => {
            anyhow::bail!("{} closed connection {user} before it was ready: {why}", server.name())
        }
        ConnectionEvent::Text(frame) => server.decode(user, frame, &mut |meaning| {
            match meaning {
                Meaning::Ready => ready.set(ready.get() + 1),
                Meaning::MustAnswer(answer) => replies.send(user, answer),
                Meaning::Delivered(_) | Meaning::Acked(_) | Meaning::Other => {}
            }
            Ok(())
        }),
    };
    load.run_until(&mut on_event, || ready.get() == users.len())
}
