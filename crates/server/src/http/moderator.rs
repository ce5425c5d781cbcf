//! Who moderates: a back end whose key has the scope, or a user whose token says so. Every call of moderators asks here.

use std::net::IpAddr;

use switchboard_protocol::UserId;

use super::api::{Authenticated, Credentials, check_acts_as};
use super::call::Maker;
use crate::denial::{Denial, Denied};
use crate::limiter::RateOwner;
use switchboard_store::grant::{KeyGrant, Scope, UserPattern};
use switchboard_store::record::Via;
use switchboard_store::refusal::Refusal;

/// A moderator who makes a call.
pub(super) struct Moderator {
    /// The payer whose rate the call counts against.
    pub(super) payer: RateOwner,
    /// The key; `None` for a user with a token.
    pub(super) grant: Option<KeyGrant>,
    address: Option<IpAddr>,
    /// The user, if it is one.
    user: Option<UserId>,
}

impl Authenticated {
    /// The moderator who makes the call. A back end's key needs the scope; the token of a user needs the claim `moderate` from an
    /// issuer that grants.
    pub(super) fn moderator(&self, scope: Scope) -> Result<Moderator, Denied> {
        let user = match &self.credentials {
            Credentials::Token(identity) if identity.may_moderate() => Some(identity.user.clone()),
            Credentials::Token(_) => {
                let message =
                    "this needs an API key, or a token whose claim `switchboard` has `\"moderate\":true`";
                let refusal = Refusal::not_permitted(Scope::Moderate.as_str(), message);
                return Err(Denied::new(Denial::NotPermitted, refusal));
            }
            Credentials::Key(_) | Credentials::None => {
                self.check_scope(scope)?;
                None
            }
        };
        let (payer, grant) = (self.credentials.payer(), self.grant.clone());
        Ok(Moderator { payer, grant, address: self.address, user })
    }
}

impl Moderator {
    /// What makes the call's changes.
    pub(super) fn maker(&self) -> Maker {
        let via = self.grant.as_ref().map_or(Via::USER, |grant| grant.number);
        Maker { via, address: self.address, by: self.user.clone() }
    }

    /// The users whom the moderator sees; `None` for all.
    pub(super) fn visible(&self) -> Option<UserPattern> {
        self.grant.as_ref().and_then(|grant| grant.acts_as.clone())
    }

    /// Refuses a user whom the key does not see.
    pub(super) fn check_sees(&self, user: &UserId) -> Result<(), Denied> {
        check_acts_as(self.grant.as_ref(), user)
    }

    /// Whether the moderator reads no content.
    pub(super) fn reads_no_text(&self) -> bool {
        self.grant.as_ref().is_some_and(|grant| grant.no_text)
    }

    /// The user in whose name the moderator decides: the user of the token, the one that a back end names, or one with the name of
    /// its key.
    pub(super) fn name(&self, acts_as: Option<UserId>) -> Result<UserId, Denied> {
        match (&self.user, acts_as) {
            (Some(user), Some(named)) if *user != named => {
                let message = "a user's token acts for that user only; leave `as` out";
                Err(Denied::new(Denial::NotPermitted, Refusal::forbidden(message)))
            }
            (Some(user), _) => Ok(user.clone()),
            (None, Some(named)) => {
                self.check_sees(&named)?;
                Ok(named)
            }
            (None, None) => {
                let named = self.grant.as_ref().and_then(|grant| UserId::parse(&grant.name).ok());
                named.ok_or_else(|| {
                    let message = "as: name the moderator; the API key's name is no user id";
                    Refusal::bad_field("as", message).into()
                })
            }
        }
    }
}
