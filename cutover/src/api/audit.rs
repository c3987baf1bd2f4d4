//! The audit log, as it is shown.

use serde::{Deserialize, Serialize};

use super::schema_version;
use crate::audit::Broken;

/// Answer to `GET /v1/audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPage {
    /// [`SCHEMA_VERSION`](super::SCHEMA_VERSION).
    #[serde(default = "schema_version")]
    pub schema_version: u32,
    /// Lines, byte for byte as they are in the log, oldest first.
    pub lines: Vec<String>,
    /// Number of the first line that is there; more than 1 where older files were taken away.
    #[serde(default)]
    pub first: u64,
    /// So many lines, from that one on, prove each other.
    pub verified: u64,
    /// Those of them whose hash could not be computed where this was made, for want of the key: only
    /// that each follows the one before was seen.
    #[serde(default)]
    pub unproven: u64,
    /// The hash of the last of them: whoever keeps it elsewhere can tell later that nothing was cut
    /// off the end.
    pub last_hash: String,
    /// The first line that breaks the chain.
    pub broken: Option<Broken>,
}
