//! One statement of the second half, and how its being done is written down.

use super::marks::Marks;
use super::script::Entry;

/// The statement was executed as the dump has it, or what it says is true by other means.
pub(super) const RESTORED: &str = "restored";
/// The index beneath a constraint was built.
pub(super) const BUILT: &str = "built";
/// A foreign key that was added before was checked.
pub(super) const VALIDATED: &str = "validated";

/// Something to execute for one of the dump's statements.
#[derive(Clone, Debug)]
pub(super) struct Task {
    /// The statement in the dump.
    pub entry: Entry,
    /// What is executed instead of it; `None`: itself.
    pub sql: Option<String>,
    /// Tells apart what is done for one statement in several steps.
    pub step: &'static str,
}

impl Task {
    /// The statement itself.
    pub(super) fn whole(entry: Entry) -> Self {
        Self { entry, sql: None, step: RESTORED }
    }

    /// One step of several.
    pub(super) fn step(entry: Entry, sql: String, step: &'static str) -> Self {
        Self { entry, sql: Some(sql), step }
    }

    /// What is executed.
    pub(super) fn sql(&self) -> &str {
        self.sql.as_deref().unwrap_or(&self.entry.sql)
    }

    /// Under which name it is written down.
    pub(super) fn mark(&self) -> String {
        Marks::statement(self.entry.ordinal, self.step)
    }
}
