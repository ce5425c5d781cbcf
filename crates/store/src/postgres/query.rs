//! The lookups in PostgreSQL, each in one or two round trips. A lookup of many users or messages takes arrays, and each row
//! of its result has the index in the array.

mod blocks;
mod event;
mod feed;
mod listing;
mod message;
mod missed;
pub(super) mod profiles;
pub(super) mod reports;
pub(super) mod row;
mod shared;
#[cfg(test)]
mod tests;
mod user;

use std::cell::Cell;
use std::future::Future;
use std::ops::ControlFlow;

use futures_util::future::{join, try_join3};
use rustc_hash::FxHashMap;
use switchboard_protocol::{ConversationId, EventKind, Seq, UserId};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

pub(super) use self::profiles::changed_profiles;
use self::row::{
    conversation_key, count, get, key_row, maybe_time, number, position, seq, user_id, user_key,
};
pub(super) use self::shared::{heads, membership_pages, memberships_in, revocations};
use self::user::{SELECT_USER, read_user};
use super::connect::{BlockingConnection, Error};
use crate::change::OperationError;
use crate::grant::{KeyGrant, key_columns};
use crate::postgres::table::maybe_membership;
use crate::profile::StoredProfile;
use crate::read::row::{
    ConnectionStart, ConversationAccess, ListedConversation, MembershipRow, NamedConversation,
    PresencePeerRow, StoredMessage, UserRow, WantedMessage, skip_damaged,
};
use crate::read::{LogRange, Lookups, NamedPerson, ReaderRow};
use crate::record::{Conversation, Membership};
use crate::record::{ConversationKey, LogEvent, NewerKind, UserKey};
use crate::table::{columns, conversations, members};

type Result<T> = std::result::Result<T, OperationError<Error>>;

/// The first statement of a transaction fixes the snapshot of all its reads.
const BEGIN_READ: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// A connection that only reads, one transaction after the other.
pub(super) struct Session {
    pub(super) link: BlockingConnection,
    /// Whether a read transaction is open.
    has_begun: Cell<bool>,
    /// How many round trips were made.
    #[cfg(test)]
    round_trips: Cell<u32>,
}

impl Session {
    pub(super) fn new(link: BlockingConnection) -> Self {
        Self {
            link,
            has_begun: Cell::new(false),
            #[cfg(test)]
            round_trips: Cell::new(0),
        }
    }

    /// Runs `work` in the transaction. If none is open, BEGIN is sent together with the first statement.
    fn run<T>(&self, work: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>) -> Result<T> {
        #[cfg(test)]
        self.round_trips.update(|trips| trips + 1);
        if self.has_begun.replace(true) {
            return Ok(self.link.run(work)?);
        }
        Ok(self.link.run(async {
            // The two are sent in this order, without waiting for the answer to the first.
            let (begun, done) = join(self.link.client().batch_execute(BEGIN_READ), work).await;
            begun.and(done)
        })?)
    }

    fn query_rows(
        &self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + std::marker::Sync)],
    ) -> Result<Vec<Row>> {
        self.run(self.link.rows(sql, parameters))
    }

    /// The first row of a result, if there is one.
    fn query_row(
        &self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + std::marker::Sync)],
    ) -> Result<Option<Row>> {
        Ok(self.query_rows(sql, parameters)?.pop())
    }

    /// Ends the transaction. The ROLLBACK is only sent; its answer is read before that of the next statement.
    pub(super) fn end_transaction(&self) {
        if !self.has_begun.replace(false) || self.link.is_closed() {
            return;
        }
        // The result is not needed: if the ROLLBACK fails, the connection is lost as well.
        let _ = self.link.run(async {
            let mut rollback = std::pin::pin!(self.link.client().batch_execute("ROLLBACK"));
            std::future::poll_fn(|cx| {
                let _ = rollback.as_mut().poll(cx);
                std::task::Poll::Ready(())
            })
            .await;
            // Lets the task that drives the connection send the bytes.
            tokio::task::yield_now().await;
            Ok::<_, tokio_postgres::Error>(())
        });
    }
}

