//! Reads the feed at the end of a run, and compares it with the logs.

use serde_json::Value;
use switchboard_store::feed::{FeedCursor, FeedQuery};

use crate::truth::{LawResult, ReferenceModel};
use crate::world::SimulatedWorld;

/// How many entries a page has. Runs are short, so a small page makes several.
const PAGE_ENTRIES: u32 = 7;

impl SimulatedWorld {
    /// Checks that every committed event is in the feed once, in the order of its log, also after kills.
    pub(crate) async fn check_feed(&self) {
        let Some(store) = self.writable_store() else { return };
        let mut query = FeedQuery {
            after: FeedCursor::Beginning,
            limit: PAGE_ENTRIES,
            types: Vec::new(),
            acts_as: None,
            no_text: false,
            is_admin: true,
            part: None,
            skips_imported: false,
        };
        let mut entries = Vec::new();
        loop {
            let page = match store.feed(query.clone()).await {
                Ok(page) => page,
                Err(refusal) => {
                    return self.report_violation("feed", &format!("it cannot be read: {refusal}"));
                }
            };
            entries.extend(page.entries.iter().map(|entry| serde_json::from_str::<Value>(entry.get())));
            if !page.more {
                break;
            }
            query.after = FeedCursor::After { epoch: page.epoch, number: page.next };
        }
        let _ = self.lock_model().check_feed(entries.into_iter().map(Result::unwrap_or_default));
    }
}

impl ReferenceModel {
    /// Compares the feed with the logs.
    fn check_feed(&mut self, entries: impl Iterator<Item = Value>) -> LawResult {
        let mut heads = std::collections::BTreeMap::<String, u64>::new();
        for entry in entries {
            let event = &entry["event"];
            let Some(name) = event["conversation"].as_str() else { continue };
            let head = heads.entry(name.to_owned()).or_default();
            *head += 1;
            if event["seq"].as_u64() != Some(*head) {
                let what = format!("{name} {} where {head} is next", event["seq"]);
                return Err(self.report_violation("feed", &what));
            }
            self.check_fed(event)?;
        }
        for (name, head) in self.heads() {
            let fed = heads.get(&name).copied().unwrap_or_default();
            if fed != head {
                return Err(self.report_violation("feed", &format!("{name} has {fed} of {head} events")));
            }
        }
        Ok(())
    }
}
