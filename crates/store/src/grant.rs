//! What an API key may do.

use std::fmt;
use std::str::FromStr;

use anyhow::ensure;
use switchboard_protocol::{Timestamp, UserId};
use wildmatch::WildMatch;

use crate::key::Via;

/// A part of the HTTP API that a key may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "docs/protocol.md describes each")]
pub enum Scope {
    Act,
    Feed,
    People,
    Moderate,
    Admin,
    /// To log users out everywhere and nothing else of `moderate`: what a key of an earlier version may do.
    Revoke,
}

impl Scope {
    /// The scopes that a new key can have.
    pub const ALL: [Self; 5] = [Self::Act, Self::Feed, Self::People, Self::Moderate, Self::Admin];

    /// The scope's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Act => "act",
            Self::Feed => "feed",
            Self::People => "people",
            Self::Moderate => "moderate",
            Self::Admin => "admin",
            Self::Revoke => "revoke",
        }
    }
}

impl FromStr for Scope {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|scope| scope.as_str() == text);
        known.ok_or("the scopes are act, feed, people, moderate and admin")
    }
}

/// The scopes of a key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scopes(Vec<Scope>);

impl Scopes {
    /// These scopes.
    pub fn new(scopes: impl IntoIterator<Item = Scope>) -> Self {
        let mut all = Vec::new();
        for scope in scopes {
            if !all.contains(&scope) {
                all.push(scope);
            }
        }
        Self(all)
    }

    /// Reads the scopes as they are stored. A scope of a newer version allows nothing here.
    pub(crate) fn parse(text: &str) -> Self {
        let names = text.split(',');
        Self::new(names.filter_map(|name| {
            if name == Scope::Revoke.as_str() { Some(Scope::Revoke) } else { name.parse().ok() }
        }))
    }

    /// The names of the scopes.
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|scope| scope.as_str()).collect()
    }

    /// Whether a key with these scopes may use `scope`. `admin` has all others, and `moderate` has `revoke`.
    pub fn allow(&self, scope: Scope) -> bool {
        self.0.contains(&scope)
            || self.0.contains(&Scope::Admin)
            || (scope == Scope::Revoke && self.0.contains(&Scope::Moderate))
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join(","))
    }
}

/// A pattern of user ids, in which `*` stands for any characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserPattern(String);

impl UserPattern {
    /// The longest pattern.
    const MAX_BYTES: usize = 128;

    /// The pattern's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern matches a user.
    pub fn matches(&self, user: &UserId) -> bool {
        WildMatch::new(&self.0).matches(user.as_str())
    }

    /// Whether the pattern matches a text of the characters of ids.
    pub(crate) fn matches_text(&self, text: &str) -> bool {
        WildMatch::new(&self.0).matches(text)
    }

    /// Whether the pattern matches every user whom another one matches. No id has a `*`, so only a `*` matches one.
    pub fn covers(&self, other: &str) -> bool {
        WildMatch::new(&self.0).matches(other)
    }

    /// The pattern as it is stored. If it is damaged, it matches no user, because no id has a `/`.
    pub(crate) fn stored(text: &str) -> Self {
        text.parse().unwrap_or_else(|_| Self("/".to_owned()))
    }
}

impl FromStr for UserPattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let one = text.replace('*', "a");
        let fits = text.len() <= Self::MAX_BYTES && !one.is_empty();
        if fits && one.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~+=|@-".contains(&byte)) {
            Ok(Self(text.to_owned()))
        } else {
            Err("a pattern has the characters of user ids and `*`, at most 128")
        }
    }
}

/// What a key may do, whom it acts for, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyGrant {
    /// The key's number, which is never given again.
    pub number: Via,
    /// The key's name.
    pub name: String,
    /// What it may do.
    pub scopes: Scopes,
    /// The users whom it acts for; `None` for all.
    pub acts_as: Option<UserPattern>,
    /// When the key's secret expires.
    pub expires: Option<Timestamp>,
    /// How many writes a second; `None` for the server's limit.
    pub rate: Option<u32>,
    /// The networks from which it may be used, separated by commas; `None` for all.
    pub addresses: Option<String>,
    /// Whether events come without their content.
    pub no_text: bool,
    /// Whether the hook is not asked about its writes.
    pub unasked: bool,
    /// The hour of its last use.
    pub used: Option<Timestamp>,
}

impl KeyGrant {
    /// The hour of a time, which is as exactly as a key's last use is stored.
    pub fn hour_of(at: Timestamp) -> Timestamp {
        const HOUR_MS: i64 = 3_600_000;
        Timestamp::from_millis(at.as_millis() - at.as_millis().rem_euclid(HOUR_MS))
    }
}

/// A key that is to be created. The secret itself is not stored.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// The key's name.
    pub name: String,
    /// The SHA-256 of its secret.
    pub hash: [u8; 32],
    /// What it may do.
    pub scopes: Scopes,
    /// The users whom it acts for; `None` for all.
    pub acts_as: Option<UserPattern>,
    /// When it expires.
    pub expires: Option<Timestamp>,
    /// How many writes a second; `None` for the server's limit.
    pub rate: Option<u32>,
    /// The networks from which it may be used, separated by commas; `None` for all.
    pub addresses: Option<String>,
    /// Whether events come without their content.
    pub no_text: bool,
    /// Whether hooks are not asked about its writes.
    pub unasked: bool,
}

