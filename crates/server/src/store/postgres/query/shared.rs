//! What a node asks about the log that other nodes write to as well.

use futures_util::future::try_join;
use rustc_hash::FxHashMap;
use serde::Deserialize;
use switchboard_protocol::{ConversationId, EventKind, Seq, UserId};

use super::row::{conversation_id, conversation_key, maybe_time, number, place, seq, user_id, user_key};
use super::{Result, Session, readable};
use crate::store::read::{Range, Reader};
use crate::store::{
    CommittedEvent, ConversationKey, Effect, LogEvent, Passage, Person, Place, Seqs, UserKey,
};

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

/// The last event by which each of some users went, up to an event. Removing somebody is all that a body of its kind says.
const GOING: &str = r#"SELECT went.place, max(went.seq) FROM (
        SELECT n.place, e.seq FROM unnest($3::text[]) WITH ORDINALITY n (name, place)
        JOIN users u ON u.name = n.name JOIN events e ON e.sender = u.id
        WHERE e.conversation = $1 AND e.kind = 7 AND e.seq <= $2
    UNION ALL
        SELECT n.place, e.seq FROM unnest($3::text[]) WITH ORDINALITY n (name, place)
        JOIN events e ON e.body = '{"user":"' || n.name || '"}'
        WHERE e.conversation = $1 AND e.kind = 9 AND e.seq <= $2) went
    GROUP BY went.place"#;

/// A page of the log, with who came in or went by each event.
pub(in crate::store::postgres) fn log(
    reader: &Reader<'_, Session>,
    conversation: ConversationKey,
    after: Seq,
    upto: Seq,
) -> Result<Vec<CommittedEvent>> {
    let Some(name) = reader.rows.row("SELECT name FROM conversations WHERE id = $1", &[&conversation.0])?
    else {
        return Ok(Vec::new());
    };
    let name = conversation_id(&name, 0)?;
    let (most, bytes) = (reader.limits.page, reader.limits.page_bytes);
    let events = reader.events(conversation, &name, &Range { after, upto, most, bytes })?;
    let passages: Vec<_> = events.iter().map(passages).collect();
    let comers: Vec<_> = passages.iter().flat_map(|passages| passages.comes_back.clone()).collect();
    let mut gone = went(reader.rows, conversation, after, comers)?;
    let told = events.into_iter().zip(passages).map(|(event, passages)| {
        let effects = passages.effects(&mut gone, event.seq);
        CommittedEvent {
            conversation,
            name: event.conversation.clone(),
            seq: event.seq,
            at: event.at,
            event: Some(event),
            effects,
        }
    });
    Ok(told.collect())
}

/// By which event each of the users went last, up to one event.
fn went(
    session: &Session,
    conversation: ConversationKey,
    upto: Seq,
    mut users: Vec<UserId>,
) -> Result<FxHashMap<UserId, Seq>> {
    users.sort_unstable();
    users.dedup();
    if users.is_empty() || upto == Seq(0) {
        return Ok(FxHashMap::default());
    }
    let names: Vec<_> = users.iter().map(UserId::as_str).collect();
    let rows = session.rows(GOING, &[&conversation.0, &number(upto), &names])?;
    let gone = rows.iter().map(|row| Ok(users.get(place(row, 0)?).cloned().zip(Some(seq(row, 1)?))));
    gone.filter_map(Result::transpose).collect()
}

/// Who came in or went by an event, as far as it says so itself.
#[derive(Default)]
struct Passages {
    /// Those who came into a new conversation.
    begins: Vec<UserId>,
    /// Who came into one that may have been left before.
    comes_back: Option<UserId>,
    goes: Option<UserId>,
}

/// Whom an event names.
#[derive(Deserialize)]
struct Subject {
    user: UserId,
}

/// Whom a new room has besides its creator.
#[derive(Deserialize)]
struct Members {
    #[serde(default)]
    members: Vec<UserId>,
}

fn passages(event: &LogEvent) -> Passages {
    let subject = || serde_json::from_str::<Subject>(&event.body).ok().map(|subject| subject.user);
    let mut passages = Passages::default();
    match event.kind {
        EventKind::Create => {
            passages.begins.push(event.from.clone());
            let members = serde_json::from_str::<Members>(&event.body).map(|created| created.members);
            passages.begins.extend(members.unwrap_or_default());
        }
        EventKind::Message if event.seq == Seq(1) => passages.begins = both(&event.conversation),
        EventKind::Join => passages.comes_back = Some(event.from.clone()),
        EventKind::Invite => passages.comes_back = subject(),
        EventKind::Leave => passages.goes = Some(event.from.clone()),
        EventKind::Remove => passages.goes = subject(),
        EventKind::Message
        | EventKind::Edit
        | EventKind::Delete
        | EventKind::React
        | EventKind::Role
        | EventKind::Rename
        | EventKind::Unreadable => {}
    }
    passages
}

/// The users of a direct conversation, of whom there is one if it is a note to self.
fn both(conversation: &ConversationId) -> Vec<UserId> {
    let mut users: Vec<_> = conversation.peers().map(|(a, b)| vec![a, b]).unwrap_or_default();
    users.dedup();
    users
}

impl Passages {
    /// The effects of the event `seq`, with what is known of those who went before; in the order of the log.
    fn effects(self, gone: &mut FxHashMap<UserId, Seq>, seq: Seq) -> Vec<Effect> {
        let Self { begins, comes_back, goes } = self;
        let before = Seq(seq.0.saturating_sub(1));
        let begins = begins.into_iter().map(|user| Effect { user, passage: Passage::In { seen: Seq(0) } });
        let comes_back = comes_back.map(|user| {
            let seen = gone.get(&user).copied().unwrap_or(before);
            Effect { user, passage: Passage::In { seen } }
        });
        if let Some(user) = &goes {
            gone.insert(user.clone(), seq);
        }
        let goes = goes.map(|user| Effect { user, passage: Passage::Out });
        begins.chain(comes_back).chain(goes).collect()
    }
}
