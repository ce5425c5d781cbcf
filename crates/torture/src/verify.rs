//! After a run, compares the whole log, page by page, with what every client sent and received.

mod fold;

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::{Context, bail};
use rustc_hash::FxHashMap;
use switchboard_client::Client;
use switchboard_protocol::reply::{Message, OkBody, Summary};
use switchboard_protocol::{ConversationId, Conversations, Event, EventBody, History, Seq, Sync, UserId};

use crate::device::FinalState;
use crate::record::{AckedCommand, Law, hash_of};
use crate::sdk::ShownMessages;
use crate::world::{Room, World, hello};

/// The most items that the verification requests in a page.
const PAGE_SIZE: u32 = 200;

/// The parts of the conversations' logs that later checks need.
#[derive(Default)]
pub(crate) struct Logs {
    /// The messages of each conversation: seq, idempotency key and author.
    pub(crate) messages: FxHashMap<ConversationId, Vec<(Seq, String, UserId)>>,
    heads: FxHashMap<ConversationId, Seq>,
    /// The users who are members at the end of the run.
    members: HashSet<(UserId, ConversationId)>,
    /// The users who have left, each with the event with which they left.
    left: FxHashMap<(UserId, ConversationId), Seq>,
    /// Every event with which a user left, also if the user joined again later.
    leaves: HashSet<(UserId, ConversationId, Seq)>,
    /// The number of messages in all conversations.
    pub(crate) stored: u64,
}

impl Logs {
    fn add_member(&mut self, user: &UserId, id: &ConversationId) {
        self.left.remove(&(user.clone(), id.clone()));
        self.members.insert((user.clone(), id.clone()));
    }

    fn remove_member(&mut self, user: &UserId, id: &ConversationId, seq: Seq) {
        self.members.remove(&(user.clone(), id.clone()));
        self.left.insert((user.clone(), id.clone()), seq);
        self.leaves.insert((user.clone(), id.clone(), seq));
    }
}

/// Compares everything that the server has stored with the record of the run, and with what each device received.
pub(crate) async fn verify(world: &Arc<World>, devices: &[FinalState]) -> anyhow::Result<Logs> {
    let logs = check_logs(world).await?;
    check_final_states(world, &logs, devices);
    check_summaries(world, &logs).await?;
    Ok(logs)
}

/// Reads the log of every conversation, and compares it with the record of the run.
async fn check_logs(world: &Arc<World>) -> anyhow::Result<Logs> {
    let mut logs = Logs::default();
    let mut stored_at: FxHashMap<String, (ConversationId, Seq)> = FxHashMap::default();
    for (n, room) in world.rooms.iter().enumerate() {
        let (mut client, _) = Client::connect(world.direct_url(n), hello(&room.members[0])).await?;
        let events = match read_whole_log(&mut client, room).await? {
            Some(events) => events,
            None => continue,
        };
        check_log(world, &mut logs, &mut stored_at, room, &events);
        let folded = fold::fold(&events);
        let shown = read_whole_history(&mut client, room).await?;
        check_history(world, room, &folded, &shown);
        client.close().await;
    }
    check_acknowledged(world, &stored_at);
    Ok(logs)
}

/// Reads all events of a conversation. Returns `None` if the conversation does not exist.
pub(crate) async fn read_whole_log(client: &mut Client, room: &Room) -> anyhow::Result<Option<Vec<Event>>> {
    let mut all: Vec<Event> = Vec::new();
    loop {
        let after = all.last().map_or(Seq(0), |event| event.seq);
        let command = Sync { conversation: room.id.clone().into(), after, limit: Some(PAGE_SIZE) };
        match client.call(command).await {
            Ok(OkBody::Log { events, more, .. }) => {
                all.extend(events);
                if !more {
                    return Ok(Some(all));
                }
            }
            // A direct conversation exists from its first message on.
            Err(switchboard_client::ClientError::Refused(failure))
                if !room.id.is_room() && failure.code == switchboard_protocol::ErrorCode::NotFound =>
            {
                return Ok(None);
            }
            other => bail!("a page of {} was answered with {other:?}", room.id),
        }
    }
}

