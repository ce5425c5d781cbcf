//! What the docs say was measured is what was measured.

use xtask::{figures, tidy};

#[test]
fn tables_and_plots_are_those_of_the_figures() {
    let repository = tidy::repository();
    for (path, made) in figures::files(&repository).expect("figures") {
        let kept = std::fs::read_to_string(repository.join(&path)).unwrap_or_default();
        assert!(kept == made, "{path} is out of date: cargo run -p xtask -- figures");
    }
}
