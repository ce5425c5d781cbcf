//! Injects faults into the server's own tasks, for tests. Builds without debug assertions have this only with the feature
//! `fault-injection`, which no release has.
//!
//! `FAULTS_TASK=router=panic@/tmp/now` makes the task "router" panic once the file `/tmp/now` exists. With `return` in
//! place of `panic` the task ends without an error.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

/// How often a task checks whether the file exists.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The fault that the environment variable asks for, if any.
static FAULT: LazyLock<Option<Fault>> = LazyLock::new(|| {
    let value = std::env::var("FAULTS_TASK").ok()?;
    let (task, rest) = value.split_once('=')?;
    let (action, file) = rest.split_once('@')?;
    Some(Fault { task: task.to_owned(), panics: action == "panic", file: file.into() })
});

struct Fault {
    task: String,
    panics: bool,
    file: PathBuf,
}

impl Fault {
    fn of(task: &str) -> Option<&'static Self> {
        FAULT.as_ref().filter(|fault| fault.task == task)
    }

    fn strike(&self) {
        assert!(!self.panics, "a fault that was asked for");
    }
}

/// Panics or returns once the fault for this task is due; never returns if there is none.
pub async fn strike(task: &str) {
    let Some(fault) = Fault::of(task) else { return std::future::pending().await };
    while !fault.file.exists() {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    fault.strike();
}

/// Panics if the fault for this thread is due.
pub fn strike_now(thread: &str) {
    if let Some(fault) = Fault::of(thread)
        && fault.file.exists()
    {
        fault.strike();
    }
}
