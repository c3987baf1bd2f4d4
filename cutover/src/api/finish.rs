//! The end of the way back.

use serde::{Deserialize, Serialize};

use super::schema_version;

/// `POST /v1/finish`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FinishRequest {
    /// Who asks, for the record.
    pub actor: Option<String>,
    /// The database's name, typed by the operator, or `--yes`. Nothing starts without it.
    pub confirmation: Option<String>,
    /// Also while the new side is still being watched.
    pub force_abandon_rollback: bool,
}

/// What `finish` has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishReport {
    /// [`SCHEMA_VERSION`](super::SCHEMA_VERSION).
    #[serde(default = "schema_version")]
    pub schema_version: u32,
    /// The side that serves, for good.
    pub serving: String,
    /// What was removed.
    pub removed: Vec<String>,
    /// The side that stays sealed.
    pub sealed: Option<String>,
    /// What a person would have to run to open it again. Its data is that of the moment when the
    /// streams ended.
    pub reopen: Vec<String>,
}
