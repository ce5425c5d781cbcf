//! What the repository does with itself.

pub mod figures;
pub mod tidy;
pub mod types;
