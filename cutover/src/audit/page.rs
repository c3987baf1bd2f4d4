//! A look at the log.

use std::io;
use std::path::Path;

use super::chain::{Followed, Key, follow_all};
use super::files::{Part, lines, whole};
use crate::api::{AuditPage, SCHEMA_VERSION};

/// Most lines of one page.
const LINES_MAX: usize = 10_000;

/// A part of the log in `directory`, and whether its lines prove each other.
///
/// # Errors
/// The file system's.
pub fn read(directory: &Path, part: Part, key: Option<&Key>) -> io::Result<AuditPage> {
    let part = match part {
        Part::Last { after, lines } => Part::Last { after, lines: lines.min(LINES_MAX) },
        Part::First { after, lines } => Part::First { after, lines: lines.min(LINES_MAX) },
    };
    let lines = lines(directory, part)?;
    let followed = follow_all(lines.iter().map(String::as_str), key);
    Ok(with(lines, followed))
}

/// The last `last` lines of one file of the log, whose chain is followed as a whole.
///
/// # Errors
/// The file system's.
pub fn page(file: &Path, last: usize, key: Option<&Key>) -> io::Result<AuditPage> {
    let text = whole(file)?;
    let followed = follow_all(text.lines(), key);
    let all: Vec<&str> = text.lines().collect();
    let shown = all[all.len().saturating_sub(last)..].iter().map(|line| (*line).to_owned());
    Ok(with(shown.collect(), followed))
}

/// Lines with what is known of the chain.
pub fn with(lines: Vec<String>, followed: Followed) -> AuditPage {
    AuditPage {
        schema_version: SCHEMA_VERSION,
        lines,
        first: followed.first,
        verified: followed.lines,
        unproven: followed.unproven,
        last_hash: followed.tip.hash,
        broken: followed.broken,
    }
}
