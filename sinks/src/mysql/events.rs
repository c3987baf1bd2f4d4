//! Rows as the row events of a binlog, by the BINLOG statement: what a replica does, in our transaction.
//!
//! A row's bytes go from the source's log to green as they are, so no value is written in another form and
//! nothing is parsed. That is only the same if green's table has the source's form in everything that lies
//! in the bytes ([`why_not_as_events`]); servers compare much less, and would store Latin-1 where UTF-8 is said.
//!
//! An event's rows are not counted, but a row that is not there, or there already, is an error (1032, 1062)
//! in STRICT mode. Sessions of MySQL have a mode of their own; MariaDB's is global (`slave_exec_mode`) and
//! looked at before each commit. Rows are found by the primary key alone, so other values of an old image
//! are not compared: as in our statements. What has no primary key is only inserted by events: servers
//! choose another key by their own rules, and a net change has only one key's old values.
//!
//! Triggers do not fire; foreign keys are checked and cascade as an event's flags say.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use decoders::change::{Row, RowForm};
use decoders::mysql::catalog::TableInfo;
use decoders::mysql::encode::{self, RowEvents};
use decoders::mysql::server::{Server, code, literal};
use decoders::mysql::{Operation, Rows, form_of_column};
use decoders::source::Disposition;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::error::{of_source, target_error};
use super::plan::Plan;
use super::read::GreenTable;
use super::script::Script;
use super::session::logs_cascades;
use crate::net::NetTable;
use crate::target::{LaneId, TargetError};

/// A session that takes row events.
#[derive(Clone, Debug)]
pub(super) struct EventSession {
    server: Server,
    /// Of every row event.
    flags: u16,
}

/// What a session takes.
pub(super) enum Opened {
    Events(EventSession),
    /// Not, and why.
    Statements(String),
}

impl EventSession {
    /// Makes a session ready.
    ///
    /// # Errors
    /// The session is of no use any more.
    pub(super) async fn open(
        conn: &mut Conn,
        server: &Server,
        checks_foreign_keys: bool,
    ) -> Result<Opened, TargetError> {
        if let Some(passed_over) = passes_over(conn).await? {
            return Ok(Opened::Statements(passed_over));
        }
        const AUTOMATIC: &str = "SET SESSION gtid_next = 'AUTOMATIC'";
        // The format's description leaves MySQL's session without a GTID for what follows. That it can be
        // given back has to be known before.
        if !server.is_mariadb()
            && let Err(error) = conn.query_drop(AUTOMATIC).await
        {
            return not_allowed(error, "setting gtid_next");
        }
        let described = binlog(&encode::format_description(server));
        if let Err(error) = conn.query_drop(described).await {
            return not_allowed(error, "BINLOG");
        }
        let mut flags = if checks_foreign_keys { 0 } else { Rows::NO_FOREIGN_KEY_CHECKS };
        let mode = match server.is_mariadb() {
            true => "SELECT @@global.slave_exec_mode",
            false => {
                let set = conn.query_drop(AUTOMATIC).await;
                set.map_err(|error| target_error("preparing a session for row events", error))?;
                if logs_cascades(conn, server).await.map_err(of_source)? {
                    flags |= Rows::LOGS_CASCADES;
                }
                "SELECT @@session.rbr_exec_mode"
            }
        };
        let mode: Result<Option<String>, _> = conn.query_first(mode).await;
        let mode =
            mode.map_err(|error| target_error("asking green how it takes row events", error))?;
        match mode.as_deref() {
            Some("STRICT") => Ok(Opened::Events(EventSession { server: server.clone(), flags })),
            _ => Ok(Opened::Statements("slave_exec_mode is not STRICT".to_owned())),
        }
    }

    /// The statement that finds one row unless events may have passed over rows that are missing.
    pub(super) fn strictness(&self, pipeline: &str, lane: LaneId) -> Option<Vec<u8>> {
        // MySQL: of the session, where nobody else can change it.
        self.server.is_mariadb().then(|| {
            let sql = format!(
                "UPDATE _cutover.progress SET opened = opened WHERE pipeline = {} AND lane = {} \
                 AND @@global.slave_exec_mode = 'STRICT'",
                literal(pipeline),
                lane.0
            );
            sql.into_bytes()
        })
    }

