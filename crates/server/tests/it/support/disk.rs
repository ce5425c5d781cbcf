//! A disk that fails when a test says so.

use std::path::Path;
use std::process::Command;

use faults::Control;
use tempfile::TempDir;

use super::Process;

/// A data directory, and what goes wrong there for the servers that are started on it.
pub(crate) struct FailingDisk {
    /// Sets the faults.
    pub(crate) control: Control,
    settings: Vec<(String, String)>,
    /// Removed with it.
    _place: TempDir,
}

impl FailingDisk {
    /// One that is well.
    pub(crate) fn new() -> Self {
        let place = TempDir::new().expect("a directory");
        let path = |name: &str| place.path().join(name);
        let control = Control::create(&path("control"), &path("data"), &path("undo")).expect("a disk");
        std::fs::create_dir(control.data()).expect("made");
        let mut preload = Command::new("true");
        control.command_env(&mut preload).expect("the library is built");
        let text = |value: &std::ffi::OsStr| value.to_str().expect("UTF-8").to_owned();
        let settings =
            preload.get_envs().filter_map(|(name, value)| Some((text(name), text(value?)))).collect();
        Self { control, settings, _place: place }
    }

    /// The directory.
    pub(crate) fn data(&self) -> &Path {
        self.control.data()
    }

    /// The environment in which a program's files are on it.
    pub(crate) fn environment(&self) -> &[(String, String)] {
        &self.settings
    }

    /// Starts a `dev` server on it.
    pub(crate) async fn starts(&self) -> Process {
        let settings: Vec<_> =
            self.settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Process::start_with(self.data(), &settings).await
    }
}
