//! PostgreSQL with a standby that has every commit, and what happens when the primary is gone: the standby takes its place, the
//! nodes are sent there, and a new standby is made from it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use engines::Postgres;
use tokio::time::sleep;

use crate::proxy::Proxy;

/// How a primary goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Its processes are killed.
    Killed,
    /// It falls silent, and its connections stay open until it is killed, so long after the standby has taken its place.
    Silent(Duration),
    /// The standby has been away for so long when the primary is killed. Nothing can be acknowledged that it does not have.
    StandbyAway(Duration),
}

/// A primary and its standby.
pub(crate) struct Database {
    pub(crate) primary: Postgres,
    pub(crate) standby: Postgres,
    scratch: PathBuf,
    /// How many there have been; each has a directory of its own.
    servers: u32,
}

impl Database {
    pub(crate) async fn start(scratch: &Path) -> anyhow::Result<Self> {
        let primary = Postgres::start(&directory(scratch, 0), &[]).await?;
        let standby = primary.standby(&directory(scratch, 1), true).await?;
        Ok(Self { primary, standby, scratch: scratch.to_owned(), servers: 2 })
    }

    /// Loses the primary, and goes on with the standby. Returns when there is a new standby that has everything.
    pub(crate) async fn fail_over(&mut self, end: End, proxies: &[&Proxy]) -> anyhow::Result<()> {
        match end {
            End::Killed => self.primary.kill().await?,
            End::Silent(_) => self.primary.pause()?,
            End::StandbyAway(away) => {
                self.standby.kill().await?;
                // waits for: clients that write meanwhile, and must not be told that it is stored
                sleep(away).await;
                self.primary.kill().await?;
                self.standby.start_again().await?;
            }
        }
        self.standby.promote().await?;
        for proxy in proxies {
            proxy.point_at(self.standby.address());
        }
        if let End::Silent(after) = end {
            // waits for: nodes that still talk to the one that is silent
            sleep(after).await;
            // Whoever puts a standby in the place of a primary sees to it that the primary is gone.
            self.primary.kill().await?;
        }
        let standby = self.standby.standby(&directory(&self.scratch, self.servers), true).await?;
        drop(std::mem::replace(&mut self.primary, std::mem::replace(&mut self.standby, standby)));
        // Its data would fill the disk in the end.
        let _ = std::fs::remove_dir_all(directory(&self.scratch, self.servers - 2));
        self.servers += 1;
        Ok(())
    }
}

fn directory(scratch: &Path, number: u32) -> PathBuf {
    scratch.join(format!("database-{number}"))
}

#[cfg(test)]
mod tests;
