//! The interface to a measured server: the frames to send to it, and the meaning of its frames.

use std::cell::Cell;
use std::ops::Range;

use crate::load::{ConnectionEvent, Load, QueuedFrames};
use crate::process::Process;

/// What a frame from a server means for a measurement.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FrameMeaning {
    /// The connection is authenticated and in its room, and receives messages from now on.
    Ready,
    /// The frame has another user's message, with the number in its text; `None` if all messages of this server are the same.
    Delivered(Option<u64>),
    /// The server acknowledged the connection's own message, with its seq if the server reports one.
    Acked(Option<u64>),
    /// The protocol requires that the client answers with this frame: a pong, or the next step of an authentication.
    MustAnswer(String),
    /// The measurement ignores the frame.
    Other,
}

/// To which conversation a message is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The room of this number.
    Room(usize),
    /// The conversation with this user, who is not connected.
    User(usize),
    /// A direct conversation with `user`; for a server that only has rooms, the room of the two users.
    Pair { room: usize, user: usize },
}

/// A function that receives the meaning of a frame.
pub(crate) type MeaningHandler<'a> = dyn FnMut(FrameMeaning) -> anyhow::Result<()> + 'a;

/// A running server that is measured. Users and rooms have numbers; each user is in one room.
pub(crate) trait Server {
    /// The server's name in tables.
    fn name(&self) -> &'static str;
    /// The server's process.
    fn server_process(&self) -> &Process;
    /// Creates rooms of `size` users before the users connect. Most servers need no such step, so the default does nothing.
    fn make_rooms(&self, _users: usize, _size: usize) -> anyhow::Result<()> {
        Ok(())
    }
    /// The request of the WebSocket handshake.
    fn handshake_request(&self) -> Vec<u8>;
    /// The first frame of the client of `user`, with which it joins `room`. Empty if the client sends none.
    fn join_frame(&self, user: usize, room: usize) -> String;
    /// Decodes a frame that `user` received, and calls `emit` with its meaning. In some protocols a frame has several meanings.
    fn decode_meanings(&self, user: usize, frame: &[u8], emit: &mut MeaningHandler<'_>)
    -> anyhow::Result<()>;
    /// The frame that sends a text. `id` is higher than the ids of the sender's earlier messages.
    fn message_frame(&self, to: Target, id: u64, text: &str) -> String;
}

/// Connects further users and waits until all are ready. A connection has the number of its user; rooms have `size` users.
pub(crate) fn join(
    server: &dyn Server,
    load: &mut Load,
    users: Range<usize>,
    size: usize,
) -> anyhow::Result<()> {
    for _ in users.clone() {
        load.connect(server.server_process().address, server.handshake_request());
    }
    let ready = Cell::new(0);
    let mut on_event = |user: usize, event: ConnectionEvent<'_>, replies: &mut QueuedFrames| match event {
        ConnectionEvent::Open => {
            replies.send(user, server.join_frame(user, user / size));
            Ok(())
        }
        ConnectionEvent::Closed(why) => {
            anyhow::bail!("{} closed connection {user} before it was ready: {why}", server.name())
        }
        ConnectionEvent::Text(frame) => server.decode_meanings(user, frame, &mut |meaning| {
            match meaning {
                FrameMeaning::Ready => ready.set(ready.get() + 1),
                FrameMeaning::MustAnswer(answer) => replies.send(user, answer),
                FrameMeaning::Delivered(_) | FrameMeaning::Acked(_) | FrameMeaning::Other => {}
            }
            Ok(())
        }),
    };
    load.run_until(&mut on_event, || ready.get() == users.len())
}
