//! One repair, from its request to its report.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cutover::api::{ApiError, ErrorCode, SCHEMA_VERSION};
use cutover::verify::VerifyState;
use cutover::verify::repair::{RepairReport, RepairRequest, RepairStatus, RepairedTable};
use decoders::postgres::catalog::TablePattern;
use jiff::Timestamp;
use tokio::sync::watch;

use super::super::comparing::SETTLE_DEFAULT;
use super::super::flag;
use super::super::job::Job;
use super::super::mysql;
use super::super::plan::TablePlan;
use super::super::reader::Trouble;
use super::chunk::{self, Site};
use super::{Pen, Standing, Subject, subjects};

/// Rows that are written together: the stream waits for them with its next change of the table.
const CHUNK_ROWS: usize = 100;
/// Bytes of a table's rows that are in memory together, by their average width.
const CHUNK_BYTES: u64 = 4 << 20;

/// Why it ended early.
pub(in super::super) const STOPPED: &str = "an operator or a rollback stopped it";

/// A repair.
pub(in super::super) struct RepairJob {
    id: String,
    verification: Arc<Job>,
    rows: AtomicU64,
    rows_done: AtomicU64,
    outcome: Mutex<Option<Result<RepairReport, ApiError>>>,
    stop: watch::Sender<bool>,
    ended: watch::Sender<bool>,
}

impl RepairJob {
    /// Not begun yet; of what `verification` has found.
    pub fn new(verification: Arc<Job>) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        Self {
            id: id[..8].to_owned(),
            verification,
            rows: AtomicU64::new(0),
            rows_done: AtomicU64::new(0),
            outcome: Mutex::default(),
            stop: flag(),
            ended: flag(),
        }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub fn ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    pub fn is_running(&self) -> bool {
        self.outcome().is_none()
    }

    fn outcome(&self) -> MutexGuard<'_, Option<Result<RepairReport, ApiError>>> {
        self.outcome.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// As it is now.
    pub fn status(&self) -> RepairStatus {
        let mut status = RepairStatus {
            rows_done: self.rows_done.load(Ordering::Relaxed),
            ..RepairStatus::begun(self.id.clone(), self.rows.load(Ordering::Relaxed))
        };
        match self.outcome().clone() {
            None => {}
            Some(Ok(report)) => {
                status.state = match report.stopped {
                    Some(_) => VerifyState::Stopped,
                    None => VerifyState::Done,
                };
                status.report = Some(report);
            }
            Some(Err(error)) => {
                (status.state, status.error) = (VerifyState::Failed, Some(error));
            }
        }
        status
    }

    /// Runs to its end, which [`RepairJob::ended`] tells.
    pub async fn run(
        self: Arc<Self>,
        request: RepairRequest,
        patterns: Vec<TablePattern>,
        standing: Standing,
    ) {
        tracing::info!(id = self.id, verification = self.verification.id(), "repair begins");
        let repaired = self.repair(&request, &patterns, &standing).await;
        match &repaired {
            Ok(report) => tracing::info!(
                id = self.id,
                whole = report.is_whole(),
                inserted = report.tables.iter().map(|table| table.inserted).sum::<u64>(),
                updated = report.tables.iter().map(|table| table.updated).sum::<u64>(),
                deleted = report.tables.iter().map(|table| table.deleted).sum::<u64>(),
                "repair ends"
            ),
            // The words of a server may quote a value: they are in the answer only.
            Err(trouble) => tracing::error!(id = self.id, place = trouble.place, "repair failed"),
        }
        let outcome = repaired.map_err(|trouble| {
            ApiError::new(ErrorCode::Unavailable, trouble.what, trouble.place)
                .in_state("what was repaired stays, every other row is as the stream has made it; the stream goes on")
                .next("cutover verify")
        });
        *self.outcome() = Some(outcome);
        self.ended.send_replace(true);
    }

