//! What a stranger costs in memory and processor time.

use std::process::Stdio;

use switchboard::auth::ApiKey;
use switchboard::store::keys::{self, KeyStore};
use tempfile::TempDir;

use crate::support::{Dribble, Process, dribble_is_cheap};

/// Bytes that each connection says: nearly `limits.frame`.
const BYTES: usize = 60_000;

/// The same before `hello`: nearly `limits.hello_frame`.
const HELLO_BYTES: usize = 8_000;

/// Fewer fragments than `limits.fragments`.
const FRAGMENTS: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "soak"]
async fn bytes_that_come_one_by_one_cost_at_most_200_bytes_each() {
    let data = TempDir::new().expect("a directory");
    let server = Process::serves(data.path(), &[], Stdio::null()).await;
    let key = ApiKey::generate().expect("random bytes");
    let store = KeyStore::Directory(data.path().to_owned());
    keys::create(&store, "billing", &ApiKey::hash(key.expose())).expect("stored");
    let token = server.token("alice");
    for bearer in [None, Some(token.clone()), Some(key.expose().to_owned())] {
        println!("{}", dribble_is_cheap(&server, Dribble::Body { bearer }, BYTES).await);
    }
    println!("{}", dribble_is_cheap(&server, Dribble::FirstFrame, HELLO_BYTES).await);
    println!("{}", dribble_is_cheap(&server, Dribble::Frame { token: token.clone() }, BYTES).await);
    println!("{}", dribble_is_cheap(&server, Dribble::Fragments { token }, FRAGMENTS).await);
}
