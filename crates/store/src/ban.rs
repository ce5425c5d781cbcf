//! Bans: users who are kept out of the installation. The rows are in `bans`.

use switchboard_protocol::Timestamp;

use crate::key::ConversationKey;

/// In place of a conversation: the whole installation. No conversation has this number.
pub(crate) const INSTALLATION: ConversationKey = ConversationKey(0);

/// The end of the year 9999, in milliseconds since the Unix epoch: the `until` of what has no end. Also, the tokens of a retired id
/// are revoked up to then.
pub(crate) const END_OF_TIME_MS: i64 = 253_402_300_799_999;

/// A user's ban.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    /// When it ends; `None` if it has no end.
    pub until: Option<Timestamp>,
    /// What the user reads.
    pub reason: Option<String>,
    /// Whether the user comes in all the same, and what they send is held.
    pub shadow: bool,
}

impl Ban {
    /// The ban of a row, by the stored time of its end.
    pub(crate) fn stored(until_ms: i64, reason: Option<String>, shadow: bool) -> Self {
        let until = (until_ms < END_OF_TIME_MS).then(|| Timestamp::from_millis(until_ms));
        Self { until, reason, shadow }
    }

    /// The time of its end as it is stored, in milliseconds since the Unix epoch.
    pub(crate) fn stored_until(&self) -> i64 {
        self.until.map_or(END_OF_TIME_MS, Timestamp::as_millis)
    }

    /// Whether the ban has not ended at this time.
    pub fn holds_at(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// Who may come in as a user: what every door asks the store before it admits a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The time up to which the user's tokens are revoked: tokens issued then or earlier are invalid. `None` if none is.
    pub not_before: Option<Timestamp>,
    /// The user's ban, which may have ended.
    pub ban: Option<Ban>,
}

/// A ban as a moderator makes it.
#[derive(Debug, Clone)]
pub struct NewBan {
    /// The ban.
    pub ban: Ban,
    /// What only moderators read.
    pub note: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_ends_at_its_time_and_one_without_an_end_does_not() {
        let at = Timestamp::from_millis;
        let ban = Ban::stored(1_000, None, false);
        assert!(ban.holds_at(at(999)) && !ban.holds_at(at(1_000)));
        let for_good = Ban { until: None, reason: None, shadow: false };
        assert_eq!(Ban::stored(for_good.stored_until(), None, false), for_good);
        assert!(for_good.holds_at(at(END_OF_TIME_MS)));
    }
}
