//! Every limit: its meaning, its reason, and what happens beyond it. `welcome` sends the limits to clients; the `[limits]`
//! section of the configuration changes them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The server's limits. Sizes are in bytes, times in milliseconds, rates per second.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Longest frame from a client. It bounds the memory that one connection takes for an incomplete frame. Beyond: close
    /// 1009 at the first excess byte.
    pub frame: u32,
    /// Longest `text`, and longest `data` as JSON. The server copies a message to every member and keeps it for good, and
    /// several must fit a page. Beyond: the error `too_large`.
    pub text: u32,
    /// Longest `hello`. It is smaller than `frame`, because the client has not authenticated yet. A token of 8 KB and
    /// 500 cursors fit. Beyond: close 1009.
    pub hello_frame: u32,
    /// Time from the end of the handshake to `hello`. (The handshake has 5 s of its own.) Silent sockets cost memory.
    /// Beyond: close 4408.
    pub hello_timeout: u32,
    /// Time without a frame after which the server pings a connection: half of the 60 s after which common proxies
    /// disconnect (nginx `proxy_read_timeout`).
    pub ping_interval: u32,
    /// Time to answer a ping; any frame counts as the answer. The server notices a phone without coverage after
    /// `ping_interval + pong_timeout`. Beyond: close 4408.
    pub pong_timeout: u32,
    /// Most fragments of one WebSocket message: each costs work, even one without a byte. Beyond: close 1008.
    pub fragments: u32,
    /// Most connections of the server. Each takes about 10 KB, the kernel's share included. A tenth of them, and at least
    /// 1,000, may be connections that have not authenticated yet; beyond that the server closes the oldest of these.
    /// Beyond: HTTP 503.
    pub connections: u32,
    /// Most connections of one user: tabs, phones, and lost connections that have not timed out yet. Beyond: the error
    /// `rate_limited`, close 1013. 0 is no limit.
    pub connections_per_user: u32,
    /// Most connections from one address: enough for an office behind one router. Beyond: HTTP 429. 0 is no limit.
    pub connections_per_address: u32,
    /// Most concurrent HTTP requests with tokens of one user: what a client requests in parallel. A request counts until its
    /// client has read the answer, because that may be as large as a page. Beyond: the error `rate_limited`. 0 is no limit.
    pub requests_per_user: u32,
    /// Most concurrent HTTP requests with one API key: a back end makes requests for many users. Beyond: the error
    /// `rate_limited`. 0 is no limit.
    pub requests_per_key: u32,
    /// Sends a second of one connection, with a burst of five seconds' worth. `send` counts, and every other command that
    /// stores an event. Beyond: the error `rate_limited`. 0 is no limit.
    pub sends_per_connection: u32,
    /// Sends a second of one user, over all connections and HTTP requests. `create` and `invite` cost a send for the
    /// command and one for each member they name, because the writer inserts a row and the server notifies a user for each.
    /// A command that costs more than the burst needs a full bucket and leaves a debt. `typing` has a bucket of its own, with
    /// the same rate. 0 is no limit.
    pub sends_per_user: u32,
    /// `read` and `received` commands a second of one user, over all connections and HTTP, with a burst of five seconds'
    /// worth. For each the writer changes a row and the server sends a signal to each device of each member. Beyond: on a
    /// connection the latest command of each conversation waits, and its answer comes when it is stored; over HTTP the error
    /// `rate_limited`. 0 is no limit.
    pub cursors_per_user: u32,
    /// Sends a second of one API key, with the costs of `sends_per_user`, `typing` included. A back end sends for many users:
    /// this is a hundred users' worth, so that a back end in an endless loop cannot fill the queue of writes. 0 is no limit.
    pub sends_per_key: u32,
    /// Direct conversations a minute that one user begins, with a burst of five minutes' worth: each stays in the other
    /// user's list for good. Every first message to another user id counts, whether or not the server knows that user.
    /// Beyond: the error `rate_limited`. It does not apply to API keys. 0 is no limit.
    pub directs_per_minute: u32,
    /// Frames of any kind a second of one connection, pings included, with a burst of five seconds' worth. Beyond: the error
    /// `rate_limited`. If the client still exceeds it a second later, or exceeds it by fifty seconds' worth: close 4429. 0 is
    /// no limit.
    pub frames_per_connection: u32,
    /// Most unanswered commands of one connection. Beyond: the server reads the next one after it has answered one.
    pub in_flight: u32,
    /// Most items on a page; the default of a command's `limit` is half of it. Beyond: the page has as many as this.
    pub page: u32,
    /// Most bytes on a page, which bounds the memory for one answer. A page ends after the item that exceeds the limit, and
    /// sets `more`. So a page is at most one item longer than the limit.
    pub page_bytes: u32,
    /// Longest replay of one conversation after `hello`, in events. Beyond: a `gap` frame.
    pub replay: u32,
    /// Most bytes that wait to be written to one connection. Beyond: the connection is a slow consumer, and the server reads
    /// its events from the log again when it has caught up.
    pub queue: u32,
    /// Most conversations that the server reads from the log at a time for one connection, because their events did not fit
    /// its queue. For a client that stops reading, each further conversation with a new event adds one; 7,000 take some
    /// 300 KB, about as much as the queue. A bot that pauses among 2,000 busy rooms stays far below, and those of `hello` do
    /// not count. Beyond: close 1013; the client resumes by its cursors.
    pub lags: u32,
    /// Most members of a room whose members all receive `read`, `received` and `typing`: the number of these signals grows
    /// with the square of the members. Beyond: only the user's own devices receive them.
    pub signal_room: u32,
    /// Users a second that one user's connections name in `watch`, and as many in `users`, with a burst of five seconds' worth: a full list each
    /// second. Each may cost a query of the store, and with several nodes up to three messages on the bus: to subscribe, to
    /// query the other nodes, and to unsubscribe. Beyond: the latest list of a connection waits, in place of an earlier one
    /// that waits; a `users` is refused as `rate_limited`. 0 is no limit.
    pub watched_per_user: u32,
    /// Most users in `watch`: as many as a screen shows, and more for scrolling. Beyond: the error `too_large`.
    pub watch: u32,
    /// Most users in `users`, and of how many a connection gets the changes of their profiles: as many as a screen shows, and
    /// more for scrolling. Beyond: the error `too_large`; of several commands the latest users count.
    pub follow: u32,
    /// Longest body of a call with many items, such as `/v1/profiles`. The key is checked before the body is read. Beyond: the
    /// error `too_large`.
    pub bulk: u32,
    /// Most members in `create`: one transaction writes them all. Beyond: the error `too_large`.
    pub create_members: u32,
    /// Most rooms that a user is in because they created or joined them, and most that a user creates within a day, even if
    /// they leave them. Each makes every `hello` of the user some microseconds slower. Rooms that others added the user to and
    /// direct conversations do not count, and a room that an API key creates does not count as created within a day. Beyond:
    /// the error `too_large`. 0 is no limit.
    pub rooms: u32,
    /// Most reactions to one message: every page with the message contains them. Beyond: the error `too_large`.
    pub reactions: u32,
    /// Most users whom one user blocks: each read for that user compares with all of them. Beyond: the error `too_large`.
    pub blocks: u32,
    /// Most messages after a read cursor among which those of blocked users are looked for, so that `unread` leaves them out:
    /// counting reads each event between. Beyond: they count.
    pub unread: u32,
    /// Most edits of one message. `delete` erases them all in one transaction, which delays every other write: 500 of the
    /// longest take some 60 ms. Therefore a user may erase two edits a second for each of `sends_per_user`, with a burst of
    /// five seconds' worth, and 50 reactions count as one edit; beyond that a `delete` is `rate_limited`. Beyond: the error
    /// `too_large`.
    pub edits: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame: 64 * 1024,
            text: 16 * 1024,
            hello_frame: 32 * 1024,
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
            follow: 200,
            bulk: 8 * 1024 * 1024,
            create_members: 1_000,
            rooms: 1_000,
            reactions: 1_000,
            blocks: 1_000,
            unread: 1_000,
            edits: 500,
        }
    }
}

