//! Finds rows that no event of a log explains. This is the opposite direction of [`super::log`].

use rusqlite::{Connection, Result};
use switchboard_protocol::{ConversationId, UserId, kind_number};

use super::{
    FIRST_SCHEMA_WITH_BANS, FIRST_SCHEMA_WITH_ENDED_ROOMS, FIRST_SCHEMA_WITH_HELD,
    FIRST_SCHEMA_WITH_REPLACED_REQUESTS, FIRST_SCHEMA_WITH_REPORTS, FIRST_SCHEMA_WITH_ROOMS_BY_CHOICE,
    Report,
};

/// A query for reports, with the condition for a report to be a held message.
macro_rules! stray_reports {
    ($held:literal) => {
        concat!(
            "SELECT c.name, nullif(r.target, 0), CASE
        WHEN u.id IS NULL THEN 'report ' || r.id || ' is about user number ' || r.user || ', who is not there'
        WHEN r.conversation <> 0 AND c.id IS NULL THEN 'report ' || r.id || ' is about a conversation that is not there'
        WHEN m.id IS NULL AND r.state <> 0 THEN 'report ' || r.id || ' has no moderator'
        WHEN r.snapshot <> '' AND NOT json_valid(r.snapshot) THEN 'the snapshot of report ' || r.id || ' cannot be read'
        WHEN r.state NOT BETWEEN 0 AND 2 OR (r.state = 2) <> (r.decided > 0 AND r.action IS NOT NULL)
            OR (r.state <> 0) <> (m.id IS NOT NULL) OR (r.snapshot = '' AND r.state <> 2)
            THEN 'the state of report ' || r.id || ' does not fit its decision'
        WHEN (r.conversation = 0) <> (r.target = 0) THEN 'report ' || r.id || ' is about neither a message nor a user'
        ELSE 'report ' || r.id || ' was made by no user' END
     FROM reports r LEFT JOIN conversations c ON c.id = r.conversation LEFT JOIN users u ON u.id = r.user
        LEFT JOIN users m ON m.id = r.moderator LEFT JOIN (SELECT DISTINCT report FROM reporters) n ON n.report = r.id
     WHERE u.id IS NULL OR (r.conversation <> 0 AND c.id IS NULL)
        OR (r.state <> 0) <> (m.id IS NOT NULL) OR (r.state = 2) <> (r.decided > 0 AND r.action IS NOT NULL)
        OR r.state NOT BETWEEN 0 AND 2 OR (r.snapshot = '' AND r.state <> 2)
        OR (r.snapshot <> '' AND NOT json_valid(r.snapshot))
        OR (NOT (", $held, ") AND r.snapshot <> ''
            AND (n.report IS NULL OR (r.conversation = 0) <> (r.target = 0)))
     UNION ALL SELECT NULL, NULL, CASE
        WHEN r.id IS NULL THEN 'user number ' || p.user || ' has made report ' || p.report || ', which is not there'
        ELSE 'report ' || p.report || ' was made by user number ' || p.user || ', who is not there' END
     FROM reporters p LEFT JOIN reports r ON r.id = p.report LEFT JOIN users u ON u.id = p.user
     WHERE r.id IS NULL OR u.id IS NULL"
        )
    };
}

