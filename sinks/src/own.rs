//! How what we write on a target is told from what others write there, by whoever reads that
//! target's log: a stream the other way round must leave our writes out, or every change would come
//! back for ever.
//!
//! Two marks, because neither is always there:
//! - the replication origin of the lane's session, where the role may have one. It travels with the
//!   commit, so a transaction that is read while it still runs does not show it;
//! - from PostgreSQL 14 on a logical message, the first thing in each transaction. Every role may
//!   write one, and it comes first even when a large transaction comes in parts.

use decoders::change::ChangeEvent;

/// Prefix of the message; its content is the pipeline's name.
pub const MESSAGE_PREFIX: &str = "cutover.own";

/// The first version whose pgoutput forwards messages, as `server_version_num`.
pub const MESSAGES_SINCE: u32 = 140_000;

/// The statement that writes the mark, right behind BEGIN; `None` where messages are not forwarded.
pub(crate) fn statement(version_num: u32, pipeline: &str) -> Option<String> {
    (version_num >= MESSAGES_SINCE).then(|| {
        format!(
            "SELECT pg_catalog.pg_logical_emit_message(true, '{MESSAGE_PREFIX}', '{}')",
            pipeline.replace('\'', "''")
        )
    })
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
    fn there_is_no_mark_before_messages_are_forwarded() {
        assert_eq!(statement(130_023, "shop"), None);
        assert!(statement(140_000, "it's").unwrap().ends_with("'cutover.own', 'it''s')"));
    }
}
