//! Online verification: is the target the source's exact copy, now, while clients write?
//!
//! | module | what it does |
//! |---|---|
//! | [`mod@job`] | one verification from its request to its end |
//! | `comparing` | what there is on both sides, compared |
//! | `plan`, `canonical` | what is read of a table: chunks, keys, text that every server prints alike |
//! | `chosen` | tables and rows that an operator has chosen |
//! | `row_hash` | a row as a number that every server computes alike |
//! | `work` | chunks dealt to workers; limits, retries |
//! | `compare` | a chunk: sums, then rows |
//! | `copied` | a chunk's rows, compared as bytes |
//! | `settle` | a row that looks different: is it? (rules: [`cutover::verify::suspect`]) |
//! | `gate`, `governor`, `stride`, `clients` | how much is read while clients of the source work |
//! | `resume` | what was done before a restart |
//! | `known` | what the last one came to, for as long as it stands on the same copy and roles |
//! | `turning` | when a run ends the verification |
//! | `unproven` | tables that a change of the catalog has left unproven |
//! | `definitions`, `large` | everything that is no row |
//! | [`carry`] | what no dump has in it, taken over at the copy |
//! | [`precheck`] | definitions, settings, rights and logins, before every run |
//! | `continuous`, `rechecking` | rows that were written since, looked at again |
//! | [`repair`] | rows made equal again, and why that loses nothing |
//! | [`mysql`] | the same question about MySQL and MariaDB |
//!
//! Hashes and sums are computed by the servers. A verification writes nothing on either side. Of
//! PostgreSQL it holds no lock and keeps no snapshot longer than a chunk takes; a table without a key is
//! one chunk. What it asks of MySQL and MariaDB is in [`mysql`].

mod canonical;
pub mod carry;
mod chosen;
mod clients;
mod compare;
mod comparing;
mod continuous;
mod copied;
mod definitions;
mod gate;
mod governor;
pub mod job;
mod known;
mod large;
pub mod mysql;
mod plan;
pub mod precheck;
mod printed;
mod reader;
mod rechecking;
pub mod repair;
mod resume;
mod row_hash;
mod settle;
mod stride;
mod turning;
mod unproven;

mod work;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cutover::Direction;
use cutover::api::{ApiError, Check, ErrorCode, PipelinePhase, StartCutover};
use cutover::ports::{PortError, PortResult};
use cutover::verify::continuous::ContinuousStatus;
use cutover::verify::{
    Known, Mode, Requirement, Verdict, VerifyRequest, VerifyState, VerifyStatus,
};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::alerts::{Proof, VerifyReadings};
use crate::controlling::EngineReplication;
use crate::status::Shared;
use crate::store::{Ground, Store, StoreError};
use chosen::Chosen;
use comparing::{CONNECTIONS, PostgresComparison};
use continuous::Continuous;
use job::Job;
pub(crate) use known::{end_proof, forget};
use mysql::BinlogPair;
pub use reader::Trouble;
use repair::RepairJob;
pub use turning::Runs;

/// Where errors of requests happen.
const PLACE: &str = "verification";

/// A stream whose target is to be its source's copy while it carries.
#[derive(Clone)]
enum Stream {
    /// Between two PostgreSQL databases.
    Postgres(EngineReplication),
    /// Between two servers of MySQL or MariaDB.
    Binlog(Arc<BinlogPair>),
}

impl Stream {
    fn shared(&self) -> &Arc<Shared> {
        match self {
            Stream::Postgres(stream) => &stream.shared,
            Stream::Binlog(pair) => &pair.stream.shared,
        }
    }

    fn store(&self) -> &Store {
        match self {
            Stream::Postgres(stream) => &stream.store,
            Stream::Binlog(pair) => &pair.store,
        }
    }
}

