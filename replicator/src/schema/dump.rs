//! Running pg_dump.

use std::process::Stdio;

use decoders::QualifiedName;
use decoders::postgres::catalog::quote_literal;
use decoders::postgres::conninfo::{ConnInfo, Host};
use decoders::postgres::lock_room;
use decoders::postgres::session::Session;
use tokio::process::Command;

use super::config::SchemaConfig;
use super::find::PgDump;
use super::marks::STATE_SCHEMA;
use super::script::refreshes;
use crate::backfill::{BackfillError, Cancel, unless_cancelled};

/// What is dumped and how.
pub(super) struct Dumper<'a> {
    pub program: &'a PgDump,
    pub blue: &'a ConnInfo,
    /// The host that was reached; pg_dump must see the same server.
    pub host: &'a Host,
    /// The snapshot that the rows are copied from, so that both agree.
    pub snapshot: &'a str,
    pub exclude: &'a [QualifiedName],
    pub config: &'a SchemaConfig,
}

/// The locks that a dump takes: it locks every table to its end.
const LOCKED: &str =
    "SELECT pg_catalog.count(*) FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p', 'v', 'm')";

/// Materialized views, but for those that come with an extension. Those without rows are named, too: pg_dump
/// doesn't refresh them, nor what reads them, and knows that of what it was asked for only.
const VIEWS: &str = "
    SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'm' AND n.nspname NOT LIKE 'pg\\_%'
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                        AND d.objid = c.oid AND d.deptype = 'e')
    ORDER BY 1, 2";

/// Names of views that pg_dump is given: a process takes arguments of a limited length.
const VIEWS_NAMED_MAX: usize = 500;

/// What pg_dump is asked for.
enum Part<'a> {
    /// A half of the schema, without anything that is read from tables or sequences.
    Half(&'static str),
    /// How these materialized views get their rows, in the order in which they read each other; too many to
    /// be named: all.
    Views(&'a [QualifiedName]),
}

impl Dumper<'_> {
    /// Both halves of the schema, before and after the rows. `session` is one on blue.
    ///
    /// Both are dumped at the same time if blue's lock table has room for it.
    pub(super) async fn both(
        &self,
        session: &Session,
        cancel: &Cancel,
    ) -> Result<(String, String), BackfillError> {
        let asked = |error| BackfillError::database("reading blue's catalog", &error);
        let row = session.query_one(LOCKED, &[]).await.map_err(asked)?;
        let locked: i64 = row.try_get(0).map_err(asked)?;
        let room = lock_room::for_one(&**session).await.map_err(asked)?;
        // In the dump's snapshot: pg_dump refuses names of which it sees nothing.
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
            quote_literal(self.snapshot)
        );
        session.batch_execute(&begin).await.map_err(asked)?;
        let rows = session.query(VIEWS, &[]).await.map_err(asked)?;
        session.batch_execute("COMMIT").await.map_err(asked)?;
        let view = |row: &tokio_postgres::Row| {
            Ok(QualifiedName::new(row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?))
        };
        let views: Result<Vec<QualifiedName>, tokio_postgres::Error> =
            rows.iter().map(view).collect();
        let mut views = views.map_err(asked)?;
        views.retain(|view| !self.exclude.contains(view));
        let (pre, post) = (Part::Half("pre-data"), Part::Half("post-data"));
        let both = async {
            let (pre, mut post) = match locked <= room {
                true => tokio::try_join!(self.dump(&pre), self.dump(&post))?,
                // Each holds the locks of all tables while it runs.
                false => (self.dump(&pre).await?, self.dump(&post).await?),
            };
            if !views.is_empty() {
                // pg_dump itself has these at the very end, too.
                post.push_str(&refreshes(&self.dump(&Part::Views(&views)).await?));
            }
            Ok((pre, post))
        };
        unless_cancelled(cancel, both).await
    }

    async fn dump(&self, part: &Part<'_>) -> Result<String, BackfillError> {
        let program = self.program;
        let output = self.command(part).output().await.map_err(|error| {
            BackfillError::halt(
                format!("{} could not be started: {error}", program.path.display()),
                "check that the program can be executed, or name another with schema.pg_dump",
            )
        })?;
        if !output.status.success() {
            return Err(self.failure(&String::from_utf8_lossy(&output.stderr)));
        }
        String::from_utf8(output.stdout).map_err(|_| {
            BackfillError::halt(
                "blue's schema holds names or texts that are not UTF-8",
                "blue's encoding is probably SQL_ASCII: create green's schema yourself and use \
                 schema.mode = 'existing'",
            )
        })
    }

    fn command(&self, part: &Part<'_>) -> Command {
        let mut command = Command::new(&self.program.path);
        match part {
            // Else pg_dump would read, and so lock, every sequence besides every table.
            Part::Half(section) => {
                command.arg(format!("--section={section}")).arg("--schema-only");
            }
            // With --schema-only no view would be refreshed. Rows are left out, because their section
            // is not asked for.
            Part::Views(views) => {
                command.arg("--section=post-data");
                if views.len() <= VIEWS_NAMED_MAX {
                    command.args(views.iter().map(|view| format!("--table={view}")));
                }
            }
        }
        command
            .args(["--no-publications", "--no-subscriptions", "--no-blobs"])
            .args(["--quote-all-identifiers", "--encoding=UTF8", "--no-password"])
            .arg(format!("--snapshot={}", self.snapshot))
            .arg(format!("--exclude-schema={STATE_SCHEMA}"))
            .arg(format!("--lock-wait-timeout={}s", self.config.lock_timeout_s.max(1)));
        if self.program.major >= 18 {
            command.arg("--no-statistics");
        }
        if !self.config.owners {
            command.args(["--no-owner", "--no-privileges"]);
        }
        if !self.config.tablespaces {
            command.arg("--no-tablespaces");
        }
        for table in self.exclude {
            // Quoted, so that nothing in the name is taken for a pattern.
            command.arg(format!("--exclude-table={table}"));
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.envs(self.blue.libpq_environment(self.host));
        command.env("PGAPPNAME", "cutover schema");
        // Plain C messages, whatever the operator's language: they are shown, and looked at below.
        command.env("LC_ALL", "C");
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    fn failure(&self, said: &str) -> BackfillError {
        const LINES: usize = 6;
        // The statement that failed may quote anything; the complaint comes before it.
        let lines: Vec<&str> = said
            .lines()
            .filter(|line| !line.contains("Query was:") && !line.contains("query was:"))
            .take(LINES)
            .collect();
        let message = format!("{} failed: {}", self.program, lines.join(" | "));
        let passes = ["lock timeout", "could not connect", "connection to server", "server closed"];
        if passes.iter().any(|symptom| said.contains(symptom)) {
            return BackfillError::retry(message);
        }
        let remedy = if said.contains("max_locks_per_transaction") {
            "raise max_locks_per_transaction on blue and restart it: pg_dump locks every table, and the \
             lock table is full. Statements of others may have failed for the same reason at that time"
        } else if said.contains("permission denied") {
            "pg_dump locks every table for reading, so the role needs SELECT on all of them: \
             GRANT pg_read_all_data (PostgreSQL 14), or exclude the tables"
        } else {
            "see pg_dump's message; another version can be named with schema.pg_dump"
        };
        BackfillError::halt(message, remedy)
    }
}
