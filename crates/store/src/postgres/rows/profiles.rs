//! The profiles of one transaction.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;

use super::PostgresRows;
use crate::change::dispatch::Prefetch;
use crate::postgres::connect::{Error, Pipelined};
use crate::postgres::table::to_signed;
use crate::profile::StoredProfile;
use crate::record::UserKey;

/// Reads the profiles of users. Their rows of `users` are locked before.
pub(super) const SELECT_PROFILES: &str = r#"SELECT u.id, p.name, p.avatar, p.data, p.version, p.active, p.changed, p.issued, p.claims
    FROM unnest($1::text[]) n (name) JOIN users u ON u.name = n.name JOIN profiles p ON p."user" = u.id"#;

const UPSERT_PROFILES: &str = r#"INSERT INTO profiles ("user", name, avatar, data, version, active, changed, issued, claims)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::boolean[], $7::bigint[], $8::bigint[], $9::text[])
    ON CONFLICT ("user") DO UPDATE SET name = excluded.name, avatar = excluded.avatar, data = excluded.data,
        version = excluded.version, active = excluded.active, changed = excluded.changed,
        issued = excluded.issued, claims = excluded.claims"#;

const DELETE_WORDS: &str = r#"DELETE FROM profile_words p USING unnest($1::text[], $2::bigint[]) AS w(word, "user")
    WHERE p.word = w.word AND p."user" = w."user""#;

const INSERT_WORDS: &str = r#"INSERT INTO profile_words (word, "user") SELECT * FROM unnest($1::text[], $2::bigint[])
    ON CONFLICT DO NOTHING"#;

/// The statements that write profiles.
pub(super) const STATEMENTS: [&str; 3] = [UPSERT_PROFILES, DELETE_WORDS, INSERT_WORDS];

/// The profiles that were read, with the changes of this transaction.
#[derive(Default)]
pub(super) struct Profiles {
    read: FxHashMap<UserKey, Option<StoredProfile>>,
    changed: BTreeSet<UserKey>,
    /// Words to add (`true`) and to remove.
    words: BTreeMap<(String, UserKey), bool>,
}

impl Profiles {
    pub(super) fn add_stored(&mut self, user: UserKey, profile: StoredProfile) {
        self.read.insert(user, Some(profile));
    }

    /// Records that a user whose profile was asked for has none.
    pub(super) fn add_absent(&mut self, user: UserKey) {
        self.read.entry(user).or_insert(None);
    }

    pub(super) fn put(
        &mut self,
        user: UserKey,
        profile: StoredProfile,
        removed: Vec<String>,
        added: Vec<String>,
    ) {
        self.read.insert(user, Some(profile));
        self.changed.insert(user);
        self.words.extend(removed.into_iter().map(|word| ((word, user), false)));
        self.words.extend(added.into_iter().map(|word| ((word, user), true)));
    }
}

impl PostgresRows<'_> {
    /// A user's profile. Locks the user's row until the transaction ends.
    pub(super) fn read_profile(&mut self, user: UserKey) -> Result<Option<StoredProfile>, Error> {
        if !self.profiles.read.contains_key(&user) && !self.is_new_user(user) {
            self.lock_user(user)?;
            let name = self.name_of_user(user)?;
            self.fetch(&Prefetch { profiles: [name].into_iter().collect(), ..Prefetch::default() })?;
            self.profiles.add_absent(user);
        }
        Ok(self.profiles.read.get(&user).cloned().flatten())
    }
}

/// Rows of profiles as one array per column, to pass to a statement with `unnest`.
#[derive(Default)]
pub(super) struct ProfileArrays<'a> {
    pub(super) user: Vec<i64>,
    name: Vec<Option<&'a str>>,
    avatar: Vec<Option<&'a str>>,
    data: Vec<Option<&'a str>>,
    version: Vec<i64>,
    active: Vec<bool>,
    changed: Vec<i64>,
    issued: Vec<Option<i64>>,
    claims: Vec<Option<&'a str>>,
    pub(super) removed: (Vec<&'a str>, Vec<i64>),
    pub(super) added: (Vec<&'a str>, Vec<i64>),
}

impl<'a> ProfileArrays<'a> {
    pub(super) fn from_profiles(profiles: &'a Profiles) -> Self {
        let mut all = Self::default();
        for user in &profiles.changed {
            let Some(Some(profile)) = profiles.read.get(user) else { continue };
            all.user.push(user.0);
            all.name.push(profile.name.as_deref());
            all.avatar.push(profile.avatar.as_deref());
            all.data.push(profile.data.as_deref());
            all.version.push(to_signed(profile.version));
            all.active.push(profile.active);
            all.changed.push(profile.changed);
            all.issued.push(profile.issued);
            all.claims.push(profile.claims.as_deref());
        }
        for ((word, user), is_added) in &profiles.words {
            let (words, users) = if *is_added { &mut all.added } else { &mut all.removed };
            words.push(word);
            users.push(user.0);
        }
        all
    }

    pub(super) fn upsert(&self) -> Pipelined<'_> {
        let Self { user, name, avatar, data, version, active, changed, issued, claims, .. } = self;
        Pipelined::new(UPSERT_PROFILES, &[user, name, avatar, data, version, active, changed, issued, claims])
    }

    pub(super) fn delete_words(&self) -> Pipelined<'_> {
        Pipelined::new(DELETE_WORDS, &[&self.removed.0, &self.removed.1])
    }

    pub(super) fn insert_words(&self) -> Pipelined<'_> {
        Pipelined::new(INSERT_WORDS, &[&self.added.0, &self.added.1])
    }
}
