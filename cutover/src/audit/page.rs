//! A look at the log.

use std::io;
use std::path::Path;

use super::chain::{Followed, follow_all};
use super::event::Line;
use crate::api::{AuditPage, SCHEMA_VERSION};

/// The last `last` lines of the log in `file`, of those with numbers above `after`; the whole chain
/// is followed in any case. No such file: an empty log.
///
/// # Errors
/// The file system's.
pub fn page(file: &Path, after: u64, last: usize) -> io::Result<AuditPage> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    // A line that is being written has no end yet.
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let text = String::from_utf8_lossy(&bytes[..end]);
    let Followed { lines, tip, broken } = follow_all(text.lines());
    // What can't be read has no number: it is shown where it stands.
    let is_new = |line: &&str| number_of(line).is_none_or(|number| number > after);
    let shown: Vec<&str> = text.lines().filter(is_new).collect();
    let shown = &shown[shown.len().saturating_sub(last)..];
    Ok(AuditPage {
        schema_version: SCHEMA_VERSION,
        lines: shown.iter().map(|line| (*line).to_owned()).collect(),
        verified: lines,
        last_hash: tip.hash,
        broken,
    })
}

fn number_of(line: &str) -> Option<u64> {
    serde_json::from_str::<Line>(line).ok().map(|line| line.number)
}