    async fn repair(
        &self,
        request: &RepairRequest,
        patterns: &[TablePattern],
        standing: &Standing,
    ) -> Result<RepairReport, Trouble> {
        let started = Timestamp::now();
        if let Some(found) = self.verification.found() {
            return self.binlog(&found, request, patterns, standing, started).await;
        }
        let Some((shop, benches)) = self.verification.compared() else {
            return Err(Trouble::new("verification", "it has compared nothing"));
        };
        // Nobody governs the verification's gate any more.
        let shop = shop.again(false);
        let mut pair = shop.open().await?;
        let subjects = subjects(&shop, &pair, benches, patterns).await?;
        let rows = subjects.iter().map(|subject| subject.suspects.len() as u64).sum();
        self.rows.store(rows, Ordering::Relaxed);
        let mut pen = Pen::new(&shop);
        let settle = request.settle_ms.map_or(shop.settle, Duration::from_millis);
        let mut tables = Vec::new();
        let mut stopped = None;
        for subject in subjects {
            pair.set_for(&subject.bench.plan).await?;
            let mut tally = RepairedTable {
                table: subject.bench.plan.name.to_string(),
                rows: subject.suspects.len() as u64,
                beyond: subject.beyond,
                error: subject.refused.clone(),
                ..RepairedTable::default()
            };
            if let Some(fitted) = subject.fitted.as_ref().filter(|_| tally.error.is_none()) {
                let plan = &subject.bench.plan;
                let stop = self.stop.subscribe();
                let site = Site { shop: &shop, pair: &pair, plan, fitted, standing, settle, stop };
                stopped = self.table(&site, &mut pen, &subject, &mut tally).await;
                if tally.error.is_some() {
                    // A statement that was given up may still be cancelled, or another one for it.
                    pair = shop.open().await?;
                }
            }
            tables.push(tally);
            if stopped.is_some() {
                break;
            }
        }
        Ok(RepairReport {
            schema_version: SCHEMA_VERSION,
            id: self.id.clone(),
            verification: self.verification.id().to_owned(),
            source: shop.source.1,
            target: shop.target.1,
            started,
            ended: Timestamp::now(),
            tables,
            stopped,
        })
    }

    /// Between two servers of MySQL or MariaDB.
    async fn binlog(
        &self,
        found: &mysql::Found,
        request: &RepairRequest,
        patterns: &[TablePattern],
        standing: &Standing,
        started: Timestamp,
    ) -> Result<RepairReport, Trouble> {
        let asked = mysql::repair::Asked {
            patterns,
            settle: request.settle_ms.map_or(SETTLE_DEFAULT, Duration::from_millis),
            standing,
            stop: self.stop.subscribe(),
            rows: &self.rows,
            rows_done: &self.rows_done,
        };
        let (tables, stopped) = mysql::repair::repair(found, &asked).await?;
        Ok(RepairReport {
            schema_version: SCHEMA_VERSION,
            id: self.id.clone(),
            verification: self.verification.id().to_owned(),
            source: found.source(),
            target: found.target(),
            started,
            ended: Timestamp::now(),
            tables,
            stopped,
        })
    }

    /// All rows of one table. Gives back why the repair is not to go on.
    async fn table(
        &self,
        site: &Site<'_>,
        pen: &mut Pen<'_>,
        subject: &Subject,
        tally: &mut RepairedTable,
    ) -> Option<String> {
        let all: Vec<usize> = (0..subject.suspects.len()).collect();
        for part in all.chunks(chunk_rows(&subject.bench.plan)) {
            if *self.stop.borrow() {
                return Some(STOPPED.into());
            }
            if let Err(trouble) = chunk::repair(site, pen, subject.suspects.only(part), tally).await
            {
                tally.error = Some(trouble.to_string());
                return (site.standing)();
            }
            self.rows_done.fetch_add(part.len() as u64, Ordering::Relaxed);
        }
        (*self.stop.borrow()).then(|| STOPPED.into())
    }
}

pub(super) fn chunk_rows(plan: &TablePlan) -> usize {
    let width = plan.bytes.unsigned_abs() / plan.rows_estimated.max(1);
    ((CHUNK_BYTES / width.max(1)) as usize).clamp(1, CHUNK_ROWS)
}
