//! A verification.

use crate::api::Severity;
use crate::verify::{
    HeldBy, ObjectFinding, Progress, RowDifference, TableReport, Verdict, VerifyReport,
};

use super::{Paint, units};

/// Rows of a table that are shown; `--json` has more.
const SHOWN: usize = 20;
/// Characters of a key's value that are shown.
const VALUE: usize = 60;

/// One line: how far it is.
pub fn render_verifying(progress: &Progress) -> String {
    let eta = progress.eta_seconds.map_or("?".into(), units::seconds);
    let limit = progress.limit.as_ref().and_then(|limit| Some((limit.share, limit.held_by?)));
    let limit = limit.map_or(String::new(), |(share, held_by)| {
        let why = match held_by {
            HeldBy::Clients => "clients work",
            HeldBy::Lag => "the stream is behind",
        };
        format!("  reads {:.0} % of the time: {why}", share * 100.0)
    });
    format!(
        " {}/{} tables  {} rows, {}/s, about {eta} to go  {} looked at again  {} differences{limit}",
        progress.tables_done,
        progress.tables,
        units::count(progress.rows_done),
        units::rate(progress.rows_per_second),
        units::count(progress.rows_rechecked),
        units::count(progress.differences),
    )
}

/// The result as a table, and every difference that is known.
pub fn render_verified(report: &VerifyReport, paint: Paint) -> String {
    let mut text = String::new();
    let width = report.tables.iter().map(|table| table.table.len()).max().unwrap_or(5);
    for table in &report.tables {
        let name = format!("{:<width$}", table.table);
        let rows = units::count(table.rows);
        text.push_str(&format!("{name}  {rows:>12} rows  {}\n", outcome(table, paint)));
        for one in table.differences.iter().take(SHOWN) {
            text.push_str(&format!("  {}\n", difference(one, report)));
        }
        let more = table.differing() as usize - table.differences.len().min(SHOWN);
        if more > 0 {
            text.push_str(&format!("  and {more} more\n"));
        }
        if let Some(predicate) = &table.predicate {
            text.push_str(&format!("  only where {predicate}\n"));
        }
        for limit in &table.limits {
            text.push_str(&format!("  note: {limit}\n"));
        }
    }
    // Where sequences stand is set by the next run: one line says it for all of them.
    let is_behind = |found: &&ObjectFinding| {
        found.kind == "sequence"
            && found.severity == Severity::Warn
            && found.what.contains(" behind ")
    };
    let behind: Vec<_> = report.objects.iter().filter(is_behind).collect();
    let together = behind.len() > 1;
    for found in report.objects.iter().filter(|found| !(together && is_behind(found))) {
        let mark = match found.severity {
            Severity::Fail => paint.bad("differs"),
            Severity::Warn | Severity::Ok => paint.warn("note   "),
        };
        text.push_str(&format!("{mark}  {} {}: {}\n", found.kind, found.object, found.what));
        if let Some(fix) = &found.fix {
            text.push_str(&format!("         fix: {fix}\n"));
        }
    }
    if together {
        let (mark, count) = (paint.warn("note   "), units::count(behind.len() as u64));
        let (to, from) = (report.target, report.source);
        text.push_str(&format!(
            "{mark}  {count} sequences: {to} is behind {from}; the next run sets them\n"
        ));
    }
    text.push_str(&verdict(report, paint));
    text
}

fn outcome(table: &TableReport, paint: Paint) -> String {
    let mut parts = Vec::new();
    for (count, what) in [
        (table.missing, "missing"),
        (table.extra, "extra"),
        (table.different, "different"),
        (table.unsettled, "unsettled"),
    ] {
        if count > 0 {
            parts.push(paint.bad(&format!("{} {what}", units::count(count))));
        }
    }
    if let Some(error) = &table.error {
        parts.push(paint.bad(&format!("not compared: {error}")));
    }
    for what in &table.left_out {
        parts.push(paint.bad(what));
    }
    if table.cut_short {
        parts.push("given up: too much differs".into());
    }
    if parts.is_empty() {
        parts.push(paint.good("equal"));
    }
    if table.in_motion > 0 {
        let count = units::count(table.in_motion);
        parts.push(format!("{count} written too often to be caught at rest"));
    }
    parts.join(", ")
}

