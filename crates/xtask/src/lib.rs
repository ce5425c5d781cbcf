//! Tools for this repository: its rules, its generated TypeScript types, and the tables and plots of its benchmarks.

pub mod figures;
pub mod tidy;
pub mod types;
