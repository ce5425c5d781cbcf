//! Checks each frame that a device receives, and applies it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Device, LawResult, LocalLog, PendingCommand, Received, Session};
use crate::truth::LawBroken;
use crate::wire;
use crate::world::Phase;

/// Close codes that the server may use in every run: normal, restart, try later, silent client, client too fast.
const ALLOWED_CLOSE_CODES: [u16; 5] = [1000, 1012, 1013, 4408, 4429];

/// The close code after a user's tokens were revoked.
const REVOKED_CODE: u16 = 4502;

impl Device {
    fn may_have_been_revoked(&self, session: &Session) -> bool {
        self.world
            .cluster
            .as_ref()
            .is_some_and(|cluster| cluster.may_have_been_revoked(self.user, session.since))
    }

    pub(super) fn report_violation(&self, what: &str) -> LawBroken {
        self.world.lock_model().report_violation(&self.name, what)
    }

    /// Checks and applies a frame. Returns whether the connection stays open.
    pub(super) fn receives(&mut self, session: &mut Session, received: Received) -> Result<bool, LawBroken> {
        match received {
            Received::Ping => session.queue_frame(&wire::pong()),
            Received::Frame(frame) => self.receives_frame(session, &frame)?,
            Received::End => {
                self.record_in_history(format_args!("the connection ends"));
                return Ok(false);
            }
            Received::Close(code) if ALLOWED_CLOSE_CODES.contains(&code) => {
                self.record_in_history(format_args!("is closed: {code}"));
                return Ok(false);
            }
            Received::Close(REVOKED_CODE) if self.may_have_been_revoked(session) => {
                self.record_in_history(format_args!("is logged out"));
                return Ok(false);
            }
            Received::Close(code) => return Err(self.report_violation(&format!("closed with {code}"))),
            Received::Invalid(what) => return Err(self.report_violation(&format!("receives {what}"))),
        }
        Ok(true)
    }

    fn receives_frame(&mut self, session: &mut Session, frame: &Value) -> LawResult {
        let kind = frame["type"].as_str().unwrap_or_default();
        if kind == "welcome" {
            return self.check_welcome(session, frame);
        }
        self.record_in_history(format_args!("< {frame}"));
        match kind {
            "ok" | "error" | "pong" => self.handle_answer(session, frame),
            "gap" => self.receives_gap(session, frame),
            "bye" => Ok(()),
            "presence" => self.receives_presence(session, frame),
            "typing" | "read" | "received" => self.receives_signal(session, frame, kind),
            _ => self.receives_event(session, frame),
        }
    }

    fn check_welcome(&mut self, session: &mut Session, frame: &Value) -> LawResult {
        let all = frame["conversations"].as_array().cloned().unwrap_or_default();
        let more = frame["more"] == true;
        self.record_in_history(format_args!("< welcome {}", Value::from(all.clone())));
        session.welcome = true;
        session.welcomed = Instant::now();
        self.world.is_connected(&self.name, Some(self.user));
        // The unsent messages were sent on an earlier connection, so their command ids are no longer valid.
        for message in &mut self.unsent {
            message.sent_as_command = None;
            message.number = None;
        }
        let since = (!more).then_some(session.since);
        self.world.lock_model().on_summaries(&self.name, self.user, &all, since)?;
        for summary in &all {
            let (name, head) = conversation_and_number(summary, "head");
            session.next_expected.entry(name.clone()).or_insert(head + 1);
            let place = self.local_logs.entry(name).or_insert_with(|| LocalLog::at(head));
            place.head = place.head.max(head);
        }
        Ok(())
    }

    /// Checks and applies an event, whether it arrives live or in a page of the log.
    fn receives_event(&mut self, session: &mut Session, event: &Value) -> LawResult {
        let (name, seq) = conversation_and_number(event, "seq");
        let mut truth = self.world.lock_model();
        truth.on_received(&self.name, self.user, event, None)?;
        truth.counts.delivered += 1;
        drop(truth);
        if let Some(next) = session.next_expected.get(&name).copied() {
            if seq < next {
                return Err(self.report_violation(&format!("{name} {seq} comes again, after {}", next - 1)));
            }
            if let Some(missing) = (next..seq).find(|missing| !session.may_be_missing(&name, *missing)) {
                return Err(self.report_violation(&format!("{name} {missing} is missing before {seq}")));
            }
        }
        if session.own_events.contains(&(name.clone(), seq)) {
            return Err(
                self.report_violation(&format!("{name} {seq} is an own event that `ok` has acknowledged"))
            );
        }
        session.next_expected.insert(name.clone(), seq + 1);
        Self::record_leave(session, &name, event);
        let me = self.user;
        let about_me = event["user"] == *me;
        match event["type"].as_str().unwrap_or_default() {
            "leave" if event["from"] == *me => drop(session.left_at.insert(name.clone(), seq)),
            "remove" if about_me => drop(session.left_at.insert(name.clone(), seq)),
            "join" if event["from"] == *me => drop(session.left_at.remove(&name)),
            "invite" if about_me => drop(session.left_at.remove(&name)),
            _ => {}
        }
        self.local_logs.entry(name).or_insert_with(|| LocalLog::at(seq - 1)).record_received(seq);
        Ok(())
    }

