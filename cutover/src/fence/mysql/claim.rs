//! Whose a closed server is: the one row of `_cutover.fence`.
//!
//! What a claim is for, and who may do what with it, is argued in `fence/postgres/claim.rs`. There one
//! transaction looks at the claim and changes the side. Here variables and accounts know no
//! transactions, so what takes their place is a lock of the server, held by the session that acts:
//!
//! - Whoever changes the side first takes the lock ([`Turn`]), then looks at the claim, and changes the
//!   side in that very session. A client that stops in between, however long, still has the lock; one
//!   whose session was ended meanwhile to free the lock can't send anything in it any more.
//! - The claim is written before the first change and removed after the last one. So a server that is
//!   closed, or half closed, says by whom, at every moment.
//! - A statement that a dead client had sent may still be waiting in its session, lock in hand. It is
//!   ended, and has ended, before anybody else's turn begins.
//!
//! The lock goes with its session, and the row stays until whoever is named in it removes it: the row is
//! written with the binlog off, because it is about this server and no replica.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Held, MysqlUndo, Turn, superseded};
use crate::ports::{Claim, Claimed, PortError, PortResult};
use crate::sql::mysql::{Answer, MysqlSlot, literal};

const CREATE: &str = "CREATE TABLE IF NOT EXISTS _cutover.fence (id tinyint NOT NULL PRIMARY KEY, \
     closed_by text CHARACTER SET utf8mb4 NOT NULL, \
     undo_list longtext CHARACTER SET utf8mb4 NOT NULL, closed_at datetime(6) NOT NULL) ENGINE = InnoDB";
const FIND: &str = "SELECT closed_by, undo_list FROM _cutover.fence";
/// Removes a claim, whoever's; for people.
pub(super) const REMOVE: &str = "DELETE FROM _cutover.fence";

/// What stands in the row.
#[derive(Serialize, Deserialize)]
struct Undo {
    claim: Claim,
    undo: MysqlUndo,
}

fn found(place: &str, answer: &Answer) -> PortResult<Option<Claimed<MysqlUndo>>> {
    let Some(row) = answer.rows.first() else { return Ok(None) };
    match serde_json::from_str::<Undo>(row.get("undo_list").unwrap_or_default()) {
        Ok(Undo { claim, undo }) => Ok(Some(Claimed { claim, undo })),
        Err(error) => Err(PortError::new(
            place,
            format!(
                "{place} is closed by a claim that can't be read: {:.120}",
                row.get("closed_by").unwrap_or("nobody is named")
            ),
        )
        .remedy("start the version of the sidecar that has closed it")
        .caused_by(error)),
    }
}

/// The claim, whoever made it.
pub(super) async fn find(
    look: &MysqlSlot,
    place: &str,
    deadline: Instant,
) -> PortResult<Option<Claimed<MysqlUndo>>> {
    match look.try_run(FIND, deadline).await? {
        Ok(answer) => found(place, &answer),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error.at(place, "reading who has closed it")),
    }
}

/// The same, by who has the turn.
pub(super) async fn read(
    turn: &mut Turn<'_>,
    deadline: Instant,
) -> PortResult<Option<Claimed<MysqlUndo>>> {
    match turn.try_run(FIND, deadline).await {
        Ok(answer) => found(turn.place, &answer),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error.at(turn.place, "reading who has closed it")),
    }
}

/// Who it is, by the claim that was found.
pub(super) fn held(found: Option<&Claimed<MysqlUndo>>, ours: Option<&Claim>) -> Held {
    match found {
        None => Held::Nobody,
        Some(found) if Some(&found.claim) == ours => Held::Us,
        Some(found) => Held::Other(found.claim.to_string()),
    }
}

/// Says who closes it.
///
/// # Errors
/// Somebody else has closed it; nothing was changed.
pub(super) async fn take(
    turn: &mut Turn<'_>,
    undo: &MysqlUndo,
    deadline: Instant,
) -> PortResult<()> {
    let before = read(turn, deadline).await?;
    match held(before.as_ref(), undo.claim.as_ref()) {
        Held::Us => return Ok(()),
        Held::Nobody => {}
        other => return Err(superseded(turn.place, &other)),
    }
    let Some(claim) = &undo.claim else { return Ok(()) };
    let doing = "writing down who closes it";
    turn.run(CREATE, doing, deadline).await?;
    let row = Undo { claim: claim.clone(), undo: undo.clone() };
    // Text and lists of it: all of it can be JSON.
    let list = serde_json::to_string(&row).unwrap_or_default();
    let insert = format!(
        "INSERT INTO _cutover.fence VALUES (1, {}, {}, utc_timestamp(6))",
        literal(&claim.to_string()),
        literal(&list)
    );
    turn.run(&insert, doing, deadline).await?;
    Ok(())
}

/// It is open: nobody closes it any more.
pub(super) async fn give_back(
    turn: &mut Turn<'_>,
    undo: &MysqlUndo,
    deadline: Instant,
) -> PortResult<()> {
    if undo.claim.is_some() {
        turn.run(REMOVE, "taking back who closes it", deadline).await?;
    }
    Ok(())
}
