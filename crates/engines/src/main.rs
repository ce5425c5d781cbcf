//! Runs a PostgreSQL and a nats-server until the standard input ends, and prints their URLs: for a server that one
//! starts by hand. Their files are gone afterwards.

use std::io::Write;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let (postgres, nats) = tokio::try_join!(engines::shared_postgres(), engines::shared_nats())?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\n{}", postgres.url(), nats.url())?;
    out.flush()?;
    drop(out);
    // Nothing else is to be done meanwhile.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
