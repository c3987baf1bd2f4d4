//! One verification, from its request to its report.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cutover::Side;
use cutover::api::{ApiError, ErrorCode, SCHEMA_VERSION, Severity};
use cutover::verify::{
    Known, Mode, ObjectFinding, Progress, Verdict, VerifyReport, VerifyRequest, VerifyState,
    VerifyStatus, objects,
};
use decoders::QualifiedName;
use decoders::postgres::catalog::{self, TableInfo};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::canonical::Canonical;
use super::chosen::Chosen;
use super::continuous::Continuous;
use super::definitions::{self, Definitions};
use super::flag;
use super::gate::Gate;
use super::known;
use super::large;
use super::plan::TablePlan;
use super::reader::{Reader, Trouble};
use super::resume::Memory;
use super::turning::Turning;
use super::work::{self, Bench, Counts, Pace, Shop};
use crate::controlling::EngineReplication;
use crate::store::{FinishedChunk, Ground, Unfinished};

/// Connections to each server: one finds chunks, the others compare them.
pub(super) const CONNECTIONS: RangeInclusive<u32> = 2..=32;
const CONNECTIONS_DEFAULT: u32 = 3;
/// Percent of the chunks.
const SAMPLE_DEFAULT: f64 = 1.0;
const SETTLE_DEFAULT: Duration = Duration::from_secs(60);

/// What is being done.
#[derive(Clone)]
struct Work {
    shop: Arc<Shop>,
    benches: Vec<Arc<Bench>>,
}

