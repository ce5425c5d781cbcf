//! What a device does by itself.

use std::time::Duration;

use switchboard_protocol::{
    Command, ConversationId, Delete, Edit, Emoji, History, Invite, Join, Key, Leave, Members, React, Read,
    Received, Remove, Send, Seq, Sync, Target, Text, Typing,
};
use tokio::time::{Instant, sleep};

use super::{Asked, Device, End, Link, Outgoing};
use crate::record::{Sent, digest};
use crate::world::{Phase, Room};

/// Messages that are said at once, at most.
const BURST: usize = 8;

/// Messages that may wait to be acknowledged; beyond, the person waits.
const PATIENT: usize = 200;

/// Bytes of a message's padding, at most.
const PADDING: u64 = 300;

const EMOJIS: [&str; 3] = ["👍", "🎉", "eyes"];

/// The text of a message, which its key says.
pub(super) fn text_of(key: &str) -> String {
    let length = usize::try_from(digest(key) % PADDING).unwrap_or(0);
    format!("{key} {}", "x".repeat(length))
}

/// The command that sends it.
pub(super) fn message(key: &str, conversation: &ConversationId) -> Send {
    send(key, conversation, &text_of(key))
}

fn send(key: &str, conversation: &ConversationId, text: &str) -> Send {
    Send {
        to: Target::from(conversation.clone()),
        text: Text::parse(text).ok(),
        data: None,
        key: Key::parse(key).ok(),
        reply_to: None,
    }
}

impl Device {
    /// How long it does nothing, so that all together reach the rate.
    pub(super) fn pause(&mut self) -> Duration {
        let devices = self.world.users.len() as f64 * 2.0;
        // A little more than half of all steps send (BURST + 1) / 2 messages.
        let mean = devices * (BURST as f64 + 1.0) / 2.0 * 0.6 / self.world.rate;
        // Exponential, as people are; at most a second, so that there are always pings.
        Duration::from_secs_f64((-self.rng.f64().max(1e-9).ln() * mean).min(1.0))
    }

