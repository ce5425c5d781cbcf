//! A user's profile as it is stored, and the changes of it.

use switchboard_protocol::reply::{Person, Profile};
use switchboard_protocol::{Avatar, PersonName, SetProfile, Timestamp, UserId};

use crate::key::UserKey;

/// The time up to which the tokens of a user are revoked, in SQL, of `users u LEFT JOIN profiles p`. A user who is gone cannot sign
/// in: that is a revocation up to the end of the year 9999.
macro_rules! not_before {
    () => {
        "CASE WHEN p.active IS NULL OR p.active THEN u.not_before ELSE 253402300799999 END"
    };
}

/// The end and the reason of a user's ban from the installation, in SQL, of `users u LEFT JOIN bans b`.
macro_rules! ban_columns {
    () => {
        "b.until, b.reason"
    };
}

/// Joins the bans that keep users out of the installation, which shadow bans do not.
macro_rules! join_bans {
    () => {
        " LEFT JOIN bans b ON b.conversation = 0 AND b.user = u.id AND NOT b.shadow"
    };
    // `OFFSET 0` makes PostgreSQL use the whole key, also without statistics about the table.
    (lateral) => {
        r#" LEFT JOIN LATERAL (SELECT until, reason FROM bans
            WHERE conversation = 0 AND "user" = u.id AND NOT shadow OFFSET 0) b ON true"#
    };
    // Shadow bans too.
    (all) => {
        r#" LEFT JOIN LATERAL (
            SELECT until, reason, shadow FROM bans WHERE conversation = 0 AND "user" = u.id OFFSET 0) b ON true"#
    };
}

pub(crate) use {ban_columns, join_bans, not_before};

pub use switchboard_protocol::Directory;

/// A change of a user's profile by a back end.
#[derive(Debug, Clone)]
pub struct ProfileChange {
    /// The user.
    pub user: UserId,
    /// The fields that change.
    pub fields: SetProfile,
    /// Whether the user is still there, if that changes.
    pub active: Option<bool>,
}

/// What a token says of its user.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenProfile {
    /// The fields that the token has.
    pub fields: SetProfile,
    /// A hash of them.
    pub claims: String,
    /// When the token was issued.
    pub issued: Timestamp,
}

/// Which token a profile was last read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastToken {
    /// When it was issued.
    pub issued: Timestamp,
    /// A hash of its claims.
    pub claims: String,
}

impl TokenProfile {
    /// Whether the token says something else than the last one, and is newer.
    pub fn has_new_claims(&self, last: Option<&LastToken>) -> bool {
        last.is_none_or(|last| last.issued < self.issued && last.claims != self.claims)
    }
}

/// The users for a query of profiles.
#[derive(Debug, Clone)]
pub enum PeopleQuery {
    /// These users, in this order.
    Users(Vec<UserId>),
    /// Users by the beginning of a word of their name, or of their id.
    Find {
        /// The beginning.
        query: String,
        /// The most users.
        limit: Option<u32>,
    },
}

/// Profiles that a user may see.
#[derive(Debug, Clone, Default)]
pub struct People {
    /// The profiles.
    pub users: Vec<Profile>,
    /// Whether there are more.
    pub more: bool,
}

/// When a profile has changed, and whose: where a page of changes ends.
pub type ChangePlace = (Timestamp, UserKey);

/// A changed profile.
#[derive(Debug, Clone)]
pub struct ShownProfile {
    /// The profile.
    pub profile: Profile,
    /// The users whom its user blocks. They do not learn of it.
    pub hidden_from: Vec<UserId>,
}

/// A page of profiles that have changed, in the order of their changes.
#[derive(Debug, Clone, Default)]
pub struct ChangedProfiles {
    /// The profiles.
    pub profiles: Vec<ShownProfile>,
    /// The last of them, after which the next page begins; `None` if this is the last page.
    pub next: Option<ChangePlace>,
}

/// A profile as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredProfile {
    pub(crate) name: Option<String>,
    pub(crate) avatar: Option<String>,
    pub(crate) data: Option<String>,
    pub(crate) version: u64,
    pub(crate) active: bool,
    pub(crate) changed: i64,
    pub(crate) issued: Option<i64>,
    pub(crate) claims: Option<String>,
}

impl Default for StoredProfile {
    fn default() -> Self {
        Self {
            name: None,
            avatar: None,
            data: None,
            version: 0,
            active: true,
            changed: 0,
            issued: None,
            claims: None,
        }
    }
}

impl StoredProfile {
    /// The profile as other users see it. A field that cannot be read is left out.
    pub(crate) fn visible_profile(&self, user: UserId) -> Profile {
        let Person { user, name, avatar } = self.person(user);
        let data = self.data.as_deref().and_then(|data| serde_json::from_str(data).ok());
        Profile { user, name, avatar, data, version: self.version }
    }

    /// The name and the picture alone.
    pub(crate) fn person(&self, user: UserId) -> Person {
        let name = self.name.as_deref().and_then(|name| PersonName::parse(name).ok());
        let avatar = self.avatar.as_deref().and_then(|avatar| Avatar::parse(avatar).ok());
        Person { user, name, avatar }
    }

    /// The token that it was last read from.
    pub(crate) fn last_token(&self) -> Option<LastToken> {
        let issued = self.issued.map(Timestamp::from_millis)?;
        Some(LastToken { issued, claims: self.claims.clone().unwrap_or_default() })
    }

    /// Changes the fields that are named.
    pub(crate) fn apply(&mut self, fields: &SetProfile, active: Option<bool>) {
        if let Some(name) = &fields.name {
            self.name = name.as_ref().map(|name| name.as_str().to_owned());
        }
        if let Some(avatar) = &fields.avatar {
            self.avatar = avatar.as_ref().map(|avatar| avatar.as_str().to_owned());
        }
        if let Some(data) = &fields.data {
            self.data = data.as_ref().and_then(|data| serde_json::to_string(data).ok());
        }
        self.active = active.unwrap_or(self.active);
    }

    /// Whether other users see the same.
    pub(crate) fn shows_the_same(&self, other: &Self) -> bool {
        (&self.name, &self.avatar, &self.data, self.active)
            == (&other.name, &other.avatar, &other.data, other.active)
    }
}
