//! A server that does not answer: dead link, or busy?
//!
//! A walsender answers between records. While it decodes one huge transaction of which nothing is
//! published it may say nothing for minutes, and a reconnect would only make it start over. So the
//! server is asked on a second connection what the walsender is doing: one that waits for us while
//! we wait for it has lost the link, one that works is left alone.

use std::time::Duration;

use crate::postgres::conninfo::ConnInfo;
use crate::postgres::failure::{of_connect, of_session};
use crate::postgres::session;
use crate::source::SourceError;

/// The second connection has to come about in this time.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Between two looks: an answer may have been on its way at the first.
const SECOND_LOOK_AFTER: Duration = Duration::from_secs(1);

/// `Ok` if the server process `pid` is at work; an error says why the link counts as dead.
pub(in crate::postgres) async fn check_busy(
    source: &ConnInfo,
    application_name: &str,
    pid: i32,
) -> Result<(), SourceError> {
    let connect = session::connect(source, application_name);
    let session = match tokio::time::timeout(CONNECT_DEADLINE, connect).await {
        Ok(connected) => connected.map_err(of_connect)?,
        Err(_) => return Err(SourceError::retry("the source does not answer any more")),
    };
    if is_busy(&session, pid).await? {
        return Ok(());
    }
    tokio::time::sleep(SECOND_LOOK_AFTER).await;
    match is_busy(&session, pid).await? {
        true => Ok(()),
        false => Err(SourceError::retry(
            "the link to the source is dead: its process waits for us and we hear nothing",
        )),
    }
}

async fn is_busy(session: &session::Session, pid: i32) -> Result<bool, SourceError> {
    let doing = "look at the source's process";
    let row = session
        .query_opt(
            "SELECT wait_event_type IS NULL OR wait_event_type NOT IN ('Activity', 'Client')
             FROM pg_catalog.pg_stat_activity WHERE pid = $1",
            &[&pid],
        )
        .await
        .map_err(|error| of_session(doing, error))?;
    match row {
        Some(row) => row.try_get(0).map_err(|error| of_session(doing, error)),
        None => Err(SourceError::retry("the source's process has ended without a word")),
    }
}
