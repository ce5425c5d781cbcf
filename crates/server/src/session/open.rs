//! Asks the application whether a user may connect.

use switchboard_protocol::{CloseCode, ConversationId, Join, UserId};
use tokio::sync::oneshot;

use crate::auth::Identity;
use crate::denial::Denied;
use crate::hooks::{Asker, OpenDecision};
use crate::services::Services;
use switchboard_store::origin::{BackEndOrigin, Origin};
use switchboard_store::record::Via;
use switchboard_store::refusal::Refusal;
use switchboard_store::{Change, Submission};

/// Asks the application, if it is to be asked, and makes the user a member of the rooms that it names.
///
/// # Errors
/// The user does not come in. The close code tells the client whether to come back.
pub(super) async fn ask(
    services: &Services,
    asker: Asker,
    identity: Option<&Identity>,
) -> Result<(), (Denied, CloseCode)> {
    let Some(hooks) = services.hooks.as_ref().filter(|hooks| hooks.asks_open()) else { return Ok(()) };
    // The snapshot is checked again. The application is not asked about a user who would be refused anyway.
    let standing = services.store.standing(&asker.user).await;
    let standing = standing.map_err(|refusal| (refusal.into(), CloseCode::TryLater))?;
    services.check_standing(&asker.user, identity, &standing)?;
    let decision = tokio::select! {
        decision = hooks.ask_open(&asker) => decision,
        () = services.tasks.stop().cancelled() => {
            return Err((Refusal::unavailable().into(), CloseCode::Restart));
        }
    };
    match decision {
        OpenDecision::Refuse(refusal) => Err((refusal.into(), CloseCode::Refused)),
        OpenDecision::Unavailable(refusal) => Err((refusal.into(), CloseCode::TryLater)),
        OpenDecision::Accept(rooms) => {
            for room in rooms {
                join(services, &asker.user, room).await;
            }
            Ok(())
        }
    }
}

/// Makes the user a member of a room, as their own `join` would.
async fn join(services: &Services, user: &UserId, room: ConversationId) {
    let (reply, joined) = oneshot::channel();
    let change = Change::Join(Join { conversation: room.clone().into() });
    let origin = Origin::BackEnd(BackEndOrigin { reply, via: Via::HOOK, address: None, by: None });
    let submission = Submission { actor: user.clone(), change, origin };
    if services.store.submit(submission).is_ok()
        && let Ok(Err(refusal)) = joined.await
    {
        let code = refusal.code.as_str();
        tracing::warn!(room = room.as_str(), code, "the hook names a room that a user cannot join");
    }
}
