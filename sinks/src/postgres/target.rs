//! A PostgreSQL database as a target.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use decoders::change::{Lsn, TableSchema};
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::Session;

use super::catalog::read_table;
use super::conflicts;
use super::connect::{connect, connect_pipelined};
use super::flush::PgFlusher;
use super::lane::{LaneStart, PgLane};
use super::session::{self, Blocker, Capabilities, OriginTracking, TriggerSuppression};
use super::statements::missing_table;
use crate::conflicts::TableConflicts;
use crate::mark::{LaneMark, Reached};
use crate::own::keys;
use crate::plan::{Fire, TablePlan};
use crate::progress::{self, StreamIdentity};
use crate::target::{Flusher as _, LaneId, Target, TargetError};

/// What the operator decides about a target.
#[derive(Clone, Debug)]
pub struct PgTargetOptions {
    /// The stream that is applied.
    pub stream: StreamIdentity,
    /// Mark commits with a replication origin, where permitted.
    pub use_origin: bool,
    /// Apply to tables although triggers or rules of theirs would fire.
    pub accept_triggers: bool,
}

/// What [`Target::progress`] found, for the lanes that are opened after it: `None` for those that
/// were opened since.
type Found = BTreeMap<LaneId, Option<LaneMark>>;

/// Who waits for green's log.
#[derive(Default)]
struct Flushing {
    /// Has the session that read the progress: later it might not be let in any more.
    flusher: Option<PgFlusher>,
    /// There is one, and lanes need not wait. As long as nobody has said so they do.
    for_lanes: bool,
}

/// A PostgreSQL database that changes are applied to.
pub struct PgTarget {
    green: ConnInfo,
    options: PgTargetOptions,
    capabilities: Mutex<Capabilities>,
    found: Mutex<Option<Found>>,
    flushing: Mutex<Flushing>,
    /// For questions to the catalogs while the lanes are busy.
    catalog: tokio::sync::Mutex<Option<Session>>,
}

impl PgTarget {
    /// Connects, makes the progress tables, registers the stream and tries out what is permitted.
    ///
    /// # Errors
    /// Halts if another stream has the pipeline's name, or a right is missing.
    pub async fn open(green: ConnInfo, options: PgTargetOptions) -> Result<Self, TargetError> {
        let client = connect(&green, "cutover setup").await?;
        let triggers = session::set_up(&client).await?;
        let server_version = client.server_version();
        progress::create(&client).await?;
        progress::register(&client, &options.stream).await?;
        keys::ensure(&client, &options.stream.pipeline, options.use_origin).await?;
        let origin = if !options.use_origin {
            OriginTracking::Unavailable { reason: "switched off".to_owned() }
        } else if session::may_use_origins(&client).await? {
            OriginTracking::Active {
                name: progress::origin_name(&options.stream.pipeline, LaneId(0)),
            }
        } else {
            OriginTracking::Unavailable { reason: session::NO_ORIGIN_RIGHTS.to_owned() }
        };
        let capabilities = Mutex::new(Capabilities { server_version, triggers, origin });
        // The session is kept for the catalogs: later it might not be let in any more.
        let catalog = tokio::sync::Mutex::new(Some(client));
        let (found, flushing) = (Mutex::default(), Mutex::default());
        Ok(Self { green, options, capabilities, found, flushing, catalog })
    }