impl NewKey {
    /// A key that acts as users, and has no limits.
    pub fn new(name: impl Into<String>, hash: [u8; 32]) -> Self {
        Self {
            name: name.into(),
            hash,
            scopes: Scopes::new([Scope::Act]),
            acts_as: None,
            expires: None,
            rate: None,
            addresses: None,
            no_text: false,
            unasked: false,
        }
    }

    /// The same key with these scopes.
    #[must_use]
    pub fn with_scopes(self, scopes: impl IntoIterator<Item = Scope>) -> Self {
        Self { scopes: Scopes::new(scopes), ..self }
    }

    /// Whether an earlier version can store the key. There every key has the same scopes and no limits.
    fn is_plain(&self) -> bool {
        self.scopes == Scopes::new([Scope::Act])
            && self.acts_as.is_none()
            && self.expires.is_none()
            && self.rate.is_none()
            && self.addresses.is_none()
            && !self.no_text
            && !self.unasked
    }

    /// Refuses a key that the database cannot store yet.
    pub(crate) fn check_storable(&self, has_scopes: bool) -> anyhow::Result<()> {
        ensure!(
            has_scopes || self.is_plain(),
            "the database is of an earlier version, in which all keys may do the same: start this version of the server on it first"
        );
        Ok(())
    }
}

/// Refuses to rotate a key in a database of an earlier version.
pub(crate) fn check_rotatable(has_scopes: bool) -> anyhow::Result<()> {
    ensure!(
        has_scopes,
        "the database is of an earlier version, which cannot rotate keys: start this version of the server on it first"
    );
    Ok(())
}

/// The fields of the entry in the feed about a change of a key.
pub(crate) fn audit(name: &str, action: &str) -> String {
    serde_json::json!({ "key": name, "action": action }).to_string()
}

/// The columns of a key as a literal for SQL, in the order of [`KeyRow`].
macro_rules! key_columns {
    () => {
        "number, name, scopes, acts_as, expires, rate, addresses, no_text, used, hash, old_until, unasked"
    };
}

pub(crate) use key_columns;

/// A key as it is stored.
pub(crate) struct KeyRow {
    pub(crate) number: i64,
    pub(crate) name: String,
    pub(crate) scopes: String,
    pub(crate) acts_as: Option<String>,
    pub(crate) expires: Option<i64>,
    pub(crate) rate: Option<i64>,
    pub(crate) addresses: Option<String>,
    pub(crate) no_text: bool,
    pub(crate) used: Option<i64>,
    pub(crate) hash: Vec<u8>,
    pub(crate) old_until: Option<i64>,
    pub(crate) unasked: bool,
}

impl KeyRow {
    /// What the secret with this hash may do: the key's own, or the one before the last rotation.
    pub(crate) fn grant(self, hash: &[u8]) -> KeyGrant {
        let old_until = if self.hash == hash { None } else { Some(self.old_until.unwrap_or(0)) };
        let expires = [self.expires, old_until].into_iter().flatten().min();
        KeyGrant {
            number: Via(i32::try_from(self.number).unwrap_or(i32::MAX)),
            name: self.name,
            scopes: Scopes::parse(&self.scopes),
            acts_as: self.acts_as.as_deref().map(UserPattern::stored),
            expires: expires.map(Timestamp::from_millis),
            rate: self.rate.map(|rate| u32::try_from(rate).unwrap_or(u32::MAX)),
            addresses: self.addresses,
            no_text: self.no_text,
            unasked: self.unasked,
            used: self.used.map(Timestamp::from_millis),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_an_earlier_version_may_only_act_for_users_and_revoke() {
        let scopes = Scopes::parse("act,revoke");
        for scope in Scope::ALL {
            assert_eq!(scopes.allow(scope), scope == Scope::Act, "{scope:?}");
        }
        assert!(scopes.allow(Scope::Revoke) && !Scopes::parse("act").allow(Scope::Revoke));
        assert!(Scopes::parse("moderate").allow(Scope::Revoke));
        assert_eq!(Scopes::parse("later,feed").to_string(), "feed");
        assert!(Scope::ALL.into_iter().all(|scope| Scopes::parse("admin").allow(scope)));
    }

    #[test]
    fn a_pattern_matches_whole_ids() {
        let pattern: UserPattern = "shop-*".parse().expect("a pattern");
        for (user, matches) in [("shop-1", true), ("shop-", true), ("shop", false), ("a-shop-1", false)] {
            assert_eq!(pattern.matches(&UserId::parse(user).expect("an id")), matches, "{user}");
        }
        for wrong in ["", "a b", "shop-?", "[a]", "%", &"x".repeat(129)] {
            assert!(wrong.parse::<UserPattern>().is_err(), "{wrong}");
        }
        assert!(!UserPattern::stored("a b").matches(&UserId::parse("a").expect("an id")));
    }
}
