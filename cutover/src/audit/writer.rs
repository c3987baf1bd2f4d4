//! A thread that writes: nobody waits for the disk but who wants to.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::oneshot;

use super::chain::{Broken, Followed, Key};
use super::event::{Event, Kind};
use super::file::AuditFile;
use super::files::{FILE, Part};
use super::page;
use crate::api::AuditPage;
use crate::ports::{Entry, PortError, PortResult};

/// Before events that could not be written are tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// Events that wait for a disk that can't be written. More are dropped, which the log says later:
/// those of runs come from the journal at the next start.
const WAITING_MAX: usize = 10_000;
/// How long a request waits for the disk.
const PATIENCE: Duration = Duration::from_secs(5);

struct Told {
    event: Event,
    written: Option<oneshot::Sender<Result<(), String>>>,
}

/// The log's writer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Audit {
    told: Sender<Told>,
    directory: Arc<Path>,
    seen: Seen,
}

/// What the writer knows of the chain; `None` until the log is open.
#[derive(Debug, Clone, Default)]
struct Seen(Arc<Mutex<Option<(Followed, Key)>>>);

impl Seen {
    fn get(&self) -> Option<(Followed, Key)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, file: &AuditFile) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // What a reader has found stays.
        let found = seen.take().and_then(|(followed, _)| followed.broken);
        let mut followed = file.followed().clone();
        followed.broken = followed.broken.or(found);
        *seen = Some((followed, file.key().clone()));
    }

    fn break_at(&self, broken: &Broken) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((followed, _)) = &mut *seen
            && followed.broken.is_none()
        {
            tracing::error!("the audit log is not what was written: {broken}");
            followed.broken = Some(broken.clone());
        }
    }
}

impl Audit {
    /// Opens the log in `directory` and adds what the journal has and the log has not. A log that
    /// can't be opened is tried again and again: it must not keep clients waiting whom a recovery
    /// would let go on.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn open(directory: &Path, journal: Vec<Entry>) -> io::Result<Self> {
        let (told, events) = channel();
        let seen = Seen::default();
        let (directory, known): (Arc<Path>, _) = (directory.into(), seen.clone());
        let place = Arc::clone(&directory);
        let writing = move || {
            let file = opened(&place, &journal);
            known.set(&file);
            write(file, &events, &known);
        };
        thread::Builder::new().name("audit".into()).spawn(writing)?;
        Ok(Self { told, directory, seen })
    }

    /// Where the chain is broken, as far as was looked.
    pub fn broken(&self) -> Option<Broken> {
        self.seen.get()?.0.broken
    }

    /// A part of the log, with what is known of the whole chain. Only the part is read.
    ///
    /// # Errors
    /// The file system's.
    pub fn page(&self, part: Part) -> io::Result<AuditPage> {
        let Some((_, key)) = self.seen.get() else {
            return Err(io::Error::other("it is being opened"));
        };
        let page = page::read(&self.directory, part, Some(&key))?;
        if let Some(broken) = &page.broken {
            self.seen.break_at(broken);
        }
        // Now, not before: a line that was written while the page was read counts.
        let (followed, _) = self.seen.get().unwrap_or_else(|| (Followed::default(), key));
        Ok(page::with(page.lines, followed))
    }

    /// Writes an event down, some time soon.
    pub fn note(&self, event: Event) {
        if self.told.send(Told { event, written: None }).is_err() {
            tracing::error!("the audit log's thread is gone: an event is lost");
        }
    }

    /// Writes an event down and waits until it survives a power cut.
    ///
    /// # Errors
    /// The disk is full, or does not answer.
    pub async fn write(&self, event: Event) -> PortResult<()> {
        let failed = |why: String| {
            PortError::new("state directory", format!("the audit log can't be written: {why}"))
                .remedy("check free space and permissions of the state directory")
        };
        let (written, done) = oneshot::channel();
        let gone = || failed("its thread is gone".into());
        self.told.send(Told { event, written: Some(written) }).map_err(|_| gone())?;
        match tokio::time::timeout(PATIENCE, done).await {
            Ok(Ok(written)) => written.map_err(failed),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(failed("the disk does not answer".into())),
        }
    }
}

/// The log, with everything in it that the journal has.
fn opened(directory: &Path, journal: &[Entry]) -> AuditFile {
    loop {
        match try_open(directory, journal) {
            Ok(file) => return file,
            Err(error) => tracing::error!("the audit log can't be opened: {error}"),
        }
        thread::sleep(AGAIN);
    }
}

