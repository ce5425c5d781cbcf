//! Engines that are started, broken and mended, and what is left of them.

#![expect(clippy::unwrap_used, reason = "a test that panics says what went wrong; that is what it is for")]

mod nats;
mod orphans;
mod postgres;
mod processes;
