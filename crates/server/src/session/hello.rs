//! Handles `hello`: authenticates the user and subscribes the session at the client's cursors.
//!
//! [`ReplayStarts`] decides which cursors are answered with `gap` or `bad_cursor`. `cursors.rs` is about `read` and `received`.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use switchboard_protocol::reply::Reply;
use switchboard_protocol::{
    CloseCode, Command, CommandId, ConversationId, Device, ErrorCode, Frame, Hello, Permissions, Rejected,
    Seq, Timestamp, UserId, decode,
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::socket::{ConnectionEnd, DecodeFlow, Socket, Stream};
use super::welcome::welcome_frame;
use super::{log_lines, token_profile};
use crate::auth::{self, AuthError, Identity};
use crate::denial::{Denial, Denied};
use crate::encode::encode;
use crate::frame::{self, Message, MessageBounds};
use crate::hooks::Asker;
use crate::outbox::Outbox;
use crate::places::Place;
use crate::router::registry::SessionSlot;
use crate::router::{LeftConversations, PageHeads, Subscription};
use crate::services::Services;
use crate::throttle::AffectedClient;
use switchboard_store::origin::Origin;
use switchboard_store::record::{ConversationKey, UserKey};
use switchboard_store::refusal::Refusal;
use switchboard_store::{Activity, Change, Memberships, Snapshot, Submission, VisibleConversation};

/// The most pings and pongs before `hello`; a proxy that checks the connection sends one or two. The bound is fixed, because rates
/// apply only to authenticated users. Beyond it, the connection is closed with 1008.
const MAX_CONTROL_FRAMES: u32 = 10;

/// A client with a valid `hello`, registered with the router.
pub(super) struct AdmittedSession {
    pub(super) session: SessionSlot,
    pub(super) user: UserId,
    /// The name that the client chose for its device.
    pub(super) device: Option<Device>,
    /// The token's claims; `None` on a `dev` server with a bare user name.
    identity: Option<Identity>,
    /// The token's claims as JSON, where the application is asked.
    claims: Option<Arc<str>>,
    cursors: BTreeMap<ConversationId, Seq>,
    id: Option<CommandId>,
    /// The client's address, for the log.
    address: IpAddr,
}

/// A session that has received `welcome` and is subscribed.
pub(super) struct AttachedSession {
    pub(super) session: SessionSlot,
    pub(super) user: UserId,
    pub(super) key: UserKey,
    pub(super) expires: Option<Timestamp>,
    /// The token's claims as JSON, where the application is asked.
    pub(super) claims: Option<Arc<str>>,
    /// What the user may do.
    pub(super) permissions: Arc<Permissions>,
    pub(super) address: IpAddr,
}

/// Waits for `hello`, authenticates it, and registers the session with the router.
pub(super) async fn receive_hello<S: Stream>(
    services: &Services,
    socket: &mut Socket<S>,
    outbox: &Arc<Outbox>,
    place: Option<&Place>,
) -> Result<Box<AdmittedSession>, ConnectionEnd> {
    let refuser = HelloRefuser { services, outbox, user: None, address: socket.address() };
    let deadline = Instant::now() + Duration::from_millis(services.limits.hello_timeout.into());
    let received = tokio::select! {
        biased;
        received = tokio::time::timeout_at(deadline, first_frame(refuser, socket)) => received,
        () = services.tasks.stop().cancelled() => return Err(ConnectionEnd::Close(CloseCode::Restart)),
        () = wait_for_eviction(place) => return Err(ConnectionEnd::ConnectionLost),
    };
    let Ok(first) = received else {
        log_lines::log_no_hello(services, outbox.id(), socket.address());
        return Err(ConnectionEnd::Close(CloseCode::Silent));
    };
    let (hello, id) = match first? {
        Ok(Frame { id, command: Command::Hello(hello), .. }) => (hello, id),
        Ok(Frame { id, .. }) => {
            let refusal =
                Denied::unauthorized(Denial::NoCredentials, "the first frame is `hello`, with a token");
            return Err(refuser.refuse(refusal, id, CloseCode::Policy));
        }
        Err(mut rejected) => {
            let id = rejected.id.take();
            let refusal = Denied::new(Denial::MalformedHello, rejected.into());
            return Err(refuser.refuse(refusal, id, CloseCode::Policy));
        }
    };
    let (user, identity) = match identify(services, &hello) {
        Ok(identified) => identified,
        Err((refusal, code)) => return Err(refuser.refuse(refusal, id, code)),
    };
    if place.is_some_and(|place| !place.mark_authenticated()) {
        return Err(ConnectionEnd::ConnectionLost);
    }
    let claims = hello.token.as_deref().filter(|_| services.hooks.is_some()).and_then(auth::claims_of);
    let asker = Asker {
        user: user.clone(),
        claims: claims.clone(),
        permissions: None,
        address: Some(socket.address()),
        key: None,
    };
    if let Err((refusal, code)) = super::open::ask(services, asker, identity.as_ref()).await {
        let refuser = HelloRefuser { user: Some(&user), ..refuser };
        return Err(refuser.refuse(refusal, id, code));
    }
    match services.router.enter(user.clone(), outbox.clone()).await {
        Ok(session) => Ok(Box::new(AdmittedSession {
            session,
            user,
            identity,
            claims,
            device: hello.device,
            cursors: hello.cursors,
            id,
            address: socket.address(),
        })),
        Err(refusal) => Err(refuser.refuse(refusal, id, CloseCode::TryLater)),
    }
}

/// Resolves when the connection is evicted because newer unauthenticated connections need its place.
async fn wait_for_eviction(place: Option<&Place>) {
    match place {
        Some(place) => place.wait_for_eviction().await,
        None => std::future::pending().await,
    }
}

/// Refuses a client at `hello`: sends the answer, and logs and counts the refusal.
#[derive(Clone, Copy)]
struct HelloRefuser<'a> {
    services: &'a Services,
    outbox: &'a Outbox,
    /// The user, once the credentials have been checked.
    user: Option<&'a UserId>,
    address: IpAddr,
}

