//! Changes of distributed transactions that are prepared: kept on green until they are committed.
//!
//! They are written in the transaction that moves the progress over the place where they were prepared, and
//! removed in the one that moves it over their end. So they are there exactly while they are needed,
//! whatever dies, and the source need not keep the log that they came in.

mod encoding;

use decoders::change::{ChangeEvent, Lsn};
use decoders::mysql::server::literal;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};

use self::encoding::{Malformed, Pieces, decode};
use super::error::{of_rows, target_error, too_large};
use crate::target::TargetError;

/// Bytes in one piece, unless a change has more.
const PIECE_BYTES: usize = 4 << 20;

/// What a message has at most beside the bytes of a piece and the pipeline's name.
const FRAME_BYTES: usize = 128;

const KEEPING: &str = "keeping a distributed transaction on green";

/// The identities that are prepared, with the number of the transaction that their changes came in.
const NAMES: &str = "_cutover.prepared";
/// The changes.
const PIECES: &str = "_cutover.prepared_piece";

/// A pipeline and the number of a transaction.
type Of<'a> = (&'a str, Lsn);

/// Makes the tables.
pub(super) fn create_statements(name_type: &str) -> [String; 2] {
    [
        format!(
            "CREATE TABLE IF NOT EXISTS {NAMES} (
               pipeline {name_type},
               identity varchar(300) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
               number bigint unsigned NOT NULL,
               PRIMARY KEY (pipeline, identity)
             ) ENGINE = InnoDB"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {PIECES} (
               pipeline {name_type},
               number bigint unsigned NOT NULL,
               piece int unsigned NOT NULL,
               content longblob NOT NULL,
               PRIMARY KEY (pipeline, number, piece)
             ) ENGINE = InnoDB"
        ),
    ]
}

fn failed(error: Error) -> TargetError {
    target_error(KEEPING, error)
}

fn condition((pipeline, number): Of<'_>) -> String {
    format!("pipeline = {} AND number = {}", literal(pipeline), number.0)
}

/// Keeps changes as pieces from the number `first` on; gives how many. `packet_bytes` is what green
/// takes in one message.
pub(super) async fn keep(
    conn: &mut Conn,
    of: Of<'_>,
    first: u32,
    changes: &[ChangeEvent],
    packet_bytes: usize,
) -> Result<u32, TargetError> {
    let (pipeline, number) = of;
    let mut count = 0;
    let pieces = Pieces::new(changes, PIECE_BYTES.min(packet_bytes / 2));
    for piece in pieces {
        let piece = piece.map_err(|what| {
            TargetError::halt(
                format!("a distributed transaction has a change that can't be kept: {what}"),
                "This is a defect of the engine: please report it",
            )
        })?;
        if piece.len() + pipeline.len() + FRAME_BYTES > packet_bytes {
            return Err(too_large(KEEPING));
        }
        let sql = format!("INSERT INTO {PIECES} VALUES (?, ?, ?, ?)");
        let kept = conn.exec_drop(sql, (pipeline, number.0, first + count, piece)).await;
        kept.map_err(|error| of_rows(KEEPING, error))?;
        count += 1;
    }
    Ok(count)
}

/// Says under which identity the changes of a number are prepared.
pub(super) async fn name(conn: &mut Conn, of: Of<'_>, identity: &str) -> Result<(), TargetError> {
    let (pipeline, number) = of;
    let sql = format!(
        "INSERT INTO {NAMES} VALUES ({}, {}, {})",
        literal(pipeline),
        literal(identity),
        number.0
    );
    conn.query_drop(sql).await.map_err(failed)
}

/// The number of the changes that are prepared under an identity.
pub(super) async fn find(
    conn: &mut Conn,
    pipeline: &str,
    identity: &str,
) -> Result<Option<Lsn>, TargetError> {
    let sql = format!(
        "SELECT number FROM {NAMES} WHERE pipeline = {} AND identity = {}",
        literal(pipeline),
        literal(identity)
    );
    let number: Option<u64> = conn.query_first(sql).await.map_err(failed)?;
    Ok(number.map(Lsn))
}

/// Forgets an identity.
pub(super) async fn unname(
    conn: &mut Conn,
    pipeline: &str,
    identity: &str,
) -> Result<(), TargetError> {
    let sql = format!(
        "DELETE FROM {NAMES} WHERE pipeline = {} AND identity = {}",
        literal(pipeline),
        literal(identity)
    );
    conn.query_drop(sql).await.map_err(failed)
}

/// The changes in a piece; `None` behind the last.
pub(super) async fn read(
    conn: &mut Conn,
    of: Of<'_>,
    piece: u32,
) -> Result<Option<Vec<ChangeEvent>>, TargetError> {
    let sql = format!("SELECT content FROM {PIECES} WHERE {} AND piece = {piece}", condition(of));
    let content: Option<Vec<u8>> = conn.query_first(sql).await.map_err(failed)?;
    let changes = content.map(|content| decode(content.into())).transpose();
    changes.map_err(|Malformed| {
        TargetError::halt(
            format!("what {PIECES} on green holds of transaction number {} can't be read", of.1.0),
            "It was changed by hand, or written by another version: make a new copy",
        )
    })
}

/// Drops all pieces of a number.
pub(super) async fn drop_pieces(conn: &mut Conn, of: Of<'_>) -> Result<(), TargetError> {
    let sql = format!("DELETE FROM {PIECES} WHERE {}", condition(of));
    conn.query_drop(sql).await.map_err(failed)
}
