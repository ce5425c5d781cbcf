//! The access rules: pure checks, called in the transaction that reads or writes.
//!
//! The refusal is the same whether a conversation does not exist or the user may not know of it. A member sees the whole log;
//! a user who left sees it up to the event of leaving; no other user sees anything.

use switchboard_protocol::{
    ConversationId, Directory, Inviters, Limits, Permissions, ReportAction, ReportState, Role, Seq,
    Timestamp, UserId,
};

use crate::ban::Ban;
use crate::grant::UserPattern;
use crate::record::{Conversation, Membership};
use crate::refusal::Refusal;

/// Refuses a user who is banned from the installation at this time. Every door asks this before it admits a user, and every
/// change that is made in the name of a user.
///
/// # Errors
/// The user is banned.
pub fn check_not_banned(ban: Option<&Ban>, now: Timestamp) -> Result<(), Refusal> {
    match ban.filter(|ban| !ban.shadow && ban.holds_at(now)) {
        Some(ban) => Err(Refusal::banned(ban)),
        None => Ok(()),
    }
}

/// Refuses an end without a ban, or one that is not sensible.
pub(crate) fn check_room_ban(ban: bool, until: Option<Timestamp>, now: Timestamp) -> Result<(), Refusal> {
    match until {
        Some(until) if ban => check_until(until, now),
        Some(_) => Err(Refusal::bad_field("until", "until: only a removal with `ban` has an end")),
        None => Ok(()),
    }
}

/// Refuses a user who was removed, and joins a room that takes back nobody who was.
pub(crate) fn check_rejoin(was_removed: bool) -> Result<(), Refusal> {
    if was_removed {
        Err(Refusal::forbidden("you were removed from this room; ask an admin for an invitation"))
    } else {
        Ok(())
    }
}

/// Refuses a message that comes too soon after the member's last one, in a room in slow mode. Admins and back ends are free.
pub(crate) fn check_pace(
    room: &Conversation,
    member: &Membership,
    by_back_end: bool,
    now: Timestamp,
) -> Result<(), Refusal> {
    if room.slow == 0 || by_back_end || member.role_at(now) == Role::Admin {
        return Ok(());
    }
    let slow = i64::try_from(room.slow).unwrap_or(i64::MAX);
    // The clock may have gone back: nobody waits longer than `slow`.
    let wait = member.sent_at.saturating_add(slow).saturating_sub(now.as_millis()).min(slow);
    match u64::try_from(wait) {
        Ok(wait) if wait > 0 => Err(Refusal::too_soon(wait)),
        _ => Ok(()),
    }
}

/// Refuses a user who is banned from a room, and joins it.
pub(crate) fn check_may_join(ban: Option<&Ban>, now: Timestamp) -> Result<(), Refusal> {
    match ban.filter(|ban| ban.holds_at(now)) {
        Some(ban) => Err(Refusal::banned_from_room(ban)),
        None => Ok(()),
    }
}

/// Refuses an invitation of a banned user, unless an admin of the room makes it: that ends the ban.
pub(crate) fn check_may_be_invited(ban: Option<&Ban>, inviter: Role, now: Timestamp) -> Result<(), Refusal> {
    if inviter == Role::Admin || !ban.is_some_and(|ban| ban.holds_at(now)) {
        return Ok(());
    }
    Err(Refusal::forbidden("the user is banned from this room; an admin's invitation ends that"))
}

/// Refuses an end that has passed, or that is so late that it must be a mistake.
pub(crate) fn check_until(until: Timestamp, now: Timestamp) -> Result<(), Refusal> {
    let left = until.as_millis().saturating_sub(now.as_millis());
    if left <= 0 {
        return Err(Refusal::bad_field("until", "until: name a time that has not passed"));
    }
    if left > Limits::MAX_UNTIL_MS {
        let message = "until: at most ten years from now; without `until` there is no end";
        return Err(Refusal::bad_field("until", message));
    }
    Ok(())
}

/// The last event that a user may see.
pub(crate) fn check_visible(head: Seq, membership: Option<&Membership>) -> Result<Seq, Refusal> {
    let membership = membership.ok_or_else(Refusal::not_found)?;
    Ok(membership.until.map_or(head, |until| until.min(head)))
}

