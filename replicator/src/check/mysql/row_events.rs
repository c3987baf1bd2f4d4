//! Which tables' rows can go to green as row events (the BINLOG statement), and which as statements.

use decoders::change::RowForm;
use decoders::mysql::catalog::{Rights, TableInfo, TableKind};
use decoders::mysql::form_of_column;
use sinks::mysql::why_not_as_events;

use super::super::finding::{Finding, Side, count};
use super::BinlogCheckRequest;
use super::facts::SideFacts;
use super::tables::{logs_cascades, quoted};

/// The name of the finding.
pub(crate) const ID: &str = "row-events";

pub(super) fn evaluate(
    request: &BinlogCheckRequest,
    blue: &SideFacts,
    green: &SideFacts,
) -> Option<Finding> {
    let tables = blue.tables.as_ref().ok()?;
    if let Some(why) = not_at_all(request, blue, green) {
        return Some(
            Finding::ok(ID, Side::Green, "all rows go to green as statements").evidence(why),
        );
    }
    let cascades = |table: &TableInfo| {
        !logs_cascades(blue)
            && tables.iter().any(|other| {
                let mut keys = other.foreign_keys.iter();
                keys.any(|key| key.cascades() && key.references == table.name)
            })
    };
    let moved: Vec<&TableInfo> =
        tables.iter().filter(|table| table.kind == TableKind::Plain).collect();
    let as_statements: Vec<String> = moved
        .iter()
        .filter_map(|table| {
            let why = why_not(request, table, blue, green, cascades(table))?;
            Some(format!("{}: {why}", quoted(table)))
        })
        .collect();
    let (all, others) = (moved.len(), as_statements.len());
    let summary = match others {
        0 => "batches of rows go to green as row events".to_owned(),
        _ => format!(
            "batches of {} go to green as row events, the others' rows as statements",
            count(all - others, "table")
        ),
    };
    let evidence = format!("apply.row_events = 'auto'; {}", count(all, "table"));
    Some(Finding::ok(ID, Side::Green, summary).evidence(evidence).objects(as_statements))
}

/// Why no table's rows can.
fn not_at_all(request: &BinlogCheckRequest, blue: &SideFacts, green: &SideFacts) -> Option<String> {
    if !request.row_events {
        return Some("apply.row_events = 'off'".to_owned());
    }
    if blue.server.flavor != green.server.flavor {
        return Some("the servers are of different families".to_owned());
    }
    let mariadb = green.server.is_mariadb();
    let strict = green.variables.as_ref().ok()?.get("slave_exec_mode");
    if mariadb && strict.is_some_and(|mode| mode != "STRICT") {
        return Some("slave_exec_mode is not STRICT on green".to_owned());
    }
    for option in ["slave_skip_errors", "replica_skip_errors"] {
        let skipped = green.variables.as_ref().ok()?.get(option);
        if skipped.is_some_and(|errors| !["", "OFF"].contains(&errors)) {
            return Some(format!("{option} is set on green: missing rows might be passed over"));
        }
    }
    let missing = missing_right(mariadb, green.rights.as_ref().ok()?)?;
    Some(format!("the account lacks {missing} on green"))
}

fn missing_right(mariadb: bool, rights: &Rights) -> Option<&'static str> {
    if mariadb {
        return (!rights.has(&["BINLOG REPLAY"])).then_some("BINLOG REPLAY");
    }
    let both = rights.has(&["BINLOG_ADMIN"])
        && rights.has(&["SESSION_VARIABLES_ADMIN", "SYSTEM_VARIABLES_ADMIN"]);
    let may = both || rights.has(&["REPLICATION_APPLIER", "SUPER"]);
    (!may).then_some("REPLICATION_APPLIER")
}

fn why_not(
    request: &BinlogCheckRequest,
    table: &TableInfo,
    blue: &SideFacts,
    green: &SideFacts,
    cascades: bool,
) -> Option<String> {
    let there = green.tables.as_ref().ok()?.iter().find(|other| other.name == table.name);
    // What we make ourselves is made as on blue. Triggers of a side that is written to are gone by then.
    let there = there.filter(|_| request.schema_exists).unwrap_or(table);
    let there = &TableInfo { triggers: Vec::new(), ..there.clone() };
    let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    let forms = table.columns.iter().map(|column| form_of_column(column, blue.server.flavor));
    match forms.collect::<Option<_>>() {
        Some(columns) => {
            why_not_as_events(&names, &RowForm { columns }, there, &green.server, cascades)
        }
        None => Some("a column has a form that is not passed on".to_owned()),
    }
}
