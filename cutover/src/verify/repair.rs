//! What the sidecar and the operator's command say to each other about a repair.
//!
//! | Request | Body | Answer |
//! |---|---|---|
//! | `POST /v1/repair/plan` | [`RepairRequest`] | [`RepairPlan`]; reads only |
//! | `POST /v1/repair` | [`RepairRequest`] | 202 [`RepairStatus`], 409 while a run, a verification or another repair is under way |
//! | `GET /v1/repair/{id}?wait_ms=M` | - | [`RepairStatus`]; waits at most `M` for its end |
//! | `POST /v1/repair/{id}/stop` | - | [`RepairStatus`] |
//!
//! `{id}` may be `last`. A plan shows values, because it is the statements; it goes to whoever asked
//! and is kept nowhere. Nothing else here has a row's value but for the keys of rows that could not
//! be repaired.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::wire::{KeyPart, VerifyState};
use crate::api::{ApiError, SCHEMA_VERSION};
use crate::side::Side;

/// `POST /v1/repair` and `POST /v1/repair/plan`. Absent fields take their defaults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RepairRequest {
    /// Patterns of tables, `schema.table` with `*` and `?`; none: all with differences.
    pub tables: Vec<String>,
    /// How long a row that is being written may take to be caught at rest, milliseconds. Default 60 s.
    pub settle_ms: Option<u64>,
    /// The name of blue's database as it was typed, or `--yes`. A plan needs none.
    pub confirmation: Option<String>,
    /// Who asks, for the record.
    pub actor: Option<String>,
    /// Why, for the record.
    pub reason: Option<String>,
}

/// A table's statements.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedTable {
    /// Its name, quoted.
    pub table: String,
    /// What would be written now, one statement for each row. They have values in them.
    pub statements: Vec<String>,
    /// Rows that are equal by now.
    pub equal: u64,
    /// Differing rows beyond those whose keys are known; a verification after the repair names them.
    pub beyond: u64,
    /// Why rows of it can't be repaired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl fmt::Debug for PlannedTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlannedTable")
            .field("table", &self.table)
            .field("statements", &self.statements.len())
            .finish_non_exhaustive()
    }
}

/// Something that is no row, and how it is put right. A repair does not run these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedObject {
    /// What it is, as a verification names it.
    pub kind: String,
    /// Its name, quoted.
    pub object: String,
    /// What was found.
    pub what: String,
    /// To be typed on the target; none: nothing is safe to be proposed.
    pub statements: Vec<String>,
}

/// What a repair would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairPlan {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The verification whose differences these are.
    pub verification: String,
    /// Blue's database, whose name is the confirmation.
    pub database: String,
    /// The side that is right.
    pub source: Side,
    /// The side that would be written to.
    pub target: Side,
    /// By name.
    pub tables: Vec<PlannedTable>,
    /// What is no row.
    pub objects: Vec<PlannedObject>,
}

impl RepairPlan {
    /// Rows that would be written.
    pub fn rows(&self) -> usize {
        self.tables.iter().map(|table| table.statements.len()).sum()
    }
}

/// A row that was left as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftRow {
    /// Which one.
    pub key: Vec<KeyPart>,
    /// Why, without values.
    pub why: String,
}

/// A table that was repaired.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairedTable {
    /// Its name, quoted.
    pub table: String,
    /// Rows that the verification has named.
    pub rows: u64,
    /// Rows that the target lacked.
    pub inserted: u64,
    /// Rows that had other values.
    pub updated: u64,
    /// Rows that only the target had.
    pub deleted: u64,
    /// Rows that needed nothing any more: the stream had written them anew.
    pub equal_before: u64,
    /// Rows that were looked at again afterwards, and are equal.
    pub verified: u64,
    /// Rows that were written too often to be caught at rest, or wait for a transaction.
    pub in_motion: u64,
    /// Rows that the target refused.
    pub refused: u64,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left: Vec<LeftRow>,
    /// Differing rows beyond those whose keys are known.
    pub beyond: u64,
    /// Why it was not repaired (to its end).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl RepairedTable {
    /// Every row that was named is equal now, and there were no others.
    pub fn is_whole(&self) -> bool {
        self.error.is_none() && self.beyond == 0 && self.verified == self.rows
    }
}

/// The result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairReport {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Of which repair.
    pub id: String,
    /// The verification whose differences were repaired.
    pub verification: String,
    /// The side that was taken as right.
    pub source: Side,
    /// The side that was written to.
    pub target: Side,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// By name.
    pub tables: Vec<RepairedTable>,
    /// Somebody stopped it, or a run did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

impl RepairReport {
    /// Every row that was named was looked at again and is equal.
    pub fn is_whole(&self) -> bool {
        self.stopped.is_none() && self.tables.iter().all(RepairedTable::is_whole)
    }
}

/// A repair, as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairStatus {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Its name.
    pub id: String,
    /// How far.
    pub state: VerifyState,
    /// Rows that it is about.
    pub rows: u64,
    /// Rows that are done.
    pub rows_done: u64,
    /// When it is over.
    pub report: Option<RepairReport>,
    /// When it failed.
    pub error: Option<ApiError>,
}

impl RepairStatus {
    /// One that has just begun.
    pub fn begun(id: String, rows: u64) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            id,
            state: VerifyState::Running,
            rows,
            rows_done: 0,
            report: None,
            error: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_no_value_to_a_log() {
        let table = PlannedTable {
            statements: vec!["INSERT INTO t VALUES ('hunter2');".into()],
            ..PlannedTable::default()
        };
        assert!(!format!("{table:?}").contains("hunter2"));
    }

    #[test]
    fn only_a_second_look_makes_it_whole() {
        let table = RepairedTable { rows: 2, inserted: 2, ..RepairedTable::default() };
        assert!(!table.is_whole());
        let verified = RepairedTable { verified: 2, ..table };
        assert!(verified.is_whole());
        assert!(!RepairedTable { beyond: 1, ..verified.clone() }.is_whole());
        assert!(!RepairedTable { error: Some("x".into()), ..verified }.is_whole());
    }
}
