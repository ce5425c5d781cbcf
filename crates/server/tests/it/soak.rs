//! Attacks and loads at full size, each measured beside the same run without it: `make soak`. Their smaller siblings in
//! `hostile/` are part of `make test`.
//!
//! Every test here is `#[ignore]`d with the reason "soak", prints what it measured, and fails at the bound that it names.

mod cursors;
mod door;
mod faults;
mod full_postgres;
mod leaving;
mod pages;
mod prices;
mod proxy;
mod router;
mod small_disk;