impl Limits {
    /// About how many bytes an event's frame takes besides its body: for names, numbers and a time.
    pub const EVENT_OVERHEAD_BYTES: usize = 300;

    /// The number of conversations over which `welcome.unread` counts, the latest active first. It is bounded because every
    /// `hello` reads a row for each; a page of summaries has about as many.
    pub const MAX_UNREAD_CONVERSATIONS: usize = 200;

    /// The most entries in a page of the feed, and how many a call gets that names no `limit`. A page also ends at
    /// `page_bytes`.
    pub const FEED_PAGE: u32 = 500;

    /// The longest `wait` of a call of the feed, in milliseconds: proxies cut a request after 30 s without an answer.
    pub const FEED_WAIT: u64 = 25_000;

    /// How many calls of one API key wait for the feed at a time, streams included. Beyond: `rate_limited`.
    pub const FEED_WAITING: u32 = 16;

    /// The most rows that one call of `list_users` or `list_rooms` reads. Its filters may leave all of them out.
    pub const LIST_ROWS: usize = 10_000;

    /// The most users that one call of `unread` or `send_many` names: each is several reads, or a write.
    pub const BULK_USERS: usize = 1_000;

    /// The most types that a call of the feed names: more than there are.
    pub const FEED_TYPES: usize = 64;

