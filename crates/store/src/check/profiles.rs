//! Compares the profiles with the users and with the words by which they are found.

use rusqlite::{Connection, Result};
use switchboard_protocol::{Avatar, Data, PersonName, UserId};

use super::Report;
use crate::search;

/// Reports what is wrong with profiles. The words of a name are computed again.
pub(super) fn check(db: &Connection, report: &mut Report) -> Result<()> {
    let mut has_word = db.prepare("SELECT 1 FROM profile_words WHERE word = ?1 AND user = ?2")?;
    let mut select = db.prepare(
        "SELECT p.user, u.name, p.name, p.avatar, p.data, p.version FROM profiles p LEFT JOIN users u ON u.id = p.user",
    )?;
    let mut profiles = select.query([])?;
    let mut words = 0_u64;
    while let Some(row) = profiles.next()? {
        let user: i64 = row.get(0)?;
        let mut complain =
            |what: &str| report.add_problem(None, None, format!("the profile of user number {user} {what}"));
        let Some(id) = row.get::<_, Option<String>>(1)?.and_then(|id| UserId::parse(&id).ok()) else {
            complain("is of no user");
            continue;
        };
        let (name, avatar, data): (Option<String>, Option<String>, Option<String>) =
            (row.get(2)?, row.get(3)?, row.get(4)?);
        if name.as_ref().is_some_and(|name| PersonName::parse(name.clone()).is_err()) {
            complain("has a name that is none");
        }
        if avatar.is_some_and(|avatar| Avatar::parse(avatar).is_err()) {
            complain("has a picture that is none");
        }
        if data.is_some_and(|data| serde_json::from_str::<Data>(&data).is_err()) {
            complain("has data that are no JSON object");
        }
        if row.get::<_, i64>(5)? < 0 {
            complain("has a negative version");
        }
        for word in search::words(&id, name.as_deref()) {
            words += 1;
            if !has_word.exists((&word, user))? {
                report.add_problem(
                    None,
                    None,
                    format!("user number {user} is not found by a word of the name or the id"),
                );
            }
        }
    }
    let stored: u64 = db.query_row("SELECT count(*) FROM profile_words", [], |row| row.get(0))?;
    if stored > words {
        report.add_problem(
            None,
            None,
            format!("users are found by {} words that no name has", stored - words),
        );
    }
    Ok(())
}
