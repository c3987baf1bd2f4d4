//! What is watched besides lag and runs: the log that a source keeps for us, the copy, proofs, and what the
//! sidecar itself lives on.

use std::path::Path;

use crate::protect::wal::Budget;

/// As of one moment. What is not known is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Upkeep {
    /// The log of the stream that carries.
    pub log: LogReadings,
    /// The first copy.
    pub copy: CopyReadings,
    /// Proofs.
    pub verify: VerifyReadings,
    /// Whether our own proxy serves clients.
    pub proxy: ProxyReadings,
    /// The audit log is not what was written.
    pub audit_broken: bool,
    /// Bytes that the state directory's disk has left for us.
    pub state_dir_free_bytes: Option<u64>,
    /// Size of that disk, bytes.
    pub state_dir_bytes: Option<u64>,
    /// Descriptors that the process has open.
    pub open_fds: Option<u64>,
    /// How many it may have open.
    pub open_fds_max: Option<u64>,
}

/// The log that the source keeps for us, or is about to throw away.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LogReadings {
    /// Log that the slot makes its server keep, bytes.
    pub retained_bytes: Option<u64>,
    /// Of which somebody should know from here on, and the most that may be kept.
    pub budget: Option<Budget>,
    /// How fast it grows, bytes per second.
    pub growth_bytes_per_second: Option<f64>,
    /// After what time a binlog is removed, read or not, seconds; `None` for PostgreSQL, and where none is.
    pub binlog_expire_seconds: Option<u64>,
    /// Age of what the stream reads next, seconds: at most so much has to be kept.
    pub position_age_seconds: f64,
}

impl LogReadings {
    /// Seconds until as much is kept as may be; `None` without a limit, or while it does not grow.
    pub fn fills_in_seconds(&self) -> Option<f64> {
        let (retained, limit) = (self.retained_bytes?, self.budget?.limit?);
        let growth = self.growth_bytes_per_second.filter(|growth| *growth > 0.0)?;
        Some(limit.saturating_sub(retained) as f64 / growth)
    }

    /// What is kept, over what somebody should know of.
    pub fn retained_ratio(&self) -> Option<f64> {
        Some(self.retained_bytes? as f64 / self.warn_bytes()?)
    }

    /// The same in an hour, if it goes on growing as it does.
    pub fn retained_ratio_in_an_hour(&self) -> Option<f64> {
        let growth = self.growth_bytes_per_second?.max(0.0);
        // What does not grow is no news, however much it is.
        if growth == 0.0 {
            return Some(0.0);
        }
        Some((self.retained_bytes? as f64 + 3600.0 * growth) / self.warn_bytes()?)
    }

    /// How much of a binlog's life is over before it is read.
    pub fn binlog_age_ratio(&self) -> Option<f64> {
        let expire = self.binlog_expire_seconds.filter(|seconds| *seconds > 0)?;
        Some(self.position_age_seconds / expire as f64)
    }

    fn warn_bytes(&self) -> Option<f64> {
        self.budget.map(|budget| budget.warn.max(1) as f64)
    }
}

/// The first copy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CopyReadings {
    /// Tables to copy.
    pub tables: u64,
    /// Tables copied.
    pub tables_done: u64,
    /// Rows copied so far.
    pub rows: u64,
    /// Bytes copied so far.
    pub bytes: u64,
    /// Estimated bytes of all tables.
    pub bytes_estimated: u64,
    /// Estimated seconds left.
    pub eta_seconds: Option<f64>,
    /// While rows are copied: for how long none has come.
    pub idle_seconds: Option<f64>,
    /// How often a copy that had begun was begun again since the process started.
    pub restarts: u64,
    /// How long ago that was last, seconds.
    pub restart_age_seconds: Option<f64>,
}

/// Our own proxy, where it serves clients.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProxyReadings {
    /// Whether it answers; `None` before somebody has looked, and without one.
    pub up: Option<bool>,
    /// Seconds since it was last lost, 0 while it is; `None` if it never was.
    pub lost_age_seconds: Option<f64>,
}

