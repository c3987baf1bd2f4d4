//! Processes that are no children of ours: what the sidecar starts on its own. They carry a mark in
//! their environment, so that none outlives its harness, and none of somebody else's is touched.

use std::path::Path;

use crate::process::{is_alive, kill_all};

/// The variable; its value is `PID DIRECTORY` of the harness.
pub const MARK: &str = "CUTOVER_CHAOS";

/// The mark of this harness and this pair.
pub fn of(directory: &Path) -> String {
    format!("{} {}", std::process::id(), directory.display())
}

/// Processes whose mark `wanted` accepts, with their command lines.
fn find(wanted: impl Fn(&str) -> bool) -> Vec<(u32, String)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_alive(*pid))
        .filter_map(|pid: u32| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
            let prefix = format!("{MARK}=");
            let mark = environment
                .split(|byte| *byte == 0)
                .find_map(|part| std::str::from_utf8(part).ok()?.strip_prefix(&prefix))?;
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            wanted(mark).then_some((pid, command))
        })
        .collect()
}

/// The processes with this mark whose command line has this word.
pub fn running(mark: &str, word: &str) -> Vec<u32> {
    let all = find(|found| found == mark);
    let has_word = |command: &str| command.split(' ').any(|part| part == word);
    all.into_iter().filter(|(_, command)| has_word(command)).map(|(pid, _)| pid).collect()
}

/// Kills everything with this mark.
pub fn kill(mark: &str) {
    let pids: Vec<_> = find(|found| found == mark).into_iter().map(|(pid, _)| pid).collect();
    kill_all(&pids);
}

/// Kills what harnesses have left that were killed themselves, and unmounts their directories.
pub fn sweep() {
    let is_orphan = |mark: &str| {
        let harness = mark.split(' ').next().and_then(|pid| pid.parse().ok());
        harness.is_some_and(|pid| !is_alive(pid))
    };
    let pids: Vec<_> = find(is_orphan).into_iter().map(|(pid, _)| pid).collect();
    kill_all(&pids);
    for directory in mounted() {
        let harness = directory.split("cutover-it-").nth(1).and_then(|rest| {
            let (pid, _) = rest.split_once('-')?;
            pid.parse().ok()
        });
        if harness.is_some_and(|pid| !is_alive(pid)) {
            unmount(Path::new(&directory));
        }
    }
}

fn mounted() -> Vec<String> {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect()
}

/// Mounts a file system of this size in memory. False where that is not allowed.
pub fn mount(directory: &Path, megabytes: u32) -> bool {
    let size = format!("size={megabytes}m,mode=0700");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
        .arg(directory)
        .output();
    mounted.is_ok_and(|output| output.status.success())
}

/// Unmounts it, even while it is in use.
pub fn unmount(directory: &Path) {
    // Not mounted any more is the aim, not a failure.
    drop(std::process::Command::new("umount").arg("-l").arg(directory).output());
}
