//! From nothing to a green that a stream can follow: checks, definitions, rows, keys.
//!
//! Which stage was reached is on green alone ([`Notes`]): the rows are there, and a note is written
//! before each act. So a lost state directory loses nothing of a copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cutover::api::PipelinePhase;
use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server::{self, Conn, ServerUrl};
use mysql_async::prelude::Queryable;
use tokio::sync::watch;

use crate::backfill::mysql::SetUp;
use crate::backfill::{Phase, ProgressSender};
use crate::check::mysql::{self as check, BinlogCheckRequest, LOST, LOST_REMEDY};
use crate::config::Config;
use crate::pipeline::copying::Watching;
use crate::pipeline::failure::{EXIT_BLOCKED, Failure};
use crate::schema::AccountsMode;
use crate::schema::mysql::{Notes, carry_accounts};
use crate::status::Shared;

/// The copy that a stream begins behind.
pub struct CopyFirst {
    name: String,
    check: BinlogCheckRequest,
    set_up: SetUp,
    accounts: AccountsMode,
    source: ServerUrl,
    target: ServerUrl,
    progress: ProgressSender,
    has_begun: AtomicBool,
}

impl CopyFirst {
    /// Of a configured pipeline, which reads blue as the replica `server_id`.
    pub fn of(config: &Config, urls: &[ServerUrl; 2], server_id: u32) -> Self {
        let [source, target] = urls;
        let mut check = BinlogCheckRequest::of(config, source, target);
        check.server_ids = vec![server_id];
        Self {
            name: config.name.clone(),
            check,
            set_up: SetUp::of(config, urls),
            accounts: config.schema.accounts,
            source: source.clone(),
            target: target.clone(),
            progress: ProgressSender::default(),
            has_begun: AtomicBool::new(false),
        }
    }

    /// Whether nothing stood in its way, in this life.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Does what is not done yet, and gives the position of the rows on green.
    ///
    /// # Errors
    /// Blockers, all of them, with exit code 3, before anything is touched; else as for
    /// [`SetUp::run`].
    pub(super) async fn run(
        &self,
        shared: &Arc<Shared>,
        stop: &watch::Receiver<bool>,
    ) -> Result<BinlogPosition, Failure> {
        let mut green = server::connect(&self.target).await.map_err(of_green)?;
        if let Some(position) = Notes::of(self.name.clone()).copied_before(&mut green).await? {
            self.is_still_there(&mut green).await?;
            return Ok(position);
        }
        shared.enter(PipelinePhase::Starting);
        if self.accounts == AccountsMode::Create {
            self.carry_accounts().await?;
        }
        self.preflight().await?;
        self.has_begun.store(true, Ordering::Relaxed);
        shared.enter(PipelinePhase::Copying);
        shared.healed();
        let watching = Watching::start(shared, &self.progress);
        let done = self.set_up.run(&self.progress, stop).await;
        if done.is_ok() {
            self.progress.send_modify(|progress| progress.phase = Phase::Done);
        }
        watching.end();
        let done = done?;
        for warning in &done.warnings {
            tracing::warn!(pipeline = self.name, warning, "schema");
        }
        if let Some(copied) = &done.copied {
            tracing::info!(
                pipeline = self.name,
                rows = copied.rows,
                bytes = copied.bytes,
                duration_ms = copied.duration_ms,
                chunks_kept = copied.chunks_kept,
                position = %done.position,
                "copied"
            );
        }
        Ok(done.position)
    }

    /// Before the preflight, which then has less to name.
    async fn carry_accounts(&self) -> Result<(), Failure> {
        let database = self.check.database.as_deref();
        let carried = carry_accounts(&self.source, &self.target, database).await?;
        if !carried.made.is_empty() {
            let accounts = carried.made.join(", ");
            tracing::info!(pipeline = self.name, accounts, "made on green as on blue");
        }
        Ok(())
    }

    /// Halts if a database that was copied is gone from green, and not from blue as well.
    async fn is_still_there(&self, green: &mut Conn) -> Result<(), Failure> {
        let lost = Notes::lost_databases(green)
            .await
            .map_err(|error| Failure::from(crate::backfill::mysql::of_catalog("green", error)))?;
        if lost.is_empty() {
            return Ok(());
        }
        let mut blue = server::connect(&self.source).await?;
        let asked = |error| server::failure("listing databases on blue", error);
        let sql = "SELECT schema_name FROM information_schema.schemata";
        let there: Vec<String> = blue.query(sql).await.map_err(asked)?;
        let lost: Vec<&str> =
            there.iter().filter(|name| lost.contains(*name)).map(String::as_str).collect();
        match lost.is_empty() {
            true => Ok(()),
            false => {
                Err(Failure::halt("green", format!("{LOST}: {}", lost.join(", ")), LOST_REMEDY))
            }
        }
    }

    /// What stands in the way. Tables of an earlier attempt don't.
    async fn preflight(&self) -> Result<(), Failure> {
        let facts = check::gather(&self.check, &self.source, &self.target).await;
        // A server that is only down may be there in a minute.
        for (side, failed) in
            [("blue", facts.blue.as_ref().err()), ("green", facts.green.as_ref().err())]
        {
            if let Some(error) = failed
                && error.disposition == decoders::source::Disposition::Retry
            {
                return Err(Failure::retry(side, error.message.clone()));
            }
        }
        let report = check::judge(&self.check, &facts);
        if report.exit_code() != 0 {
            eprintln!("{report}");
            let ids: Vec<_> = report.blocking().map(|finding| finding.id).collect();
            return Err(Failure {
                exit_code: EXIT_BLOCKED,
                ..Failure::halt(
                    "check",
                    format!("{} in the way: {}", report.blockers, ids.join(", ")),
                    "remove them as shown above, then: replicator check",
                )
            });
        }
        if report.warnings > 0 {
            eprintln!("{report}");
        }
        Ok(())
    }
}

/// An error of green's side.
pub(super) fn of_green(error: decoders::SourceError) -> Failure {
    Failure { place: "green".to_owned(), ..Failure::from(error) }
}
