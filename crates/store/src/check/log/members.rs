//! The members of a conversation according to its log, with what each has read and sent.

use std::collections::BTreeMap;

use rusqlite::{Connection, Result};
use switchboard_protocol::{Role, Timestamp};

use super::Log;
use crate::ban::Ban;
use crate::change::rows::role_number;
use crate::check::{FIRST_SCHEMA_WITH_ROOMS_BY_CHOICE, Report};
use crate::record::{Membership, Via};
use crate::sqlite::latest_database;
use crate::table::{MEMBERS, WriteTime};

/// The stored row of a member.
#[derive(Debug, Clone)]
struct StoredMember {
    name: Option<String>,
    /// The stored number of the role, which may be invalid.
    role: i64,
    row: Membership,
    /// Whether the room is recorded as one that the member created or joined themselves; `None` in the first schema, which
    /// did not record that.
    by_choice: Option<bool>,
}

/// A user's membership, present or past, according to the log.
#[derive(Debug, Clone, Copy)]
struct LoggedMembership {
    role: Role,
    since: u64,
    until: Option<u64>,
    /// Until when the user only reads, in milliseconds since the Unix epoch; 0 without a silence.
    silenced: i64,
    /// Whether the user created or joined the room themselves, instead of being added.
    by_choice: bool,
}

/// A user who has a member row, a membership in the log, or both.
#[derive(Debug, Clone, Default)]
struct Member {
    stored: Option<StoredMember>,
    logged: Option<LoggedMembership>,
    sent: u64,
    /// How many of the member's messages are up to the read cursor.
    read_sent: u64,
}

/// All present and past members of a conversation, by the user's key.
#[derive(Debug, Default)]
pub(super) struct Members {
    by_user: BTreeMap<i64, Member>,
    present: u64,
    admins: u64,
    /// Who is banned by the log, and until when, as it is stored.
    bans: BTreeMap<i64, i64>,
}

/// The statement that selects the members of a conversation in a database of some version. A column that this version lacks
/// has the value that the migration would give it.
pub(super) fn members_statement(db: &Connection, schema: usize) -> anyhow::Result<String> {
    let latest = latest_database()?;
    let mut find = db.prepare("SELECT 1 FROM pragma_table_info('members') WHERE name = ?1")?;
    let mut default = latest
        .prepare("SELECT coalesce(dflt_value, 'NULL') FROM pragma_table_info('members') WHERE name = ?1")?;
    let mut columns = Vec::new();
    for column in MEMBERS.columns.iter().filter(|column| column.written != WriteTime::Key) {
        columns.push(if find.exists([column.name])? {
            format!("m.\"{}\"", column.name)
        } else {
            default.query_row([column.name], |row| row.get(0))?
        });
    }
    let by_choice = if schema < FIRST_SCHEMA_WITH_ROOMS_BY_CHOICE {
        "NULL"
    } else {
        "EXISTS (SELECT 1 FROM rooms_by_choice c WHERE c.user = m.user AND c.conversation = m.conversation)"
    };
    Ok(format!(
        "SELECT m.user, u.name, m.role, {by_choice}, {} FROM members m LEFT JOIN users u ON u.id = m.user
         WHERE m.conversation = ?1",
        columns.join(", ")
    ))
}

impl Members {
    /// Reads the stored rows of a conversation's members.
    pub(super) fn read(db: &Connection, statement: &str, conversation: i64) -> Result<Self> {
        let mut select = db.prepare_cached(statement)?;
        let rows = select.query_map([conversation], |row| {
            let kept = StoredMember {
                name: row.get_ref(1)?.as_str_or_null().unwrap_or_default().map(ToOwned::to_owned),
                role: row.get(2)?,
                by_choice: row.get(3)?,
                row: Membership::from_sqlite(row, 4)?,
            };
            Ok((row.get(0)?, Member { stored: Some(kept), ..Member::default() }))
        })?;
        Ok(Self { by_user: rows.collect::<Result<_>>()?, ..Self::default() })
    }

    /// The number of present members, and how many of them are admins.
    pub(super) fn count_present(&self) -> (u64, u64) {
        (self.present, self.admins)
    }

    pub(super) fn add_first_member(&mut self, user: i64, since: u64) {
        self.add_member(user, Role::Member, since, None);
    }

    /// Applies an event that adds the user to the room.
    pub(super) fn add_member(&mut self, user: i64, role: Role, since: u64, silence: Option<Timestamp>) {
        let silenced = silence.map_or(0, Timestamp::as_millis);
        let by_choice = false;
        self.replace_membership(
            user,
            Some(LoggedMembership { role, since, until: None, silenced, by_choice }),
        );
    }

    /// Applies an event by which the user created or joined the room themselves. What was imported was no choice of theirs here.
    pub(super) fn add_by_own_event(
        &mut self,
        user: i64,
        (role, silence): (Role, Option<Timestamp>),
        since: u64,
        via: Via,
    ) {
        let (by_choice, silenced) = (!via.is_imported(), silence.map_or(0, Timestamp::as_millis));
        self.replace_membership(
            user,
            Some(LoggedMembership { role, since, until: None, silenced, by_choice }),
        );
    }

    /// Applies an event that bans the user. The next event by which the user comes in ends that.
    pub(super) fn ban(&mut self, user: i64, until: Option<Timestamp>) {
        self.bans.insert(user, Ban { until, reason: None, shadow: false }.stored_until());
    }

    pub(super) fn end_membership(&mut self, user: i64, seq: u64) {
        let stay = self.by_user.get(&user).and_then(|member| member.logged);
        self.replace_membership(user, stay.map(|stay| LoggedMembership { until: Some(seq), ..stay }));
    }

