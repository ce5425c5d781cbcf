//! What a device makes of what the server says.

use std::time::Duration;
use switchboard_protocol::reply::{Failure, OkBody, Reply, ServerFrame, Summary};
use switchboard_protocol::{
    CommandId, ConversationId, ErrorCode, Event, Seq, Signal, Sync, Timestamp, UserId,
};
use tokio::time::Instant;

use super::place::{self, Place, Step};
use super::{Asked, COMING, Device, End, Link, PAGE, Stored};
use crate::record::{Done, Law};

impl Device {
    /// Something from the server; `true` when all is done.
    pub(super) async fn hear(&mut self, link: &mut Link, frame: ServerFrame) -> Result<bool, End> {
        match frame {
            ServerFrame::Event(event) => self.pushed(link, &event).await?,
            ServerFrame::Signal(Signal::Read { conversation, user, upto }) => {
                self.reading(&conversation, &user, upto);
            }
            ServerFrame::Signal(_) => {}
            ServerFrame::Reply(Reply::Ok(ok)) => {
                let Some(CommandId::Number(id)) = ok.id else { return Ok(false) };
                let Some((asked, _)) = link.asked.remove(&id) else { return Ok(false) };
                return self.answered(link, asked, ok.body).await;
            }
            ServerFrame::Reply(Reply::Pong { id: Some(CommandId::Number(id)) }) => {
                link.asked.remove(&id);
            }
            ServerFrame::Reply(Reply::Error(failure)) => self.failed(link, failure).await?,
            ServerFrame::Reply(Reply::Gap { conversation, after, head }) => {
                self.world.record.lock().counts.gaps += 1;
                if let Some(place) = self.places.get_mut(&conversation) {
                    // What follows the gap comes live; what is in it has to be asked for.
                    let pushed = link.pushed.entry(conversation.clone()).or_insert(after);
                    *pushed = (*pushed).max(head);
                    if place.cursor < head {
                        self.page(link, conversation).await?;
                    }
                }
            }
            ServerFrame::Reply(_) => {}
        }
        Ok(false)
    }

    /// An event that the server sent by itself.
    async fn pushed(&mut self, link: &mut Link, event: &Event) -> Result<(), End> {
        let (id, seq) = (&event.conversation, event.seq);
        let before = link.pushed.get(id).or_else(|| link.from.get(id)).copied();
        if before.is_some_and(|before| seq <= before) || link.own.contains(&(id.clone(), seq)) {
            let what =
                format!("{} got {id} {} twice on one connection, or after {before:?}", self.name, seq.0);
            self.breach(Law::Doubled, what, Some((id, seq)));
        }
        link.pushed.insert(id.clone(), seq);
        if !self.places.contains_key(id) {
            if id.is_room() && !place::comes_in(event, &self.user) {
                let what = format!(
                    "{} got {id} {} as the first of it, which is not its coming in",
                    self.name, seq.0
                );
                self.breach(Law::SilentGap, what, Some((id, seq)));
            }
            self.places.insert(id.clone(), Place::at_the_beginning_of(id, seq));
        }
        let under_way = link.asked.values().filter(|(asked, _)| self.may_be(asked, id)).count() as u64;
        let missing = self.places.get(id).map_or(0, |place| place.missing_before(seq));
        let paging = self.places.get(id).is_some_and(|place| place.paging);
        if missing > under_way && !paging {
            let what = format!(
                "{} got {id} {}, and {missing} before it are missing with {under_way} of its own under way",
                self.name, seq.0
            );
            self.breach(Law::SilentGap, what, Some((id, seq)));
            self.page(link, id.clone()).await?;
        }
        if let Some(left) = self.places.get(id).and_then(|place| place.left)
            && seq > left
            && !self.world.may_have_come(&self.user, id, COMING)
        {
            let what = format!("{} got {id} {} after having left with {}", self.name, seq.0, left.0);
            self.breach(Law::Forbidden, what, Some((id, seq)));
        }
        self.world.record.arrived(event, self.door, link.attentive);
        self.apply(event);
        Ok(())
    }

    /// Whether what was asked may have appended an event there.
    fn may_be(&self, asked: &Asked, id: &ConversationId) -> bool {
        match asked {
            Asked::Write(conversation, _) => conversation == id,
            Asked::Send(key) => self.outbox.iter().any(|o| o.key == *key && o.conversation == *id),
            _ => false,
        }
    }

    /// Takes an event in, from wherever it comes.
    fn apply(&mut self, event: &Event) {
        let comes_in = place::comes_in(event, &self.user);
        let Some(place) = self.places.get_mut(&event.conversation) else { return };
        if place.take(event.seq, Step::of(event, &self.user)) {
            self.world.record.got(self.id, event);
        }
        if comes_in {
            self.world.may_come(&self.user, &event.conversation);
        }
    }

    /// An own command is event `seq`.
    fn apply_own(&mut self, id: &ConversationId, seq: Seq, step: Step) {
        let beginning = || Place::at_the_beginning_of(id, seq);
        self.places.entry(id.clone()).or_insert_with(beginning).take(seq, step);
    }

    fn reading(&self, id: &ConversationId, user: &UserId, upto: Seq) {
        if *user == self.user {
            self.world.record.read(user, id, upto);
        }
    }

    async fn page(&mut self, link: &mut Link, id: ConversationId) -> Result<(), End> {
        let Some(place) = self.places.get_mut(&id) else { return Ok(()) };
        if place.paging {
            return Ok(());
        }
        place.paging = true;
        let command = Sync { conversation: id.clone().into(), after: place.cursor, limit: Some(PAGE) };
        self.say(link, command, Asked::Page(id)).await
    }

