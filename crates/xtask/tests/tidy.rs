//! This repository keeps its own rules.

use xtask::tidy;

#[test]
fn the_repository_is_tidy() {
    let (complaints, _hints) =
        tidy::check(&tidy::repository()).expect("git lists the files, and each can be read");
    let lines: Vec<String> = complaints.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}
