//! The types of the Switchboard protocol, version 1.
//!
//! A client sends a [`Command`]. The server answers with the types of [`reply`], and sends each stored [`Event`] and each
//! [`Signal`], which is not stored. The crate has no I/O: the server, the Rust client and the code generators all use it.
//! `docs/protocol.md` describes the protocol in prose.

mod block;
mod code;
mod command;
mod data;
mod decode;
mod event;
mod id;
mod limits;
mod listing;
mod message;
mod number;
mod permissions;
mod profile;
mod reason;
pub mod reply;
mod report;
mod signal;
mod text;
mod write_number;

pub use code::{CloseCode, ErrorCode};
pub use command::*;
pub use data::Data;
pub use decode::{Frame, Rejected, decode, decode_named, read_object};
pub use event::{Event, EventBody, EventKind, EventScope, MembershipEffect, Role, Timestamp};
pub use id::{CommandId, ConversationId, InvalidId, RoomId, Seq, Target, UserId};
pub use limits::Limits;
pub use listing::{ListedBan, ListedRoom, ListedUser, SendResult, UserUnread};
pub use permissions::{Directory, Inviters, Others, Permissions};
pub use reason::in_json_words;
pub use report::{
    ListedReport, ReasonCount, ReportAction, ReportId, ReportReason, ReportSnapshot, ReportState, Reporter,
};
pub use signal::Signal;
pub use text::{Avatar, Device, Emoji, Key, PersonName, Text, Title, is_blank, is_invisible, truncated};
pub use write_number::WriteNumber;

/// The WebSocket subprotocol (RFC 6455 section 1.9) that names this version.
pub const SUBPROTOCOL: &str = "switchboard.v1";

/// The optional features that `welcome.features` lists: what a server supports beyond the first version of the protocol.
/// `numbers` means that it accepts a [`WriteNumber`], `profiles` that it has the users' names and pictures,
/// `token` that a connection can renew its token, `permissions` that `welcome` and the answer to `token` have [`Permissions`],
/// `bans` that users can be banned and silenced, `slow` that rooms have settings, such as slow mode, `block` that users can block
/// each other, `report` that messages and users can be reported, `hold` that a message can wait for a moderator.
pub const FEATURES: &[&str] = &["numbers", PROFILES, TOKEN, "permissions", BANS, SLOW, BLOCK, REPORT, HOLD];

/// The feature of bans: of the installation, of rooms, and for writing.
pub const BANS: &str = "bans";

/// The feature of the settings of rooms.
pub const SLOW: &str = "slow";

/// The feature of reports.
pub const REPORT: &str = "report";

/// The feature of held messages, which wait for a moderator outside the log.
pub const HOLD: &str = "hold";

/// The feature of the command `token`, which renews the token of a connection.
pub const TOKEN: &str = "token";

/// The feature of the commands `block` and `blocks`.
pub const BLOCK: &str = "block";

/// The feature of the users' names and pictures.
pub const PROFILES: &str = "profiles";
