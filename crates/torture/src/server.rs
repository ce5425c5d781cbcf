//! The server of a run without a cluster, and the simulated disk of that server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use faults::Control;
use tokio::process::Command;

use crate::process::Process;

/// A server that the run kills and starts again and again.
pub(crate) struct Server {
    binary: PathBuf,
    /// The server's disk, whose faults the run controls.
    pub(crate) disk: Control,
    pub(crate) address: SocketAddr,
    pub(crate) process: Process,
}

impl Server {
    /// Prepares a server without starting it. The server writes only below `scratch`.
    pub(crate) fn new(binary: &Path, scratch: &Path) -> anyhow::Result<Self> {
        let disk = Control::create(&scratch.join("control"), &scratch.join("data"), &scratch.join("undo"))?;
        let process = Process::new(&scratch.join("server.log"));
        // The port is free now; the server binds it in a moment, and again after each restart.
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        Ok(Self { binary: binary.to_owned(), disk, address, process })
    }

    /// Starts the server and waits until it listens. Returns `false` if it exited before that.
    pub(crate) async fn start(&mut self) -> anyhow::Result<bool> {
        let mut command = Command::new(&self.binary);
        command.args(["serve", "--listen", &self.address.to_string(), "--data"]).arg(self.disk.data());
        self.disk.command_env(command.as_std_mut())?;
        self.process.start(command).await
    }
}
