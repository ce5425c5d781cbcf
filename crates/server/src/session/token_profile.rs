//! The profile that a user's token carries.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};
use switchboard_protocol::{Avatar, PROFILES, PersonName, SetProfile, UserId};
use tokio::sync::oneshot;

use crate::auth::Identity;
use crate::services::Services;
use switchboard_store::origin::Origin;
use switchboard_store::profile::TokenProfile;
use switchboard_store::{Change, Submission};

/// The profile in a token; `None` if it says nothing of its user that the server takes.
fn profile_of(services: &Services, identity: &Identity) -> Option<TokenProfile> {
    let claims = &identity.claims;
    let name = claims.name.as_deref().and_then(|name| PersonName::parse(name).ok());
    // A token has nobody to whom a refusal could be said, so its user has no name.
    let is_refused =
        |name: &PersonName| services.filter.as_ref().is_some_and(|filter| filter.finds(name.as_str()));
    let name = name.filter(|name| !is_refused(name));
    let avatar = claims.picture.as_deref().and_then(|picture| Avatar::parse(picture).ok());
    let avatar = avatar.filter(|avatar| services.profiles.is_allowed(avatar));
    if name.is_none() && avatar.is_none() {
        return None;
    }
    let text = |claim: Option<&str>| claim.unwrap_or_default().to_owned();
    let both =
        text(name.as_ref().map(PersonName::as_str)) + "\0" + &text(avatar.as_ref().map(Avatar::as_str));
    let mut hash = String::with_capacity(32);
    for byte in Sha256::digest(both).iter().take(16) {
        // Writing to a string cannot fail.
        let _ = write!(hash, "{byte:02x}");
    }
    let fields = SetProfile { name: name.map(Some), avatar: avatar.map(Some), data: None };
    Some(TokenProfile { fields, claims: hash, issued: identity.issued? })
}

/// Stores what a token says of its user, if it says something new. A failure changes nothing: the next `hello` tries again.
pub(super) async fn store_profile(services: &Services, user: &UserId, identity: &Identity) {
    if !services.profiles.from_token {
        return;
    }
    let Some(token) = profile_of(services, identity) else { return };
    if services.require_feature(PROFILES).is_err() {
        return;
    }
    match services.store.last_token(user).await {
        Ok(last) if token.has_new_claims(last.as_ref()) => {}
        _ => return,
    }
    let (reply, stored) = oneshot::channel();
    let change = Change::ReadToken(Box::new(token));
    let submission = Submission { actor: user.clone(), change, origin: Origin::Call(reply) };
    if services.store.submit(submission).is_ok() {
        let _ = stored.await;
    }
}
