//! The Rust client of Switchboard. It uses the public WebSocket only, like any other client. The CLI, the tests and the
//! load generator use it.
//!
//! It has no state of conversations and does not reconnect by itself. A program that needs that stores a cursor per
//! conversation, waits as [`Client::reconnect`] says, sends the cursors in the next `hello`, and pages with `sync` after
//! a `gap`.

mod client;
mod error;
mod reconnect;
mod tls;
mod wire;
mod writes;

pub use client::{Client, MAX_UNREAD_FRAMES};
pub use error::ClientError;
pub use reconnect::Reconnect;
pub use tls::Trust;
