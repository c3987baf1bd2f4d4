//! The copy: publication and slot, the schema's first half, the rows, the second half.
//!
//! The slot is made before the first row is read and exports the snapshot that all of them are read
//! from, so the stream begins exactly where the copy ends. The connection that made it stays open
//! and idle until the last chunk is there.

use std::sync::Arc;
use std::time::Duration;

use cutover::api::{self, PipelinePhase};
use cutover::marker::{self, MarkerKind};
use decoders::postgres::catalog::{self, TableInfo};
use decoders::postgres::publication::{self, PublicationOptions};
use decoders::postgres::session::{self, Session};
use decoders::postgres::slot::{self, SlotKind};
use decoders::postgres::stream::SystemIdentity;
use decoders::postgres::wire::ReplicationConnection;
use decoders::{Lsn, QualifiedName, TableId};
use sinks::own::keys;
use sinks::postgres::target_error;
use sinks::progress::StreamIdentity;
use tokio::sync::watch;

use super::arming::marker_table;
use super::failure::{Failure, chain, of_connect};
use super::published::published;
use super::record::Book;
use super::{Pipeline, truncation};
use crate::backfill::{
    self, Backfill, BackfillError, BackfillProgress, Phase, ProgressSender, TableState, copied_at,
};
use crate::protect::BlueConnections;
use crate::schema::{self, IndexBuilder, PostData, PreData, SchemaMode};
use crate::status::Shared;
use crate::store::Stage;
use crate::verify::carry;

/// How long the slot's creation may wait for transactions that are writing on blue. It has to wait
/// for all that are open at that moment; longer is for a person to decide.
const SLOT_LOCK_TIMEOUT: Duration = Duration::from_secs(60);

impl Pipeline {
    /// From nothing to all rows on green.
    pub(super) async fn copy(&mut self) -> Result<(), Failure> {
        self.shared.enter(PipelinePhase::Copying);
        let blue = session::connect(&self.ends.source, &self.config.application_name()).await;
        let blue = blue.map_err(|error| of_connect("blue", &error))?;
        let slot_name = self.config.slot();
        // Of an attempt that broke off. Its snapshot is gone, so it is of no use.
        slot::drop(&blue, &slot_name, Some(&self.config.application_name())).await?;
        self.store.forget_checkpoint()?;
        self.store.forget_quiet()?;
        let tables = self.publish(&blue).await?;

        let application = self.config.application_name();
        let replication = ReplicationConnection::connect(&self.ends.source, &application).await;
        let mut replication = replication.map_err(|error| of_connect("blue", &error))?;
        let source = identify(&mut replication).await?;
        self.shared.wait_for(Some("open transactions on blue to end (slot creation)".into()));
        let (kind, timeout) = (SlotKind::Lasting, SLOT_LOCK_TIMEOUT);
        let created = slot::create(&mut replication, &blue, &slot_name, kind, timeout).await?;
        self.shared.wait_for(None);
        let stream = StreamIdentity {
            pipeline: self.config.name.clone(),
            system_identifier: source.system_id.to_string(),
            database: self.ends.source.dbname().to_owned(),
            slot: slot_name,
            consistent_point: created.consistent_point,
        };
        self.store.save_source(&source)?;
        self.store.save_stage(&Stage::Copying { stream: stream.clone() })?;
        self.shared.healed();
        tracing::info!(
            pipeline = self.config.name,
            tables = tables.len(),
            slot = stream.slot,
            consistent_point = %stream.consistent_point,
            "copying"
        );
        self.copied.send_replace(BackfillProgress::default());
        let watching = Watching::start(&self.shared, &self.copied);
        let copied = self.copy_rows(&tables, &stream, &created.snapshot, replication).await;
        watching.end();
        let (summary, builder) = copied?;
        tracing::info!(
            pipeline = self.config.name,
            rows = summary.rows,
            bytes = summary.bytes,
            duration_ms = summary.duration_ms,
            "all rows are on green"
        );
        self.store.save_stage(&Stage::Finishing { stream })?;
        // Blue is free of snapshot and locks. What is not built yet goes on.
        self.shared.enter(PipelinePhase::Indexing);
        let watching = Watching::start(&self.shared, &self.copied);
        let built = builder.finish().await;
        watching.end();
        built?;
        Ok(())
    }

