//! Profiles in PostgreSQL.

use rustc_hash::FxHashMap;
use switchboard_protocol::UserId;
use tokio_postgres::Row;

use super::row::{count, get, time, user_id, user_key};
use super::{Result, Session};
use crate::postgres::connect::Error;
use crate::profile::{ChangePlace, ChangedProfiles, ShownProfile, StoredProfile};
use crate::read::row::PresencePeerRow;
use crate::read::{NamedPerson, Reader};
use crate::record::UserKey;

/// Reads a profile from its columns, the first of which is at `first`.
pub(in crate::postgres) fn read(row: &Row, first: usize) -> std::result::Result<StoredProfile, Error> {
    Ok(StoredProfile {
        name: get(row, first)?,
        avatar: get(row, first + 1)?,
        data: get(row, first + 2)?,
        version: count(row, first + 3)?,
        active: get(row, first + 4)?,
        changed: get(row, first + 5)?,
        issued: get(row, first + 6)?,
        claims: get(row, first + 7)?,
    })
}

const SELECT_PROFILES: &str = r#"SELECT p."user", p.name, p.avatar, p.data, p.version, p.active, p.changed, p.issued, p.claims
    FROM profiles p WHERE p."user" = ANY($1::bigint[])"#;

/// The profiles of users; those without one are left out.
pub(super) fn find_all(session: &Session, users: &[UserKey]) -> Result<FxHashMap<UserKey, StoredProfile>> {
    if users.is_empty() {
        return Ok(FxHashMap::default());
    }
    let keys: Vec<_> = users.iter().map(|user| user.0).collect();
    let rows = session.query_rows(SELECT_PROFILES, &[&keys])?;
    rows.iter().map(|row| Ok((user_key(row, 0)?, read(row, 1)?))).collect()
}

const SELECT_NAMED_PEOPLE: &str = r#"SELECT u.name, u.id, p.name, p.avatar, NULL::text, p.version, p.active, p.changed, NULL::bigint, NULL::text
    FROM unnest($1::text[]) n (name) JOIN users u ON u.name = n.name JOIN profiles p ON p."user" = u.id"#;

/// Users who have a profile, by name.
pub(super) fn find_named_people(session: &Session, users: &[UserId]) -> Result<Vec<NamedPerson>> {
    let names: Vec<_> = users.iter().map(UserId::as_str).collect();
    let rows = session.query_rows(SELECT_NAMED_PEOPLE, &[&names])?;
    rows.iter().map(|row| Ok((user_id(row, 0)?, (user_key(row, 1)?, read(row, 2)?)))).collect()
}

const SEARCH_WORDS: &str = r#"SELECT w."user", u.name FROM profile_words w
    JOIN profiles p ON p."user" = w."user" AND p.active JOIN users u ON u.id = w."user"
    WHERE w.word >= $1 AND w.word < $2 ORDER BY w.word, w."user" LIMIT $3"#;

const SEARCH_IDS: &str = r#"SELECT u.id, u.name FROM users u WHERE u.name >= $1 AND u.name < $2
    AND NOT EXISTS (SELECT FROM profiles p WHERE p."user" = u.id AND NOT p.active) ORDER BY u.name LIMIT $3"#;

/// Users with a word in the first range or an id in the second, but not those who are gone.
pub(super) fn search(
    session: &Session,
    words: (&str, &str),
    ids: (&str, &str),
    most: usize,
) -> Result<Vec<PresencePeerRow>> {
    let most = most as i64;
    let mut rows = session.query_rows(SEARCH_WORDS, &[&words.0, &words.1, &most])?;
    rows.extend(session.query_rows(SEARCH_IDS, &[&ids.0, &ids.1, &most])?);
    let people = rows.iter();
    people
        .map(|row| Ok(PresencePeerRow { key: user_key(row, 0)?, name: user_id(row, 1)?, last_seen: None }))
        .collect()
}

const SELECT_CHANGED: &str = r#"SELECT u.name, p.name, p.avatar, p.data, p.version, p.active, p.changed, p.issued, p.claims, p."user"
    FROM profiles p JOIN users u ON u.id = p."user" WHERE (p.changed, p."user") > ($1, $2)
    ORDER BY p.changed, p."user" LIMIT $3"#;

/// Profiles that have changed after a place, in the order of their changes.
pub(in crate::postgres) fn changed_profiles(
    reader: &Reader<'_, Session>,
    (at, user): ChangePlace,
    most: u32,
) -> Result<ChangedProfiles> {
    let rows = reader.rows.query_rows(SELECT_CHANGED, &[&at.as_millis(), &user.0, &i64::from(most)])?;
    let users = rows.iter().map(|row| user_key(row, 9)).collect::<std::result::Result<Vec<_>, Error>>()?;
    let mut blocked = super::blocks::blocked_by(reader.rows, &users)?;
    let profiles = rows.iter().zip(&users).map(|(row, user)| {
        let profile = read(row, 1)?.visible_profile(user_id(row, 0)?);
        Ok(ShownProfile { profile, hidden_from: blocked.remove(user).unwrap_or_default() })
    });
    let profiles = profiles.collect::<Result<_>>()?;
    let last = rows.last().filter(|_| rows.len() >= most as usize);
    let next = last.map(|row| Ok::<_, Error>((time(row, 6)?, user_key(row, 9)?))).transpose()?;
    Ok(ChangedProfiles { profiles, next })
}
