//! The places in the source that encode an event or a signal. A new one must ask what its reader may see.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What encodes an event.
const EVENTS: [&str; 4] = [".to_json_for(", ".to_raw_for(", ".seen_json(", ".withheld_json("];

/// What makes a signal about a user.
const SIGNALS: [&str; 1] = ["Signal::"];

/// The places that encode events, with how often, and why the reader may see them.
const EVENT_PLACES: [(&str, usize, &str); 9] = [
    ("server/src/fuzzing/log.rs", 1, "no reader: a fuzzer compares"),
    ("server/src/router/apply.rs", 1, "whole; `router/blocks.rs` makes the withheld form"),
    ("server/src/router/blocks.rs", 1, "live events for those who block"),
    (
        "server/src/router/publish.rs",
        2,
        "whole, to the author and into the queues, where `router/blocks.rs` withholds",
    ),
    ("server/src/session/live.rs", 1, "as the store says"),
    ("store/src/check/log/event.rs", 1, "no reader: the check decodes it"),
    ("store/src/read.rs", 1, "as `read_events` says"),
    ("store/src/read/feed.rs", 2, "whole: the application is no user"),
    ("store/src/record.rs", 3, "the forms themselves"),
];

/// The places that make signals, with how often.
const SIGNAL_PLACES: [(&str, usize, &str); 7] = [
    ("server/src/bus/nats/subscription.rs", 1, "no signal of the protocol"),
    ("server/src/http/reports.rs", 2, "what a moderator decided: no user is its source"),
    ("server/src/router.rs", 1, "typing: to members who are not apart"),
    ("server/src/router/blocks.rs", 1, "a block: to the user's own connections"),
    ("server/src/router/presence.rs", 2, "to watchers who are not apart"),
    ("server/src/router/presence/lookups.rs", 1, "to watchers who are not apart"),
    ("server/src/router/publish.rs", 3, "cursors and profiles: to members and followers who are not apart"),
];

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if name.ends_with(".rs") && !matches!(&*name, "tests.rs" | "first_schema.rs") {
            found.push(path);
        }
    }
}

/// How often one of the patterns is in each file, without its unit tests and its comments.
fn count(patterns: &[&str]) -> BTreeMap<String, usize> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crates");
    let mut files = Vec::new();
    for crate_name in ["server", "store"] {
        sources(&root.join(crate_name).join("src"), &mut files);
    }
    let mut counts = BTreeMap::new();
    for path in files {
        let text = fs::read_to_string(&path).expect("a source file");
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let found: usize = lines
            .map(|line| patterns.iter().map(|pattern| line.matches(pattern).count()).sum::<usize>())
            .sum();
        if found > 0 {
            let name = path.strip_prefix(root).expect("below").to_str().expect("a name").to_owned();
            counts.insert(name, found);
        }
    }
    counts
}

fn assert_places(patterns: &[&str], places: &[(&str, usize, &str)]) {
    let known: BTreeMap<_, _> = places.iter().map(|(file, count, _)| ((*file).to_owned(), *count)).collect();
    assert_eq!(
        count(patterns),
        known,
        "a place that encodes an event or a signal decides by `BlockList::view`, `are_apart` or `hidden_from` what its reader \
         sees; then it is listed here"
    );
}

#[test]
fn every_place_that_encodes_an_event_is_known() {
    assert_places(&EVENTS, &EVENT_PLACES);
}

#[test]
fn every_place_that_makes_a_signal_about_a_user_is_known() {
    assert_places(&SIGNALS, &SIGNAL_PLACES);
}