    /// All rows, and of which positions they are. `replication` keeps the snapshot.
    async fn copy_rows(
        &self,
        tables: &[TableInfo],
        stream: &StreamIdentity,
        snapshot: &str,
        replication: ReplicationConnection,
    ) -> Result<(backfill::Summary, IndexBuilder), Failure> {
        let progress = &self.copied;
        let connections = BlueConnections::new(&self.config.protect, &self.config.copy);
        let excluded = self.excluded().await?;
        let job = PreData {
            blue: &self.ends.source,
            green: &self.ends.target,
            snapshot,
            exclude: &excluded,
            config: &self.config.schema,
            connections: &connections,
        };
        let report = schema::copy_pre_data(job, progress, &self.stop).await?;
        for warning in &report.warnings {
            tracing::warn!(pipeline = self.config.name, warning, "schema");
        }
        let green = session::connect(&self.ends.target, &self.config.application_name()).await;
        let green = green.map_err(|error| of_connect("green", &error))?;
        Book::begin(&self.ends.source, snapshot, &green, &self.config).await?;
        if self.config.schema.mode == SchemaMode::Existing {
            // A schema that is copied gets its triggers behind the rows.
            self.switching().quiet(&green).await?.ensure_off()?;
        }
        drop(green);
        let mut job = Backfill {
            blue: self.ends.source.clone(),
            green: self.ends.target.clone(),
            snapshot: snapshot.to_owned(),
            tables: tables.iter().map(|table| TableId(table.oid)).collect(),
            config: self.config.copy.clone(),
            connections,
            answer_ms_max: self.config.protect.answer_ms_max,
            expected: None,
        };
        let (builder, events) = IndexBuilder::start(
            self.ends.target.clone(),
            self.config.copy.clone(),
            self.config.schema.clone(),
            progress.clone(),
            self.stop.clone(),
        );
        let mut summary = job.run_telling(progress, &self.stop, Some(events.clone())).await?;
        drop(replication);
        let mut later = Vec::new();
        while !summary.left.is_empty() {
            let snapshot = self.later_snapshot(&stream.slot).await?;
            job.snapshot = snapshot.created.snapshot;
            job.tables = summary.left.iter().map(|table| table.id).collect();
            job.expected = Some(summary.columns.clone());
            let names = summary.left.iter().map(|table| table.name.to_string());
            let point = snapshot.created.consistent_point;
            tracing::info!(
                pipeline = self.config.name,
                tables = names.collect::<Vec<_>>().join(", "),
                consistent_point = %point,
                "copying from a later snapshot"
            );
            let more = job.run_telling(progress, &self.stop, Some(events.clone())).await?;
            later.extend(more.tables.iter().map(|table| (table.name.clone(), point)));
            summary.add(more);
        }
        self.record_copied_at(stream, &later).await?;
        Ok((summary, builder))
    }

    /// The snapshot of a slot that goes with its connection.
    async fn later_snapshot(&self, slot_name: &str) -> Result<LaterSnapshot, Failure> {
        /// Of the slot's name: one is 63 bytes long at most, and ASCII.
        const NAME_BYTES: usize = 57;
        let application = self.config.application_name();
        let blue = session::connect(&self.ends.source, &application).await;
        let blue = blue.map_err(|error| of_connect("blue", &error))?;
        let replication = ReplicationConnection::connect(&self.ends.source, &application).await;
        let mut replication = replication.map_err(|error| of_connect("blue", &error))?;
        let name = format!("{}_later", &slot_name[..slot_name.len().min(NAME_BYTES)]);
        let waiting =
            "open transactions on blue to end (a snapshot for tables that were rewritten)";
        self.copied.send_modify(|progress| progress.waiting_for = Some(waiting.to_owned()));
        let (kind, timeout) = (SlotKind::Temporary, SLOT_LOCK_TIMEOUT);
        let created = slot::create(&mut replication, &blue, &name, kind, timeout).await?;
        self.copied.send_modify(|progress| progress.waiting_for = None);
        Ok(LaterSnapshot { created, _replication: replication })
    }

    async fn record_copied_at(
        &self,
        stream: &StreamIdentity,
        tables: &[(QualifiedName, Lsn)],
    ) -> Result<(), Failure> {
        let green = session::connect(&self.ends.target, &self.config.application_name()).await;
        let mut green = green.map_err(|error| of_connect("green", &error))?;
        Ok(copied_at::record(&mut green, stream, tables).await?)
    }

