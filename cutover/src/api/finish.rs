//! The end of the way back.

use serde::{Deserialize, Serialize};

use super::plan::Act;
use super::schema_version;

/// How far the end of the way back has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishState {
    /// Nobody has asked for it.
    #[default]
    NotAsked,
    /// It was begun: there is no way back any more, and `cutover finish` has to end it.
    UnderWay,
    /// It is done: both streams are gone.
    Done,
}

/// `GET /v1/finish`: what ending the way back would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishPlan {
    /// [`SCHEMA_VERSION`](super::SCHEMA_VERSION).
    #[serde(default = "schema_version")]
    pub schema_version: u32,
    /// How far it has come already.
    pub state: FinishState,
    /// The side that serves, and would for good.
    pub serving: String,
    /// The side that would stay sealed.
    pub sealed: Option<String>,
    /// The name that the operator has to type: of blue's database.
    pub database: String,
    /// Why it would be refused without `force_abandon_rollback`.
    pub refused: Option<String>,
    /// What would be done, in order.
    pub acts: Vec<Act>,
    /// What a person would have to run to open the sealed side again.
    pub reopen: Vec<String>,
    /// Statements for the serving side that take back what only a stream needs of its tables. Nothing runs
    /// them; at most 1000, and none once the end is done.
    #[serde(default)]
    pub unneeded: Vec<String>,
}

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
    /// As the plan had them: see [`FinishPlan::unneeded`].
    #[serde(default)]
    pub unneeded: Vec<String>,
}