    /// One thing that a person or a program might do.
    pub(super) async fn act(&mut self, link: &mut Link) -> Result<(), End> {
        let fair = self.world.phase() == Phase::Fair;
        match self.rng.u32(0..1000) {
            // Where delays are measured, everybody stays and listens.
            900..925 if fair => {}
            0..600 if self.outbox.len() < PATIENT => {
                self.write();
                self.flush(link).await?;
            }
            600..700 => self.tell_read(link).await?,
            700..800 => self.change(link).await?,
            800..830 => self.repeat(link).await?,
            830..850 => self.probe(link).await?,
            850..860 => self.roam(link).await?,
            860..900 => {
                if let Some(room) = self.a_room() {
                    self.say(link, Typing { conversation: room.id.into() }, Asked::Other).await?;
                }
            }
            900..905 => return Err("goes away".to_owned()),
            905..910 => {
                // Long enough that a replay is too long, at times.
                self.away = Duration::from_millis(self.rng.u64(2_000..20_000));
                return Err("goes away for long".to_owned());
            }
            910..925 => {
                // Takes nothing for a while, and the server keeps what comes.
                let stalled = Duration::from_millis(self.rng.u64(200..4_000));
                sleep(stalled).await;
                link.attentive = Instant::now();
            }
            925..940 => {
                if let Some(room) = self.a_room() {
                    let command =
                        Sync { conversation: room.id.clone().into(), after: Seq(0), limit: Some(5) };
                    self.say(link, command, Asked::Other).await?;
                    let command = History { conversation: room.id.into(), before: None, limit: Some(5) };
                    self.say(link, command, Asked::Other).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// One of the conversations that the user is in.
    fn a_room(&mut self) -> Option<Room> {
        // Everybody's room costs as much as all others together, and gets its share of events accordingly.
        let all: Vec<&Room> = self.world.rooms_of(&self.user).collect();
        let skip = usize::from(self.rng.u32(..10) > 0 && all.len() > 1);
        let room = all.get(self.rng.usize(skip..all.len().max(skip + 1)))?;
        let out = self.places.get(&room.id).is_some_and(|place| place.left.is_some());
        (!out).then(|| (*room).clone())
    }

    fn write(&mut self) {
        let Some(room) = self.a_room() else { return };
        for _ in 0..self.rng.usize(1..=BURST) {
            self.number += 1;
            let key = format!("{}.{}", self.name, self.number);
            self.world.record.tried(
                &key,
                Sent {
                    conversation: room.id.clone(),
                    from: self.user.clone(),
                    device: self.id,
                    number: self.number,
                    text: digest(text_of(&key).as_str()),
                    acked: None,
                    refused: false,
                },
            );
            self.outbox.push_back(Outgoing { key, conversation: room.id.clone(), under_way: false });
        }
    }

    async fn tell_read(&mut self, link: &mut Link) -> Result<(), End> {
        let Some(room) = self.a_room() else { return Ok(()) };
        let Some(place) = self.places.get(&room.id) else { return Ok(()) };
        let upto = Seq(self.rng.u64(0..=place.cursor.0));
        let conversation = Target::from(room.id.clone());
        if self.rng.bool() {
            self.say(link, Read { conversation, upto }, Asked::Read(room.id)).await
        } else {
            self.say(link, Received { conversation, upto }, Asked::Other).await
        }
    }

    /// Edits, deletes or reacts.
    async fn change(&mut self, link: &mut Link) -> Result<(), End> {
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
        self.say(link, command, Asked::Write(id, kind)).await
    }

    /// Says something again that is stored.
    async fn repeat(&mut self, link: &mut Link) -> Result<(), End> {
        if self.stored.is_empty() {
            return Ok(());
        }
        let stored = &self.stored[self.rng.usize(..self.stored.len())];
        let (key, conversation) = (stored.key.clone(), stored.conversation.clone());
        if self.rng.u32(..5) == 0 {
            let other = send(&key, &conversation, &format!("not {key}"));
            self.say(link, other, Asked::Conflict(key)).await
        } else {
            self.say(link, message(&key, &conversation), Asked::Again(key)).await
        }
    }

    /// Looks where it may not.
    async fn probe(&mut self, link: &mut Link) -> Result<(), End> {
        let world = self.world.clone();
        let closed: Vec<&Room> =
            world.rooms.iter().filter(|room| !room.open && !room.members.contains(&self.user)).collect();
        if closed.is_empty() {
            return Ok(());
        }
        let id = closed[self.rng.usize(..closed.len())].id.clone();
        let conversation = Target::from(id.clone());
        let command: Command = match self.rng.u32(..5) {
            0 => Sync { conversation, after: Seq(0), limit: None }.into(),
            1 => History { conversation, before: None, limit: None }.into(),
            2 => Members { conversation, after: None, limit: None }.into(),
            3 => Read { conversation, upto: Seq(1) }.into(),
            _ => Send { key: None, ..send("x", &id, "let me in") }.into(),
        };
        self.world.record.lock().counts.probes += 1;
        self.say(link, command, Asked::Probe(id)).await
    }

    /// Comes into an open room, or leaves it, or, as its admin, brings somebody in or out.
    async fn roam(&mut self, link: &mut Link) -> Result<(), End> {
        let open: Vec<&Room> = self.world.rooms.iter().filter(|room| room.open).collect();
        let room = open[self.rng.usize(..open.len())].clone();
        let conversation = Target::from(room.id.clone());
        let is_in = self.places.get(&room.id).is_some_and(|place| place.left.is_none());
        let (command, kind): (Command, _) = if room.members[0] == self.user {
            let user = room.members[self.rng.usize(1..room.members.len())].clone();
            if self.rng.bool() {
                self.world.may_come(&user, &room.id);
                (Invite { conversation, user, role: Default::default() }.into(), "invite")
            } else {
                (Remove { conversation, user }.into(), "remove")
            }
        } else if is_in {
            (Leave { conversation }.into(), "leave")
        } else {
            self.world.may_come(&self.user, &room.id);
            (Join { conversation }.into(), "join")
        };
        self.say(link, command, Asked::Write(room.id, kind)).await
    }
}
