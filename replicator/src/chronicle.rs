//! What is written down of runs for people: the audit log, and a report of each run as a file.
//!
//! Both come from the journal and stand beside it: a run does not wait for them, and what a crash
//! kept from being written is written at the next start.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cutover::api::RunReport;
use cutover::audit::{Audit, Event};
use cutover::ports::{Entry, Record};
use cutover::report::markdown;

/// Directory of the reports, in the state directory.
const REPORTS: &str = "reports";

/// The audit log and the reports of one state directory. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Chronicle {
    audit: Audit,
    reports: Arc<Path>,
}

impl Chronicle {
    /// Catches up with the journal. What can't be written is said and tried again later: it is no
    /// reason not to start.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn open(state_dir: &Path, journal: Vec<Entry>) -> io::Result<Self> {
        let this = Self {
            audit: Audit::open(state_dir, journal.clone())?,
            reports: state_dir.join(REPORTS).into(),
        };
        // A held run that was resolved later has reported twice.
        let newest: BTreeMap<u64, &RunReport> = journal
            .iter()
            .filter_map(|entry| match &entry.record {
                Record::Ended { report } => Some((entry.epoch.0, &**report)),
                _ => None,
            })
            .collect();
        for report in newest.into_values() {
            this.write(report);
        }
        Ok(this)
    }

    /// The audit log.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// An entry that is in the journal now.
    pub fn tell(&self, entry: &Entry) {
        self.audit.note(Event::from(entry));
        if let Record::Ended { report } = &entry.record {
            let (this, report) = (self.clone(), report.clone());
            tokio::task::spawn_blocking(move || this.write(&report));
        }
    }

    fn write(&self, report: &RunReport) {
        if let Err(error) = self.try_write(report) {
            tracing::error!(run = report.run, "the report can't be written: {error}");
        }
    }

    fn try_write(&self, report: &RunReport) -> io::Result<()> {
        std::fs::create_dir_all(&self.reports)?;
        let json = serde_json::to_string_pretty(report).map_err(io::Error::other)? + "\n";
        for (end, text) in [("json", json), ("md", markdown(report))] {
            replace(&self.reports.join(format!("{}.{end}", report.run)), &text)?;
        }
        Ok(())
    }
}

/// Writes a file whole or not at all. One that says the same already is left alone.
fn replace(path: &PathBuf, text: &str) -> io::Result<()> {
    if std::fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&new, path)
}
