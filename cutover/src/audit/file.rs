//! The file: lines are only ever added, and every one is on the disk before the next is begun.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::json;

use super::chain::{self, Followed, Tip, sealed};
use super::event::{Event, Kind, Line};

/// The log's name in the state directory.
pub const FILE: &str = "audit.jsonl";

/// The open log. One writer at a time: the state directory's lock sees to that.
#[derive(Debug)]
pub struct AuditFile {
    file: File,
    path: PathBuf,
    tip: Tip,
    /// Bytes of whole lines.
    length: u64,
    /// Journal entries that are in it.
    entries: BTreeSet<u64>,
    /// The first line that breaks the chain, of those that were there at the start.
    broken: Option<chain::Broken>,
}

impl AuditFile {
    /// Opens the log in `directory`, creating it when missing. A last line that was torn (the
    /// machine lost power while it was written) is put aside into a file of its own, and the log
    /// says so. A line that was tampered with stays where it is.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(directory: &Path, now: Timestamp) -> io::Result<Self> {
        let path = directory.join(FILE);
        let mut options = OpenOptions::new();
        options.create(true).read(true).append(true).mode(0o600);
        let mut file = options.open(&path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let text = String::from_utf8_lossy(&bytes[..end]);
        let followed = chain::follow_all(text.lines());
        let mut this = Self {
            file,
            path,
            tip: last(&text, &followed),
            length: end as u64,
            entries: text.lines().filter_map(entry_of).collect(),
            broken: followed.broken,
        };
        if end < bytes.len() {
            this.put_aside(&bytes[end..], now)?;
        }
        Ok(this)
    }

    /// Journal entries that are in the log.
    pub fn entries(&self) -> &BTreeSet<u64> {
        &self.entries
    }

    /// The first line that breaks the chain.
    pub fn broken(&self) -> Option<&chain::Broken> {
        self.broken.as_ref()
    }

    /// Adds events. They are on the disk when this returns; after an error none of them is.
    ///
    /// # Errors
    /// The file system's.
    pub fn append<'a>(&mut self, events: impl IntoIterator<Item = &'a Event>) -> io::Result<()> {
        let mut tip = self.tip.clone();
        let mut text = String::new();
        let mut entries = Vec::new();
        for event in events {
            let line =
                Line { number: tip.number + 1, event: event.clone(), prev: tip.hash.clone() };
            let body = serde_json::to_string(&line).map_err(io::Error::other)?;
            let (line, hash) = sealed(&body);
            text.push_str(&line);
            text.push('\n');
            entries.extend(event.entry);
            tip = Tip { number: tip.number + 1, hash };
        }
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // A part of it may be there (the disk is full); the next line must not follow that.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        self.length += text.len() as u64;
        self.tip = tip;
        self.entries.extend(entries);
        Ok(())
    }

    fn put_aside(&mut self, torn: &[u8], now: Timestamp) -> io::Result<()> {
        let name = format!("{FILE}.torn-{}", now.as_millisecond());
        let aside = self.path.with_file_name(&name);
        let mut options = OpenOptions::new();
        let mut file = options.create(true).append(true).mode(0o600).open(aside)?;
        file.write_all(torn)?;
        file.sync_data()?;
        self.file.set_len(self.length)?;
        let what = format!("the last line was torn; its {} bytes are in {name}", torn.len());
        let detail = json!({ "bytes": torn.len(), "file": name });
        self.append([&Event::new(now, Kind::Repaired, what, detail)])
    }
}

/// The end of what is there. Behind a break the chain goes on from the last line that can be read:
/// new lines are proven against each other, and the break stays visible.
fn last(text: &str, followed: &Followed) -> Tip {
    if followed.broken.is_none() {
        return followed.tip.clone();
    }
    let read = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        let hash = value["hash"].as_str()?.to_owned();
        Some(Tip { number: value["number"].as_u64()?, hash })
    };
    text.lines().rev().find_map(read).unwrap_or_else(|| followed.tip.clone())
}

fn entry_of(line: &str) -> Option<u64> {
    serde_json::from_str::<Line>(line).ok()?.event.entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(entry: u64) -> Event {
        let event = Event::new(
            Timestamp::UNIX_EPOCH,
            Kind::Reached,
            format!("phase {entry}"),
            serde_json::Value::Null,
        );
        Event { entry: Some(entry), ..event }
    }

    fn text(directory: &Path) -> String {
        std::fs::read_to_string(directory.join(FILE)).unwrap()
    }

    #[test]
    fn it_goes_on_where_it_ended() {
        let directory = tempfile::tempdir().unwrap();
        for life in 0..3 {
            let mut log = AuditFile::open(directory.path(), Timestamp::UNIX_EPOCH).unwrap();
            assert_eq!(log.entries().len(), 2 * life);
            let entries = [event(2 * life as u64), event(2 * life as u64 + 1)];
            log.append(&entries).unwrap();
        }
        let followed = chain::follow_all(text(directory.path()).lines());
        assert_eq!((followed.lines, followed.broken), (6, None));
    }

    /// Cut off at every byte of the last line, as a crash would.
    #[test]
    fn a_torn_line_is_put_aside_and_said() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = AuditFile::open(directory.path(), Timestamp::UNIX_EPOCH).unwrap();
        log.append(&[event(1)]).unwrap();
        let whole = text(directory.path()).len();
        log.append(&[event(2)]).unwrap();
        drop(log);
        let bytes = text(directory.path()).into_bytes();
        for cut in whole + 1..bytes.len() {
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join(FILE), &bytes[..cut]).unwrap();
            let mut log =
                AuditFile::open(directory.path(), Timestamp::from_millisecond(7).unwrap()).unwrap();
            assert_eq!(log.entries().iter().copied().collect::<Vec<_>>(), [1]);
            log.append(&[event(2)]).unwrap();
            let text = text(directory.path());
            let followed = chain::follow_all(text.lines());
            assert_eq!((followed.lines, followed.broken), (3, None), "{text}");
            assert!(text.contains("the last line was torn"), "{text}");
            let aside = std::fs::read(directory.path().join("audit.jsonl.torn-7")).unwrap();
            assert_eq!(aside, &bytes[whole..cut]);
        }
    }

    #[test]
    fn a_line_that_was_tampered_with_stays_and_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = AuditFile::open(directory.path(), Timestamp::UNIX_EPOCH).unwrap();
        log.append(&[event(1), event(2), event(3)]).unwrap();
        drop(log);
        let tampered = text(directory.path()).replace("phase 2", "phase 9");
        std::fs::write(directory.path().join(FILE), &tampered).unwrap();
        let mut log = AuditFile::open(directory.path(), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(log.broken().map(|broken| broken.line), Some(2));
        log.append(&[event(4)]).unwrap();
        let text = text(directory.path());
        assert!(text.starts_with(&tampered), "nothing is ever rewritten");
        assert_eq!(chain::follow_all(text.lines()).broken.unwrap().line, 2);
        assert_eq!(text.lines().count(), 4);
    }
}
