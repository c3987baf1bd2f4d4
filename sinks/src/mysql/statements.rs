//! The statements of rows.

use decoders::change::{ChangeEvent, Lsn, OldRow, Row};
use decoders::mysql::server::identifier;
use mysql_async::Conn;

use super::literal::{Kind, Note, Unfit};
use super::plan::Plan;
use super::script::{Purpose, Script};
use super::session::{LENIENT, STRICT};
use crate::target::TargetError;

/// Appends the value of a column.
pub(super) fn value(
    out: &mut Vec<u8>,
    plan: &Plan,
    row: &Row,
    at: usize,
    note: &mut Note,
) -> Result<(), Unfit> {
    let cell = row.cell(at).ok_or(Unfit)?;
    let found = plan.columns[at].kind.write(out, cell)?;
    note.alone |= found.alone;
    note.invalid += found.invalid;
    Ok(())
}

/// `INSERT INTO t (a,b) VALUES `.
pub(super) fn insert_head(plan: &Plan) -> Vec<u8> {
    let names: Vec<&str> = plan.written().map(|at| plan.columns[at].name.as_str()).collect();
    format!("INSERT INTO {} ({}) VALUES ", plan.name, names.join(",")).into_bytes()
}

/// `(1,'x')`.
pub(super) fn tuple(out: &mut Vec<u8>, plan: &Plan, row: &Row) -> Result<Note, Unfit> {
    let mut note = Note::default();
    out.push(b'(');
    for (nth, at) in plan.written().enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        value(out, plan, row, at, &mut note)?;
    }
    out.push(b')');
    Ok(note)
}

/// ``(`id`=1 AND `part`='x')``: one row by its key.
pub(super) fn by_key(
    out: &mut Vec<u8>,
    plan: &Plan,
    key: &[usize],
    row: &Row,
) -> Result<(), Unfit> {
    out.push(b'(');
    for (nth, at) in key.iter().enumerate() {
        if nth > 0 {
            out.extend_from_slice(b" AND ");
        }
        out.extend_from_slice(plan.columns[*at].name.as_bytes());
        out.push(b'=');
        value(out, plan, row, *at, &mut Note::default())?;
    }
    out.push(b')');
    Ok(())
}

/// One row of a table without a key, by all its values, compared exactly: collations call values equal
/// that are not the same. Of rows that are the same in everything any will do.
fn by_all(out: &mut Vec<u8>, plan: &Plan, row: &Row) -> Result<(), Unfit> {
    for (nth, at) in plan.written().enumerate() {
        let column = &plan.columns[at];
        if nth > 0 {
            out.extend_from_slice(b" AND ");
        }
        let mut literal = Vec::new();
        value(&mut literal, plan, row, at, &mut Note::default())?;
        let is_null = row.value(at).is_some_and(|value| value.is_null());
        let (before, after): (&str, String) = match column.kind {
            _ if is_null => ("", String::new()),
            Kind::Text | Kind::Enum => match &column.charset {
                Some(charset) => ("CAST(CONVERT(", format!(" USING {charset}) AS BINARY)")),
                // MariaDB's UUID and INET: as types of their own they compare exactly.
                None => ("", String::new()),
            },
            Kind::Json => ("CAST(", " AS JSON)".to_owned()),
            _ => ("", String::new()),
        };
        let as_bytes = match column.kind {
            Kind::Text | Kind::Enum => column.charset.is_some() && !is_null,
            Kind::Geometry => !is_null,
            _ => false,
        };
        match as_bytes {
            true => out.extend_from_slice(format!("CAST({} AS BINARY)", column.name).as_bytes()),
            false => out.extend_from_slice(column.name.as_bytes()),
        }
        out.extend_from_slice(b" <=> ");
        out.extend_from_slice(before.as_bytes());
        out.append(&mut literal);
        out.extend_from_slice(after.as_bytes());
    }
    out.extend_from_slice(b" LIMIT 1");
    Ok(())
}

fn locate(out: &mut Vec<u8>, plan: &Plan, row: &Row) -> Result<(), Unfit> {
    out.extend_from_slice(b" WHERE ");
    match plan.key() {
        Some(key) => by_key(out, plan, key, row),
        None => by_all(out, plan, row),
    }
}

/// The columns that an UPDATE sets: those that changed, and those that green might set by itself. At
/// least one, so that the row is looked for.
pub(super) fn changed(plan: &Plan, old: &Row, new: &Row) -> Vec<usize> {
    let differs = |at: usize| old.value(at) != new.value(at);
    let mut set: Vec<usize> =
        plan.written().filter(|at| plan.columns[*at].always_set || differs(*at)).collect();
    if set.is_empty() {
        set.extend(plan.written().next());
    }
    set
}

