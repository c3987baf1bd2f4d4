//! The copy's settings.

use serde::{Deserialize, Serialize};

/// The `[copy]` part of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CopyConfig {
    /// Chunks copied at the same time; each takes one connection on blue and one on green.
    pub workers: usize,
    /// Size to aim at for one chunk, MiB on blue's disk.
    pub chunk_mib: u64,
    /// Most bytes per second for all workers together; 0 for no limit.
    pub rate_limit_bytes_per_s: u64,
    /// How long to wait for blue's table locks (against being rewritten meanwhile), seconds.
    pub lock_timeout_s: u64,
}

impl Default for CopyConfig {
    fn default() -> Self {
        Self { workers: 4, chunk_mib: 128, rate_limit_bytes_per_s: 0, lock_timeout_s: 30 }
    }
}