    /// How rows of `form` are written to a table, or why they are not.
    pub(super) fn table(
        &self,
        plan: &Plan,
        green: &GreenTable,
        form: &Arc<RowForm>,
        checks_foreign_keys: bool,
    ) -> Result<TableEvents, String> {
        let names: Vec<&str> = plan.schema().column_names().collect();
        let cascades = checks_foreign_keys && !green.cascading.is_empty();
        if let Some(why) = why_not_as_events(&names, form, &green.info, &self.server, cascades) {
            return Err(why);
        }
        let writer = RowEvents::new(&self.server, &plan.schema().name, form);
        let writer = writer.ok_or("its name is too long")?;
        let by_key = green.info.primary_key().is_some();
        Ok(TableEvents { writer, form: Arc::clone(form), flags: self.flags, by_key })
    }
}

/// Why missing rows might be passed over: a start option of replicas, which events of a session obey, too
/// (`ignored_error_code` in the servers' log_event.cc).
async fn passes_over(conn: &mut Conn) -> Result<Option<String>, TargetError> {
    const SKIPPED: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('slave_skip_errors', \
                           'replica_skip_errors') AND Value NOT IN ('OFF', '')";
    let found: Result<Option<(String, String)>, _> = conn.query_first(SKIPPED).await;
    let found =
        found.map_err(|error| target_error("asking green how it takes row events", error))?;
    Ok(found
        .map(|(name, _)| format!("{name} is set, and rows that are missing might be passed over")))
}

/// A right that is missing, or a server that knows no such thing; anything else broke the session.
fn not_allowed(error: mysql_async::Error, what: &str) -> Result<Opened, TargetError> {
    let number = code(&error);
    let error = target_error(format!("{what} on green"), error);
    match number {
        Some(number) if error.disposition == Disposition::Halt => Ok(Opened::Statements(format!(
            "green does not let the account do that ({what}: error {number})"
        ))),
        _ => Err(error),
    }
}

/// Why rows of `form`, of columns with these names, can't go as row events to a table of `server`; `None`
/// if they can. `cascades`: foreign keys that refer to it have to do on green what they did on blue.
pub fn why_not_as_events(
    names: &[&str],
    form: &RowForm,
    green: &TableInfo,
    server: &Server,
    cascades: bool,
) -> Option<String> {
    /// From here on a TIMESTAMP of MariaDB reaches 2106; before, the same bytes are a time before 1970.
    const LONG_TIMESTAMPS: (u16, u16, u16) = (11, 5, 0);
    if !green.triggers.is_empty() {
        return Some("triggers would not fire".to_owned());
    }
    if cascades {
        return Some("cascading foreign keys refer to it, which act on green".to_owned());
    }
    let there: Vec<&str> = green.columns.iter().map(|column| column.name.as_str()).collect();
    if there != names || form.columns.len() != names.len() {
        return Some("its columns are others, or in another order".to_owned());
    }
    let in_key = |name: &str| {
        let parts = green.primary_key().map(|key| &key.columns);
        parts.is_some_and(|parts| parts.iter().any(|part| part.column.as_deref() == Some(name)))
    };
    green.columns.iter().zip(&form.columns).find_map(|(column, form)| {
        let name = &column.name;
        if column.generated.is_some() {
            return Some(format!("{name} is generated"));
        }
        // Its bytes changed between versions of MariaDB (MDEV-29959).
        if form.special == Some("uuid") {
            return Some(format!("{name} is a UUID"));
        }
        // MySQL compares dimensions, which are in a table map's optional metadata; ours has none. A server
        // says no more than "Unknown error" (1105, seen on 9.7).
        if !server.is_mariadb() && column.data_type == "vector" {
            return Some(format!("{name} is a VECTOR"));
        }
        let is_short = server.is_mariadb() && server.number < LONG_TIMESTAMPS;
        if is_short && column.data_type == "timestamp" {
            return Some(format!("{name} is a TIMESTAMP, which ends in 2038 there"));
        }
        let written = form_of_column(column, server.flavor);
        let same = written.is_some_and(|mut written| {
            // Of a primary key's column the binlog may say that it can be NULL.
            let fits = !form.nullable || column.nullable || in_key(name);
            written.nullable = form.nullable;
            fits && written == *form
        });
        (!same).then(|| format!("{name} is stored in another form, or may not be NULL"))
    })
}

/// How rows of a table are written.
#[derive(Debug)]
pub(super) struct TableEvents {
    writer: RowEvents,
    form: Arc<RowForm>,
    flags: u16,
    /// Rows can be found by their key, and so be updated and deleted.
    by_key: bool,
}