impl HelloRefuser<'_> {
    /// Queues an error frame, counts and logs the refusal, and returns the close code.
    fn refuse(self, denied: impl Into<Denied>, id: Option<CommandId>, code: CloseCode) -> ConnectionEnd {
        let Denied { refusal, denial, token } = denied.into();
        let Services { metrics, denials, .. } = self.services;
        metrics.count_refused(refusal.code);
        let user = self.user.or(token.as_ref().and_then(|token| token.user.as_ref()));
        let span = || log_lines::span(self.outbox.id(), user, self.address);
        match denial {
            Some(denial) => denials.record(denial, token.as_deref(), self.address, span),
            None => {
                let affected = user.map_or(AffectedClient::Address(self.address), AffectedClient::User);
                denials.log_refusal(refusal.code, refusal.field.as_deref(), Some(affected), span);
            }
        }
        self.outbox.push_reply(encode(&Reply::<Box<RawValue>>::Error(refusal.into_failure(id))));
        ConnectionEnd::Close(code)
    }
}

type FirstFrame = Result<Frame, Rejected>;

/// Reads the first text frame. Answers a few pings before it.
async fn first_frame<S: Stream>(
    refuser: HelloRefuser<'_>,
    socket: &mut Socket<S>,
) -> Result<FirstFrame, ConnectionEnd> {
    let HelloRefuser { services, outbox, .. } = refuser;
    let bounds =
        MessageBounds { bytes: services.limits.hello_frame as usize, fragments: services.limits.fragments };
    let (mut first, mut control_frames) = (None, 0);
    poll_fn(|cx| {
        loop {
            let mut on_message = |message: Message<'_>| {
                control_frames += u32::from(matches!(message, Message::Ping(_) | Message::Pong));
                if control_frames > MAX_CONTROL_FRAMES {
                    // No real client sends so many pings. The close code allows no retry, because this client would reconnect and
                    // send them again.
                    let message = "the first frame is `hello`; ping after it";
                    let refusal = Denied::unauthorized(Denial::NoCredentials, message);
                    return Err(refuser.refuse(refusal, None, CloseCode::Policy));
                }
                match message {
                    Message::Text(text) => first = Some(decode(text)),
                    // `hello` must be a text frame.
                    Message::Binary(_) => return Err(ConnectionEnd::Close(CloseCode::Policy)),
                    Message::Ping(payload) => outbox.set_pong(frame::pong(payload)),
                    Message::Pong => return Ok(DecodeFlow::Next),
                    Message::Close => return Err(ConnectionEnd::ClosedByClient),
                }
                Ok(DecodeFlow::Pause)
            };
            let read = socket.poll_read(cx, bounds, &mut on_message)?;
            if let Some(first) = first.take() {
                return std::task::Poll::Ready(Ok(first));
            }
            // A pong that cannot be written yet is written with the next frame.
            let _ = socket.poll_write(cx, outbox, &services.metrics)?;
            if read.is_pending() {
                return std::task::Poll::Pending;
            }
        }
    })
    .await
}