/// Runs one verification or repair at a time and remembers the last ones. Cheap to clone.
#[derive(Clone)]
pub struct Verifier {
    /// Forward and back.
    streams: [Stream; 2],
    state_dir: PathBuf,
    last: Arc<Mutex<Option<Arc<Job>>>>,
    repairs: Arc<Mutex<Option<Arc<RepairJob>>>>,
    /// The verification that goes on, or was the last that did.
    continuous: Arc<Mutex<Option<Arc<Job>>>>,
    runs: Runs,
}

impl Verifier {
    /// Of both directions; the one that carries is verified. `runs` gives the last run.
    pub fn new(forward: EngineReplication, back: EngineReplication, runs: Runs) -> Self {
        let state_dir = forward.route.config.state_dir.clone();
        Self::of([forward, back].map(Stream::Postgres), state_dir, runs)
    }

    /// The same of two servers of MySQL or MariaDB.
    pub fn of_binlog(pairs: [BinlogPair; 2], state_dir: PathBuf, runs: Runs) -> Self {
        Self::of(pairs.map(|pair| Stream::Binlog(Arc::new(pair))), state_dir, runs)
    }

    fn of(streams: [Stream; 2], state_dir: PathBuf, runs: Runs) -> Self {
        Self {
            streams,
            state_dir,
            last: Arc::default(),
            repairs: Arc::default(),
            continuous: Arc::default(),
            runs,
        }
    }

    fn last(&self) -> MutexGuard<'_, Option<Arc<Job>>> {
        self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Begins a verification.
    ///
    /// # Errors
    /// One is under way; the request makes no sense; nothing streams.
    pub fn start(&self, request: VerifyRequest) -> Result<VerifyStatus, ApiError> {
        let chosen = checked(&request)?;
        let stream = self.carrying()?;
        self.refuse_while_repairing()?;
        let mut last = self.last();
        if let Some(job) = last.as_ref().filter(|job| job.status().state == VerifyState::Running) {
            let what = format!("verification {} is under way", job.id());
            return Err(ApiError::new(ErrorCode::Busy, what, PLACE)
                .next("cutover verify --attach, or cutover verify --stop"));
        }
        let (store, source) = (stream.store(), stream.shared().direction.from());
        let unreadable = |error: StoreError| {
            ApiError::new(ErrorCode::Unavailable, error.to_string(), "state directory")
                .next("cutover verify --fresh")
        };
        let ground = store.ground().map_err(unreadable)?.ok_or_else(nothing_streams)?;
        let unfinished =
            resume::unfinished(store, source, &ground, &request).map_err(unreadable)?;
        let job = Arc::new(Job::new(&request, unfinished));
        *last = Some(Arc::clone(&job));
        if request.continuous {
            // What the one before knew is not asked for any more.
            self.end_continuous();
            *self.kept() = Some(Arc::clone(&job));
        }
        let status = job.status();
        let (shared, store) = (Arc::clone(stream.shared()), stream.store().clone());
        let turning = turning::Turning::new(shared, store, ground, Arc::clone(&self.runs));
        let (turning, state_dir) = (Arc::new(turning), self.state_dir.clone());
        match stream {
            Stream::Postgres(stream) => {
                let comparison = PostgresComparison { stream, chosen };
                tokio::spawn(job.run(comparison, request, turning, state_dir))
            }
            Stream::Binlog(pair) => tokio::spawn(job.run(pair, request, turning, state_dir)),
        };
        Ok(status)
    }

    /// The verification now, or when it has ended if that is within `wait`.
    ///
    /// # Errors
    /// There is no such verification.
    pub async fn status(&self, id: &str, wait: Duration) -> Result<VerifyStatus, ApiError> {
        let job = self.job(id)?;
        let mut ended = job.ended();
        // Time that is up is no error; a job that is gone has ended.
        let _ = tokio::time::timeout(wait, ended.wait_for(|ended| *ended)).await;
        Ok(job.status())
    }

