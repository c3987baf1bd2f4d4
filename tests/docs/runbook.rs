//! Entries of the runbook name a state by words of its message. The words have to be the code's.

use anyhow::{Result, ensure};
use tests::documents::read;

use crate::rust::sources;

const RUNBOOK: &str = "docs/operate/runbook.md";

/// All text of the code, with literals of several lines made whole.
fn code() -> Result<String> {
    let mut all = String::new();
    for folder in ["cutover/src", "decoders/src", "replicator/src", "sinks/src"] {
        for path in sources(folder)? {
            let mut lines = String::new();
            for line in read(&path)?.lines() {
                match line.strip_suffix('\\') {
                    Some(line) => lines.push_str(line.trim_start()),
                    None => {
                        lines.push_str(line.trim_start());
                        lines.push('\n');
                    }
                }
            }
            all.push_str(&lines);
        }
    }
    Ok(all)
}

fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

#[test]
fn what_the_runbook_quotes_is_said_by_the_code() -> Result<()> {
    let (runbook, code) = (read(RUNBOOK)?, code()?);
    let said = runbook.lines().filter_map(|line| line.strip_prefix("**Says:**"));
    let said: Vec<&str> = said.flat_map(quoted).collect();
    ensure!(said.len() > 30, "{} messages were understood", said.len());
    let unsaid: Vec<&&str> = said.iter().filter(|words| !code.contains(**words)).collect();
    ensure!(unsaid.is_empty(), "no message of the code has these words: {unsaid:?}");
    Ok(())
}

/// What each entry has to say.
#[test]
fn every_entry_says_what_it_means_whether_data_is_safe_and_what_to_type() -> Result<()> {
    let runbook = read(RUNBOOK)?;
    let entries: Vec<&str> = runbook.split("\n### ").skip(1).collect();
    ensure!(entries.len() > 60, "{} entries were understood", entries.len());
    for entry in entries {
        let title = entry.lines().next().unwrap_or_default();
        for part in ["**Means:**", "**Data:**", "**Type:**"] {
            ensure!(entry.contains(part), "the entry {title:?} lacks {part}");
        }
    }
    Ok(())
}
