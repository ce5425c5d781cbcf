//! Queries of a node about a log to which other nodes also write.

use rustc_hash::{FxHashMap, FxHashSet};
use switchboard_protocol::{ConversationId, EventKind, MembershipEffect, Seq, UserId, kind_number};
use tokio_postgres::Row;

use super::row::{conversation_id, conversation_key, get, number, position as nth, seq, user_id};
use super::user::read_standing;
use super::{Result, Session};
use crate::profile::{ban_columns, join_bans, not_before};
use crate::read::Reader;
use crate::read::row::skip_damaged;
use crate::read::shared::SharedLookups;
use crate::record::{ConversationKey, Via};
use crate::{CurrentMembership, MembershipsPage, Revocations, Seqs};

/// The last event of each requested conversation that exists.
pub(in crate::postgres) fn heads(
    reader: &Reader<'_, Session>,
    conversations: &[ConversationKey],
) -> Result<Seqs> {
    let keys: Vec<_> = conversations.iter().map(|key| key.0).collect();
    let rows = reader
        .rows
        .query_rows("SELECT id, head FROM conversations WHERE id = ANY($1::bigint[])", &[&keys])?;
    let heads = rows.iter().map(|row| {
        let key = conversation_key(row, 0)?;
        let head = skip_damaged(seq(row, 1), || format!("conversation {}", key.0))?;
        Ok(head.map(|head| (key, head)))
    });
    heads.filter_map(Result::transpose).collect()
}

const SELECT_REVOCATIONS: &str = concat!(
    "SELECT u.name, ",
    not_before!(),
    ", ",
    ban_columns!(),
    r#" FROM users u LEFT JOIN profiles p ON p."user" = u.id"#,
    join_bans!(lateral),
    " WHERE u.name = ANY($1::text[]) AND (u.not_before IS NOT NULL OR NOT p.active OR b.until IS NOT NULL)
    UNION ALL SELECT r.name, 253402300799999, NULL, NULL FROM retired_ids r WHERE r.name = ANY($1::text[])"
);

/// Whether an id is never given again.
pub(super) fn is_retired(session: &Session, user: &UserId) -> Result<bool> {
    let rows = session.query_rows("SELECT 1 FROM retired_ids WHERE name = $1", &[&user.as_str()])?;
    Ok(!rows.is_empty())
}

/// The users among these whose tokens are revoked or who are banned.
pub(in crate::postgres) fn revocations(
    reader: &Reader<'_, Session>,
    users: &[UserId],
) -> Result<Revocations> {
    let names: Vec<_> = users.iter().map(UserId::as_str).collect();
    let rows = reader.rows.query_rows(SELECT_REVOCATIONS, &[&names])?;
    rows.iter().map(|row| Ok((user_id(row, 0)?, read_standing(row, 1)?))).collect()
}

/// Reads only the rows of the page by index, so that the cost does not grow with the number of a user's conversations.
const SELECT_MEMBERSHIP_PAGES: &str = r#"SELECT n.place, m.conversation, m.since, c.head, c.ended
    FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY n (name, after, place) JOIN users u ON u.name = n.name
    CROSS JOIN LATERAL (SELECT conversation, since FROM members
        WHERE "user" = u.id AND until IS NULL AND conversation > n.after ORDER BY conversation LIMIT $3) m
    JOIN conversations c ON c.id = m.conversation ORDER BY n.place, m.conversation"#;

/// A page of memberships for each of the users.
pub(in crate::postgres) fn membership_pages(
    reader: &Reader<'_, Session>,
    users: &[(UserId, ConversationKey)],
    most: u32,
) -> Result<Vec<MembershipsPage>> {
    let (names, after): (Vec<_>, Vec<_>) = users.iter().map(|(user, after)| (user.as_str(), after.0)).unzip();
    let mut pages = vec![(MembershipsPage::default(), 0); users.len()];
    for row in &reader.rows.query_rows(SELECT_MEMBERSHIP_PAGES, &[&names, &after, &i64::from(most)])? {
        let Some((page, rows)) = pages.get_mut(nth(row, 0)?) else { continue };
        *rows += 1;
        page.add(conversation_key(row, 1)?, read_membership(row, 1)?, *rows, most);
    }
    Ok(pages.into_iter().map(|(page, _)| page).collect())
}

const SELECT_CURRENT_MEMBERSHIPS: &str = r#"SELECT n.place, m.conversation, m.since, c.head, c.ended
    FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY n (name, conversation, place)
    JOIN users u ON u.name = n.name
    JOIN members m ON m.conversation = n.conversation AND m."user" = u.id AND m.until IS NULL
    JOIN conversations c ON c.id = m.conversation"#;

