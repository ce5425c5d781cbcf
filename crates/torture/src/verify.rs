//! When all is over: the whole log, page by page, held against everything that anybody tried, was told and saw.

mod fold;

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::{Context, bail};
use rustc_hash::FxHashMap;
use switchboard_client::Client;
use switchboard_protocol::reply::{Message, OkBody, Summary};
use switchboard_protocol::{ConversationId, Conversations, Event, EventBody, History, Seq, Sync, UserId};

use crate::device::Standing;
use crate::record::{Done, Law, digest};
use crate::sdk::Screens;
use crate::world::{Room, World, hello};

/// Items of a page.
const PAGE: u32 = 200;

/// What the logs say, as far as it is needed once they have been read.
#[derive(Default)]
pub(crate) struct Logs {
    /// Messages by number: key and author.
    pub(crate) messages: FxHashMap<ConversationId, Vec<(Seq, String, UserId)>>,
    heads: FxHashMap<ConversationId, Seq>,
    /// Who is in.
    members: HashSet<(UserId, ConversationId)>,
    /// Who is out, and with which event they went.
    out: FxHashMap<(UserId, ConversationId), Seq>,
    /// Messages in all.
    pub(crate) stored: u64,
}

impl Logs {
    fn comes(&mut self, user: &UserId, id: &ConversationId) {
        self.out.remove(&(user.clone(), id.clone()));
        self.members.insert((user.clone(), id.clone()));
    }

    fn goes(&mut self, user: &UserId, id: &ConversationId, seq: Seq) {
        self.members.remove(&(user.clone(), id.clone()));
        self.out.insert((user.clone(), id.clone()), seq);
    }
}

/// Holds all that the server has to tell against the record, and against where everybody is.
pub(crate) async fn everything(world: &Arc<World>, devices: &[Standing]) -> anyhow::Result<Logs> {
    let logs = logs(world).await?;
    standings(world, &logs, devices);
    summaries(world, &logs).await?;
    Ok(logs)
}

/// Reads every log, and holds it against the record.
async fn logs(world: &Arc<World>) -> anyhow::Result<Logs> {
    let mut logs = Logs::default();
    let mut places: FxHashMap<String, (ConversationId, Seq)> = FxHashMap::default();
    for (n, room) in world.rooms.iter().enumerate() {
        let (mut client, _) = Client::connect(world.direct(n), hello(&room.members[0])).await?;
        let events = match whole_log(&mut client, room).await? {
            Some(events) => events,
            None => continue,
        };
        look_at(world, &mut logs, &mut places, room, &events);
        let folded = fold::fold(&events);
        let shown = whole_history(&mut client, room).await?;
        compare_history(world, room, &folded, &shown);
        client.close().await;
    }
    acknowledged(world, &places);
    Ok(logs)
}

/// All events of a conversation; `None` if nobody has written there.
async fn whole_log(client: &mut Client, room: &Room) -> anyhow::Result<Option<Vec<Event>>> {
    let mut all: Vec<Event> = Vec::new();
    loop {
        let after = all.last().map_or(Seq(0), |event| event.seq);
        let command = Sync { conversation: room.id.clone().into(), after, limit: Some(PAGE) };
        match client.call(command).await {
            Ok(OkBody::Log { events, more, .. }) => {
                all.extend(events);
                if !more {
                    return Ok(Some(all));
                }
            }
            // A direct conversation is there from its first message on.
            Err(switchboard_client::ClientError::Refused(failure))
                if !room.id.is_room() && failure.code == switchboard_protocol::ErrorCode::NotFound =>
            {
                return Ok(None);
            }
            other => bail!("a page of {} was answered with {other:?}", room.id),
        }
    }
}

async fn whole_history(client: &mut Client, room: &Room) -> anyhow::Result<Vec<Message>> {
    let mut pages: Vec<Vec<Message>> = Vec::new();
    loop {
        let before = pages.last().and_then(|page| page.first()).map(|message| message.seq);
        let command = History { conversation: room.id.clone().into(), before, limit: Some(PAGE) };
        match client.call(command).await.with_context(|| format!("history of {}", room.id))? {
            OkBody::History { messages, more, .. } => {
                pages.push(messages);
                if !more {
                    return Ok(pages.into_iter().rev().flatten().collect());
                }
            }
            other => bail!("history of {} was answered with {other:?}", room.id),
        }
    }
}