/// The events of a log that a user may read: those after the first number, up to the second. Of a deleted room, its members read
/// the event of the end alone, and those who had left read nothing.
pub(crate) fn check_readable(
    conversation: &Conversation,
    membership: Option<&Membership>,
) -> Result<(Seq, Seq), Refusal> {
    let head = check_visible(conversation.head, membership)?;
    match conversation.ended {
        false => Ok((Seq(0), head)),
        true if head == conversation.head => Ok((Seq(head.0.saturating_sub(1)), head)),
        true => Err(Refusal::not_found()),
    }
}

/// Refuses a report of a message that the user cannot see. A user who left reports what they could see.
pub(crate) fn check_may_report(
    conversation: &Conversation,
    membership: Option<&Membership>,
    target: Seq,
) -> Result<(), Refusal> {
    let (first, last) = check_readable(conversation, membership)?;
    if target > first && target <= last { Ok(()) } else { Err(Refusal::not_found()) }
}

/// Refuses a report of a user whom the reporter neither shares a conversation with nor may look up. The refusal is the same whether
/// or not there is such a user.
pub(crate) fn check_may_report_user(permissions: Option<&Permissions>, shares: bool) -> Result<(), Refusal> {
    let may_look_up = permissions.is_none_or(|permissions| permissions.directory == Directory::All);
    if may_look_up || shares { Ok(()) } else { Err(Refusal::not_found()) }
}

/// Refuses what another moderator has claimed, and what is decided.
pub(crate) fn check_may_decide(
    state: ReportState,
    moderator: Option<&str>,
    is_own: bool,
) -> Result<(), Refusal> {
    let name = moderator.unwrap_or("another moderator");
    match state {
        ReportState::Open => Ok(()),
        ReportState::Claimed if is_own => Ok(()),
        ReportState::Claimed => Err(Refusal::conflict("report", &format!("{name} has claimed this report"))),
        ReportState::Done => Err(Refusal::conflict("report", &format!("{name} has decided this report"))),
    }
}

/// Refuses a decision that does not fit: only a held message waits to be released or rejected, and it is not in the log yet.
pub(crate) fn check_decision_of(is_held: bool, action: ReportAction) -> Result<(), Refusal> {
    let message = match (is_held, action) {
        (true, ReportAction::None | ReportAction::Delete) => {
            "action: the message is held and not in the log: `release` or `reject` it"
        }
        (false, ReportAction::Release | ReportAction::Reject) => "action: this is no held message",
        _ => return Ok(()),
    };
    Err(Refusal::bad_field("action", message))
}

/// A present member, of any role.
pub(crate) fn check_member(membership: Option<&Membership>) -> Result<&Membership, Refusal> {
    membership.filter(|m| m.until.is_none()).ok_or_else(Refusal::not_found)
}

/// Refuses all but members who may write at this time.
pub(crate) fn check_writer(membership: Option<&Membership>, now: Timestamp) -> Result<&Membership, Refusal> {
    let member = check_member(membership)?;
    if let Some(until) = member.silenced_until(now) {
        return Err(Refusal::forbidden_until(until, now));
    }
    match member.role {
        Role::Admin | Role::Member => Ok(member),
        Role::Reader => {
            Err(Refusal::forbidden("a reader may not write here; ask an admin for the role `member`"))
        }
    }
}

/// Refuses all but members who may change the room at this time.
pub(crate) fn check_admin(membership: Option<&Membership>, now: Timestamp) -> Result<&Membership, Refusal> {
    let member = check_member(membership)?;
    match member.role_at(now) {
        Role::Admin => Ok(member),
        Role::Member | Role::Reader => Err(Refusal::forbidden("only an admin of the room may do that")),
    }
}

/// Refuses an end of a role that has none, or an end that is not sensible.
pub(crate) fn check_silence(role: Role, until: Option<Timestamp>, now: Timestamp) -> Result<(), Refusal> {
    match until {
        Some(until) if role == Role::Reader => check_until(until, now),
        Some(_) => Err(Refusal::bad_field("until", "until: only the role `reader` can have an end")),
        None => Ok(()),
    }
}

