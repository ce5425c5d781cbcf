//! Users whom a node had that is gone: those who watch them and share a conversation with them get the change.

use switchboard_protocol::{Timestamp, UserId};

use super::MAX_USERS;
use crate::router::Router;
use crate::router::peers::Found;
use switchboard_store::PlacesPage;
use switchboard_store::record::ConversationKey;
use switchboard_store::refusal::Refusal;

/// Conversations of each user that one question reads at most. Of a user in more, the next one goes on.
const PAGE: u32 = 200;

/// A user whom a node had that is gone.
#[derive(Debug)]
pub(in crate::router) struct Lost {
    user: UserId,
    /// When they went.
    at: Timestamp,
    /// The conversations up to this one have been read.
    after: ConversationKey,
}

impl Router {
    /// Asks in which conversations lost users are: watchers who share none get nothing.
    pub(super) fn ask_about_lost(&mut self) {
        let Some(peers) = self.peers.as_mut().filter(|peers| !peers.seeking_lost) else { return };
        let lost = &mut peers.comparisons.lost;
        let mut asked = lost.split_off(lost.len().saturating_sub(MAX_USERS));
        let more = self.presence.take_lost(MAX_USERS - asked.len());
        asked.extend(more.into_iter().map(|(user, at)| Lost { user, at, after: ConversationKey::MIN }));
        if !asked.is_empty() {
            peers.seeking_lost = true;
            let users = asked.iter().map(|lost| (lost.user.clone(), lost.after)).collect();
            let answer = peers.store.places(users, PAGE);
            peers.find(answer, move |result| Found::Lost { asked, result });
        }
    }

    pub(in crate::router) fn found_lost(
        &mut self,
        asked: Vec<Lost>,
        result: Result<Vec<PlacesPage>, Refusal>,
    ) {
        if let Some(peers) = &mut self.peers {
            peers.seeking_lost = false;
        }
        let Ok(pages) = result else {
            let lost = asked.into_iter().map(|lost| (lost.user, lost.at)).collect();
            return self.presence.put_back_lost(lost);
        };
        for (lost, page) in asked.into_iter().zip(pages) {
            let conversations: Vec<_> = page.places.iter().map(|place| place.conversation).collect();
            self.presence.tell_lost(&self.registry, &lost.user, &conversations, lost.at);
            if let (Some(after), Some(peers)) = (page.next, &mut self.peers) {
                peers.comparisons.lost.push(Lost { after, ..lost });
            }
        }
    }
}
