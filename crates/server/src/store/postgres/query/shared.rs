//! What a node asks about the log that other nodes write to as well.

use futures_util::future::try_join;
use rustc_hash::FxHashMap;
use switchboard_protocol::{ConversationId, Seq, UserId};

use super::row::{conversation_id, conversation_key, get, maybe_time, number, seq, user_id, user_key};
use super::{Result, Session};
use crate::record::{ConversationKey, UserKey};
use crate::store::read::Reader;
use crate::store::read::row::readable;
use crate::store::read::shared::SharedLookups;
use crate::store::{Person, Place, Seqs, passages};

/// The last event of each of the conversations that are there.
pub(in crate::store::postgres) fn heads(
    reader: &Reader<'_, Session>,
    conversations: &[ConversationKey],
) -> Result<Seqs> {
    let keys: Vec<_> = conversations.iter().map(|key| key.0).collect();
    let rows =
        reader.rows.rows("SELECT id, head FROM conversations WHERE id = ANY($1::bigint[])", &[&keys])?;
    let heads = rows.iter().map(|row| {
        let key = conversation_key(row, 0)?;
        let head = readable(seq(row, 1), || format!("conversation {}", key.0))?;
        Ok(head.map(|head| (key, head)))
    });
    heads.filter_map(Result::transpose).collect()
}

const PEOPLE: &str = "SELECT id, name, not_before FROM users WHERE name = ANY($1::text[])";

const PLACES: &str = r#"SELECT m."user", m.conversation, m.since, c.head FROM users u
    JOIN members m ON m."user" = u.id AND m.until IS NULL
    JOIN conversations c ON c.id = m.conversation WHERE u.name = ANY($1::text[])"#;

/// Where each of the users stands who were seen before.
pub(in crate::store::postgres) fn people(
    reader: &Reader<'_, Session>,
    users: &[UserId],
) -> Result<Vec<Person>> {
    let session = reader.rows;
    let names: Vec<_> = users.iter().map(UserId::as_str).collect();
    let (people, places) = session.run(async {
        try_join(session.link.rows(PEOPLE, &[&names]), session.link.rows(PLACES, &[&names])).await
    })?;
    let mut joined = FxHashMap::<UserKey, Vec<Place>>::default();
    for row in &places {
        let conversation = conversation_key(row, 1)?;
        let read = || Ok(Place { conversation, since: seq(row, 2)?, head: seq(row, 3)? });
        let place = readable(read(), || format!("conversation {}", conversation.0))?;
        joined.entry(user_key(row, 0)?).or_default().extend(place);
    }
    let people = people.iter().map(|row| {
        let joined = joined.remove(&user_key(row, 0)?).unwrap_or_default();
        Ok(Person { user: user_id(row, 1)?, not_before: maybe_time(row, 2)?, joined })
    });
    people.collect()
}

/// The last event by which each of some users went, up to an event. Whom it removes is all that the body of such an event says;
/// who left by themselves is told in the same words.
const GOING: &str = r#"SELECT went.body, max(went.seq) FROM (
        SELECT '{"user":"' || u.name || '"}' AS body, leaving.seq FROM (
            SELECT e.sender, max(e.seq) AS seq FROM events e
            WHERE e.conversation = $1 AND e.kind = 7 AND e.seq <= $2
            AND e.sender = ANY(ARRAY(SELECT id FROM users WHERE name = ANY($3::text[]))) GROUP BY e.sender) leaving
        JOIN users u ON u.id = leaving.sender
    UNION ALL
        SELECT e.body, e.seq FROM events e
        WHERE e.conversation = $1 AND e.kind = 9 AND e.seq <= $2 AND e.body = ANY($4::text[])) went
    GROUP BY went.body"#;

impl SharedLookups for Session {
    fn name_of(&self, conversation: ConversationKey) -> Result<Option<ConversationId>> {
        let row = self.row("SELECT name FROM conversations WHERE id = $1", &[&conversation.0])?;
        Ok(row.map(|row| conversation_id(&row, 0)).transpose()?)
    }

    fn went(
        &self,
        conversation: ConversationKey,
        upto: Seq,
        users: &[UserId],
    ) -> Result<FxHashMap<UserId, Seq>> {
        let names: Vec<_> = users.iter().map(UserId::as_str).collect();
        let bodies: Vec<_> = names.iter().map(|name| format!(r#"{{"user":"{name}"}}"#)).collect();
        if names.is_empty() || upto == Seq(0) {
            return Ok(FxHashMap::default());
        }
        let rows = self.rows(GOING, &[&conversation.0, &number(upto), &names, &bodies])?;
        let gone = rows.iter().map(|row| Ok((passages::subject(get(row, 0)?), seq(row, 1)?)));
        gone.filter_map(|gone| gone.map(|(user, seq)| user.map(|user| (user, seq))).transpose()).collect()
    }
}
