//! `proxy.log`: reopened on SIGHUP, as log rotation wants it, and put aside by itself when it is large.
//!
//! A proxy that the sidecar has started writes there by its standard output and error. It runs for months,
//! and nobody may start it again to rotate a log: its clients would be disconnected.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{dup2_stderr, dup2_stdout};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::config::Config;

/// The size at which it is put aside; the one before it is removed.
const BYTES_MAX: u64 = 64 << 20;
/// How often its size is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// Where a pipeline's proxy writes.
pub fn path(config: &Config) -> PathBuf {
    config.state_dir.join("proxy.log")
}

/// Opens it to be appended to, for our own user only.
///
/// # Errors
/// The operating system's.
pub fn append(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).mode(0o600).open(path)
}

/// Looks after it for as long as it is polled. `path`: where standard output and error go; `None`: nowhere
/// of ours, and SIGHUP only must not end the process.
pub async fn keep(path: Option<PathBuf>) {
    let mut hangups = match signal(SignalKind::hangup()) {
        Ok(hangups) => hangups,
        Err(error) => {
            tracing::warn!("the log can't be reopened on SIGHUP: {error}");
            return std::future::pending().await;
        }
    };
    let mut tick = interval(LOOK_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_asked = tokio::select! {
            _ = hangups.recv() => true,
            _ = tick.tick() => false,
        };
        let Some(path) = &path else { continue };
        let moved = if is_asked { Ok(true) } else { put_aside(path, BYTES_MAX) };
        let kept = moved.and_then(|moved| if moved { reopen(path) } else { Ok(()) });
        if let Err(error) = kept {
            tracing::warn!(log = %path.display(), "the log can't be reopened: {error}");
        }
    }
}

/// Sends what is written from now on to the file that has this name now.
fn reopen(path: &Path) -> io::Result<()> {
    let file = append(path)?;
    dup2_stdout(&file)?;
    dup2_stderr(&file)?;
    Ok(())
}

/// Renames a log that is too large to `<name>.1`. True if it was.
fn put_aside(path: &Path, bytes_max: u64) -> io::Result<bool> {
    // Somebody may just have moved it: the next SIGHUP makes it anew.
    let Ok(found) = std::fs::metadata(path) else { return Ok(false) };
    if found.len() < bytes_max {
        return Ok(false);
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(".1");
    std::fs::rename(path, aside)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_log_is_put_aside_and_only_one_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("proxy.log");
        assert!(!put_aside(&path, 10).unwrap(), "there is none");
        for text in ["first and long", "second and long"] {
            std::fs::write(&path, "short").unwrap();
            assert!(!put_aside(&path, 10).unwrap());
            std::fs::write(&path, text).unwrap();
            assert!(put_aside(&path, 10).unwrap());
            let aside = directory.path().join("proxy.log.1");
            assert_eq!(std::fs::read_to_string(aside).unwrap(), text);
            assert!(!path.exists());
        }
    }
}
