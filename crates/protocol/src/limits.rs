//! Every limit: what it is, why it is there, and what happens at it. `welcome` tells them to clients,
//! the `[limits]` section of the configuration changes them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the server allows. Sizes are in bytes, times in milliseconds, rates per second.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest frame from a client. It bounds what one connection may make the server hold while a
    /// frame is incomplete. Beyond: close 1009 at the first excess byte.
    pub frame: u32,
    /// Longest `text`, and longest `data` as JSON. A message is copied to every member and kept for
    /// good, and several must fit a page. Beyond: the error `too_large`.
    pub text: u32,
    /// Longest `hello`: whoever has not said who they are gets less room. About 150 cursors fit.
    /// Beyond: close 1009.
    pub hello_frame: u32,
    /// Time to say `hello` in, from the end of the handshake on, which has 5 s of its own. Silent sockets
    /// cost memory.
    /// Beyond: close 4408.
    pub hello_timeout: u32,
    /// The server pings a connection that has been quiet for so long: half of the 60 s after which
    /// common proxies cut (nginx `proxy_read_timeout`).
    pub ping_interval: u32,
    /// Time to answer a ping in (any frame counts). A phone out of coverage is found after
    /// `ping_interval + pong_timeout`. Beyond: close 4408.
    pub pong_timeout: u32,
    /// Most fragments of one WebSocket message; each costs work but need not carry a byte. Beyond:
    /// close 1008.
    pub fragments: u32,
    /// Most connections in all. About 10 KB each with the kernel's share. A tenth of them, and at least 1,000, may be
    /// connections that have not authenticated yet; beyond that the oldest of these is closed. Beyond: HTTP 503.
    pub connections: u32,
    /// Most connections of one user: tabs, phones and their half-dead predecessors. Beyond: the
    /// error `rate_limited`, close 1013. 0 is no limit.
    pub connections_per_user: u32,
    /// Most connections from one address; an office behind one router fits. Beyond: HTTP 429. 0 is
    /// no limit.
    pub connections_per_address: u32,
    /// Most HTTP requests with tokens of one user that are answered at a time: what a client asks for in parallel. An answer
    /// counts until its client has taken it, since it may be as large as a page. Beyond: the error `rate_limited`. 0 is no limit.
    pub requests_per_user: u32,
    /// The same for the requests with one API key: a back end asks for many users. Beyond: the error `rate_limited`. 0 is no
    /// limit.
    pub requests_per_key: u32,
    /// Sends a second of one connection, with a burst of five seconds' worth. `send`, and whatever
    /// else stores. Beyond: the error `rate_limited`. 0 is no limit.
    pub sends_per_connection: u32,
    /// The same for all connections of one user together, and over HTTP. `create` and `invite` cost a send for the
    /// command and one for each member they name, because each is a row that the writer inserts and a user who is
    /// notified. A price above the burst needs a full bucket and leaves a debt. `typing` is counted apart, at the same
    /// rate. 0 is no limit.
    pub sends_per_user: u32,
    /// Moves a second of one user's cursors, `read` and `received`, over all connections and HTTP, with a burst of five
    /// seconds' worth. Each is a row that the writer changes and a signal to each device of each member. Beyond: on a
    /// connection the latest of each conversation waits for its turn, and is answered when it is stored; over HTTP the
    /// error `rate_limited`. 0 is no limit.
    pub cursors_per_user: u32,
    /// Sends a second of one API key, at the prices of `sends_per_user`, `typing` included. A back end speaks for many: this is a hundred
    /// users' worth, so that a back end in a loop cannot fill the queue of writes. 0 is no limit.
    pub sends_per_key: u32,
    /// Direct conversations a minute that one user begins, with a burst of five minutes' worth: each is in the other
    /// side's list for good. A message to a user without a conversation yet counts, whether or not there is
    /// such a user. Beyond: the error `rate_limited`. API keys are free of it. 0 is no limit.
    pub directs_per_minute: u32,
    /// Frames of any kind a second of one connection, pings included, with a burst of five seconds'
    /// worth. Beyond: the error `rate_limited`; still going on a second later, or after fifty seconds' worth: close
    /// 4429. 0 is no limit.
    pub frames_per_connection: u32,
    /// Most commands of one connection that may wait for their answer. Beyond: the server reads on
    /// only when one is answered.
    pub in_flight: u32,
    /// Most items a page; the default of `limit` is half of it. Beyond: as many as this.
    pub page: u32,
    /// Most bytes a page: what a reader may make the server build at once. A page ends behind the item that goes
    /// beyond, with `more`, so it has at most one item more than this.
    pub page_bytes: u32,
    /// Longest replay of one conversation after `hello`, in events. Beyond: a `gap` frame.
    pub replay: u32,
    /// Most bytes that may wait to be written to one connection. Beyond: the events of that
    /// connection are read from the log again when it has caught up.
    pub queue: u32,
    /// Most conversations at a time that one connection reads from the log because they did not fit its queue. A client that
    /// stops reading gains one with each further conversation in which something happens; these take some 300 KB, about as
    /// much as the queue. A bot that pauses among 2,000 busy rooms has room to spare, and those of `hello` do not count.
    /// Beyond: close 1013; the client resumes by its cursors.
    pub lags: u32,
    /// Most members of a room in which `read`, `received` and `typing` are told to all: their number
    /// grows with the square of the members. Beyond: only to the user's own devices.
    pub signal_room: u32,
    /// Users a second that one user's connections name in `watch`, with a burst of five seconds' worth: a full list each
    /// second. Each may be looked up in the store, and with several nodes up to three messages go to the bus for it: that
    /// the node listens, that it asks who has the user, and that it no longer listens. Beyond: the latest list of a
    /// connection waits for its turn, and replaces one that waits. 0 is no limit.
    pub watched_per_user: u32,
    /// Most users in `watch`: what fits a screen, with room to scroll. Beyond: the error `too_large`.
    pub watch: u32,
    /// Most members named in `create`; one transaction writes them all. Beyond: the error `too_large`.
    pub create_members: u32,
    /// Most rooms that a user is in by having made or joined them, and most that a user makes within a day, whether or
    /// not they are still there. Each costs every `hello` of theirs a few microseconds. Those that others bring them into
    /// do not count, and direct conversations neither; what API keys make does not count as made within a day. Beyond:
    /// the error `too_large`. 0 is no limit.
    pub rooms: u32,
    /// Most reactions to one message; they come with it in every page. Beyond: the error `too_large`.
    pub reactions: u32,
    /// Most edits of one message. Deleting it erases them all in one transaction, which holds up every other write:
    /// 500 of the longest take some 60 ms. So a user erases two edits a second for each of `sends_per_user`, with a burst
    /// of five seconds' worth, and 50 reactions count as one edit; beyond that a `delete` is `rate_limited`. Beyond: the
    /// error `too_large`.
    pub edits: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame: 64 * 1024,
            text: 16 * 1024,
            hello_frame: 8 * 1024,
            hello_timeout: 5_000,
            ping_interval: 30_000,
            pong_timeout: 10_000,
            fragments: 1_024,
            connections: 100_000,
            connections_per_user: 50,
            connections_per_address: 1_000,
            requests_per_user: 16,
            requests_per_key: 256,
            sends_per_connection: 20,
            sends_per_user: 50,
            cursors_per_user: 20,
            sends_per_key: 5_000,
            directs_per_minute: 20,
            frames_per_connection: 100,
            in_flight: 1_024,
            page: 200,
            page_bytes: 512 * 1024,
            replay: 5_000,
            queue: 256 * 1024,
            lags: 7_000,
            signal_room: 100,
            watched_per_user: 200,
            watch: 200,
            create_members: 1_000,
            rooms: 1_000,
            reactions: 1_000,
            edits: 500,
        }
    }
}

