//! The random actions of a device.

use std::time::Duration;

use switchboard_protocol::{
    Command, ConversationId, Delete, Edit, Emoji, History, Invite, Join, Key, Leave, Members, React, Read,
    Received, Remove, Send, Seq, Sync, Target, Text, Typing,
};
use tokio::time::{Instant, sleep};

use super::{Connection, Device, Disconnect, Outgoing, PendingRequest};
use crate::record::{AttemptedSend, hash_of};
use crate::world::{Phase, Room};

/// The most messages that a device writes in one action.
const MAX_MESSAGES_PER_BURST: usize = 8;

/// A device with this many unacknowledged messages writes no more.
const MAX_UNACKED_MESSAGES: usize = 200;

/// The longest padding of a message's text, in bytes.
const MAX_PADDING_BYTES: u64 = 300;

const EMOJIS: [&str; 3] = ["👍", "🎉", "eyes"];

/// The text of the message with this key. The key determines the text, so that a retry has the same one.
pub(super) fn text_of(key: &str) -> String {
    let length = usize::try_from(hash_of(key) % MAX_PADDING_BYTES).unwrap_or(0);
    format!("{key} {}", "x".repeat(length))
}

/// The command that sends the message with this key.
pub(super) fn message(key: &str, conversation: &ConversationId) -> Send {
    send_command(key, conversation, &text_of(key))
}

fn send_command(key: &str, conversation: &ConversationId, text: &str) -> Send {
    Send {
        to: Target::from(conversation.clone()),
        text: Text::parse(text).ok(),
        data: None,
        key: Key::parse(key).ok(),
        reply_to: None,
    }
}

impl Device {
    /// A random time until the next action, chosen so that all devices together reach the rate.
    pub(super) fn time_until_next_action(&mut self) -> Duration {
        let devices = self.world.users.len() as f64 * 2.0;
        // 60% of the actions are sends, with (MAX_BURST + 1) / 2 messages on average.
        let mean = devices * (MAX_MESSAGES_PER_BURST as f64 + 1.0) / 2.0 * 0.6 / self.world.rate;
        // The distribution is exponential. A pause lasts at most a second, because the device must also send pings.
        Duration::from_secs_f64((-self.rng.f64().max(1e-9).ln() * mean).min(1.0))
    }