    /// The most profiles in one `/v1/profiles`: one transaction writes them all.
    pub const PROFILES: usize = 1_000;

    /// The most lines in one `/v1/import`: one transaction stores them all, and every other write waits for it.
    pub const IMPORT_LINES: usize = 1_000;

    /// How many calls with a body of up to `bulk` one API key makes at a time, because each takes that memory. Beyond:
    /// `rate_limited`.
    pub const MAX_CONCURRENT_BULK_CALLS: u32 = 4;

    /// The longest `data` of a profile as JSON: several must fit a page.
    pub const MAX_PROFILE_DATA_BYTES: usize = 4_096;

    /// How many milliseconds a user waits between two changes of their own profile, after a burst of
    /// [`Self::OWN_PROFILE_BURST`]: each is sent to everybody who follows the user. Beyond: `rate_limited`.
    pub const OWN_PROFILE_INTERVAL_MS: u64 = 10_000;

    /// How many changes of their own profile a user makes at once.
    pub const OWN_PROFILE_BURST: u32 = 5;

    /// How long a node waits between two `profile` signals about one user, in milliseconds. What changes meanwhile comes
    /// together.
    pub const PROFILE_SIGNAL_INTERVAL_MS: u64 = 1_000;

    /// The most bytes of a ban's `reason`: an `error` frame has it, and a person reads it.
    pub const MAX_BAN_REASON_BYTES: usize = 500;

    /// The most bytes of a ban's `note`: a page of `bans` has several.
    pub const MAX_BAN_NOTE_BYTES: usize = 2_000;

    /// The most bytes of the `text` of a report: a moderator reads many.
    pub const MAX_REPORT_TEXT_BYTES: usize = 500;

    /// The most bytes of a decision's `note`: a page of `reports` has several.
    pub const MAX_REPORT_NOTE_BYTES: usize = 2_000;

    /// The most bytes of a decision's `tell`: one frame has it, and a person reads it.
    pub const MAX_TELL_BYTES: usize = 500;

    /// The most bytes of the `reason` of reading as a moderator: an entry of the feed has it.
    pub const MAX_READ_REASON_BYTES: usize = 500;

    /// How many reports a user makes in an hour: a person needs fewer, and each is a moderator's work. Beyond: `rate_limited`.
    pub const REPORTS_PER_HOUR: u32 = 20;

    /// How many of those who reported a target `reports` lists, the first ones: hundreds say no more than fifty. The reasons are
    /// counted over all of them.
    pub const MAX_LISTED_REPORTERS: usize = 50;

    /// How many of those who reported a target learn of the decision, the first ones: each is a notice to other nodes.
    pub const MAX_TOLD_REPORTERS: usize = 1_000;

    /// How many held messages of one user wait for a decision: each is a moderator's work. Beyond: `rate_limited`.
    pub const HELD_PER_USER: u32 = 100;

