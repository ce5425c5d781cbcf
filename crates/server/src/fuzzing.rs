//! The fuzz targets: functions that take any bytes, and panic if they find a bug.
//!
//! They are in the library behind the feature `fuzzing`, so that they reach private code. The library's tests also run them, on
//! every corpus and without a fuzzer: docs/decisions/0037-fuzz-targets-are-functions.md

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

/// A function that takes any bytes, and panics if an invariant does not hold.
pub type Target = fn(&[u8]);

/// All targets, each with the name of its corpus.
pub const TARGETS: [(&str, Target); 7] = [
    ("body", body),
    ("command", command),
    ("forwarded", forwarded),
    ("frames", frames),
    ("ids", ids),
    ("log", log),
    ("proxy", proxy),
];
