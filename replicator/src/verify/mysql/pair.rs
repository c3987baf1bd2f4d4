//! Two servers of MySQL or MariaDB and the stream from one to the other, verified.

use std::path::PathBuf;
use std::sync::Arc;

use cutover::Side;
use cutover::verify::{Progress, VerifyReport, VerifyRequest};
use decoders::mysql::server::ServerUrl;
use decoders::postgres::catalog::TableFilter;
use tokio::sync::{mpsc, watch};

use super::engine::EngineStream;
use super::found::Found;
use super::job::{SLICE, Verification};
use crate::store::Store;
use crate::verify::Trouble;
use crate::verify::continuous::Continuous;
use crate::verify::job::{Comparison, Job, Work};
use crate::verify::resume::Memory;
use crate::verify::turning::Turning;

/// What a pipeline between them verifies.
pub struct BinlogPair {
    /// The side that is right.
    pub source: ServerUrl,
    /// The side that is compared with it.
    pub target: ServerUrl,
    /// Only this database; all of them without it.
    pub database: Option<String>,
    /// Tables that take part in the move.
    pub tables: TableFilter,
    /// From the source to the target.
    pub stream: EngineStream,
    /// The stream's memory.
    pub store: Store,
    /// The stream's name on the target.
    pub pipeline: String,
    /// Where what is known is remembered.
    pub state_dir: PathBuf,
}

impl BinlogPair {
    /// The database that is moved; empty: all of them.
    pub(in crate::verify) fn named_database(&self) -> String {
        self.database.clone().unwrap_or_default()
    }
}

impl Comparison for Arc<BinlogPair> {
    fn source(&self) -> Side {
        self.stream.shared.direction.from()
    }

    async fn compare(
        &self,
        job: &Job,
        request: &VerifyRequest,
        turning: &Arc<Turning>,
    ) -> Result<VerifyReport, Trouble> {
        let direction = self.stream.shared.direction;
        let question = (job.id(), job.started(), direction.from());
        let is_resumed = job.resumed().is_some();
        let opened = Memory::open(&self.store, is_resumed, question, &turning.ground, request);
        let (memory, before) = opened.await?;
        let (finished, mut to_keep) = mpsc::unbounded_channel();
        let progress = watch::Sender::new(Progress::default());
        let seen = progress.subscribe();
        job.works_on(Work::Binlog { progress: seen.clone(), found: None });
        let verification = Verification {
            id: job.id().to_owned(),
            started: job.started(),
            request: request.clone(),
            source: (direction.from(), self.source.clone()),
            target: (direction.to(), self.target.clone()),
            database: self.database.clone(),
            filter: self.tables.clone(),
            stream: Arc::new(self.stream.clone()),
            slice: SLICE,
            before,
            finished: Some(finished),
            progress,
        };
        let verification = verification.prepare().await?;
        if request.continuous {
            let (turning, state_dir) = (Arc::clone(turning), self.state_dir.clone());
            let (id, source) = (job.id(), direction.from());
            let tables = verification.watched().await?;
            // What was given to the lanes before is there before the first moment.
            job.continues(Continuous::begin(
                id,
                request,
                source,
                turning,
                state_dir,
                tables.into_iter(),
            ));
        }
        let keeping = async {
            while let Some(chunk) = to_keep.recv().await {
                memory.save(chunk).await;
            }
        };
        let (compared, ()) = tokio::join!(verification.compare(job.stopping()), keeping);
        let (report, benches) = compared?;
        let (pair, request) = (Arc::clone(self), request.clone());
        let found = Some(Arc::new(Found { pair, request, benches }));
        job.works_on(Work::Binlog { progress: seen, found });
        // What could not be compared to its end goes on with what was; differences that somebody may
        // put right until then are looked for again.
        let goes_on = report.tables.iter().any(|table| table.error.is_some())
            && report.tables.iter().all(|table| table.differing() == 0);
        if !report.stopped && !goes_on {
            memory.forget().await;
        }
        Ok(report.resumed_at(job.resumed()))
    }
}