    /// When to try again after [`Self::HELD_PER_USER`], in milliseconds: a person decides, which takes longer than seconds.
    pub const HELD_RETRY_MS: u64 = 60_000;

    /// For how many milliseconds a decided report is kept: 30 days, in which the decision can be disputed.
    pub const REPORT_KEEP_MS: i64 = 30 * 24 * 60 * 60 * 1_000;

    /// The longest time from now to an `until`, in milliseconds: ten years. A later one is a mistake, such as a time in
    /// microseconds; what is to have no end is written without `until`. Beyond: `bad_field`.
    pub const MAX_UNTIL_MS: i64 = 10 * 366 * 24 * 60 * 60 * 1_000;

    /// The longest time between two messages of a member in a room in slow mode, in milliseconds: six hours. Who is to write
    /// less often is a reader. Beyond: `bad_field`.
    pub const MAX_SLOW_MS: u32 = 6 * 60 * 60 * 1_000;

    /// The fewest bytes of the `query` of `find_users`: a single letter would match a large part of all users.
    pub const MIN_FIND_QUERY_BYTES: usize = 2;

    /// The most bytes of that `query`: more than a name has.
    pub const MAX_FIND_QUERY_BYTES: usize = 200;

    /// How many `find_users` a second a user makes, after a burst of [`Self::FIND_USERS_BURST`]: a person types no faster for long, and
    /// a program should not read out the directory. Beyond: `rate_limited`.
    pub const FINDS_PER_USER: u32 = 1;

    /// How many `find_users` a user makes at once.
    pub const FIND_USERS_BURST: u32 = 10;

    /// How many users one `find_users` examines. Those beyond are not found; a longer `query` finds them.
    pub const MAX_FIND_CANDIDATES: usize = 1_000;

    /// Which part of `connections` may be unauthenticated: one in this many. Authenticated means a `hello` or a request
    /// with valid credentials.
    const UNAUTHENTICATED_DIVISOR: u32 = 10;

    /// How many connections may be unauthenticated even on a small server, so that a few slow clients do not block it.
    const MIN_UNAUTHENTICATED: u32 = 1_000;

    /// The most connections that may be unauthenticated. Beyond: the server closes the oldest of them for a new one.
    pub fn max_unauthenticated(&self) -> u32 {
        (self.connections / Self::UNAUTHENTICATED_DIVISOR)
            .max(Self::MIN_UNAUTHENTICATED)
            .min(self.connections)
    }

    /// Which part of `queue` a page of replayed events may take: one in this many bytes. So a slow consumer never takes
    /// more memory than its queue may.
    pub const QUEUE_TO_REPLAY_PAGE_RATIO: u32 = 2;

    /// The smallest allowed `queue`. With it a page of replayed events has room for one event; with less, a slow consumer
    /// would never catch up.
    pub const MIN_QUEUE_BYTES: usize = Self::QUEUE_TO_REPLAY_PAGE_RATIO as usize * Self::EVENT_OVERHEAD_BYTES;

    /// The largest frame of the server, in bytes: a full page and one more item. An item has at most a text of which every
    /// byte is escaped (six bytes of JSON), `data`, and a user and an emoji for each reaction, or the members of a `create`.
    pub fn largest_frame(&self) -> usize {
        let item = 7 * u64::from(self.text)
            + 200 * u64::from(self.reactions)
            + 70 * u64::from(self.create_members)
            + Self::EVENT_OVERHEAD_BYTES as u64;
        usize::try_from(u64::from(self.page_bytes) + item).unwrap_or(usize::MAX)
    }

    /// These limits without rates and without bounds for one user or address, so that a load tool on one machine can run
    /// against a `dev` server.
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

    /// The number of items on a page if the command's `limit` is `requested`.
    pub fn page_size(&self, requested: Option<u32>) -> u32 {
        requested.unwrap_or(self.page / 2).clamp(1, self.page.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_frame_has_the_size_that_the_documentation_states() {
        let protocol = include_str!("../../../docs/protocol.md");
        let digits = Limits::default().largest_frame().to_string();
        let (millions, thousands) = digits.split_at(digits.len() - 3);
        assert!(protocol.contains(&format!("= {millions},{thousands} bytes")), "{digits}");
    }
}
