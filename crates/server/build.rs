//! Says so when the chat page was not built. Nothing is built or fetched here: that is `make page`.

use std::path::Path;

const PAGE: &str = "../../packages/web";

fn main() {
    let dist = Path::new(PAGE).join("dist");
    // Of a directory cargo watches all files. One that is not there counts as changed with every build, so
    // until it is there, the directory that it will appear in is watched.
    println!("cargo:rerun-if-changed={}", if dist.exists() { &dist } else { Path::new(PAGE) }.display());
    if !dist.join("index.html").exists() {
        println!("cargo:warning=the chat page is not built, and the binary will have none: run `make page`");
    }
}
