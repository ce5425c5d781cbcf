//! The rules hold in this repository.

use xtask::tidy;

#[test]
fn the_repository_is_tidy() {
    let complaints = tidy::check(&tidy::repository()).expect("the repository can be read");
    let told: Vec<String> = complaints.iter().map(ToString::to_string).collect();
    assert!(told.is_empty(), "\n{}\n", told.join("\n"));
}
