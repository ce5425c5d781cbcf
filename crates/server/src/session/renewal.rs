//! The command `token`: a newer token for a live connection.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use switchboard_protocol::reply::OkBody;
use switchboard_protocol::{CommandId, ErrorCode};
use tokio::time::Instant;

use super::live::LiveSession;
use super::pending::PendingQuery;
use crate::auth::{self, AuthError, Identity};
use switchboard_store::ban::Standing;
use switchboard_store::refusal::Refusal;

impl LiveSession {
    /// Checks a newer token, as `hello` does. If it is refused, the connection keeps the token that it has.
    pub(super) fn renew(&mut self, id: Option<CommandId>, token: &str) {
        let verified = self.services.authenticator.verify(token);
        let identity = verified.map_err(AuthError::refusal);
        let identity = identity.and_then(|identity| {
            if identity.user == self.user {
                return Ok(identity);
            }
            let message = "the token is another user's; open another connection for that user";
            Err(Refusal::new(ErrorCode::Unauthorized, message))
        });
        match identity {
            Ok(identity) => {
                let standing = self.services.store.standing(&self.user);
                let claims = self.asked.as_ref().and_then(|_| auth::claims_of(token));
                self.pending = Some(Box::new(PendingQuery::Token(id, identity, claims, standing)));
            }
            Err(refusal) => self.reply(id, Err(refusal)),
        }
    }

    /// Replaces the token of the connection, unless it is revoked or its user is banned.
    pub(super) fn apply_token(
        &mut self,
        identity: &Identity,
        claims: Option<Arc<str>>,
        standing: &Standing,
    ) -> Result<OkBody<Box<RawValue>>, Refusal> {
        let allowed = self.services.check_standing(&self.user, Some(identity), standing);
        allowed.map_err(|(denied, _)| denied.refusal)?;
        if let Some(asked) = &mut self.asked {
            asked.set_claims(claims);
        }
        let lifetime = identity.expires.as_millis().saturating_sub(self.services.clock.now().as_millis());
        self.expires = Some(Instant::now() + Duration::from_millis(u64::try_from(lifetime).unwrap_or(0)));
        self.permissions = self.services.permissions_of(Some(identity));
        let permissions = Some(Box::new((*self.permissions).clone()));
        Ok(OkBody::Token { expires: identity.expires, permissions })
    }
}
