//! The log on the disk: lines are only ever added, and every one is there before the next is begun.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::json;

use super::chain::{Broken, Followed, Key, Tip, sealed};
use super::event::{Event, Kind, Line};
use super::files::{FILE, full, full_name, whole};
use super::key;

/// A file with so many bytes is full, and the next line begins a new one.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The open log. One writer at a time: the state directory's lock sees to that.
#[derive(Debug)]
pub struct AuditFile {
    directory: PathBuf,
    file: File,
    key: Key,
    /// What was shown of the chain, with the lines that were added since.
    followed: Followed,
    /// Where new lines follow. Behind a break that is the last line that can be read: new lines are
    /// proven against each other, and the break stays visible.
    tip: Tip,
    /// Number of the first line in the file that is written; 0: it has none.
    first: u64,
    /// Bytes of whole lines in that file.
    length: u64,
    length_max: u64,
    /// Journal entries that are in the log.
    entries: BTreeSet<u64>,
}

impl AuditFile {
    /// Opens the log in `directory`, creating it and its key when missing. A last line that was torn
    /// (the machine lost power while it was written) is put aside into a file of its own, and the log
    /// says so. A line that was tampered with stays where it is. Lines of a former release, which had
    /// no key, stay as they are, and a line says where keyed ones begin.
    ///
    /// # Errors
    /// The file system's, and a key file that holds no key.
    pub fn open(directory: &Path, now: Timestamp) -> io::Result<Self> {
        Self::open_rotating(directory, now, FILE_BYTES_MAX)
    }