    fn receives_gap(&mut self, session: &mut Session, gap: &Value) -> LawResult {
        let (name, head) = conversation_and_number(gap, "head");
        let after = gap["after"].as_u64().unwrap_or_default();
        self.world.lock_model().counts.gaps += 1;
        let visible = self.world.lock_model().visible_head(self.user, &name);
        if after >= head || visible.is_none_or(|visible| head > visible) {
            return Err(
                self.report_violation(&format!("a gap up to what may not be seen: {gap}, {visible:?}"))
            );
        }
        session.gaps.entry(name.clone()).or_default().push((after, head));
        let place = self.local_logs.entry(name).or_insert_with(|| LocalLog::at(after));
        place.head = place.head.max(head);
        Ok(())
    }

    fn receives_signal(&mut self, session: &mut Session, signal: &Value, kind: &str) -> LawResult {
        let (name, upto) = conversation_and_number(signal, "upto");
        let user = signal["user"].as_str().unwrap_or_default().to_owned();
        let truth = self.world.lock_model();
        let visible = truth.visible_head(self.user, &name);
        let gone =
            session.left_at.get(&name).is_some_and(|left| !truth.rejoined_after(self.user, &name, *left));
        drop(truth);
        if gone || visible.is_none() {
            return Err(
                self.report_violation(&format!("a signal of a conversation that one is not in: {signal}"))
            );
        }
        if kind != "typing" {
            let before = session.cursors.insert((name, user, kind == "read"), upto);
            // In a cluster, signals about a cursor come from different nodes and may arrive in any order.
            if before.is_some_and(|before| before >= upto) && self.world.cluster.is_none() {
                return Err(self.report_violation(&format!("the cursor was {before:?}: {signal}")));
            }
        }
        Ok(())
    }

    fn handle_answer(&mut self, session: &mut Session, answer: &Value) -> LawResult {
        let asked = answer["id"].as_u64().map(|id| (id, session.pending.remove(&id)));
        let (id, asked) = match asked {
            Some((id, Some(asked))) => (id, asked),
            Some((id, None)) => {
                return Err(self.report_violation(&format!("nothing was asked as {id}: {answer}")));
            }
            // An error without a conversation is about `hello` and is allowed; one about a cursor is not, because all cursors are
            // valid.
            None if answer["type"] == "error" && answer.get("conversation").is_none() => return Ok(()),
            None => return Err(self.report_violation(&format!("a cursor was good: {answer}"))),
        };
        if answer["type"] == "error" {
            return self.handle_refusal(session, id, &asked, answer);
        }
        match asked {
            PendingCommand::Message { key, to, .. } => {
                let key = Some(key);
                self.handle_acknowledgement(session, id, key.as_deref(), false, answer)?;
                let _ = to;
            }
            PendingCommand::Change { join } => {
                self.handle_acknowledgement(session, id, None, join, answer)?;
            }
            PendingCommand::Cursor { conversation, upto } => {
                let (name, now) = conversation_and_number(answer, "upto");
                if name != conversation || now < upto {
                    return Err(
                        self.report_violation(&format!("asked for {upto} in {conversation}: {answer}"))
                    );
                }
            }
            PendingCommand::Log { conversation, after, .. } => {
                self.handle_log_page(&conversation, after, answer)?;
            }
            PendingCommand::History { before, conversation, .. } => {
                self.world.lock_model().on_history_page(&self.name, self.user, before, answer)?;
                self.requests_previous_page(session, &conversation, answer);
            }
            PendingCommand::Conversations { since, first } => {
                let all = answer["conversations"].as_array().cloned().unwrap_or_default();
                let whole = since.filter(|_| first && answer["more"] == false);
                self.world.lock_model().on_summaries(&self.name, self.user, &all, whole)?;
                for summary in &all {
                    let (name, head) = conversation_and_number(summary, "head");
                    self.local_logs.entry(name).or_insert_with(|| LocalLog::at(head));
                }
                self.has_all_conversations |= answer["more"] == false && self.world.is_in_phase(Phase::Audit);
                if let Some(last) = all.last().filter(|_| answer["more"] == true) {
                    let command = json!({"type": "conversations", "before": last["conversation"]});
                    self.send_command(
                        session,
                        command,
                        PendingCommand::Conversations { since: None, first: false },
                    );
                }
            }
            PendingCommand::Other => {}
        }
        Ok(())
    }

