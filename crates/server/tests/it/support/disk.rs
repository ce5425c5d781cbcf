//! A disk whose faults a test controls.

use std::path::Path;
use std::process::Command;

use faults::Control;
use tempfile::TempDir;

use super::Process;

/// A data directory; the test can inject disk faults into the servers that use it.
pub(crate) struct FailingDisk {
    /// Injects faults into the servers on this disk.
    pub(crate) control: Control,
    settings: Vec<(String, String)>,
    /// Kept so that the directory is removed when this is dropped.
    _directory: TempDir,
}

impl FailingDisk {
    /// Makes a disk that has no faults yet.
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        let control = Control::create(&path("control"), &path("data"), &path("undo")).expect("a disk");
        std::fs::create_dir(control.data()).expect("made");
        let mut preload = Command::new("true");
        control.command_env(&mut preload).expect("the library is built");
        let text = |value: &std::ffi::OsStr| value.to_str().expect("UTF-8").to_owned();
        let settings =
            preload.get_envs().filter_map(|(name, value)| Some((text(name), text(value?)))).collect();
        Self { control, settings, _directory: directory }
    }

    /// The data directory on this disk.
    pub(crate) fn data(&self) -> &Path {
        self.control.data()
    }

    /// The environment variables that make a program use this disk.
    pub(crate) fn environment(&self) -> &[(String, String)] {
        &self.settings
    }

    /// Starts a `dev` server on this disk.
    pub(crate) async fn starts(&self) -> Process {
        let settings: Vec<_> =
            self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Process::start_with(self.data(), &settings).await
    }
}
