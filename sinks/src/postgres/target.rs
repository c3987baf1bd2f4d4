//! A PostgreSQL database as a target.

use std::sync::{Mutex, PoisonError};

use decoders::change::Lsn;
use decoders::postgres::conninfo::ConnInfo;
use decoders::postgres::session::Session;

use super::connect::connect;
use super::lane::{LaneStart, PgLane};
use super::session::{self, Blocker, Capabilities, OriginTracking};
use crate::plan::Fire;
use crate::progress::{self, StreamIdentity};
use crate::target::{LaneId, Target, TargetError};

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

/// A PostgreSQL database that changes are applied to.
pub struct PgTarget {
    green: ConnInfo,
    options: PgTargetOptions,
    capabilities: Mutex<Capabilities>,
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
        Ok(Self { green, options, capabilities })
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
}

fn one_lane_only(lane: u16) -> TargetError {
    TargetError::halt(
        format!("lane {lane} is in use on green, but this version applies with one lane, 0"),
        "Use the version of the replicator that began this stream",
    )
}

impl Target for PgTarget {
    type Lane = PgLane;

    async fn open_lane(&self, id: LaneId) -> Result<PgLane, TargetError> {
        if id != LaneId(0) {
            return Err(one_lane_only(id.0));
        }
        let stream = &self.options.stream;
        let application = format!("cutover apply {} {}", stream.pipeline, id.0);
        let client = connect(&self.green, &application).await?;
        let triggers = session::set_up(&client).await?;
        let server_version = client.server_version();
        let backend_pid = session::backend_pid(&client).await?;
        session::take_lane(&client, &stream.pipeline, id.0).await?;
        // Only now can nobody else move the progress any more.
        progress::register(&client, stream).await?;
        let progress = progress::open_lane(&client, &stream.pipeline, id).await?;
        let origin = match self.options.use_origin {
            true => {
                session::set_up_origin(&client, &progress::origin_name(&stream.pipeline, id))
                    .await?
            }
            false => OriginTracking::Unavailable { reason: "switched off".to_owned() },
        };
        let capabilities = Capabilities { server_version, triggers, origin };
        *self.capabilities.lock().unwrap_or_else(PoisonError::into_inner) = capabilities.clone();
        let fire = match self.options.accept_triggers {
            true => Fire::Accepted,
            false => triggers.fires(),
        };
        PgLane::start(LaneStart {
            session: client,
            id,
            pipeline: stream.pipeline.clone(),
            backend_pid,
            capabilities,
            fire,
            progress,
        })
        .await
    }

    async fn progress(&self) -> Result<Option<Lsn>, TargetError> {
        let client = connect(&self.green, "cutover progress").await?;
        progress::register(&client, &self.options.stream).await?;
        let lanes = progress::read(&client, &self.options.stream.pipeline).await?;
        // With several lanes no single row says how far the target got.
        if let Some(other) = lanes.iter().find(|progress| progress.lane != LaneId(0)) {
            return Err(one_lane_only(other.lane.0));
        }
        Ok(lanes.first().and_then(|progress| progress.end_lsn))
    }
}
