//! Failpoints: the moments at which a sidecar dies, fails, or waits for the harness. How they work
//! stands where the product has them, in `cutover/src/failpoint.rs`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Every name that the product knows.
pub const FAILPOINTS: &[&str] = &include!("../../../cutover/src/failpoint/names.in");

/// The acts during which clients are held, in their order.
pub const HELD_ACTS: [&str; 8] =
    ["hold_traffic", "raise_fence", "drain", "sync_sequences", "seal", "decide", "flip", "release"];

/// `act.NAME.before`, as the product spells it.
pub fn before(act: &str) -> &'static str {
    let wanted = format!("act.{act}.before");
    FAILPOINTS.iter().find(|name| **name == wanted).copied().unwrap_or("")
}

/// The act that a failpoint belongs to.
pub fn act_of(point: &str) -> &str {
    point.split('.').nth(1).unwrap_or(point)
}

/// Where the product notes where it has been.
const TRACE: &str = "trace";
/// Our copy of what it noted earlier.
const FORGOTTEN: &str = "trace.forgotten";

/// The directory through which a sidecar is told what to do where, and tells where it has been.
#[derive(Debug, Clone)]
pub struct Points(PathBuf);

impl Points {
    pub fn new(directory: PathBuf) -> Result<Points> {
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(Points(directory))
    }

    pub fn directory(&self) -> &Path {
        &self.0
    }

    /// From now on this happens there: `kill`, `stop`, `error`, `delay MS`, `pause`.
    pub fn set(&self, name: &str, what: &str) -> Result<()> {
        std::fs::write(self.0.join(name), what).with_context(|| format!("failpoint {name}"))
    }

    /// The failpoints of the watchdogs that are started from now on.
    pub fn of_watchdog(&self) -> Result<Points> {
        Points::new(self.0.join("watchdog"))
    }

    /// Nothing happens there any more; whoever pauses there goes on.
    pub fn clear(&self, name: &str) -> Result<()> {
        match std::fs::remove_file(self.0.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("failpoint {name}"))
            }
            _ => Ok(()),
        }
    }

    /// Nothing happens anywhere any more, and nobody has been anywhere.
    pub fn clear_all(&self) -> Result<()> {
        self.clear(TRACE)?;
        self.clear(FORGOTTEN)?;
        self.clear_all_but_trace()
    }

    /// The same, but it stays known who has been where.
    pub fn clear_all_but_trace(&self) -> Result<()> {
        for entry in std::fs::read_dir(&self.0)? {
            let path = entry?.path();
            if path.is_dir() {
                std::fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
            } else if path != self.0.join(TRACE) && path != self.0.join(FORGOTTEN) {
                std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
            }
        }
        Ok(())
    }

    /// For [`Points::has_been`] nobody has been anywhere.
    pub fn forget_trace(&self) -> Result<()> {
        let all = self.whole_trace().join("\n") + "\n";
        std::fs::write(self.0.join(FORGOTTEN), all)?;
        self.clear(TRACE)
    }

    /// The trace with what was forgotten.
    pub fn whole_trace(&self) -> Vec<String> {
        let mut all = self.lines(FORGOTTEN);
        all.extend(self.trace());
        all
    }

    /// Whether somebody has paused there.
    pub fn is_paused(&self, name: &str) -> bool {
        self.0.join(format!("{name}.reached")).exists()
    }

    /// Where processes have been since the last [`Points::clear_all`], in order.
    pub fn trace(&self) -> Vec<String> {
        self.lines(TRACE)
    }

    fn lines(&self, file: &str) -> Vec<String> {
        // Nobody has been anywhere yet: no file.
        let text = std::fs::read_to_string(self.0.join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub fn has_been(&self, name: &str) -> bool {
        self.trace().iter().any(|line| line == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_act_has_its_failpoints() {
        assert!(FAILPOINTS.len() >= 40, "{}", FAILPOINTS.len());
        for act in &HELD_ACTS {
            assert!(FAILPOINTS.contains(&before(act)), "{act}");
        }
        assert_eq!(act_of("journal.seal.after"), "seal");
    }
}
