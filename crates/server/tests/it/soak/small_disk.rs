//! A file system of its own in memory, which fills up.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A file system with so many bytes.
pub(super) struct SmallDisk {
    place: TempDir,
}

impl SmallDisk {
    /// None where it cannot be mounted: that needs root.
    pub(super) fn mount(bytes: u64) -> Option<Self> {
        let place = TempDir::new().expect("a directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "none"]).arg(place.path());
        let mounted = mount.status().is_ok_and(|status| status.success());
        mounted.then_some(Self { place })
    }

    /// Where it is.
    pub(super) fn root(&self) -> &Path {
        self.place.path()
    }

    /// A file or directory on it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Writes a file until there is no room at all.
    pub(super) fn fill(&self) {
        let mut file = File::create(self.path("filler")).expect("a file");
        for size in [65_536, 4_096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Removes that file.
    pub(super) fn free(&self) {
        std::fs::remove_file(self.path("filler")).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.place.path()).status();
    }
}
