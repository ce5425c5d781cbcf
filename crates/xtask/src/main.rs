//! `cargo run -p xtask -- tidy` prints what breaks the repository's rules; exit code 1 if anything does.
//! `cargo run -p xtask -- types` writes the protocol's types in TypeScript.
//! `cargo run -p xtask -- figures` writes the tables and plots of the benchmarks.

use std::process::ExitCode;

use xtask::{figures, tidy, types};

#[expect(clippy::print_stderr, reason = "a program for the terminal")]
fn main() -> ExitCode {
    let task = std::env::args().nth(1);
    let outcome = match task.as_deref() {
        Some("tidy") => check(),
        Some("types") => {
            std::fs::write(tidy::repository().join(types::TYPES_FILE), types::generate_types_file())
                .map(|()| true)
        }
        Some("figures") => write_figures().map_err(std::io::Error::other).map(|()| true),
        _ => {
            eprintln!("usage: cargo run -p xtask -- tidy | types | figures");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn write_figures() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let repository = tidy::repository();
    for (path, text) in figures::render_figures(&repository)? {
        std::fs::write(repository.join(path), text)?;
    }
    Ok(())
}

/// Prints every complaint, and every ratchet whose limit could be lower. Returns false if there are complaints.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]
fn check() -> std::io::Result<bool> {
    let (complaints, hints) = tidy::check(&tidy::repository())?;
    for hint in &hints {
        println!("{hint}");
    }
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    if complaints.is_empty() {
        println!("tidy");
    }
    Ok(complaints.is_empty())
}