    /// Tables of blue that the filter leaves out: their definitions stay there, too. What holds no rows of its own, as a
    /// table that is partitioned, or none that are logged, moves by its definition.
    async fn excluded(&self) -> Result<Vec<QualifiedName>, Failure> {
        if self.config.tables.takes_all() {
            return Ok(Vec::new());
        }
        let blue = session::connect(&self.ends.source, &self.config.application_name()).await;
        let blue = blue.map_err(|error| of_connect("blue", &error))?;
        let all = read_tables(&blue, &catalog::TableFilter::default()).await?;
        let names = all.into_iter().map(|table| table.name);
        Ok(names.filter(|name| !self.config.tables.takes(name)).collect())
    }

    /// Publishes the tables of this pipeline, and those that hold rows come back.
    async fn publish(&self, blue: &Session) -> Result<Vec<TableInfo>, Failure> {
        let tables = read_tables(blue, &self.config.tables).await?;
        let version_num = blue.server_version();
        let mut names = published(&tables, &self.config.tables, version_num);
        if names.is_empty() {
            return Err(Failure::halt(
                "blue",
                "there is no table to move",
                "check tables.include and tables.exclude",
            ));
        }
        keys::refuse_strangers(blue).await?;
        if MarkerKind::for_version(version_num) == MarkerKind::Row {
            let made = blue.batch_execute(&marker_table()).await;
            made.map_err(|error| target_error("making the marker table on blue", &error))?;
            names.push(QualifiedName::new(marker::SCHEMA, marker::MARKER_TABLE));
        }
        names.extend(truncation::report(blue, &tables).await?);
        let publication = self.config.publication();
        if publication::exists(blue, &publication).await? {
            publication::drop(blue, &publication).await?;
        }
        publication::create(blue, &publication, &names, PublicationOptions::default()).await?;
        Ok(tables.into_iter().filter(TableInfo::is_decoded).collect())
    }

    /// Indexes, constraints, statistics. May be done again after any crash.
    pub(super) async fn finish_copy(&mut self, stream: StreamIdentity) -> Result<(), Failure> {
        self.shared.enter(PipelinePhase::Indexing);
        let watching = Watching::start(&self.shared, &self.copied);
        let finished = self.second_half(&self.copied).await;
        watching.end();
        finished?;
        Ok(self.store.save_stage(&Stage::Streaming { stream })?)
    }

    async fn second_half(&self, progress: &ProgressSender) -> Result<(), Failure> {
        let job = PostData {
            green: &self.ends.target,
            copy: &self.config.copy,
            config: &self.config.schema,
        };
        let analyzing = self.analyze();
        let report = schema::copy_post_data(job, progress, &self.stop, analyzing).await?;
        for warning in &report.warnings {
            tracing::warn!(pipeline = self.config.name, warning, "schema");
        }
        self.carry().await?;
        progress.send_modify(|progress| progress.phase = Phase::Done);
        Ok(())
    }

    /// Settings, privileges and publications, which no dump has in it.
    async fn carry(&self) -> Result<(), Failure> {
        if self.config.schema.mode == SchemaMode::Existing {
            return Ok(());
        }
        let filter = &self.config.tables;
        let is_whole = filter.include.is_empty() && filter.exclude.is_empty();
        let carried = carry::carry(&self.ends, &self.door, is_whole).await;
        let carried = match carried {
            Ok(carried) => carried,
            Err(trouble) if trouble.is_transient => {
                return Err(Failure::retry(trouble.place, trouble.what));
            }
            // Each is named before a cutover.
            Err(trouble) => {
                tracing::warn!(pipeline = self.config.name, "not taken over: {trouble}");
                return Ok(());
            }
        };
        tracing::info!(
            pipeline = self.config.name,
            count = carried.count,
            "settings, privileges and publications taken over"
        );
        for refused in carried.refused {
            tracing::warn!(pipeline = self.config.name, refused, "not taken over");
        }
        Ok(())
    }

    /// Statistics for green's planner.
    async fn analyze(&self) -> Result<(), BackfillError> {
        let green = session::connect(&self.ends.target, &self.config.application_name()).await;
        let green = green.map_err(|error| BackfillError::connect("green", &error))?;
        let tables = catalog::tables(&green, &self.config.tables).await;
        let tables = tables.map_err(|error| BackfillError::retry(chain(&error)))?;
        let names: Vec<_> =
            tables.into_iter().filter(TableInfo::holds_rows).map(|table| table.name).collect();
        let config = &self.config;
        backfill::analyze(&self.ends.target, &names, &config.copy, &config.schema, &self.stop).await
    }
}

