//! Runs a PostgreSQL and a nats-server until stdin ends, and prints their URLs, to start a node by hand. Their files are
//! deleted afterwards.

use std::io::Write;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (postgres, nats) = tokio::try_join!(engines::shared_postgres(), engines::shared_nats())?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\n{}", postgres.url(), nats.url())?;
    out.flush()?;
    drop(out);
    // Blocking is fine, because this thread has nothing else to do.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
