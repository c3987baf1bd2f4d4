//! Of a state directory only one process acts at a time: a watchdog holds a lock as long as it
//! lives, and the next sidecar waits for it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cutover::lease::Tenant;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

/// How long a starting sidecar waits for the watchdog of the last life.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// The right to act, for as long as it lives.
pub struct Turn(#[allow(dead_code, reason = "held for its lock")] Flock<File>);

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("watchdog.lock")
}

fn open(state_dir: &Path) -> std::io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path(state_dir))
}

/// The lock, or `None` if another process has it.
fn try_lock(file: File) -> Result<Flock<File>, (File, Errno)> {
    Flock::lock(file, FlockArg::LockExclusiveNonblock)
}

impl Turn {
    /// Waits until no other watchdog has the turn. `None`: nobody can tell, because the lock can't
    /// be used; it is better to act than to let clients wait.
    pub async fn take(state_dir: &Path) -> Option<Turn> {
        let unusable = |error: &dyn std::fmt::Display| {
            tracing::warn!("{}: {error}", path(state_dir).display());
        };
        let mut file = open(state_dir).map_err(|error| unusable(&error)).ok()?;
        loop {
            file = match try_lock(file) {
                Ok(mut lock) => {
                    let noted = lock
                        .set_len(0)
                        .and_then(|()| lock.write_all(std::process::id().to_string().as_bytes()));
                    if let Err(error) = noted {
                        unusable(&error);
                    }
                    return Some(Turn(lock));
                }
                Err((file, Errno::EWOULDBLOCK)) => file,
                Err((_, error)) => {
                    unusable(&error);
                    return None;
                }
            };
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A starting sidecar: whatever the watchdog of the last life is doing has an end before this
/// returns. It is given a moment, and ended then: what it leaves half-done is done again.
pub async fn settle(state_dir: &Path) {
    let Ok(mut file) = File::options().read(true).write(true).open(path(state_dir)) else {
        return;
    };
    let began = Instant::now();
    let mut killed = false;
    loop {
        file = match try_lock(file) {
            Ok(_lock) => return,
            Err((file, Errno::EWOULDBLOCK)) => file,
            Err((_, error)) => {
                tracing::warn!("{}: {error}", path(state_dir).display());
                return;
            }
        };
        if began.elapsed() > PATIENCE && !killed {
            killed = true;
            match holder(state_dir) {
                Some(pid) => {
                    tracing::warn!(%pid, "the watchdog of the last life still acts; it is ended");
                    if let Err(error) = kill(pid, Signal::SIGKILL) {
                        tracing::warn!(%pid, "it can't be ended: {error}");
                    }
                }
                None => tracing::warn!("the watchdog of the last life still acts; nobody knows it"),
            }
        }
        if began.elapsed() > 2 * PATIENCE {
            tracing::error!("the watchdog of the last life does not end; going on beside it");
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Who has written its number into the lock that it holds.
fn holder(state_dir: &Path) -> Option<Pid> {
    let mut text = String::new();
    File::open(path(state_dir)).ok()?.read_to_string(&mut text).ok()?;
    text.trim().parse().ok().filter(|pid| *pid > 1).map(Pid::from_raw)
}

/// Who acts for this pipeline over this state directory, in whichever life. To be asked by who has
/// the directory open.
///
/// # Errors
/// The directory's.
pub fn tenant(pipeline: &str, state_dir: &Path) -> std::io::Result<Tenant> {
    let path = state_dir.join("holder");
    let id = match std::fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => id.trim().to_owned(),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {
            let id = uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
            let new = state_dir.join("holder.new");
            std::fs::write(&new, &id)?;
            File::open(&new)?.sync_all()?;
            std::fs::rename(&new, &path)?;
            id
        }
    };
    // For people; the id tells tenants apart.
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let holder = format!("{}:{} ({id})", host.trim(), state_dir.display());
    Ok(Tenant { pipeline: pipeline.to_owned(), holder })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_tenant_and_no_two_have_the_same() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = tenant("shop", one.path()).unwrap();
        assert_eq!(tenant("shop", one.path()).unwrap(), first);
        let id = |tenant: &Tenant| tenant.holder.rsplit_once('(').unwrap().1.to_owned();
        assert_ne!(id(&tenant("shop", other.path()).unwrap()), id(&first));
    }

    #[tokio::test]
    async fn the_second_waits_for_the_first() {
        let directory = tempfile::tempdir().unwrap();
        settle(directory.path()).await;
        let first = Turn::take(directory.path()).await.unwrap();
        assert_eq!(holder(directory.path()), Some(Pid::this()));
        let mut second = Box::pin(Turn::take(directory.path()));
        let waits = tokio::time::timeout(3 * LOOK, &mut second).await;
        assert!(waits.is_err(), "two have the turn");
        drop(first);
        drop(second.await.unwrap());
        settle(directory.path()).await;
    }
}
