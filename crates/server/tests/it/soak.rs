//! Attacks and loads at full size, each compared with a run without it: `make soak`. `hostile/` has smaller ones, which are
//! part of `make test`.
//!
//! Every test here is `#[ignore]`d with the reason "soak", prints its measurements, and fails beyond its bound.

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
