//! The first frame: who is it, and what have they got?

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use switchboard_protocol::reply::{Reply, Welcome};
use switchboard_protocol::{
    CloseCode, Command, CommandId, ConversationId, ErrorCode, Frame, Hello, Rejected, Seq, Timestamp, UserId,
    decode,
};
use tokio::sync::oneshot;

use super::socket::{End, Flow, Socket, Stream};
use crate::auth::{AuthError, Identity};
use crate::denial::Denial;
use crate::encode::encode;
use crate::frame::{self, Bounds, Message};
use crate::metrics::Drop;
use crate::origin::Origin;
use crate::outbox::Outbox;
use crate::places::Place;
use crate::record::{ConversationKey, UserKey};
use crate::refusal::Refusal;
use crate::router::registry::SessionSlot;
use crate::router::{Goings, Heads, Subscribe};
use crate::services::Services;
use crate::store::{Activity, Change, Memberships, Seen, Snapshot, Submission};

/// Most pings and pongs before `hello`: a proxy that checks the connection sends one or two, and none has a rate before its
/// user is known. Beyond: close 1008.
const MAX_CONTROL_FRAMES: u32 = 10;

/// Whoever said a good `hello`, registered with the router.
pub(super) struct Admitted {
    pub(super) session: SessionSlot,
    user: UserId,
    /// What the token says; `None` where a name is believed.
    identity: Option<Identity>,
    cursors: BTreeMap<ConversationId, Seq>,
    id: Option<CommandId>,
    /// Of the client, for the log.
    address: IpAddr,
}

/// A session that is live.
pub(super) struct Attached {
    pub(super) session: SessionSlot,
    pub(super) user: UserId,
    pub(super) key: UserKey,
    pub(super) expires: Option<Timestamp>,
}

/// Waits for `hello`, checks who says it, and enters the router.
pub(super) async fn greet<S: Stream>(
    services: &Services,
    socket: &mut Socket<S>,
    outbox: &Arc<Outbox>,
    (address, place): (IpAddr, Option<&Place>),
) -> Result<Admitted, End> {
    let door = Door { services, outbox, address };
    let wait = Duration::from_millis(services.limits.hello_timeout.into());
    let heard = tokio::select! {
        biased;
        heard = tokio::time::timeout(wait, first_frame(door, socket)) => heard,
        () = services.tasks.stop().cancelled() => return Err(End::Close(CloseCode::Restart)),
        () = evicted(place) => return Err(End::Gone),
    };
    let Ok(heard) = heard else {
        services.metrics.dropped(Drop::SilentConnection);
        return Err(End::Close(CloseCode::Silent));
    };
    let (hello, id) = match heard? {
        Ok(Frame { id, command: Command::Hello(hello) }) => (hello, id),
        Ok(Frame { id, .. }) => {
            let refusal =
                Refusal::unauthorized(Denial::NoCredentials, "the first frame is `hello`, with a token");
            return Err(door.refuse(refusal, id, CloseCode::Policy));
        }
        Err(mut rejected) => {
            let id = rejected.id.take();
            let refusal = Refusal::from(rejected).denies(Denial::MalformedHello);
            return Err(door.refuse(refusal, id, CloseCode::Policy));
        }
    };
    let (user, identity) = match identify(services, &hello) {
        Ok(known) => known,
        Err((refusal, code)) => return Err(door.refuse(refusal, id, code)),
    };
    if place.is_some_and(|place| !place.authenticate()) {
        return Err(End::Gone);
    }
    match services.router.enter(user.clone(), outbox.clone()).await {
        Ok(session) => Ok(Admitted { session, user, identity, cursors: hello.cursors, id, address }),
        Err(refusal) => Err(door.refuse(refusal, id, CloseCode::TryLater)),
    }
}

/// Ready when newer strangers need the place.
async fn evicted(place: Option<&Place>) {
    match place {
        Some(place) => place.evicted().await,
        None => std::future::pending().await,
    }
}

/// What a refusal at `hello` needs.
#[derive(Clone, Copy)]
struct Door<'a> {
    services: &'a Services,
    outbox: &'a Outbox,
    address: IpAddr,
}

