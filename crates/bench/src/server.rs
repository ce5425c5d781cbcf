//! What differs among the servers that are measured: how one is started and what is said to it.

use std::cell::Cell;
use std::net::SocketAddr;
use std::ops::Range;

use crate::load::{Heard, Load, Replies};
use crate::process::Process;

/// What a frame from a server means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// The connection is authenticated and gets what is sent from now on.
    Ready,
    /// Somebody's message.
    Delivered,
    /// One's own message was accepted.
    Acked,
    /// Nothing that matters here.
    Other,
}

/// A server that runs, with a room that everybody is in.
pub(crate) trait Server {
    /// How it is called in tables.
    fn name(&self) -> &'static str;
    /// Where it listens.
    fn address(&self) -> SocketAddr;
    /// The process, to look at.
    fn process(&self) -> &Process;
    /// The request of the WebSocket handshake.
    fn request(&self, user: usize) -> Vec<u8>;
    /// What a client says first.
    fn greeting(&self, user: usize) -> String;
    /// What a frame means that came to `user`.
    fn understand(&self, user: usize, frame: &[u8]) -> Said;
    /// The frame that sends a text to the room.
    fn message(&self, user: usize, id: u64, text: &str) -> String;
}

/// Connects `users` and waits until all of them are ready. Connection and user have the same number.
pub(crate) fn join(server: &dyn Server, load: &mut Load, users: usize) -> anyhow::Result<()> {
    join_more(server, load, 0..users)
}

/// The same with more users, behind those who are there.
pub(crate) fn join_more(server: &dyn Server, load: &mut Load, users: Range<usize>) -> anyhow::Result<()> {
    for user in users.clone() {
        load.connect(server.address(), server.request(user));
    }
    let ready = Cell::new(0);
    let mut hear = |user: usize, heard: Heard<'_>, replies: &mut Replies| {
        match heard {
            Heard::Open => replies.say(user, server.greeting(user)),
            Heard::Gone => anyhow::bail!("{} closed connection {user} before it was ready", server.name()),
            Heard::Text(frame) => match server.understand(user, frame) {
                Said::Ready => ready.set(ready.get() + 1),
                Said::Delivered | Said::Acked | Said::Other => {}
            },
        }
        Ok(())
    };
    load.run_until(&mut hear, || ready.get() == users.len())
}