    /// Stops it and waits for its end.
    ///
    /// # Errors
    /// There is no such verification.
    pub async fn stop(&self, id: &str) -> Result<VerifyStatus, ApiError> {
        let kept = self.kept().clone().filter(|kept| id == "last" || kept.id() == id);
        let job = match (self.job(id), kept) {
            (Err(_), Some(kept)) => {
                self.end_continuous();
                return Ok(kept.status());
            }
            (job, kept) => {
                if kept.is_some() {
                    self.end_continuous();
                }
                job?
            }
        };
        job.stop();
        self.status(id, Duration::from_secs(10)).await
    }

    /// Whether a cutover may begin, as far as verifications go. Drills may.
    ///
    /// # Errors
    /// It may not, or what is known can't be read.
    pub fn admit(&self, request: &StartCutover) -> Result<(), ApiError> {
        let requirement = Requirement::new(request.require_verified_ms, request.accept_differences);
        if request.drill {
            return Ok(());
        }
        let from = Direction::Forward.from();
        match requirement.refusal(self.known()?.as_ref(), from, Timestamp::now()) {
            None => Ok(()),
            Some(what) => Err(ApiError::new(ErrorCode::PrecheckFailed, what, PLACE)
                .in_state("unchanged; blue serves")
                .next("cutover verify; to go all the same: --accept-differences")),
        }
    }

    /// What a run in this direction goes by, while it waits for its moment; `None`: what leads back
    /// asks nothing of verifications.
    ///
    /// # Errors
    /// What is known can't be read.
    pub fn judge(
        &self,
        direction: Direction,
        requirement: Requirement,
    ) -> PortResult<Option<Check>> {
        match direction {
            Direction::Forward => {
                let check = self.check(requirement).map(Some);
                check.map_err(|error| PortError::new(error.place, error.what))
            }
            Direction::Back => Ok(None),
        }
    }

    /// The same as a check of a plan.
    ///
    /// # Errors
    /// What is known can't be read.
    pub fn check(&self, requirement: Requirement) -> Result<Check, ApiError> {
        let from = Direction::Forward.from();
        let mut check = requirement.check(self.known()?.as_ref(), from, Timestamp::now());
        if let Some(status) = self.continuous() {
            check.evidence = format!("{}; continuous: {}", check.evidence, status.sentence());
        }
        Ok(check)
    }

    fn kept(&self) -> MutexGuard<'_, Option<Arc<Job>>> {
        self.continuous.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn end_continuous(&self) {
        if let Some(continuous) = self.kept().take().and_then(|job| job.continuous()) {
            continuous.stop();
        }
    }

    fn going_on(&self) -> Option<Arc<Continuous>> {
        let continuous = self.kept().as_ref().and_then(|job| job.continuous());
        continuous.filter(|continuous| continuous.goes_on())
    }

    /// The verification that goes on; `None` if none does.
    pub fn continuous(&self) -> Option<ContinuousStatus> {
        self.going_on().map(|continuous| continuous.status())
    }

    /// What is known of both sides being equal, for alerts and metrics.
    pub fn readings(&self) -> VerifyReadings {
        let going_on = self.continuous();
        // What can't be read proves nothing; whoever asks for a proof is told why.
        let known = self.known().ok().flatten();
        let is_different = known.as_ref().is_some_and(|known| known.verdict == Verdict::Different);
        let proven = known.as_ref().filter(|known| known.verdict == Verdict::Equal);
        let found = known.as_ref().filter(|_| is_different).map_or(0, |known| known.differences);
        let continuous = going_on.as_ref().map_or(0, |going_on| going_on.differences);
        let differences = found.max(continuous);
        let is_lost = going_on.is_some_and(|going_on| going_on.void.is_some());
        let age = |known: &Known| Timestamp::now().duration_since(known.started).as_secs_f64();
        VerifyReadings {
            standing: match (differences, is_lost, proven) {
                (1.., ..) => Proof::Different,
                (0, true, _) => Proof::Lost,
                (0, false, Some(_)) => Proof::Proven,
                (0, false, None) if is_different => Proof::Different,
                (0, false, None) => Proof::Missing,
            },
            differences,
            proof_age_seconds: proven.map(age),
        }
    }

