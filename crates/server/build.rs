//! Says so when the chat page was not built. Nothing is built or fetched here: that is `make page`.

use std::path::Path;

fn main() {
    let page = Path::new("../../packages/web/dist");
    // Of a directory cargo watches all files; one that is not there yet counts as changed until it is.
    println!("cargo:rerun-if-changed={}", page.display());
    if !page.join("index.html").exists() {
        println!("cargo:warning=the chat page is not built, and the binary will have none: run `make page`");
    }
}