async fn read_whole_history(client: &mut Client, room: &Room) -> anyhow::Result<Vec<Message>> {
    let mut pages: Vec<Vec<Message>> = Vec::new();
    loop {
        let before = pages.last().and_then(|page| page.first()).map(|message| message.seq);
        let command =
            History { conversation: room.id.clone().into(), before, around: None, limit: Some(PAGE_SIZE) };
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

fn check_log(
    world: &World,
    logs: &mut Logs,
    stored_at: &mut FxHashMap<String, (ConversationId, Seq)>,
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
                format!("{id} has event {} in place of {}", event.seq.0, expected.0),
                expected,
            );
            return;
        }
        let unlike = world.record.lock().compare_with_first_seen(event);
        if let Some((law, what)) = unlike {
            breach(law, what, event.seq);
        }
        match &event.body {
            EventBody::Message { deleted: is_deleted, .. } => {
                let key = event.key.as_ref().map(|key| key.as_str().to_owned()).unwrap_or_default();
                if *is_deleted && !deleted.contains(&event.seq) {
                    breach(Law::Mismatch, format!("no client deleted {id} {}", event.seq.0), event.seq);
                }
                check_message(world, stored_at, &mut devices, event, &key);
                logs.stored += 1;
                let messages = logs.messages.entry(id.clone()).or_default();
                messages.push((event.seq, key, event.from.clone()));
            }
            EventBody::Create { members, .. } => {
                logs.add_member(&event.from, id);
                members.iter().for_each(|user| logs.add_member(user, id));
            }
            EventBody::Join { .. } => logs.add_member(&event.from, id),
            EventBody::Invite { user, .. } => logs.add_member(user, id),
            EventBody::Leave {} => logs.remove_member(&event.from, id, event.seq),
            EventBody::Remove { user, absent: false, .. } => logs.remove_member(user, id, event.seq),
            _ => {}
        }
    }
    let head = events.last().map_or(Seq(0), |event| event.seq);
    let seen = world.record.lock().logs.get(&room.id).map_or(0, |log| log.len() as u64);
    if seen > head.0 {
        breach(Law::Lost, format!("{} ends at {}, but a client received {seen}", room.id, head.0), Seq(seen));
    }
    if !room.id.is_room() && !events.is_empty() {
        room.members.iter().for_each(|user| logs.add_member(user, &room.id));
    }
    check_acked_commands(world, room, events);
    logs.heads.insert(room.id.clone(), head);
}

/// Checks that a message is stored once, as it was sent, and after all messages that its device had sent earlier.
fn check_message(
    world: &World,
    stored_at: &mut FxHashMap<String, (ConversationId, Seq)>,
    devices: &mut FxHashMap<u32, u64>,
    event: &Event,
    key: &str,
) {
    let id = &event.conversation;
    let breach = |law, what: String| world.record.breach(law, what, &[key], Some((id, event.seq)));
    if let Some((other, seq)) = stored_at.insert(key.to_owned(), (id.clone(), event.seq)) {
        breach(Law::Doubled, format!("{key} is in the log as {other} {} and as {id} {}", seq.0, event.seq.0));
    }
    let sent = world.record.lock().sends.get(key).cloned();
    let Some(sent) = sent else {
        breach(Law::WrongAnswer, format!("no client sent {key} in {id}"));
        return;
    };
    let same_content = match &event.body {
        EventBody::Message { deleted: true, .. } => true,
        EventBody::Message { text: Some(text), .. } => hash_of(text.as_str()) == sent.text,
        _ => false,
    };
    if sent.from != event.from || sent.conversation != *id || !same_content {
        breach(Law::Mismatch, format!("{key} differs from what was sent: {event:?}"));
    }
    // There are no exceptions to the order, because the devices and the SDK number their writes.
    let before = devices.insert(sent.device, sent.number).unwrap_or_default();
    if before > sent.number {
        breach(Law::OutOfOrder, format!("{key} is stored after message {before} of its device in {id}"));
    }
}

/// Checks that every acknowledged command other than `send` is in the log.
fn check_acked_commands(world: &World, room: &Room, events: &[Event]) {
    let commands: Vec<AckedCommand> = {
        let inner = world.record.lock();
        inner.acked_commands.iter().filter(|command| command.conversation == room.id).cloned().collect()
    };
    for command in commands {
        let index = usize::try_from(command.seq.0).unwrap_or(0).wrapping_sub(1);
        let stored = events
            .get(index)
            .is_some_and(|e| e.body.kind().as_str() == command.kind && e.from == command.from);
        if !stored {
            let (kind, from, seq) = (command.kind, &command.from, command.seq);
            let what = format!("a {kind} of {from} was acknowledged as {} {}", room.id, seq.0);
            world.record.breach(Law::Lost, what, &[], Some((&room.id, seq)));
        }
    }
}

/// Checks that every acknowledged message is in the log under the seq that was acknowledged.
fn check_acknowledged(world: &World, stored_at: &FxHashMap<String, (ConversationId, Seq)>) {
    let acked: Vec<_> = {
        let inner = world.record.lock();
        let acked =
            inner.sends.iter().filter_map(|(key, sent)| Some((key, &sent.conversation, sent.acked?.0)));
        let wrong = acked.filter(|(key, id, seq)| stored_at.get(*key) != Some(&((*id).clone(), *seq)));
        wrong.map(|(key, id, seq)| (key.clone(), id.clone(), seq)).collect()
    };
    for (key, id, seq) in acked {
        let what = match stored_at.get(&key) {
            Some((other, stored)) => {
                format!("{key} was acknowledged as {id} {}, but is {other} {}", seq.0, stored.0)
            }
            None => format!("{key} was acknowledged as {id} {}, but is not in any log", seq.0),
        };
        world.record.breach(Law::Lost, what, &[&key], Some((&id, seq)));
    }
}