impl Door<'_> {
    /// Queues an error, counts and logs it, and says how to close.
    fn refuse(self, refusal: Refusal, id: Option<CommandId>, code: CloseCode) -> End {
        self.services.metrics.refused(refusal.code);
        if let Some(denial) = refusal.denial {
            self.services.denials.record(denial, self.address);
        }
        self.outbox.push_reply(encode(&Reply::<Box<RawValue>>::Error(refusal.into_failure(id))));
        End::Close(code)
    }
}

type Heard = Result<Frame, Rejected>;

/// Reads the first text frame. A few pings are answered, nothing else is done for a stranger.
async fn first_frame<S: Stream>(door: Door<'_>, socket: &mut Socket<S>) -> Result<Heard, End> {
    let Door { services, outbox, .. } = door;
    let bounds = Bounds { bytes: services.limits.hello_frame as usize, fragments: services.limits.fragments };
    let (mut heard, mut control_frames) = (None, 0);
    poll_fn(|cx| {
        loop {
            let mut hear = |message: Message<'_>| {
                control_frames += u32::from(matches!(message, Message::Ping(_) | Message::Pong));
                if control_frames > MAX_CONTROL_FRAMES {
                    services.metrics.dropped(Drop::RateLimit);
                    let refusal =
                        Refusal::new(ErrorCode::RateLimited, "the first frame is `hello`; ping after it");
                    return Err(door.refuse(refusal, None, CloseCode::Policy));
                }
                match message {
                    Message::Text(text) => heard = Some(decode(text)),
                    // Its kind is as wrong as its content.
                    Message::Binary(_) => return Err(End::Close(CloseCode::Policy)),
                    Message::Ping(payload) => outbox.set_pong(frame::pong(payload)),
                    Message::Pong => return Ok(Flow::Next),
                    Message::Close => return Err(End::Closed),
                }
                Ok(Flow::Pause)
            };
            let read = socket.poll_read(cx, bounds, &mut hear)?;
            if let Some(heard) = heard.take() {
                return std::task::Poll::Ready(Ok(heard));
            }
            // A pong that cannot be written yet waits for whatever comes next.
            let _ = socket.poll_write(cx, outbox, &services.metrics)?;
            if read.is_pending() {
                return std::task::Poll::Pending;
            }
        }
    })
    .await
}

/// Who says this `hello`, and what their token says.
fn identify(services: &Services, hello: &Hello) -> Result<(UserId, Option<Identity>), (Refusal, CloseCode)> {
    match (&hello.token, &hello.user) {
        (Some(token), None) => match services.authenticator.verify(token) {
            Ok(identity) => Ok((identity.user.clone(), Some(identity))),
            Err(error) => {
                let code = match error {
                    AuthError::Expired => CloseCode::TokenExpired,
                    _ => CloseCode::Unauthorized,
                };
                Err((Refusal::unauthorized(Denial::from(&error), error.to_string()), code))
            }
        },
        (None, Some(user)) if services.is_dev() => Ok((user.clone(), None)),
        (Some(_), Some(_)) => {
            let refusal = Refusal::bad_field(
                "user",
                "user: say who you are by a token or, in `dev` mode, a name; not both",
            );
            Err((refusal.denies(Denial::MalformedHello), CloseCode::Unauthorized))
        }
        _ => {
            let message = if services.is_dev() {
                "say who you are: `\"user\":\"alice\"`, or a `token`"
            } else {
                "say who you are by a `token`; a back end makes one for you"
            };
            Err((Refusal::unauthorized(Denial::NoCredentials, message), CloseCode::Unauthorized))
        }
    }
}