    /// The same with files of so many bytes.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_rotating(directory: &Path, now: Timestamp, length_max: u64) -> io::Result<Self> {
        let kept = key::read(directory)?;
        let left = key::read_new(directory)?;
        let path = directory.join(FILE);
        let file = opened(&path)?;
        let full = full(directory)?;
        let mut lines = Lines::default();
        // The key that an interrupted start has left counts if it has sealed a line.
        let seals = |key: &Key, text: &str| text.contains(&format!("\"key\":\"{}\"", key.name()));
        let current = whole(&path)?;
        let left = left.filter(|key| kept.is_none() && seals(key, &current));
        let is_kept = kept.is_some();
        let known = kept.or(left.clone());
        for (_, path) in &full {
            lines.add(&whole(path)?, known.as_ref());
        }
        lines.add(&current, known.as_ref());
        let has_lines = lines.last.is_some();
        if is_kept && lines.followed.broken.is_none() && !lines.followed.tip.is_keyed {
            let why = match has_lines {
                false => "the log is gone, and its key is there",
                true => "no line has a key, and the key is there: the log was written anew",
            };
            lines.followed.broken = Some(Broken { line: 1, why: why.into() });
        }
        let is_new = known.is_none();
        let key = match known {
            Some(key) => key,
            None => key::make(directory)?,
        };
        let tip = match &lines.followed.broken {
            None => lines.followed.tip.clone(),
            Some(_) => lines.last.clone().unwrap_or_default(),
        };
        let mut this = Self {
            directory: directory.to_owned(),
            file,
            key,
            first: lines.first_of_file,
            followed: lines.followed,
            tip,
            length: current.len() as u64,
            length_max,
            entries: lines.entries,
        };
        let torn = this.put_aside_what_is_torn(now)?;
        let keyed = is_new.then(|| {
            let what = match has_lines {
                true => "lines before this one were written without its key",
                false => "lines are keyed from here on",
            };
            let detail = json!({ "key": this.key.name(), "lines_before": this.tip.number });
            Event::new(now, Kind::Keyed, what, detail)
        });
        let events: Vec<Event> = keyed.into_iter().chain(torn).collect();
        if !events.is_empty() {
            this.append(&events)?;
        }
        if is_new || left.is_some() {
            key::keep(directory)?;
        }
        Ok(this)
    }

    /// Journal entries that are in the log.
    pub fn entries(&self) -> &BTreeSet<u64> {
        &self.entries
    }

    /// What was shown of the chain.
    pub fn followed(&self) -> &Followed {
        &self.followed
    }

    /// What lines are sealed with.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The first line that breaks the chain.
    pub fn broken(&self) -> Option<&Broken> {
        self.followed.broken.as_ref()
    }

    /// Adds events. They are on the disk when this returns; after an error none of them is.
    ///
    /// # Errors
    /// The file system's.
    pub fn append<'a>(&mut self, events: impl IntoIterator<Item = &'a Event>) -> io::Result<()> {
        self.look_for_strangers()?;
        if self.length >= self.length_max && self.first > 0 {
            self.begin_another()?;
        }
        let mut tip = self.tip.clone();
        let mut text = String::new();
        let mut entries = Vec::new();
        for event in events {
            let number = tip.number + 1;
            let (event, key) = (event.clone(), Some(self.key.name().to_owned()));
            entries.extend(event.entry);
            let line = Line { number, event, key, prev: tip.hash };
            let body = serde_json::to_string(&line).map_err(io::Error::other)?;
            let (line, hash) = sealed(&body, Some(&self.key));
            text.push_str(&line);
            text.push('\n');
            tip = Tip { number, hash, is_keyed: true };
        }
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // A part of it may be there (the disk is full); the next line must not follow that.
            self.file.set_len(self.length)?;
            return Err(error);
        }
        if self.first == 0 {
            self.first = self.tip.number + 1;
        }
        self.length += text.len() as u64;
        if self.followed.broken.is_none() {
            if self.followed.lines == 0 {
                self.followed.first = self.tip.number + 1;
            }
            self.followed.lines += tip.number - self.tip.number;
            self.followed.tip = tip.clone();
        }
        self.tip = tip;
        self.entries.extend(entries);
        Ok(())
    }

    /// Somebody else may have changed the file, or taken it away.
    fn look_for_strangers(&mut self) -> io::Result<()> {
        let ours = self.file.metadata()?;
        let path = self.directory.join(FILE);
        let there = std::fs::metadata(&path).ok();
        let is_there =
            there.is_some_and(|there| there.ino() == ours.ino() && there.dev() == ours.dev());
        if is_there && ours.len() == self.length {
            return Ok(());
        }
        let why = match is_there {
            true => "the file was changed while the sidecar ran",
            false => "the file was taken away while the sidecar ran",
        };
        tracing::error!("the audit log {FILE} is not what was written: {why}");
        let line = self.tip.number + 1;
        self.followed.broken.get_or_insert_with(|| Broken { line, why: why.into() });
        if !is_there {
            self.file = opened(&path)?;
            self.first = 0;
        }
        self.length = self.file.metadata()?.len();
        let mut last = [b'\n'];
        if self.length > 0 {
            self.file.read_exact_at(&mut last, self.length - 1)?;
        }
        if last != [b'\n'] {
            self.file.write_all(b"\n")?;
            self.length += 1;
        }
        Ok(())
    }

    /// The file is full: it gets its name for good, and the next line goes into a new one.
    fn begin_another(&mut self) -> io::Result<()> {
        let path = self.directory.join(FILE);
        let full = self.directory.join(full_name(self.first));
        if full.try_exists()? {
            let what = format!("{} is there already", full.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        std::fs::rename(&path, &full)?;
        self.file = opened(&path)?;
        File::open(&self.directory)?.sync_all()?;
        (self.first, self.length) = (0, 0);
        Ok(())
    }

    fn put_aside_what_is_torn(&mut self, now: Timestamp) -> io::Result<Option<Event>> {
        let mut torn = Vec::new();
        self.file.read_to_end(&mut torn)?;
        let torn = torn.get(self.length as usize..).unwrap_or_default();
        if torn.is_empty() {
            return Ok(None);
        }
        let name = format!("{FILE}.torn-{}", now.as_millisecond());
        let mut options = OpenOptions::new();
        let aside = self.directory.join(&name);
        let mut file = options.create(true).append(true).mode(0o600).open(aside)?;
        file.write_all(torn)?;
        file.sync_data()?;
        self.file.set_len(self.length)?;
        let what = format!("the last line was torn; its {} bytes are in {name}", torn.len());
        let detail = json!({ "bytes": torn.len(), "file": name });
        Ok(Some(Event::new(now, Kind::Repaired, what, detail)))
    }
}

fn opened(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).read(true).append(true).mode(0o600).open(path)
}

/// What the lines that are there say.
#[derive(Default)]
struct Lines {
    followed: Followed,
    /// The last line that can be read, also behind a break.
    last: Option<Tip>,
    /// Number of the first line that can be read of the file that was added last.
    first_of_file: u64,
    entries: BTreeSet<u64>,
}

