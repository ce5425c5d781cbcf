//! Completes the events of a page with what their rows only refer to by number: the ids of the users in their bodies, and
//! the kinds of newer versions.

use std::sync::Arc;

use super::row::unreadable_event;
use super::{LookupResult, Lookups, PageBudget, Reader};
use crate::body;
use crate::record::{Kind, LogEvent};

impl<L: Lookups> Reader<'_, L> {
    /// Converts a page of events from the stored form to the wire form. If no event needs it, no query is made. The ids may
    /// be longer than the keys, so events that no longer fit are removed from the end.
    pub(super) fn fill_names(&self, events: &mut Vec<LogEvent>, bytes: u32) -> LookupResult<(), L> {
        if events.iter().any(|event| matches!(event.kind, Kind::Number(_))) {
            self.look_up_kinds(events)?;
        }
        let mut users = Vec::new();
        for event in events.iter().filter(|event| event.kind.names_users()) {
            body::collect_user_keys(&event.kind, &event.body, &mut users);
        }
        // Bodies that an earlier version stored have ids, not keys.
        if users.is_empty() {
            return Ok(());
        }
        users.sort_unstable();
        users.dedup();
        let ids = self.rows.user_names(&users)?;
        for event in events.iter_mut().filter(|event| event.kind.names_users()) {
            match body::to_wire(&event.kind, &event.body, |user| ids.get(&user).cloned()) {
                Some(body) => event.body = body,
                None => replace_unreadable(event, "its body names no user"),
            }
        }
        let mut room = PageBudget(bytes as usize);
        let fits = events.iter().take_while(|event| room.spend(event.max_json_bytes())).count();
        events.truncate(fits);
        Ok(())
    }

    /// Replaces the kinds that this version does not know by their descriptions in the table of kinds.
    fn look_up_kinds(&self, events: &mut [LogEvent]) -> LookupResult<(), L> {
        let kinds: Vec<_> = self.rows.kinds()?.into_iter().map(Arc::new).collect();
        for event in events {
            let Kind::Number(number) = event.kind else { continue };
            match kinds.iter().find(|kind| kind.number() == number) {
                Some(kind) => event.kind = Kind::Newer(kind.clone()),
                None => {
                    let cause = format!("its kind is {number}, which no version has entered");
                    replace_unreadable(event, &cause);
                }
            }
        }
        Ok(())
    }
}

fn replace_unreadable(event: &mut LogEvent, error: &str) {
    let LogEvent { conversation, seq, from, at, .. } = &*event;
    *event = unreadable_event(conversation, *seq, Some(from.clone()), *at, error);
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use switchboard_protocol::{Limits, Timestamp, UserId, decode_named};

    use crate::body::DECODE_COUNT;
    use crate::in_memory::InMemory;
    use crate::{Query, Request};

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("an id")
    }

    fn makes(store: &mut InMemory, actor: &str, command: &str, fields: &serde_json::Value) {
        let command = decode_named(command, &fields.to_string()).expect("a command").command;
        let Request::Change(change) = Request::from(command) else { panic!("it writes") };
        store.commit_change(&user(actor), change, Timestamp::from_millis(1_000)).expect("stored");
    }

    fn sync(store: &InMemory, conversation: &str, after: u64) -> String {
        let fields = json!({"conversation": conversation, "after": after}).to_string();
        let Request::Query(query @ Query::Sync(_)) =
            Request::from(decode_named("sync", &fields).expect("a command").command)
        else {
            panic!("it reads")
        };
        serde_json::to_string(&store.query(&user("alice"), &query).expect("a page")).expect("JSON")
    }

    #[test]
    fn only_events_that_name_users_are_decoded() {
        let mut store = InMemory::new(Limits::default());
        for text in ["one", "two", "three"] {
            makes(&mut store, "alice", "send", &json!({"to": "@bob", "text": text}));
        }
        let react = json!({"conversation": "@bob", "target": 1, "emoji": "x", "on": true});
        makes(&mut store, "alice", "react", &react);
        assert!(sync(&store, "@bob", 0).contains("three"));
        assert_eq!(DECODE_COUNT.get(), 0, "neither what stores messages nor what reads them decodes a body");
        makes(&mut store, "alice", "create", &json!({"room": "r", "members": ["bob", "carol"]}));
        assert_eq!(DECODE_COUNT.replace(0), 1);
        makes(&mut store, "alice", "send", &json!({"to": "#r", "text": "hi"}));
        assert!(sync(&store, "#r", 1).contains("hi"));
        assert_eq!(DECODE_COUNT.get(), 0);
        assert!(sync(&store, "#r", 0).contains(r#""members":["bob","carol"]"#));
        assert_eq!(DECODE_COUNT.get(), 2, "once for the numbers, once for the ids");
    }

    #[test]
    fn a_page_has_no_more_bytes_than_its_limit_with_ids_that_are_longer_than_numbers() {
        let limits = Limits { page_bytes: 2_000, ..Limits::default() };
        let mut store = InMemory::new(limits);
        let long = |n: u32| format!("{}{n}", "x".repeat(60));
        makes(&mut store, "alice", "create", &json!({"room": "r"}));
        for n in 0..20 {
            makes(
                &mut store,
                "alice",
                "invite",
                &json!({"conversation": "#r", "user": long(n), "role": "member"}),
            );
        }
        let (mut after, mut seen) = (0, 0);
        while after < 21 {
            let page = sync(&store, "#r", after);
            assert!(page.len() < 2_500, "{}", page.len());
            let events = page.matches(r#""seq":"#).count() as u64;
            seen += page.matches(&"x".repeat(60)).count();
            assert!(events > 0, "{page}");
            after += events;
        }
        assert_eq!(seen, 20);
    }
}
