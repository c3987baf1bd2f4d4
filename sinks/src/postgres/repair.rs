//! A session that writes single rows beside the stream, each time in a transaction of its own that
//! keeps the stream away from the table while it lasts.
//!
//! When a row may be written, and why the stream can't have a newer one, is for whoever calls; what
//! is written goes through the same plans and statements as the stream's changes, counts included.

use std::time::Duration;

use decoders::change::{ChangeEvent, Lsn, QualifiedName};
use decoders::postgres::conninfo::ConnInfo;
use decoders::source::Disposition;
use tokio_postgres::Client;

use super::catalog::read_table;
use super::connect::connect_pipelined;
use super::error::target_error;
use super::frame::Frame;
use super::pipeline::{Failure, Pipeline};
use super::session::{self, Capabilities, OriginTracking};
use super::statements::missing_table;
use super::wire::Wire;
use super::writer::Writer;
use crate::own::{self, keys};
use crate::plan::{Fire, TablePlan};
use crate::progress::{REPAIR, origin_name};
use crate::target::TargetError;

/// `application_name` of the session.
const APPLICATION: &str = "cutover repair";
/// How long the table's lock is waited for. The stream's next change of the table waits behind us,
/// so not long; and longer than the second after which an autovacuum gives way.
const TABLE_LOCK_MS: u32 = 2000;
/// How long a row may wait for another one's lock (a foreign key's, where those fire): shorter than
/// `deadlock_timeout`, so that a deadlock with a lane ends with us.
const ROW_LOCK_MS: u32 = 500;

/// How long the server may take to notice that an earlier session of a repair is gone, which still has the
/// origin.
const ORIGIN_TRIES: u32 = 20;
const ORIGIN_PAUSE: Duration = Duration::from_millis(100);

/// A session that repairs. After an error of [`Repairer::write`] or [`Repairer::commit`] nothing of
/// the transaction is left and the session can go on, unless [`Repairer::is_lost`].
pub struct Repairer {
    wire: Wire,
    frame: Frame,
    writer: Writer,
    lost: bool,
}

async fn take_origin(client: &Client, name: &str) -> Result<OriginTracking, TargetError> {
    let mut tries = ORIGIN_TRIES;
    loop {
        match session::set_up_origin(client, name).await {
            Err(error) if error.disposition == Disposition::Retry && tries > 0 => {
                tries -= 1;
                tokio::time::sleep(ORIGIN_PAUSE).await;
            }
            taken => return taken,
        }
    }
}

impl Repairer {
    /// Connects and sets the session up as a lane's is. What is written is marked as that of
    /// `pipeline`, whose stream is applied there.
    ///
    /// # Errors
    /// The server's.
    pub async fn open(target: &ConnInfo, pipeline: &str) -> Result<Self, TargetError> {
        let (client, pipelined) = connect_pipelined(target, APPLICATION).await?;
        let triggers = session::set_up(&client).await?;
        session::set_up_lane(&client, true).await?;
        let server_version = client.server_version();
        let may_mark = own::may_mark(&client, server_version).await?;
        // Without either a stream the other way round would bring back what is written here; but then there
        // can't be one, as for the lanes.
        let origin = take_origin(&client, &origin_name(pipeline, REPAIR)).await?;
        let has_origin = matches!(origin, OriginTracking::Active { .. });
        keys::opens_lane(&client, pipeline, has_origin).await?;
        let content = match may_mark {
            true => Some(own::content(&keys::secret(&client, pipeline).await?, pipeline)),
            false => None,
        };
        // The session has its origin; there is no position that it could stand for.
        let origin = OriginTracking::Unavailable { reason: "of the session".to_owned() };
        // Not what the operator accepts for the stream: a row that is taken out and put in again must
        // not take along those that refer to it.
        let fire = triggers.fires();
        let capabilities = Capabilities { server_version, triggers, origin };
        let mut wire = Wire::new(client, pipelined);
        let frame = Frame::prepare(&mut wire, &capabilities, content).await?;
        Ok(Self { wire, frame, writer: Writer::new(fire), lost: false })
    }

