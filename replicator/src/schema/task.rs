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
    /// Green can't do without it: its rows are found by it, or another statement needs it.
    pub is_needed: bool,
}

impl Task {
    /// The statement itself.
    pub(super) fn whole(entry: Entry) -> Self {
        Self { entry, sql: None, step: RESTORED, is_needed: false }
    }

    /// One step of several.
    pub(super) fn step(entry: Entry, sql: String, step: &'static str) -> Self {
        Self { entry, sql: Some(sql), step, is_needed: false }
    }

    /// What is executed.
    pub(super) fn sql(&self) -> &str {
        self.sql.as_deref().unwrap_or(&self.entry.sql)
    }

    /// Whether it is the build of a B-tree, which sorts. Others (GIN above all) are the faster the
    /// more memory they have, and the check of a foreign key hashes a table.
    pub(super) fn is_sort(&self) -> bool {
        let is_key = self.entry.toc.kind == "CONSTRAINT" && !self.sql().contains(" EXCLUDE ");
        is_key || ["USING \"btree\" ", "USING btree "].iter().any(|by| self.sql().contains(by))
    }

    /// Under which name it is written down.
    pub(super) fn mark(&self) -> String {
        Marks::statement(self.entry.ordinal, self.step)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::schema::script::{Settings, Toc};

    #[test]
    fn only_b_trees_are_sorts() {
        let is_sort = |kind: &str, sql: &str| {
            let toc = Toc { name: "x".into(), kind: kind.into(), schema: "s".into() };
            let settings = Arc::new(Settings::new());
            Task::whole(Entry { ordinal: 0, toc: Arc::new(toc), sql: sql.into(), settings })
                .is_sort()
        };
        assert!(is_sort("INDEX", r#"CREATE INDEX "i" ON "s"."t" USING "btree" ("a");"#));
        assert!(!is_sort("INDEX", r#"CREATE INDEX "i" ON "s"."t" USING "gin" ("a");"#));
        assert!(is_sort(
            "CONSTRAINT",
            r#"ALTER TABLE ONLY "s"."t" ADD CONSTRAINT "k" UNIQUE ("a");"#
        ));
        let exclude =
            r#"ALTER TABLE ONLY "s"."t" ADD CONSTRAINT "k" EXCLUDE USING "gist" ("a" WITH &&);"#;
        assert!(!is_sort("CONSTRAINT", exclude));
        let check = r#"ALTER TABLE ONLY "s"."t" VALIDATE CONSTRAINT "k";"#;
        assert!(!is_sort("FK CONSTRAINT", check));
    }
}
