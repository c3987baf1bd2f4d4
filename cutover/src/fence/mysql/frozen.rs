//! Where the side's history stands, read while nothing can be committed. The argument is in
//! [`super`].

use decoders::mysql::gtid::BinlogPosition;
use tokio::time::Instant;

use super::{MysqlUndo, Turn};
use crate::ports::{PortError, PortResult};
use crate::sql::mysql::MysqlSession;

const READ: &str = "SELECT CASE WHEN @@version LIKE '%MariaDB%' THEN 1 ELSE 0 END AS is_mariadb";
const READ_MYSQL: &str = "SELECT @@GLOBAL.gtid_executed AS position";
const READ_MARIADB: &str = "SELECT @@GLOBAL.gtid_binlog_pos AS position";

/// What stops every commit, and lets them go on.
pub(super) const BARRIER_MYSQL: [&[&str]; 2] =
    [&["SET GLOBAL super_read_only = ON"], &["SET GLOBAL super_read_only = OFF"]];
pub(super) const BARRIER_MARIADB: [&[&str]; 2] =
    [&["BACKUP STAGE START", "BACKUP STAGE BLOCK_COMMIT"], &["BACKUP STAGE END"]];

/// What was read.
pub(super) struct Frozen {
    /// Within the barrier.
    pub position: BinlogPosition,
    /// The history was seen to move around it: how.
    pub moved: Option<String>,
}

fn parsed(is_mariadb: bool, text: &str) -> Option<BinlogPosition> {
    match is_mariadb {
        true => text.parse().ok().map(BinlogPosition::Mariadb),
        false => text.parse().ok().map(BinlogPosition::Mysql),
    }
}

async fn read(
    session: &mut MysqlSession,
    is_mariadb: bool,
    place: &str,
    deadline: Instant,
) -> PortResult<BinlogPosition> {
    let sql = if is_mariadb { READ_MARIADB } else { READ_MYSQL };
    let row = session.row(sql, deadline).await;
    let row = row.map_err(|error| error.at(place, "reading the position"))?;
    let text = row.get("position").unwrap_or_default();
    parsed(is_mariadb, text).ok_or_else(|| {
        PortError::new(place, format!("the server's position can't be read: {text:.200}"))
    })
}

/// Where the history stands.
pub(super) async fn position(
    session: &mut MysqlSession,
    place: &str,
    deadline: Instant,
) -> PortResult<BinlogPosition> {
    let row = session.row(READ, deadline).await;
    let row = row.map_err(|error| error.at(place, "asking the server what it is"))?;
    read(session, row.is_true("is_mariadb"), place, deadline).await
}

/// How many transactions a history has. On MariaDB, which numbers them by domain, a number that grows
/// by one with each of a session that leaves the numbers to the server, and with no other event.
pub(super) fn ordinal(position: &BinlogPosition) -> u64 {
    match position {
        BinlogPosition::Mysql(set) => set.count(),
        BinlogPosition::Mariadb(position) => {
            position.iter().fold(0, |sum: u64, gtid| sum.wrapping_add(gtid.sequence))
        }
    }
}

/// Reads the position while no transaction can be committed.
pub(super) async fn freeze(
    turn: &mut Turn<'_>,
    undo: &MysqlUndo,
    deadline: Instant,
) -> PortResult<Frozen> {
    let (place, is_mariadb) = (turn.place, undo.is_mariadb);
    let [stop, go_on] = if is_mariadb { BARRIER_MARIADB } else { BARRIER_MYSQL };
    let before = read(turn.session(), is_mariadb, place, deadline).await?;
    let undo_try = if is_mariadb { go_on } else { &[] };
    turn.run_between(stop, undo_try, "stopping commits", deadline).await?;
    let within = read(turn.session(), is_mariadb, place, deadline).await?;
    for statement in go_on {
        turn.run(statement, "letting commits go on", deadline).await?;
    }
    let behind = read(turn.session(), is_mariadb, place, deadline).await?;
    let moved = (before != within || within != behind).then(|| {
        format!(
            "somebody who commits on {place} although nobody else is there: its history went from \
             {before} to {within} and {behind}"
        )
    });
    Ok(Frozen { position: within, moved })
}
