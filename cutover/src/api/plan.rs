//! What a run would do, and what stands in its way.

use serde::{Deserialize, Serialize};

use super::schema_version;
use super::status::Server;
use crate::side::Direction;
use crate::verify::Accepted;

/// `POST /v1/plan`: the same choices as for a run. Absent fields take the run's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlanRequest {
    /// Of which run. Default: of the one that is possible, a cutover while blue serves and a
    /// rollback while green does.
    pub direction: Option<Direction>,
    /// The lag expression, for example `<1s`.
    pub when_lag: Option<String>,
    /// The longest write pause, milliseconds.
    pub max_pause_ms: Option<u64>,
    /// Go without a way back: there will be no rollback.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub no_way_back: bool,
    /// Only if a verification of everything has found both sides equal within this time,
    /// milliseconds. Default: 24 h, once there is a verification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub require_verified_ms: Option<u64>,
    /// Although the last verification has found differences, or is old.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub accept_differences: bool,
    /// Differences of definitions, rights and settings that are taken as they are, each with its reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub accepts: Vec<Accepted>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// The run can go on; somebody should know.
    Warn,
    /// The run will not start.
    Fail,
}

/// One precheck and what it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// A stable name, for example `pgbouncer-session-mode`.
    pub name: String,
    /// How bad it is.
    pub severity: Severity,
    /// What was seen.
    pub evidence: String,
    /// The command or the act that resolves it.
    pub fix: Option<String>,
}

impl Check {
    /// A check that passed.
    pub fn ok(name: impl Into<String>, evidence: impl Into<String>) -> Self {
        Self { name: name.into(), severity: Severity::Ok, evidence: evidence.into(), fix: None }
    }

    /// A finding that does not stop the run.
    pub fn warn(
        name: impl Into<String>,
        evidence: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let fix = Some(fix.into());
        Self { name: name.into(), severity: Severity::Warn, evidence: evidence.into(), fix }
    }

    /// A finding that stops the run.
    pub fn fail(
        name: impl Into<String>,
        evidence: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let fix = Some(fix.into());
        Self { name: name.into(), severity: Severity::Fail, evidence: evidence.into(), fix }
    }
}

/// How many checks ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checks {
    /// Passed.
    pub ok: u64,
    /// Passed with a warning.
    pub warn: u64,
    /// Failed.
    pub fail: u64,
}

impl Checks {
    /// Counts `checks`.
    pub fn of(checks: &[Check]) -> Self {
        let mut counts = Checks::default();
        for check in checks {
            match check.severity {
                Severity::Ok => counts.ok += 1,
                Severity::Warn => counts.warn += 1,
                Severity::Fail => counts.fail += 1,
            }
        }
        counts
    }
}

/// One thing that a run will do: the exact statement, admin command or file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    /// The step that it belongs to, for example `fence`.
    pub step: String,
    /// Where it happens: `blue`, `green`, a router member, `journal`.
    #[serde(rename = "where")]
    pub place: String,
    /// The statement, command or file edit, word for word. Secrets are masked.
    pub text: String,
}

impl Plan {
    /// The same with one more check.
    pub fn with(mut self, check: Check) -> Self {
        self.ready &= check.severity != Severity::Fail;
        self.checks.push(check);
        self
    }
}

/// Everything that a run would do, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// [`SCHEMA_VERSION`](super::SCHEMA_VERSION).
    #[serde(default = "schema_version")]
    pub schema_version: u32,
    /// SHA-256 over the acts: two plans with one hash do the same.
    pub hash: String,
    /// The epoch that the run would get.
    pub epoch: u64,
    /// From which side to which: a cutover goes forward, a rollback back.
    #[serde(default)]
    pub direction: Direction,
    /// Whether the run would leave a way back, so that it can be undone without losing anything.
    #[serde(default)]
    pub way_back: bool,
    /// The database in production.
    pub blue: Server,
    /// The database to move to.
    pub green: Server,
    /// The traffic switch in a few words, for example `pgbouncer x3`.
    pub router: String,
    /// The gate, for example `lag <1s for 3s`.
    pub gate: String,
    /// The longest write pause, milliseconds.
    pub max_pause_ms: u64,
    /// What was checked.
    pub checks: Vec<Check>,
    /// What would be done.
    pub acts: Vec<Act>,
    /// No check failed: a run would be let to its gate.
    pub ready: bool,
    /// What the gate would wait for now, if it passes by itself.
    #[serde(default)]
    pub waits_for: Option<String>,
}
