//! The lists of all users and rooms for back ends, and what users have not read.

use switchboard_protocol::{ListedBan, ListedReport, ListedRoom, ListedUser, Timestamp, UserId};

use crate::grant::UserPattern;

/// Which users to list.
#[derive(Debug, Clone, Default)]
pub struct ListUsers {
    /// The list begins after this number.
    pub after: u64,
    /// The most users.
    pub limit: Option<u32>,
    /// Only users whose ids match.
    pub matches: Option<UserPattern>,
    /// Only users who are there, or only users who are gone.
    pub active: Option<bool>,
    /// The users whom the key sees; `None` for all.
    pub visible: Option<UserPattern>,
}

/// Which rooms to list.
#[derive(Debug, Clone, Default)]
pub struct ListRooms {
    /// The list begins after this number.
    pub after: u64,
    /// The most rooms.
    pub limit: Option<u32>,
    /// Only rooms whose ids match, written without the `#`.
    pub matches: Option<UserPattern>,
    /// Only rooms of which this user is a member.
    pub member: Option<UserId>,
    /// Only public rooms, or only others.
    pub public: Option<bool>,
    /// Only rooms with a member whom the key sees; `None` for all.
    pub visible: Option<UserPattern>,
}

/// Which bans to list.
#[derive(Debug, Clone)]
pub struct ListBans {
    /// The list begins after this number.
    pub after: u64,
    /// The most bans.
    pub limit: Option<u32>,
    /// Only bans that hold at this time.
    pub now: Timestamp,
    /// The users whom the key sees; `None` for all.
    pub visible: Option<UserPattern>,
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct Listing<T> {
    /// What was found, by number. It may be empty although there is more.
    pub items: Vec<T>,
    /// The next page begins after this number.
    pub next: u64,
    /// Whether there may be more.
    pub more: bool,
}

/// A page of users.
pub type UserListing = Listing<ListedUser>;

/// A page of rooms.
pub type RoomListing = Listing<ListedRoom>;

/// A page of reports.
pub type ReportListing = Listing<ListedReport>;

/// A page of bans.
pub type BanListing = Listing<ListedBan>;
