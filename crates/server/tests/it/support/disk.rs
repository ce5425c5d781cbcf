//! A disk whose fsync fails when a test says so.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// What a server is started with, so that its next fsync of the database can be made to fail.
pub(crate) struct FailingDisk {
    directory: TempDir,
    library: String,
    order: String,
}

impl FailingDisk {
    /// Compiles what stands before the C library; a C compiler is there, as SQLite is compiled by one.
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let path = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
        let (library, order) = (path("failing_fsync.so"), path("order"));
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/failing_fsync.c");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let compiled = Command::new(compiler).args(["-shared", "-fPIC", "-o", &library, source]).status();
        assert!(compiled.expect("a C compiler").success(), "it compiles");
        Self { directory, library, order }
    }

    /// The environment of a server on this disk.
    pub(crate) fn settings(&self) -> [(&str, &str); 2] {
        [("LD_PRELOAD", &self.library), ("FAILING_FSYNC", &self.order)]
    }

    fn order(&self) -> PathBuf {
        self.directory.path().join("order")
    }

    /// The next fsync of the database fails.
    pub(crate) fn is_to_fail(&self) {
        std::fs::write(self.order(), "").expect("written");
    }

    /// Whether it has.
    pub(crate) fn has_failed(&self) -> bool {
        !self.order().exists()
    }
}