    async fn answered(&mut self, link: &mut Link, asked: Asked, body: OkBody) -> Result<bool, End> {
        match (asked, body) {
            (Asked::Send(key) | Asked::Again(key), OkBody::Stored { conversation, seq, at, duplicate }) => {
                self.acknowledged(link, &key, (&conversation, seq, at), duplicate);
            }
            (Asked::Conflict(key), OkBody::Stored { seq, .. }) => {
                self.breach(
                    Law::Answer,
                    format!("another text under the key {key} was stored as {}", seq.0),
                    None,
                );
            }
            (Asked::Write(id, kind), OkBody::Stored { seq, duplicate: false, .. }) => {
                let from = self.user.clone();
                self.world.record.done(Done { conversation: id.clone(), seq, kind, from });
                link.own.insert((id.clone(), seq));
                self.apply_own(&id, seq, Step::of_kind(kind));
            }
            (Asked::Read(id), OkBody::Cursor { upto, .. }) => self.world.record.read(&self.user, &id, upto),
            (Asked::Page(id), OkBody::Log { events, head, more, .. }) => {
                for event in &events {
                    self.apply(event);
                }
                if let Some(place) = self.places.get_mut(&id) {
                    place.paging = false;
                    if more && place.cursor < head {
                        self.page(link, id).await?;
                    }
                }
            }
            (Asked::Probe(id), body) => {
                self.breach(Law::Forbidden, format!("{} was answered about {id}: {body:?}", self.name), None);
            }
            (Asked::Summaries, OkBody::Conversations { conversations, .. }) => {
                return Ok(self.has_everything(&conversations));
            }
            _ => {}
        }
        Ok(false)
    }

    fn acknowledged(
        &mut self,
        link: &mut Link,
        key: &str,
        place: (&ConversationId, Seq, Timestamp),
        duplicate: bool,
    ) {
        let (conversation, seq, _) = place;
        self.world.record.acked(self.id, key, place, duplicate);
        if !self.world.is_open(conversation) {
            // Elsewhere it may come late with good reason, to whoever was out meanwhile.
            self.world.record.acked_by(self.door, (conversation, seq));
        }
        let Some(index) = self.outbox.iter().position(|outgoing| outgoing.key == key) else { return };
        self.outbox.remove(index);
        if !duplicate {
            link.own.insert((conversation.clone(), seq));
        }
        self.apply_own(conversation, seq, Step::Event);
        if self.stored.len() >= 100 {
            let oldest = self.rng.usize(..self.stored.len());
            self.stored.swap_remove(oldest);
        }
        self.stored.push(Stored { key: key.to_owned(), conversation: conversation.clone(), seq });
    }

    /// Whether it is at the head of everything that is listed. What it has never heard of must still come.
    fn has_everything(&self, summaries: &[Summary]) -> bool {
        let is_there = |summary: &Summary| {
            self.places.get(&summary.conversation).is_some_and(|place| place.cursor >= summary.head)
        };
        summaries.iter().all(is_there)
    }

    async fn failed(&mut self, link: &mut Link, failure: Failure) -> Result<(), End> {
        if let Some(id) = &failure.conversation {
            let (law, cursor) =
                (self.places.get(id)).map_or((Law::Answer, Seq(0)), |place| (Law::Lost, place.cursor));
            let what =
                format!("{} said the cursor {} of {id}: {}", self.name, cursor.0, failure.code.as_str());
            self.breach(law, what, Some((id, cursor)));
            self.places.remove(id);
            return Ok(());
        }
        let Some(CommandId::Number(id)) = failure.id else { return Ok(()) };
        let Some((asked, _)) = link.asked.remove(&id) else { return Ok(()) };
        let code = failure.code.as_str();
        match asked {
            Asked::Send(key) => self.send_failed(&key, &failure),
            Asked::Again(key) if !failure.retryable => {
                self.breach(
                    Law::Answer,
                    format!("a retry of {key} was refused: {code}, {}", failure.message),
                    None,
                );
            }
            Asked::Conflict(_) if !failure.retryable && failure.code != ErrorCode::KeyConflict => {
                self.breach(Law::Answer, format!("a conflict of keys was answered with {code}"), None);
            }
            Asked::Probe(_) if !failure.retryable && failure.code != ErrorCode::NotFound => {
                self.breach(
                    Law::Answer,
                    format!("a probe was answered with {code}, which tells something"),
                    None,
                );
            }
            Asked::Page(id) => {
                if let Some(place) = self.places.get_mut(&id) {
                    place.paging = false;
                }
                if failure.retryable {
                    self.page(link, id).await?;
                } else {
                    self.breach(
                        Law::Answer,
                        format!("a page of {id} was refused: {code}, {}", failure.message),
                        None,
                    );
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn send_failed(&mut self, key: &str, failure: &Failure) {
        let code = failure.code.as_str();
        if failure.retryable {
            // What was sent behind it may now be stored before it, if it comes late.
            for outgoing in &self.outbox {
                self.world.record.refused(self.id, &outgoing.key, code);
            }
            let wait = Duration::from_millis(failure.retry_after.unwrap_or(500));
            self.hold = self.hold.max(Instant::now() + wait);
            if let Some(outgoing) = self.outbox.iter_mut().find(|outgoing| outgoing.key == key) {
                outgoing.under_way = false;
            }
            return;
        }
        let index = self.outbox.iter().position(|outgoing| outgoing.key == key);
        let gone = index.and_then(|index| self.outbox.remove(index));
        let open = gone.is_some_and(|gone| self.world.is_open(&gone.conversation));
        if !(open && failure.code == ErrorCode::NotFound) {
            self.breach(Law::Answer, format!("{key} was refused: {code}, {}", failure.message), None);
        }
    }
}