impl TableEvents {
    /// Whether it is for rows of this form.
    pub(super) fn is_for(&self, form: &Arc<RowForm>) -> bool {
        Arc::ptr_eq(&self.form, form) || self.form == *form
    }

    fn image<'a>(&self, row: &'a Row) -> Option<&'a [u8]> {
        row.image().filter(|image| self.is_for(image.form)).map(|image| image.bytes)
    }

    fn images<'a>(&self, rows: impl Iterator<Item = &'a Row>) -> Option<Vec<&'a [u8]>> {
        rows.map(|row| self.image(row)).collect()
    }
}

/// Adds the deletes of a table, if they can go as events.
pub(super) async fn deletes(
    script: &mut Script,
    conn: &mut Conn,
    table: &NetTable<'_, Plan>,
) -> Result<bool, TargetError> {
    let Some(events) = table.plan.events().filter(|events| events.by_key) else { return Ok(false) };
    let Some(images) = events.images(table.deletes.iter().copied()) else { return Ok(false) };
    let statement = Statement { events, operation: Operation::Delete, parts: 1 };
    statement.add(script, conn, table, &images).await
}

/// Adds the updates of a table, if they can go as events.
pub(super) async fn updates(
    script: &mut Script,
    conn: &mut Conn,
    table: &NetTable<'_, Plan>,
) -> Result<bool, TargetError> {
    let Some(events) = table.plan.events().filter(|events| events.by_key) else { return Ok(false) };
    let rows = table.updates.iter().flat_map(|group| &group.rows);
    let rows = rows.flat_map(|update| [update.key, update.new.as_ref()]);
    let Some(images) = events.images(rows) else { return Ok(false) };
    let statement = Statement { events, operation: Operation::Update, parts: 2 };
    statement.add(script, conn, table, &images).await
}

/// Adds the inserts of a table, if they can go as events.
pub(super) async fn inserts(
    script: &mut Script,
    conn: &mut Conn,
    table: &NetTable<'_, Plan>,
) -> Result<bool, TargetError> {
    let Some(events) = table.plan.events() else { return Ok(false) };
    let Some(images) = events.images(table.inserts.iter().map(AsRef::as_ref)) else {
        return Ok(false);
    };
    let statement = Statement { events, operation: Operation::Insert, parts: 1 };
    statement.add(script, conn, table, &images).await
}

/// More than what a statement has beside images: names and columns of a table.
const TABLE_BYTES: usize = 64 * 1024;

struct Statement<'a> {
    events: &'a TableEvents,
    operation: Operation,
    /// Images of one row.
    parts: usize,
}

impl Statement<'_> {
    /// Adds as many events as it takes.
    async fn add(
        &self,
        script: &mut Script,
        conn: &mut Conn,
        table: &NetTable<'_, Plan>,
        images: &[&[u8]],
    ) -> Result<bool, TargetError> {
        let bytes = |row: &[&[u8]]| row.iter().map(|image| image.len()).sum::<usize>();
        let longest = images.chunks(self.parts).map(bytes).max().unwrap_or_default();
        // As text it may still be short enough for green.
        if longest + TABLE_BYTES > script.most_events_bytes() {
            return Ok(false);
        }
        let most = script.events_bytes().saturating_sub(TABLE_BYTES);
        let mut rows = Vec::new();
        let mut waiting = images.chunks(self.parts).peekable();
        while let Some(row) = waiting.next() {
            row.iter().for_each(|image| rows.extend_from_slice(image));
            let next = waiting.peek().map(|row| bytes(row));
            if next.is_some_and(|next| rows.len() + next <= most) {
                continue;
            }
            let events = self.events.writer.statement(self.operation, self.events.flags, &rows);
            script.add_events(conn, &events, table.commits).await?;
            rows.clear();
        }
        Ok(true)
    }
}

/// The BINLOG statement with these events.
pub(super) fn binlog(events: &[u8]) -> Vec<u8> {
    const HEAD: &[u8] = b"BINLOG '";
    let mut sql = HEAD.to_vec();
    let length = base64::encoded_len(events.len(), true).unwrap_or_default();
    sql.resize(HEAD.len() + length, 0);
    // The room is exactly what it takes.
    let written = STANDARD.encode_slice(events, &mut sql[HEAD.len()..]).unwrap_or_default();
    sql.truncate(HEAD.len() + written);
    sql.push(b'\'');
    sql
}