impl Limits {
    /// What an event's frame has besides its body, roughly, in bytes: names, numbers and a time.
    pub const EVENT_OVERHEAD: usize = 300;

    /// Conversations with the latest activity that `welcome.unread` counts over. Each is a row that every `hello` of its
    /// user reads, so there is an end; a page of summaries has about as many.
    pub const UNREAD_CONVERSATIONS: usize = 200;

    /// What connections may have of `connections` before `hello`, or a first request with good credentials: one in so many.
    const STRANGERS_SHARE: u32 = 10;

    /// The least that this share comes to, so that a small server is not blocked by a few slow clients.
    const MIN_STRANGERS: u32 = 1_000;

    /// Most connections that have not authenticated. Beyond: the oldest of them is closed for the newest.
    pub fn strangers(&self) -> u32 {
        (self.connections / Self::STRANGERS_SHARE).max(Self::MIN_STRANGERS).min(self.connections)
    }

    /// A page of events is bounded by this share of a connection's queue, so that what a reader is behind
    /// by never takes more memory than the queue may.
    pub const REPLAY_SHARE: u32 = 2;

    /// The smallest `queue`: its share for a page holds an event, or a reader that is behind would never get on.
    pub const MIN_QUEUE: usize = Self::REPLAY_SHARE as usize * Self::EVENT_OVERHEAD;

    /// The largest frame of the server, in bytes: a page with one item more than it has room for. An item is at most a text
    /// of which every byte is escaped (six bytes of JSON), `data`, and a user and an emoji for each reaction, or the
    /// members of a `create`.
    pub fn largest_frame(&self) -> usize {
        let item = 7 * u64::from(self.text)
            + 200 * u64::from(self.reactions)
            + 70 * u64::from(self.create_members)
            + Self::EVENT_OVERHEAD as u64;
        usize::try_from(u64::from(self.page_bytes) + item).unwrap_or(usize::MAX)
    }

    /// The same without the limits of rate and of what one user or address may have, so that a load
    /// tool on one machine can run against a `dev` server.
    #[must_use]
    pub fn without_rates(self) -> Self {
        Self {
            connections_per_user: 0,
            connections_per_address: 0,
            requests_per_user: 0,
            requests_per_key: 0,
            sends_per_connection: 0,
            sends_per_user: 0,
            cursors_per_user: 0,
            sends_per_key: 0,
            directs_per_minute: 0,
            frames_per_connection: 0,
            watched_per_user: 0,
            rooms: 0,
            ..self
        }
    }

    /// How many items a page has when the client asks for `wanted`.
    pub fn page_size(&self, wanted: Option<u32>) -> u32 {
        wanted.unwrap_or(self.page / 2).clamp(1, self.page.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_frame_is_the_one_that_the_protocol_names() {
        let protocol = include_str!("../../../docs/protocol.md");
        let digits = Limits::default().largest_frame().to_string();
        let (millions, thousands) = digits.split_at(digits.len() - 3);
        assert!(protocol.contains(&format!("= {millions},{thousands} bytes")), "{digits}");
    }
}