    /// What sessions on green can do. Until a lane is open, the origin is only known to be permitted.
    pub fn capabilities(&self) -> Capabilities {
        self.capabilities.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A session set up as a lane's is (settings, triggers): for the backfill and for sequences.
    pub async fn session(&self, application: &str) -> Result<Session, TargetError> {
        let client = connect(&self.green, application).await?;
        session::set_up(&client).await?;
        Ok(client)
    }

    /// Who keeps a lane's backend waiting for a lock.
    pub async fn blockers(&self, backend_pid: i32) -> Result<Vec<Blocker>, TargetError> {
        let client = connect(&self.green, "cutover lock watch").await?;
        session::blockers(&client, backend_pid).await
    }

    /// Removes everything that the pipeline left on green: its progress, its origin, and the
    /// schema if it was the last. No lane may be open.
    pub async fn remove(&self) -> Result<(), TargetError> {
        let client = connect(&self.green, "cutover teardown").await?;
        progress::remove(&client, &self.options.stream.pipeline).await
    }

    fn fire(&self, triggers: TriggerSuppression) -> Fire {
        match self.options.accept_triggers {
            true => Fire::Accepted,
            false => triggers.fires(),
        }
    }

    /// Taken out: a call that is given up half-way leaves none behind.
    async fn catalog_session(&self, kept: &mut Option<Session>) -> Result<Session, TargetError> {
        match kept.take() {
            Some(client) if !client.is_closed() => Ok(client),
            _ => connect(&self.green, "cutover catalog").await,
        }
    }

    fn found(&self) -> MutexGuard<'_, Option<Found>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flushing(&self) -> MutexGuard<'_, Flushing> {
        self.flushing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes every lane that has a row, so that no session of an earlier life can still commit,
    /// and reads what all of them have.
    async fn read_progress(&self, client: &Session) -> Result<Reached, TargetError> {
        let pipeline = &self.options.stream.pipeline;
        let rows = progress::read(client, pipeline).await?;
        let mut lanes = vec![LaneId(0)];
        lanes.extend(rows.into_iter().map(|row| row.lane));
        lanes.dedup();
        for lane in &lanes {
            let application = progress::application_name(pipeline, *lane);
            session::take_lane(client, pipeline, lane.0, &application).await?;
        }
        let rows = progress::read(client, pipeline).await?;
        let has_origins = self.options.use_origin && session::may_use_origins(client).await?;
        keys::origins_from_now(client, pipeline, has_origins).await?;
        for lane in &lanes {
            session::give_back_lane(client, pipeline, lane.0).await?;
        }
        let reached = Reached::by(rows.iter().map(|row| &row.mark));
        *self.found() = Some(rows.into_iter().map(|row| (row.lane, Some(row.mark))).collect());
        Ok(reached)
    }
}

impl Target for PgTarget {
    type Lane = PgLane;
    type Flusher = PgFlusher;

    async fn open_lane(&self, id: LaneId) -> Result<PgLane, TargetError> {
        let stream = &self.options.stream;
        let application = progress::application_name(&stream.pipeline, id);
        let (client, pipelined) = connect_pipelined(&self.green, &application).await?;
        let triggers = session::set_up(&client).await?;
        let server_version = client.server_version();
        let backend_pid = session::backend_pid(&client).await?;
        session::take_lane(&client, &stream.pipeline, id.0, &application).await?;
        // Only now can nobody else move the progress any more.
        progress::register(&client, stream).await?;
        let progress = progress::open_lane(&client, &stream.pipeline, id).await?;
        // Where the stream resumes was decided by what was found.
        let expected = self
            .found()
            .as_mut()
            .and_then(|found| found.insert(id, None).unwrap_or_else(|| Some(LaneMark::default())));
        if expected.is_some_and(|expected| expected != progress.mark) {
            return Err(TargetError::retry(format!(
                "somebody else moved the progress of lane {} on green",
                id.0
            )));
        }
        let origin = match self.options.use_origin {
            true => {
                session::set_up_origin(&client, &progress::origin_name(&stream.pipeline, id))
                    .await?
            }
            false => OriginTracking::Unavailable { reason: "switched off".to_owned() },
        };
        let has_origin = matches!(origin, OriginTracking::Active { .. });
        keys::opens_lane(&client, &stream.pipeline, has_origin).await?;
        let secret = keys::secret(&client, &stream.pipeline).await?;
        let capabilities = Capabilities { server_version, triggers, origin };
        *self.capabilities.lock().unwrap_or_else(PoisonError::into_inner) = capabilities.clone();
        let waits_for_log = !self.flushing().for_lanes;
        PgLane::start(LaneStart {
            session: client,
            pipelined,
            id,
            pipeline: stream.pipeline.clone(),
            backend_pid,
            capabilities,
            fire: self.fire(triggers),
            waits_for_log,
            progress,
            secret,
        })
        .await
    }

    async fn open_flusher(&self) -> Result<PgFlusher, TargetError> {
        let kept = self.flushing().flusher.take();
        let flusher = match kept {
            Some(flusher) => flusher,
            None => {
                let client = connect(&self.green, "cutover flush").await?;
                PgFlusher::on(client, &self.options.stream.pipeline).await?
            }
        };
        self.flushing().for_lanes = flusher.is_needed();
        Ok(flusher)
    }

    async fn progress(&self) -> Result<Reached, TargetError> {
        let client = connect(&self.green, "cutover flush").await?;
        progress::register(&client, &self.options.stream).await?;
        let reached = self.read_progress(&client).await?;
        let mut flusher = PgFlusher::on(client, &self.options.stream.pipeline).await?;
        flusher.flush(reached.through.unwrap_or(Lsn::INVALID)).await?;
        let for_lanes = flusher.is_needed();
        *self.flushing() = Flushing { flusher: Some(flusher), for_lanes };
        Ok(reached)
    }

    async fn conflicts(&self, table: &Arc<TableSchema>) -> Result<TableConflicts, TargetError> {
        let mut catalog = self.catalog.lock().await;
        let client = self.catalog_session(&mut catalog).await?;
        let fire = self.fire(self.capabilities().triggers);
        let green = read_table(&client, &table.name).await?;
        let green = green.ok_or_else(|| missing_table(table))?;
        let plan = TablePlan::new(table.clone(), green, fire)?;
        let conflicts = conflicts::read(&client, &plan, fire).await?;
        *catalog = Some(client);
        Ok(conflicts)
    }

    async fn shares_rows(&self, tables: &[Arc<TableSchema>]) -> Result<bool, TargetError> {
        let mut catalog = self.catalog.lock().await;
        let client = self.catalog_session(&mut catalog).await?;
        let related = conflicts::shares_rows(&client, tables).await?;
        *catalog = Some(client);
        Ok(related)
    }
}
