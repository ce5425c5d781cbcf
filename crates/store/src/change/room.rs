//! Changes of rooms: create, join, leave, invite, remove, role, rename.

use std::collections::BTreeSet;

use switchboard_protocol::{
    ChangeSettings, ConversationId, Create, ErrorCode, EventBody, EventKind, Invite, Join, Leave, Remove,
    Rename, Role, RoomId, Seq, SetRole, Timestamp, Title, UserId,
};

use super::rows::Rows;
use super::{ActorMembership, ChangeContext, ChangeResult, OperationError, event_fields, new_membership};
use crate::record::{Conversation, Membership};
use crate::record::{Effect, JoinOrLeave, UserKey};
use crate::refusal::Refusal;
use crate::{access, body};

impl<R: Rows> ChangeContext<'_, R> {
    pub(super) fn create(&mut self, create: Create) -> ChangeResult<R> {
        access::check_creator(self.permissions, create.public)?;
        let name = ConversationId::room(&create.room.unwrap_or_else(generate_room_id));
        let mut members: BTreeSet<_> = create.members.into_iter().collect();
        members.remove(self.actor);
        let body = EventBody::Create {
            title: create.title.clone(),
            public: create.public,
            members: members.iter().cloned().collect(),
        };
        if let Some(existing) = self.rows.conversation(&name)? {
            return self.check_created_before(&existing, &body);
        }
        self.check_contacts(members.iter())?;
        for user in &members {
            self.check_not_blocked_by(user)?;
        }
        for user in &members {
            self.check_known(user)?;
        }
        self.check_room_limit("room")?;
        self.check_rooms_created_today()?;
        self.begin_effects()?;
        let (room, effects) = self.do_create(&name, create.title, create.public, members)?;
        let creator = self.user_or_new(self.actor)?;
        self.rows.insert_self_joined_room(creator, room.key)?;
        self.do_append_event(room, creator, &body, effects)
    }

    /// Creates a room with its members. Its first event is left to the caller.
    pub(super) fn do_create(
        &mut self,
        name: &ConversationId,
        title: Option<Title>,
        public: bool,
        members: BTreeSet<UserId>,
    ) -> Result<(Conversation, Vec<Effect>), OperationError<R::Error>> {
        let creator = self.user_or_new(self.actor)?;
        let title = title.map(|t| t.as_str().to_owned());
        let mut room = self.rows.new_conversation(name, title, public)?;
        room.members = 1 + members.len() as u64;
        room.admins = 1;
        let since = Seq(1);
        self.rows.put_member(room.key, creator, new_membership(Role::Admin, since, 0, None));
        let join_or_leave = JoinOrLeave::Join { seen: Seq(0) };
        let mut effects = vec![Effect { user: self.actor.clone(), join_or_leave }];
        for user in members {
            let key = self.user_or_new(&user)?;
            self.rows.put_member(room.key, key, new_membership(Role::Member, since, 0, None));
            effects.push(Effect { user, join_or_leave });
        }
        Ok((room, effects))
    }

    /// A `create` with the same content is a retry; any other is refused because the name is taken.
    pub(super) fn check_created_before(&mut self, room: &Conversation, body: &EventBody) -> ChangeResult<R> {
        if room.ended {
            return Err(Refusal::id_used_before("room").into());
        }
        let creator = self.rows.user(self.actor)?;
        let body = event_fields::<R::Error>(body)?;
        let stored = self.encode_stored_body(EventKind::Create, &body)?;
        // An earlier version stored the body in its wire form.
        let is_same = |first: &str| {
            [stored.as_deref(), Some(&*body)]
                .into_iter()
                .flatten()
                .any(|body| body::is_same_body(&EventKind::Create.into(), first, body))
        };
        match self.rows.event(room.key, Seq(1))? {
            Some(first)
                if first.kind == EventKind::Create
                    && Some(first.sender) == creator
                    && is_same(&first.body) =>
            {
                self.outcome_of_repeated_change(room, Seq(1))
            }
            _ => {
                Err(Refusal::new(ErrorCode::AlreadyExists, "a room of this name exists; choose another")
                    .into())
            }
        }
    }

    pub(super) fn join(&mut self, join: &Join) -> ChangeResult<R> {
        let name = join.conversation.resolve(self.actor);
        let mut room = self.find_conversation(&name)?.ok_or_else(Refusal::not_found)?;
        let user = self.rows.user(self.actor)?;
        let earlier = user.map(|user| self.rows.member(room.key, user)).transpose()?.flatten();
        if let Some(member) = earlier.filter(|m| m.until.is_none()) {
            access::check_room(&name)?;
            return self.outcome_of_repeated_change(&room, member.since);
        }
        if !room.public {
            return Err(Refusal::not_found().into());
        }
        access::check_public(self.permissions)?;
        if let Some(user) = user {
            let ban = self.rows.ban(room.key, user)?;
            access::check_may_join(ban.as_ref(), self.committed_at)?;
        }
        self.check_may_rejoin(&room, earlier.as_ref())?;
        self.check_room_limit("conversation")?;
        let user = self.user_or_new(self.actor)?;
        self.rows.insert_self_joined_room(user, room.key)?;
        let role = access::role_of_joiner(&room, earlier.as_ref());
        let until = earlier.and_then(|member| member.silenced_until(self.committed_at));
        let join_or_leave = self.do_add_member(&mut room, user, role, earlier)?;
        let effect = Effect { user: self.actor.clone(), join_or_leave };
        let body = EventBody::Join { role: Some(role).filter(|role| *role != Role::Member), until };
        self.do_append_event(room, user, &body, vec![effect])
    }

    pub(super) fn leave(&mut self, leave: &Leave) -> ChangeResult<R> {
        let ActorMembership { mut conversation, user, membership } =
            self.find_actor_membership(&leave.conversation.resolve(self.actor))?;
        if let Some(until) = membership.and_then(|m| m.until) {
            return self.outcome_of_repeated_change(&conversation, until);
        }
        let member = *access::check_member(membership.as_ref())?;
        access::check_room(&conversation.name)?;
        access::check_admin_remains(&conversation, &member, true)?;
        self.do_end_membership(&mut conversation, user, member)?;
        let effect = Effect { user: self.actor.clone(), join_or_leave: JoinOrLeave::Leave };
        self.do_append_event(conversation, user, &EventBody::Leave {}, vec![effect])
    }

    pub(super) fn invite(&mut self, invite: Invite) -> ChangeResult<R> {
        let ActorMembership { conversation, user, membership } =
            self.find_actor_membership(&invite.conversation.resolve(self.actor))?;
        let inviter = *access::check_member(membership.as_ref())?;
        access::check_room(&conversation.name)?;
        access::check_inviter(&conversation, membership.as_ref(), invite.role, self.committed_at)?;
        access::check_may_invite(self.permissions, membership.as_ref(), self.committed_at)?;
        self.check_contact(&invite.user)?;
        self.check_not_blocked_by(&invite.user)?;
        self.check_known(&invite.user)?;
        let known = self.rows.user(&invite.user)?;
        let earlier = known.map(|invited| self.rows.member(conversation.key, invited)).transpose()?.flatten();
        if let Some(member) = earlier.filter(|m| m.until.is_none()) {
            return self.outcome_of_repeated_change(&conversation, member.since);
        }
        if let Some(invited) = known {
            let ban = self.rows.ban(conversation.key, invited)?;
            access::check_may_be_invited(ban.as_ref(), inviter.role, self.committed_at)?;
        }
        self.begin_effects()?;
        let role = access::role_of_invited(inviter.role, invite.role, earlier.as_ref());
        let earlier = access::membership_of_invited(inviter.role, earlier);
        self.do_invite(conversation, user, invite.user, role, earlier)
    }

    /// An `invite` by a back end. If the room has members, it is an invitation by the user for whom the back end acts. If
    /// all members have left, it makes the invited user the admin.
    pub(super) fn invite_with_key(&mut self, invite: Invite) -> ChangeResult<R> {
        let name = invite.conversation.resolve(self.actor);
        let room = self.find_conversation(&name)?.ok_or_else(Refusal::not_found)?;
        let known = self.rows.user(&invite.user)?;
        let earlier = known.map(|invited| self.rows.member(room.key, invited)).transpose()?.flatten();
        if let Some(member) = earlier.filter(|m| m.until.is_none())
            && self.is_invited_by_actor(&room, &member)?
        {
            return self.outcome_of_repeated_change(&room, member.since);
        }
        if access::check_reopener(&room).is_err() {
            return self.invite(invite);
        }
        self.check_known(&invite.user)?;
        self.begin_effects()?;
        let user = self.user_or_new(self.actor)?;
        let earlier = access::membership_of_invited(Role::Admin, earlier);
        self.do_invite(room, user, invite.user, Role::Admin, earlier)
    }

    fn is_invited_by_actor(
        &mut self,
        room: &Conversation,
        member: &Membership,
    ) -> Result<bool, OperationError<R::Error>> {
        let Some(actor) = self.rows.user(self.actor)? else { return Ok(false) };
        let event = self.rows.event(room.key, member.since)?;
        Ok(event.is_some_and(|event| event.kind == EventKind::Invite && event.sender == actor))
    }

    fn do_invite(
        &mut self,
        mut room: Conversation,
        by: UserKey,
        user: UserId,
        role: Role,
        earlier: Option<Membership>,
    ) -> ChangeResult<R> {
        let invited = self.user_or_new(&user)?;
        let until = earlier.and_then(|member| member.silenced_until(self.committed_at));
        let join_or_leave = self.do_add_member(&mut room, invited, role, earlier)?;
        let effect = Effect { user: user.clone(), join_or_leave };
        self.do_append_event(room, by, &EventBody::Invite { user, role, until }, vec![effect])
    }

    pub(super) fn remove(&mut self, remove: Remove) -> ChangeResult<R> {
        let ActorMembership { conversation, user, membership } =
            self.find_actor_membership(&remove.conversation.resolve(self.actor))?;
        access::check_member(membership.as_ref())?;
        access::check_room(&conversation.name)?;
        access::check_admin(membership.as_ref(), self.committed_at)?;
        if remove.user == *self.actor {
            return Err(Refusal::bad_field("user", "user: to go yourself, say `leave`").into());
        }
        access::check_room_ban(remove.ban, remove.until, self.committed_at)?;
        if remove.ban {
            return self.ban_from_room(conversation, user, remove);
        }
        let (removed, member) = self.check_subject(&conversation, &remove.user)?;
        if let Some(until) = member.until {
            return self.outcome_of_repeated_change(&conversation, until);
        }
        self.do_remove(conversation, user, (removed, member), remove.user)
    }

    /// Removes a present member.
    pub(super) fn do_remove(
        &mut self,
        mut conversation: Conversation,
        user: UserKey,
        (removed, member): (UserKey, Membership),
        name: UserId,
    ) -> ChangeResult<R> {
        self.do_end_membership(&mut conversation, removed, member)?;
        let effect = Effect { user: name.clone(), join_or_leave: JoinOrLeave::Leave };
        let body = EventBody::Remove { user: name, ban: false, until: None, absent: false };
        self.do_append_event(conversation, user, &body, vec![effect])
    }

    pub(super) fn set_role(&mut self, set: SetRole) -> ChangeResult<R> {
        let ActorMembership { conversation, user, membership } =
            self.find_actor_membership(&set.conversation.resolve(self.actor))?;
        access::check_member(membership.as_ref())?;
        access::check_room(&conversation.name)?;
        access::check_admin(membership.as_ref(), self.committed_at)?;
        access::check_silence(set.role, set.until, self.committed_at)?;
        let (subject, member) = self.check_subject(&conversation, &set.user)?;
        access::check_member(Some(&member))?;
        if set.role != Role::Admin {
            access::check_admin_remains(&conversation, &member, false)?;
        }
        self.do_set_role(conversation, user, (subject, member), set)
    }

    /// Sets the role of a present member. Nothing is looked up by the conversation that `set` names.
    pub(super) fn do_set_role(
        &mut self,
        mut conversation: Conversation,
        user: UserKey,
        (subject, mut member): (UserKey, Membership),
        set: SetRole,
    ) -> ChangeResult<R> {
        if set.until.is_none() {
            conversation.admins = conversation.admins.saturating_sub(u64::from(member.role == Role::Admin));
            conversation.admins += u64::from(set.role == Role::Admin);
            member.role = set.role;
        }
        member.silenced = set.until.map_or(0, Timestamp::as_millis);
        self.rows.put_member(conversation.key, subject, member);
        self.do_append_event(
            conversation,
            user,
            &EventBody::Role { user: set.user, role: set.role, until: set.until },
            Vec::new(),
        )
    }

    pub(super) fn rename(&mut self, rename: Rename) -> ChangeResult<R> {
        let ActorMembership { mut conversation, user, membership } =
            self.find_actor_membership(&rename.conversation.resolve(self.actor))?;
        access::check_member(membership.as_ref())?;
        access::check_room(&conversation.name)?;
        access::check_admin(membership.as_ref(), self.committed_at)?;
        self.begin_effects()?;
        conversation.title = Some(rename.title.as_str().to_owned());
        self.do_append_event(conversation, user, &EventBody::Rename { title: rename.title }, Vec::new())
    }

    pub(super) fn change_settings(&mut self, settings: &ChangeSettings) -> ChangeResult<R> {
        let ActorMembership { mut conversation, user, membership } =
            self.find_actor_membership(&settings.conversation.resolve(self.actor))?;
        access::check_member(membership.as_ref())?;
        access::check_room(&conversation.name)?;
        access::check_admin(membership.as_ref(), self.committed_at)?;
        let ChangeSettings { slow, rejoin, .. } = *settings;
        conversation.slow = slow.map_or(conversation.slow, u64::from);
        conversation.rejoin = rejoin.unwrap_or(conversation.rejoin);
        self.do_append_event(conversation, user, &EventBody::Settings { slow, rejoin }, Vec::new())
    }

    /// Refuses a user who was removed from a room that says so.
    fn check_may_rejoin(
        &mut self,
        room: &Conversation,
        earlier: Option<&Membership>,
    ) -> Result<(), OperationError<R::Error>> {
        let Some(left) = earlier.and_then(|member| member.until).filter(|_| !room.rejoin) else {
            return Ok(());
        };
        let event = self.rows.event(room.key, left)?;
        let was_removed = event.is_some_and(|event| event.kind == EventKind::Remove);
        Ok(access::check_rejoin(was_removed)?)
    }

    /// Deletes a room: appends its last event. What it had before is removed later, in slices, and its id is never given again.
    pub(super) fn delete_room(&mut self, name: &ConversationId) -> ChangeResult<R> {
        let mut room = self.rows.conversation(name)?.ok_or_else(Refusal::not_found)?;
        if room.ended {
            return self.outcome_of_repeated_change(&room, room.head);
        }
        if !self.rows.may_end_rooms() {
            let message = "a node of an earlier version is still running; try again later";
            return Err(Refusal::new(ErrorCode::NotReady, message).into());
        }
        self.begin_effects()?;
        let user = self.user_or_new(self.actor)?;
        room.ended = true;
        room.title = None;
        (room.messages, room.last_message, room.members, room.admins) = (0, Seq(0), 0, 0);
        self.rows.insert_ended_room(room.key)?;
        let entry = serde_json::json!({ "conversation": name, "seq": room.head.next() });
        self.do_tell_feed("audit.delete_room", Some(user), entry.to_string())?;
        self.do_append_event(room, user, &EventBody::End {}, Vec::new())
    }

    /// Looks up the user whom a command names; refuses one who never was a member.
    pub(super) fn check_subject(
        &mut self,
        room: &Conversation,
        user: &UserId,
    ) -> Result<(UserKey, Membership), OperationError<R::Error>> {
        let key = self.rows.user(user)?.ok_or_else(Refusal::not_found)?;
        let member = self.rows.member(room.key, key)?.ok_or_else(Refusal::not_found)?;
        Ok((key, member))
    }

    /// Makes `user` a member from the next event on.
    pub(super) fn do_add_member(
        &mut self,
        room: &mut Conversation,
        user: UserKey,
        role: Role,
        earlier: Option<Membership>,
    ) -> Result<JoinOrLeave, OperationError<R::Error>> {
        // A ban of before has ended, or an admin's invitation ends it.
        if self.rows.ban(room.key, user)?.is_some() {
            self.rows.put_ban(room.key, user, None)?;
        }
        room.members += 1;
        room.admins += u64::from(role == Role::Admin);
        let mut member = new_membership(role, room.head.next(), room.messages, earlier);
        // The events of coming in name a silence that holds, so an earlier one is forgotten.
        member.silenced = member.silenced_until(self.committed_at).map_or(0, Timestamp::as_millis);
        self.rows.put_member(room.key, user, member);
        Ok(JoinOrLeave::Join { seen: earlier.and_then(|member| member.until).unwrap_or(room.head) })
    }

    /// Ends a membership with the next event.
    pub(super) fn do_end_membership(
        &mut self,
        room: &mut Conversation,
        user: UserKey,
        mut member: Membership,
    ) -> Result<(), OperationError<R::Error>> {
        // The subtraction saturates, because the count in a damaged row may be too low, and a panic would end the writer.
        room.members = room.members.saturating_sub(1);
        room.admins = room.admins.saturating_sub(u64::from(member.role == Role::Admin));
        member.until = Some(room.head.next());
        self.rows.put_member(room.key, user, member);
        Ok(self.rows.delete_self_joined_room(user, room.key)?)
    }

    /// Refuses a user who has created too many rooms within a day. Rooms that their creator has left count too, because the
    /// other members whom the creator added are still in them.
    fn check_rooms_created_today(&mut self) -> Result<(), OperationError<R::Error>> {
        if self.allowances().is_none_or(|allowances| allowances.charge_room(self.actor)) {
            return Ok(());
        }
        let message = format!("you have made {} rooms within a day; wait a while", self.rules.limits.rooms);
        Err(Refusal::too_large("room", message).into())
    }

    /// Refuses a user who has created or joined as many rooms as the limit allows. Rooms to which other users added them do
    /// not count; otherwise one user could use up another user's limit.
    fn check_room_limit(&mut self, field: &'static str) -> Result<(), OperationError<R::Error>> {
        let most = self.rules.limits.rooms;
        let Some(user) = self.rows.user(self.actor)? else { return Ok(()) };
        if most == 0 || self.rows.count_self_joined_rooms(user, most)? < most {
            return Ok(());
        }
        let message = format!("you are in {most} rooms that you made or joined; leave one first");
        Err(Refusal::too_large(field, message).into())
    }
}

/// A name for a room to which the client gave none.
fn generate_room_id() -> RoomId {
    let name = uuid::Uuid::now_v7().simple().to_string();
    RoomId::parse(&name).unwrap_or_else(|_| unreachable!("32 hexadecimal digits are a room id"))
}
