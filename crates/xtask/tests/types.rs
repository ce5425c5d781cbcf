//! The generated TypeScript types are up to date.

use xtask::{tidy, types};

#[test]
fn the_types_of_the_sdk_match_those_of_the_protocol() {
    let path = tidy::repository().join(types::PATH);
    let committed = std::fs::read_to_string(&path).expect("the generated file is committed");
    assert!(committed == types::file(), "{} is out of date: cargo run -p xtask -- types", types::PATH);
}