    /// In the final audit, requests the page of history before `page`.
    fn requests_previous_page(&mut self, session: &mut Session, name: &str, page: &Value) {
        let first = page["messages"].as_array().and_then(|messages| messages.first());
        let first = first.and_then(|message| message["seq"].as_u64());
        if page["more"] == true && self.world.is_in_phase(Phase::Audit) {
            let command = json!({"type": "history", "conversation": name, "before": first});
            let asked = PendingCommand::History { before: first, seen: true, conversation: name.to_owned() };
            self.send_command(session, command, asked);
        }
    }

    fn handle_log_page(&mut self, name: &str, after: u64, page: &Value) -> LawResult {
        self.world.lock_model().on_log_page(&self.name, self.user, after, page)?;
        let place = self.local_logs.entry(name.to_owned()).or_default();
        for event in page["events"].as_array().into_iter().flatten() {
            place.record_received(event["seq"].as_u64().unwrap_or_default());
        }
        place.head = place.head.max(page["head"].as_u64().unwrap_or_default());
        Ok(())
    }

    /// Checks and applies the `ok` for a write.
    fn handle_acknowledgement(
        &mut self,
        session: &mut Session,
        id: u64,
        key: Option<&str>,
        join: bool,
        ok: &Value,
    ) -> LawResult {
        self.world.lock_model().on_acknowledged(&self.name, self.user, key, ok)?;
        self.unsent.retain(|message| Some(message.key.as_str()) != key);
        let (name, seq) = conversation_and_number(ok, "seq");
        let number = session.numbers.as_ref().and_then(|numbers| numbers.number_of(id)).unwrap_or(id);
        if let Some(Err(what)) = session.numbers.as_mut().map(|numbers| numbers.record_stored(id)) {
            return Err(self.report_violation(&what));
        }
        if ok["duplicate"] != true {
            if session.next_expected.get(&name).is_some_and(|next| seq < *next) {
                return Err(self.report_violation(&format!("{name} {seq} came as an event, and as ok")));
            }
            session.own_events.insert((name.clone(), seq));
            if key.is_some()
                && let Some((before, last)) = session.last_order.insert(name.clone(), (number, seq))
                && ((before < number) != (last < seq))
            {
                return Err(
                    self.report_violation(&format!("write {before} was stored as {last}, {number} as {seq}"))
                );
            }
            if join {
                session.left_at.remove(&name);
            }
        }
        if let Some(place) = self.local_logs.get_mut(&name) {
            place.record_received(seq);
        } else if ok["duplicate"] != true {
            self.local_logs.insert(name.clone(), LocalLog::at(seq - 1));
            self.local_logs.entry(name).or_default().record_received(seq);
        }
        Ok(())
    }

    fn handle_refusal(
        &mut self,
        session: &mut Session,
        id: u64,
        asked: &PendingCommand,
        error: &Value,
    ) -> LawResult {
        let code = error["code"].as_str().unwrap_or_default();
        let later = matches!(code, "unavailable" | "rate_limited");
        let fits = match asked {
            PendingCommand::Message { .. } | PendingCommand::Cursor { .. } => {
                later || code == "not_found" || code == "forbidden"
            }
            PendingCommand::Change { .. } => {
                later || matches!(code, "not_found" | "forbidden" | "too_large" | "bad_field")
            }
            PendingCommand::Log { seen, .. } | PendingCommand::History { seen, .. } => {
                later || (code == "not_found" && !seen)
            }
            PendingCommand::Conversations { .. } => later || code == "not_found",
            PendingCommand::Other => later || matches!(code, "not_found" | "forbidden"),
        };
        if !fits || later != (error["retryable"] == true) {
            return Err(self.report_violation(&format!("{asked:?} is refused: {error}")));
        }
        let wait = Duration::from_millis(error["retry_after"].as_u64().unwrap_or(100));
        if later {
            session.no_answer_until = session.no_answer_until.max(Instant::now() + wait);
        }
        if let Some(numbers) = &mut session.numbers {
            match (later, asked) {
                (true, asked) => {
                    numbers.record_refused_for_now(id, matches!(asked, PendingCommand::Message { .. }));
                }
                (false, _) => numbers.record_refused(id),
            }
        }
        if let PendingCommand::Message { key, at, .. } = asked {
            if later {
                let message = self.unsent.iter_mut().find(|message| message.sent_as_command == Some(id));
                if let Some(message) = message {
                    message.sent_as_command = None;
                    message.not_before = Instant::now() + wait;
                }
            } else {
                self.world.lock_model().on_refused(&self.name, self.user, key, *at)?;
                self.unsent.retain(|message| message.key != *key);
            }
        }
        Ok(())
    }
}

/// The conversation of a frame, and the value of its numeric field `number`.
fn conversation_and_number(frame: &Value, number: &str) -> (String, u64) {
    let name = frame["conversation"].as_str().unwrap_or_default();
    (name.to_owned(), frame[number].as_u64().unwrap_or_default())
}
