//! The generated TypeScript types are up to date.

use xtask::{tidy, types};

#[test]
fn the_types_of_the_sdk_match_those_of_the_protocol() {
    let path = tidy::repository().join(types::TYPES_FILE);
    let committed = std::fs::read_to_string(&path).expect("the generated file is committed");
    assert!(
        committed == types::generate_types_file(),
        "{} is out of date: cargo run -p xtask -- types",
        types::TYPES_FILE
    );
}