/// Authenticates a `hello`: returns the user and the token's identity.
fn identify(services: &Services, hello: &Hello) -> Result<(UserId, Option<Identity>), (Denied, CloseCode)> {
    match (&hello.token, &hello.user) {
        (Some(token), None) => match services.authenticator.check(token) {
            Ok(identity) => Ok((identity.user.clone(), Some(identity))),
            Err(refused) => {
                let code = match refused.error {
                    AuthError::Expired => CloseCode::TokenExpired,
                    AuthError::KeysAway(_) => CloseCode::TryLater,
                    _ => CloseCode::Unauthorized,
                };
                Err((refused.into(), code))
            }
        },
        (None, Some(user)) if services.is_dev() => Ok((user.clone(), None)),
        (Some(_), Some(_)) => {
            let refusal =
                Refusal::bad_field("user", "user: send a `token` or, in `dev` mode, a `user`; not both");
            Err((Denied::new(Denial::MalformedHello, refusal), CloseCode::Unauthorized))
        }
        _ => {
            let message = if services.is_dev() {
                "name the user: `\"user\":\"alice\"`, or send a `token`"
            } else {
                "send a `token`; your application's back end issues it"
            };
            Err((Denied::unauthorized(Denial::NoCredentials, message), CloseCode::Unauthorized))
        }
    }
}

/// Reads the snapshot, sends `welcome` and a frame for each cursor that cannot be resumed, and subscribes the session.
pub(super) async fn attach_session(
    services: &Services,
    outbox: &Outbox,
    admitted: Box<AdmittedSession>,
) -> Result<AttachedSession, ConnectionEnd> {
    let AdmittedSession { session, user, identity, claims, mut cursors, id, address, .. } = *admitted;
    let refuser = HelloRefuser { services, outbox, user: Some(&user), address };
    let later = |refusal: Refusal| refuser.refuse(refusal, id.clone(), CloseCode::TryLater);
    let names: Vec<_> = cursors.keys().cloned().collect();
    let snapshot = read_snapshot(services, &user, names.clone()).await;
    let snapshot = snapshot.map_err(|refusal| match refusal.code {
        // The user has another id by now.
        ErrorCode::Unauthorized => {
            let denied = Denied::new(Denial::RevokedToken, refusal);
            refuser.refuse(denied, id.clone(), CloseCode::Unauthorized)
        }
        _ => later(refusal),
    })?;
    // The snapshot was read after the router registered the session, so a later revocation or ban reaches it there.
    let allowed = services.check_standing(&user, identity.as_ref(), &snapshot.standing);
    allowed.map_err(|(denied, code)| refuser.refuse(denied, id.clone(), code))?;
    if let Some(identity) = &identity {
        token_profile::store_profile(services, &user, identity).await;
    }
    let Snapshot { user: key, standing, named, blocks, .. } = snapshot;
    let mut mark = snapshot.mark;
    let pages = MembershipPages { session, user: &user, key };
    let LoadedMemberships { page, heads, leaves, latest } = pages
        .load_memberships(services, outbox, snapshot.memberships)
        .await
        .map_err(|cause| match cause {
            LoadFailure::Refused(refusal) => later(refusal),
            LoadFailure::Closing(code) => ConnectionEnd::Close(code),
        })?;
    let listed = match snapshot.summaries {
        Some(listed) => listed,
        None => services.store.summaries(&user, key, latest).await.map_err(later)?,
    };
    mark = mark.max(page.mark).max(listed.mark);
    let permissions = services.permissions_of(identity.as_ref());
    let joined = listed.joined.iter().map(|joined| (joined.conversation, joined.head)).collect();
    let welcome = welcome_frame(services, outbox, &user, listed, &permissions);
    log_lines::span(outbox.id(), Some(&user), address).in_scope(|| tracing::debug!("connection opened"));
    outbox.push_reply(encode(&Reply::<Box<RawValue>>::Welcome(Box::new(welcome))));
    let mut starts = ReplayStarts::default();
    for (name, seen) in names.into_iter().zip(named) {
        let cursor = cursors.remove(&name).unwrap_or_default();
        if let Some(head) = seen.as_ref().ok().map(|seen| seen.head).filter(|head| cursor > *head) {
            services.metrics.cursors_ahead.inc();
            log_lines::log_client_ahead(services, &user, &name, (cursor, head), || {
                log_lines::span(outbox.id(), Some(&user), address)
            });
        }
        if let Some(reply) = starts.add(&name, cursor, seen, services.limits.replay) {
            outbox.push_reply(encode(&reply));
        }
    }
    let ReplayStarts { cursors, former, gone } = starts;
    let subscribe = Subscription {
        session,
        mark,
        not_before: standing.not_before,
        page,
        heads,
        cursors,
        listed: joined,
        blocks,
        former,
        left_conversations: gone,
        left_since_read: leaves,
    };
    services.router.subscribe(subscribe).await.map_err(later)?;
    let expires = identity.map(|identity| identity.expires);
    Ok(AttachedSession { session, user, key, expires, claims, permissions, address })
}