/// What is known of both sides being equal.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VerifyReadings {
    /// What it stands at.
    pub standing: Proof,
    /// Differences that were found and not put right.
    pub differences: u64,
    /// Age of the newest proof, seconds.
    pub proof_age_seconds: Option<f64>,
}

/// What the newest verification is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Proof {
    /// None was made, or none counts.
    #[default]
    Missing,
    /// Both sides were equal.
    Proven,
    /// They were not.
    Different,
    /// One that goes on counts no more.
    Lost,
}

impl Proof {
    /// All of them.
    pub const ALL: [Proof; 4] = [Proof::Missing, Proof::Proven, Proof::Different, Proof::Lost];

    /// As a label.
    pub fn name(self) -> &'static str {
        match self {
            Proof::Missing => "missing",
            Proof::Proven => "proven",
            Proof::Different => "different",
            Proof::Lost => "lost",
        }
    }
}

impl Upkeep {
    /// What the sidecar itself lives on; the rest is for others to fill in.
    pub(super) fn of_process(state_dir: &Path) -> Self {
        let disk = nix::sys::statvfs::statvfs(state_dir).ok();
        let bytes = |blocks: u64, size: u64| blocks.saturating_mul(size);
        Self {
            state_dir_free_bytes: disk
                .as_ref()
                .map(|disk| bytes(disk.blocks_available(), disk.fragment_size())),
            state_dir_bytes: disk.as_ref().map(|disk| bytes(disk.blocks(), disk.fragment_size())),
            open_fds: std::fs::read_dir("/proc/self/fd").ok().map(|open| open.count() as u64),
            open_fds_max: open_fds_max(),
            ..Self::default()
        }
    }
}

/// The soft limit; `None` without one, or where it can't be read.
fn open_fds_max() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn log(retained: u64, limit: Option<u64>, growth: f64) -> LogReadings {
        LogReadings {
            retained_bytes: Some(retained),
            budget: Some(Budget { warn: 10 * GIB, limit }),
            growth_bytes_per_second: Some(growth),
            ..LogReadings::default()
        }
    }

    #[test]
    fn a_log_that_does_not_grow_never_fills() {
        assert_eq!(log(9 * GIB, Some(10 * GIB), 0.0).fills_in_seconds(), None);
        assert_eq!(log(9 * GIB, Some(10 * GIB), -5.0).retained_ratio_in_an_hour(), Some(0.0));
        assert_eq!(log(9 * GIB, None, 1e9).fills_in_seconds(), None, "nobody has set a limit");
        assert_eq!(log(9 * GIB, Some(10 * GIB), GIB as f64).fills_in_seconds(), Some(1.0));
    }

    #[test]
    fn a_stock_server_without_a_limit_has_ratios_all_the_same() {
        let stock = log(12 * GIB, None, 0.0);
        assert!(stock.retained_ratio().is_some_and(|ratio| ratio > 1.0));
        let growing = log(GIB, None, GIB as f64 / 360.0);
        assert!(growing.retained_ratio_in_an_hour().is_some_and(|ratio| ratio > 1.0));
    }

    #[test]
    fn only_a_binlog_that_expires_has_an_age() {
        let of = |expire| LogReadings {
            binlog_expire_seconds: expire,
            position_age_seconds: 1800.0,
            ..LogReadings::default()
        };
        assert_eq!(of(Some(3600)).binlog_age_ratio(), Some(0.5));
        assert_eq!([of(Some(0)), of(None)].map(|log| log.binlog_age_ratio()), [None, None]);
    }

    #[test]
    fn this_process_has_a_disk_and_descriptors() {
        let ours = Upkeep::of_process(Path::new("/"));
        assert!(ours.open_fds.is_some_and(|open| open > 2), "{ours:?}");
        assert!(
            ours.state_dir_bytes >= ours.state_dir_free_bytes && ours.state_dir_bytes.is_some()
        );
    }
}