impl Lines {
    fn add(&mut self, text: &str, key: Option<&Key>) {
        self.first_of_file = 0;
        for line in text.lines() {
            self.followed.follow(line, key);
            let Some((line, hash)) = read(line) else { continue };
            if self.first_of_file == 0 {
                self.first_of_file = line.number;
            }
            self.entries.extend(line.event.entry);
            self.last = Some(Tip { number: line.number, hash, is_keyed: line.key.is_some() });
        }
    }
}

fn read(line: &str) -> Option<(Line, String)> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    let hash = value["hash"].as_str()?.to_owned();
    Some((serde_json::from_value(value).ok()?, hash))
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

    fn opened_at(directory: &Path) -> AuditFile {
        AuditFile::open(directory, Timestamp::UNIX_EPOCH).unwrap()
    }

    /// The chain of all files, with the key that is there.
    fn followed(directory: &Path) -> Followed {
        let key = key::read(directory).unwrap();
        let mut lines = Lines::default();
        for (_, path) in full(directory).unwrap() {
            lines.add(&whole(&path).unwrap(), key.as_ref());
        }
        lines.add(&text(directory), key.as_ref());
        lines.followed
    }

    /// A line as the former release wrote it.
    fn plain(tip: &Tip, event: Event) -> (String, Tip) {
        let line = Line { number: tip.number + 1, event, key: None, prev: tip.hash.clone() };
        let (text, hash) = sealed(&serde_json::to_string(&line).unwrap(), None);
        (text + "\n", Tip { number: line.number, hash, is_keyed: false })
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
        let followed = followed(directory.path());
        assert_eq!((followed.lines, followed.unproven, followed.broken), (7, 0, None));
        let mode = |name| std::fs::metadata(directory.path().join(name)).unwrap().mode() & 0o777;
        assert_eq!((mode(FILE), mode(key::KEY_FILE)), (0o600, 0o600));
    }

    #[test]
    fn the_former_releases_lines_are_followed_by_keyed_ones_with_a_line_between() {
        let directory = tempfile::tempdir().unwrap();
        let (first, tip) = plain(&Tip::default(), event(1));
        let (second, _) = plain(&tip, event(2));
        let former = first + &second;
        std::fs::write(directory.path().join(FILE), &former).unwrap();
        let mut log = opened_at(directory.path());
        assert_eq!((log.broken(), log.entries().len()), (None, 2));
        log.append(&[event(3)]).unwrap();
        drop(log);
        let text = text(directory.path());
        assert!(text.starts_with(&former), "nothing is ever rewritten");
        let third = text.lines().nth(2).unwrap();
        assert!(
            third.contains("\"kind\":\"keyed\"") && third.contains("without its key"),
            "{third}"
        );
        let mut log = opened_at(directory.path());
        assert_eq!(log.broken(), None);
        log.append(&[event(4)]).unwrap();
        let followed = followed(directory.path());
        assert_eq!((followed.lines, followed.broken), (5, None));
        assert_eq!(text.matches("\"kind\":\"keyed\"").count(), 1, "once");
    }

    #[test]
    fn a_log_that_was_written_anew_without_the_key_is_told() {
        let directory = tempfile::tempdir().unwrap();
        opened_at(directory.path()).append(&[event(1), event(2)]).unwrap();
        let path = directory.path().join(FILE);
        let anew = plain(&Tip::default(), event(1)).0;
        for (left, why) in [("", "is gone"), (anew.as_str(), "written anew")] {
            std::fs::write(&path, left).unwrap();
            let log = opened_at(directory.path());
            let broken = log.broken().unwrap();
            assert!(broken.why.contains(why), "{broken}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(opened_at(directory.path()).broken().is_some());
    }

    #[test]
    fn a_start_that_was_interrupted_before_its_key_was_kept_goes_on_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        opened_at(directory.path()).append(&[event(1)]).unwrap();
        std::fs::rename(at(key::KEY_FILE), at("audit.key.new")).unwrap();
        let log = opened_at(directory.path());
        assert_eq!(log.broken(), None);
        assert!(at(key::KEY_FILE).exists() && !at("audit.key.new").exists());
        assert_eq!(followed(directory.path()).lines, 2);

        // Before a line was written: another key is made.
        let directory = tempfile::tempdir().unwrap();
        key::make(directory.path()).unwrap();
        assert_eq!(opened_at(directory.path()).broken(), None);
        std::fs::write(directory.path().join("audit.key.new"), "torn").unwrap();
        assert_eq!(opened_at(directory.path()).broken(), None);
    }

    #[test]
    fn a_key_that_was_lost_leaves_lines_that_nobody_can_prove() {
        let directory = tempfile::tempdir().unwrap();
        opened_at(directory.path()).append(&[event(1)]).unwrap();
        std::fs::remove_file(directory.path().join(key::KEY_FILE)).unwrap();
        drop(opened_at(directory.path()));
        let log = opened_at(directory.path());
        let broken = log.broken().unwrap();
        assert!(broken.line == 1 && broken.why.contains("is not here"), "{broken}");
        assert_eq!(log.entries().len(), 1);
    }

    #[test]
    fn the_chain_goes_on_across_files_and_starts() {
        let directory = tempfile::tempdir().unwrap();
        let mut number = 0;
        for _life in 0..4 {
            let mut log =
                AuditFile::open_rotating(directory.path(), Timestamp::UNIX_EPOCH, 1_500).unwrap();
            assert_eq!((log.broken(), log.entries().len()), (None, number as usize));
            for _ in 0..10 {
                number += 1;
                log.append(&[event(number)]).unwrap();
            }
            assert_eq!(log.followed(), &followed(directory.path()));
        }
        let files = full(directory.path()).unwrap();
        assert!(files.len() > 3, "{files:?}");
        for (first, path) in &files {
            let text = whole(path).unwrap();
            assert_eq!(read(text.lines().next().unwrap()).unwrap().0.number, *first);
            assert!(text.len() < 3_000);
        }
        assert_eq!(followed(directory.path()).lines, 41);

        // Somebody takes one from the middle away.
        std::fs::remove_file(&files[1].1).unwrap();
        let log = AuditFile::open_rotating(directory.path(), Timestamp::UNIX_EPOCH, 1_500).unwrap();
        assert_eq!(log.broken().map(|broken| broken.line), Some(files[1].0));
    }

    #[test]
    fn what_is_done_to_the_file_meanwhile_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let mut log = opened_at(directory.path());
        log.append(&[event(1)]).unwrap();
        let mut other = OpenOptions::new().append(true).open(&path).unwrap();
        other.write_all(b"no line").unwrap();
        log.append(&[event(2)]).unwrap();
        assert!(log.broken().unwrap().why.contains("was changed"), "{:?}", log.broken());
        assert_eq!(text(directory.path()).lines().count(), 4);

        let directory = tempfile::tempdir().unwrap();
        let mut log = opened_at(directory.path());
        std::fs::rename(directory.path().join(FILE), directory.path().join("elsewhere")).unwrap();
        log.append(&[event(1)]).unwrap();
        assert!(log.broken().unwrap().why.contains("taken away"), "{:?}", log.broken());
        assert_eq!(
            text(directory.path()).lines().count(),
            1,
            "it is written where it is looked for"
        );
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
        let (bytes, secret) =
            (text(directory.path()).into_bytes(), directory.path().join(key::KEY_FILE));
        for cut in whole + 1..bytes.len() {
            let directory = tempfile::tempdir().unwrap();
            std::fs::copy(&secret, directory.path().join(key::KEY_FILE)).unwrap();
            std::fs::write(directory.path().join(FILE), &bytes[..cut]).unwrap();
            let mut log =
                AuditFile::open(directory.path(), Timestamp::from_millisecond(7).unwrap()).unwrap();
            assert_eq!(log.entries().iter().copied().collect::<Vec<_>>(), [1]);
            log.append(&[event(2)]).unwrap();
            let text = text(directory.path());
            let followed = followed(directory.path());
            assert_eq!((followed.lines, followed.broken), (4, None), "{text}");
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
        assert_eq!(log.broken().map(|broken| broken.line), Some(3));
        log.append(&[event(4)]).unwrap();
        let text = text(directory.path());
        assert!(text.starts_with(&tampered), "nothing is ever rewritten");
        assert_eq!(followed(directory.path()).broken.unwrap().line, 3);
        assert_eq!(text.lines().count(), 5);
    }
}
