//! A program of its own under the library: this one, started again as its victim.

#![expect(clippy::unwrap_used, reason = "a test that panics says what went wrong; that is what it is for")]

mod disk;
mod kill;
mod sqlite;
mod victim;
