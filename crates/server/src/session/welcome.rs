//! The answer to `hello`.

use switchboard_protocol::reply::Welcome;
use switchboard_protocol::{Permissions, UserId};
use switchboard_store::Summaries;

use crate::outbox::Outbox;
use crate::services::Services;

/// The answer to `hello`, with the first page of conversations.
pub(super) fn welcome_frame(
    services: &Services,
    outbox: &Outbox,
    user: &UserId,
    listed: Summaries,
    permissions: &Permissions,
) -> Welcome {
    Welcome {
        user: user.clone(),
        connection: outbox.id().to_string(),
        server: concat!("switchboard/", env!("CARGO_PKG_VERSION")).to_owned(),
        features: services.store.features().into_iter().map(str::to_owned).collect(),
        limits: (*services.limits).clone(),
        conversations: listed.summaries,
        more: listed.has_more,
        unread: Some(listed.unread),
        permissions: Some(Box::new(permissions.clone())),
    }
}
