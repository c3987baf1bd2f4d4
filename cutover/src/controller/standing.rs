//! What the journal says about the pipeline as a whole: a fold over its entries, without asking
//! the world.

use jiff::Timestamp;

use crate::api::{Breach, Outcome};
use crate::phase::Phase;
use crate::ports::{Entry, Epoch, PortError, PortResult, Record};
use crate::side::{Direction, Side};

/// Who serves, what is closed, and what is unfinished.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// The side that serves, or served before the unfinished run; one that is only watching any
    /// more counts as done.
    pub serving: Side,
    /// The side that is closed for good, if one is.
    pub sealed: Option<Closed>,
    /// The run that has not ended, or that is held.
    pub unfinished: Option<Unfinished>,
    /// Whether the last flip left a stream back that carries.
    pub way_back: bool,
    /// What ended the newest cutover's time of watching, if a monitor did.
    pub breach: Option<Breached>,
    /// How far `finish` has come.
    pub finish: Finish,
    /// The highest epoch.
    pub epoch: Epoch,
    /// Number of the next entry.
    pub next_seq: u64,
}

/// A side that is closed for good.
#[derive(Debug, Clone, PartialEq)]
pub struct Closed {
    /// Which one.
    pub side: Side,
    /// Its settings as they were before: what opens it again. `Null` in journals without it.
    pub undo: serde_json::Value,
}

/// A run that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Its id.
    pub run: String,
    /// Its epoch.
    pub epoch: Epoch,
    /// From which side to which.
    pub direction: Direction,
    /// How far it has come, proven.
    pub reached: Phase,
}

/// A breach that a rollback follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breached {
    /// The cutover whose time of watching it ended.
    pub run: String,
    /// When, by the sidecar's wall clock.
    pub at: Timestamp,
    /// What was found.
    pub what: String,
    /// Whether a rollback was begun since, whatever became of it. There is no second one.
    pub answered: bool,
    /// Whether the clients are back.
    pub rolled_back: bool,
}

/// How far `finish` has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Nobody has asked for it.
    NotAsked,
    /// It was begun: there is no way back any more, and it has to be ended.
    UnderWay,
    /// It is done.
    Done,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            serving: Side::Blue,
            sealed: None,
            unfinished: None,
            way_back: false,
            breach: None,
            finish: Finish::NotAsked,
            epoch: Epoch(0),
            next_seq: 1,
        }
    }
}

/// What is known of the run that the fold is in.
struct Open {
    run: Unfinished,
    undo: serde_json::Value,
    way_back: bool,
}

impl Standing {
    /// The fold. An error means that no order of events can have written such a journal.
    pub fn read(entries: &[Entry]) -> PortResult<Self> {
        let mut standing = Self::default();
        let mut open: Option<Open> = None;
        for entry in entries {
            standing.next_seq = standing.next_seq.max(entry.seq + 1);
            standing.epoch = standing.epoch.max(entry.epoch);
            if let Record::Finishing { step, .. } = &entry.record {
                standing.finish = if step == crate::controller::finish::LAST {
                    Finish::Done
                } else {
                    Finish::UnderWay
                };
                continue;
            }
            let known = open.take_if(|open| open.run.epoch == entry.epoch);
            let mut run = match (known, &entry.record) {
                (Some(run), _) => run,
                (None, Record::Began { request, direction }) => {
                    standing.flip_if_watching(open.take().as_ref());
                    let way_back = request.get("way_back").and_then(serde_json::Value::as_bool);
                    let begun = standing.begin(entry, *direction, way_back == Some(true))?;
                    let is_drill = request.get("drill").and_then(serde_json::Value::as_bool);
                    match direction {
                        _ if is_drill == Some(true) => {}
                        Direction::Forward => standing.breach = None,
                        Direction::Back => {
                            standing.breach.iter_mut().for_each(|breach| breach.answered = true);
                        }
                    }
                    begun
                }
                // A held run that was resolved later reports twice; an entry whose append was in
                // doubt may come after the end.
                (None, _) => continue,
            };
            match &entry.record {
                Record::Reached { phase, detail, .. } => {
                    if *phase != Phase::Aborting {
                        run.run.reached = *phase;
                    }
                    if let Some(undo) = detail.get("undo") {
                        run.undo = undo.clone();
                    }
                    open = Some(run);
                }
                Record::Ended { report } => match report.outcome {
                    Outcome::Completed | Outcome::RolledBack => {
                        let way_back = run.way_back && report.way_back != Some(false);
                        standing.flip(&run, way_back);
                        if let Some(Breach { at, what }) = report.breach.clone() {
                            let run = entry.run.clone();
                            standing.breach = Some(Breached {
                                run,
                                at,
                                what,
                                answered: false,
                                rolled_back: false,
                            });
                        } else if let Some(breach) = &mut standing.breach {
                            breach.rolled_back = report.outcome == Outcome::RolledBack;
                        }
                    }
                    Outcome::Held => open = Some(run),
                    Outcome::PrecheckFailed
                    | Outcome::GateTimeout
                    | Outcome::Aborted
                    | Outcome::Drilled => {}
                },
                Record::Began { .. } | Record::Stopped { .. } | Record::Finishing { .. } => {
                    open = Some(run);
                }
            }
        }
        standing.flip_if_watching(open.as_ref());
        standing.unfinished = open.map(|open| open.run);
        Ok(standing)
    }

