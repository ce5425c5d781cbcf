//! Finds processes of this machine.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// Processes whose arguments contain a directory or that work in it. Zombies have neither arguments nor a working directory.
pub(crate) fn processes_in_directory(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        let works_in = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(directory));
        // The watchdog's script is many lines long, so only the beginning of the arguments is shown.
        if works_in || arguments.contains(directory.to_str().unwrap()) {
            found.push(format!("{:?}: {:.60}", entry.file_name(), arguments));
        }
    }
    found
}

/// Waits until [`processes_in_directory`] finds no process.
pub(crate) async fn wait_until_all_ended(directory: &Path) {
    for _ in 0..3000 {
        if processes_in_directory(directory).is_empty() {
            return;
        }
        // waits for: the exit of processes that are not children of this process, which causes no event
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("there are still {:#?}", processes_in_directory(directory));
}
