//! A session that executes a dump's statements, one at a time.

use std::collections::BTreeMap;

use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::{Session, connect};
use tokio_postgres::error::SqlState;

use super::marks::Marks;
use super::put_off::{Substitute, is_violation};
use super::script::{Entry, Settings};
use crate::backfill::guard::guarded;
use crate::backfill::{BackfillError, Cancel};

/// How often a statement that lost a deadlock is tried again.
const DEADLOCK_TRIES: usize = 5;

/// A connection to green with the settings that the last statement needed.
pub(super) struct Restorer {
    session: Session,
    applied: Settings,
    resources: Option<BuildResources>,
    cancel: Cancel,
}

/// What an index build may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BuildResources {
    /// `maintenance_work_mem`, MiB.
    pub memory_mib: u64,
    /// Processes besides the session's own; `None` before PostgreSQL 11, which knows none.
    pub helpers: Option<usize>,
}

/// What became of a statement.
#[derive(Debug)]
pub(super) enum Outcome {
    Done,
    /// The very same object was there already.
    Existed,
    /// Rows are in the way, or what was put off before is missing. Nothing was done.
    Violated(BackfillError),
}

impl Restorer {
    /// Connects; `extra` is SQL for settings of this session.
    pub(super) async fn open(
        green: &ConnInfo,
        extra: &str,
        cancel: &Cancel,
    ) -> Result<Self, BackfillError> {
        let session = connect(green, "cutover schema")
            .await
            .map_err(|error| BackfillError::connect("green", &error))?;
        // Our own triggers of events must not run on what we restore.
        session
            .batch_execute(&format!("SET client_min_messages = warning;{extra}"))
            .await
            .map_err(|error| BackfillError::database("setting up a session on green", &error))?;
        Ok(Self { session, applied: BTreeMap::new(), resources: None, cancel: cancel.clone() })
    }

    pub(super) fn client(&self) -> &Session {
        &self.session
    }

    /// Runs SQL; a request to stop cancels it on the server, too.
    pub(super) async fn run(
        &self,
        sql: &str,
    ) -> Result<Result<(), tokio_postgres::Error>, BackfillError> {
        guarded(vec![self.session.canceller()], &self.cancel, self.session.batch_execute(sql)).await
    }

    /// Brings the session's settings to what the statement needs.
    pub(super) async fn apply_settings(&mut self, entry: &Entry) -> Result<(), BackfillError> {
        let changed: Vec<&str> = entry
            .settings
            .iter()
            .filter(|(name, statement)| self.applied.get(*name) != Some(*statement))
            .map(|(_, statement)| statement.as_str())
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        let sql = changed.join("\n");
        self.run(&sql).await?.map_err(|error| BackfillError::database(failed(entry), &error))?;
        self.applied = (*entry.settings).clone();
        Ok(())
    }

    /// What the next index builds of this session may use.
    pub(super) async fn set_resources(
        &mut self,
        resources: BuildResources,
    ) -> Result<(), BackfillError> {
        if self.resources != Some(resources) {
            let BuildResources { memory_mib, helpers } = resources;
            let mut sql = format!("SET maintenance_work_mem = '{memory_mib}MB';");
            if let Some(helpers) = helpers {
                sql.push_str(&format!("SET max_parallel_maintenance_workers = {helpers}"));
            }
            self.run(&sql).await?.map_err(|error| {
                BackfillError::database("setting up a session on green", &error)
            })?;
            self.resources = Some(resources);
        }
        Ok(())
    }

