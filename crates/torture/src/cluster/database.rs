//! PostgreSQL with a synchronous standby. In a failover the standby is promoted, the proxies forward to it, and a new standby is
//! created from it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use engines::Postgres;
use tokio::time::sleep;

use crate::proxy::Proxy;

/// How a failover begins: what happens to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PrimaryLoss {
    /// The primary's processes are killed.
    Killed,
    /// The primary is suspended with its connections open, and killed this long after the standby was promoted.
    Unreachable(Duration),
    /// The standby is stopped this long before the primary is killed. Meanwhile no commit may be acknowledged, because the
    /// standby does not have it.
    StandbyUnreachable(Duration),
}

/// A primary and its standby.
pub(crate) struct Database {
    pub(crate) primary: Postgres,
    pub(crate) standby: Postgres,
    scratch: PathBuf,
    /// How many servers were created so far; each has its own directory.
    servers: u32,
}

impl Database {
    pub(crate) async fn start(scratch: &Path) -> anyhow::Result<Self> {
        let primary = Postgres::start(&directory(scratch, 0), &[]).await?;
        let standby = primary.start_standby(&directory(scratch, 1), true).await?;
        Ok(Self { primary, standby, scratch: scratch.to_owned(), servers: 2 })
    }

    /// Loses the primary and promotes the standby. Returns once a new standby has all data.
    pub(crate) async fn fail_over(&mut self, end: PrimaryLoss, proxies: &[&Proxy]) -> anyhow::Result<()> {
        match end {
            PrimaryLoss::Killed => self.primary.kill().await?,
            PrimaryLoss::Unreachable(_) => self.primary.pause()?,
            PrimaryLoss::StandbyUnreachable(away) => {
                self.standby.kill().await?;
                // waits for: clients that write while the standby is stopped; no write may be acknowledged
                sleep(away).await;
                self.primary.kill().await?;
                self.standby.start_again().await?;
            }
        }
        self.standby.promote().await?;
        for proxy in proxies {
            proxy.redirect_to(self.standby.address());
        }
        if let PrimaryLoss::Unreachable(after) = end {
            // waits for: nodes that still use the suspended primary
            sleep(after).await;
            // Kills the old primary, as an operator must who promotes a standby (fencing).
            self.primary.kill().await?;
        }
        let standby = self.standby.start_standby(&directory(&self.scratch, self.servers), true).await?;
        drop(std::mem::replace(&mut self.primary, std::mem::replace(&mut self.standby, standby)));
        // Deletes the data of the primary that was just lost, because such directories would fill the disk.
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
