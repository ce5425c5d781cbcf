//! The victim, which is the program under test: it executes the commands on stdin and prints the results.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Lines, Write, stdin, stdout};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::{env, io};

use faults::Control;
use rusqlite::Connection;
use tempfile::TempDir;

/// The prefix of the victim's answers, because the test harness inside the victim also prints lines.
const ANSWER_PREFIX: &str = "> ";

/// The data directory of a test, and the control of its faults.
pub(crate) struct Scene {
    pub(crate) control: Control,
    _scratch: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let path = |name: &str| scratch.path().join(name);
        let control = Control::create(&path("control"), &path("data"), &path("undo")).unwrap();
        fs::create_dir(control.data()).unwrap();
        Self { control, _scratch: scratch }
    }

    pub(crate) fn victim(&self) -> Victim {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--exact", "victim::run_victim", "--ignored", "--nocapture"])
            .current_dir(self.control.data());
        self.control.command_env(&mut command).unwrap();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Victim { command_input: child.stdin.take().unwrap(), lines, child }
    }

    pub(crate) fn read_file(&self, name: &str) -> Vec<u8> {
        fs::read(self.control.data().join(name)).unwrap()
    }

    pub(crate) fn has_file(&self, name: &str) -> bool {
        self.control.data().join(name).exists()
    }
}

pub(crate) struct Victim {
    child: Child,
    command_input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Victim {
    /// Sends a command to the victim. Returns the answer, or `None` if the victim died.
    pub(crate) fn run_order(&mut self, order: &str) -> Option<String> {
        // The write fails if the victim is already dead; then there is no answer either.
        let _ = writeln!(self.command_input, "{order}");
        self.lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once(ANSWER_PREFIX)?.1.to_owned()))
    }

    pub(crate) fn expect_done(&mut self, orders: &[&str]) {
        for order in orders {
            assert_eq!(self.run_order(order).as_deref(), Some("done"), "{order}");
        }
    }

    pub(crate) fn expect_death(mut self, order: &str) {
        assert_eq!(self.run_order(order), None, "{order}");
        self.wait_for_kill();
    }

    /// Waits until a kill point has killed the victim.
    pub(crate) fn wait_for_kill(mut self) {
        assert_eq!(self.child.wait().unwrap().signal(), Some(9));
    }

    /// Kills the victim with SIGKILL, if it is still running.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.wait_for_kill();
    }
}

/// The code of the victim: not a test of its own, but the test binary runs it as a test.
#[test]
#[ignore = "run by the other tests, in a process of its own"]
fn run_victim() {
    let mut life = State::default();
    for line in stdin().lock().lines() {
        let line = line.unwrap();
        let answer = match life.run_order_line(&line) {
            Ok(answer) => answer,
            Err(error) => format!("failed: {error}"),
        };
        println!("{ANSWER_PREFIX}{answer}");
        stdout().flush().unwrap();
    }
}

#[derive(Default)]
struct State {
    files: HashMap<String, File>,
    database: Option<Connection>,
    socket: Option<TcpStream>,
}

impl State {
    fn run_order_line(&mut self, line: &str) -> Result<String, Box<dyn std::error::Error>> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["write", name, offset, byte, length] => {
                let bytes = vec![byte.parse()?; length.parse()?];
                self.file(name)?.write_all_at(&bytes, offset.parse()?)?;
            }
            ["cut", name, length] => self.file(name)?.set_len(length.parse()?)?,
            ["sync", "."] => File::open(".")?.sync_all()?,
            ["sync", name] => self.file(name)?.sync_data()?,
            ["close", name] => drop(self.files.remove(name)),
            ["remove", name] => fs::remove_file(path(name)?)?,
            ["rename", from, to] => fs::rename(path(from)?, path(to)?)?,
            ["open", synchronous] => {
                let database = Connection::open(path("x.db")?)?;
                database.execute_batch(&format!(
                    "PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; PRAGMA wal_autocheckpoint = 20;
                     CREATE TABLE IF NOT EXISTS rows (n INTEGER PRIMARY KEY, filler BLOB)"
                ))?;
                self.database = Some(database);
            }
            ["insert", n] => {
                let insert = "INSERT INTO rows VALUES (?, zeroblob(1500))";
                self.database()?.execute(insert, [n.parse::<i64>()?])?;
            }
            ["count"] => {
                let count = "SELECT count(*), coalesce(max(n), 0) FROM rows";
                let (count, last) = self
                    .database()?
                    .query_row(count, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
                return Ok(format!("{count} {last}"));
            }
            ["check"] => {
                return Ok(self.database()?.query_row("PRAGMA integrity_check", [], |row| row.get(0))?);
            }
            ["time"] => {
                #[expect(clippy::disallowed_methods, reason = "the test reads the faulty clock")]
                let now = std::time::SystemTime::now();
                return Ok(now.duration_since(std::time::UNIX_EPOCH)?.as_secs().to_string());
            }
            ["connect", port] => self.socket = Some(TcpStream::connect(("127.0.0.1", port.parse()?))?),
            ["send", text] => self.socket.as_mut().ok_or("no socket")?.write_all(text.as_bytes())?,
            _ => return Err(line.into()),
        }
        Ok("done".to_owned())
    }

    fn database(&self) -> Result<&Connection, &'static str> {
        self.database.as_ref().ok_or("no database")
    }

    fn file(&mut self, name: &str) -> io::Result<&File> {
        if !self.files.contains_key(name) {
            let file = File::options().write(true).create(true).truncate(false).open(path(name)?)?;
            self.files.insert(name.to_owned(), file);
        }
        Ok(&self.files[name])
    }
}

/// The path of a file in the data directory, which is the victim's working directory.
fn path(name: &str) -> io::Result<PathBuf> {
    Ok(env::current_dir()?.join(Path::new(name)))
}
