//! A small file system in memory, which a test fills.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A file system in memory, mounted with a fixed size.
pub(super) struct SmallDisk {
    mount_point: TempDir,
}

impl SmallDisk {
    /// Mounts a file system; `None` without the privileges of root.
    pub(super) fn mount(bytes: u64) -> Option<Self> {
        let place = TempDir::new().expect("a directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "none"]).arg(place.path());
        let mounted = mount.status().is_ok_and(|status| status.success());
        mounted.then_some(Self { mount_point: place })
    }

    /// The directory at which the file system is mounted.
    pub(super) fn root(&self) -> &Path {
        self.mount_point.path()
    }

    /// The path of a file or directory in the file system.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.mount_point.path().join(name)
    }

    /// Writes to a file until the file system is full.
    pub(super) fn fill(&self) {
        let mut file = File::create(self.path("filler")).expect("a file");
        for size in [65_536, 4_096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Removes the file that [`Self::fill`] wrote.
    pub(super) fn free(&self) {
        std::fs::remove_file(self.path("filler")).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.mount_point.path()).status();
    }
}