/// Reads the snapshot, says `welcome`, tells what of the cursors cannot be followed, and goes live.
pub(super) async fn attach(
    services: &Services,
    outbox: &Outbox,
    admitted: Admitted,
) -> Result<Attached, End> {
    let Admitted { session, user, identity, mut cursors, id, address } = admitted;
    let door = Door { services, outbox, address };
    let later = |refusal: Refusal| door.refuse(refusal, id.clone(), CloseCode::TryLater);
    let names: Vec<_> = cursors.keys().cloned().collect();
    let snapshot = snapshot(services, &user, names.clone()).await.map_err(later)?;
    // Asked after the router knows the session: a revocation from here on finds it there.
    if identity.as_ref().is_some_and(|identity| identity.is_revoked(snapshot.not_before)) {
        let refusal = Refusal::unauthorized(Denial::RevokedToken, AuthError::Revoked.to_string());
        return Err(door.refuse(refusal, id.clone(), CloseCode::Revoked));
    }
    let Snapshot { user: key, not_before, named, .. } = snapshot;
    let mut mark = snapshot.mark;
    let pages = Pages { session, user: &user, key };
    let Loaded { page, heads, goings, latest } =
        pages.load(services, outbox, snapshot.memberships).await.map_err(|cause| match cause {
            Cause::Refused(refusal) => later(refusal),
            Cause::Closing(code) => End::Close(code),
        })?;
    let listed = match snapshot.summaries {
        Some(listed) => listed,
        None => services.store.summaries(&user, key, latest).await.map_err(later)?,
    };
    mark = mark.max(page.mark).max(listed.mark);
    let welcome = Welcome {
        user: user.clone(),
        connection: uuid::Uuid::now_v7().to_string(),
        server: concat!("switchboard/", env!("CARGO_PKG_VERSION")).to_owned(),
        limits: (*services.limits).clone(),
        conversations: listed.summaries,
        more: listed.more,
    };
    tracing::debug!(%user, %address, connection = welcome.connection, "a session starts");
    outbox.push_reply(encode(&Reply::<Box<RawValue>>::Welcome(Box::new(welcome))));
    let mut starts = Starts::default();
    for (name, seen) in names.into_iter().zip(named) {
        let cursor = cursors.remove(&name).unwrap_or_default();
        if let Some(reply) = starts.add(&name, cursor, seen, services.limits.replay) {
            outbox.push_reply(encode(&reply));
        }
    }
    let Starts { cursors, former, gone } = starts;
    let listed = listed.joined.iter().map(|joined| (joined.conversation, joined.head)).collect();
    let subscribe =
        Subscribe { session, mark, not_before, page, heads, cursors, listed, former, gone, goings };
    services.router.subscribe(subscribe).await.map_err(later)?;
    Ok(Attached { session, user, key, expires: identity.map(|identity| identity.expires) })
}

/// Reads the memberships of a session's user.
struct Pages<'a> {
    session: SessionSlot,
    user: &'a UserId,
    key: UserKey,
}

/// What the pages of memberships have come to.
struct Loaded {
    /// The last one.
    page: Memberships,
    /// Where the conversations of all of them ended.
    heads: Heads,
    /// From which conversations the user has gone since they were read.
    goings: Goings,
    /// Which conversations the first page of summaries has.
    latest: Vec<ConversationKey>,
}

/// Why a session does not come in.
enum Cause {
    Refused(Refusal),
    /// It is to be closed.
    Closing(CloseCode),
}

impl Pages<'_> {
    /// Reads all pages and hands all but the last to the router. `welcome` follows the last one: everything that is published from
    /// then on is behind what was read.
    async fn load(&self, services: &Services, outbox: &Outbox, first: Memberships) -> Result<Loaded, Cause> {
        let most = services.limits.page_size(None) as usize + 1;
        let mut loaded =
            Loaded { page: first, heads: Heads::default(), goings: Vec::new(), latest: Vec::new() };
        let mut latest = Vec::new();
        loop {
            loaded.heads.add(loaded.page.joined.clone());
            latest.append(&mut loaded.page.latest);
            Activity::keep_latest(&mut latest, most);
            let Some(after) = loaded.page.next else { break };
            if let Some(code) = outbox.state().closing {
                return Err(Cause::Closing(code));
            }
            let goings = services.router.load(self.session, loaded.page).await;
            loaded.goings.extend(goings.map_err(Cause::Refused)?);
            let next = services.store.memberships(self.user, self.key, after).await;
            loaded.page = next.map_err(Cause::Refused)?;
        }
        loaded.latest = latest.iter().map(|latest| latest.conversation).collect();
        Ok(loaded)
    }
}

