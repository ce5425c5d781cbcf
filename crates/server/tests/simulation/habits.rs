//! What people do with their devices.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::device::{Asked, Device, Message, Session};

/// Messages that a device wants to say at once.
const UNSAID: usize = 12;

impl Device {
    /// Does something.
    pub(crate) fn acts(&mut self, session: &mut Session) {
        if session.over {
            return;
        }
        for _ in 0..self.chance.one_of(&[1, 1, 1, 2, 5]) {
            match self.chance.below(24) {
                0..9 => self.writes(),
                9..13 => self.amends(session),
                13..16 => self.moves_cursor(session),
                16..18 => self.reads(session),
                18..21 => self.governs(session),
                21 => self.signals(session),
                22 if self.chance.once_in(2) => self.watches(session),
                22 => session.reads_from = Instant::now() + self.chance.millis(1, 3_000),
                _ if self.chance.once_in(3) => {
                    self.note(format_args!("hangs up"));
                    session.over = true;
                    session.rude = self.chance.once_in(2);
                    return;
                }
                _ => {}
            }
        }
    }

    fn room(&self) -> &'static str {
        self.chance.one_of(&self.world.rooms)
    }

    fn person(&self) -> &'static str {
        self.chance.one_of(&self.world.users)
    }

    /// A conversation that the device knows, if there is one, and how far it has it.
    fn place(&self) -> Option<(String, u64)> {
        let (name, place) = self.places.iter().nth(self.chance.below(self.places.len()))?;
        Some((name.clone(), place.cursor))
    }

    fn writes(&mut self) {
        if self.unsaid.len() >= UNSAID {
            return;
        }
        let to = if self.chance.once_in(3) { format!("@{}", self.person()) } else { self.room().to_owned() };
        let mut text = format!("{} says {}", self.name, self.number);
        for _ in 0..self.chance.one_of(&[0, 0, 0, 5, 60]) {
            text.push_str(" and so on");
        }
        self.number += 1;
        let key = format!("{}-{}", self.name, self.number);
        let mut command = json!({"type": "send", "to": to, "key": key, "text": text});
        if self.chance.once_in(4) {
            command["data"] = json!({"n": self.number});
        }
        self.unsaid.push_back(Message::new(key, command));
    }

    fn amends(&mut self, session: &mut Session) {
        let Some((name, cursor)) = self.place() else { return };
        let target = self.chance.between(1, cursor.max(1));
        let command = match self.chance.below(4) {
            0 => {
                json!({"type": "edit", "conversation": name, "target": target, "text": format!("better {}", self.number)})
            }
            1 if self.chance.once_in(2) => json!({"type": "delete", "conversation": name, "target": target}),
            _ => {
                let emoji = self.chance.one_of(&["👍", "🎉"]);
                let on = !self.chance.once_in(4);
                json!({"type": "react", "conversation": name, "target": target, "emoji": emoji, "on": on})
            }
        };
        self.asks(session, command, Asked::Change { join: false });
    }

    fn moves_cursor(&mut self, session: &mut Session) {
        let Some((conversation, cursor)) = self.place() else { return };
        let upto = if self.chance.once_in(3) { self.chance.between(0, cursor) } else { cursor };
        let kind = self.chance.one_of(&["read", "received"]);
        let command = json!({"type": kind, "conversation": conversation, "upto": upto});
        self.asks(session, command, Asked::Cursor { conversation, upto });
    }

    fn reads(&mut self, session: &mut Session) {
        let Some((name, cursor)) = self.place() else { return };
        let some = self.chance.between(0, cursor);
        match self.chance.below(4) {
            0 => self.asks_log(session, &name, some),
            1 => {
                let before = self.chance.once_in(2).then_some(some.max(1));
                let mut command = json!({"type": "history", "conversation": name});
                if let Some(before) = before {
                    command["before"] = before.into();
                }
                let seen = self.world.truth().visible(self.user, &name).is_some();
                self.asks(session, command, Asked::History { before, seen, conversation: name });
            }
            2 => {
                let asked = Asked::Conversations { since: Some(Instant::now()), first: true };
                self.asks(session, json!({"type": "conversations"}), asked);
            }
            _ => {
                let command = json!({"type": "members", "conversation": name});
                self.asks(session, command, Asked::Other);
            }
        }
    }

    fn governs(&mut self, session: &mut Session) {
        let (room, person) = (self.room(), self.person());
        let (command, join): (Value, bool) = match self.chance.below(8) {
            0 | 1 => (json!({"type": "join", "conversation": room}), true),
            2 => (json!({"type": "leave", "conversation": room}), false),
            3 | 4 => (json!({"type": "invite", "conversation": room, "user": person}), false),
            5 if person != self.user => {
                (json!({"type": "remove", "conversation": room, "user": person}), false)
            }
            6 => {
                let role = self.chance.one_of(&["admin", "admin", "member", "reader"]);
                (json!({"type": "role", "conversation": room, "user": person, "role": role}), false)
            }
            _ => {
                let title = format!("Title {}", self.number);
                (json!({"type": "rename", "conversation": room, "title": title}), false)
            }
        };
        self.asks(session, command, Asked::Change { join });
    }

    fn signals(&mut self, session: &mut Session) {
        let command = match (self.chance.below(3), self.place()) {
            (0, Some((name, _))) => json!({"type": "typing", "conversation": name}),
            (1, _) => return self.watches(session),
            _ => json!({"type": "ping"}),
        };
        self.asks(session, command, Asked::Other);
        // An impatient one looks away.
        if self.chance.once_in(4) {
            session.reads_from = Instant::now() + Duration::from_millis(500);
        }
    }
}
