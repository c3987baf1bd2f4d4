//! Tables that can't be moved, or not without something to know.

use decoders::QualifiedName;
use decoders::mysql::catalog::{TableInfo, TableKind};
use decoders::mysql::charset::Charset;
use decoders::mysql::ghost;
use decoders::mysql::server::identifier;

use super::super::finding::{Finding, Fix, Side, count};
use super::BinlogCheckRequest;
use super::facts::SideFacts;

pub(super) fn evaluate(request: &BinlogCheckRequest, blue: &SideFacts) -> Vec<Finding> {
    let Ok(tables) = &blue.tables else { return Vec::new() };
    if tables.is_empty() {
        return vec![
            Finding::warning("no-tables", Side::Blue, "there are no tables to move")
                .fix(Fix::advice("correct the database in the URL, or the table filter")),
        ];
    }
    let mut findings = vec![keyless(tables), not_transactional(tables), cascades(blue, tables)];
    findings.extend(versioned(tables));
    findings.extend(ghosts(tables, request.repeats_definitions));
    findings.extend(prepared(blue));
    findings.extend(unknown_charsets(tables));
    findings
}

pub(super) fn quoted(table: &TableInfo) -> String {
    format!("{}.{}", identifier(&table.name.schema), identifier(&table.name.name))
}

fn names<'a>(tables: impl IntoIterator<Item = &'a TableInfo>) -> Vec<String> {
    tables.into_iter().map(quoted).collect()
}

fn keyless(tables: &[TableInfo]) -> Finding {
    let plain = tables.iter().filter(|table| table.kind != TableKind::Sequence);
    let found = names(plain.filter(|table| table.row_key().is_none()));
    if found.is_empty() {
        return Finding::ok("identity-missing", Side::Blue, "every table has a key");
    }
    Finding::warning(
        "identity-missing",
        Side::Blue,
        "tables without a key are copied whole and followed by comparing whole rows, which is slow",
    )
    .evidence(count(found.len(), "table"))
    .objects(found)
    .fix(Fix::advice("give them a primary key: ALTER TABLE .. ADD PRIMARY KEY (..)"))
}

fn not_transactional(tables: &[TableInfo]) -> Finding {
    let found: Vec<&TableInfo> = tables.iter().filter(|table| !table.is_transactional()).collect();
    if found.is_empty() {
        return Finding::ok("engine", Side::Blue, "all tables have transactions");
    }
    let statements =
        found.iter().map(|table| format!("ALTER TABLE {} ENGINE = InnoDB", quoted(table)));
    Finding::blocker(
        "engine",
        Side::Blue,
        "tables without transactions have no consistent copy, and changes of them can't be told from \
         those that were rolled back",
    )
    .evidence(count(found.len(), "table"))
    .fix(Fix::sql(Side::Blue, statements.collect()))
    .objects(names(found))
}

/// Whether a server's binlog has what cascading foreign keys do, as far as its settings say.
pub(super) fn logs_cascades(facts: &SideFacts) -> bool {
    let native = match &facts.variables {
        Ok(variables) => {
            variables.get("innodb_native_foreign_keys").is_none()
                || variables.is_on("innodb_native_foreign_keys")
        }
        Err(_) => true,
    };
    !facts.server.is_mariadb() && !native
}

/// MariaDB, and MySQL before 9.6, let InnoDB cascade below the binlog.
fn cascades(blue: &SideFacts, tables: &[TableInfo]) -> Finding {
    let unlogged = !logs_cascades(blue);
    let cascading = |table: &&TableInfo| table.foreign_keys.iter().any(|key| key.cascades());
    let found = names(tables.iter().filter(cascading));
    if found.is_empty() || !unlogged {
        return Finding::ok("cascades", Side::Blue, "the binlog has every changed row");
    }
    // What an excluded table's rows do to those that refer to them would reach green by no way.
    let is_moved = |name: &QualifiedName| tables.iter().any(|table| table.name == *name);
    let left_behind = names(tables.iter().filter(|table| {
        table.foreign_keys.iter().any(|key| key.cascades() && !is_moved(&key.references))
    }));
    if !left_behind.is_empty() {
        return Finding::blocker(
            "cascades",
            Side::Blue,
            "tables refer to one that is not moved, and what that one cascades to them is not in the binlog",
        )
        .evidence(count(left_behind.len(), "table"))
        .objects(left_behind)
        .fix(Fix::advice("move the tables that they refer to as well, or exclude these too"));
    }
    Finding::warning(
        "cascades",
        Side::Blue,
        "rows that foreign keys change or delete by themselves are not in the binlog: green's own \
         foreign keys have to do the same",
    )
    .evidence(format!("{} with cascading foreign keys", count(found.len(), "table")))
    .objects(found)
    .fix(Fix::advice(
        "nothing, as long as green has these foreign keys; with schema.mode = 'existing' look at that \
         yourself",
    ))
}