fn look_at(
    world: &World,
    logs: &mut Logs,
    places: &mut FxHashMap<String, (ConversationId, Seq)>,
    room: &Room,
    events: &[Event],
) {
    let breach = |law, what: String, seq| world.record.breach(law, what, &[], Some((&room.id, seq)));
    let deletion = |event: &Event| match event.body {
        EventBody::Delete { target } => Some(target),
        _ => None,
    };
    let deleted: HashSet<Seq> = events.iter().filter_map(deletion).collect();
    let mut devices = FxHashMap::default();
    for (expected, event) in (1..).map(Seq).zip(events) {
        let id = &event.conversation;
        if event.seq != expected {
            breach(
                Law::SilentGap,
                format!("{id} has {} in the place of {}", event.seq.0, expected.0),
                expected,
            );
            return;
        }
        let unlike = world.record.lock().compare(event);
        if let Some((law, what)) = unlike {
            breach(law, what, event.seq);
        }
        match &event.body {
            EventBody::Message { deleted: is_deleted, .. } => {
                let key = event.key.as_ref().map(|key| key.as_str().to_owned()).unwrap_or_default();
                if *is_deleted && !deleted.contains(&event.seq) {
                    breach(Law::Unlike, format!("nobody deleted {id} {}", event.seq.0), event.seq);
                }
                look_at_message(world, places, &mut devices, event, &key);
                logs.stored += 1;
                let messages = logs.messages.entry(id.clone()).or_default();
                messages.push((event.seq, key, event.from.clone()));
            }
            EventBody::Create { members, .. } => {
                logs.comes(&event.from, id);
                members.iter().for_each(|user| logs.comes(user, id));
            }
            EventBody::Join { .. } => logs.comes(&event.from, id),
            EventBody::Invite { user, .. } => logs.comes(user, id),
            EventBody::Leave {} => logs.goes(&event.from, id, event.seq),
            EventBody::Remove { user } => logs.goes(user, id, event.seq),
            _ => {}
        }
    }
    let head = events.last().map_or(Seq(0), |event| event.seq);
    let seen = world.record.lock().logs.get(&room.id).map_or(0, |log| log.len() as u64);
    if seen > head.0 {
        breach(Law::Lost, format!("{} ends at {}, and somebody saw {seen}", room.id, head.0), Seq(seen));
    }
    if !room.id.is_room() && !events.is_empty() {
        room.members.iter().for_each(|user| logs.comes(user, &room.id));
    }
    check_done(world, room, events);
    logs.heads.insert(room.id.clone(), head);
}

/// A message is there once, as it was sent, and behind what its device had sent before it.
fn look_at_message(
    world: &World,
    places: &mut FxHashMap<String, (ConversationId, Seq)>,
    devices: &mut FxHashMap<u32, (u64, bool)>,
    event: &Event,
    key: &str,
) {
    let id = &event.conversation;
    let breach = |law, what: String| world.record.breach(law, what, &[key], Some((id, event.seq)));
    if let Some((elsewhere, seq)) = places.insert(key.to_owned(), (id.clone(), event.seq)) {
        breach(
            Law::Doubled,
            format!("{key} is in the log as {elsewhere} {} and as {id} {}", seq.0, event.seq.0),
        );
    }
    let sent = world.record.lock().sends.get(key).cloned();
    let Some(sent) = sent else {
        breach(Law::Answer, format!("nobody sent {key} in {id}"));
        return;
    };
    let same_content = match &event.body {
        EventBody::Message { deleted: true, .. } => true,
        EventBody::Message { text: Some(text), .. } => digest(text.as_str()) == sent.text,
        _ => false,
    };
    if sent.from != event.from || sent.conversation != *id || !same_content {
        breach(Law::Unlike, format!("{key} was sent otherwise than stored: {event:?}"));
    }
    let (before, refused) = devices.insert(sent.device, (sent.number, sent.refused)).unwrap_or_default();
    if before > sent.number && !refused && !sent.refused {
        breach(Law::OutOfOrder, format!("{key} stands behind message {before} of its device in {id}"));
    }
}

/// Acknowledged commands that are not messages.
fn check_done(world: &World, room: &Room, events: &[Event]) {
    let done: Vec<Done> =
        world.record.lock().done.iter().filter(|done| done.conversation == room.id).cloned().collect();
    for done in done {
        let index = usize::try_from(done.seq.0).unwrap_or(0).wrapping_sub(1);
        let there =
            events.get(index).is_some_and(|e| e.body.kind().as_str() == done.kind && e.from == done.from);
        if !there {
            let what =
                format!("a {} of {} was acknowledged as {} {}", done.kind, done.from, room.id, done.seq.0);
            world.record.breach(Law::Lost, what, &[], Some((&room.id, done.seq)));
        }
    }
}

/// Every acknowledged message is where the acknowledgement said.
fn acknowledged(world: &World, places: &FxHashMap<String, (ConversationId, Seq)>) {
    let acked: Vec<_> = {
        let inner = world.record.lock();
        let acked =
            inner.sends.iter().filter_map(|(key, sent)| Some((key, &sent.conversation, sent.acked?.0)));
        let wrong = acked.filter(|(key, id, seq)| places.get(*key) != Some(&((*id).clone(), *seq)));
        wrong.map(|(key, id, seq)| (key.clone(), id.clone(), seq)).collect()
    };
    for (key, id, seq) in acked {
        let what = match places.get(&key) {
            Some((there, other)) => {
                format!("{key} was acknowledged as {id} {}, and is {there} {}", seq.0, other.0)
            }
            None => format!("{key} was acknowledged as {id} {}, and is nowhere", seq.0),
        };
        world.record.breach(Law::Lost, what, &[&key], Some((&id, seq)));
    }
}

