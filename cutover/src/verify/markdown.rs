//! A report as Markdown.

use super::wire::VerifyReport;

impl VerifyReport {
    /// For a ticket or a wiki: a table of tables, then what differs. Keys are left out: such texts
    /// travel further than an operator's terminal.
    pub fn markdown(&self) -> String {
        let (from, to) = (self.source, self.target);
        let stamp = "%Y-%m-%d %H:%M:%SZ";
        let mut text = format!(
            "# Verification {} ({}): {to} against {from}: {:?}\n\n{} to {}, {} rows, {} differences\n\n\
             | table | rows | missing | extra | different | unsettled | in motion | remarks |\n\
             |---|---|---|---|---|---|---|---|\n",
            self.id,
            self.mode.name(),
            self.verdict,
            self.started.strftime(stamp),
            self.ended.strftime(stamp),
            self.rows,
            self.differences
        );
        for table in &self.tables {
            let columns: std::collections::BTreeSet<&str> =
                table.differences.iter().flat_map(|one| &one.columns).map(String::as_str).collect();
            let mut remarks: Vec<String> = table.left_out.clone();
            remarks.extend(table.limits.iter().cloned());
            remarks.extend(table.predicate.as_ref().map(|only| format!("only where {only}")));
            if !columns.is_empty() {
                remarks.push(format!(
                    "columns: {}",
                    columns.into_iter().collect::<Vec<_>>().join(", ")
                ));
            }
            if table.error.is_some() {
                remarks.push("not compared to its end".into());
            }
            if table.cut_short {
                remarks.push("given up: too many differences".into());
            }
            text.push_str(&format!(
                "| {} | {} | {} | {} | {} | {} | {} | {} |\n",
                cell(&table.table),
                table.rows,
                table.missing,
                table.extra,
                table.different,
                table.unsettled,
                table.in_motion,
                cell(&remarks.join("; "))
            ));
        }
        if let Some(before) = &self.resumed {
            text.push_str(&format!(
                "\n- {} rows in {} chunks were read before {}, when it went on after an interruption",
                before.rows,
                before.chunks,
                before.at.strftime(stamp)
            ));
        }
        if let Some(sample) = &self.sample {
            text.push_str(&format!("\n- {sample}"));
        }
        if self.stopped {
            text.push_str("\n- it was stopped before its end");
        }
        for found in &self.objects {
            text.push_str(&format!(
                "\n- {:?}: {} {}: {}",
                found.severity,
                found.kind,
                cell(&found.object),
                cell(&found.what)
            ));
        }
        text.push('\n');
        text
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::side::Side;
    use crate::verify::{KeyPart, Mode, RowDifference, RowKind, TableReport};

    #[test]
    fn it_says_what_was_not_compared_and_no_key() {
        let key = vec![KeyPart { column: "id".into(), value: "hunter2".into() }];
        let one = RowDifference {
            kind: RowKind::Different,
            key,
            row_hash: None,
            columns: vec!["v|w".into()],
            on_source: 1,
            on_target: 1,
        };
        let table = TableReport {
            table: "public.t".into(),
            rows: 40,
            different: 1,
            chunks: 11,
            chunks_in_all: 100,
            differences: vec![one],
            cut_short: true,
            ..TableReport::default()
        };
        let (sides, started) = ([Side::Blue, Side::Green], Timestamp::UNIX_EPOCH);
        let mode = Mode::Sample;
        let report =
            VerifyReport::judged("x".into(), mode, sides, started, vec![table], vec![], true);
        let text = report.markdown();
        assert!(text.contains("green against blue: Different"), "{text}");
        let cells = "| public.t | 40 | 0 | 0 | 1 | 0 | 0 | columns: v\\|w; given up";
        assert!(text.contains(cells), "{text}");
        assert!(text.contains("- a sample of 11 of 100 chunks: had more than"), "{text}");
        assert!(text.contains("stopped before its end") && !text.contains("hunter2"), "{text}");
    }
}
