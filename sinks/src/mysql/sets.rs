//! Many rows by one statement.
//!
//! Within a table deletes come first, then updates, then inserts: what frees a unique value comes
//! before what takes it. Where green checks foreign keys, deletes go from the table that was touched
//! last to the first, and everything else from the first to the last: right for what was written
//! parents first. The rest is refused by green and then written row by row.

use std::collections::HashMap;

use decoders::change::{ChangeEvent, OldRow};
use mysql_async::Conn;

use super::events;
use super::literal::{Kind, Note};
use super::plan::Plan;
use super::script::{Purpose, Script};
use super::statements::{self, by_key, changed, insert_head, tuple, unfit, value};
use crate::net::{NetTable, NetUpdate, Step};
use crate::target::TargetError;

/// Rows of one INSERT or DELETE.
const ROWS_MAX: usize = 1000;
/// Rows of one UPDATE: each is compared with half of the others.
const UPDATE_ROWS_MAX: usize = 32;

/// Writes what a batch comes to.
pub(super) async fn steps(
    script: &mut Script,
    conn: &mut Conn,
    steps: &[Step<'_, Plan>],
    checks_foreign_keys: bool,
    as_events: bool,
) -> Result<(), TargetError> {
    for step in steps {
        let changes = match step {
            Step::Rows(changes) => changes,
            Step::Truncate(change, commit) => {
                statements::truncate(script, conn, change, *commit, checks_foreign_keys).await?;
                continue;
            }
        };
        if checks_foreign_keys {
            for table in changes.tables.iter().rev() {
                deletes(script, conn, table, as_events).await?;
            }
        }
        for table in &changes.tables {
            if !checks_foreign_keys {
                deletes(script, conn, table, as_events).await?;
            }
            updates(script, conn, table, as_events).await?;
            inserts(script, conn, table, as_events).await?;
            for (change, commit) in &table.in_order {
                statements::row(script, conn, &table.plan, change, *commit).await?;
            }
        }
    }
    Ok(())
}

fn purpose(table: &NetTable<'_, Plan>, op: &'static str) -> Purpose {
    Purpose::Rows { table: table.plan.schema().clone(), op, commits: table.commits }
}

/// Joins pieces of statements up to the limits.
struct Joined {
    head: Vec<u8>,
    sql: Vec<u8>,
    rows: u64,
    most_bytes: usize,
}

impl Joined {
    fn new(head: Vec<u8>, most_bytes: usize) -> Joined {
        Joined { sql: head.clone(), head, rows: 0, most_bytes }
    }

    fn is_full(&self, more: usize) -> bool {
        self.rows > 0 && (self.rows as usize >= ROWS_MAX || self.sql.len() + more > self.most_bytes)
    }

    fn push(&mut self, separator: &[u8], piece: &[u8]) {
        if self.rows > 0 {
            self.sql.extend_from_slice(separator);
        }
        self.sql.extend_from_slice(piece);
        self.rows += 1;
    }

    async fn send(
        &mut self,
        script: &mut Script,
        conn: &mut Conn,
        purpose: Purpose,
    ) -> Result<(), TargetError> {
        if self.rows > 0 {
            script.add(conn, &self.sql, Some(self.rows), 0, purpose).await?;
        }
        *self = Joined::new(std::mem::take(&mut self.head), self.most_bytes);
        Ok(())
    }
}

async fn deletes(
    script: &mut Script,
    conn: &mut Conn,
    table: &NetTable<'_, Plan>,
    as_events: bool,
) -> Result<(), TargetError> {
    if as_events && events::deletes(script, conn, table).await? {
        return Ok(());
    }
    let plan = &*table.plan;
    let key = plan.key().unwrap_or_default();
    let wrong = |_| unfit(plan, "DELETE", table.commits.0);
    let single = match key {
        [at] => Some(*at),
        _ => None,
    };
    let head = match single {
        Some(at) => format!("DELETE FROM {} WHERE {} IN (", plan.name, plan.columns[at].name),
        None => format!("DELETE FROM {} WHERE (", plan.name),
    };
    let mut joined = Joined::new(head.into_bytes(), script.statement_bytes());
    let mut piece = Vec::new();
    for row in &table.deletes {
        piece.clear();
        match single {
            Some(at) => value(&mut piece, plan, row, at, &mut Note::default()).map_err(wrong)?,
            None => by_key(&mut piece, plan, key, row).map_err(wrong)?,
        }
        if joined.is_full(piece.len()) {
            joined.sql.push(b')');
            joined.send(script, conn, purpose(table, "DELETE")).await?;
        }
        joined.push(if single.is_some() { b"," } else { b" OR " }, &piece);
    }
    joined.sql.push(b')');
    joined.send(script, conn, purpose(table, "DELETE")).await
}

async fn inserts(
    script: &mut Script,
    conn: &mut Conn,
    table: &NetTable<'_, Plan>,
    as_events: bool,
) -> Result<(), TargetError> {
    if as_events && events::inserts(script, conn, table).await? {
        return Ok(());
    }
    let plan = &*table.plan;
    let mut joined = Joined::new(insert_head(plan), script.statement_bytes());
    let mut piece = Vec::new();
    for row in &table.inserts {
        piece.clear();
        let note = tuple(&mut piece, plan, row);
        let note = note.map_err(|_| unfit(plan, "INSERT", table.commits.0))?;
        if note.alone || note.invalid > 0 {
            joined.send(script, conn, purpose(table, "INSERT")).await?;
            let change =
                ChangeEvent::Insert { table: plan.schema().clone(), new: row.as_ref().clone() };
            statements::row(script, conn, plan, &change, table.commits.0).await?;
            continue;
        }
        if joined.is_full(piece.len()) {
            joined.send(script, conn, purpose(table, "INSERT")).await?;
        }
        joined.push(b",", &piece);
    }
    joined.send(script, conn, purpose(table, "INSERT")).await
}

/// Rows that set the same columns go together, if their key is one that compares as it is written.
async fn updates(
    script: &mut Script,
    conn: &mut Conn,
    table: &NetTable<'_, Plan>,
    as_events: bool,
) -> Result<(), TargetError> {
    if as_events && events::updates(script, conn, table).await? {
        return Ok(());
    }
    let plan = &*table.plan;
    let key = plan.key().unwrap_or_default();
    let mut groups: HashMap<Vec<usize>, Vec<&NetUpdate<'_>>> = HashMap::new();
    let mut order: Vec<Vec<usize>> = Vec::new();
    for update in table.updates.iter().flat_map(|group| &group.rows) {
        let set = changed(plan, update.key, &update.new);
        let group = groups.entry(set).or_insert_with_key(|set| {
            order.push(set.clone());
            Vec::new()
        });
        group.push(update);
    }
    let is_plain =
        |at: &usize| matches!(plan.columns[*at].kind, Kind::Integer | Kind::Text | Kind::Bytes);
    for set in &order {
        let Some(rows) = groups.get(set) else { continue };
        let moves = set.iter().any(|at| key.contains(at));
        let by_set = !moves && key.iter().all(is_plain);
        let mut rest = &rows[..];
        while !rest.is_empty() {
            let most = if by_set { UPDATE_ROWS_MAX } else { 1 };
            let (joined, count) =
                joined_update(plan, key, set, rest, most, script.statement_bytes());
            let (some, after) = rest.split_at(count);
            rest = after;
            match joined {
                Some(sql) => {
                    let count = Some(count as u64);
                    script.add(conn, &sql, count, 0, purpose(table, "UPDATE")).await?;
                }
                None => one_by_one(script, conn, table, some).await?,
            }
        }
    }
    Ok(())
}

/// One statement for the first of `rows`, `most` of them or as many as `most_bytes` have room for, and
/// how many these are. Without a statement they have to be written one by one.
fn joined_update(
    plan: &Plan,
    key: &[usize],
    set: &[usize],
    rows: &[&NetUpdate<'_>],
    most: usize,
    most_bytes: usize,
) -> (Option<Vec<u8>>, usize) {
    let mut count = rows.len().min(most);
    while count > 1 {
        match update_statement(plan, key, set, &rows[..count]) {
            Some(sql) if sql.len() > most_bytes => count = count.div_ceil(2),
            joined => return (joined, count),
        }
    }
    (None, count)
}

async fn one_by_one(
    script: &mut Script,
    conn: &mut Conn,
    table: &NetTable<'_, Plan>,
    rows: &[&NetUpdate<'_>],
) -> Result<(), TargetError> {
    for update in rows {
        let change = ChangeEvent::Update {
            table: table.plan.schema().clone(),
            old: Some(OldRow::Full(update.key.clone())),
            new: update.new.as_ref().clone(),
        };
        statements::row(script, conn, &table.plan, &change, table.commits.0).await?;
    }
    Ok(())
}

/// `UPDATE t SET a = CASE WHEN id=1 THEN .. WHEN id=2 THEN .. END WHERE (id=1) OR (id=2)`: the same
/// conditions find a row and choose its values, and no column of theirs is set, so each row that is
/// found has exactly one value. `None` if a value has to stand alone.
fn update_statement(
    plan: &Plan,
    key: &[usize],
    set: &[usize],
    rows: &[&NetUpdate<'_>],
) -> Option<Vec<u8>> {
    let conditions: Vec<Vec<u8>> = rows
        .iter()
        .map(|update| {
            let mut condition = Vec::new();
            by_key(&mut condition, plan, key, update.key).ok()?;
            Some(condition)
        })
        .collect::<Option<_>>()?;
    let mut sql = format!("UPDATE {} SET ", plan.name).into_bytes();
    for (nth, at) in set.iter().enumerate() {
        if nth > 0 {
            sql.push(b',');
        }
        sql.extend_from_slice(plan.columns[*at].name.as_bytes());
        sql.extend_from_slice(b"=CASE");
        for (update, condition) in rows.iter().zip(&conditions) {
            sql.extend_from_slice(b" WHEN ");
            sql.extend_from_slice(condition);
            sql.extend_from_slice(b" THEN ");
            let mut note = Note::default();
            value(&mut sql, plan, &update.new, *at, &mut note).ok()?;
            if note.alone || note.invalid > 0 {
                return None;
            }
        }
        sql.extend_from_slice(b" END");
    }
    sql.extend_from_slice(b" WHERE ");
    for (nth, condition) in conditions.iter().enumerate() {
        if nth > 0 {
            sql.extend_from_slice(b" OR ");
        }
        sql.extend_from_slice(condition);
    }
    Some(sql)
}