fn compare_history(world: &World, room: &Room, folded: &[Message], shown: &[Message]) {
    let differs = folded.iter().zip(shown).find(|(a, b)| a != b);
    if let Some((a, b)) = differs {
        let what = format!("history is not the fold of the log: {b:?} where the log makes {a:?}");
        world.record.breach(Law::Unlike, what, &[], Some((&room.id, a.seq)));
    } else if folded.len() != shown.len() {
        let what =
            format!("history of {} has {} messages, and the log {}", room.id, shown.len(), folded.len());
        world.record.breach(Law::Unlike, what, &[], None);
    }
}

/// Every device has everything that it may see, and nothing else.
fn standings(world: &World, logs: &Logs, standings: &[Standing]) {
    for standing in standings {
        for (id, cursor, _) in &standing.places {
            let Some(head) = logs.heads.get(id) else { continue };
            let out = logs.out.get(&(standing.user.clone(), id.clone()));
            let may = out.unwrap_or(head);
            let law = match cursor.cmp(may) {
                std::cmp::Ordering::Less => Law::Stuck,
                std::cmp::Ordering::Equal => continue,
                std::cmp::Ordering::Greater => Law::Forbidden,
            };
            let what =
                format!("{} has {id} up to {}, and may have it up to {}", standing.name, cursor.0, may.0);
            world.record.breach(law, what, &[], Some((id, *may)));
        }
    }
}

/// Counts and cursors in the summaries are those of the log, and no cursor went back.
async fn summaries(world: &World, logs: &Logs) -> anyhow::Result<()> {
    for (n, user) in world.users.iter().chain(&world.sdk_users).enumerate() {
        let (mut client, _) = Client::connect(world.direct(n), hello(user)).await?;
        let OkBody::Conversations { conversations, .. } =
            client.call(Conversations { before: None, limit: Some(PAGE) }).await?
        else {
            bail!("no list of conversations")
        };
        client.close().await;
        let listed: HashSet<_> = conversations.iter().map(|summary| summary.conversation.clone()).collect();
        let members = logs.members.iter().filter(|(member, _)| member == user);
        let is_in: HashSet<_> = members.map(|(_, id)| id.clone()).collect();
        for id in listed.symmetric_difference(&is_in) {
            let what = format!(
                "{user} is told to be in {id}: {}; the log says: {}",
                listed.contains(id),
                is_in.contains(id)
            );
            world.record.breach(Law::Unlike, what, &[], None);
        }
        for summary in &conversations {
            compare_summary(world, logs, user, summary);
        }
    }
    Ok(())
}

fn compare_summary(world: &World, logs: &Logs, user: &UserId, summary: &Summary) {
    let id = &summary.conversation;
    let Some(messages) = logs.messages.get(id) else { return };
    let unread = messages.iter().filter(|(seq, _, from)| *seq > summary.read && from != user).count() as u64;
    let head = logs.heads.get(id).copied().unwrap_or_default();
    let told = world.record.lock().reads.get(&(user.clone(), id.clone())).copied().unwrap_or_default();
    let last = messages.last().map(|(seq, ..)| *seq);
    if summary.unread != unread || summary.head != head || summary.last.as_ref().map(|last| last.seq) != last
    {
        let what = format!(
            "{user} is told {summary:?}; the log has {unread} unread, the head {}, last {last:?}",
            head.0
        );
        world.record.breach(Law::Unlike, what, &[], Some((id, head)));
    }
    if summary.read < told || summary.received < summary.read {
        let what = format!("{user} had read {id} up to {}, and now {summary:?}", told.0);
        world.record.breach(Law::WentBack, what, &[], Some((id, told)));
    }
}

/// Each list of the SDK is the end of the log, without a hole and without a double.
pub(crate) fn screens(world: &World, logs: &Logs, screens: &Screens) {
    for ((user, id), list) in screens {
        let Some(messages) = logs.messages.get(id) else { continue };
        let end = &messages[messages.len().saturating_sub(list.len())..];
        let same = end.iter().zip(list).all(|((seq, key, _), shown)| (*seq, key) == (shown.0, &shown.1));
        if !same || end.len() != list.len() || (list.is_empty() && !messages.is_empty()) {
            let differs =
                end.iter().zip(list).find(|((seq, key, _), shown)| (*seq, key) != (shown.0, &shown.1));
            let what = format!(
                "the screen of {user} has {} messages of {id}, not the last of the log: {differs:?}",
                list.len()
            );
            world.record.breach(Law::Unlike, what, &[], None);
        }
    }
}
