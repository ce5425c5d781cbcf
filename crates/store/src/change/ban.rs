//! Who is kept out: bans from the installation and from rooms, and revocations.

use serde_json::{Map, Value, json};
use switchboard_protocol::{EventBody, Remove, Timestamp};

use super::rows::Rows;
use super::{ChangeContext, ChangeResult, OperationError};
use crate::Committed;
use crate::access;
use crate::ban::{Ban, INSTALLATION, NewBan};
use crate::record::{Conversation, Effect, JoinOrLeave, UserKey};

impl<R: Rows> ChangeContext<'_, R> {
    /// Refuses a change of an actor who is banned from the installation. Returns whether a shadow ban of the actor holds.
    pub(super) fn check_actor_not_banned(&mut self) -> Result<bool, OperationError<R::Error>> {
        let Some(user) = self.rows.user(self.actor)? else { return Ok(false) };
        let ban = self.rows.ban(INSTALLATION, user)?;
        access::check_not_banned(ban.as_ref(), self.committed_at)?;
        Ok(ban.is_some_and(|ban| ban.shadow && ban.holds_at(self.committed_at)))
    }

    /// Revokes the tokens of the actor that were issued up to this time.
    pub(super) fn revoke(&mut self, until: Timestamp, replace: bool) -> ChangeResult<R> {
        let user = self.user_or_new(self.actor)?;
        self.rows.set_not_before(user, until, replace)?;
        self.do_tell_feed("audit.revoke", Some(user), "{}".to_owned())?;
        Ok(Committed::NotAnnounced)
    }

    /// Bans a user from a room. A member is removed; another user is banned all the same, also one who is not known yet.
    pub(super) fn ban_from_room(
        &mut self,
        mut room: Conversation,
        admin: UserKey,
        remove: Remove,
    ) -> ChangeResult<R> {
        let Remove { user, until, .. } = remove;
        self.check_known(&user)?;
        let key = self.user_or_new(&user)?;
        let member = self.rows.member(room.key, key)?.filter(|member| member.until.is_none());
        let mut effects = Vec::new();
        if let Some(member) = member {
            self.do_end_membership(&mut room, key, member)?;
            effects.push(Effect { user: user.clone(), join_or_leave: JoinOrLeave::Leave });
        }
        let new = NewBan { ban: Ban { until, reason: None, shadow: false }, note: None };
        self.rows.put_ban(room.key, key, Some((new, self.committed_at)))?;
        let body = EventBody::Remove { user, ban: true, until, absent: member.is_none() };
        self.do_append_event(room, admin, &body, effects)
    }

    /// Bans the actor from the installation, or ends the actor's ban. A user who is not known yet is known from then on.
    pub(super) fn set_ban(&mut self, new: Option<NewBan>) -> ChangeResult<R> {
        let now = self.committed_at;
        if let Some(until) = new.as_ref().and_then(|new| new.ban.until) {
            access::check_until(until, now)?;
        }
        let user = self.user_or_new(self.actor)?;
        self.do_set_ban(user, new)?;
        Ok(Committed::NotAnnounced)
    }

    /// Bans a user from the installation, or ends a ban.
    pub(super) fn do_set_ban(
        &mut self,
        user: UserKey,
        new: Option<NewBan>,
    ) -> Result<(), OperationError<R::Error>> {
        let now = self.committed_at;
        let mut told = Map::from_iter([("on".to_owned(), json!(new.is_some()))]);
        let mut audited = told.clone();
        match &new {
            Some(NewBan { ban, note }) => {
                let mut fields = vec![("reason", json!(ban.reason))];
                fields.extend(ban.until.map(|until| ("until", json!(until))));
                fields.extend(ban.shadow.then_some(("shadow", json!(true))));
                let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
                told.extend(fields.map(|(name, value)| (name.to_owned(), value)));
                audited.clone_from(&told);
                audited.extend(note.as_ref().map(|note| ("note".to_owned(), json!(note))));
            }
            None => {
                if !self.rows.ban(INSTALLATION, user)?.is_some_and(|ban| ban.holds_at(now)) {
                    return Ok(());
                }
            }
        }
        self.rows.put_ban(INSTALLATION, user, new.map(|new| (new, now)))?;
        self.do_tell_feed("user.banned", Some(user), Value::from(told).to_string())?;
        self.do_tell_feed("audit.ban", Some(user), Value::from(audited).to_string())
    }
}
