//! Warns if the chat page was not built. This script builds and fetches nothing; `make page` builds the page.

use std::path::Path;

const PAGE: &str = "../../packages/web";

fn main() {
    let dist = Path::new(PAGE).join("dist");
    // Cargo watches all files of a directory. A missing path counts as changed in every build, so while `dist`
    // is missing, cargo watches the directory in which it will appear.
    println!("cargo:rerun-if-changed={}", if dist.exists() { &dist } else { Path::new(PAGE) }.display());
    if !dist.join("index.html").exists() {
        println!("cargo:warning=the chat page is not built, and the binary will have none: run `make page`");
    }
}
