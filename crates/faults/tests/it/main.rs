//! Runs this test binary a second time, as the program under test with the preloaded library.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod disk;
mod kill;
mod sqlite;
mod victim;
