//! Reports of users, and the decisions of moderators.

use std::time::Duration;

use serde_json::{Map, Value, json};
use switchboard_protocol::{
    ConversationId, Limits, Report, ReportAction, ReportId, ReportSnapshot, ReportState, Role, Seq, SetRole,
    Target, Timestamp, UserId,
};

use super::hold::Release;
use super::is_deleted;
use super::rows::Rows;
use super::{ChangeContext, ChangeResult, OperationError};
use crate::ban::{Ban, INSTALLATION, NewBan};
use crate::held::{HeldMessage, HeldState};
use crate::record::{Conversation, Membership, UserKey};
use crate::refusal::Refusal;
use crate::report::{
    CLAIM, DECIDE, Decision, Fields, INSERT_REPORT, INSERT_REPORTER, ModeratorRead, PURGE, ReportChange,
    ReportTarget, SELECT_EARLIER, SELECT_NEXT, SELECT_OWN, SELECT_REPORT, SELECT_UNDECIDED,
    state_from_number,
};
use crate::{Committed, access};

/// How long reports count against a reporter's rate, in milliseconds.
const HOUR_MS: i64 = 3_600_000;

/// What follows from a decision, once every check has passed.
enum Effect {
    Nothing,
    Delete(Conversation, Seq),
    Ban(NewBan),
    Silence(Conversation, Membership, Option<Timestamp>),
    Remove(Conversation, Membership),
    Release(Box<Release>),
}

