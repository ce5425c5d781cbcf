//! What is generated is up to date.

use xtask::{tidy, types};

#[test]
fn the_types_of_the_sdk_are_those_of_the_protocol() {
    let path = tidy::repository().join(types::PATH);
    let kept = std::fs::read_to_string(&path).expect("the file");
    assert!(kept == types::file(), "{} is out of date: cargo run -p xtask -- types", types::PATH);
}