/// Refuses all but the two users of a direct conversation that does not exist yet.
pub(crate) fn check_peer(conversation: &ConversationId, user: &UserId) -> Result<(UserId, UserId), Refusal> {
    match conversation.peers() {
        Some((a, b)) if a == *user || b == *user => Ok((a, b)),
        _ => Err(Refusal::not_found()),
    }
}

/// Refuses a direct conversation, because it always has its two users and no title. Call it after the check of membership,
/// so that a user who is not a member learns nothing.
pub(crate) fn check_room(conversation: &ConversationId) -> Result<(), Refusal> {
    if conversation.is_room() {
        Ok(())
    } else {
        Err(Refusal::forbidden(
            "a direct conversation always has its two people and no title; make a room for more",
        ))
    }
}

/// Refuses users who may not create such a room.
pub(crate) fn check_creator(permissions: Option<&Permissions>, public: bool) -> Result<(), Refusal> {
    if permissions.is_some_and(|permissions| !permissions.create_rooms) {
        return Err(Refusal::not_permitted("create_rooms", "you may not create rooms here"));
    }
    if public { check_public(permissions) } else { Ok(()) }
}

/// Refuses users who may not use public rooms.
pub(crate) fn check_public(permissions: Option<&Permissions>) -> Result<(), Refusal> {
    if permissions.is_some_and(|permissions| !permissions.public_rooms) {
        return Err(Refusal::not_permitted("public_rooms", "you may not create or join public rooms here"));
    }
    Ok(())
}

/// Refuses users who may invite only as admins, and are none.
pub(crate) fn check_may_invite(
    permissions: Option<&Permissions>,
    inviter: Option<&Membership>,
    now: Timestamp,
) -> Result<(), Refusal> {
    if permissions.is_none_or(|permissions| permissions.invite == Inviters::Members) {
        return Ok(());
    }
    check_admin(inviter, now).map(drop).map_err(|refusal| Refusal { permission: Some("invite"), ..refusal })
}

/// Whether a user may be the first to reach another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    Yes,
    /// If the two share a conversation.
    IfShared,
    No,
}

/// Whether a user with these permissions may be the first to reach another one.
pub(crate) fn reach(permissions: &Permissions, user: &UserId) -> Reach {
    let mut shared = false;
    for entry in &permissions.contact {
        match entry.as_str() {
            Permissions::ALL => return Reach::Yes,
            Permissions::SHARED => shared = true,
            pattern if UserPattern::stored(pattern).matches(user) => return Reach::Yes,
            _ => {}
        }
    }
    if shared { Reach::IfShared } else { Reach::No }
}

/// The refusal of an attempt to reach a user first. It does not say whether there is such a user.
pub(crate) fn out_of_reach() -> Refusal {
    Refusal::not_permitted("contact", "you may not write to this user first, nor invite them")
}

/// Refuses users who may not invite. An admin may invite any user in any role. A member of a public room may invite any
/// user as `member`, because that user could also join without an invitation.
pub(crate) fn check_inviter(
    room: &Conversation,
    inviter: Option<&Membership>,
    role: Role,
    now: Timestamp,
) -> Result<(), Refusal> {
    if room.public && role == Role::Member {
        check_writer(inviter, now).map(|_| ())
    } else {
        check_admin(inviter, now).map(|_| ())
    }
}

/// Refuses to add the first member unless the room is empty. Only a back end with an API key may do it; without that no
/// user could ever enter an empty private room again.
pub(crate) fn check_reopener(room: &Conversation) -> Result<(), Refusal> {
    check_room(&room.name)?;
    if room.members == 0 { Ok(()) } else { Err(Refusal::not_found()) }
}

/// The role of a user who joins a room. The first user in an empty room becomes its admin. A reader who left stays a
/// reader, because otherwise leaving would undo an admin's decision.
pub(crate) fn role_of_joiner(room: &Conversation, earlier: Option<&Membership>) -> Role {
    if room.members == 0 { Role::Admin } else { keep_reader_role(Role::Member, earlier) }
}

/// The role of an invited user. An admin chooses it; an invitation by another member cannot change what an admin decided.
pub(crate) fn role_of_invited(inviter: Role, wanted: Role, earlier: Option<&Membership>) -> Role {
    if inviter == Role::Admin { wanted } else { keep_reader_role(wanted, earlier) }
}

