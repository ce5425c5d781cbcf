//! The tables and plots in the docs are those of the committed measurements.

use xtask::{figures, tidy};

#[test]
fn committed_tables_and_plots_match_the_figures() {
    let repository = tidy::repository();
    for (path, generated) in
        figures::render_figures(&repository).expect("figures.json and benchmarks.md can be read")
    {
        let committed = std::fs::read_to_string(repository.join(&path)).unwrap_or_default();
        assert!(committed == generated, "{path} is out of date: cargo run -p xtask -- figures");
    }
}
