//! Tests the exit codes of the program. Cargo builds it for them, so `make test` needs no further build for the torture itself.

use std::process::{Command, Output};

fn run_torture(scratch: &std::path::Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_torture"))
        .args(["--seconds", "1", "--seed", "7", "--sdk", "", "--scratch"])
        .arg(scratch)
        .args(arguments)
        .output()
        .expect("the program starts")
}

#[test]
fn a_run_whose_server_does_not_start_exits_with_2_and_prints_its_seed() {
    let scratch = tempfile::tempdir().expect("a directory");
    let missing = scratch.path().join("switchboard");
    let output = run_torture(scratch.path(), &["--binary", missing.to_str().expect("UTF-8")]);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(printed.starts_with("seed 7\n"), "{printed}");
    assert!(printed.contains("the run failed: "), "{printed}");
}