    /// Begins a transaction in which nobody else can write to `table`: until its end the stream
    /// waits with its next change of it. What was written before is committed and visible to every
    /// session.
    ///
    /// # Errors
    /// The server's; a table that is not free within two seconds is a `Retry`.
    pub async fn begin(&mut self, table: &QualifiedName) -> Result<(), TargetError> {
        let mut pipe = Pipeline::new(&mut self.wire);
        let begun = async {
            self.frame.begin(&mut pipe).await?;
            pipe.drain().await
        };
        let begun: Result<(), Failure> = begun.await;
        if let Err(failure) = begun {
            return Err(self.undo(failure.error).await);
        }
        // SHARE ROW EXCLUSIVE: against writers and against another one of us, not against readers
        // (PostgreSQL manual, 13.3.1).
        let lock = format!(
            "SET LOCAL lock_timeout = {TABLE_LOCK_MS}; \
             LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE; \
             SET LOCAL lock_timeout = {ROW_LOCK_MS}"
        );
        let locked = match self.wire.session().await {
            Ok(session) => session
                .batch_execute(&lock)
                .await
                .map_err(|e| target_error(&format!("locking {table} on green"), &e)),
            Err(error) => Err(error),
        };
        match locked {
            Ok(()) => Ok(()),
            Err(error) => Err(self.undo(error).await),
        }
    }

    /// Asks for one number on this session, so inside the transaction.
    ///
    /// # Errors
    /// The server's.
    pub async fn number(&mut self, sql: &str) -> Result<i64, TargetError> {
        let asked = match self.wire.session().await {
            Ok(session) => session
                .query_one(sql, &[])
                .await
                .and_then(|row| row.try_get(0))
                .map_err(|e| target_error("asking green in a repair", &e)),
            Err(error) => Err(error),
        };
        match asked {
            Ok(number) => Ok(number),
            Err(error) => Err(self.undo(error).await),
        }
    }

    /// Writes changes in their order. `position` is where blue's log was when they were read, for
    /// errors.
    ///
    /// # Errors
    /// Green's; each change must affect exactly one row. The transaction is rolled back.
    pub async fn write(
        &mut self,
        changes: &[ChangeEvent],
        position: Lsn,
    ) -> Result<(), TargetError> {
        let mut pipe = Pipeline::new(&mut self.wire);
        let written = async {
            for change in changes {
                self.writer.change(&mut pipe, change, position).await?;
            }
            pipe.drain().await
        };
        let written: Result<(), Failure> = written.await;
        match written {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.undo(failure.error).await),
        }
    }

    /// Commits what was written.
    ///
    /// # Errors
    /// Green's. Whether it is committed is not known then if the connection is gone.
    pub async fn commit(&mut self) -> Result<(), TargetError> {
        let mut pipe = Pipeline::new(&mut self.wire);
        let committed = async {
            self.frame.send(&mut pipe, &self.frame.commit, "committing a repair on green").await?;
            pipe.drain().await
        };
        let committed: Result<(), Failure> = committed.await;
        match committed {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.undo(failure.error).await),
        }
    }

    /// Ends the transaction without a trace.
    pub async fn roll_back(&mut self) {
        let ended = match self.wire.session().await {
            Ok(session) => session.batch_execute("ROLLBACK").await.is_ok(),
            Err(_) => false,
        };
        self.lost |= !ended;
    }

    /// Whether the session is of no use any more.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    async fn undo(&mut self, error: TargetError) -> TargetError {
        self.roll_back().await;
        error
    }
}

/// Changes as statements that a person can read and type: values as literals, in the order in which
/// they come. All are of one table version.
///
/// # Errors
/// The server's; a table that does not fit.
pub async fn printed(client: &Client, changes: &[ChangeEvent]) -> Result<Vec<String>, TargetError> {
    let table = |change: &ChangeEvent| match change {
        ChangeEvent::Insert { table, .. }
        | ChangeEvent::Update { table, .. }
        | ChangeEvent::Delete { table, .. } => Some(table.clone()),
        ChangeEvent::Truncate { .. }
        | ChangeEvent::Message { .. }
        | ChangeEvent::Definition(_)
        | ChangeEvent::Distributed(_) => None,
    };
    let Some(schema) = changes.iter().find_map(table) else { return Ok(Vec::new()) };
    let green = read_table(client, &schema.name).await?;
    let green = green.ok_or_else(|| missing_table(&schema))?;
    let plan = TablePlan::new(schema, green, Fire::Accepted)?;
    let mut statements = Vec::new();
    for change in changes {
        statements.extend(plan.printed(change)?);
    }
    Ok(statements)
}
