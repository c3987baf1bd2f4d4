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
