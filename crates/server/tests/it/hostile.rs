//! What a server must survive. Each name has the number of its line in `docs/hostile.md`, so that a line's tests are
//! `cargo test -p switchboard-server --test it hostile_07`.

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
mod unhealthy;
