use std::path::{Path, PathBuf};

use super::TARGETS;

/// The most bytes that one mutation adds.
const MAX_INPUT_BYTES: usize = 64;

/// The corpus in the order of file names, so that runs are the same on all machines.
fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let files = std::fs::read_dir(&home).expect("every target has a corpus");
    let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("it can be read"))).collect()
}

/// Changes some random bytes, like a fuzzer without coverage.
fn mutate(rng: &mut fastrand::Rng, seed: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..rng.usize(1..5) {
        let at = rng.usize(..=bytes.len());
        let end = rng.usize(at..=bytes.len().min(at + MAX_INPUT_BYTES));
        match rng.u8(..6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.extend_from_within(at..end),
            3 => drop(bytes.splice(at..at, std::iter::repeat_with(|| rng.u8(..)).take(4))),
            4 => {
                let from = rng.usize(..=other.len());
                bytes.splice(at..end, other[from..].iter().copied().take(MAX_INPUT_BYTES));
            }
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << rng.u8(..8)),
        }
    }
    bytes
}

/// Prints the name and the input of a target if the target panics.
struct PanicReport<'a>(&'a str, &'a [u8]);

impl Drop for PanicReport<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}: {}", self.0, self.1.escape_ascii());
        }
    }
}

/// Runs a target on its corpus, and on `mutations` random changes of the corpus.
fn run_target(name: &str, mutations: usize) {
    let (_, target) = TARGETS.into_iter().find(|(target, _)| *target == name).expect("a target");
    let corpus = corpus(name);
    assert!(!corpus.is_empty(), "{name} has no corpus");
    for (path, bytes) in &corpus {
        let _told = PanicReport(&path.to_string_lossy(), bytes);
        target(bytes);
    }
    let mut rng = fastrand::Rng::with_seed(0x5EED);
    for _ in 0..mutations {
        let (seed, other) = (&corpus[rng.usize(..corpus.len())].1, &corpus[rng.usize(..corpus.len())].1);
        let bytes = mutate(&mut rng, seed, other);
        let _told = PanicReport("a mutation", &bytes);
        target(&bytes);
    }
}

#[test]
fn http_bodies_do_not_panic() {
    run_target("body", 2_000);
}

#[test]
fn commands_do_not_panic() {
    run_target("command", 5_000);
}

#[test]
fn forwarding_headers_do_not_panic() {
    run_target("forwarded", 5_000);
}

#[test]
fn proxy_protocol_headers_do_not_panic() {
    run_target("proxy", 5_000);
}

#[test]
fn frames_in_pieces_do_not_panic() {
    run_target("frames", 5_000);
}

#[test]
fn ids_do_not_panic() {
    run_target("ids", 5_000);
}

#[test]
fn random_changes_keep_the_log_consistent() {
    run_target("log", 400);
}
