//! The copy's settings.

use serde::{Deserialize, Serialize};

use super::Setting;

/// The `[copy]` part of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CopyConfig {
    /// Chunks copied at the same time; each takes one connection on blue and one on green.
    /// `auto`: one for each core of green, as far as `protect.blue_connections` allows.
    pub workers: Setting,
    /// Size to aim at for one chunk, MiB on blue's disk. `auto`: a table stays whole unless it is
    /// more than one worker's share of the database, because whole tables keep their rows' order
    /// and are written frozen.
    pub chunk_mib: Setting,
    /// Cores of green, which bound `workers`, `schema.jobs` and parallel index builds. `auto`: of
    /// this machine if green is on it, else half of green's `max_worker_processes`.
    pub green_cores: Setting,
    /// Most bytes per second for all workers together; 0 for no limit.
    pub rate_limit_bytes_per_s: u64,
    /// How long to wait for a lock of a table of blue when nothing else is left to copy, seconds. Then
    /// the table is copied from a later snapshot, so that blue need not keep this one for it.
    pub lock_timeout_s: u64,
}

impl Default for CopyConfig {
    fn default() -> Self {
        Self {
            workers: Setting::Auto,
            chunk_mib: Setting::Auto,
            green_cores: Setting::Auto,
            rate_limit_bytes_per_s: 0,
            lock_timeout_s: 30,
        }
    }
}
