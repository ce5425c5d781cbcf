//! The log of the server's program, read line by line in either format.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::Process;

/// The formats in which the server can write its log.
pub(crate) const FORMATS: [&str; 2] = ["text", "json"];

/// A line of the server's log, in one of the two formats.
#[derive(Debug, Clone)]
pub(crate) enum LogLine {
    Text(String),
    Json(Value),
}

impl LogLine {
    /// Reads a log, each line of which must have the format.
    pub(crate) fn read(log: &str, format: &str) -> Vec<Self> {
        let line = |line: &str| match format {
            "json" => Self::Json(serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))),
            _ => Self::Text(line.to_owned()),
        };
        log.lines().map(line).collect()
    }

    /// Whether the message of this line begins with `message`.
    pub(crate) fn has_message(&self, message: &str) -> bool {
        match self {
            Self::Text(line) => line.contains(&format!(": {message}")),
            Self::Json(line) => line["message"].as_str().is_some_and(|text| text.starts_with(message)),
        }
    }

    /// The value of a field. In the text format this finds fields of the line's span, too.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        match self {
            Self::Json(line) => match line.get(name)? {
                Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            },
            Self::Text(line) => {
                let begins = [format!(" {name}="), format!("{{{name}=")];
                let rest = begins.iter().find_map(|begin| Some(line.split_once(begin)?.1))?;
                match rest.strip_prefix('"') {
                    Some(quoted) => quoted.split('"').next().map(str::to_owned),
                    None => rest.split([' ', '}']).next().map(str::to_owned),
                }
            }
        }
    }
}

/// Returns the line that has this message; panics unless there is exactly one.
pub(crate) fn only_line<'a>(lines: &'a [LogLine], message: &str) -> &'a LogLine {
    let found: Vec<_> = lines.iter().filter(|line| line.has_message(message)).collect();
    assert_eq!(found.len(), 1, "{message:?} in {lines:#?}");
    found[0]
}

/// Runs a production server, stops it after `work`, and returns its log. Connections that `work` returns stay open until the stop.
pub(crate) async fn log_of_server<T>(
    format: &str,
    settings: &[(&str, &str)],
    work: impl AsyncFnOnce(&Process) -> T,
) -> Vec<LogLine> {
    let data = TempDir::new().expect("a directory");
    let log = data.path().join("log");
    let settings = [&[("SWITCHBOARD_LOG_FORMAT", format)], settings].concat();
    let file = Stdio::from(File::create(&log).expect("a file"));
    let mut server = Process::start_production(data.path(), &settings, file).await;
    let _open = work(&server).await;
    LogLine::read(&server.log_after_stop(&log).await, format)
}

/// Runs the program with a configuration that it refuses, and returns all that it prints.
pub(crate) fn output_of_failed_start(arguments: &[&str], settings: &[(&str, &str)], data: &Path) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_switchboard"));
    command.args(arguments).env("SWITCHBOARD_DATA", data).envs(settings.iter().copied());
    let output = command.output().expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    format!("{}{}", text(output.stdout), text(output.stderr))
}
