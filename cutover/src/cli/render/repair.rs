//! A repair.

use crate::verify::KeyPart;
use crate::verify::repair::{LeftRow, RepairPlan, RepairReport, RepairStatus, RepairedTable};

use super::{Paint, units};

/// Rows of a table that were left, and are shown; `--json` has more.
const SHOWN: usize = 20;
/// Characters of a key's value that are shown.
const VALUE: usize = 60;

/// One line: how far it is.
pub fn render_repairing(status: &RepairStatus) -> String {
    format!(" {} of {} rows", units::count(status.rows_done), units::count(status.rows))
}

/// The statements, as they could be typed.
pub fn render_repair_plan(plan: &RepairPlan, paint: Paint) -> String {
    let (from, to) = (plan.source, plan.target);
    let mut text = format!(
        "-- verification {}: {} rows of {to} as {from} has them now\n",
        plan.verification,
        units::count(plan.rows() as u64)
    );
    for table in &plan.tables {
        text.push_str(&format!("-- {}\n", table.table));
        for statement in &table.statements {
            text.push_str(statement);
            text.push('\n');
        }
        if table.equal > 0 {
            text.push_str(&format!("-- {} rows are equal by now\n", units::count(table.equal)));
        }
        if table.beyond > 0 {
            let count = units::count(table.beyond);
            text.push_str(&format!("-- and {count} rows that are not shown\n"));
        }
        if let Some(why) = &table.refused {
            text.push_str(&format!("-- {}: {why}\n", paint.warn("not repaired")));
        }
    }
    for found in &plan.objects {
        text.push_str(&format!("-- {} {}: {}\n", found.kind, found.object, found.what));
        match found.statements.as_slice() {
            [] => text.push_str("--   by hand\n"),
            statements => {
                for statement in statements {
                    text.push_str(&format!("--   on {to}, by hand: {statement}\n"));
                }
            }
        }
    }
    text
}

/// What was done, and whether it is equal now.
pub fn render_repaired(report: &RepairReport, paint: Paint) -> String {
    let mut text = String::new();
    let width = report.tables.iter().map(|table| table.table.len()).max().unwrap_or(5);
    for table in &report.tables {
        let name = format!("{:<width$}", table.table);
        text.push_str(&format!("{name}  {}\n", outcome(table, paint)));
        for row in table.left.iter().take(SHOWN) {
            text.push_str(&format!("  {}  {}\n", key(row), row.why));
        }
    }
    let (from, to) = (report.source, report.target);
    let rows: u64 = report.tables.iter().map(|table| table.rows).sum();
    let verified: u64 = report.tables.iter().map(|table| table.verified).sum();
    if let Some(why) = &report.stopped {
        text.push_str(&paint.warn(&format!("stopped: {why}")));
        text.push('\n');
    }
    let sum = format!(
        "{} of {} rows were looked at again: {to} has them as {from} does",
        units::count(verified),
        units::count(rows)
    );
    text.push_str(&if report.is_whole() { paint.good(&sum) } else { paint.bad(&sum) });
    text.push_str("\nthe proof of everything: cutover verify\n");
    text
}

fn outcome(table: &RepairedTable, paint: Paint) -> String {
    let mut parts = Vec::new();
    for (count, what) in [
        (table.inserted, "inserted"),
        (table.updated, "updated"),
        (table.deleted, "deleted"),
        (table.equal_before, "equal already"),
    ] {
        if count > 0 {
            parts.push(format!("{} {what}", units::count(count)));
        }
    }
    for (count, what) in [
        (table.refused, "refused"),
        (table.in_motion, "written too often to be caught at rest"),
        (table.beyond, "more that are not named"),
    ] {
        if count > 0 {
            parts.push(paint.bad(&format!("{} {what}", units::count(count))));
        }
    }
    if let Some(error) = &table.error {
        parts.push(paint.bad(&format!("not repaired: {error}")));
    }
    parts.join(", ")
}

fn key(row: &LeftRow) -> String {
    let part = |part: &KeyPart| {
        let value: String = part.value.chars().take(VALUE).collect();
        let end = if value.len() < part.value.len() { ".." } else { "" };
        format!("{} = {value}{end}", part.column)
    };
    row.key.iter().map(part).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::side::Side;

    #[test]
    fn what_still_differs_is_said() {
        let table = RepairedTable {
            table: "\"public\".\"t\"".into(),
            rows: 3,
            inserted: 2,
            refused: 1,
            verified: 2,
            left: vec![LeftRow {
                key: vec![KeyPart { column: "id".into(), value: "7".into() }],
                why: "a unique constraint".into(),
            }],
            ..RepairedTable::default()
        };
        let report = RepairReport {
            schema_version: 1,
            id: "x".into(),
            verification: "y".into(),
            source: Side::Blue,
            target: Side::Green,
            started: Timestamp::UNIX_EPOCH,
            ended: Timestamp::UNIX_EPOCH,
            tables: vec![table],
            stopped: None,
        };
        let text = render_repaired(&report, Paint::none());
        assert!(text.contains("2 inserted, 1 refused\n  id = 7  a unique constraint\n"), "{text}");
        assert!(
            text.contains("2 of 3 rows were looked at again: green has them as blue"),
            "{text}"
        );
    }
}