impl<R: Rows> ChangeContext<'_, R> {
    /// Applies a change of reports.
    pub(super) fn change_reports(&mut self, change: &ReportChange) -> ChangeResult<R> {
        match change {
            ReportChange::Report(report) => self.report(report),
            ReportChange::Resolve(decision) => self.resolve(decision),
            ReportChange::NoteRead(read) => self.note_moderator_read(read),
            ReportChange::Purge(before) => self.purge_reports(*before),
        }
    }

    /// Stores a report. The first one of a target keeps what was reported; a reporter's second one changes nothing.
    fn report(&mut self, report: &Report) -> ChangeResult<R> {
        let (target, snapshot) = match (&report.conversation, report.target, &report.user) {
            (Some(conversation), Some(seq), _) => {
                self.check_reported_message(&conversation.resolve(self.actor), seq)?
            }
            (_, _, Some(user)) => self.check_reported_user(user)?,
            _ => return Err(Refusal::bad_field("target", "target: name the message").into()),
        };
        let ReportTarget { conversation, seq, user } = target;
        let place = [conversation.0.into(), seq.into(), user.0.into()];
        if let Some(reporter) = self.rows.user(self.actor)? {
            let [conversation, seq, user] = place.clone();
            let own = self.rows.report_rows(SELECT_OWN, &[reporter.0.into(), conversation, seq, user])?;
            if let Some(own) = own.first() {
                return Ok(Committed::Report(ReportId(own.number(0).unsigned_abs())));
            }
            self.check_report_rate(reporter)?;
        }
        let snapshot = snapshot.ok_or_else(Refusal::not_found)?;
        self.begin_effects()?;
        let reporter = self.user_or_new(self.actor)?;
        let at = self.committed_at.as_millis();
        let undecided = self.rows.report_rows(SELECT_UNDECIDED, &place)?;
        let id = match undecided.first() {
            Some(found) => found.number(0),
            None => self.do_add_report(target, &snapshot, report)?,
        };
        let (reason, text) = (report.reason.as_str(), report.text.as_deref());
        let values = [id.into(), reporter.0.into(), at.into(), Some(reason).into(), text.into()];
        self.rows.report_rows(INSERT_REPORTER, &values)?;
        Ok(Committed::Report(ReportId(id.unsigned_abs())))
    }

    fn do_add_report(
        &mut self,
        target: ReportTarget,
        snapshot: &str,
        report: &Report,
    ) -> Result<i64, OperationError<R::Error>> {
        let id = self.do_insert_report(target, snapshot)?;
        let mut fields = report_fields(id, target);
        fields.insert("reason".to_owned(), json!(report.reason));
        self.do_tell_feed("report.new", Some(target.user), Value::from(fields).to_string())?;
        Ok(id)
    }

    /// Adds an entry to the queue of reports.
    pub(super) fn do_insert_report(
        &mut self,
        target: ReportTarget,
        snapshot: &str,
    ) -> Result<i64, OperationError<R::Error>> {
        self.rows.lock_new_reports()?;
        let next = self.rows.report_rows(SELECT_NEXT, &[])?;
        let id = next.first().map_or(1, |row| row.number(0));
        let ReportTarget { conversation, seq, user } = target;
        let at = self.committed_at.as_millis();
        let values =
            [id.into(), conversation.0.into(), seq.into(), user.0.into(), at.into(), Some(snapshot).into()];
        self.rows.report_rows(INSERT_REPORT, &values)?;
        Ok(id)
    }

    /// Finds a message that the actor may report, and what it is now; `None` if it is deleted.
    fn check_reported_message(
        &mut self,
        name: &ConversationId,
        seq: Seq,
    ) -> Result<(ReportTarget, Option<String>), OperationError<R::Error>> {
        let place = self.find_actor_membership(name)?;
        let conversation = place.conversation;
        access::check_may_report(&conversation, place.membership.as_ref(), seq)?;
        let message = self.check_target(&conversation, seq)?;
        let is_there = !is_deleted(&message.body);
        let mut snapshot: ReportSnapshot = serde_json::from_str(&message.body).unwrap_or_default();
        if let Some(last) = self.rows.amendments(conversation.key, seq)?.last().copied()
            && let Some(edit) = self.rows.event(conversation.key, last)?
        {
            let edited: ReportSnapshot = serde_json::from_str(&edit.body).unwrap_or_default();
            (snapshot.text, snapshot.data) = (edited.text, edited.data);
        }
        snapshot.at = Some(message.at);
        let seq = i64::try_from(seq.0).unwrap_or(i64::MAX);
        let target = ReportTarget { conversation: conversation.key, seq, user: message.sender };
        Ok((target, is_there.then(|| encoded(&snapshot))))
    }

    /// Finds a user whom the actor may report, and what they show of themselves now.
    fn check_reported_user(
        &mut self,
        name: &UserId,
    ) -> Result<(ReportTarget, Option<String>), OperationError<R::Error>> {
        if name == self.actor {
            return Err(Refusal::bad_field("user", "user: name another user").into());
        }
        let shares = self.shares_a_conversation(name)?;
        access::check_may_report_user(self.permissions, shares)?;
        let user = self.rows.user(name)?.ok_or_else(Refusal::not_found)?;
        let profile = self.rows.profile(user)?.unwrap_or_default().visible_profile(name.clone());
        let avatar = profile.avatar.map(|avatar| avatar.as_str().to_owned());
        let snapshot =
            ReportSnapshot { name: profile.name, avatar, data: profile.data, ..ReportSnapshot::default() };
        let target = ReportTarget { conversation: INSTALLATION, seq: 0, user };
        Ok((target, Some(encoded(&snapshot))))
    }

    fn check_report_rate(&mut self, reporter: UserKey) -> Result<(), OperationError<R::Error>> {
        let now = self.committed_at.as_millis();
        let others = i64::from(Limits::REPORTS_PER_HOUR) - 1;
        let values = [reporter.0.into(), (now - HOUR_MS).into(), others.into()];
        let earlier = self.rows.report_rows(SELECT_EARLIER, &values)?;
        let Some(earlier) = earlier.first() else { return Ok(()) };
        let wait = (earlier.number(0) + HOUR_MS - now).max(1);
        Err(Refusal::rate_limited(wait.unsigned_abs()).into())
    }

    /// Claims or decides a report, with everything that the decision does.
    fn resolve(&mut self, decision: &Decision) -> ChangeResult<R> {
        let id = i64::try_from(decision.report.0).unwrap_or(i64::MAX);
        let found = self.rows.report_rows(SELECT_REPORT, &[id.into()])?;
        let found = found.first().ok_or_else(Refusal::not_found)?;
        let target = report_target(found);
        let state = state_from_number(found.number(3));
        let own = self.rows.user(self.actor)?.is_some_and(|user| user.0 == found.number(4));
        access::check_may_decide(state, found.text(5), own)?;
        let held = self.held_of_report(id)?;
        let conversation = self.check_named_target(decision, target, held.as_ref())?;
        let Some(action) = decision.action else {
            self.begin_effects()?;
            if state == ReportState::Open {
                self.do_claim(id, target)?;
            }
            return Ok(Committed::NotAnnounced);
        };
        access::check_decision_of(held.is_some(), action)?;
        let effect = match &held {
            Some(held) if action == ReportAction::Release => self.check_release_of(decision, held)?,
            _ => self.check_decision(decision, action, target, conversation)?,
        };
        self.begin_effects()?;
        let moderator = self.user_or_new(self.actor)?;
        let (now, note) = (self.committed_at.as_millis(), decision.note.as_deref());
        let values = [moderator.0.into(), now.into(), Some(action.as_str()).into(), note.into(), id.into()];
        self.rows.report_rows(DECIDE, &values)?;
        if let Some(held) = &held {
            let is_released = action == ReportAction::Release;
            let state = if is_released { HeldState::Released } else { HeldState::Rejected };
            self.do_end_hold(id, held, state)?;
        }
        let mut fields = report_fields(id, target);
        fields.insert("action".to_owned(), json!(action));
        self.do_tell_feed("report.resolved", Some(target.user), Value::from(fields.clone()).to_string())?;
        fields.extend(decision.note.as_ref().map(|note| ("note".to_owned(), json!(note))));
        self.do_tell_feed("audit.report", Some(target.user), Value::from(fields).to_string())?;
        self.do_decision(effect, moderator, (target.user, &decision.user))
    }

    fn do_claim(&mut self, id: i64, target: ReportTarget) -> Result<(), OperationError<R::Error>> {
        let moderator = self.user_or_new(self.actor)?;
        let now = self.committed_at.as_millis();
        self.rows.report_rows(CLAIM, &[moderator.0.into(), now.into(), id.into()])?;
        let mut fields = report_fields(id, target);
        fields.insert("action".to_owned(), json!("claim"));
        self.do_tell_feed("audit.report", Some(target.user), Value::from(fields).to_string())
    }

    /// Finds the conversation of a report by the names that were read before this transaction. They may have changed since.
    fn check_named_target(
        &mut self,
        decision: &Decision,
        target: ReportTarget,
        held: Option<&HeldMessage>,
    ) -> Result<Option<Conversation>, OperationError<R::Error>> {
        let user = self.rows.user(&decision.user)?;
        let conversation = match &decision.conversation {
            Some(name) => self.rows.conversation(name)?,
            None => None,
        };
        let is_named = match (held, &decision.conversation) {
            (Some(held), Some(name)) => self.goes_to(held, name)?,
            (Some(_), None) => false,
            (None, _) => conversation.as_ref().map_or(INSTALLATION, |found| found.key) == target.conversation,
        };
        if user != Some(target.user) || !is_named {
            return Err(Refusal::unavailable_for(Duration::ZERO).into());
        }
        Ok(conversation)
    }

    /// What the release of a held message does.
    fn check_release_of(
        &mut self,
        decision: &Decision,
        held: &HeldMessage,
    ) -> Result<Effect, OperationError<R::Error>> {
        let name = decision.conversation.clone().ok_or_else(Refusal::unavailable)?;
        let release = self.check_release((&decision.user, name), held)?;
        Ok(release.map_or(Effect::Nothing, |release| Effect::Release(Box::new(release))))
    }

    /// What a decision does; refuses one that is not possible.
    fn check_decision(
        &mut self,
        decision: &Decision,
        action: ReportAction,
        target: ReportTarget,
        conversation: Option<Conversation>,
    ) -> Result<Effect, OperationError<R::Error>> {
        let until = decision.until;
        if let Some(until) = until {
            access::check_until(until, self.committed_at)?;
        }
        match action {
            ReportAction::None | ReportAction::Release | ReportAction::Reject => return Ok(Effect::Nothing),
            ReportAction::Ban => {
                let ban = Ban { until, reason: decision.tell.clone(), shadow: false };
                return Ok(Effect::Ban(NewBan { ban, note: decision.note.clone() }));
            }
            ReportAction::Delete | ReportAction::Silence | ReportAction::Remove => {}
        }
        let conversation = conversation.ok_or_else(|| {
            Refusal::bad_field("action", "action: it concerns no conversation; `ban` the user, or do nothing")
        })?;
        // Of a deleted room nothing is left to act upon.
        if conversation.ended {
            return Ok(Effect::Nothing);
        }
        if action == ReportAction::Delete {
            let seq = Seq(target.seq.unsigned_abs());
            let message = self.rows.event(conversation.key, seq)?.ok_or_else(Refusal::not_found)?;
            let is_gone = is_deleted(&message.body);
            return Ok(if is_gone { Effect::Nothing } else { Effect::Delete(conversation, seq) });
        }
        access::check_room(&conversation.name)?;
        let member = self.rows.member(conversation.key, target.user)?.filter(|m| m.until.is_none());
        let Some(member) = member else { return Ok(Effect::Nothing) };
        let removes = action == ReportAction::Remove;
        if removes || until.is_none() {
            access::check_admin_remains(&conversation, &member, removes).map_err(|_| {
                let message = "the user is the room's only admin: make another member `admin` first";
                Refusal::forbidden(message)
            })?;
        }
        Ok(match removes {
            true => Effect::Remove(conversation, member),
            false => Effect::Silence(conversation, member, until),
        })
    }

    fn do_decision(
        &mut self,
        effect: Effect,
        moderator: UserKey,
        (user, name): (UserKey, &UserId),
    ) -> ChangeResult<R> {
        match effect {
            Effect::Nothing => Ok(Committed::NotAnnounced),
            Effect::Delete(conversation, target) => self.do_delete(conversation, moderator, target),
            Effect::Ban(new) => {
                self.do_set_ban(user, Some(new))?;
                Ok(Committed::NotAnnounced)
            }
            Effect::Silence(room, member, until) => {
                let set = SetRole {
                    conversation: Target::from(room.name.clone()),
                    user: name.clone(),
                    role: Role::Reader,
                    until,
                };
                self.do_set_role(room, moderator, (user, member), set)
            }
            Effect::Release(release) => self.do_release(name, *release),
            Effect::Remove(room, member) => self.do_remove(room, moderator, (user, member), name.clone()),
        }
    }

    /// Notes that a moderator reads a conversation.
    fn note_moderator_read(&mut self, read: &ModeratorRead) -> ChangeResult<R> {
        let conversation = self.find_conversation(&read.conversation)?.ok_or_else(Refusal::not_found)?;
        let fields = json!({ "reason": read.reason, "place": [conversation.key.0, read.around] });
        self.do_tell_feed("audit.read", None, fields.to_string())?;
        Ok(Committed::NotAnnounced)
    }

    /// Removes the reports that were decided before a time.
    fn purge_reports(&mut self, before: Timestamp) -> ChangeResult<R> {
        for statement in PURGE {
            self.rows.report_rows(statement, &[before.as_millis().into()])?;
        }
        Ok(Committed::NotAnnounced)
    }

    /// The body of an entry of the feed; of the audit log, with the moderator's number.
    pub(super) fn with_moderator(
        &mut self,
        kind: &str,
        body: String,
    ) -> Result<String, OperationError<R::Error>> {
        let Some(by) = self.by.filter(|_| kind.starts_with("audit.")) else { return Ok(body) };
        let by = self.user_or_new(by)?;
        let mut fields: Map<String, Value> = serde_json::from_str(&body).unwrap_or_default();
        fields.insert("by".to_owned(), json!(by.0));
        Ok(Value::from(fields).to_string())
    }
}

fn report_target(row: &Fields) -> ReportTarget {
    use crate::record::ConversationKey;
    ReportTarget {
        conversation: ConversationKey(row.number(0)),
        seq: row.number(1),
        user: UserKey(row.number(2)),
    }
}

/// The fields that all entries of the feed about a report have. The place names the conversation by its key.
pub(super) fn report_fields(id: i64, target: ReportTarget) -> Map<String, Value> {
    let mut fields = Map::from_iter([("report".to_owned(), json!(ReportId(id.unsigned_abs())))]);
    if target.conversation != INSTALLATION {
        fields.insert("place".to_owned(), json!([target.conversation.0, target.seq]));
    }
    fields
}

fn encoded(snapshot: &ReportSnapshot) -> String {
    // A snapshot has strings, numbers and JSON objects only, which always have a JSON form.
    serde_json::to_string(snapshot).unwrap_or_else(|_| "{}".to_owned())
}