    /// Runs `sql` and writes `mark` down in one transaction.
    ///
    /// A lost deadlock is tried again; the same object being there already counts as done.
    pub(super) async fn run_marked(
        &mut self,
        entry: &Entry,
        sql: &str,
        mark: &str,
    ) -> Result<Outcome, BackfillError> {
        self.apply_settings(entry).await?;
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match self.try_marked(sql, mark).await? {
                Ok(()) => return Ok(Outcome::Done),
                Err(error) => error,
            };
            let code = error.code().cloned();
            // A connection that is gone can't be rolled back, and needs no rolling back.
            if code.is_some() {
                self.rollback().await?;
            }
            match code {
                Some(SqlState::T_R_DEADLOCK_DETECTED) if tries < DEADLOCK_TRIES => {}
                Some(code) if is_duplicate(&code) && self.is_there(entry, sql).await? => {
                    self.mark(entry, mark).await?;
                    return Ok(Outcome::Existed);
                }
                Some(code) if is_violation(&code) => {
                    let error = BackfillError::database(failed(entry), &error);
                    return Ok(Outcome::Violated(error));
                }
                _ => return Err(BackfillError::database(failed(entry), &error)),
            }
        }
    }

    /// Does what is done instead of a task, and writes down what was put off.
    pub(super) async fn put_off(
        &mut self,
        entry: &Entry,
        substitute: &Substitute,
    ) -> Result<(), BackfillError> {
        let failed = |error| BackfillError::database(failed(entry), &error);
        let detail = serde_json::to_string(&substitute.put_off).map_err(|error| {
            BackfillError::retry(format!("writing down what is put off: {error}"))
        })?;
        self.run("BEGIN").await?.map_err(failed)?;
        if let Some(sql) = &substitute.sql {
            self.run(sql).await?.map_err(failed)?;
        }
        for step in &substitute.steps {
            let mark = Marks::statement(entry.ordinal, step);
            Marks::set(&**self.client(), &mark, "put off").await.map_err(failed)?;
        }
        let item = Marks::put_off_item(entry.ordinal);
        Marks::set(&**self.client(), &item, &detail).await.map_err(failed)?;
        self.run("COMMIT").await?.map_err(failed)
    }

    async fn try_marked(
        &self,
        sql: &str,
        mark: &str,
    ) -> Result<Result<(), tokio_postgres::Error>, BackfillError> {
        if let Err(error) = self.run("BEGIN").await? {
            return Ok(Err(error));
        }
        if let Err(error) = self.run(sql).await? {
            return Ok(Err(error));
        }
        if let Err(error) = Marks::set(&**self.client(), mark, "done").await {
            return Ok(Err(error));
        }
        self.run("COMMIT").await
    }

    async fn mark(&self, entry: &Entry, mark: &str) -> Result<(), BackfillError> {
        Marks::set(&**self.client(), mark, "was there")
            .await
            .map_err(|error| BackfillError::database(failed(entry), &error))
    }

    pub(super) async fn rollback(&mut self) -> Result<(), BackfillError> {
        // Settings made inside the transaction went with it.
        self.run("ROLLBACK")
            .await?
            .map_err(|error| BackfillError::database("rolling back on green", &error))
    }

    /// Whether green has what `sql` would make, or what the whole statement would of which it is a
    /// step.
    async fn is_there(&self, entry: &Entry, sql: &str) -> Result<bool, BackfillError> {
        Ok(self.exists(entry, sql).await?
            || (sql != entry.sql && self.exists(entry, &entry.sql).await?))
    }

    /// Whether green has exactly what the statement would make: one whose definition, as the
    /// server prints it, is in the statement.
    async fn exists(&self, entry: &Entry, sql: &str) -> Result<bool, BackfillError> {
        let definition = match entry.toc.kind.as_str() {
            "INDEX" => {
                "SELECT pg_catalog.pg_get_indexdef(c.oid) FROM pg_catalog.pg_class c
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('i', 'I')"
            }
            "CONSTRAINT" | "FK CONSTRAINT" | "CHECK CONSTRAINT" => {
                "SELECT pg_catalog.pg_get_constraintdef(k.oid) FROM pg_catalog.pg_constraint k
                 JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = $1 AND c.relname || ' ' || k.conname = $2"
            }
            "TRIGGER" => {
                "SELECT pg_catalog.pg_get_triggerdef(t.oid) FROM pg_catalog.pg_trigger t
                 JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = $1 AND c.relname || ' ' || t.tgname = $2"
            }
            _ => return Ok(false),
        };
        let doing = failed(entry);
        let asked = |error| BackfillError::database(&doing, &error);
        // The dump was written with these, so the texts compare.
        const AS_DUMPED: &str = "SET quote_all_identifiers = on; SET search_path = ''";
        self.run(AS_DUMPED).await?.map_err(asked)?;
        let row = self
            .session
            .query_opt(definition, &[&entry.toc.schema, &entry.toc.name])
            .await
            .map_err(asked)?;
        self.run("RESET quote_all_identifiers").await?.map_err(asked)?;
        let Some(row) = row else { return Ok(false) };
        let there: String = row.try_get(0).map_err(asked)?;
        Ok(squeezed(sql).contains(&squeezed(&there)))
    }
}

fn squeezed(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `42P07` duplicate table (an index is one), `42710` duplicate object, `42P16` a second primary
/// key, `55000` an index that belongs to a constraint already.
fn is_duplicate(code: &SqlState) -> bool {
    [
        SqlState::DUPLICATE_TABLE,
        SqlState::DUPLICATE_OBJECT,
        SqlState::INVALID_TABLE_DEFINITION,
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
    ]
    .contains(code)
}

/// For messages.
pub(super) fn failed(entry: &Entry) -> String {
    format!("restoring {} on green", entry.toc.describe())
}
