//! How far the set-up of green is: numbers for the API, bars and log lines.

use std::sync::Arc;

use decoders::QualifiedName;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Where progress is published. Readers see the newest state only.
pub type ProgressSender = watch::Sender<BackfillProgress>;

/// What is being done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing yet.
    #[default]
    Waiting,
    /// The schema's first half: types, functions, tables.
    Schema,
    /// Rows.
    Copying,
    /// Indexes, primary keys, unique and exclusion constraints.
    Indexes,
    /// Foreign keys.
    ForeignKeys,
    /// Triggers, rules, policies, comments, materialized views.
    Rest,
    /// The planner's statistics.
    Analyze,
    /// Green is filled.
    Done,
}

impl Phase {
    /// For people.
    pub fn label(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting",
            Phase::Schema => "schema",
            Phase::Copying => "copying rows",
            Phase::Indexes => "building indexes",
            Phase::ForeignKeys => "checking foreign keys",
            Phase::Rest => "triggers and the rest",
            Phase::Analyze => "analyzing",
            Phase::Done => "done",
        }
    }
}

/// A table's part in the copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableState {
    /// No chunk has begun.
    Waiting,
    /// Some have.
    Copying,
    /// All are on green.
    Copied,
}

/// One table.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct TableProgress {
    /// Which.
    pub table: QualifiedName,
    /// How far.
    pub state: TableState,
    /// Rows by blue's statistics, where there are any.
    pub rows_estimated: Option<u64>,
    /// Rows written to green.
    pub rows_copied: u64,
    /// Bytes of heap and TOAST on blue: what will travel is near it, never equal.
    pub bytes_estimated: u64,
    /// Bytes that travelled.
    pub bytes_copied: u64,
    /// Bytes per second, lately.
    pub bytes_per_s: u64,
    /// Seconds left at this rate; `None` if nothing can be said.
    pub eta_s: Option<u64>,
}

/// All tables together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Total {
    /// Number of tables.
    pub tables: usize,
    /// Those that are done.
    pub tables_copied: usize,
    /// See [`TableProgress`]; tables without statistics count what was copied.
    pub rows_estimated: u64,
    /// Rows written to green.
    pub rows_copied: u64,
    /// See [`TableProgress`].
    pub bytes_estimated: u64,
    /// Bytes that travelled.
    pub bytes_copied: u64,
    /// Rows per second, lately.
    pub rows_per_s: u64,
    /// Bytes per second, lately.
    pub bytes_per_s: u64,
    /// Seconds left at this rate.
    pub eta_s: Option<u64>,
}

/// Statements (or tables) of a phase that counts them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Steps {
    /// All.
    pub total: usize,
    /// Finished.
    pub done: usize,
    /// Being worked on.
    pub current: Vec<String>,
}

/// The state of the set-up of green.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct BackfillProgress {
    /// What is being done.
    pub phase: Phase,
    /// The copy, table by table, largest first.
    pub tables: Arc<Vec<TableProgress>>,
    /// The copy as a whole.
    pub total: Total,
    /// The other phases.
    pub steps: Steps,
    /// What of blue has to be waited for; `None` if nothing has.
    pub waiting_for: Option<String>,
}

/// Begins a phase that counts its steps.
pub(crate) fn begin(progress: &ProgressSender, phase: Phase, total: usize) {
    progress.send_modify(|state| {
        state.phase = phase;
        state.steps = Steps { total, done: 0, current: Vec::new() };
    });
}

/// A step that is being worked on; finished or not, it ends when this is dropped.
pub(crate) struct Step<'a> {
    progress: &'a ProgressSender,
    name: String,
    is_done: bool,
}

impl<'a> Step<'a> {
    pub(crate) fn begin(progress: &'a ProgressSender, name: impl Into<String>) -> Self {
        let name = name.into();
        progress.send_modify(|state| state.steps.current.push(name.clone()));
        Self { progress, name, is_done: false }
    }

    pub(crate) fn finish(mut self) {
        self.is_done = true;
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.progress.send_modify(|state| {
            if let Some(at) = state.steps.current.iter().position(|name| *name == self.name) {
                state.steps.current.remove(at);
            }
            state.steps.done += usize::from(self.is_done);
        });
    }
}
