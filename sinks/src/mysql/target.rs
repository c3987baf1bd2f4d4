//! A MySQL or MariaDB server as a target.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use decoders::change::TableSchema;
use decoders::mysql::server::ServerUrl;
use decoders::mysql::{Ledger, Place};
use mysql_async::Conn;

use super::conflicts::conflicts;
use super::events::{EventSession, Opened};
use super::lane::{LaneStart, MysqlLane};
use super::own::{self, Marks};
use super::plan::{Plan, missing_table};
use super::progress::{self, BinlogStreamIdentity};
use super::read::Cascades;
use super::{read, session};
use crate::conflicts::TableConflicts;
use crate::mark::{LaneMark, Reached};
use crate::target::{FlushedByLanes, LaneId, Target, TargetError};

/// What is decided about a target.
#[derive(Clone, Debug)]
pub struct MysqlTargetOptions {
    /// The stream that is applied.
    pub stream: BinlogStreamIdentity,
    /// Apply to tables although triggers of theirs would fire.
    pub accept_triggers: bool,
    /// Repeat schema changes where that is safe.
    pub applies_definitions: bool,
    /// Let rows go as row events where green's table has the form of blue's, if the stream keeps images.
    pub row_events: bool,
}

/// What [`Target::progress`] found, for the lanes that are opened after it: `None` for those that
/// were opened since.
type Found = BTreeMap<LaneId, Option<LaneMark>>;

/// The reader whose transactions are applied.
#[derive(Clone)]
struct Followed {
    ledger: Arc<Ledger>,
    source_logs_cascades: bool,
}

/// A MySQL or MariaDB server that changes are applied to.
pub struct MysqlTarget {
    green: ServerUrl,
    options: MysqlTargetOptions,
    followed: Mutex<Option<Followed>>,
    found: Mutex<Option<Found>>,
    place: Mutex<Option<Place>>,
    /// How many schema changes have come: what a lane knows of green's tables is of one number.
    definitions: Arc<AtomicU64>,
    cascades: Cascades,
}

impl MysqlTarget {
    /// Connects, makes the progress tables and registers the stream.
    ///
    /// # Errors
    /// Halts if another stream has the pipeline's name, or a right is missing.
    pub async fn open(green: ServerUrl, options: MysqlTargetOptions) -> Result<Self, TargetError> {
        let target = Self {
            green,
            options,
            followed: Mutex::default(),
            found: Mutex::default(),
            place: Mutex::default(),
            definitions: Arc::default(),
            cascades: Cascades::default(),
        };
        let mut conn = target.connect().await?;
        progress::create(&mut conn).await?;
        progress::register(&mut conn, &target.options.stream).await?;
        own::ensure(&mut conn, &target.options.stream.pipeline).await?;
        leave(conn).await;
        Ok(target)
    }

    /// The stream that is registered under a pipeline's name, if green knows one.
    ///
    /// # Errors
    /// Green can't be asked.
    pub async fn registered(
        green: &ServerUrl,
        pipeline: &str,
    ) -> Result<Option<BinlogStreamIdentity>, TargetError> {
        let (mut conn, _) = session::connect(green, false).await?;
        progress::create(&mut conn).await?;
        let found = progress::registered(&mut conn, pipeline).await?;
        leave(conn).await;
        Ok(found)
    }

    /// Forgets a pipeline's stream and its progress. Nothing of it there: fine.
    ///
    /// # Errors
    /// Green can't be asked, or refuses.
    pub async fn forget(green: &ServerUrl, pipeline: &str) -> Result<(), TargetError> {
        let (mut conn, _) = session::connect(green, false).await?;
        progress::forget(&mut conn, pipeline).await?;
        leave(conn).await;
        Ok(())
    }

    /// The newest place that green has stored, as [`Target::progress`] found it: where a reader can
    /// begin without missing anything.
    pub fn place(&self) -> Place {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner).clone();
        place.unwrap_or_else(|| self.options.stream.start_place())
    }

    /// The ledger of the reader whose transactions the lanes will apply. Before a lane is opened.
    ///
    /// `source_logs_cascades`: whether the log that it reads has what the source's cascading foreign keys
    /// did. MySQL's has from 9.6 on, unless `innodb_native_foreign_keys` is on: the child's rows come
    /// before the parent's, so green must check nothing. All others have not: green's own cascades have to
    /// do it again.
    pub fn follow(&self, ledger: Arc<Ledger>, source_logs_cascades: bool) {
        let followed = Followed { ledger, source_logs_cascades };
        *self.followed.lock().unwrap_or_else(PoisonError::into_inner) = Some(followed);
    }

    async fn connect(&self) -> Result<Conn, TargetError> {
        Ok(session::connect(&self.green, true).await?.0)
    }

    fn followed(&self) -> Result<Followed, TargetError> {
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        followed.ok_or_else(|| {
            TargetError::halt(
                "no reader's ledger is followed",
                "This is a defect: please report it",
            )
        })
    }

    fn found(&self) -> MutexGuard<'_, Option<Found>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn leave(conn: Conn) {
    if let Err(error) = conn.disconnect().await {
        tracing::debug!(reason = %error, "a connection to green was not closed in order");
    }
}

