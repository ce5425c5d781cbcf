//! These tests start their own binary again, as the program under test with the preloaded library.

#![expect(clippy::unwrap_used, reason = "a test fails by a panic")]

mod disk;
mod kill;
mod sqlite;
mod victim;
