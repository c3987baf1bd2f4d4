//! The files of the log: the one that is written, and the older ones that are full.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::event::Line;

/// The log's name in the state directory.
pub const FILE: &str = "audit.jsonl";
/// Between these a full file has the number of its first line, so that names sort as lines do.
const FULL: (&str, &str) = ("audit-", ".jsonl");
const DIGITS: usize = 12;
/// Read at once, from the end of a file.
const BLOCK_BYTES: u64 = 64 << 10;
/// The files may be renamed while they are listed: so often they are looked at again.
const TRIES: usize = 3;

/// What a file is called once it is full.
pub fn full_name(first: u64) -> String {
    format!("{}{first:0DIGITS$}{}", FULL.0, FULL.1)
}

/// Full files with the numbers of their first lines, oldest first.
///
/// # Errors
/// The file system's.
pub fn full(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| {
            let number = name.strip_prefix(FULL.0)?.strip_suffix(FULL.1)?;
            number.parse().ok().filter(|_| number.len() == DIGITS)
        });
        found.extend(number.map(|number| (number, entry.path())));
    }
    found.sort();
    Ok(found)
}

/// Which lines are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The last `lines` past number `after`.
    Last {
        /// The number.
        after: u64,
        /// So many at most.
        lines: usize,
    },
    /// The first `lines` past number `after`.
    First {
        /// The number.
        after: u64,
        /// So many at most.
        lines: usize,
    },
}

/// Whole lines of the log in `directory`, oldest first. No more is read than the files that hold them,
/// and of these from the end only as much as is needed.
///
/// # Errors
/// The file system's.
pub fn lines(directory: &Path, part: Part) -> io::Result<Vec<String>> {
    let mut tries = 0;
    loop {
        let full = full(directory)?;
        let read = read_part(directory, &full, part);
        tries += 1;
        // A file that became full meanwhile was missed, or read twice.
        if tries == TRIES || self::full(directory)?.len() == full.len() {
            return read;
        }
    }
}

fn read_part(directory: &Path, full: &[(u64, PathBuf)], part: Part) -> io::Result<Vec<String>> {
    let current = directory.join(FILE);
    let paths: Vec<&Path> = full.iter().map(|(_, path)| &**path).chain([&*current]).collect();
    match part {
        Part::Last { after, lines } => {
            let mut found: Vec<String> = Vec::new();
            for path in paths.iter().rev() {
                let wanted = lines - found.len();
                if wanted == 0 {
                    break;
                }
                let older = last_lines(path, wanted)?;
                let has_all =
                    older.first().is_some_and(|line| number_of(line).is_some_and(|n| n <= after));
                let older = older.into_iter().filter(|line| is_past(line, after));
                found = older.chain(found).collect();
                if has_all {
                    break;
                }
            }
            Ok(found)
        }
        Part::First { after, lines } => {
            // The file before the first that begins past it holds it.
            let begins = full.partition_point(|(first, _)| *first <= after + 1).saturating_sub(1);
            let mut found = Vec::new();
            for path in &paths[begins..] {
                let text = whole(path)?;
                let past = text.lines().filter(|line| is_past(line, after));
                found.extend(past.take(lines - found.len()).map(str::to_owned));
                if found.len() == lines {
                    break;
                }
            }
            Ok(found)
        }
    }
}

/// A file's whole lines: one that is being written has no end yet. No such file: none.
///
/// # Errors
/// The file system's.
pub fn whole(path: &Path) -> io::Result<String> {
    let mut bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    bytes.truncate(bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1));
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn last_lines(path: &Path, wanted: usize) -> io::Result<Vec<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut at = file.metadata()?.len();
    let mut blocks = Vec::new();
    let mut ends = 0;
    // One end more than lines: the first of them is where the lines begin, another may close a line
    // that is being written.
    while at > 0 && ends <= wanted.saturating_add(1) {
        let bytes = BLOCK_BYTES.min(at);
        at -= bytes;
        let mut block = vec![0; bytes as usize];
        file.read_exact_at(&mut block, at)?;
        ends += block.iter().filter(|byte| **byte == b'\n').count();
        blocks.push(block);
    }
    blocks.reverse();
    let bytes = blocks.concat();
    let begin = if at == 0 {
        0
    } else {
        bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1)
    };
    let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(begin, |at| at + 1);
    let text = String::from_utf8_lossy(&bytes[begin..end.max(begin)]);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(wanted)..].iter().map(|line| (*line).to_owned()).collect())
}

/// What can't be read has no number: it is shown where it stands.
fn is_past(line: &str, after: u64) -> bool {
    number_of(line).is_none_or(|number| number > after)
}

fn number_of(line: &str) -> Option<u64> {
    serde_json::from_str::<Line>(line).ok().map(|line| line.number)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::event::{Event, Kind};
    use super::super::file::AuditFile;
    use super::*;

    fn numbers(lines: &[String]) -> Vec<u64> {
        lines.iter().map(|line| number_of(line).unwrap()).collect()
    }

    #[test]
    fn parts_are_read_across_files() {
        let directory = tempfile::tempdir().unwrap();
        let mut log =
            AuditFile::open_rotating(directory.path(), Timestamp::UNIX_EPOCH, 2_000).unwrap();
        for n in 0..49 {
            let text = format!("event {n}");
            let event =
                Event::new(Timestamp::UNIX_EPOCH, Kind::Request, text, serde_json::Value::Null);
            log.append(&[event]).unwrap();
        }
        assert!(full(directory.path()).unwrap().len() > 3, "it was to become full");
        let read = |part| numbers(&lines(directory.path(), part).unwrap());
        let all: Vec<u64> = (1..=50).collect();
        assert_eq!(read(Part::Last { after: 0, lines: 1000 }), all);
        assert_eq!(read(Part::First { after: 0, lines: 1000 }), all);
        for after in 0..50 {
            let past = &all[after as usize..];
            for some in [1, 3, 20] {
                assert_eq!(read(Part::First { after, lines: some }), past[..some.min(past.len())]);
                let last = past.len().saturating_sub(some);
                assert_eq!(read(Part::Last { after, lines: some }), past[last..]);
            }
        }
        assert!(read(Part::First { after: 50, lines: 3 }).is_empty());
        assert!(read(Part::Last { after: 50, lines: 3 }).is_empty());
    }

    #[test]
    fn of_a_long_file_only_the_end_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let line = |n: u64| format!("{n:0>200}");
        let text: String = (1..=5_000).map(|n| line(n) + "\n").collect();
        std::fs::write(&path, text + "being written").unwrap();
        for wanted in [1, 2, 327, 328, 1_000] {
            let found = last_lines(&path, wanted).unwrap();
            assert_eq!(found.len(), wanted);
            assert_eq!(found.last(), Some(&line(5_000)));
            assert_eq!(found.first(), Some(&line(5_001 - wanted as u64)));
        }
        assert_eq!(last_lines(&path, 10_000).unwrap().len(), 5_000);
    }
}