const SELECT_FIRST_MEMBERSHIPS: &str = r#"SELECT m.conversation, c.head, c.at, c.ended FROM users u
    CROSS JOIN LATERAL (SELECT conversation FROM members
        WHERE "user" = u.id AND until IS NULL ORDER BY conversation LIMIT $2) m
    JOIN conversations c ON c.id = m.conversation WHERE u.name = $1 ORDER BY m.conversation"#;

const SELECT_MEMBERSHIPS: &str = r#"SELECT m.conversation, c.head, c.at, c.ended FROM (SELECT conversation FROM members
        WHERE "user" = $1 AND until IS NULL AND conversation > $2 ORDER BY conversation LIMIT $3) m
    JOIN conversations c ON c.id = m.conversation ORDER BY m.conversation"#;

const SELECT_NAMED_CONVERSATIONS: &str = concat!(
    "SELECT n.place, ",
    conversations!(columns),
    ", ",
    members!(columns),
    r#", u.id, u.block_changes FROM unnest($2::text[]) WITH ORDINALITY n (name, place) JOIN conversations c ON c.name = n.name
    CROSS JOIN users u LEFT JOIN members m ON m.conversation = c.id AND m."user" = u.id WHERE u.name = $1"#
);

const SELECT_ACCESS: &str = concat!(
    "SELECT ",
    conversations!(columns),
    ", ",
    members!(columns),
    r#", u.id, u.block_changes FROM conversations c CROSS JOIN users u
    LEFT JOIN members m ON m.conversation = c.id AND m."user" = u.id WHERE u.name = $1 AND c.name = $2"#
);

const SELECT_ACCESS_BY_KEY: &str = concat!(
    "SELECT ",
    conversations!(columns),
    ", ",
    members!(columns),
    r#", $1::bigint, coalesce(u.block_changes, 0) FROM conversations c LEFT JOIN users u ON u.id = $1
    LEFT JOIN members m ON m.conversation = c.id AND m."user" = $1 WHERE c.id = $2"#
);

pub(super) const SELECT_LISTED_CONVERSATIONS: &str = concat!(
    "SELECT ",
    conversations!(columns),
    ", ",
    members!(columns),
    r#" FROM unnest($2::bigint[]) WITH ORDINALITY n (id, place) JOIN conversations c ON c.id = n.id
    JOIN members m ON m.conversation = c.id AND m."user" = $1 AND m.until IS NULL ORDER BY n.place"#
);

const SELECT_MEMBER_PAGE: &str = concat!(
    r#"SELECT m."user", u.name, "#,
    members!(columns),
    r#" FROM (
        SELECT * FROM members WHERE conversation = $1 AND until IS NULL AND "user" > $2 ORDER BY "user" LIMIT $3
    ) m LEFT JOIN users u ON u.id = m."user" ORDER BY m."user""#
);

const SELECT_PRESENCE_PEERS: &str =
    "SELECT n.place, u.id, u.last_seen FROM unnest($1::text[]) WITH ORDINALITY n (name, place)
    JOIN users u ON u.name = n.name ORDER BY n.place";

const SELECT_EXISTING_CONVERSATIONS: &str =
    "SELECT n.place FROM unnest($1::text[]) WITH ORDINALITY n (name, place)
    JOIN conversations c ON c.name = n.name";

const SELECT_MUTUAL: &str = "SELECT n.place FROM unnest($1::text[]) WITH ORDINALITY n (name, place)
    JOIN conversations c ON c.name = n.name
    JOIN members m ON m.conversation = c.id AND m.sent > 0 GROUP BY n.place HAVING count(*) > 1";

const COUNT_MESSAGES: &str = "SELECT messages FROM events WHERE conversation = $1 AND seq = $2";

const COUNT_SENT_MESSAGES: &str = "SELECT count(*) FROM events
    WHERE conversation = $1 AND seq > $2 AND seq <= $3 AND sender = $4 AND kind = $5";

const COUNT_ROOMS: &str = r#"SELECT count(*) FROM (
    SELECT 1 FROM members WHERE "user" = $1 AND until IS NULL AND since > 0 LIMIT $2) room"#;