/// One row's statement and what is special about it.
fn row_statement(plan: &Plan, change: &ChangeEvent) -> Result<Option<(Vec<u8>, Note)>, Unfit> {
    let mut note = Note::default();
    let mut out = Vec::new();
    match change {
        ChangeEvent::Insert { new, .. } => {
            out = insert_head(plan);
            note = tuple(&mut out, plan, new)?;
        }
        ChangeEvent::Update { old: Some(OldRow::Full(old)), new, .. } => {
            out.extend_from_slice(format!("UPDATE {} SET ", plan.name).as_bytes());
            for (nth, at) in changed(plan, old, new).into_iter().enumerate() {
                if nth > 0 {
                    out.push(b',');
                }
                out.extend_from_slice(plan.columns[at].name.as_bytes());
                out.push(b'=');
                value(&mut out, plan, new, at, &mut note)?;
            }
            locate(&mut out, plan, old)?;
        }
        ChangeEvent::Delete { old: OldRow::Full(old), .. } => {
            out.extend_from_slice(format!("DELETE FROM {}", plan.name).as_bytes());
            locate(&mut out, plan, old)?;
        }
        ChangeEvent::Update { .. } | ChangeEvent::Delete { .. } => return Err(Unfit),
        ChangeEvent::Truncate { .. }
        | ChangeEvent::Message { .. }
        | ChangeEvent::Definition(_)
        | ChangeEvent::Distributed(_) => {
            return Ok(None);
        }
    }
    Ok(Some((out, note)))
}

fn operation(change: &ChangeEvent) -> &'static str {
    match change {
        ChangeEvent::Insert { .. } => "INSERT",
        ChangeEvent::Update { .. } => "UPDATE",
        ChangeEvent::Delete { .. } => "DELETE",
        ChangeEvent::Truncate { .. } => "TRUNCATE",
        ChangeEvent::Message { .. } => "MESSAGE",
        ChangeEvent::Definition(_) => "DEFINITION",
        ChangeEvent::Distributed(_) => "XA",
    }
}

/// The statement of one change of a row, for a person.
pub(super) fn printed(plan: &Plan, change: &ChangeEvent) -> Result<Option<String>, TargetError> {
    let statement = row_statement(plan, change);
    let statement = statement.map_err(|_| unfit(plan, operation(change), Lsn::INVALID))?;
    Ok(statement.map(|(sql, _)| format!("{};", String::from_utf8_lossy(&sql))))
}

/// Adds the statement of one change of a row.
pub(super) async fn row(
    script: &mut Script,
    conn: &mut Conn,
    plan: &Plan,
    change: &ChangeEvent,
    commit: Lsn,
) -> Result<(), TargetError> {
    let op = operation(change);
    let statement = row_statement(plan, change).map_err(|_| unfit(plan, op, commit))?;
    let Some((sql, note)) = statement else { return Ok(()) };
    let purpose = Purpose::Rows { table: plan.schema().clone(), op, commits: (commit, commit) };
    if note.invalid == 0 {
        return script.add(conn, &sql, Some(1), 0, purpose).await;
    }
    // Strict sessions refuse what blue has: an ENUM with no label. Everything else that does not fit
    // would be one more warning.
    let mode = |mode: &str| format!("SET SESSION sql_mode = '{mode}'").into_bytes();
    let what = "changing the sql_mode on green";
    script.frame(conn, &mode(LENIENT), what).await?;
    script.add(conn, &sql, Some(1), note.invalid, purpose).await?;
    script.frame(conn, &mode(STRICT), what).await
}

/// Adds the statements that empty the tables of a TRUNCATE. Not TRUNCATE itself: it commits what is
/// open. AUTO_INCREMENT goes on counting, which is set at the cutover anyway.
///
/// Foreign keys are not checked, as by a TRUNCATE: rows that refer to those that go are left as they are
/// (which blue allowed, or it would have refused), and nothing cascades.
pub(super) async fn truncate(
    script: &mut Script,
    conn: &mut Conn,
    change: &ChangeEvent,
    commit: Lsn,
    checks_foreign_keys: bool,
) -> Result<(), TargetError> {
    let ChangeEvent::Truncate { tables, .. } = change else { return Ok(()) };
    if checks_foreign_keys {
        check_foreign_keys(script, conn, false).await?;
    }
    for table in tables {
        let name = format!("{}.{}", identifier(&table.name.schema), identifier(&table.name.name));
        let sql = format!("DELETE FROM {name}");
        let commits = (commit, commit);
        let purpose = Purpose::Rows { table: table.clone(), op: operation(change), commits };
        script.add(conn, sql.as_bytes(), None, 0, purpose).await?;
    }
    match checks_foreign_keys {
        true => check_foreign_keys(script, conn, true).await,
        false => Ok(()),
    }
}

/// Adds the statement that makes green check foreign keys for what follows, or not.
pub(super) async fn check_foreign_keys(
    script: &mut Script,
    conn: &mut Conn,
    checked: bool,
) -> Result<(), TargetError> {
    let sql = format!("SET SESSION foreign_key_checks = {}", u8::from(checked));
    script.frame(conn, sql.as_bytes(), "changing foreign_key_checks on green").await
}

/// The error of a change whose values are not those of its columns.
pub(super) fn unfit(plan: &Plan, op: &str, commit: Lsn) -> TargetError {
    let place = match commit {
        // Of a repair.
        Lsn::INVALID => String::new(),
        commit => format!(" in blue's transaction number {}", commit.0),
    };
    TargetError::halt(
        format!(
            "{op} of {}{place}: a value is missing, or is none of the type that the column has on green",
            plan.schema().name,
        ),
        "The table was altered on blue, or green's was made differently; binlog_row_image must be \
         FULL. Make the table on green as on blue, then it goes on by itself",
    )
    .of_row()
}