    /// One that goes on is as young as its oldest row without a proof; where it can't say, the last
    /// that was remembered counts. Differences count in any case: they were found in rows that need
    /// not have been written since.
    fn known(&self) -> Result<Option<Known>, ApiError> {
        let unreadable = |error: std::io::Error| {
            let what = format!("what the last verification came to can't be read: {error}");
            ApiError::new(ErrorCode::Unavailable, what, "state directory").next("cutover verify")
        };
        let ground = ground(self.streams[0].store()).map_err(unreadable)?;
        let remembered = known::load(&self.state_dir, ground.as_ref()).map_err(unreadable)?;
        if remembered.as_ref().is_some_and(|known| known.verdict == Verdict::Different) {
            return Ok(remembered);
        }
        let going_on = self.going_on();
        if let (Some(known), Some(continuous)) = (&remembered, &going_on)
            && known.source == continuous.source()
            && known.proves()
        {
            continuous.put_right(known.started);
        }
        let going_on = going_on.and_then(|continuous| continuous.known());
        Ok(going_on.filter(Known::counts).or(remembered))
    }

    fn job(&self, id: &str) -> Result<Arc<Job>, ApiError> {
        let last = self.last().clone();
        last.filter(|job| id == "last" || job.id() == id).ok_or_else(|| {
            let what = "there is no such verification since the sidecar was started";
            ApiError::new(ErrorCode::NotFound, what, PLACE).next("cutover verify")
        })
    }

    /// The stream whose target is to be its source's copy.
    fn carrying(&self) -> Result<Stream, ApiError> {
        let phases = [PipelinePhase::Streaming, PipelinePhase::CatchingUp];
        let carries = |stream: &&Stream| {
            *stream.shared().carries.borrow() && phases.contains(&stream.shared().phase())
        };
        self.streams.iter().find(carries).cloned().ok_or_else(|| {
            let phase = self.streams[0].shared().phase().name();
            let what = format!("nothing streams from one side to the other ({phase})");
            ApiError::new(ErrorCode::Unavailable, what, PLACE)
                .next("cutover wait --for-state streaming, then again")
        })
    }
}

/// What a verification in the store's direction stands on now.
fn ground(store: &Store) -> std::io::Result<Option<Ground>> {
    store.ground().map_err(std::io::Error::other)
}

fn nothing_streams() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "there is no copy that a stream keeps up", PLACE)
        .next("cutover wait --for-state streaming, then again")
}

/// The request's tables and rows, if it makes sense.
fn checked(request: &VerifyRequest) -> Result<Chosen, ApiError> {
    let refuse = |what: String| Err(ApiError::new(ErrorCode::BadRequest, what, PLACE));
    if let Some(percent) = request.sample_percent
        && !(percent > 0.0 && percent <= 100.0)
    {
        return refuse("a sample takes more than 0 and at most 100 percent".into());
    }
    if request.connections.is_some_and(|count| !CONNECTIONS.contains(&count)) {
        let (least, most) = (CONNECTIONS.start(), CONNECTIONS.end());
        return refuse(format!("{least} to {most} connections"));
    }
    if request.rows_per_second == Some(0) || request.chunk_rows == Some(0) {
        return refuse("rows a second and rows of a chunk have to be more than 0".into());
    }
    if request.continuous && !matches!(request.mode, Mode::Full | Mode::Checksum) {
        return refuse("what goes on has to begin with every row: mode full or checksum".into());
    }
    if request.continuous && !request.predicates.is_empty() {
        return refuse("what goes on looks at whole tables: no conditions on rows".into());
    }
    match Chosen::of(request) {
        Ok(chosen) => Ok(chosen),
        Err(what) => refuse(what),
    }
}

/// A flag that others wait for.
fn flag() -> watch::Sender<bool> {
    watch::Sender::new(false)
}