/// For each pair of a user and a conversation, the user's membership in the conversation.
pub(in crate::postgres) fn memberships_in(
    reader: &Reader<'_, Session>,
    pairs: &[(UserId, ConversationKey)],
) -> Result<Vec<Option<CurrentMembership>>> {
    let (names, conversations): (Vec<_>, Vec<_>) =
        pairs.iter().map(|(user, conversation)| (user.as_str(), conversation.0)).unzip();
    let mut places = vec![None; pairs.len()];
    for row in &reader.rows.query_rows(SELECT_CURRENT_MEMBERSHIPS, &[&names, &conversations])? {
        if let Some(found) = places.get_mut(nth(row, 0)?) {
            *found = read_membership(row, 1)?;
        }
    }
    Ok(places)
}

/// A membership; `None` in a deleted room, and if the row is damaged.
fn read_membership(row: &Row, first: usize) -> Result<Option<CurrentMembership>> {
    let conversation = conversation_key(row, first)?;
    let read = || {
        let place =
            CurrentMembership { conversation, since: seq(row, first + 1)?, head: seq(row, first + 2)? };
        Ok((!get::<bool>(row, first + 3)?).then_some(place))
    };
    Ok(skip_damaged(read(), || format!("conversation {}", conversation.0))?.flatten())
}

/// The last event by which each user left or was removed, up to an event. A ban of a user who was no member (`absent`) is none. The removed user is in the field `user` of the
/// body: a key, or an id in the form of earlier versions.
const SELECT_LAST_LEAVES: &str = concat!(
    r#"SELECT went.name, max(went.seq) FROM (
        SELECT u.name, leaving.seq FROM (
            SELECT e.sender, max(e.seq) AS seq FROM events e
            WHERE e.conversation = $1 AND e.kind = "#,
    kind_number!(Leave),
    r#" AND e.seq <= $2
            AND e.sender = ANY(ARRAY(SELECT id FROM users WHERE name = ANY($3::text[]))) GROUP BY e.sender) leaving
        JOIN users u ON u.id = leaving.sender
    UNION ALL
        SELECT removed.name, removing.seq FROM (
            SELECT event_fields(e.body) -> 'user' AS "user", e.seq FROM events e
            WHERE e.conversation = $1 AND e.kind = "#,
    kind_number!(Remove),
    r#" AND e.seq <= $2 AND event_fields(e.body) -> 'absent' IS NULL OFFSET 0) removing
        JOIN (SELECT id, name FROM users WHERE name = ANY($3::text[]) OFFSET 0) removed
            ON removing."user" IN (to_jsonb(removed.id), to_jsonb(removed.name))) went
    GROUP BY went.name"#
);

// The index `events_of_going` and the statement above name every kind of event by which a user leaves. A new kind needs a
// migration for the index, a line above, and a line in `sqlite/shared.rs`.
const _: () = {
    let mut at = 0;
    while at < EventKind::ALL.len() {
        let kind = EventKind::ALL[at];
        match kind.membership() {
            MembershipEffect::SenderLeaves => assert!(matches!(kind, EventKind::Leave)),
            MembershipEffect::UserLeaves => assert!(matches!(kind, EventKind::Remove)),
            MembershipEffect::None
            // No user comes back after it.
            | MembershipEffect::Ends
            | MembershipEffect::Begins
            | MembershipEffect::SenderEnters
            | MembershipEffect::UserEnters => {}
        }
        at += 1;
    }
};

impl SharedLookups for Session {
    fn name_of(&self, conversation: ConversationKey) -> Result<Option<ConversationId>> {
        let row = self.query_row("SELECT name FROM conversations WHERE id = $1", &[&conversation.0])?;
        Ok(row.map(|row| conversation_id(&row, 0)).transpose()?)
    }

    fn imported(&self, conversation: ConversationKey, after: Seq, upto: Seq) -> Result<FxHashSet<Seq>> {
        let rows = self.query_rows(
            "SELECT seq FROM events WHERE conversation = $1 AND seq > $2 AND seq <= $3 AND via >= $4",
            &[&conversation.0, &number(after), &number(upto), &Via::FIRST_IMPORTED],
        )?;
        rows.iter().map(|row| Ok(seq(row, 0)?)).collect()
    }

    fn last_leaves(
        &self,
        conversation: ConversationKey,
        upto: Seq,
        users: &[UserId],
    ) -> Result<FxHashMap<UserId, Seq>> {
        let names: Vec<_> = users.iter().map(UserId::as_str).collect();
        if names.is_empty() || upto == Seq(0) {
            return Ok(FxHashMap::default());
        }
        let rows = self.query_rows(SELECT_LAST_LEAVES, &[&conversation.0, &number(upto), &names])?;
        rows.iter().map(|row| Ok((user_id(row, 0)?, seq(row, 1)?))).collect()
    }
}
