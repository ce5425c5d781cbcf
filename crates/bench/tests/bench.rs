//! Runs the program as `make bench` does. It measures the `switchboard` beside it, which a build of the workspace has made.

use std::process::Command;

use tempfile::TempDir;

#[test]
fn the_server_is_measured_beside_its_floor() {
    let scratch = TempDir::new().expect("a directory");
    let mut bench = Command::new(env!("CARGO_BIN_EXE_switchboard-bench"));
    bench.args(["ack", "--rounds", "1", "--seconds", "1", "--senders", "2", "--scratch"]).arg(scratch.path());
    let output = bench.output().expect("it runs");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", said(&output.stderr));
    let table = said(&output.stdout);
    for subject in ["floor: SQLite", "switchboard"] {
        let line = format!("| ack, 2 senders | acks, /s | {subject} | ");
        let figures = table.lines().find_map(|figures| figures.strip_prefix(&line)).expect(&table);
        let median: f64 = figures.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number");
        assert!(median > 0.0, "{table}");
    }
    let left = std::fs::read_dir(scratch.path()).expect("a directory").count();
    assert_eq!(left, 0, "it cleans up behind itself");
}

#[test]
fn a_missing_server_is_named() {
    let bench =
        Command::new(env!("CARGO_BIN_EXE_switchboard-bench")).args(["ack", "--binary", "/nowhere"]).output();
    let output = bench.expect("it runs");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no /nowhere"), "{output:?}");
}