/// Which row, and what about it.
fn difference(one: &RowDifference, report: &VerifyReport) -> String {
    let row = match &one.row_hash {
        Some(hash) => format!("rows with content {hash}"),
        None => {
            let part = |part: &crate::verify::KeyPart| {
                let value: String = part.value.chars().take(VALUE).collect();
                let end = if value.len() < part.value.len() { ".." } else { "" };
                format!("{} = {value}{end}", part.column)
            };
            one.key.iter().map(part).collect::<Vec<_>>().join(", ")
        }
    };
    let what = match one.columns.as_slice() {
        [] => one.kind.name().to_owned(),
        columns => format!("{}: {}", one.kind.name(), columns.join(", ")),
    };
    let (from, to) = (report.source, report.target);
    let counts = match (one.on_source, one.on_target) {
        (1, 1) | (1, 0) | (0, 1) => String::new(),
        (here, there) => format!(" ({here} on {from}, {there} on {to})"),
    };
    format!("{row}  {what}{counts}")
}

fn verdict(report: &VerifyReport, paint: Paint) -> String {
    let (from, to) = (report.source, report.target);
    let how = report.mode.name();
    let mut text = match report.verdict {
        Verdict::Equal => paint.good(&format!("{to} equals {from} in what was compared ({how})")),
        Verdict::Different => {
            let count = units::count(report.differences);
            paint.bad(&format!("{to} is not {from}: {count} differences ({how})"))
        }
        Verdict::Incomplete => {
            paint.warn(&format!("no difference was found, but not everything was compared ({how})"))
        }
    };
    let seconds = report.ended.duration_since(report.started).as_secs_f64();
    let rows = units::count(report.rows);
    text.push_str(&format!(": {rows} rows in {}\n", units::seconds(seconds)));
    if let Some(before) = &report.resumed {
        text.push_str(&format!(
            "{} of them, in {} chunks, had been read before it was interrupted\n",
            units::count(before.rows),
            units::count(before.chunks)
        ));
    }
    if let Some(sample) = &report.sample {
        text.push_str(&format!("{sample}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::side::Side;
    use crate::verify::{KeyPart, Mode, RowKind};

    #[test]
    fn a_difference_names_row_and_columns() {
        let table = TableReport {
            table: "\"public\".\"t\"".into(),
            rows: 1234,
            different: 1,
            differences: vec![RowDifference {
                kind: RowKind::Different,
                key: vec![KeyPart { column: "id".into(), value: "7".into() }],
                row_hash: None,
                columns: vec!["name".into()],
                on_source: 1,
                on_target: 1,
            }],
            ..TableReport::default()
        };
        let report = VerifyReport::judged(
            "x".into(),
            Mode::Checksum,
            [Side::Blue, Side::Green],
            Timestamp::now(),
            vec![table],
            vec![],
            false,
        );
        let behind = |name: &str| ObjectFinding {
            severity: Severity::Warn,
            kind: "sequence".into(),
            object: name.into(),
            what: "green is 3 values behind blue; the next run sets it".into(),
            fix: None,
        };
        let one = VerifyReport { objects: vec![behind("a")], ..report.clone() };
        assert!(render_verified(&one, Paint::none()).contains("sequence a: green is 3 values"));
        let two = VerifyReport { objects: vec![behind("a"), behind("b")], ..report.clone() };
        let text = render_verified(&two, Paint::none());
        assert!(text.contains("2 sequences: green is behind blue") && !text.contains("sequence a"));
        let text = render_verified(&report, Paint::none());
        assert!(text.contains("1,234 rows  1 different\n  id = 7  different: name\n"), "{text}");
        assert!(text.contains("green is not blue: 1 differences (checksum)"), "{text}");
    }
}