pub(super) async fn read_tables(
    session: &Session,
    filter: &catalog::TableFilter,
) -> Result<Vec<TableInfo>, Failure> {
    let tables = catalog::tables(session, filter).await;
    tables.map_err(|error| Failure::retry("catalog", chain(&error)))
}

/// Who blue is: survives restarts and moves, not a new `initdb`, failover or restore.
pub(super) async fn identify(
    replication: &mut ReplicationConnection,
) -> Result<SystemIdentity, Failure> {
    let rows = replication.simple_query("IDENTIFY_SYSTEM").await;
    let rows = rows.map_err(|error| Failure::retry("blue", chain(&error)))?;
    let field = |at: usize| rows.first()?.get(at)?.as_deref();
    let identity = || {
        let system_id = field(0)?.parse().ok()?;
        let timeline = field(1)?.parse().ok()?;
        Some(SystemIdentity { system_id, timeline })
    };
    identity().ok_or_else(|| Failure::retry("blue", "the answer to IDENTIFY_SYSTEM is incomplete"))
}

impl From<BackfillError> for Failure {
    fn from(error: BackfillError) -> Self {
        match error {
            // The next round sees the stop and ends.
            BackfillError::Cancelled => Failure::retry("copy", "stopped on request"),
            BackfillError::Failed { disposition, message, remedy } => {
                Failure { disposition, remedy, ..Failure::retry("copy", message) }
            }
        }
    }
}

/// What tables are copied from that the stream's snapshot does not show any more.
struct LaterSnapshot {
    created: slot::CreatedSlot,
    /// Keeps slot and snapshot.
    _replication: ReplicationConnection,
}

/// Passes the copy's progress on: bars or log lines, and the status.
pub(super) struct Watching {
    shared: Arc<Shared>,
    progress: watch::Receiver<BackfillProgress>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Watching {
    pub(super) fn start(shared: &Arc<Shared>, progress: &ProgressSender) -> Self {
        let status = tokio::spawn(publish_status(Arc::clone(shared), progress.subscribe()));
        let shown = tokio::spawn(backfill::render(progress.subscribe()));
        let (shared, progress) = (Arc::clone(shared), progress.subscribe());
        Self { shared, progress, tasks: vec![status, shown] }
    }

    /// The last state stays in the status.
    pub(super) fn end(self) {
        for task in &self.tasks {
            task.abort();
        }
        self.shared.backfill(as_status(&self.progress.borrow()));
    }
}

async fn publish_status(shared: Arc<Shared>, mut progress: watch::Receiver<BackfillProgress>) {
    let mut waiting_for = None;
    loop {
        {
            let progress = progress.borrow_and_update();
            shared.backfill(as_status(&progress));
            // Others have reasons of their own, which are not to be overwritten with nothing.
            if progress.waiting_for != waiting_for {
                waiting_for.clone_from(&progress.waiting_for);
                shared.wait_for(waiting_for.clone());
            }
        }
        if progress.changed().await.is_err() {
            return;
        }
    }
}

fn as_status(progress: &BackfillProgress) -> api::Backfill {
    let total = &progress.total;
    let steps = &progress.steps;
    let doing = match progress.phase {
        Phase::Copying | Phase::Waiting | Phase::Done => progress.phase.label().to_owned(),
        phase => format!("{} {}/{}", phase.label(), steps.done, steps.total),
    };
    let active = progress.tables.iter().filter(|table| table.state == TableState::Copying);
    api::Backfill {
        tables_total: total.tables as u64,
        tables_done: total.tables_copied as u64,
        rows: total.rows_copied,
        bytes: total.bytes_copied,
        bytes_total: total.bytes_estimated,
        rows_per_second: total.rows_per_s as f64,
        eta_seconds: total.eta_s.map(|eta_s| eta_s as f64),
        doing,
        active: active
            .map(|table| api::TableProgress {
                table: table.table.to_string(),
                rows: table.rows_copied,
                bytes: table.bytes_copied,
                bytes_total: table.bytes_estimated,
                rows_per_second: 0.0,
                eta_seconds: table.eta_s.map(|eta_s| eta_s as f64),
            })
            .collect(),
    }
}