fn versioned(tables: &[TableInfo]) -> Option<Finding> {
    let found = names(tables.iter().filter(|table| table.kind == TableKind::SystemVersioned));
    (!found.is_empty()).then(|| {
        Finding::blocker(
            "system-versioned",
            Side::Blue,
            "the history of system-versioned tables would be written anew on green",
        )
        .evidence(count(found.len(), "table"))
        .objects(found)
        .fix(Fix::advice(
            "leave them out (tables.exclude), or ALTER TABLE .. DROP SYSTEM VERSIONING",
        ))
    })
}

/// Tables of schema changes that run, or that were broken off, and the triggers of
/// pt-online-schema-change.
fn ghosts(tables: &[TableInfo], repeats: bool) -> Option<Finding> {
    let is_ghost = |table: &&TableInfo| {
        let of = |original: &str| {
            let same = |other: &TableInfo| {
                other.name.schema == table.name.schema && other.name.name == original
            };
            tables.iter().any(same)
        };
        let watched = table.triggers.iter().any(|trigger| trigger.name.name.starts_with("pt_osc_"));
        watched || ghost(&table.name.name).is_some_and(|ghost| of(ghost.original))
    };
    let found = names(tables.iter().filter(is_ghost));
    let what_comes = match repeats {
        true => {
            "they are copied as any other table, and their tables have to be gone at the cutover"
        }
        false => "a table that is renamed while the move runs stops the stream",
    };
    (!found.is_empty()).then(|| {
        Finding::warning(
            "schema-change",
            Side::Blue,
            format!(
                "gh-ost or pt-online-schema-change is at work, or has left tables: {what_comes}"
            ),
        )
        .evidence(count(found.len(), "table"))
        .objects(found)
        .fix(Fix::advice(
            "let the schema change end before the move begins; drop what an earlier one has left, or \
             leave it out (--exclude-table). With ddl = \"apply\" in [apply] it may run on",
        ))
    })
}

/// Their rows are in the binlog already and nobody knows yet whether they count.
fn prepared(blue: &SideFacts) -> Option<Finding> {
    let prepared = usize::try_from(*blue.prepared.as_ref().ok()?).unwrap_or(usize::MAX);
    (prepared > 0).then(|| {
        Finding::warning(
            "prepared-transactions",
            Side::Blue,
            "prepared transactions (XA) wait for their end: the copy does not have their rows, and the \
             stream, which begins behind them, stops where one of them is committed",
        )
        .evidence(count(prepared, "transaction"))
        .fix(Fix::advice("end them before the move begins: XA RECOVER, then XA COMMIT or XA ROLLBACK"))
    })
}

fn unknown_charsets(tables: &[TableInfo]) -> Option<Finding> {
    let columns = tables.iter().flat_map(|table| {
        let unknown = table.columns.iter().filter(|column| {
            let charset = column.charset.as_deref();
            charset.is_some_and(|name| Charset::by_name(name).is_none())
        });
        unknown.map(|column| format!("{}.{}", quoted(table), identifier(&column.name)))
    });
    let found: Vec<String> = columns.collect();
    (!found.is_empty()).then(|| {
        Finding::blocker(
            "charset-unknown",
            Side::Blue,
            "columns have a character set that is not known",
        )
        .evidence(count(found.len(), "column"))
        .objects(found)
        .fix(Fix::advice("convert them: ALTER TABLE .. CONVERT TO CHARACTER SET utf8mb4"))
    })
}
