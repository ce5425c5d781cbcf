//! The workload: random commands of the users' devices.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::device::{Device, Message, PendingCommand, Session};

/// The most unsent messages that a device queues.
const MAX_UNSENT_MESSAGES: usize = 12;

impl Device {
    /// Sends random commands, stops reading for a while, or closes the connection, as the random numbers decide.
    pub(crate) fn random_actions(&mut self, session: &mut Session) {
        if session.is_closing {
            return;
        }
        for _ in 0..self.chance.random_choice(&[1, 1, 1, 2, 5]) {
            match self.chance.random_below(24) {
                0..9 => self.queue_message(),
                9..13 => self.change_message(session),
                13..16 => self.move_cursor(session),
                16..18 => self.read_page(session),
                18..21 => self.change_room(session),
                21 => self.send_signal(session),
                22 if self.chance.once_in(2) => self.watch_random_users(session),
                22 => session.reads_from = Instant::now() + self.chance.random_millis(1, 3_000),
                _ if self.chance.once_in(3) => {
                    self.record_in_history(format_args!("hangs up"));
                    session.is_closing = true;
                    session.closes_in_mid_frame = self.chance.once_in(2);
                    return;
                }
                _ => {}
            }
        }
    }

    fn room(&self) -> &'static str {
        self.chance.random_choice(&self.world.rooms)
    }

    fn user(&self) -> &'static str {
        self.chance.random_choice(&self.world.users)
    }

    /// A random conversation that the device knows, and the device's cursor there; `None` if it knows none.
    fn random_conversation(&self) -> Option<(String, u64)> {
        let (name, place) = self.local_logs.iter().nth(self.chance.random_below(self.local_logs.len()))?;
        Some((name.clone(), place.cursor))
    }

    fn queue_message(&mut self) {
        if self.unsent.len() >= MAX_UNSENT_MESSAGES {
            return;
        }
        let to = if self.chance.once_in(3) { format!("@{}", self.user()) } else { self.room().to_owned() };
        let mut text = format!("{} says {}", self.name, self.number);
        for _ in 0..self.chance.random_choice(&[0, 0, 0, 5, 60]) {
            text.push_str(" and so on");
        }
        self.number += 1;
        let key = format!("{}-{}", self.name, self.number);
        let mut command = json!({"type": "send", "to": to, "key": key, "text": text});
        if self.chance.once_in(4) {
            command["data"] = json!({"n": self.number});
        }
        self.unsent.push_back(Message::new(key, command));
    }

    fn change_message(&mut self, session: &mut Session) {
        let Some((name, cursor)) = self.random_conversation() else { return };
        let target = self.chance.random_between(1, cursor.max(1));
        let command = match self.chance.random_below(4) {
            0 => {
                json!({"type": "edit", "conversation": name, "target": target, "text": format!("better {}", self.number)})
            }
            1 if self.chance.once_in(2) => json!({"type": "delete", "conversation": name, "target": target}),
            _ => {
                let emoji = self.chance.random_choice(&["👍", "🎉"]);
                let on = !self.chance.once_in(4);
                json!({"type": "react", "conversation": name, "target": target, "emoji": emoji, "on": on})
            }
        };
        self.send_command(session, command, PendingCommand::Change { join: false });
    }

    fn move_cursor(&mut self, session: &mut Session) {
        let Some((conversation, cursor)) = self.random_conversation() else { return };
        let upto = if self.chance.once_in(3) { self.chance.random_between(0, cursor) } else { cursor };
        let kind = self.chance.random_choice(&["read", "received"]);
        let command = json!({"type": kind, "conversation": conversation, "upto": upto});
        self.send_command(session, command, PendingCommand::Cursor { conversation, upto });
    }

    fn read_page(&mut self, session: &mut Session) {
        let Some((name, cursor)) = self.random_conversation() else { return };
        let some = self.chance.random_between(0, cursor);
        match self.chance.random_below(4) {
            0 => self.request_log(session, &name, some),
            1 => {
                let before = self.chance.once_in(2).then_some(some.max(1));
                let mut command = json!({"type": "history", "conversation": name});
                if let Some(before) = before {
                    command["before"] = before.into();
                }
                let seen = self.world.lock_model().visible_head(self.user, &name).is_some();
                self.send_command(
                    session,
                    command,
                    PendingCommand::History { before, seen, conversation: name },
                );
            }
            2 => {
                let asked = PendingCommand::Conversations { since: Some(Instant::now()), first: true };
                self.send_command(session, json!({"type": "conversations"}), asked);
            }
            _ => {
                let command = json!({"type": "members", "conversation": name});
                self.send_command(session, command, PendingCommand::Other);
            }
        }
    }

    fn change_room(&mut self, session: &mut Session) {
        let (room, user) = (self.room(), self.user());
        let (command, join): (Value, bool) = match self.chance.random_below(8) {
            0 | 1 => (json!({"type": "join", "conversation": room}), true),
            2 => (json!({"type": "leave", "conversation": room}), false),
            3 | 4 => (json!({"type": "invite", "conversation": room, "user": user}), false),
            5 if user != self.user => (json!({"type": "remove", "conversation": room, "user": user}), false),
            6 => {
                let role = self.chance.random_choice(&["admin", "admin", "member", "reader"]);
                (json!({"type": "role", "conversation": room, "user": user, "role": role}), false)
            }
            _ => {
                let title = format!("Title {}", self.number);
                (json!({"type": "rename", "conversation": room, "title": title}), false)
            }
        };
        self.send_command(session, command, PendingCommand::Change { join });
    }

    fn send_signal(&mut self, session: &mut Session) {
        let command = match (self.chance.random_below(3), self.random_conversation()) {
            (0, Some((name, _))) => json!({"type": "typing", "conversation": name}),
            (1, _) => return self.watch_random_users(session),
            _ => json!({"type": "ping"}),
        };
        self.send_command(session, command, PendingCommand::Other);
        // Some devices stop reading for a while.
        if self.chance.once_in(4) {
            session.reads_from = Instant::now() + Duration::from_millis(500);
        }
    }
}
