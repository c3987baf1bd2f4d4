//! Running pg_dump.

use std::process::Stdio;

use decoders::QualifiedName;
use decoders::postgres::conninfo::{ConnInfo, Host};
use tokio::process::Command;

use super::config::SchemaConfig;
use super::find::PgDump;
use super::marks::STATE_SCHEMA;
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

impl Dumper<'_> {
    /// Both halves of the schema, before and after the rows.
    pub(super) async fn both(&self, cancel: &Cancel) -> Result<(String, String), BackfillError> {
        let both = async { tokio::try_join!(self.section("pre-data"), self.section("post-data")) };
        unless_cancelled(cancel, both).await
    }

    async fn section(&self, section: &str) -> Result<String, BackfillError> {
        let program = self.program;
        let output = self.command(section).output().await.map_err(|error| {
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

    fn command(&self, section: &str) -> Command {
        let mut command = Command::new(&self.program.path);
        command
            .arg(format!("--section={section}"))
            // Without --schema-only, populated materialized views are refreshed in the second
            // half; rows are left out all the same, because their section is not asked for.
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
        let remedy = if said.contains("permission denied") {
            "pg_dump locks every table for reading, so the role needs SELECT on all of them: \
             GRANT pg_read_all_data (PostgreSQL 14), or exclude the tables"
        } else {
            "see pg_dump's message; another version can be named with schema.pg_dump"
        };
        BackfillError::halt(message, remedy)
    }
}
