//! Faults of the server's own tasks, for tests: builds without debug assertions have them only with the feature
//! `fault-injection`, which no release has.
//!
//! `FAULTS_TASK=router=panic@/tmp/now` makes the task "router" panic once the file `/tmp/now` is there; with `return` in place of
//! `panic` it ends without an error.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

/// How often a task checks whether the file exists.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// What the environment asks for.
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

/// Ends, or panics, when the task is to end; pending for ever if it is not.
pub async fn strike(task: &str) {
    let Some(fault) = Fault::of(task) else { return std::future::pending().await };
    while !fault.file.exists() {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    fault.strike();
}

/// Panics if this thread is to panic now.
pub fn strike_now(thread: &str) {
    if let Some(fault) = Fault::of(thread)
        && fault.file.exists()
    {
        fault.strike();
    }
}
