//! How what we write on a target is told from what others write there, by whoever reads that
//! target's log: a stream the other way round must leave our writes out, or every change would come
//! back for ever.
//!
//! Two marks, because neither is always there:
//! - the replication origin of the lane's session, where the role may have one. It travels with the
//!   commit, so a transaction that is read while it still runs does not show it;
//! - from PostgreSQL 14 on a logical message, the first thing in each transaction that
//!   is published. Every role may write one, and it comes first even when a large transaction comes
//!   in parts.

use decoders::change::ChangeEvent;
use tokio_postgres::Client;

use crate::postgres::target_error;
use crate::target::TargetError;

/// Prefix of the message; its content is the pipeline's name.
pub const MESSAGE_PREFIX: &str = "cutover.own";

/// The first version whose pgoutput forwards messages, as `server_version_num`.
pub const MESSAGES_SINCE: u32 = 140_000;

/// Whether the mark can be written there: messages are forwarded, and nobody has taken the right away
/// that every role has.
pub async fn may_mark(client: &Client, version_num: u32) -> Result<bool, TargetError> {
    if version_num < MESSAGES_SINCE {
        return Ok(false);
    }
    // By name: version 17 has added an argument.
    let sql = "SELECT bool_and(pg_catalog.has_function_privilege(p.oid, 'EXECUTE'))
               FROM pg_catalog.pg_proc p
               WHERE p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace
                 AND p.proname = 'pg_logical_emit_message'";
    let row = client.query_one(sql, &[]).await;
    let row = row.map_err(|e| target_error("asking for the right to emit messages", &e))?;
    Ok(row.get::<_, Option<bool>>(0).unwrap_or(false))
}

/// The call that writes the mark. Of what others may read it has to be the first in its transaction.
pub(crate) fn call(pipeline: &str) -> String {
    format!(
        "pg_catalog.pg_logical_emit_message(true, '{MESSAGE_PREFIX}', '{}')",
        pipeline.replace('\'', "''")
    )
}

/// Whether a change is the mark of this pipeline's lanes.
pub fn is_mark_of(change: &ChangeEvent, pipeline: &str) -> bool {
    match change {
        ChangeEvent::Message { prefix, content } => {
            prefix == MESSAGE_PREFIX && content[..] == *pipeline.as_bytes()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn the_mark_is_known_by_prefix_and_pipeline() {
        let message = |prefix: &str, content: &'static str| ChangeEvent::Message {
            prefix: prefix.into(),
            content: Bytes::from(content),
        };
        assert!(is_mark_of(&message(MESSAGE_PREFIX, "shop"), "shop"));
        assert!(!is_mark_of(&message(MESSAGE_PREFIX, "shop_back"), "shop"));
        assert!(!is_mark_of(&message("cutover.marker", "shop"), "shop"));
    }

    #[test]
    fn the_name_is_a_literal() {
        assert!(call("it's").ends_with("'cutover.own', 'it''s')"));
    }
}
