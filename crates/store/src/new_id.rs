//! What a user's new id changes, and when it is refused.

use switchboard_protocol::{ConversationId, ErrorCode, UserId};

use crate::record::{ConversationKey, UserKey, Via};
use crate::refusal::Refusal;
use crate::search;

/// The most direct conversations of a user who gets another id: the row of each changes in one transaction, and all writes
/// wait for that.
pub(crate) const MAX_RENAMED_CONVERSATIONS: usize = 10_000;

/// A user's new id.
#[derive(Debug, Clone)]
pub struct Rename {
    /// The user.
    pub user: UserId,
    /// The new id, which must never have been used.
    pub to: UserId,
    /// What makes the change.
    pub via: Via,
    /// The client's address.
    pub address: Option<String>,
}

/// The direct conversations of a renamed user, by their earlier ids.
pub type RenamedConversations = Vec<(ConversationKey, ConversationId)>;

/// What the database has about both ids.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ids {
    /// The user with the old id.
    pub(crate) user: Option<UserKey>,
    /// The user who had the old id, if it is retired.
    pub(crate) former: Option<UserKey>,
    /// The user with the new id.
    pub(crate) to: Option<UserKey>,
    /// Whether the new id is retired.
    pub(crate) is_retired: bool,
    /// Whether some bodies of events may still name users by id.
    pub(crate) has_old_bodies: bool,
}

/// Checks whether a user may get another id. Returns the user, or `None` if the user has it already.
pub(crate) fn check(rename: &Rename, ids: Ids) -> Result<Option<UserKey>, Refusal> {
    if rename.user == rename.to {
        return Err(Refusal::bad_field("to", "to: the user has this id"));
    }
    if ids.has_old_bodies {
        let message = "the events of an earlier version are still being rewritten; try again later";
        return Err(Refusal::new(ErrorCode::NotReady, message));
    }
    if ids.former.is_some() && ids.former == ids.to {
        return Ok(None);
    }
    let user = ids.user.ok_or_else(Refusal::not_found)?;
    if ids.to.is_some() || ids.is_retired {
        return Err(Refusal::id_used_before("to"));
    }
    Ok(Some(user))
}

/// The direct conversations with their new ids.
///
/// # Errors
/// There are too many.
pub(crate) fn renamed_conversations(
    rename: &Rename,
    conversations: &RenamedConversations,
) -> Result<Vec<(ConversationKey, ConversationId)>, Refusal> {
    if conversations.len() > MAX_RENAMED_CONVERSATIONS {
        let message = format!("user: at most {MAX_RENAMED_CONVERSATIONS} direct conversations");
        return Err(Refusal::too_large("user", message));
    }
    let renamed = |user: UserId| if user == rename.user { rename.to.clone() } else { user };
    let direct = conversations.iter().filter_map(|(key, name)| {
        let (a, b) = name.peers()?;
        Some((*key, ConversationId::direct(&renamed(a), &renamed(b))))
    });
    Ok(direct.collect())
}

/// The words by which a user with a profile was found and is found from now on: those to remove, and those to add.
pub(crate) fn changed_words(rename: &Rename, name: Option<&str>) -> (Vec<String>, Vec<String>) {
    let (old, new) = (search::words(&rename.user, name), search::words(&rename.to, name));
    (old.difference(&new).cloned().collect(), new.difference(&old).cloned().collect())
}

/// The fields of the entry in the feed. Its user is the renamed one, by number.
pub(crate) fn entry_body(rename: &Rename) -> String {
    serde_json::json!({ "before": rename.user }).to_string()
}

/// The type of that entry.
pub(crate) const ENTRY: &str = "audit.rename";
