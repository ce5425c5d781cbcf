//! The one server on its own disk.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use faults::Control;
use tokio::process::Command;

use crate::process::Process;

/// How a server is started, again and again.
pub(crate) struct Server {
    binary: PathBuf,
    /// Its disk, which fails when told to.
    pub(crate) disk: Control,
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
}

impl Server {
    /// Everything that it writes goes below `scratch`.
    pub(crate) fn new(binary: &Path, scratch: &Path) -> anyhow::Result<Self> {
        let disk = Control::create(&scratch.join("control"), &scratch.join("data"), &scratch.join("undo"))?;
        let process = Process::new(&scratch.join("server.log"));
        // Free now; the server takes it in a moment, and again after each restart.
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        Ok(Self { binary: binary.to_owned(), disk, address, process })
    }

    /// Starts it, and waits until it listens. `false` if it ended before that.
    pub(crate) async fn start(&mut self) -> anyhow::Result<bool> {
        let mut command = Command::new(&self.binary);
        command.args(["serve", "--listen", &self.address.to_string(), "--data"]).arg(self.disk.data());
        self.disk.command_env(command.as_std_mut())?;
        self.process.start(command).await
    }
}
