//! Completes the events of a page with what their rows only refer to: the ids of the users that their bodies name, and the
//! kinds of newer versions.

use std::sync::Arc;

use super::row::unreadable;
use super::{Found, Lookups, Reader, Room};
use crate::body;
use crate::record::{Kind, LogEvent};

impl<L: Lookups> Reader<'_, L> {
    /// Puts a page of events into their wire form. A page without such events needs no query. The ids may be longer than the
    /// numbers, so the events that no longer fit are removed from the end.
    pub(super) fn complete(&self, events: &mut Vec<LogEvent>, bytes: u32) -> Found<(), L> {
        if events.iter().any(|event| matches!(event.kind, Kind::Number(_))) {
            self.look_up_kinds(events)?;
        }
        let mut users = Vec::new();
        for event in events.iter().filter(|event| event.kind.names_users()) {
            body::collect_users(&event.kind, &event.body, &mut users);
        }
        // Bodies of earlier versions have no numbers.
        if users.is_empty() {
            return Ok(());
        }
        users.sort_unstable();
        users.dedup();
        let ids = self.rows.names(&users)?;
        for event in events.iter_mut().filter(|event| event.kind.names_users()) {
            match body::to_wire(&event.kind, &event.body, |user| ids.get(&user).cloned()) {
                Some(body) => event.body = body,
                None => replace_unreadable(event, "its body names no user"),
            }
        }
        let mut room = Room(bytes as usize);
        let fits = events.iter().take_while(|event| room.takes(event.most_bytes())).count();
        events.truncate(fits);
        Ok(())
    }

    /// Replaces the numbers of kinds that this version does not know by what the table of kinds says.
    fn look_up_kinds(&self, events: &mut [LogEvent]) -> Found<(), L> {
        let kinds: Vec<_> = self.rows.kinds()?.into_iter().map(Arc::new).collect();
        for event in events {
            let Kind::Number(number) = event.kind else { continue };
            match kinds.iter().find(|kind| kind.number() == number) {
                Some(kind) => event.kind = Kind::Newer(kind.clone()),
                None => {
                    replace_unreadable(event, &format!("its kind is {number}, which no version has entered"))
                }
            }
        }
        Ok(())
    }
}

fn replace_unreadable(event: &mut LogEvent, error: &str) {
    let LogEvent { conversation, seq, from, at, .. } = &*event;
    *event = unreadable(conversation, *seq, Some(from.clone()), *at, error);
}
