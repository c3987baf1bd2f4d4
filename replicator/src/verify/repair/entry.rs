//! Requests about repairs, answered.

use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use cutover::Phase;
use cutover::api::{ApiError, ErrorCode, RunStatus};
use cutover::verify::VerifyState;
use cutover::verify::repair::{RepairPlan, RepairRequest, RepairStatus};
use decoders::postgres::catalog::TablePattern;

use super::super::job::Job;
use super::super::mysql;
use super::super::{PLACE, Stream, Verifier};
use super::{RepairJob, Standing, plan};

/// How long a stop waits for the end.
const STOPPING: Duration = Duration::from_secs(10);
/// What `--yes` puts in the place of a typed name.
const YES: &str = "--yes";

/// Why a run that is under way keeps repairs from being begun, and from writing. Once it only
/// watches, the streams have found their roles and the one that carries may be helped.
fn in_the_way(run: Option<RunStatus>) -> Option<String> {
    let run = run?;
    let is_over = run.report.is_some() && run.phase != Phase::Held;
    match run.phase {
        Phase::Watching => None,
        _ if is_over => None,
        phase => Some(format!("run {} is under way ({})", run.run, phase.name())),
    }
}

impl Verifier {
    fn repairs(&self) -> MutexGuard<'_, Option<Arc<RepairJob>>> {
        self.repairs.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// What a repair of the last verification's differences would write.
    ///
    /// # Errors
    /// There is no verification that has ended; a server's.
    pub async fn repair_plan(&self, request: &RepairRequest) -> Result<RepairPlan, ApiError> {
        let patterns = patterns(request)?;
        let database = self.database();
        let job = self.differing()?;
        let planned = match job.found() {
            Some(found) => {
                let findings = job.status().report.map(|report| report.objects);
                let (findings, standing) = (findings.unwrap_or_default(), self.standing());
                let id = job.id();
                mysql::repair::planned(&found, id, &patterns, &findings, standing).await
            }
            None => plan::plan(&job, &patterns, database).await,
        };
        planned.map_err(|trouble| {
            ApiError::new(ErrorCode::Unavailable, trouble.what, trouble.place)
                .next("cutover verify, then again")
        })
    }

    /// Begins a repair of the last verification's differences.
    ///
    /// # Errors
    /// It is not confirmed; there is no verification that has ended; a run, a verification or
    /// another repair is under way.
    pub fn repair(&self, request: RepairRequest) -> Result<RepairStatus, ApiError> {
        let patterns = patterns(&request)?;
        let database = self.database();
        match request.confirmation.as_deref() {
            Some(YES) => {}
            Some(typed) if typed == database && !database.is_empty() => {}
            _ => {
                let what = match database.as_str() {
                    "" => "the repair is not confirmed: all databases of blue are moved, so it \
                           takes --yes"
                        .to_owned(),
                    database => format!(
                        "the repair is not confirmed: expected the name of blue's database, \
                         {database}"
                    ),
                };
                return Err(ApiError::new(ErrorCode::BadRequest, what, PLACE)
                    .next("cutover repair --plan, then: cutover repair --yes"));
            }
        }
        let job = self.differing()?;
        let standing = self.standing();
        if let Some(why) = standing() {
            return Err(busy(why).next("cutover status --watch"));
        }
        let mut repairs = self.repairs();
        if let Some(repair) = repairs.as_ref().filter(|repair| repair.is_running()) {
            let why = format!("repair {} is under way", repair.id());
            return Err(busy(why).next("cutover repair --attach, or cutover repair --stop"));
        }
        let repair = Arc::new(RepairJob::new(job));
        *repairs = Some(Arc::clone(&repair));
        let status = repair.status();
        tokio::spawn(repair.run(request, patterns, standing));
        Ok(status)
    }

    /// The repair now, or when it has ended if that is within `wait`.
    ///
    /// # Errors
    /// There is no such repair.
    pub async fn repair_status(&self, id: &str, wait: Duration) -> Result<RepairStatus, ApiError> {
        let repair = self.repair_named(id)?;
        let mut ended = repair.ended();
        // Time that is up is no error; a job that is gone has ended.
        let _ = tokio::time::timeout(wait, ended.wait_for(|ended| *ended)).await;
        Ok(repair.status())
    }

    /// Stops it and waits for its end.
    ///
    /// # Errors
    /// There is no such repair.
    pub async fn stop_repair(&self, id: &str) -> Result<RepairStatus, ApiError> {
        self.repair_named(id)?.stop();
        self.repair_status(id, STOPPING).await
    }

    /// Refuses what must not happen beside a repair.
    ///
    /// # Errors
    /// One is under way.
    pub fn refuse_while_repairing(&self) -> Result<(), ApiError> {
        match self.repairs().as_ref().filter(|repair| repair.is_running()) {
            Some(repair) => Err(busy(format!("repair {} is under way", repair.id()))
                .next("cutover repair --attach, or cutover repair --stop")),
            None => Ok(()),
        }
    }

    /// Asks a repair that is under way to end.
    pub fn stop_repairing(&self) {
        if let Some(repair) = self.repairs().as_ref().filter(|repair| repair.is_running()) {
            repair.stop();
        }
    }

    fn repair_named(&self, id: &str) -> Result<Arc<RepairJob>, ApiError> {
        let last = self.repairs().clone();
        last.filter(|repair| id == "last" || repair.id() == id).ok_or_else(|| {
            let what = "there is no such repair since the sidecar was started";
            ApiError::new(ErrorCode::NotFound, what, PLACE).next("cutover repair --plan")
        })
    }

    /// The last verification, which has to have ended, of the direction that carries now.
    fn differing(&self) -> Result<Arc<Job>, ApiError> {
        let stream = self.carrying()?;
        let refuse = |what: String| {
            Err(ApiError::new(ErrorCode::PrecheckFailed, what, PLACE)
                .next("cutover verify, then again"))
        };
        // What one that goes on has found is newer than what anybody asked for in between.
        let going_on = self.going_on().filter(|continuous| continuous.differs());
        let kept = going_on.and_then(|_| self.kept().clone());
        let Some(job) = kept.or_else(|| self.last().clone()) else {
            return refuse("there is no verification since the sidecar was started".into());
        };
        if job.status().state == VerifyState::Running {
            return Err(busy(format!("verification {} is under way", job.id()))
                .next("cutover verify --attach, or cutover verify --stop"));
        }
        match job.compared_with() {
            Some(source) if source == stream.shared().direction.from() => Ok(job),
            Some(source) => refuse(format!(
                "verification {} was against {source}, which does not serve any more",
                job.id()
            )),
            None => refuse(format!("verification {} has compared nothing", job.id())),
        }
    }

    /// Why nothing may be written now.
    fn standing(&self) -> Standing {
        let runs = Arc::clone(&self.runs);
        Arc::new(move || in_the_way(runs()))
    }

    /// Blue's; empty if all of them are moved.
    fn database(&self) -> String {
        match &self.streams[0] {
            Stream::Postgres(forward) => forward.route.ends.source.dbname().to_owned(),
            Stream::Binlog(pair) => pair.named_database(),
        }
    }
}

fn busy(what: String) -> ApiError {
    ApiError::new(ErrorCode::Busy, what, PLACE)
}

fn patterns(request: &RepairRequest) -> Result<Vec<TablePattern>, ApiError> {
    let patterns = request.tables.iter().map(|text| text.parse());
    patterns
        .collect::<Result<Vec<TablePattern>, _>>()
        .map_err(|error| ApiError::new(ErrorCode::BadRequest, error.to_string(), PLACE))
}
