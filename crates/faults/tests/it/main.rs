//! A program of its own under the library: this one, started again as its victim.

mod disk;
mod kill;
mod sqlite;
mod victim;
