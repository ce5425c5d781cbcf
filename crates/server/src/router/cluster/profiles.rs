//! Finds the profiles that have changed while notices were lost: each sweep reads what has changed since the one before.

use switchboard_protocol::Timestamp;
use switchboard_store::profile::{ChangePlace, ChangedProfiles};
use switchboard_store::record::UserKey;
use switchboard_store::refusal::Refusal;

use super::Cluster;
use super::store_reply::StoreReply;
use crate::router::LocalNode;

/// The most profiles in one query.
const PROFILES_PER_QUERY: u32 = 2_000;

/// How much earlier than the last comparison a comparison begins. Times of changes come from the clocks of the nodes that stored
/// them, and a transaction may take a while to commit.
const COMPARISON_MARGIN_MS: i64 = 60_000;

/// The comparison of profiles with the store.
#[derive(Debug)]
pub(super) struct ProfileComparison {
    /// When the last comparison began.
    since: Timestamp,
    /// When the current one began; `None` if there is none.
    began: Option<Timestamp>,
    /// Whether another one follows.
    again: bool,
}

impl ProfileComparison {
    /// Nothing is followed before `now`.
    pub(super) fn new(now: Timestamp) -> Self {
        Self { since: now, began: None, again: false }
    }
}

impl Cluster {
    /// Reads the profiles that have changed since the last comparison.
    pub(super) fn compare_profiles(&mut self, node: &LocalNode) {
        if self.profiles.began.is_some() {
            self.profiles.again = true;
            return;
        }
        self.profiles.began = Some(node.clock.now());
        let since = Timestamp::from_millis(self.profiles.since.as_millis() - COMPARISON_MARGIN_MS);
        self.query_changed_profiles((since, UserKey(0)));
    }

    fn query_changed_profiles(&self, after: ChangePlace) {
        let page = self.store.changed_profiles(after, PROFILES_PER_QUERY);
        self.query(page, move |result| StoreReply::Profiles { asked: after, result });
    }

    pub(super) fn apply_changed_profiles(
        &mut self,
        node: &mut LocalNode,
        asked: ChangePlace,
        result: Result<ChangedProfiles, Refusal>,
    ) {
        match result {
            Ok(ChangedProfiles { profiles, next }) => {
                profiles.into_iter().for_each(|profile| node.profile_changed(profile));
                if let Some(next) = next {
                    return self.query_changed_profiles(next);
                }
                if let Some(began) = self.profiles.began.take() {
                    self.profiles.since = began;
                }
                if std::mem::take(&mut self.profiles.again) {
                    self.compare_profiles(node);
                }
            }
            Err(_) => self.query_changed_profiles(asked),
        }
    }
}
