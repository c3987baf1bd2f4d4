//! By what the transactions of a pipeline's lanes are known in the log of a MySQL or MariaDB server: see
//! [`crate::own`].
//!
//! Each of them begins with a change to `_cutover.mark`: the lane, a number that grows, and a proof that holds for
//! these alone, made with the secret in `_cutover.own_mark`. Who may write to `_cutover` without reading it can't
//! make one, and who has read one in the log can't use it again while its stream is read.
//!
//! # Marks of a version that had no proofs
//! Their transactions began with a change to `_cutover.progress`. `own_mark` says where the server's log was when
//! the secret was made, with all lanes taken: behind that such a change marks nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server::{self, Server, ServerUrl, code, literal};
use decoders::mysql::stream::MARK_TABLE;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::error::{of_source, target_error};
use super::literal::hexadecimal;
use super::{progress, session};
use crate::own::{Claim, Secret};
use crate::target::{LaneId, TargetError};

const READING: &str = "reading by what our own transactions are known";
const MAKING: &str = "making the mark of our own transactions";
/// What a server says of a table or a database that is not there.
const ABSENT: [u16; 2] = [1146, 1049];

/// By what the transactions of a pipeline's lanes are known on the server that they write to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Known {
    /// What their proofs are made with. None if the pipeline was never set up there.
    pub secret: Option<Secret>,
    /// Up to here there were no proofs.
    pub unproven_until: Option<BinlogPosition>,
    /// Whether a lane was ever opened there. If not, nothing can be ours.
    pub has_written: bool,
}

/// The tables. `name` is the type of a name.
pub(super) fn create_statements(name: &str) -> [String; 2] {
    [
        format!(
            "CREATE TABLE IF NOT EXISTS _cutover.own_mark (
               pipeline {name} PRIMARY KEY,
               secret binary(16) NOT NULL,
               unproven_until longtext CHARACTER SET ascii,
               has_written boolean NOT NULL
             ) ENGINE = InnoDB"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS _cutover.{MARK_TABLE} (
               pipeline {name},
               lane int NOT NULL,
               opened bigint unsigned NOT NULL,
               claim varchar(100) CHARACTER SET ascii NOT NULL,
               PRIMARY KEY (pipeline, lane)
             ) ENGINE = InnoDB"
        ),
    ]
}

/// What is known of a pipeline on the server that it applies to, for who reads that server's log. Makes a
/// secret where a version without them has written.
///
/// # Errors
/// The server's.
pub async fn learn(url: &ServerUrl, pipeline: &str) -> Result<Known, TargetError> {
    let mut conn = server::connect_to_write(url).await.map_err(of_source)?;
    let known = async {
        if let Some(known) = read(&mut conn, pipeline).await? {
            return Ok(known);
        }
        if !is_registered(&mut conn, pipeline).await? {
            return Ok(Known::default());
        }
        progress::create(&mut conn).await?;
        ensure(&mut conn, pipeline).await
    };
    let known = known.await;
    if let Err(error) = conn.disconnect().await {
        tracing::debug!(reason = %error, "a connection was not closed in order");
    }
    known
}

fn just_removed() -> TargetError {
    TargetError::retry("the mark of our own transactions was just removed")
}

/// The answer, or nothing where there is no such table.
fn or_absent<T>(answer: Result<Option<T>, mysql_async::Error>) -> Result<Option<T>, TargetError> {
    match answer {
        Err(error) if code(&error).is_some_and(|code| ABSENT.contains(&code)) => Ok(None),
        answer => answer.map_err(|error| target_error(READING, error)),
    }
}

async fn read(conn: &mut Conn, pipeline: &str) -> Result<Option<Known>, TargetError> {
    type Fields = (Vec<u8>, Option<String>, bool);
    let sql = format!(
        "SELECT secret, unproven_until, has_written FROM _cutover.own_mark WHERE pipeline = {}",
        literal(pipeline)
    );
    let row: Option<Fields> = or_absent(conn.query_first(sql).await)?;
    let Some((secret, until, has_written)) = row else { return Ok(None) };
    let secret = Some(Secret::of_bytes(&secret).ok_or_else(by_hand)?);
    let until = until.map(|text| text.parse()).transpose();
    Ok(Some(Known { secret, unproven_until: until.map_err(|_| by_hand())?, has_written }))
}

fn by_hand() -> TargetError {
    TargetError::halt(
        "_cutover.own_mark holds something that is none of ours",
        "_cutover.own_mark was changed by hand: restore it",
    )
}