/// The membership of before that an invited user takes up again. An admin's invitation ends a silence.
pub(crate) fn membership_of_invited(inviter: Role, earlier: Option<Membership>) -> Option<Membership> {
    earlier.map(|member| match inviter {
        Role::Admin => Membership { silenced: 0, ..member },
        Role::Member | Role::Reader => member,
    })
}

fn keep_reader_role(wanted: Role, earlier: Option<&Membership>) -> Role {
    let reader = earlier.is_some_and(|member| member.role == Role::Reader);
    if reader { Role::Reader } else { wanted }
}

/// Refuses a change that would leave a room with members but no admin, because then no user could be invited any more. The
/// last member may leave; the first user who joins an empty room becomes its admin.
pub(crate) fn check_admin_remains(
    room: &Conversation,
    admin: &Membership,
    goes: bool,
) -> Result<(), Refusal> {
    let alone = goes && room.members == 1;
    if admin.role == Role::Admin && room.admins == 1 && !alone {
        Err(Refusal::forbidden("you are the room's only admin: make another member `admin` first"))
    } else {
        Ok(())
    }
}

/// Refuses to let a user edit a message of another user.
pub(crate) fn check_author(author: bool) -> Result<(), Refusal> {
    if author { Ok(()) } else { Err(Refusal::forbidden("only its author may edit a message")) }
}

/// Refuses to let a user delete a message, unless the user is its author or an admin of the room.
pub(crate) fn check_eraser(author: bool, member: &Membership) -> Result<(), Refusal> {
    if author || member.role == Role::Admin {
        Ok(())
    } else {
        Err(Refusal::forbidden("only its author or an admin of the room may delete a message"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use switchboard_protocol::ErrorCode;

    fn now() -> Timestamp {
        Timestamp::from_millis(1_000)
    }

    fn membership_with(role: Role, until: Option<u64>) -> Membership {
        Membership {
            role,
            since: Seq(1),
            until: until.map(Seq),
            read: Seq(0),
            received: Seq(0),
            sent: 2,
            read_messages: 3,
            read_sent: 1,
            read_imported: false,
            silenced: 0,
            sent_at: 0,
        }
    }

    #[test]
    fn a_former_member_sees_the_log_up_to_the_leave() {
        assert_eq!(check_visible(Seq(9), None).map_err(|r| r.code), Err(ErrorCode::NotFound));
        assert_eq!(check_visible(Seq(9), Some(&membership_with(Role::Member, Some(4)))), Ok(Seq(4)));
        assert_eq!(check_visible(Seq(9), Some(&membership_with(Role::Reader, None))), Ok(Seq(9)));
    }

    #[test]
    fn a_former_member_writes_nothing_and_learns_nothing() {
        for role in [Role::Admin, Role::Member, Role::Reader] {
            let former = membership_with(role, Some(4));
            assert_eq!(
                check_writer(Some(&former), now()).map_err(|r| r.code).err(),
                Some(ErrorCode::NotFound)
            );
            assert_eq!(
                check_admin(Some(&former), now()).map_err(|r| r.code).err(),
                Some(ErrorCode::NotFound)
            );
        }
    }

    #[test]
    fn a_silenced_member_reads_until_the_end_and_then_is_what_they_were() {
        for role in [Role::Admin, Role::Member] {
            let member = Membership { silenced: 1_001, ..membership_with(role, None) };
            let refusal = check_writer(Some(&member), now()).expect_err("silenced");
            assert_eq!((refusal.code, refusal.retry_after), (ErrorCode::Forbidden, Some(1)));
            assert!(check_admin(Some(&member), now()).is_err());
            let later = Timestamp::from_millis(1_001);
            assert_eq!((member.role_at(now()), member.role_at(later)), (Role::Reader, role));
            assert!(check_writer(Some(&member), later).is_ok());
        }
    }

    #[test]
    fn unread_counts_others_messages_after_the_cursor() {
        // The room has 10 messages, 3 of them up to the cursor. The member sent 2 of them, 1 of these up to the cursor.
        assert_eq!(membership_with(Role::Member, None).unread(10), 6);
    }
}
