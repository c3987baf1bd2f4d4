//! What blue may be asked for.

use serde::Deserialize;

use super::connections::BESIDES_THE_COPY;
use crate::backfill::{CopyConfig, Setting};

/// What happens when the slot makes blue keep as much log as it may.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnWalLimit {
    /// Say so, and go on. Where blue has `max_slot_wal_keep_size`, blue then gives the slot up by
    /// itself; where it has not, its disk may fill up.
    #[default]
    Warn,
    /// Drop our slot, so that blue can remove its log, and stop. The copy has to be made again.
    DropSlot,
}

/// The `[protect]` part of the configuration.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProtectConfig {
    /// Most connections to blue at any moment, walsender, probes and pg_dump included. `auto`: a
    /// tenth of blue's `max_connections`, but no fewer than 8 and no more than the copy can use.
    pub blue_connections: Setting,
    /// Log kept for our slot that somebody should know about, bytes. `auto`: half the limit; with no
    /// limit four times blue's `max_wal_size`, but at least 10 GiB.
    pub retained_wal_warn_bytes: Setting,
    /// Most log that blue may have to keep for our slot, bytes. `auto`: nine tenths of blue's
    /// `max_slot_wal_keep_size`; if that sets no limit, there is none.
    pub retained_wal_bytes: Setting,
    /// What happens at `retained_wal_bytes`.
    pub on_wal_limit: OnWalLimit,
    /// The copy slows down while blue takes longer than this to answer the simplest question,
    /// milliseconds. `auto`: ten times what it took before the copy began, but at least 50 ms. 0:
    /// never.
    pub answer_ms_max: Setting,
}

impl Default for ProtectConfig {
    fn default() -> Self {
        Self {
            blue_connections: Setting::Auto,
            retained_wal_warn_bytes: Setting::Auto,
            retained_wal_bytes: Setting::Auto,
            on_wal_limit: OnWalLimit::Warn,
            answer_ms_max: Setting::Auto,
        }
    }
}

/// Fewest connections to blue that a move gets by with: everything besides the copy, the copy's
/// keeper, and pg_dump's two processes.
const CONNECTIONS_MIN: u64 = BESIDES_THE_COPY as u64 + 3;

impl ProtectConfig {
    /// What is wrong, one sentence each.
    pub fn problems(&self, copy: &CopyConfig) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(connections) = self.blue_connections.fixed() {
            if connections < CONNECTIONS_MIN {
                problems.push(format!("protect.blue_connections: at least {CONNECTIONS_MIN}"));
            }
            let wanted =
                copy.workers.fixed().unwrap_or(1).saturating_add(BESIDES_THE_COPY as u64 + 1);
            if wanted > connections {
                problems.push(format!(
                    "copy.workers: {wanted} connections to blue are more than \
                     protect.blue_connections = {connections} (each worker takes one, and {} are \
                     needed besides)",
                    BESIDES_THE_COPY + 1
                ));
            }
        }
        let bytes = (self.retained_wal_warn_bytes.fixed(), self.retained_wal_bytes.fixed());
        if let (Some(warn), Some(limit)) = bytes
            && warn > limit
        {
            problems.push(
                "protect.retained_wal_warn_bytes: not more than protect.retained_wal_bytes".into(),
            );
        }
        problems
    }
}
