//! Row counts of both sides while the stream goes on: the last question before clients are held.
//!
//! What the stream applies it checks row by row. What it never saw - a row that somebody deleted on
//! the target, a copy that was tampered with - it can't know, and a count is the cheapest way to
//! find most of that. Small tables are counted, as many as fit into [`COUNTED_BYTES`]; of PostgreSQL the
//! planner's estimates are compared for the rest, and the result says which. See [`judge`] for how counts
//! are compared while clients write, and [`MomentCounts`] for engines that see both sides at one moment.

pub mod judge;
mod moment;

use std::future::Future;
use std::time::Duration;

use decoders::postgres::conninfo::ConnInfo;
use decoders::{Lsn, QualifiedName};
use tokio::time::Instant;

use crate::api::Check;
use crate::lag::normalized_head;
use crate::ports::{PortResult, Replication};
use crate::side::Direction;
use crate::sql::{Kind, Slot, Sql, SqlError, literal};
use judge::{Rounds, Verdict};
pub use moment::{Counted, MomentCounts};

/// Bytes of tables (their main fork, on the source) that are counted, smallest first. Counting so
/// much takes a second or two a round on a server that has it cached.
pub const COUNTED_BYTES: u64 = 256 << 20;
/// Tables that are counted at most: each is a part of one statement.
const COUNTED_TABLES: usize = 5000;
/// Tables in one statement.
const CHUNK: usize = 200;
/// Between two rounds.
const ROUND_PAUSE: Duration = Duration::from_millis(20);
/// Estimates that differ by more than this part are worth a look.
const ESTIMATE_TOLERANCE: f64 = 0.2;
/// Estimates below this say nothing.
const ESTIMATE_MIN: f64 = 10_000.0;
/// Names in one finding.
const NAMED_MAX: usize = 10;
/// What the findings are called.
const NAME: &str = "row-counts";

/// Compares how many rows both sides have, in one direction.
pub trait Counts: Send + Sync {
    /// Connects to both sides.
    fn open(&self, deadline: Instant) -> impl Future<Output = PortResult<()>> + Send;

    /// Compares until every table is settled or time is up. Closes its sessions: clients are to be
    /// held next, and nobody but us may be inside then.
    fn compare<R: Replication>(
        &self,
        stream: &R,
        deadline: Instant,
    ) -> impl Future<Output = PortResult<Vec<Check>>> + Send;
}

/// The row counts of two PostgreSQL databases, in one direction.
pub struct PostgresCounts {
    source: Slot,
    target: Slot,
    from: &'static str,
    to: &'static str,
    publication: String,
}

impl Counts for PostgresCounts {
    async fn open(&self, deadline: Instant) -> PortResult<()> {
        self.source.get(deadline).await?;
        self.target.get(deadline).await?;
        Ok(())
    }

    async fn compare<R: Replication>(
        &self,
        stream: &R,
        deadline: Instant,
    ) -> PortResult<Vec<Check>> {
        let compared = self.compared(stream, deadline).await;
        self.source.close().await;
        self.target.close().await;
        compared
    }
}

/// A replicated table.
#[derive(Debug, Clone, PartialEq)]
struct Table {
    name: QualifiedName,
    bytes: u64,
    /// The planner's, on the source; negative or 0: none.
    estimate: f64,
    /// Row-level security hides rows from us, on either side: a count would mean nothing.
    hidden: bool,
}

/// A table as the target has it.
#[derive(Debug, Clone, Copy)]
struct There {
    estimate: f64,
    hidden: bool,
}

impl PostgresCounts {
    /// From `source` to `target`; `publication` names the tables, on the source.
    pub fn new(
        source: ConnInfo,
        target: ConnInfo,
        publication: &str,
        direction: Direction,
    ) -> Self {
        let (from, to) = (direction.from().name(), direction.to().name());
        let slot = |info, place| Slot::new(info, "cutover counts", place, Kind::Server);
        Self {
            source: slot(source, from),
            target: slot(target, to),
            from,
            to,
            publication: publication.to_owned(),
        }
    }

    async fn compared<R: Replication>(
        &self,
        stream: &R,
        deadline: Instant,
    ) -> PortResult<Vec<Check>> {
        let source = self.source.get(deadline).await?;
        let target = self.target.get(deadline).await?;
        let mut tables = self.tables(&source, deadline).await?;
        let lacking = self.lacking(&target, &mut tables, deadline).await?;
        let before = tables.len();
        tables.retain(|table| !table.hidden);
        let hidden = before - tables.len();
        let mut budget = COUNTED_BYTES;
        let fits = tables.iter().take(COUNTED_TABLES).take_while(|table| {
            let fits = table.bytes <= budget;
            budget = budget.saturating_sub(table.bytes);
            fits
        });
        let large = tables.split_off(fits.count());
        let mut counted: Vec<_> =
            tables.into_iter().map(|table| (table.name, Rounds::default())).collect();
        self.count(&source, &target, stream, &mut counted, deadline).await?;
        let estimates = self.estimates(&target, &large, deadline).await?;
        Ok(self.findings(&lacking, &counted, &estimates, hidden))
    }