    /// Performs one random action.
    pub(super) async fn random_action(&mut self, connection: &mut Connection) -> Result<(), Disconnect> {
        let measuring = self.world.phase() == Phase::Measuring;
        match self.rng.u32(0..1000) {
            // While delays are measured, the device neither disconnects nor stops reading.
            900..925 if measuring => {}
            0..600 if self.outbox.len() < MAX_UNACKED_MESSAGES => {
                self.queue_random_messages();
                self.flush(connection).await?;
            }
            600..700 => self.move_cursor(connection).await?,
            700..800 => self.change_own_message(connection).await?,
            800..830 => self.retry_acked_message(connection).await?,
            830..850 => self.probe_hidden_conversation(connection).await?,
            850..860 => self.change_membership(connection).await?,
            860..900 => {
                if let Some(room) = self.random_room() {
                    self.submit(connection, Typing { conversation: room.id.into() }, PendingRequest::Other)
                        .await?;
                }
            }
            900..905 => return Err("disconnects".to_owned()),
            905..910 => {
                // The device stays away, often so long that it misses more events than the server replays.
                self.offline = Duration::from_millis(self.rng.u64(2_000..20_000));
                return Err("disconnects for long".to_owned());
            }
            910..925 => {
                // The device stops reading for a while, as a slow consumer does.
                let stalled = Duration::from_millis(self.rng.u64(200..4_000));
                sleep(stalled).await;
                connection.reading_since = Instant::now();
            }
            925..940 => {
                if let Some(room) = self.random_room() {
                    let command =
                        Sync { conversation: room.id.clone().into(), after: Seq(0), limit: Some(5) };
                    self.submit(connection, command, PendingRequest::Other).await?;
                    let command =
                        History { conversation: room.id.into(), before: None, around: None, limit: Some(5) };
                    self.submit(connection, command, PendingRequest::Other).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A random conversation of which the user is a member.
    fn random_room(&mut self) -> Option<Room> {
        // The first room has all users, so its messages cost as much as those of all other rooms together; it is chosen rarely.
        let all: Vec<&Room> = self.world.rooms_of(&self.user).collect();
        let skip = usize::from(self.rng.u32(..10) > 0 && all.len() > 1);
        let room = all.get(self.rng.usize(skip..all.len().max(skip + 1)))?;
        let out = self.progress.get(&room.id).is_some_and(|progress| progress.left_with.is_some());
        (!out).then(|| (*room).clone())
    }

    fn queue_random_messages(&mut self) {
        let Some(room) = self.random_room() else { return };
        for _ in 0..self.rng.usize(1..=MAX_MESSAGES_PER_BURST) {
            self.next_message_number += 1;
            let key = format!("{}.{}", self.name, self.next_message_number);
            self.world.record.record_send(
                &key,
                AttemptedSend {
                    conversation: room.id.clone(),
                    from: self.user.clone(),
                    device: self.id,
                    number: self.next_message_number,
                    text: hash_of(text_of(&key).as_str()),
                    acked: None,
                },
            );
            self.outbox.push_back(Outgoing {
                key,
                conversation: room.id.clone(),
                in_flight: false,
                in_flight_id: None,
            });
        }
    }

    async fn move_cursor(&mut self, connection: &mut Connection) -> Result<(), Disconnect> {
        let Some(room) = self.random_room() else { return Ok(()) };
        let Some(progress) = self.progress.get(&room.id) else { return Ok(()) };
        let upto = Seq(self.rng.u64(0..=progress.cursor.0));
        let conversation = Target::from(room.id.clone());
        if self.rng.bool() {
            self.submit(connection, Read { conversation, upto }, PendingRequest::Read(room.id)).await
        } else {
            self.submit(connection, Received { conversation, upto }, PendingRequest::Other).await
        }
    }

    /// Edits or deletes one of the device's own messages, or reacts to it.
    async fn change_own_message(&mut self, connection: &mut Connection) -> Result<(), Disconnect> {
        if self.stored.is_empty() {
            return Ok(());
        }
        let index = self.rng.usize(..self.stored.len());
        let (id, target) = (self.stored[index].conversation.clone(), self.stored[index].seq);
        let conversation = Target::from(id.clone());
        let (command, kind): (Command, _) = match self.rng.u32(..4) {
            0 => {
                self.stored.swap_remove(index);
                (Delete { conversation, target }.into(), "delete")
            }
            1 => {
                let text = format!("edited {}", self.rng.u64(..));
                (Edit { conversation, target, text: Text::parse(&text).ok(), data: None }.into(), "edit")
            }
            _ => {
                let emoji = EMOJIS[self.rng.usize(..EMOJIS.len())];
                let Ok(emoji) = Emoji::parse(emoji) else { return Ok(()) };
                (React { conversation, target, emoji, on: self.rng.u32(..3) > 0 }.into(), "react")
            }
        };
        self.submit(connection, command, PendingRequest::Write(id, kind)).await
    }

    /// Retries an acknowledged message, or sends another text with its key.
    async fn retry_acked_message(&mut self, connection: &mut Connection) -> Result<(), Disconnect> {
        if self.stored.is_empty() {
            return Ok(());
        }
        let stored = &self.stored[self.rng.usize(..self.stored.len())];
        let (key, conversation) = (stored.key.clone(), stored.conversation.clone());
        if self.rng.u32(..5) == 0 {
            let other = send_command(&key, &conversation, &format!("not {key}"));
            self.submit(connection, other, PendingRequest::Conflict(key)).await
        } else {
            self.submit(connection, message(&key, &conversation), PendingRequest::Retry(key)).await
        }
    }

    /// Sends a command about a conversation that the user may not see.
    async fn probe_hidden_conversation(&mut self, connection: &mut Connection) -> Result<(), Disconnect> {
        let world = self.world.clone();
        let closed: Vec<&Room> =
            world.rooms.iter().filter(|room| !room.is_public && !room.members.contains(&self.user)).collect();
        if closed.is_empty() {
            return Ok(());
        }
        let id = closed[self.rng.usize(..closed.len())].id.clone();
        let conversation = Target::from(id.clone());
        let command: Command = match self.rng.u32(..5) {
            0 => Sync { conversation, after: Seq(0), limit: None }.into(),
            1 => History { conversation, before: None, around: None, limit: None }.into(),
            2 => Members { conversation, after: None, limit: None }.into(),
            3 => Read { conversation, upto: Seq(1) }.into(),
            _ => Send { key: None, ..send_command("x", &id, "let me in") }.into(),
        };
        self.world.record.lock().counts.probes += 1;
        self.submit(connection, command, PendingRequest::Probe(id)).await
    }

    /// Joins or leaves an open room; its admin invites or removes a member instead.
    async fn change_membership(&mut self, connection: &mut Connection) -> Result<(), Disconnect> {
        let open: Vec<&Room> = self.world.rooms.iter().filter(|room| room.is_public).collect();
        let room = open[self.rng.usize(..open.len())].clone();
        let conversation = Target::from(room.id.clone());
        let is_in = self.progress.get(&room.id).is_some_and(|progress| progress.left_with.is_none());
        let (command, kind): (Command, _) = if room.members[0] == self.user {
            let user = room.members[self.rng.usize(1..room.members.len())].clone();
            if self.rng.bool() {
                self.world.record_join_attempt(&user, &room.id);
                (Invite { conversation, user, role: Default::default() }.into(), "invite")
            } else {
                (Remove { conversation, user, ban: false, until: None }.into(), "remove")
            }
        } else if is_in {
            (Leave { conversation }.into(), "leave")
        } else {
            self.world.record_join_attempt(&self.user, &room.id);
            (Join { conversation }.into(), "join")
        };
        self.submit(connection, command, PendingRequest::Write(room.id, kind)).await
    }
}
