//! The hook: what an application on this machine that accepts at once adds to the time to `ok`.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::Context;
use super::ack::{measure, report_as};
use crate::process::BOTH_CORES;
use crate::switchboard::Switchboard;

pub(crate) fn run(context: &mut Context<'_>, senders: &[usize]) -> anyhow::Result<()> {
    let application = Application::start()?;
    let url = format!("http://{}/hook", application.address);
    for round in 1..=context.rounds {
        for &count in senders {
            context.progress(&format!("hook: round {round} of {}, {count} senders", context.rounds));
            let scenario = format!("hook, {count} senders");
            let server = Switchboard::start(context.program, context.scratch, BOTH_CORES)?;
            let (without, cpu) = measure(&server, count, context.time)?;
            report_as(context, &scenario, "without a hook", &without, Some(cpu));
            drop(server);
            let server = Switchboard::start_asking(&url, context.program, context.scratch, BOTH_CORES)?;
            let (with, cpu) = measure(&server, count, context.time)?;
            report_as(context, &scenario, "with a hook", &with, Some(cpu));
        }
    }
    Ok(())
}

/// An application that accepts everything.
struct Application {
    address: SocketAddr,
    is_stopped: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Application {
    fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let address = listener.local_addr()?;
        let is_stopped = Arc::new(AtomicBool::new(false));
        let stopped = is_stopped.clone();
        let accepting = thread::spawn(move || {
            // Each of these threads ends with its connection, which the server closes.
            for stream in listener.incoming().take_while(|_| !stopped.load(Ordering::Relaxed)).flatten() {
                thread::spawn(move || drop(accept_all(&stream)));
            }
        });
        Ok(Self { address, is_stopped, accepting: Some(accepting) })
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        // The connection wakes the thread, which then ends.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
    }
}

/// Answers every question of a connection with 204.
fn accept_all(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let (mut line, mut body) = (String::new(), Vec::new());
    loop {
        let mut length = 0;
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
    }
}
