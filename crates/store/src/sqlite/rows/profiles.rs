//! Profiles in an SQLite database.

use rusqlite::{Connection, OptionalExtension as _, Result, Row, params};
use rustc_hash::FxHashMap;
#[cfg(feature = "simulation")]
use switchboard_protocol::Timestamp;
use switchboard_protocol::UserId;

use super::user_id;
use crate::profile::StoredProfile;
#[cfg(feature = "simulation")]
use crate::profile::{ChangePlace, ChangedProfiles, ShownProfile};
use crate::read::NamedPerson;
use crate::read::row::PresencePeerRow;
use crate::record::UserKey;

/// Reads a profile from its columns, the first of which is at `first`.
fn read(row: &Row<'_>, first: usize) -> Result<StoredProfile> {
    Ok(StoredProfile {
        name: row.get(first)?,
        avatar: row.get(first + 1)?,
        data: row.get(first + 2)?,
        version: row.get(first + 3)?,
        active: row.get(first + 4)?,
        changed: row.get(first + 5)?,
        issued: row.get(first + 6)?,
        claims: row.get(first + 7)?,
    })
}

/// A user's profile.
pub(in crate::sqlite) fn find(db: &Connection, user: UserKey) -> Result<Option<StoredProfile>> {
    let mut select = db.prepare_cached(
        "SELECT name, avatar, data, version, active, changed, issued, claims FROM profiles WHERE user = ?1",
    )?;
    select.query_row([user.0], |row| read(row, 0)).optional()
}

/// Stores a profile, and the words by which it is found.
pub(in crate::sqlite) fn put(
    db: &Connection,
    user: UserKey,
    profile: &StoredProfile,
    removed: &[String],
    added: &[String],
) -> Result<()> {
    let StoredProfile { name, avatar, data, version, active, changed, issued, claims } = profile;
    let mut put = db.prepare_cached(
        "INSERT OR REPLACE INTO profiles (user, name, avatar, data, version, active, changed, issued, claims)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    put.execute(params![user.0, name, avatar, data, version, active, changed, issued, claims])?;
    let mut delete = db.prepare_cached("DELETE FROM profile_words WHERE word = ?1 AND user = ?2")?;
    for word in removed {
        delete.execute(params![word, user.0])?;
    }
    let mut insert = db.prepare_cached("INSERT OR IGNORE INTO profile_words (word, user) VALUES (?1, ?2)")?;
    for word in added {
        insert.execute(params![word, user.0])?;
    }
    Ok(())
}

/// The profiles of users; those without one are left out.
pub(in crate::sqlite) fn find_all(
    db: &Connection,
    users: &[UserKey],
) -> Result<FxHashMap<UserKey, StoredProfile>> {
    let mut found = FxHashMap::default();
    for user in users {
        found.extend(find(db, *user)?.map(|profile| (*user, profile)));
    }
    Ok(found)
}

/// Users who have a profile, by name.
pub(in crate::sqlite) fn find_named_people(db: &Connection, users: &[UserId]) -> Result<Vec<NamedPerson>> {
    let mut select = db.prepare_cached(
        "SELECT p.user, p.name, p.avatar, NULL, p.version, p.active, p.changed, NULL, NULL
         FROM users u CROSS JOIN profiles p ON p.user = u.id WHERE u.name = ?1",
    )?;
    let mut found = Vec::new();
    for user in users {
        let row = select.query_row([user.as_str()], |row| Ok((UserKey(row.get(0)?), read(row, 1)?)));
        found.extend(row.optional()?.map(|person| (user.clone(), person)));
    }
    Ok(found)
}

/// Users with a word in the first range or an id in the second, but not those who are gone.
pub(in crate::sqlite) fn search(
    db: &Connection,
    words: (&str, &str),
    ids: (&str, &str),
    most: usize,
) -> Result<Vec<PresencePeerRow>> {
    let by_word = "SELECT w.user, u.name FROM profile_words w CROSS JOIN profiles p ON p.user = w.user AND p.active
         CROSS JOIN users u ON u.id = w.user WHERE w.word >= ?1 AND w.word < ?2 ORDER BY w.word, w.user LIMIT ?3";
    let by_id = "SELECT u.id, u.name FROM users u WHERE u.name >= ?1 AND u.name < ?2
         AND NOT EXISTS (SELECT 1 FROM profiles p WHERE p.user = u.id AND NOT p.active) ORDER BY u.name LIMIT ?3";
    let mut found = Vec::new();
    for (sql, (from, to)) in [(by_word, words), (by_id, ids)] {
        let mut select = db.prepare_cached(sql)?;
        let rows = select.query_map(params![from, to, most], |row| {
            Ok(PresencePeerRow { key: UserKey(row.get(0)?), name: user_id(row, 1)?, last_seen: None })
        })?;
        for row in rows {
            found.push(row?);
        }
    }
    Ok(found)
}

/// Profiles that have changed after a place, in the order of their changes.
#[cfg(feature = "simulation")]
pub(in crate::sqlite) fn find_changed_profiles(
    db: &Connection,
    (at, user): ChangePlace,
    most: u32,
) -> Result<ChangedProfiles> {
    let mut select = db.prepare_cached(
        "SELECT u.name, p.name, p.avatar, p.data, p.version, p.active, p.changed, p.issued, p.claims, p.user
         FROM profiles p CROSS JOIN users u ON u.id = p.user WHERE (p.changed, p.user) > (?1, ?2)
         ORDER BY p.changed, p.user LIMIT ?3",
    )?;
    let rows = select.query_map(params![at.as_millis(), user.0, most], |row| {
        let place = (Timestamp::from_millis(row.get(6)?), UserKey(row.get(9)?));
        Ok((read(row, 1)?.visible_profile(user_id(row, 0)?), place))
    })?;
    let mut select = db.prepare_cached(
        "SELECT u.name FROM blocks b CROSS JOIN users u ON u.id = b.blocked WHERE b.user = ?1",
    )?;
    let (mut profiles, mut places) = (Vec::new(), Vec::new());
    for row in rows {
        let (profile, place) = row?;
        let hidden_from = select.query_map([place.1.0], |row| user_id(row, 0))?.collect::<Result<_>>()?;
        profiles.push(ShownProfile { profile, hidden_from });
        places.push(place);
    }
    let next = places.last().copied().filter(|_| places.len() >= most as usize);
    Ok(ChangedProfiles { profiles, next })
}