/// Queries for rows that must not exist. Each returns the conversation's name or key, the event's number or NULL, and the
/// description of the problem.
const SELECT_STRAY_ROWS: &[&str] = &[
    "SELECT c.name, NULL, 'it has no events' FROM conversations c
     WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.conversation = c.id)",
    "SELECT m.conversation, NULL, 'it has members, and is not there' FROM members m
     WHERE NOT EXISTS (SELECT 1 FROM conversations c WHERE c.id = m.conversation) GROUP BY m.conversation",
    // Two messages of one sender with the same idempotency key, which a sound index would have prevented.
    "SELECT min(c.name), min(e.seq), 'its key is another message''s of the same sender' FROM events e
     LEFT JOIN conversations c ON c.id = e.conversation
     WHERE e.key IS NOT NULL GROUP BY e.sender, e.key HAVING count(*) > 1",
    concat!("SELECT coalesce(c.name, a.conversation), a.seq, 'it is noted as an edit or deletion of ' || a.target || ', and is none'
     FROM amendments a LEFT JOIN conversations c ON c.id = a.conversation
     LEFT JOIN events e ON e.conversation = a.conversation AND e.seq = a.seq
     WHERE e.kind IS NULL OR e.kind NOT IN (", kind_number!(Edit), ", ", kind_number!(Delete), ")
        OR (json_valid(e.body) AND json_extract(e.body, '$.target') IS NOT a.target)"),
    concat!("SELECT coalesce(c.name, r.conversation), r.target, 'it has a reaction that event ' || r.since || ' did not set'
     FROM reactions r LEFT JOIN conversations c ON c.id = r.conversation
     LEFT JOIN events e ON e.conversation = r.conversation AND e.seq = r.since
     WHERE e.kind IS NOT ", kind_number!(React), " OR e.sender IS NOT r.user
        OR (json_valid(e.body) AND (json_extract(e.body, '$.target') IS NOT r.target
            OR json_extract(e.body, '$.emoji') IS NOT r.emoji OR json_extract(e.body, '$.on') IS NOT 1))"),
    concat!("SELECT coalesce(c.name, r.conversation), r.target, 'it has lost a reaction that event ' || r.until || ' did not take back'
     FROM reactions r LEFT JOIN conversations c ON c.id = r.conversation
     LEFT JOIN events e ON e.conversation = r.conversation AND e.seq = r.until
     WHERE r.until IS NOT NULL AND (r.until <= r.since OR e.kind IS NOT ", kind_number!(React), " OR e.sender IS NOT r.user
        OR (json_valid(e.body) AND (json_extract(e.body, '$.target') IS NOT r.target
            OR json_extract(e.body, '$.emoji') IS NOT r.emoji OR json_extract(e.body, '$.on') IS NOT 0)))"),
    concat!("SELECT coalesce(c.name, r.conversation), r.target, 'it is deleted, and its reactions are not' FROM reactions r
     LEFT JOIN conversations c ON c.id = r.conversation
     JOIN events e ON e.conversation = r.conversation AND e.seq = r.target
     WHERE e.kind = ", kind_number!(Message), " AND json_valid(e.body) AND json_extract(e.body, '$.deleted') GROUP BY r.conversation, r.target"),
    "SELECT NULL, NULL, 'the hash of the API key ' || quote(name) || ' is none of SHA-256' FROM api_keys
     WHERE length(hash) <> 32",
];

/// A query for rooms recorded as chosen by a user without a member row. For users with a member row, [`super::log`]
/// compares. Only for schemas from [`FIRST_SCHEMA_WITH_ROOMS_BY_CHOICE`] on.
const SELECT_STRAY_CHOICES: &str =
    "SELECT coalesce(c.name, r.conversation), NULL,
     'it is among the rooms of ' || coalesce(u.name, 'user number ' || r.user) || '''s choice, who was never a member'
     FROM rooms_by_choice r LEFT JOIN conversations c ON c.id = r.conversation LEFT JOIN users u ON u.id = r.user
     WHERE NOT EXISTS (SELECT 1 FROM members m WHERE m.conversation = r.conversation AND m.user = r.user)";

/// A query for requests whose message is deleted or does not exist, and for digests of another length. Only for schemas from
/// [`FIRST_SCHEMA_WITH_REPLACED_REQUESTS`] on.
const SELECT_STRAY_REQUESTS: &str = concat!(
    "SELECT coalesce(c.name, r.conversation), r.seq, 'the request is kept of what is no message, or its digest is none of SHA-256'
     FROM replaced_requests r LEFT JOIN conversations c ON c.id = r.conversation
     LEFT JOIN events e ON e.conversation = r.conversation AND e.seq = r.seq
     WHERE e.kind IS NOT ", kind_number!(Message), " OR length(r.request) <> 32
        OR (json_valid(e.body) AND json_extract(e.body, '$.deleted'))"
);

/// A query for what is left of rooms that were not deleted, or are removed completely. Only for schemas from
/// [`FIRST_SCHEMA_WITH_ENDED_ROOMS`] on.
const SELECT_STRAY_ENDINGS: &str = "SELECT coalesce(c.name, r.conversation), NULL, 'it is removed, and was not deleted'
     FROM ended_rooms r LEFT JOIN conversations c ON c.id = r.conversation WHERE c.ended IS NOT 1
     UNION ALL SELECT c.name, NULL, 'it was deleted, and is among the rooms of a user''s choice'
     FROM conversations c WHERE c.ended AND EXISTS (SELECT 1 FROM rooms_by_choice r WHERE r.conversation = c.id)
        AND NOT EXISTS (SELECT 1 FROM ended_rooms r WHERE r.conversation = c.id)";

/// A query for bans of users who do not exist, from conversations that do not exist or were removed completely, and for bans that
/// ended before they were made. Only for schemas from [`FIRST_SCHEMA_WITH_BANS`] on.
const SELECT_STRAY_BANS: &str = "SELECT coalesce(c.name, nullif(b.conversation, 0)), NULL, CASE
        WHEN u.id IS NULL THEN 'user number ' || b.user || ' is banned, and is not there'
        WHEN b.until <= b.at THEN 'the ban of ' || u.name || ' ends before it was made'
        WHEN c.id IS NULL THEN u.name || ' is banned from it, and it is not there'
        ELSE u.name || ' is banned from it, and it was deleted' END
     FROM bans b LEFT JOIN conversations c ON c.id = b.conversation LEFT JOIN users u ON u.id = b.user
     WHERE u.id IS NULL OR b.until <= b.at OR (b.conversation <> 0 AND (c.id IS NULL
        OR (c.ended AND NOT EXISTS (SELECT 1 FROM ended_rooms r WHERE r.conversation = c.id))))";

/// A query for reports of what does not exist, whose state does not fit the rest of the row, or whose content cannot be read, and for
/// reporters of nothing. Only for schemas from [`FIRST_SCHEMA_WITH_REPORTS`] on.
const SELECT_STRAY_REPORTS: &str = stray_reports!("0");

/// The same, with held messages among the reports, and a query for held messages that do not fit their reports or the log. Only for
/// schemas from [`FIRST_SCHEMA_WITH_HELD`] on.
const SELECT_STRAY_HELD: &str = concat!(
    stray_reports!("EXISTS (SELECT 1 FROM held h WHERE h.report = r.id)"),
    " UNION ALL SELECT c.name, e.seq, CASE
        WHEN r.id IS NULL THEN 'held message ' || h.report || ' is in no queue'
        WHEN r.user <> h.user OR p.id IS NULL THEN 'held message ' || h.report || ' is of another user, or for nobody'
        WHEN h.state <> 1 AND e.seq IS NOT NULL THEN 'held message ' || h.report || ' was not released, and is in the log'
        WHEN h.state = 1 AND e.seq IS NULL THEN 'held message ' || h.report || ' was released, and is not in the log'
        ELSE 'the state of held message ' || h.report || ' does not fit its decision' END
     FROM held h LEFT JOIN reports r ON r.id = h.report LEFT JOIN conversations c ON c.id = r.conversation
        LEFT JOIN users p ON p.id = iif(h.peer = 0, h.user, h.peer)
        LEFT JOIN events e ON e.sender = h.user AND e.key = h.key
     WHERE r.id IS NULL OR r.user <> h.user OR p.id IS NULL OR (h.peer = 0 AND c.id IS NULL)
        OR (h.state <> 1 AND e.seq IS NOT NULL) OR (h.state = 1 AND e.seq IS NULL AND c.ended IS NOT 1)
        OR h.state IS NOT iif(r.state < 2, 0, iif(r.action = 'release', 1, 2))"
);

/// Reports every row that no event explains.
pub(super) fn check(db: &Connection, report: &mut Report) -> Result<()> {
    let choices = (report.schema >= FIRST_SCHEMA_WITH_ROOMS_BY_CHOICE).then_some(&SELECT_STRAY_CHOICES);
    let requests = (report.schema >= FIRST_SCHEMA_WITH_REPLACED_REQUESTS).then_some(&SELECT_STRAY_REQUESTS);
    let endings = (report.schema >= FIRST_SCHEMA_WITH_ENDED_ROOMS).then_some(&SELECT_STRAY_ENDINGS);
    let bans = (report.schema >= FIRST_SCHEMA_WITH_BANS).then_some(&SELECT_STRAY_BANS);
    let reports = match report.schema {
        FIRST_SCHEMA_WITH_HELD.. => Some(&SELECT_STRAY_HELD),
        FIRST_SCHEMA_WITH_REPORTS.. => Some(&SELECT_STRAY_REPORTS),
        _ => None,
    };
    let queries = SELECT_STRAY_ROWS.iter().chain(choices).chain(requests).chain(endings);
    let queries = queries.chain(bans).chain(reports);
    for query in queries {
        let mut select = db.prepare(query)?;
        let mut found = select.query([])?;
        while let Some(row) = found.next()? {
            let conversation = name(row, 0)?;
            report.add_problem(conversation.as_deref(), row.get(1)?, row.get::<_, String>(2)?);
        }
    }
    check_names(db, report)
}

/// A conversation's name, or its key if it has no row.
fn name(row: &rusqlite::Row<'_>, column: usize) -> Result<Option<String>> {
    Ok(match row.get_ref(column)? {
        rusqlite::types::ValueRef::Null => None,
        rusqlite::types::ValueRef::Integer(number) => Some(super::log::placeholder_name(number)),
        text => Some(String::from_utf8_lossy(text.as_bytes().unwrap_or_default()).into_owned()),
    })
}

/// Checks that every name is one that the protocol allows.
fn check_names(db: &Connection, report: &mut Report) -> Result<()> {
    let mut select = db.prepare("SELECT id, name FROM users")?;
    let mut users = select.query([])?;
    while let Some(row) = users.next()? {
        if row.get_ref(1)?.as_str().ok().and_then(|name| UserId::parse(name).ok()).is_none() {
            report.add_problem(
                None,
                None,
                format!("the name of user number {} is no user id", row.get::<_, i64>(0)?),
            );
        }
    }
    let mut select = db.prepare("SELECT id, name FROM conversations")?;
    let mut conversations = select.query([])?;
    while let Some(row) = conversations.next()? {
        report.conversations += 1;
        if row.get_ref(1)?.as_str().ok().and_then(|name| ConversationId::parse(name).ok()).is_none() {
            let number: i64 = row.get(0)?;
            report.add_problem(
                Some(&super::log::placeholder_name(number)),
                None,
                "its name is no conversation id",
            );
        }
    }
    Ok(())
}