const SELECT_SHARED_ROOMS: &str = r#"SELECT two.place FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY two (a, b, place)
    WHERE EXISTS (SELECT 1 FROM (SELECT conversation FROM members
            WHERE "user" = two.a AND until IS NULL AND since > 0 ORDER BY conversation LIMIT $3) room
        JOIN members m ON m.conversation = room.conversation AND m."user" = two.b AND m.until IS NULL)"#;

impl Lookups for Session {
    fn find_user(&self, user: &UserId) -> Result<Option<UserRow>> {
        self.query_row(SELECT_USER, &[&user.as_str()])?.map(|row| read_user(&row)).transpose()
    }

    fn is_retired(&self, user: &UserId) -> Result<bool> {
        shared::is_retired(self, user)
    }

    fn find_access(&self, user: &UserId, name: &ConversationId) -> Result<Option<ConversationAccess>> {
        let row = self.query_row(SELECT_ACCESS, &[&user.as_str(), &name.as_str()])?;
        Ok(row.map(|row| read_access(&row, 0)).transpose()?)
    }

    fn access_by_key(
        &self,
        user: UserKey,
        conversation: ConversationKey,
    ) -> Result<Option<ConversationAccess>> {
        let row = self.query_row(SELECT_ACCESS_BY_KEY, &[&user.0, &conversation.0])?;
        Ok(row.map(|row| read_access(&row, 0)).transpose()?)
    }

    fn connection_start(
        &self,
        user: &UserId,
        named: &[ConversationId],
        most: usize,
    ) -> Result<Option<ConnectionStart>> {
        let names: Vec<_> = named.iter().map(ConversationId::as_str).collect();
        let (user, most) = (user.as_str(), most as i64);
        let by_name: [&(dyn ToSql + std::marker::Sync); 1] = [&user];
        let first: [&(dyn ToSql + std::marker::Sync); 2] = [&user, &most];
        let by_names: [&(dyn ToSql + std::marker::Sync); 2] = [&user, &names];
        let named = async {
            if names.is_empty() {
                Ok(Vec::new())
            } else {
                self.link.rows(SELECT_NAMED_CONVERSATIONS, &by_names).await
            }
        };
        let together = try_join3(
            self.link.rows(SELECT_USER, &by_name),
            self.link.rows(SELECT_FIRST_MEMBERSHIPS, &first),
            named,
        );
        let (user, joined, found) = self.run(together)?;
        let Some(user) = user.first() else { return Ok(None) };
        let mut named: Vec<_> = names.iter().map(|_| NamedConversation::NotFound).collect();
        for row in found {
            let view = skip_damaged(read_access(&row, 1), || conversation_name(&row, 2))?;
            if let Some(named) = named.get_mut(position(&row, 0)?) {
                *named =
                    view.map_or(NamedConversation::Damaged, |view| NamedConversation::Found(Box::new(view)));
            }
        }
        let joined = joined.iter().map(read_membership).collect::<Result<_>>()?;
        Ok(Some(ConnectionStart { user: read_user(user)?, joined, named }))
    }

    fn memberships(&self, user: UserKey, after: ConversationKey, most: usize) -> Result<Vec<MembershipRow>> {
        self.query_rows(SELECT_MEMBERSHIPS, &[&user.0, &after.0, &(most as i64)])?
            .iter()
            .map(read_membership)
            .collect()
    }

    fn listed_conversations(
        &self,
        user: UserKey,
        conversations: &[ConversationKey],
    ) -> Result<Vec<ListedConversation>> {
        let keys: Vec<_> = conversations.iter().map(|key| key.0).collect();
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.query_rows(SELECT_LISTED_CONVERSATIONS, &[&user.0, &keys])?;
        let listed = |row: &Row| {
            Ok(ListedConversation {
                conversation: Conversation::from_postgres(row, 0)?,
                member: Membership::from_postgres(row, Conversation::COLUMNS)?,
            })
        };
        let listed = rows.iter().map(|row| skip_damaged(listed(row), || conversation_name(row, 1)));
        listed.filter_map(Result::transpose).collect()
    }

