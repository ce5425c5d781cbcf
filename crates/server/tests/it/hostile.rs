//! Tests of hostile input and faults. Each name has the number of its line in `docs/hostile.md`: `cargo test -p
//! switchboard-server --test it hostile_07` runs the tests of line 7.

mod corrupt;
mod crowd;
mod dribble;
mod durability;
mod environment;
mod flood;
mod forged;
mod framing;
mod handshake;
mod identity;
mod input;
pub(crate) mod prices;
mod rates;
mod removal;
mod revocation;
mod secrets;
mod slow_reader;
mod strangers;
mod texts;
mod tls;
mod unhealthy;
