//! Named moments at which a test can make this process die, stop, fail or wait.
//!
//! Only in builds with debug assertions or the feature `failpoints`, and only when
//! `CUTOVER_FAILPOINTS` names a directory. There, [`reach`] appends each name to `trace`; if a
//! file of that name exists, it does what the file says:
//!
//! | content | what happens |
//! |---|---|
//! | `kill` | the process gets SIGKILL |
//! | `stop` | the process gets SIGSTOP |
//! | `error` | the act fails |
//! | `delay MS` | it takes so much longer |
//! | `pause` | a file `NAME.reached` appears; it goes on once the file `NAME` is gone |
//!
//! Who dies or stops takes the file away first: whoever comes by next, a watchdog or the next life,
//! goes on. `@N` behind the content means the N-th time in the life of this process only, `@once` the
//! next time only. Files, and not a library, because the test that breaks things is another process,
//! and has to see exactly where this one stands.

/// Every name. [`reach`] refuses others in a build that has failpoints, so that the list by which
/// tests go can't fall behind. In a file of its own for those that must not depend on this crate.
pub const ALL: &[&str] = &include!("failpoint/names.in");

#[cfg(not(any(debug_assertions, feature = "failpoints")))]
mod body {
    use crate::ports::PortResult;

    /// Nothing, in this build.
    #[inline]
    pub async fn reach(_name: &str) -> PortResult<()> {
        Ok(())
    }

    /// Nothing but `act`, in this build.
    #[inline]
    pub(crate) async fn passing_by<F: Future>(act: F) -> F::Output {
        act.await
    }

    /// Nothing, in this build.
    #[inline]
    pub(crate) async fn reach_of(_of: &str, _name: &str, _when: &str) -> PortResult<()> {
        Ok(())
    }
}

#[cfg(any(debug_assertions, feature = "failpoints"))]
mod body {
    use std::collections::BTreeMap;
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::sync::{Mutex, OnceLock, PoisonError};
    use std::time::Duration;

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    use super::ALL;
    use crate::ports::{PortError, PortResult};

    /// Between two looks whether a pause is over.
    const LOOK_PAUSE: Duration = Duration::from_millis(5);

    fn directory() -> Option<&'static Path> {
        static DIRECTORY: OnceLock<Option<PathBuf>> = OnceLock::new();
        let found =
            DIRECTORY.get_or_init(|| std::env::var_os("CUTOVER_FAILPOINTS").map(PathBuf::from));
        found.as_deref()
    }

    /// How often each name has been reached.
    fn count(name: &str) -> u32 {
        static COUNTS: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());
        let mut counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(name.to_owned()).or_default();
        *count += 1;
        *count
    }

    tokio::task_local! {
        /// Set within a rehearsal.
        static PASSES_BY: ();
    }

    /// A rehearsal, which goes the way of a run and comes to none of its moments.
    pub(crate) async fn passing_by<F: Future>(act: F) -> F::Output {
        PASSES_BY.scope((), act).await
    }

    fn directory_if_here() -> Option<&'static Path> {
        directory().filter(|_| PASSES_BY.try_with(|()| ()).is_err())
    }

    /// The process has come to the moment `name`.
    pub async fn reach(name: &str) -> PortResult<()> {
        match directory_if_here() {
            Some(directory) => reach_in(directory, name).await,
            None => Ok(()),
        }
    }

    /// The same for `OF.NAME.WHEN`, whose text is only made when it is needed.
    pub(crate) async fn reach_of(of: &str, name: &str, when: &str) -> PortResult<()> {
        match directory_if_here() {
            Some(directory) => reach_in(directory, &format!("{of}.{name}.{when}")).await,
            None => Ok(()),
        }
    }

    pub(super) async fn reach_in(directory: &Path, name: &str) -> PortResult<()> {
        debug_assert!(ALL.contains(&name), "failpoint {name} is not in failpoint::ALL");
        let failed = |error: std::io::Error| {
            PortError::new("failpoint", format!("{name}: {error}")).caused_by(error)
        };
        let trace = directory.join("trace");
        let mut trace =
            std::fs::OpenOptions::new().create(true).append(true).open(trace).map_err(failed)?;
        writeln!(trace, "{name}").map_err(failed)?;
        let count = count(name);
        let at = directory.join(name);
        let Ok(wish) = std::fs::read_to_string(&at) else { return Ok(()) };
        let (wish, nth) = wish.trim().split_once('@').unwrap_or((wish.trim(), ""));
        match nth.trim() {
            "" => {}
            "once" => std::fs::remove_file(&at).map_err(failed)?,
            nth if nth.parse() == Ok(count) => {}
            _ => return Ok(()),
        }
        match wish.trim().split_once(' ').unwrap_or((wish.trim(), "")) {
            ("kill", _) => signal(Signal::SIGKILL, &at),
            ("stop", _) => signal(Signal::SIGSTOP, &at),
            ("error", _) => Err(PortError::new("failpoint", format!("{name} was made to fail"))),
            ("delay", ms) => {
                let ms = ms.trim().parse().map_err(|_| {
                    PortError::new("failpoint", format!("{name}: delay takes milliseconds"))
                })?;
                tokio::time::sleep(Duration::from_millis(ms)).await;
                Ok(())
            }
            ("pause", _) => {
                std::fs::write(directory.join(format!("{name}.reached")), "").map_err(failed)?;
                while at.exists() {
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
                Ok(())
            }
            _ => Err(PortError::new(
                "failpoint",
                format!("{name}: expected kill, stop, error, delay MS or pause"),
            )),
        }
    }

    fn signal(signal: Signal, wish: &Path) -> PortResult<()> {
        std::fs::remove_file(wish).map_err(|error| {
            PortError::new("failpoint", format!("{}: {error}", wish.display())).caused_by(error)
        })?;
        kill(Pid::this(), signal).map_err(|error| {
            PortError::new("failpoint", "the process can't signal itself").caused_by(error)
        })
    }
}

pub use body::reach;
pub(crate) use body::{passing_by, reach_of};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;

    #[test]
    fn names_are_unique() {
        assert_eq!(ALL.iter().collect::<BTreeSet<_>>().len(), ALL.len());
    }

    #[tokio::test]
    async fn a_file_says_what_happens() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        let name = "journal.arm.before";
        body::reach_in(at, name).await.unwrap();
        std::fs::write(at.join(name), "error@3").unwrap();
        body::reach_in(at, name).await.unwrap();
        assert!(body::reach_in(at, name).await.is_err());
        std::fs::write(at.join(name), "error@once").unwrap();
        assert!(body::reach_in(at, name).await.is_err());
        body::reach_in(at, name).await.unwrap();
        std::fs::write(at.join(name), "delay 1").unwrap();
        body::reach_in(at, name).await.unwrap();
        std::fs::write(at.join(name), "dance").unwrap();
        assert!(body::reach_in(at, name).await.is_err());
        std::fs::write(at.join(name), "pause").unwrap();
        let waiting = body::reach_in(at, name);
        let going_on = async {
            let reached = at.join(format!("{name}.reached"));
            while !reached.exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            std::fs::remove_file(at.join(name)).unwrap();
        };
        let (waited, ()) = tokio::join!(waiting, going_on);
        waited.unwrap();
        let trace = std::fs::read_to_string(at.join("trace")).unwrap();
        assert_eq!(trace.lines().count(), 8);
    }
}
