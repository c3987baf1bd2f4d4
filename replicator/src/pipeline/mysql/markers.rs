//! The table of markers on a source, by which a cutover knows how far its stream has been read.

use cutover::marker::{MARKER_TABLE, MYSQL_MARKER_TABLE, SCHEMA};
use decoders::mysql::server::{self, Conn};
use mysql_async::prelude::Queryable;

/// The table is not there: neither it nor its database.
const MISSING: [u16; 2] = [1146, 1049];

/// Makes the table of markers if it is missing. A source that refuses that can be copied and streamed all
/// the same; that it can't be closed is what the prechecks of a cutover say.
pub(super) async fn make_table(source: &mut Conn, pipeline: &str) {
    let look = source.query_drop(format!("SELECT 1 FROM {SCHEMA}.{MARKER_TABLE} LIMIT 0")).await;
    let missing = look.as_ref().err().and_then(server::code).is_some_and(|c| MISSING.contains(&c));
    let mut made = look;
    if missing {
        made = Ok(());
        for statement in MYSQL_MARKER_TABLE {
            made = match made {
                Ok(()) => source.query_drop(statement).await,
                failed => failed,
            };
        }
    }
    if let Err(error) = made {
        tracing::warn!(
            pipeline,
            reason = server::describe(&error),
            remedy = MYSQL_MARKER_TABLE.join("; "),
            "the source has no table of markers, and no cutover from it is possible"
        );
    }
}
