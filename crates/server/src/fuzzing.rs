//! What the fuzzers feed: a function for each target, from bytes to a panic or nothing.
//!
//! It is in the library behind the feature `fuzzing`, so that a fuzzer reaches what is private, and in its tests, so that
//! every corpus is run without one: docs/decisions/0037-fuzz-targets-are-functions.md

mod body;
pub mod echo;
mod frames;
mod log;
mod peer;
#[cfg(test)]
mod tests;
mod words;

pub use body::body;
pub use frames::frames;
pub use log::log;
pub use peer::{forwarded, proxy};
pub use words::{command, ids};

/// Takes any bytes, and panics if something does not hold.
pub type Target = fn(&[u8]);

/// Every target: the name of its corpus, and what it runs.
pub const TARGETS: [(&str, Target); 7] = [
    ("body", body),
    ("command", command),
    ("forwarded", forwarded),
    ("frames", frames),
    ("ids", ids),
    ("log", log),
    ("proxy", proxy),
];
