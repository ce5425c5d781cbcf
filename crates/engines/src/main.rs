//! Runs a PostgreSQL and a nats-server, prints their URLs, and stops them and deletes their files when stdin ends. It serves to
//! start a node by hand.

use std::io::Write;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (postgres, nats) = tokio::try_join!(engines::shared_postgres(), engines::shared_nats())?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\n{}", postgres.url(), nats.url())?;
    out.flush()?;
    drop(out);
    // Blocking is fine here, because this thread has nothing else to do.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