/// Whether a stream of this pipeline is applied there, or was.
async fn is_registered(conn: &mut Conn, pipeline: &str) -> Result<bool, TargetError> {
    let sql = format!("SELECT 1 FROM _cutover.stream WHERE pipeline = {}", literal(pipeline));
    let row: Option<u8> = or_absent(conn.query_first(sql).await)?;
    Ok(row.is_some())
}

/// What is known of the pipeline here, with a secret: made now, if there was none. The tables must exist.
///
/// # Errors
/// Retry while a lane's session of another life is there.
pub(super) async fn ensure(conn: &mut Conn, pipeline: &str) -> Result<Known, TargetError> {
    if let Some(known) = read(conn, pipeline).await? {
        return Ok(known);
    }
    let rows = progress::read(conn, pipeline).await?;
    for row in &rows {
        session::take_lane(conn, pipeline, row.lane.0).await?;
    }
    let made = make(conn, pipeline, !rows.is_empty()).await;
    for row in &rows {
        session::give_back_lane(conn, pipeline, row.lane.0).await?;
    }
    made?;
    read(conn, pipeline).await?.ok_or_else(just_removed)
}

async fn make(conn: &mut Conn, pipeline: &str, has_written: bool) -> Result<(), TargetError> {
    let mut until = "NULL".to_owned();
    if has_written {
        let server = Server::read(conn).await.map_err(of_source)?;
        let head = match server.is_mariadb() {
            true => "SELECT @@GLOBAL.gtid_binlog_pos",
            false => "SELECT @@GLOBAL.gtid_executed",
        };
        let head: Result<Option<String>, _> = conn.query_first(head).await;
        let head = head.map_err(|error| target_error(MAKING, error))?;
        until = literal(&head.unwrap_or_default());
    }
    let mut secret = Vec::new();
    hexadecimal(&mut secret, Secret::random().bytes());
    let sql = format!(
        "INSERT IGNORE INTO _cutover.own_mark VALUES ({}, {}, {until}, {has_written})",
        literal(pipeline),
        String::from_utf8_lossy(&secret)
    );
    conn.query_drop(sql).await.map_err(|error| target_error(MAKING, error))
}

/// The marks of one lane: each is another one.
#[derive(Debug)]
pub(super) struct Marks {
    secret: Secret,
    pipeline: String,
    lane: LaneId,
    /// The number of the last one.
    opened: AtomicU64,
}

impl Marks {
    /// Of a lane that nobody else has, and that is about to write.
    ///
    /// # Errors
    /// Green's; retry if there is no secret.
    pub async fn open(conn: &mut Conn, pipeline: &str, lane: LaneId) -> Result<Self, TargetError> {
        let secret = ensure(conn, pipeline).await?.secret.ok_or_else(just_removed)?;
        let name = literal(pipeline);
        let row =
            format!("INSERT IGNORE INTO _cutover.{MARK_TABLE} VALUES ({name}, {}, 0, '')", lane.0);
        let written = format!(
            "UPDATE _cutover.own_mark SET has_written = true WHERE pipeline = {name} AND NOT has_written"
        );
        for sql in [written, row] {
            conn.query_drop(sql).await.map_err(|error| target_error(MAKING, error))?;
        }
        let marks = Self { secret, pipeline: pipeline.to_owned(), lane, opened: AtomicU64::new(0) };
        marks.look(conn).await?;
        Ok(marks)
    }

    /// Goes on behind the last that is there, which stays the last until the session's transaction ends.
    ///
    /// # Errors
    /// Green's.
    pub async fn look(&self, conn: &mut Conn) -> Result<(), TargetError> {
        let sql =
            format!("SELECT opened FROM _cutover.{MARK_TABLE} WHERE {} FOR UPDATE", self.which());
        let opened: Result<Option<u64>, _> = conn.query_first(sql).await;
        let opened = opened.map_err(|error| target_error(READING, error))?;
        self.opened.store(opened.ok_or_else(just_removed)?, Ordering::Relaxed);
        Ok(())
    }

    /// The statement that is first in each of a lane's transactions: it holds the row from then on, and
    /// stands before everything else in the server's own log. It changes one row.
    pub fn statement(&self) -> Vec<u8> {
        let opened = self.opened.fetch_add(1, Ordering::Relaxed) + 1;
        let claim = Claim::make(&self.secret, &self.pipeline, self.lane.0, opened);
        let sql = format!(
            "UPDATE _cutover.{MARK_TABLE} SET opened = {opened}, claim = '{}' WHERE {} AND opened < {opened}",
            claim.words(),
            self.which(),
        );
        sql.into_bytes()
    }

    fn which(&self) -> String {
        format!("pipeline = {} AND lane = {}", literal(&self.pipeline), self.lane.0)
    }
}
