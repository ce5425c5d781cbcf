//! What differs among the servers that are measured: how one is started and what is said to it.

use std::cell::Cell;
use std::ops::Range;

use crate::load::{Heard, Load, Replies};
use crate::process::Process;

/// What a frame from a server means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// The connection is authenticated and gets what is sent from now on.
    Ready,
    /// Somebody's message: which one it is, if this server's messages tell.
    Delivered(Option<u64>),
    /// One's own message was accepted.
    Acked,
    /// Nothing that matters here.
    Other,
}

/// A server that runs, with a room that everybody is in.
pub(crate) trait Server {
    /// How it is called in tables.
    fn name(&self) -> &'static str;
    /// The process, to connect to and to look at.
    fn process(&self) -> &Process;
    /// The request of the WebSocket handshake.
    fn request(&self) -> Vec<u8>;
    /// What a client of this user says first.
    fn greeting(&self, user: usize) -> String;
    /// What a frame means.
    fn understand(&self, frame: &[u8]) -> Said;
    /// The frame that sends a text to the room.
    fn message(&self, id: u64, text: &str) -> String;
}

/// Connects users, behind those who are there, and waits until all of them are ready. Connection and user have the same
/// number.
pub(crate) fn join(server: &dyn Server, load: &mut Load, users: Range<usize>) -> anyhow::Result<()> {
    for _ in users.clone() {
        load.connect(server.process().address, server.request());
    }
    let ready = Cell::new(0);
    let mut hear = |user: usize, heard: Heard<'_>, replies: &mut Replies| {
        match heard {
            Heard::Open => replies.say(user, server.greeting(user)),
            Heard::Gone => anyhow::bail!("{} closed connection {user} before it was ready", server.name()),
            Heard::Text(frame) => match server.understand(frame) {
                Said::Ready => ready.set(ready.get() + 1),
                Said::Delivered(_) | Said::Acked | Said::Other => {}
            },
        }
        Ok(())
    };
    load.run_until(&mut hear, || ready.get() == users.len())
}