/// What the user starts from; a user never seen before appears.
async fn snapshot(
    services: &Services,
    user: &UserId,
    names: Vec<ConversationId>,
) -> Result<Snapshot, Refusal> {
    if let Some(snapshot) = services.store.attach(user, names.clone()).await? {
        return Ok(snapshot);
    }
    let (reply, appeared) = oneshot::channel();
    let submission = Submission { actor: user.clone(), change: Change::Appear, origin: Origin::Call(reply) };
    services.store.submit(submission).map_err(|_| Refusal::unavailable())?;
    appeared.await.unwrap_or_else(|_| Err(Refusal::unavailable()))?;
    services.store.attach(user, names).await?.ok_or_else(Refusal::unavailable)
}

/// Where the replays start.
#[derive(Default)]
struct Starts {
    cursors: Vec<(ConversationKey, Seq)>,
    former: Vec<(ConversationKey, Seq, Seq)>,
    gone: Vec<(ConversationKey, Seq)>,
}

impl Starts {
    /// Notes where the replay of one conversation starts; the frame that tells why it does not.
    fn add(
        &mut self,
        name: &ConversationId,
        cursor: Seq,
        seen: Result<Seen, Refusal>,
        most: u32,
    ) -> Option<Reply<Box<RawValue>>> {
        let failed = |refusal: Refusal| {
            let mut failure = refusal.into_failure(None);
            failure.conversation = Some(name.clone());
            Some(Reply::Error(failure))
        };
        let Seen { conversation, head, member } = match seen {
            Ok(seen) => seen,
            Err(refusal) => return failed(refusal),
        };
        if !member {
            self.gone.push((conversation, head));
        }
        if cursor > head {
            let message = format!("the log ends at {head}; forget what you have of this conversation");
            self.begin(conversation, head, member);
            return failed(Refusal::new(ErrorCode::BadCursor, message));
        }
        if head.0 - cursor.0 > u64::from(most) {
            self.begin(conversation, head, member);
            return Some(Reply::Gap { conversation: name.clone(), after: cursor, head });
        }
        if member {
            self.cursors.push((conversation, cursor));
        } else {
            self.former.push((conversation, cursor, head));
        }
        None
    }

    /// The client has been told where the log of a conversation ends, and is given what follows.
    fn begin(&mut self, conversation: ConversationKey, head: Seq, member: bool) {
        if member {
            self.cursors.push((conversation, head));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(cursor: u64, head: u64, member: bool) -> (Starts, Option<Reply<Box<RawValue>>>) {
        let name = ConversationId::parse("#a").expect("id");
        let mut starts = Starts::default();
        let seen = Seen { conversation: ConversationKey(1), head: Seq(head), member };
        let reply = starts.add(&name, Seq(cursor), Ok(seen), 10);
        (starts, reply)
    }

    #[test]
    fn a_replay_starts_at_the_cursor_unless_it_would_be_too_long() {
        let (starts, reply) = add(5, 15, true);
        assert!(reply.is_none());
        assert_eq!(starts.cursors, [(ConversationKey(1), Seq(5))]);
        let (starts, reply) = add(4, 15, true);
        assert!(matches!(reply, Some(Reply::Gap { after: Seq(4), head: Seq(15), .. })));
        assert_eq!(starts.cursors, [(ConversationKey(1), Seq(15))], "what follows is given");
    }

    #[test]
    fn somebody_who_left_is_replayed_to_the_end_of_their_time() {
        assert_eq!(add(5, 9, false).0.former, [(ConversationKey(1), Seq(5), Seq(9))]);
    }

    #[test]
    fn a_cursor_ahead_is_refused_and_named() {
        let (_, reply) = add(10, 9, true);
        let Some(Reply::Error(failure)) = reply else { panic!("{reply:?}") };
        assert_eq!(failure.code, ErrorCode::BadCursor);
        assert_eq!(failure.conversation.map(|c| c.to_string()).as_deref(), Some("#a"));
    }
}
