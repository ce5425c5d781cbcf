//! Changes of profiles.

use switchboard_protocol::{SetProfile, UserId};

use super::rows::Rows;
use super::{ChangeContext, ChangeResult, OperationError};
use crate::profile::{ProfileChange, ShownProfile, TokenProfile};
use crate::record::UserKey;
use crate::search;
use crate::{Committed, CommittedProfiles};

impl<R: Rows> ChangeContext<'_, R> {
    /// Changes the actor's own profile.
    pub(super) fn set_own_profile(&mut self, fields: &SetProfile) -> ChangeResult<R> {
        self.begin_effects()?;
        let user = self.user_or_new(self.actor)?;
        let (version, changed) = self.do_change_profile(user, &self.actor.clone(), fields, None)?;
        let own = Some((self.actor.clone(), version));
        Ok(Committed::Profiles(Box::new(CommittedProfiles { own, changed: changed.into_iter().collect() })))
    }

    /// Changes the profiles of several users.
    pub(super) fn set_profiles(&mut self, changes: &[ProfileChange]) -> ChangeResult<R> {
        for change in changes {
            self.check_not_retired(&change.user)?;
        }
        let mut changed = Vec::new();
        for ProfileChange { user: name, fields, active } in changes {
            let user = self.user_or_new(name)?;
            changed.extend(self.do_change_profile(user, name, fields, *active)?.1);
        }
        Ok(Committed::Profiles(Box::new(CommittedProfiles { own: None, changed })))
    }

    /// Changes the actor's profile to what a token says, if the token is news.
    pub(super) fn apply_token_profile(&mut self, token: &TokenProfile) -> ChangeResult<R> {
        let user = self.user_or_new(self.actor)?;
        let before = self.rows.profile(user)?.unwrap_or_default();
        let mut changed = Vec::new();
        if token.has_new_claims(before.last_token().as_ref()) {
            changed.extend(self.do_change_profile(user, &self.actor.clone(), &token.fields, None)?.1);
            let mut profile = self.rows.profile(user)?.unwrap_or_default();
            profile.issued = Some(token.issued.as_millis());
            profile.claims = Some(token.claims.clone());
            self.do_put_profile(user, &self.actor.clone(), profile)?;
        }
        Ok(Committed::Profiles(Box::new(CommittedProfiles { own: None, changed })))
    }

    /// Changes a profile. Returns its version, and the profile if other users see a difference.
    fn do_change_profile(
        &mut self,
        user: UserKey,
        name: &UserId,
        fields: &SetProfile,
        active: Option<bool>,
    ) -> Result<(u64, Option<ShownProfile>), OperationError<R::Error>> {
        let before = self.rows.profile(user)?.unwrap_or_default();
        let mut after = before.clone();
        after.apply(fields, active);
        if after.shows_the_same(&before) {
            return Ok((before.version, None));
        }
        after.version += 1;
        after.changed = self.now.as_millis();
        let (version, profile) = (after.version, after.visible_profile(name.clone()));
        let shown = ShownProfile { profile, hidden_from: self.rows.blocked_users(user)? };
        self.do_put_profile(user, name, after)?;
        self.do_tell_feed("user.profile", Some(user), format!(r#"{{"version":{version}}}"#))?;
        Ok((version, Some(shown)))
    }

    /// Stores a profile with the words by which it is found.
    fn do_put_profile(
        &mut self,
        user: UserKey,
        name: &UserId,
        profile: crate::profile::StoredProfile,
    ) -> Result<(), OperationError<R::Error>> {
        let before = self.rows.profile(user)?;
        let old = before.map(|before| search::words(name, before.name.as_deref())).unwrap_or_default();
        let new = search::words(name, profile.name.as_deref());
        let removed = old.difference(&new).cloned().collect();
        let added = new.difference(&old).cloned().collect();
        Ok(self.rows.put_profile(user, profile, removed, added)?)
    }
}
