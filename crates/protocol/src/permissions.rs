//! What a user may do.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a user may do, from the configuration and the user's token. API keys have scopes in place of this.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Permissions {
    /// Whether the user may create rooms.
    pub create_rooms: bool,
    /// Whether the user may create public rooms, and join them.
    pub public_rooms: bool,
    /// Who may invite.
    pub invite: Inviters,
    /// Whom the user may reach first, by `send`, `invite` and the members of `create`: ids, patterns of ids in which `*` stands for any
    /// characters, "shared" for users with whom they share a conversation, and "all".
    pub contact: Vec<String>,
    /// What becomes of attempts to reach other users first.
    pub others: Others,
    /// Of whom `users` and `find_users` tell.
    pub directory: Directory,
}

impl Permissions {
    /// The word for users with whom one shares a conversation.
    pub const SHARED: &str = "shared";

    /// The word for all users.
    pub const ALL: &str = "all";
}

impl Default for Permissions {
    fn default() -> Self {
        Self {
            create_rooms: true,
            public_rooms: true,
            invite: Inviters::Members,
            contact: vec![Self::ALL.to_owned()],
            others: Others::Refuse,
            directory: Directory::Shared,
        }
    }
}

/// Who may invite users to rooms.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Inviters {
    /// Admins, and in public rooms all members who may write.
    #[default]
    Members,
    /// Admins only.
    Admins,
}

/// What becomes of an attempt to reach a user first who is not in `contact`.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Others {
    /// It is `forbidden`.
    #[default]
    Refuse,
    /// The other user is asked. Not sent by this version.
    Request,
}

/// Of whom a user may see the profile.
#[cfg_attr(feature = "typescript", derive(ts_rs::TS))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Directory {
    /// Users with whom they share a conversation.
    #[default]
    Shared,
    /// All users.
    All,
    /// Only themselves.
    Off,
}