    /// Rounds until everything is settled. Time that is up ends it early and is no error.
    async fn count<R: Replication>(
        &self,
        source: &Sql,
        target: &Sql,
        stream: &R,
        tables: &mut [(QualifiedName, Rounds)],
        deadline: Instant,
    ) -> PortResult<()> {
        let doing = |error: SqlError, place: &str| error.at(place, "counting rows");
        let mut open: Vec<usize> = (0..tables.len()).collect();
        let mut before: Vec<u64> = Vec::new();
        while !open.is_empty() {
            let began = Instant::now();
            let names: Vec<_> = open.iter().map(|at| &tables[*at].0).collect();
            if before.is_empty() {
                let counted = counts(source, &names, deadline).await;
                before = counted.map_err(|error| doing(error, self.from))?;
            }
            // Whatever the counts above have seen was committed before this position.
            let head = head(source, deadline).await;
            let head =
                head.map_err(|error| error.at(self.from, "asking for the log's position"))?;
            stream.await_applied(head, deadline).await?;
            let there = counts(target, &names, deadline).await;
            let there = there.map_err(|error| doing(error, self.to))?;
            let after = counts(source, &names, deadline).await;
            let after = after.map_err(|error| doing(error, self.from))?;
            let mut left = Vec::new();
            let mut next = Vec::new();
            for (number, at) in open.iter().enumerate() {
                let rounds = &mut tables[*at].1;
                rounds.observe(before[number], there[number], after[number]);
                if !rounds.is_settled() {
                    left.push(*at);
                    next.push(after[number]);
                }
            }
            (open, before) = (left, next);
            // A round that would be cut short would be an error for nothing.
            if Instant::now() + 2 * began.elapsed() + ROUND_PAUSE >= deadline {
                break;
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
        Ok(())
    }

    /// The tables that the publication sends, smallest first.
    async fn tables(&self, source: &Sql, deadline: Instant) -> PortResult<Vec<Table>> {
        let query = format!(
            "SELECT p.schemaname AS schema, p.tablename AS name, \
                    pg_catalog.pg_relation_size(c.oid) AS bytes, c.reltuples AS estimate, \
                    pg_catalog.row_security_active(c.oid) AS hidden \
             FROM pg_catalog.pg_publication_tables p \
             JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname \
             JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename \
             WHERE p.pubname = {} AND p.schemaname <> '_cutover' ORDER BY 3, 1, 2",
            literal(&self.publication)
        );
        let failed = |error: SqlError| error.at(self.from, "listing the tables");
        let rows = source.rows(&query, deadline).await.map_err(failed)?;
        let mut tables = Vec::new();
        for row in rows {
            let (Some(schema), Some(name)) = (row.get("schema"), row.get("name")) else { continue };
            tables.push(Table {
                name: QualifiedName::new(schema, name),
                bytes: row.number("bytes").map_err(failed)?,
                estimate: row.number("estimate").map_err(failed)?,
                hidden: row.is_true("hidden"),
            });
        }
        Ok(tables)
    }

    /// Tables that the target does not have; they are taken out of `tables`.
    async fn lacking(
        &self,
        target: &Sql,
        tables: &mut Vec<Table>,
        deadline: Instant,
    ) -> PortResult<Vec<QualifiedName>> {
        let known = self.on_target(target, tables, deadline).await?;
        let mut lacking = Vec::new();
        let mut known = known.into_iter();
        tables.retain_mut(|table| match known.next().flatten() {
            Some(there) => {
                table.hidden |= there.hidden;
                true
            }
            None => {
                lacking.push(table.name.clone());
                false
            }
        });
        Ok(lacking)
    }

    /// The tables as the target has them, in the order of `tables`; `None`: no such table.
    async fn on_target(
        &self,
        target: &Sql,
        tables: &[Table],
        deadline: Instant,
    ) -> PortResult<Vec<Option<There>>> {
        let failed = |error: SqlError| error.at(self.to, "looking for the tables");
        let mut found = vec![None; tables.len()];
        for (chunk, part) in tables.chunks(CHUNK).enumerate() {
            let values: Vec<_> = part
                .iter()
                .enumerate()
                .map(|(at, table)| format!("({at}, {})", literal(&table.name.to_string())))
                .collect();
            let query = format!(
                "SELECT t.at, c.reltuples AS estimate, \
                        pg_catalog.row_security_active(c.oid) AS hidden FROM (VALUES {}) AS t(at, name) \
                 JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(t.name)",
                values.join(", ")
            );
            for row in target.rows(&query, deadline).await.map_err(failed)? {
                let at: usize = row.number("at").map_err(failed)?;
                let estimate = row.number("estimate").map_err(failed)?;
                let hidden = row.is_true("hidden");
                if let Some(place) = found.get_mut(chunk * CHUNK + at) {
                    *place = Some(There { estimate, hidden });
                }
            }
        }
        Ok(found)
    }

    /// Estimates of the tables that are too large to be counted: name, source, target.
    async fn estimates(
        &self,
        target: &Sql,
        large: &[Table],
        deadline: Instant,
    ) -> PortResult<Vec<(QualifiedName, f64, f64)>> {
        let there = self.on_target(target, large, deadline).await?;
        let both = large.iter().zip(there).map(|(table, there)| {
            let there = there.map_or(-1.0, |there| there.estimate);
            (table.name.clone(), table.estimate, there)
        });
        Ok(both.collect())
    }

    fn findings(
        &self,
        lacking: &[QualifiedName],
        counted: &[(QualifiedName, Rounds)],
        estimates: &[(QualifiedName, f64, f64)],
        hidden: usize,
    ) -> Vec<Check> {
        let (from, to) = (self.from, self.to);
        let mut findings = Vec::new();
        let fix = copied_anew(from, to);
        for name in lacking {
            let evidence = format!("{name} is replicated, and {to} does not have it");
            findings.push(Check::fail(NAME, evidence, fix.clone()));
        }
        let (mut equal, mut busy, mut width) = (0, 0, 0);
        let mut undecided = Vec::new();
        for (name, rounds) in counted {
            let [here, there] = rounds.last();
            let lost = |rows: u64, what: &str| {
                format!(
                    "{name} has {here} rows on {from} and {there} on {to}: at least {rows} {what}, \
                     which the stream does not explain"
                )
            };
            match rounds.verdict() {
                Verdict::Equal => equal += 1,
                Verdict::Within(rows) => {
                    busy += 1;
                    width = width.max(rows);
                }
                Verdict::Missing(rows) => {
                    let evidence = lost(rows, &format!("missing on {to}"));
                    findings.push(Check::fail(NAME, evidence, fix.clone()));
                }
                Verdict::Extra(rows) => {
                    let evidence = lost(rows, &format!("too many on {to}"));
                    findings.push(Check::fail(NAME, evidence, fix.clone()));
                }
                Verdict::Undecided => undecided.push(name),
            }
        }
        if !undecided.is_empty() {
            let evidence = format!("time was too short to compare {}", named(&undecided));
            findings.push(Check::warn(NAME, evidence, "compare these tables by hand"));
        }
        let apart = |(_, here, there): &&(QualifiedName, f64, f64)| {
            let both = here.max(*there);
            *here > 0.0
                && *there > 0.0
                && both >= ESTIMATE_MIN
                && (here - there).abs() > ESTIMATE_TOLERANCE * both
        };
        for (name, here, there) in estimates.iter().filter(apart) {
            let evidence = format!(
                "{name} is too large to be counted; it is estimated at {here:.0} rows on {from} and \
                 {there:.0} on {to}"
            );
            findings.push(Check::warn(NAME, evidence, format!("ANALYZE {name} on both sides")));
        }
        let mut said = vec![format!("{equal} tables have as many rows on {to} as on {from}")];
        if busy > 0 {
            said.push(format!("{busy} that are being written agree to within {width} rows"));
        }
        if !estimates.is_empty() {
            let unknown = estimates.iter().filter(|(_, here, there)| *here <= 0.0 || *there <= 0.0);
            said.push(format!(
                "{} are too large to be counted: by estimate only, {} of them without one",
                estimates.len(),
                unknown.count()
            ));
        }
        if hidden > 0 {
            said.push(format!("{hidden} have row security that hides rows from us: not compared"));
        }
        findings.push(Check::ok(NAME, said.join("; ")));
        findings
    }
}

/// What to do about rows that the stream does not explain.
fn copied_anew(from: &str, to: &str) -> String {
    format!(
        "find out who wrote to {to}, and make its rows {from}'s again; or copy anew: replicator \
         teardown --yes, empty {to}, replicator run"
    )
}

fn named(names: &[&QualifiedName]) -> String {
    let shown: Vec<_> = names.iter().take(NAMED_MAX).map(ToString::to_string).collect();
    let more = names.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", shown.join(", "))
}

/// Counts, each statement of one snapshot.
async fn counts(
    sql: &Sql,
    names: &[&QualifiedName],
    deadline: Instant,
) -> Result<Vec<u64>, SqlError> {
    let mut counts = vec![0; names.len()];
    for (chunk, part) in names.chunks(CHUNK).enumerate() {
        let selects: Vec<_> = part
            .iter()
            .enumerate()
            .map(|(at, name)| {
                format!("SELECT {at} AS at, pg_catalog.count(*) AS rows FROM ONLY {name}")
            })
            .collect();
        for row in sql.rows(&selects.join(" UNION ALL "), deadline).await? {
            let at: usize = row.number("at")?;
            counts[chunk * CHUNK + at] = row.number("rows")?;
        }
    }
    Ok(counts)
}

/// The end of the log, as keepalives report it. The insert position: with `synchronous_commit = off`
/// a commit is visible before it is written.
async fn head(sql: &Sql, deadline: Instant) -> Result<Lsn, SqlError> {
    let query = "SELECT pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), '0/0') \
                 AS head, pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size')) \
                 AS segment_bytes";
    let row = sql.row(query, deadline).await?;
    Ok(normalized_head(Lsn(row.number("head")?), row.number("segment_bytes")?))
}