    fn time_of(&self, conversation: ConversationKey, seq: Seq) -> Result<i64> {
        let sql = "SELECT at FROM events WHERE conversation = $1 AND seq = $2";
        let row = self.query_row(sql, &[&conversation.0, &number(seq)])?;
        let row = row.ok_or_else(|| Error::Damaged(format!("event {seq} is not there")))?;
        Ok(get(&row, 0)?)
    }

    fn events(
        &self,
        conversation: ConversationKey,
        name: &ConversationId,
        range: &LogRange,
        mut each: impl FnMut(LogEvent) -> ControlFlow<()>,
    ) -> Result<()> {
        for row in event::rows(self, conversation, name, range)? {
            if each(event::read(&row, name)?).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn user_names(&self, users: &[UserKey]) -> Result<FxHashMap<UserKey, UserId>> {
        let keys: Vec<_> = users.iter().map(|user| user.0).collect();
        let mut names = FxHashMap::default();
        for row in self.query_rows("SELECT id, name FROM users WHERE id = ANY($1::bigint[])", &[&keys])? {
            let user = user_key(&row, 0)?;
            let name = skip_damaged(user_id(&row, 1), || format!("user number {}", user.0))?;
            names.extend(name.map(|name| (user, name)));
        }
        Ok(names)
    }

    fn kinds(&self) -> Result<Vec<NewerKind>> {
        let kinds = self.query_rows("SELECT number, name, users FROM kinds", &[])?;
        let kinds = kinds
            .iter()
            .map(|row| Ok(NewerKind::from_row(get::<i16>(row, 0)?.into(), get(row, 1)?, get(row, 2)?)));
        Ok(kinds.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    fn messages_before(&self, conversation: ConversationKey, before: Seq, most: usize) -> Result<Vec<Seq>> {
        message::find_messages_before(self, conversation, before, most)
    }

    fn messages_from(
        &self,
        conversation: ConversationKey,
        from: Seq,
        upto: Seq,
        most: usize,
    ) -> Result<Vec<Seq>> {
        message::from(self, conversation, (from, upto), most)
    }

    fn count_messages(&self, conversation: ConversationKey, upto: Seq) -> Result<u64> {
        let row = self.query_row(COUNT_MESSAGES, &[&conversation.0, &number(upto)])?;
        Ok(row.map_or(Ok(0), |row| count(&row, 0))?)
    }

    fn count_sent(
        &self,
        conversation: ConversationKey,
        sender: UserKey,
        after: Seq,
        upto: Seq,
    ) -> Result<u64> {
        let (after, upto, message) = (number(after), number(upto), i16::from(EventKind::Message.number()));
        let row =
            self.query_row(COUNT_SENT_MESSAGES, &[&conversation.0, &after, &upto, &sender.0, &message])?;
        Ok(row.map_or(Ok(0), |row| count(&row, 0))?)
    }

    fn messages(
        &self,
        wanted: &[WantedMessage<'_>],
        bytes: usize,
        each: impl FnMut(Option<StoredMessage>) -> ControlFlow<()>,
    ) -> Result<()> {
        message::find(self, wanted, bytes, each)
    }

    fn members(
        &self,
        conversation: ConversationKey,
        after: UserKey,
        most: usize,
        mut each: impl FnMut(UserKey, Option<(UserId, Membership)>) -> ControlFlow<()>,
    ) -> Result<()> {
        for row in self.query_rows(SELECT_MEMBER_PAGE, &[&conversation.0, &after.0, &(most as i64)])? {
            let read = || Ok((user_id(&row, 1)?, Membership::from_postgres(&row, 2)?));
            let member = skip_damaged(read(), || format!("a member of conversation {}", conversation.0))?;
            if each(user_key(&row, 0)?, member).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn profiles(&self, users: &[UserKey]) -> Result<FxHashMap<UserKey, StoredProfile>> {
        profiles::find_all(self, users)
    }

    fn named_people(&self, users: &[UserId]) -> Result<Vec<NamedPerson>> {
        profiles::find_named_people(self, users)
    }

    fn find_people(
        &self,
        words: (&str, &str),
        ids: (&str, &str),
        most: usize,
    ) -> Result<Vec<PresencePeerRow>> {
        profiles::search(self, words, ids, most)
    }

    fn presence_peer_rows(&self, users: &[UserId]) -> Result<Vec<PresencePeerRow>> {
        let names: Vec<_> = users.iter().map(UserId::as_str).collect();
        let known = self.query_rows(SELECT_PRESENCE_PEERS, &[&names])?.into_iter().map(|row| {
            let name = users.get(position(&row, 0)?).cloned();
            let (key, last_seen) = (user_key(&row, 1)?, maybe_time(&row, 2)?);
            Ok(name.map(|name| PresencePeerRow { key, name, last_seen }))
        });
        known.filter_map(Result::transpose).collect()
    }

    fn conversations_exist(&self, conversations: &[ConversationId]) -> Result<Vec<bool>> {
        let names: Vec<_> = conversations.iter().map(ConversationId::as_str).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        flags_by_position(names.len(), &self.query_rows(SELECT_EXISTING_CONVERSATIONS, &[&names])?)
    }

    fn are_mutual(&self, conversations: &[ConversationId]) -> Result<Vec<bool>> {
        let names: Vec<_> = conversations.iter().map(ConversationId::as_str).collect();
        flags_by_position(names.len(), &self.query_rows(SELECT_MUTUAL, &[&names])?)
    }

    fn count_rooms(&self, user: UserKey, most: u32) -> Result<u32> {
        let row = self.query_row(COUNT_ROOMS, &[&user.0, &i64::from(most)])?;
        let rooms = row.map(|row| count(&row, 0)).transpose()?.unwrap_or(0);
        Ok(u32::try_from(rooms).unwrap_or(most))
    }

    fn share_a_room(&self, pairs: &[(UserKey, UserKey)], most: u32) -> Result<Vec<bool>> {
        let (a, b): (Vec<_>, Vec<_>) = pairs.iter().map(|(a, b)| (a.0, b.0)).unzip();
        flags_by_position(pairs.len(), &self.query_rows(SELECT_SHARED_ROOMS, &[&a, &b, &i64::from(most)])?)
    }

    fn api_key(&self, hash: &[u8]) -> Result<Option<KeyGrant>> {
        let row = self.query_row(
            concat!(
                "SELECT ",
                key_columns!(),
                " FROM api_keys WHERE (hash = $1 OR old_hash = $1) AND revoked IS NULL"
            ),
            &[&hash],
        )?;
        Ok(row.map(|row| key_row(&row)).transpose()?.map(|row| row.grant(hash)))
    }
}

fn read_membership(row: &Row) -> Result<MembershipRow> {
    let conversation = conversation_key(row, 0)?;
    let read = || Ok(((seq(row, 1)?, get(row, 2)?), get(row, 3)?));
    let state = skip_damaged(read(), || format!("conversation {}", conversation.0))?;
    Ok(MembershipRow::new(conversation, state))
}

fn read_access(row: &Row, first: usize) -> std::result::Result<ConversationAccess, Error> {
    let conversation = Conversation::from_postgres(row, first)?;
    let membership = maybe_membership(row, first + Conversation::COLUMNS)?;
    let own = first + Conversation::COLUMNS + Membership::COLUMNS;
    let reader = ReaderRow { key: user_key(row, own)?, block_changes: count(row, own + 1)? };
    Ok(ConversationAccess { conversation, membership, reader })
}

/// For each index of an array with `places` elements, whether one of the rows has that index.
fn flags_by_position(places: usize, rows: &[Row]) -> Result<Vec<bool>> {
    let mut marked = vec![false; places];
    for row in rows {
        if let Some(mark) = marked.get_mut(position(row, 0)?) {
            *mark = true;
        }
    }
    Ok(marked)
}

/// The name of a conversation, for the log.
fn conversation_name(row: &Row, column: usize) -> String {
    format!("conversation {}", row.try_get::<_, &str>(column).unwrap_or("without a name"))
}