fn check_history(world: &World, room: &Room, folded: &[Message], shown: &[Message]) {
    let differs = folded.iter().zip(shown).find(|(a, b)| a != b);
    if let Some((a, b)) = differs {
        let what = format!("history is not the fold of the log: {b:?} in place of {a:?}");
        world.record.breach(Law::Mismatch, what, &[], Some((&room.id, a.seq)));
    } else if folded.len() != shown.len() {
        let what =
            format!("history of {} has {} messages, the log has {}", room.id, shown.len(), folded.len());
        world.record.breach(Law::Mismatch, what, &[], None);
    }
}

/// Checks that every device has received everything that its user may see, and nothing more.
fn check_final_states(world: &World, logs: &Logs, states: &[FinalState]) {
    for state in states {
        for (id, cursor, _) in &state.cursors {
            let Some(head) = logs.heads.get(id) else { continue };
            let left = logs.left.get(&(state.user.clone(), id.clone()));
            let may = left.unwrap_or(head);
            let law = match cursor.cmp(may) {
                std::cmp::Ordering::Less => Law::Stuck,
                std::cmp::Ordering::Equal => continue,
                std::cmp::Ordering::Greater => Law::Forbidden,
            };
            let what = format!("{} has {id} up to {}, and may have it up to {}", state.name, cursor.0, may.0);
            world.record.breach(law, what, &[], Some((id, *may)));
        }
        for (id, before) in &state.first_received_after {
            if !logs.leaves.contains(&(state.user.clone(), id.clone(), *before)) {
                let what = format!(
                    "{} got {id} {} as its first event, which neither adds the user nor follows their leaving",
                    state.name,
                    before.0 + 1
                );
                world.record.breach(Law::SilentGap, what, &[], Some((id, Seq(before.0 + 1))));
            }
        }
    }
}

/// Compares counts and cursors in the summaries with the log, and checks that no cursor went back.
async fn check_summaries(world: &World, logs: &Logs) -> anyhow::Result<()> {
    for (n, user) in world.users.iter().chain(&world.sdk_users).enumerate() {
        let (mut client, _) = Client::connect(world.direct_url(n), hello(user)).await?;
        let OkBody::Conversations { conversations, .. } =
            client.call(Conversations { before: None, limit: Some(PAGE_SIZE) }).await?
        else {
            bail!("the answer is no list of conversations")
        };
        client.close().await;
        let listed: HashSet<_> = conversations.iter().map(|summary| summary.conversation.clone()).collect();
        let members = logs.members.iter().filter(|(member, _)| member == user);
        let member_of: HashSet<_> = members.map(|(_, id)| id.clone()).collect();
        for id in listed.symmetric_difference(&member_of) {
            let what = format!(
                "the list of {user} has {id}: {}; the user is a member by the log: {}",
                listed.contains(id),
                member_of.contains(id)
            );
            world.record.breach(Law::Mismatch, what, &[], None);
        }
        for summary in &conversations {
            check_summary(world, logs, user, summary);
        }
    }
    Ok(())
}

fn check_summary(world: &World, logs: &Logs, user: &UserId, summary: &Summary) {
    let id = &summary.conversation;
    let Some(messages) = logs.messages.get(id) else { return };
    let unread = messages.iter().filter(|(seq, _, from)| *seq > summary.read && from != user).count() as u64;
    let head = logs.heads.get(id).copied().unwrap_or_default();
    let reported = world.record.lock().reads.get(&(user.clone(), id.clone())).copied().unwrap_or_default();
    let last = messages.last().map(|(seq, ..)| *seq);
    if summary.unread != unread || summary.head != head || summary.last.as_ref().map(|last| last.seq) != last
    {
        let what = format!(
            "{user} has the summary {summary:?}; the log has {unread} unread, the head {}, last {last:?}",
            head.0
        );
        world.record.breach(Law::Mismatch, what, &[], Some((id, head)));
    }
    if summary.read < reported || summary.received < summary.read {
        let what = format!("{user} had read {id} up to {}, and now has {summary:?}", reported.0);
        world.record.breach(Law::WentBack, what, &[], Some((id, reported)));
    }
}

/// Checks that each list that the SDK shows is the end of the log, without gaps and duplicates.
pub(crate) fn check_shown_messages(world: &World, logs: &Logs, screens: &ShownMessages) {
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
            world.record.breach(Law::Mismatch, what, &[], None);
        }
    }
}
