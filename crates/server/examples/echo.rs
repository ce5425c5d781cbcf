//! Sends every WebSocket message back, for a test suite of the framing: `scripts/autobahn.sh`.

use tokio::net::TcpListener;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "it tells where it listens")]
async fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    switchboard::fuzzing::echo::serve(listener).await
}
