//! Online verification: is the target the source's exact copy, now, while clients write?
//!
//! | module | what it does |
//! |---|---|
//! | [`mod@job`] | one verification from its request to its report |
//! | `plan`, `canonical` | what is read of a table: chunks, keys, text that every server prints alike |
//! | `chosen` | tables and rows that an operator has chosen |
//! | `row_hash` | a row as a number that every server computes alike |
//! | `work` | chunks dealt to workers; limits, retries |
//! | `compare` | a chunk: sums, then rows |
//! | `settle` | a row that looks different: is it? (rules: [`cutover::verify::suspect`]) |
//! | `gate`, `governor` | how much is read while clients of the source work |
//! | `resume` | what was done before a restart |
//! | `known` | what the last one came to, for as long as it stands on the same copy and roles |
//! | `turning` | when a run ends the verification |
//! | `definitions` | everything that is no row |
//!
//! Hashes and sums are computed by the servers. Nothing is written on either side, no lock is held
//! and no snapshot is kept longer than a chunk takes; a table without a key is one chunk.

mod canonical;
mod chosen;
mod compare;
mod definitions;
mod gate;
mod governor;
pub mod job;
mod known;
mod plan;
mod reader;
mod resume;
mod row_hash;
mod settle;
mod turning;
mod work;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cutover::Direction;
use cutover::api::{ApiError, ErrorCode, PipelinePhase, StartCutover};
use cutover::verify::{self, Known, VerifyRequest, VerifyState, VerifyStatus};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::controlling::EngineReplication;
use crate::store::{Ground, Store, StoreError};
use chosen::Chosen;
use job::Job;
pub(crate) use known::forget;
pub use turning::Runs;

/// Where errors of requests happen.
const PLACE: &str = "verification";

/// Runs one verification at a time and remembers the last one. Cheap to clone.
#[derive(Clone)]
pub struct Verifier {
    forward: EngineReplication,
    back: EngineReplication,
    last: Arc<Mutex<Option<Arc<Job>>>>,
    runs: Runs,
}

impl Verifier {
    /// Of both directions; the one that carries is verified. `runs` gives the last run.
    pub fn new(forward: EngineReplication, back: EngineReplication, runs: Runs) -> Self {
        Self { forward, back, last: Arc::default(), runs }
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
        let mut last = self.last();
        if let Some(job) = last.as_ref().filter(|job| job.status().state == VerifyState::Running) {
            let what = format!("verification {} is under way", job.id());
            return Err(ApiError::new(ErrorCode::Busy, what, PLACE)
                .next("cutover verify --attach, or cutover verify --stop"));
        }
        let (store, source) = (&stream.store, stream.route.ends.direction.from());
        let unreadable = |error: StoreError| {
            ApiError::new(ErrorCode::Unavailable, error.to_string(), "state directory")
                .next("cutover verify --fresh")
        };
        let ground = store.ground().map_err(unreadable)?.ok_or_else(nothing_streams)?;
        let unfinished =
            resume::unfinished(store, source, &ground, &request).map_err(unreadable)?;
        let job = Arc::new(Job::new(&request, unfinished));
        *last = Some(Arc::clone(&job));
        let status = job.status();
        let turning = turning::Turning::new(&stream, ground, Arc::clone(&self.runs));
        tokio::spawn(job.run(stream, request, chosen, turning));
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
        let job = self.job(id)?;
        job.stop();
        self.status(id, Duration::from_secs(10)).await
    }

    /// Whether a cutover may begin, as far as verifications go. Drills may.
    ///
    /// # Errors
    /// It may not, or what is known can't be read.
    pub fn admit(&self, request: &StartCutover) -> Result<(), ApiError> {
        if request.drill || (request.accept_differences && request.require_verified_ms.is_none()) {
            return Ok(());
        }
        let known = self.known().map_err(|error| {
            let what = format!("what the last verification came to can't be read: {error}");
            ApiError::new(ErrorCode::Unavailable, what, "state directory").next("cutover verify")
        })?;
        let require = request.require_verified_ms.map(Duration::from_millis);
        let from = Direction::Forward.from();
        match verify::refusal(known.as_ref(), require, from, Timestamp::now()) {
            None => Ok(()),
            Some(what) => Err(ApiError::new(ErrorCode::PrecheckFailed, what, PLACE)
                .in_state("unchanged; blue serves")
                .next("cutover verify; to go all the same: --accept-differences")),
        }
    }

    fn known(&self) -> std::io::Result<Option<Known>> {
        let ground = ground(&self.forward.store)?;
        known::load(&self.forward.route.config.state_dir, ground.as_ref())
    }

    fn job(&self, id: &str) -> Result<Arc<Job>, ApiError> {
        let last = self.last().clone();
        last.filter(|job| id == "last" || job.id() == id).ok_or_else(|| {
            let what = "there is no such verification since the sidecar was started";
            ApiError::new(ErrorCode::NotFound, what, PLACE).next("cutover verify")
        })
    }

    /// The stream whose target is to be its source's copy.
    fn carrying(&self) -> Result<EngineReplication, ApiError> {
        let phases = [PipelinePhase::Streaming, PipelinePhase::CatchingUp];
        let carries = |stream: &&EngineReplication| {
            *stream.shared.carries.borrow() && phases.contains(&stream.shared.phase())
        };
        [&self.forward, &self.back].into_iter().find(carries).cloned().ok_or_else(|| {
            let phase = self.forward.shared.phase().name();
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
    if request.connections.is_some_and(|count| !(job::CONNECTIONS).contains(&count)) {
        let (least, most) = (job::CONNECTIONS.start(), job::CONNECTIONS.end());
        return refuse(format!("{least} to {most} connections"));
    }
    if request.rows_per_second == Some(0) || request.chunk_rows == Some(0) {
        return refuse("rows a second and rows of a chunk have to be more than 0".into());
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
