//! Many statements in one message, and the check of each one's outcome.

use std::sync::Arc;

use decoders::change::{Lsn, TableSchema};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use super::error::{of_rows, target_error};
use super::events::binlog;
use crate::target::TargetError;

/// Statements in one message, at most.
const STATEMENTS_MAX: usize = 512;
/// Bytes in one message, unless one statement has more.
const MESSAGE_BYTES: usize = 512 * 1024;

/// Bytes of one statement for many rows, unless one row has more.
const STATEMENT_BYTES: usize = 256 * 1024;

/// What a statement is for.
#[derive(Clone, Debug)]
pub(super) enum Purpose {
    /// It holds no rows.
    Frame(&'static str),
    /// The lane's progress row.
    Progress,
    /// Whether row events are strict.
    Strictness,
    /// Row events, of any tables.
    Events { commits: (Lsn, Lsn) },
    /// Rows of a table.
    Rows { table: Arc<TableSchema>, op: &'static str, commits: (Lsn, Lsn) },
}

impl Purpose {
    fn is_about_events(&self) -> bool {
        matches!(self, Purpose::Events { .. } | Purpose::Strictness)
    }

    fn describe(&self) -> String {
        match self {
            Purpose::Frame(what) => (*what).to_owned(),
            Purpose::Strictness => "looking how green takes row events".to_owned(),
            Purpose::Events { commits: (first, last) } => {
                format!("row events of blue's transactions {} to {}", first.0, last.0)
            }
            Purpose::Progress => "moving the progress on green".to_owned(),
            // Of a repair: it brings no transaction of the source.
            Purpose::Rows { table, op, commits: (Lsn::INVALID, _) } => {
                format!("{op} of {}", table.name)
            }
            Purpose::Rows { table, op, commits: (first, last) } if first == last => {
                format!("{op} of {} in blue's transaction number {}", table.name, first.0)
            }
            Purpose::Rows { table, op, commits: (first, last) } => {
                format!("{op} of {} in blue's transactions {} to {}", table.name, first.0, last.0)
            }
        }
    }
}

/// What a statement's answer must say.
#[derive(Clone, Debug)]
struct Check {
    /// How many rows it finds or adds; `None` for statements that have none.
    rows: Option<u64>,
    warnings: u16,
    purpose: Purpose,
}

/// Statements that were not sent yet.
#[derive(Debug, Default)]
pub(super) struct Script {
    sql: Vec<u8>,
    checks: Vec<Check>,
    /// Green's `max_allowed_packet`.
    packet_bytes: usize,
    /// Row events behind the last statement, and whose they are.
    events: Vec<u8>,
    events_of: Option<(Lsn, Lsn)>,
    /// Statements that held row events.
    event_statements: u64,
    /// Green did not take the last statement with row events, or not strictly.
    refuses_events: bool,
}

impl Script {
    pub(super) fn new(packet_bytes: usize) -> Script {
        Script { packet_bytes, ..Script::default() }
    }

    /// Bytes of row events for one statement: three of them become four characters.
    pub(super) fn events_bytes(&self) -> usize {
        self.statement_bytes() / 4 * 3
    }

    /// Bytes of row events that green takes at most.
    pub(super) fn most_events_bytes(&self) -> usize {
        self.packet_bytes / 4 * 3
    }

    /// Adds row events. They go together with those before and behind them, of other tables too.
    pub(super) async fn add_events(
        &mut self,
        conn: &mut Conn,
        events: &[u8],
        commits: (Lsn, Lsn),
    ) -> Result<(), TargetError> {
        if self.events.len() + events.len() > self.events_bytes() {
            self.send_events(conn).await?;
        }
        self.events.extend_from_slice(events);
        let (first, last) = self.events_of.unwrap_or(commits);
        self.events_of = Some((first.min(commits.0), last.max(commits.1)));
        Ok(())
    }

    /// Whether there were row events.
    pub(super) fn has_events(&self) -> bool {
        self.event_statements > 0 || self.events_of.is_some()
    }

    /// Whether it is row events that green did not take.
    pub(super) fn refuses_events(&self) -> bool {
        self.refuses_events
    }

    /// How many statements that were sent held row events.
    pub(super) fn event_statements(&self) -> u64 {
        self.event_statements
    }

    /// Sends what waits, with the row events as the last statement: applying them makes the servers forget
    /// to say that more answers follow.
    async fn send_events(&mut self, conn: &mut Conn) -> Result<(), TargetError> {
        let events = std::mem::take(&mut self.events);
        let Some(commits) = self.events_of.take() else { return Ok(()) };
        self.push(conn, &binlog(&events), Some(0), 0, Purpose::Events { commits }).await?;
        self.event_statements += 1;
        self.send_statements(conn).await
    }

    /// Bytes that a statement for many rows may have, unless one row has more: less than green takes.
    pub(super) fn statement_bytes(&self) -> usize {
        STATEMENT_BYTES.min(self.packet_bytes / 2)
    }

    /// Adds a statement that says no number of rows.
    pub(super) async fn frame(
        &mut self,
        conn: &mut Conn,
        sql: &[u8],
        what: &'static str,
    ) -> Result<(), TargetError> {
        self.add(conn, sql, None, 0, Purpose::Frame(what)).await
    }

    /// Adds a statement that must find or add `rows` rows, with so many warnings. Sends what waits
    /// when it has become enough.
    pub(super) async fn add(
        &mut self,
        conn: &mut Conn,
        sql: &[u8],
        rows: Option<u64>,
        warnings: u16,
        purpose: Purpose,
    ) -> Result<(), TargetError> {
        self.send_events(conn).await?;
        self.push(conn, sql, rows, warnings, purpose).await
    }

    async fn push(
        &mut self,
        conn: &mut Conn,
        sql: &[u8],
        rows: Option<u64>,
        warnings: u16,
        purpose: Purpose,
    ) -> Result<(), TargetError> {
        let most = MESSAGE_BYTES.min(self.packet_bytes / 2);
        let is_full = self.checks.len() >= STATEMENTS_MAX || self.sql.len() + sql.len() > most;
        if is_full && !self.checks.is_empty() {
            self.send_statements(conn).await?;
        }
        if !self.checks.is_empty() {
            self.sql.extend_from_slice(b";\n");
        }
        self.sql.extend_from_slice(sql);
        self.checks.push(Check { rows, warnings, purpose });
        Ok(())
    }

    /// Sends what waits, and checks every answer.
    pub(super) async fn send(&mut self, conn: &mut Conn) -> Result<(), TargetError> {
        self.send_events(conn).await?;
        self.send_statements(conn).await
    }

    async fn send_statements(&mut self, conn: &mut Conn) -> Result<(), TargetError> {
        if self.checks.is_empty() {
            return Ok(());
        }
        let sql = std::mem::take(&mut self.sql);
        let checks = std::mem::take(&mut self.checks);
        let mut answered = 0;
        let mut wrong = None;
        let sent = async {
            let mut result = conn.query_iter(sql).await?;
            loop {
                let (rows, warnings) = (result.affected_rows(), result.warnings());
                let is_last = result.is_empty();
                // The error of a later statement comes when its answer is taken, not before.
                result.collect::<Row>().await?;
                if let Some(check) = checks.get(answered)
                    && wrong.is_none()
                {
                    wrong = check.wrong(rows, warnings).map(|error| (error, check.purpose.clone()));
                }
                answered += 1;
                if is_last {
                    return Ok(());
                }
            }
        };
        let sent: Result<(), mysql_async::Error> = sent.await;
        if let Some((wrong, purpose)) = wrong {
            self.refuses_events = purpose.is_about_events();
            return Err(wrong);
        }
        if let Err(error) = sent {
            let purpose = checks.get(answered).map(|check| &check.purpose);
            self.refuses_events = purpose.is_some_and(Purpose::is_about_events);
            return Err(match purpose {
                Some(purpose @ (Purpose::Rows { .. } | Purpose::Events { .. })) => {
                    of_rows(&purpose.describe(), error)
                }
                Some(purpose) => target_error(purpose.describe(), error),
                None => target_error("writing on green", error),
            });
        }
        match answered == checks.len() {
            true => Ok(()),
            false => Err(TargetError::halt(
                format!("green answered {answered} of {} statements", checks.len()),
                "This is a defect of the engine: please report it",
            )),
        }
    }
}

impl Check {
    fn wrong(&self, rows: u64, warnings: u16) -> Option<TargetError> {
        let doing = self.purpose.describe();
        if self.rows.is_some_and(|expected| expected != rows) {
            let expected = self.rows.unwrap_or_default();
            return Some(match self.purpose {
                Purpose::Progress => {
                    TargetError::retry("somebody else moved the lane's progress on green")
                }
                Purpose::Strictness => TargetError::halt(
                    "slave_exec_mode is not STRICT on green any more, so rows that row events did not \
                     find may have been passed over",
                    "SET GLOBAL slave_exec_mode = STRICT on green, then it goes on by itself; \
                     nothing of the transaction was kept",
                ),
                _ => TargetError::halt(
                    format!("{doing}: {rows} rows were found on green, {expected} expected"),
                    "Green holds other rows than blue had at this point. Nothing of the transaction \
                     was kept and blue is untouched: compare the table on both sides, find out who \
                     writes on green, and copy again",
                )
                .of_row(),
            });
        }
        (warnings != self.warnings && self.rows.is_some()).then(|| {
            TargetError::halt(
                format!("{doing}: green did not store a value as it was sent ({warnings} warnings)"),
                "The column has another type or another character set on green. Make the table as on \
                 blue, then it goes on by itself; nothing of the transaction was kept",
            )
            .of_row()
        })
    }
}