    /// Applies an event that gives a member another role, or silences the member.
    pub(super) fn set_role(&mut self, user: i64, role: Role, silence: Option<Timestamp>) {
        let stay = self.by_user.get(&user).and_then(|member| member.logged);
        let silenced = silence.map_or(0, Timestamp::as_millis);
        let changed = |stay: LoggedMembership| {
            let role = if silence.is_some() { stay.role } else { role };
            LoggedMembership { role, silenced, ..stay }
        };
        self.replace_membership(user, stay.map(changed));
    }

    fn replace_membership(&mut self, user: i64, stay: Option<LoggedMembership>) {
        if stay.is_some_and(|stay| stay.until.is_none()) {
            self.bans.remove(&user);
        }
        let member = self.by_user.entry(user).or_default();
        let before = std::mem::replace(&mut member.logged, stay);
        let counted = |stay: Option<LoggedMembership>| {
            let here = stay.filter(|stay| stay.until.is_none());
            (u64::from(here.is_some()), u64::from(here.is_some_and(|stay| stay.role == Role::Admin)))
        };
        let (was, is) = (counted(before), counted(stay));
        self.present = self.present + is.0 - was.0;
        self.admins = self.admins + is.1 - was.1;
    }

    /// Applies a message of the user.
    pub(super) fn count_message(&mut self, user: i64, seq: u64) {
        let member = self.by_user.entry(user).or_default();
        member.sent += 1;
        member.read_sent += u64::from(member.stored.as_ref().is_some_and(|kept| seq <= kept.row.read.0));
    }

    /// Compares the stored bans with the log.
    pub(super) fn compare_bans(&self, log: &Log<'_>, report: &mut Report) -> Result<()> {
        let mut select =
            log.db.prepare_cached("SELECT user, until FROM bans WHERE conversation = ?1 ORDER BY user")?;
        let stored = select.query_map([log.number], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let stored: BTreeMap<i64, i64> = stored.collect::<Result<_>>()?;
        for user in stored.keys().chain(self.bans.keys().filter(|user| !stored.contains_key(user))) {
            if stored.get(user) != self.bans.get(user) {
                let name = log.name_of(*user)?.unwrap_or_else(|| format!("user number {user}"));
                log.add_problem(
                    report,
                    None,
                    format!("whether {name} is banned, or until when, is not what its log says"),
                );
            }
        }
        Ok(())
    }

    /// Compares the stored row of each member with the log.
    pub(super) fn compare(&mut self, log: &Log<'_>, report: &mut Report) -> Result<()> {
        for (user, member) in std::mem::take(&mut self.by_user) {
            let name = match member.stored.as_ref().and_then(|kept| kept.name.clone()) {
                Some(name) => name,
                None => log.name_of(user)?.unwrap_or_else(|| format!("user number {user}")),
            };
            if let Some(kept) = &member.stored {
                if kept.name.is_none() {
                    log.add_problem(report, None, format!("{name} is a member, and no user"));
                }
                compare_counts(log, &name, kept, &member, report)?;
            }
            if !log.is_uncertain {
                compare_membership(log, &name, &member, report);
            }
        }
        Ok(())
    }
}

fn compare_counts(
    log: &Log<'_>,
    name: &str,
    kept: &StoredMember,
    member: &Member,
    report: &mut Report,
) -> Result<()> {
    let head = log.head;
    let Membership { since, read, received, sent, read_messages, read_sent, .. } = kept.row;
    if !(since <= read && read <= received && received.0 <= head) {
        let what = format!(
            "the cursors of {name} are out of order: since {since}, read {read}, received {received}, head {head}"
        );
        log.add_problem(report, None, what);
    }
    let mut differ = |of: &str, kept: u64, is: u64| {
        if kept != is {
            log.add_problem(
                report,
                None,
                format!("the number of {of} of {name} is kept as {kept}, and is {is}"),
            );
        }
    };
    differ("messages", sent, member.sent);
    differ("own messages up to the cursor of reading", read_sent, member.read_sent);
    // If the log lacks an event up to the cursor, the number of messages is unknown.
    if let Some(messages) = log.messages_upto(read.0)? {
        differ("messages up to the cursor of reading", read_messages, messages);
    }
    Ok(())
}

fn compare_membership(log: &Log<'_>, name: &str, member: &Member, report: &mut Report) {
    match (&member.stored, member.logged) {
        (None, None) => log.add_problem(report, None, format!("{name} has written, and was never a member")),
        (None, Some(_)) => {
            log.add_problem(report, None, format!("{name} is a member by the log, and has no row"));
        }
        (Some(_), None) => {
            log.add_problem(report, None, format!("{name} has a row, and was never a member by the log"));
        }
        (Some(kept), Some(stay)) => {
            if (kept.row.since.0, kept.row.until.map(|seq| seq.0)) != (stay.since, stay.until) {
                log.add_problem(report, None, format!("{name} came and went by other events than is kept"));
            }
            if kept.role != role_number(stay.role) {
                log.add_problem(
                    report,
                    None,
                    format!("{name} is {:?} by the log, and not by the row", stay.role),
                );
            }
            if kept.row.silenced != stay.silenced {
                let what = format!("{name} is silenced until another time than the log says");
                log.add_problem(report, None, what);
            }
            let chosen = stay.until.is_none() && stay.by_choice;
            if kept.by_choice.is_some_and(|kept| kept != chosen) {
                let what = if chosen {
                    format!("{name} made or joined it, and it is not among the rooms of their choice")
                } else {
                    format!("it is among the rooms of {name}'s choice, and is not by the log")
                };
                log.add_problem(report, None, what);
            }
        }
    }
}
