//! Engines that are started, broken and mended, and what is left of them.

mod nats;
mod orphans;
mod postgres;
mod processes;