/// Reads the memberships of a session's user.
struct MembershipPages<'a> {
    session: SessionSlot,
    user: &'a UserId,
    key: UserKey,
}

/// The result of reading all pages of memberships.
struct LoadedMemberships {
    /// The last page of memberships.
    page: Memberships,
    /// The last event (head) of each conversation on any page.
    heads: PageHeads,
    /// The conversations that the user has left since their page was read.
    leaves: LeftConversations,
    /// The conversations with the latest activity.
    latest: Vec<ConversationKey>,
}

/// Why a session cannot be attached.
enum LoadFailure {
    Refused(Refusal),
    /// The connection is closing with this code.
    Closing(CloseCode),
}

impl MembershipPages<'_> {
    /// Reads all pages and hands all but the last to the router. `welcome` is sent after the last one, so that every event
    /// published from then on comes after the pages.
    async fn load_memberships(
        &self,
        services: &Services,
        outbox: &Outbox,
        first: Memberships,
    ) -> Result<LoadedMemberships, LoadFailure> {
        let most = Activity::max_per_connection(&services.limits);
        let mut loaded = LoadedMemberships {
            page: first,
            heads: PageHeads::default(),
            leaves: Vec::new(),
            latest: Vec::new(),
        };
        let mut latest = Vec::new();
        loop {
            loaded.heads.add(loaded.page.joined.clone());
            latest.append(&mut loaded.page.latest);
            Activity::keep_latest(&mut latest, most);
            let Some(after) = loaded.page.next else { break };
            if let Some(code) = outbox.state().closing {
                return Err(LoadFailure::Closing(code));
            }
            let leaves = services.router.load(self.session, loaded.page).await;
            loaded.leaves.extend(leaves.map_err(LoadFailure::Refused)?);
            let next = services.store.memberships(self.user, self.key, after).await;
            loaded.page = next.map_err(LoadFailure::Refused)?;
        }
        loaded.latest = latest.iter().map(|latest| latest.conversation).collect();
        Ok(loaded)
    }
}