fn try_open(directory: &Path, journal: &[Entry]) -> io::Result<AuditFile> {
    let mut file = AuditFile::open(directory, Timestamp::now())?;
    if let Some(broken) = file.broken() {
        tracing::error!("the audit log {FILE} is not what was written: {broken}");
    }
    let late: Vec<Event> = journal
        .iter()
        .filter(|entry| !file.entries().contains(&entry.seq))
        .map(Event::from)
        .collect();
    let what = format!("replicator {}", env!("CARGO_PKG_VERSION"));
    let detail = serde_json::json!({ "pid": std::process::id(), "late_entries": late.len() });
    let opened = Event::new(Timestamp::now(), Kind::Opened, what, detail);
    file.append(late.iter().chain([&opened]))?;
    Ok(file)
}

/// Until every [`Audit`] is gone.
fn write(mut file: AuditFile, events: &Receiver<Told>, seen: &Seen) {
    let mut waiting: VecDeque<Event> = VecDeque::new();
    let mut dropped = 0u64;
    loop {
        let first = if waiting.is_empty() {
            events.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            events.recv_timeout(AGAIN)
        };
        let mut asked = Vec::new();
        match first {
            Ok(told) => {
                for told in std::iter::once(told).chain(events.try_iter()) {
                    waiting.push_back(told.event);
                    asked.extend(told.written);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while waiting.len() > WAITING_MAX {
            waiting.pop_front();
            dropped += 1;
        }
        if dropped > 0 {
            let what = format!("{dropped} events are lost: the disk could not be written");
            let lost = Event::new(Timestamp::now(), Kind::Repaired, what, serde_json::Value::Null);
            waiting.push_back(lost);
        }
        let written = file.append(&waiting);
        seen.set(&file);
        match &written {
            Ok(()) => {
                waiting.clear();
                dropped = 0;
            }
            Err(error) => {
                if dropped > 0 {
                    waiting.pop_back();
                }
                tracing::error!(waiting = waiting.len(), "the audit log can't be written: {error}");
            }
        }
        for asked in asked {
            // Whoever asked may have gone.
            let _gone = asked.send(written.as_ref().map(|_| ()).map_err(ToString::to_string));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::{Epoch, Record};
    use crate::side::Direction;

    fn entry(seq: u64) -> Entry {
        Entry {
            seq,
            run: "7f3a".into(),
            epoch: Epoch(3),
            at: Timestamp::UNIX_EPOCH,
            record: Record::Began {
                request: serde_json::json!({ "actor": "ann", "reason": "because" }),
                direction: Direction::Forward,
            },
        }
    }

    #[tokio::test]
    async fn what_the_journal_has_and_the_log_has_not_is_added_once() {
        let directory = tempfile::tempdir().unwrap();
        let journal: Vec<_> = (1..4).map(entry).collect();
        let request = || Event::new(Timestamp::now(), Kind::Request, "POST /v1/cutover", 0.into());
        let audit = Audit::open(directory.path(), journal[..1].to_vec()).unwrap();
        audit.write(request()).await.unwrap();
        audit.write(Event::from(&journal[1])).await.unwrap();
        drop(audit);
        let audit = Audit::open(directory.path(), journal).unwrap();
        audit.write(request()).await.unwrap();
        let text = std::fs::read_to_string(directory.path().join(FILE)).unwrap();
        let page = audit.page(Part::Last { after: 2, lines: 3 }).unwrap();
        assert_eq!((page.lines.len(), page.verified, page.broken), (3, 8, None), "{text}");
        assert_eq!(text.matches("\"kind\":\"began\"").count(), 3, "{text}");
        assert_eq!(text.matches("because").count(), 3, "{text}");
        assert_eq!(audit.broken(), None);

        // Somebody changes it while it is written.
        let changed = text.replace("because", "becauze");
        std::fs::write(directory.path().join(FILE), changed).unwrap();
        let page = audit.page(Part::Last { after: 0, lines: 100 }).unwrap();
        assert!(page.broken.is_some(), "{page:#?}");
        assert_eq!(audit.broken(), page.broken);
        audit.write(request()).await.unwrap();
        assert_eq!(audit.broken(), page.broken, "it is known for good");
    }
}