    /// A run that only watches has done everything else: its streams are turned, and its way back was
    /// seen to carry.
    fn flip_if_watching(&mut self, open: Option<&Open>) {
        if let Some(run) = open.filter(|open| open.run.reached == Phase::Watching) {
            self.flip(run, run.way_back);
        }
    }

    fn begin(&self, entry: &Entry, direction: Direction, way_back: bool) -> PortResult<Open> {
        if direction.from() != self.serving {
            return Err(PortError::new(
                "journal",
                format!(
                    "run {} (epoch {}) left {}, but {} served then",
                    entry.run,
                    entry.epoch,
                    direction.from(),
                    self.serving
                ),
            )
            .remedy("this journal is damaged or of several pipelines: do not go on with it"));
        }
        let run = Unfinished {
            run: entry.run.clone(),
            epoch: entry.epoch,
            direction,
            reached: Phase::Replicating,
        };
        Ok(Open { run, undo: serde_json::Value::Null, way_back })
    }

    fn flip(&mut self, run: &Open, way_back: bool) {
        let direction = run.run.direction;
        self.serving = direction.to();
        self.sealed = Some(Closed { side: direction.from(), undo: run.undo.clone() });
        self.way_back = way_back;
    }

    /// What opens `side` again, if it is closed.
    pub fn undo_of(&self, side: Side) -> Option<&serde_json::Value> {
        self.sealed
            .as_ref()
            .filter(|closed| closed.side == side && !closed.undo.is_null())
            .map(|closed| &closed.undo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Checks, RunReport, SCHEMA_VERSION};

    /// A journal that grows by whole runs.
    #[derive(Default)]
    struct Paper(Vec<Entry>);

    impl Paper {
        fn add(&mut self, epoch: u64, record: Record) {
            let seq = self.0.len() as u64 + 1;
            let (run, epoch, at) = (format!("run{epoch}"), Epoch(epoch), Timestamp::UNIX_EPOCH);
            self.0.push(Entry { seq, run, epoch, at, record });
        }

        fn begin(&mut self, epoch: u64, direction: Direction) {
            let request = serde_json::json!({ "way_back": true });
            self.add(epoch, Record::Began { request, direction });
            self.reach(epoch, Phase::Gate, serde_json::json!({ "undo": epoch }));
        }

        fn reach(&mut self, epoch: u64, phase: Phase, detail: serde_json::Value) {
            self.add(epoch, Record::Reached { phase, seen: String::new(), next: None, detail });
        }

        fn end(&mut self, epoch: u64, direction: Direction, outcome: Outcome) {
            let report = RunReport {
                schema_version: SCHEMA_VERSION,
                run: format!("run{epoch}"),
                epoch,
                direction,
                outcome,
                actor: None,
                reason: None,
                started: Timestamp::UNIX_EPOCH,
                ended: Timestamp::UNIX_EPOCH,
                pause_ms: None,
                marker: None,
                fence_proof: None,
                steps: Vec::new(),
                checks: Checks::default(),
                findings: Vec::new(),
                drill: None,
                routers: Vec::new(),
                way_back: None,
                breach: None,
                serving: String::new(),
                error: None,
                notes: Vec::new(),
            };
            self.add(epoch, Record::Ended { report: Box::new(report) });
        }

        fn read(&self) -> Standing {
            Standing::read(&self.0).unwrap()
        }
    }

    #[test]
    fn forth_and_back_and_forth() {
        let mut paper = Paper::default();
        assert_eq!(paper.read(), Standing::default());

        paper.begin(1, Direction::Forward);
        let standing = paper.read();
        assert_eq!((standing.serving, standing.sealed), (Side::Blue, None));
        assert_eq!(standing.unfinished.unwrap().reached, Phase::Gate);
        paper.end(1, Direction::Forward, Outcome::Aborted);
        assert_eq!((paper.read().serving, paper.read().unfinished), (Side::Blue, None));

        paper.begin(2, Direction::Forward);
        paper.end(2, Direction::Forward, Outcome::Completed);
        let standing = paper.read();
        assert_eq!((standing.serving, standing.way_back), (Side::Green, true));
        assert_eq!(standing.undo_of(Side::Blue), Some(&serde_json::json!(2)));
        assert_eq!(standing.undo_of(Side::Green), None);

        paper.begin(3, Direction::Back);
        paper.end(3, Direction::Back, Outcome::RolledBack);
        let standing = paper.read();
        assert_eq!((standing.serving, standing.epoch), (Side::Blue, Epoch(3)));
        assert_eq!(standing.undo_of(Side::Green), Some(&serde_json::json!(3)));

        paper.begin(4, Direction::Forward);
        paper.end(4, Direction::Forward, Outcome::Held);
        assert_eq!(paper.read().unfinished.unwrap().epoch, Epoch(4), "a held run is not over");
        paper.end(4, Direction::Forward, Outcome::Completed);
        assert_eq!(paper.read().serving, Side::Green);

        paper.add(4, Record::Finishing { step: "end back".into(), actor: None });
        assert_eq!(paper.read().finish, Finish::UnderWay);
        paper.add(4, Record::Finishing { step: super::super::finish::LAST.into(), actor: None });
        assert_eq!((paper.read().finish, paper.read().next_seq), (Finish::Done, 16));
    }

    #[test]
    fn a_breach_is_answered_once_and_forgotten_by_the_next_cutover() {
        let mut paper = Paper::default();
        paper.begin(1, Direction::Forward);
        paper.end(1, Direction::Forward, Outcome::Completed);
        let Some(Entry { record: Record::Ended { report }, .. }) = paper.0.last_mut() else {
            panic!("the run has ended");
        };
        report.breach = Some(Breach { at: Timestamp::UNIX_EPOCH, what: "503".into() });
        let due = Breached {
            run: "run1".into(),
            at: Timestamp::UNIX_EPOCH,
            what: "503".into(),
            answered: false,
            rolled_back: false,
        };
        assert_eq!(paper.read().breach, Some(due.clone()));

        paper.begin(2, Direction::Back);
        let answered = Breached { answered: true, ..due };
        assert_eq!(paper.read().breach, Some(answered.clone()));
        paper.end(2, Direction::Back, Outcome::GateTimeout);
        assert_eq!(paper.read().breach, Some(answered.clone()), "there is no second one");
        paper.begin(3, Direction::Back);
        paper.end(3, Direction::Back, Outcome::RolledBack);
        assert_eq!(paper.read().breach, Some(Breached { rolled_back: true, ..answered }));
        paper.begin(4, Direction::Forward);
        assert_eq!(paper.read().breach, None);
    }

    #[test]
    fn a_run_that_only_watches_has_changed_who_serves() {
        let mut paper = Paper::default();
        paper.begin(1, Direction::Forward);
        paper.reach(1, Phase::Reversing, serde_json::Value::Null);
        assert_eq!(paper.read().serving, Side::Blue);
        paper.reach(1, Phase::Watching, serde_json::Value::Null);
        let standing = paper.read();
        assert_eq!((standing.serving, standing.way_back), (Side::Green, true));
        assert_eq!(standing.undo_of(Side::Blue), Some(&serde_json::json!(1)));
        assert_eq!(standing.unfinished.unwrap().reached, Phase::Watching);
        // Its end could not be written down: the next run tells.
        paper.begin(2, Direction::Back);
        let standing = paper.read();
        assert_eq!((standing.serving, standing.unfinished.unwrap().epoch), (Side::Green, Epoch(2)));
    }

    #[test]
    fn a_run_from_a_side_that_does_not_serve_is_no_history() {
        let mut paper = Paper::default();
        paper.begin(1, Direction::Back);
        assert!(Standing::read(&paper.0).is_err());
    }
}