impl Target for MysqlTarget {
    type Lane = MysqlLane;
    type Flusher = FlushedByLanes;

    async fn open_lane(&self, id: LaneId) -> Result<MysqlLane, TargetError> {
        let stream = &self.options.stream;
        let Followed { ledger, source_logs_cascades } = self.followed()?;
        let checks_foreign_keys = !source_logs_cascades;
        let (mut conn, capabilities) = session::connect(&self.green, checks_foreign_keys).await?;
        session::take_lane(&mut conn, &stream.pipeline, id.0).await?;
        // Only now can nobody else move the progress any more.
        progress::register(&mut conn, stream).await?;
        let events = match self.options.row_events {
            true => {
                EventSession::open(&mut conn, &capabilities.server, checks_foreign_keys).await?
            }
            false => Opened::Statements("apply.row_events = 'off'".to_owned()),
        };
        let events = match events {
            Opened::Events(session) => Some(session),
            Opened::Statements(why) => {
                tracing::info!(lane = id.0, why, "all rows go as statements");
                None
            }
        };
        let progress = progress::open_lane(&mut conn, &stream.pipeline, id).await?;
        let marks = Marks::open(&mut conn, &stream.pipeline, id).await?;
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
        Ok(MysqlLane::start(LaneStart {
            conn,
            id,
            pipeline: stream.pipeline.clone(),
            capabilities,
            ledger,
            progress,
            marks,
            checks_foreign_keys,
            accept_triggers: self.options.accept_triggers,
            applies_definitions: self.options.applies_definitions,
            definitions: Arc::clone(&self.definitions),
            cascades: self.cascades.clone(),
            events,
        }))
    }

    async fn open_flusher(&self) -> Result<FlushedByLanes, TargetError> {
        Ok(FlushedByLanes)
    }

    /// Takes every lane that has a row, so that no session of an earlier life can still commit, and
    /// reads what all of them have.
    async fn progress(&self) -> Result<Reached, TargetError> {
        let stream = &self.options.stream;
        let mut conn = self.connect().await?;
        progress::register(&mut conn, stream).await?;
        let mut lanes = vec![LaneId(0)];
        let rows = progress::read(&mut conn, &stream.pipeline).await?;
        lanes.extend(rows.into_iter().map(|row| row.lane));
        lanes.dedup();
        for lane in &lanes {
            session::take_lane(&mut conn, &stream.pipeline, lane.0).await?;
        }
        let rows = progress::read(&mut conn, &stream.pipeline).await?;
        for lane in &lanes {
            session::give_back_lane(&mut conn, &stream.pipeline, lane.0).await?;
        }
        leave(conn).await;
        let places = rows.iter().filter_map(|row| row.place.as_ref());
        let newest = places.max_by_key(|place| place.number).cloned();
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = newest;
        let reached = Reached::by(rows.iter().map(|row| &row.mark));
        *self.found() = Some(rows.into_iter().map(|row| (row.lane, Some(row.mark))).collect());
        Ok(reached)
    }

    async fn conflicts(&self, table: &Arc<TableSchema>) -> Result<TableConflicts, TargetError> {
        let checks = !self.followed()?.source_logs_cascades;
        let (mut conn, capabilities) = session::connect(&self.green, checks).await?;
        let server = &capabilities.server;
        let (cascades, now) = (&self.cascades, self.definitions.load(Ordering::Acquire));
        let green = read::table(&mut conn, server, &table.name, cascades, now).await?;
        let green = green.ok_or_else(|| missing_table(table))?;
        let mut parents = Vec::new();
        for key in &green.info.foreign_keys {
            parents.extend(read::table(&mut conn, server, &key.references, cascades, now).await?);
        }
        leave(conn).await;
        let parents: Vec<_> = parents.into_iter().map(|parent| parent.info).collect();
        let plan = Plan::new(table.clone(), &green, checks, self.options.accept_triggers)?;
        Ok(conflicts(table, &plan, &green, &parents, checks))
    }

    async fn shares_rows(&self, _tables: &[Arc<TableSchema>]) -> Result<bool, TargetError> {
        Ok(false)
    }
}
