//! Attacks and loads at full size (`make soak`), each compared with a run without the attack. `hostile/` has smaller ones, which
//! are part of `make test`.
//!
//! Every test here is `#[ignore]`d with the reason "soak", prints its measurements, and fails if its bound is exceeded.

mod cursors;
mod door;
mod faults;
mod full_postgres;
mod hooks;
mod leaving;
mod pages;
mod prices;
mod proxy;
mod rolling;
mod router;
mod small_disk;
mod webhooks;
