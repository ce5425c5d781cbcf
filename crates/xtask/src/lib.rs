//! What the repository does with itself: so far, [`tidy`].

pub mod tidy;
pub mod types;