/// A verification.
pub struct Job {
    id: String,
    mode: Mode,
    started: Timestamp,
    /// When it went on, if it was interrupted.
    resumed: Option<Timestamp>,
    began: Instant,
    work: Mutex<Option<Work>>,
    outcome: Mutex<Option<Result<VerifyReport, ApiError>>>,
    /// Whether it goes on once everything was compared.
    continuous: Mutex<Option<Arc<Continuous>>>,
    stop: watch::Sender<bool>,
    ended: watch::Sender<bool>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Job {
    /// Not begun yet; or to go on.
    pub(super) fn new(request: &VerifyRequest, unfinished: Option<Unfinished>) -> Self {
        let new = uuid::Uuid::new_v4().simple().to_string();
        let now = Timestamp::now();
        let resumed = unfinished.is_some().then_some(now);
        let (id, started) =
            unfinished.map_or((new[..8].to_owned(), now), |found| (found.id, found.started));
        Self {
            id,
            mode: request.mode,
            started,
            resumed,
            began: Instant::now(),
            work: Mutex::default(),
            outcome: Mutex::default(),
            continuous: Mutex::default(),
            stop: flag(),
            ended: flag(),
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(super) fn ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// What was compared, table by table, and what with; `None` before it is known.
    pub(super) fn compared(&self) -> Option<(Arc<Shop>, Vec<Arc<Bench>>)> {
        locked(&self.work).clone().map(|Work { shop, benches }| (shop, benches))
    }

    /// As it is now.
    pub fn status(&self) -> VerifyStatus {
        let outcome = locked(&self.outcome).clone();
        let state = match &outcome {
            None => VerifyState::Running,
            Some(Ok(report)) if report.stopped => VerifyState::Stopped,
            Some(Ok(_)) => VerifyState::Done,
            Some(Err(_)) => VerifyState::Failed,
        };
        let (report, error) = match outcome {
            Some(Ok(report)) => (Some(report), None),
            Some(Err(error)) => (None, Some(error)),
            None => (None, None),
        };
        VerifyStatus {
            schema_version: SCHEMA_VERSION,
            id: self.id.clone(),
            mode: self.mode,
            state,
            started: self.started,
            progress: self.progress(),
            report,
            error,
        }
    }

    fn progress(&self) -> Progress {
        let Some(Work { shop, benches }) = locked(&self.work).clone() else {
            return Progress::default();
        };
        let estimated: u64 = benches.iter().map(|bench| bench.plan.rows_estimated).sum();
        let part = shop.sample.map_or(1.0, |(percent, _)| percent / 100.0);
        let seconds = self.began.elapsed().as_secs_f64();
        let tables = benches.len() as u64;
        let progress = shop.counts.progress(tables, estimated, part, seconds);
        Progress { limit: Some(shop.gate.limit()), ..progress }
    }

    /// Runs to its end, which [`Job::ended`] tells.
    pub(super) async fn run(
        self: Arc<Self>,
        stream: EngineReplication,
        request: VerifyRequest,
        chosen: Chosen,
        turning: Arc<Turning>,
    ) {
        let is_resumed = self.resumed.is_some();
        tracing::info!(id = self.id, mode = self.mode.name(), is_resumed, "verification begins");
        let state_dir = stream.route.config.state_dir.clone();
        let source = stream.route.ends.direction.from();
        let compared = tokio::select! {
            compared = self.compare(stream, &request, &chosen, &turning) => compared,
            trouble = turning.ended() => Err(trouble),
        };
        // What was compared may have been another pair of sides: nothing of it is kept.
        let compared = match turning.check() {
            Err(trouble) => Err(trouble),
            Ok(()) => {
                let is_whole = request.is_whole();
                let known = match &compared {
                    Ok(report) if report.stopped && report.differences == 0 => None,
                    Ok(report) => Some(Known::of(report, is_whole)),
                    Err(_) if !is_whole => None,
                    Err(_) => {
                        let id = self.id.clone();
                        Some(Known::broken_off(id, self.mode, source, self.started))
                    }
                };
                let remembered = match known {
                    Some(known) => remember(state_dir, known, turning.ground.clone()).await,
                    None => Ok(()),
                };
                compared.and_then(|report| remembered.map(|()| report))
            }
        };
        self.go_on(compared.as_ref().is_ok_and(|report| report.verdict == Verdict::Equal));
        match &compared {
            Ok(report) => tracing::info!(
                id = self.id,
                verdict = ?report.verdict,
                rows = report.rows,
                differences = report.differences,
                "verification ends"
            ),
            // The words of a server may quote a value: they are in the answer only.
            Err(trouble) => {
                tracing::error!(id = self.id, place = trouble.place, "verification failed");
            }
        }
        let outcome = compared.map_err(|trouble| {
            ApiError::new(ErrorCode::Unavailable, trouble.what, trouble.place)
                .in_state("nothing was changed; the stream goes on")
                .next("cutover verify")
        });
        *locked(&self.outcome) = Some(outcome);
        self.ended.send_replace(true);
    }

    /// What goes on, or was to.
    pub(super) fn continuous(&self) -> Option<Arc<Continuous>> {
        locked(&self.continuous).clone()
    }

    /// Only what was equal once can stay so.
    fn go_on(&self, is_equal: bool) {
        let Some(continuous) = self.continuous() else { return };
        match self.compared().filter(|_| is_equal) {
            Some((shop, benches)) => {
                tokio::spawn(continuous.go_on(shop, benches));
            }
            None => continuous.stop(),
        }
    }

    async fn compare(
        &self,
        stream: EngineReplication,
        request: &VerifyRequest,
        chosen: &Chosen,
        turning: &Arc<Turning>,
    ) -> Result<VerifyReport, Trouble> {
        let (ends, config) = (stream.route.ends.clone(), stream.route.config.clone());
        let (from, to) = (ends.direction.from(), ends.direction.to());
        let door = stream.route.door.clone();
        let (source, target) = tokio::try_join!(
            Reader::open(&ends.source, from, &door),
            Reader::open(&ends.target, to, &door),
        )?;
        let wanted = |name: &QualifiedName| chosen.takes(name);
        let here = tables(&source, &config.tables).await?;
        let there = tables(&target, &config.tables).await?;
        let canonical = Canonical::of(&source, &target).await?;
        let question = (self.id.as_str(), self.started, from);
        let is_resumed = self.resumed.is_some();
        let ground = &turning.ground;
        let opened = Memory::open(&stream.store, is_resumed, question, ground, request).await;
        let (memory, before) = opened?;
        let mut benches = Vec::new();
        for table in here.iter().filter(|table| table.is_decoded() && wanted(&table.name)) {
            // A table that the target lacks is among the objects, or an error if those are not
            // asked for.
            let other = there.iter().find(|other| other.name == table.name);
            let lacking = TableInfo { columns: Vec::new(), ..table.clone() };
            let plan = TablePlan::new(table, other.unwrap_or(&lacking), &canonical, request);
            let plan = plan.restricted_to(chosen.predicate(&table.name)?);
            let (name, fingerprint) = (plan.name.to_string(), plan.fingerprint());
            let of_it = |done: &&FinishedChunk| done.table == name && done.plan == fingerprint;
            let done = before.iter().filter(of_it).cloned().collect();
            let bench = Bench::new(plan, done);
            if other.is_none() {
                bench.report.lock().await.error = Some(format!("{to} does not have it"));
            }
            benches.push(Arc::new(bench));
        }
        if benches.is_empty() {
            return Err(Trouble::new(from, "no replicated table has such a name"));
        }
        let plans: Vec<&TablePlan> = benches.iter().map(|bench| &bench.plan).collect();
        chosen.check(&plans, [&source, &target]).await?;
        // The largest first, so that they do not end last.
        benches.sort_by_key(|bench| std::cmp::Reverse(bench.plan.bytes));
        let mut objects = match request.rows_only {
            true => Vec::new(),
            false => {
                let both = [
                    definitions::read(&source, &here, wanted, &config.tables).await?,
                    definitions::read(&target, &there, wanted, &config.tables).await?,
                ];
                let majors = [&source, &target].map(|r| r.session().server_version() / 10_000);
                let mut found = compare_objects(&both, [from, to], majors[0] == majors[1]);
                let unlogged =
                    here.iter().filter(|table| table.holds_rows() && !table.is_decoded());
                found.extend(unlogged.filter(|table| wanted(&table.name)).map(|table| {
                    let what = format!("its rows are not compared: {from} does not log them");
                    noted("table", table.name.to_string(), what)
                }));
                found
            }
        };
        let seed = u64::from_str_radix(&self.id, 16).unwrap_or_default();
        let percent = request.sample_percent.unwrap_or(SAMPLE_DEFAULT);
        let shop = Arc::new(Shop {
            mode: self.mode,
            settle: request.settle_ms.map_or(SETTLE_DEFAULT, Duration::from_millis),
            source: (ends.source, from),
            target: (ends.target, to),
            door,
            stream,
            sample: (self.mode == Mode::Sample).then_some((percent, seed)),
            pace: Pace::new(request.rows_per_second),
            memory,
            gate: Gate::new(!request.unlimited),
            counts: Counts::default(),
        });
        if request.continuous {
            let begun = Continuous::begin(&self.id, request, Arc::clone(turning), &shop, &benches);
            *locked(&self.continuous) = Some(Arc::new(begun));
            // What was given to the lanes before is not noted: it has to be there before the first look.
            shop.await_head().await?;
        }
        *locked(&self.work) = Some(Work { shop: Arc::clone(&shop), benches: benches.clone() });
        drop((source, target));
        let workers = request.connections.unwrap_or(CONNECTIONS_DEFAULT) - 1;
        let mut stop = self.stop.subscribe();
        let stopped = tokio::select! {
            done = async {
                work::all(Arc::clone(&shop), benches.clone(), workers).await?;
                if request.is_whole() {
                    let accepted = config.check.accept.contains("large-objects");
                    let pair = shop.open().await?;
                    let sides = [&pair.source, &pair.target];
                    let found = large::compare(&shop.gate, sides, accepted).await?;
                    objects.extend(found);
                }
                Ok::<_, Trouble>(())
            } => done.map(|()| false)?,
            _ = stop.wait_for(|stop| *stop) => true,
            () = shop.govern(), if !request.unlimited => unreachable!("governs for ever"),
        };
        let mut reports = Vec::new();
        for bench in benches {
            reports.push(bench.report.lock().await.clone());
        }
        // What could not be compared to its end goes on with what was; differences that somebody
        // may put right until then are looked for again.
        let goes_on = reports.iter().any(|report| report.error.is_some())
            && reports.iter().all(|report| report.differing() == 0);
        if !stopped && !goes_on {
            shop.memory.forget().await;
        }
        reports.sort_by(|a, b| a.table.cmp(&b.table));
        let (id, started) = (self.id.clone(), self.started);
        let sides = [from, to];
        let report = VerifyReport::judged(id, self.mode, sides, started, reports, objects, stopped);
        Ok(report.resumed_at(self.resumed))
    }
}

/// A look at one table takes nothing back that a look at all of them has found.
async fn remember(state_dir: PathBuf, known: Known, ground: Ground) -> Result<(), Trouble> {
    let saved = tokio::task::spawn_blocking(move || {
        // One that can't be read is replaced: it would only stand in the way.
        let before = known::load(&state_dir, Some(&ground)).unwrap_or_default();
        if !known.replaces(before.as_ref()) {
            return Ok(());
        }
        known::save(&state_dir, &known, &ground)
    });
    let failed = |why: String| Trouble::new("state directory", format!("verify.json: {why}"));
    saved.await.map_err(|error| failed(error.to_string()))?.map_err(|e| failed(e.to_string()))
}

async fn tables(reader: &Reader, filter: &catalog::TableFilter) -> Result<Vec<TableInfo>, Trouble> {
    let tables = catalog::tables(reader.session(), filter).await;
    tables.map_err(|error| Trouble::new(reader.side, error.to_string()))
}

fn compare_objects(
    [source, target]: &[Definitions; 2],
    sides: [Side; 2],
    same_major: bool,
) -> Vec<ObjectFinding> {
    let mut found = objects::compare([&source.objects, &target.objects], sides, same_major);
    for (info, here) in &source.sequences {
        let there = target.sequences.iter().find(|(other, _)| other.name == info.name);
        let values = here.as_ref().zip(there.and_then(|(_, value)| value.as_ref()));
        let name = info.name.to_string();
        found.extend(match values {
            Some((here, there)) => {
                let both = [here, there].map(|value| (value.last_value, value.is_called));
                objects::compare_sequence(&name, info.increment, both, sides)
            }
            // One that is not there at all is among the differences.
            None => there.map(|_| {
                let what = "its value is not compared: our role may not read it on both sides";
                noted("sequence", name, what.into())
            }),
        });
    }
    found
}

fn noted(kind: &str, object: String, what: String) -> ObjectFinding {
    ObjectFinding { severity: Severity::Warn, kind: kind.into(), object, what }
}
