//! Tests of the real server over real sockets. Each file has the tests of one subject; `support.rs` has the shared helpers.

#[cfg(feature = "acme")]
mod acme;
mod assets;
mod auth;
mod check;
mod cli;
mod cluster;
mod commands;
mod config_check;
mod cursors;
mod denials;
mod documents;
#[cfg(any(debug_assertions, feature = "fault-injection"))]
mod failing;
mod foreign;
mod frames;
mod full_disk;
mod hostile;
mod http;
mod libraries;
mod limits;
mod log_connections;
mod log_lines;
mod logging;
mod memberships;
mod memory;
mod messages;
mod moving;
mod numbers;
mod operator;
mod presence;
mod probes;
mod proxy;
mod resume;
mod rooms;
mod routing;
mod scrapes;
mod soak;
mod stopping;
mod store_contract;
mod supervisor;
mod support;
mod tls;
mod upgrade;
mod versions;
mod write_ahead_log;