/// Reads the user's snapshot. Creates the user if the server has not seen them before.
async fn read_snapshot(
    services: &Services,
    user: &UserId,
    names: Vec<ConversationId>,
) -> Result<Snapshot, Refusal> {
    if let Some(snapshot) = services.store.attach(user, names.clone()).await? {
        return Ok(snapshot);
    }
    let (reply, created) = oneshot::channel();
    let submission =
        Submission { actor: user.clone(), change: Change::RegisterUser, origin: Origin::Call(reply) };
    services.store.submit(submission).map_err(|_| Refusal::unavailable())?;
    created.await.unwrap_or_else(|_| Err(Refusal::unavailable()))?;
    services.store.attach(user, names).await?.ok_or_else(Refusal::unavailable)
}

/// Where the replay of each conversation starts, by kind of conversation: see the fields of [`Subscription`].
#[derive(Default)]
struct ReplayStarts {
    cursors: Vec<(ConversationKey, Seq)>,
    former: Vec<(ConversationKey, Seq, Seq)>,
    gone: Vec<(ConversationKey, Seq)>,
}

impl ReplayStarts {
    /// Records where the replay of a conversation starts. Returns the frame to send if it cannot start at the cursor.
    fn add(
        &mut self,
        name: &ConversationId,
        cursor: Seq,
        seen: Result<VisibleConversation, Refusal>,
        most: u32,
    ) -> Option<Reply<Box<RawValue>>> {
        let failed = |refusal: Refusal| {
            let mut failure = refusal.into_failure(None);
            failure.conversation = Some(name.clone());
            Some(Reply::Error(failure))
        };
        let VisibleConversation { conversation, first, head, is_member: member, .. } = match seen {
            Ok(seen) if seen.is_hidden => return None,
            Ok(seen) => seen,
            Err(refusal) => return failed(refusal),
        };
        if !member {
            self.gone.push((conversation, head));
        }
        if cursor > head {
            let message = format!("the log ends at {head}; forget what you have of this conversation");
            self.start_at_head(conversation, head, member);
            return failed(Refusal::new(ErrorCode::BadCursor, message));
        }
        let cursor = cursor.max(first);
        if head.0 - cursor.0 > u64::from(most) {
            self.start_at_head(conversation, head, member);
            return Some(Reply::Gap { conversation: name.clone(), after: cursor, head });
        }
        if member {
            self.cursors.push((conversation, cursor));
        } else {
            self.former.push((conversation, cursor, head));
        }
        None
    }

    /// Makes a replay start at the head instead of the cursor. A frame reports the head to the client.
    fn start_at_head(&mut self, conversation: ConversationKey, head: Seq, member: bool) {
        if member {
            self.cursors.push((conversation, head));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(cursor: u64, head: u64, member: bool) -> (ReplayStarts, Option<Reply<Box<RawValue>>>) {
        let name = ConversationId::parse("#a").expect("id");
        let mut starts = ReplayStarts::default();
        let (conversation, first, head) = (ConversationKey(1), Seq(0), Seq(head));
        let seen = VisibleConversation { conversation, first, head, is_member: member, is_hidden: false };
        let reply = starts.add(&name, Seq(cursor), Ok(seen), 10);
        (starts, reply)
    }

    #[test]
    fn a_replay_starts_at_the_cursor_or_after_a_gap_if_it_is_too_long() {
        let (starts, reply) = add(5, 15, true);
        assert!(reply.is_none());
        assert_eq!(starts.cursors, [(ConversationKey(1), Seq(5))]);
        let (starts, reply) = add(4, 15, true);
        assert!(matches!(reply, Some(Reply::Gap { after: Seq(4), head: Seq(15), .. })));
        assert_eq!(starts.cursors, [(ConversationKey(1), Seq(15))], "live events follow");
    }

    #[test]
    fn a_former_member_receives_the_replay_up_to_the_leave() {
        assert_eq!(add(5, 9, false).0.former, [(ConversationKey(1), Seq(5), Seq(9))]);
    }

    #[test]
    fn a_cursor_after_the_head_is_refused_with_its_conversation() {
        let (_, reply) = add(10, 9, true);
        let Some(Reply::Error(failure)) = reply else { panic!("{reply:?}") };
        assert_eq!(failure.code, ErrorCode::BadCursor);
        assert_eq!(failure.conversation.map(|c| c.to_string()).as_deref(), Some("#a"));
    }
}
