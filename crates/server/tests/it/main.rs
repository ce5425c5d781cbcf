//! The real server over real sockets: each file is a subject, `support.rs` has the words that they share.

mod assets;
mod auth;
mod bad_input;
mod cli;
mod corrupt;
mod cursors;
mod documents;
mod durability;
mod frames;
mod framing;
mod hostile;
mod http;
mod limits;
mod memory;
mod messages;
mod presence;
mod removal;
mod resume;
mod rooms;
mod routing;
mod slow_reader;
mod stopping;
mod store_contract;
mod support;
mod unhealthy;
mod write_ahead_log;
