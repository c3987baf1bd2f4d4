//! How what we write on a target is told from what others write there, by whoever reads that
//! target's log: a stream the other way round must leave our writes out, or every change would come
//! back for ever.
//!
//! What is left out is lost if it was not ours. So nobody who may merely write to the database must be able
//! to make a mark that is believed ([`keys`] says by what):
//! - the replication origin of the lane's session, where the role may have one. Only who may use origins can
//!   put it on a commit. It travels with the commit, so a transaction that was received while it ran does not
//!   show it;
//! - from PostgreSQL 14 on a logical message, the first thing in each transaction that
//!   is published. Every role may write one, so it holds a [`Secret`] of this pipeline and direction. It comes
//!   first even when a large transaction comes in parts. Whoever may read the log (a role that may use
//!   replication slots) can read the secret: where there are origins too, the message alone is not enough;
//! - on MySQL and MariaDB a row of ours, the first change in each transaction, with a [`Claim`]: a proof that holds
//!   for one transaction. The decoder makes a message of it.

mod claim;
pub mod keys;
mod secret;

use decoders::change::ChangeEvent;
use tokio_postgres::Client;

pub use claim::Claim;
pub use secret::Secret;

use crate::postgres::target_error;
use crate::target::TargetError;

/// Prefix of the message; its content says whose it is.
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

/// The call that writes a mark; its content is the text parameter number `parameter`, which no statement
/// shows. Of what others may read it has to be the first in its transaction.
pub(crate) fn call(parameter: usize) -> String {
    format!("pg_catalog.pg_logical_emit_message(true, '{MESSAGE_PREFIX}', ${parameter}::text)")
}

/// The call of a transaction that writes nothing else. It proves nothing, and needs not: who leaves such a
/// transaction out leaves out nothing.
pub(crate) fn call_alone(pipeline: &str) -> String {
    format!(
        "pg_catalog.pg_logical_emit_message(true, '{MESSAGE_PREFIX}', '{}')",
        pipeline.replace('\'', "''")
    )
}

/// The content of a mark that proves whose it is.
pub fn content(secret: &Secret, pipeline: &str) -> String {
    format!("{} {pipeline}", secret.hex())
}

/// What a change says of whose transaction it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark<'a> {
    /// The pipeline's name, as the writer gives it.
    pub pipeline: &'a [u8],
    /// What it offers as proof.
    pub proof: Proof,
}

/// What a mark offers as proof.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Proof {
    /// Marks of a version that had no proofs, and of transactions that write nothing else.
    None,
    /// The secret itself (PostgreSQL).
    Secret(Secret),
    /// What the secret was made into (MySQL, MariaDB).
    Claim(Claim),
}

impl<'a> Mark<'a> {
    /// The mark that a change is, if it is one.
    pub fn of(change: &'a ChangeEvent) -> Option<Self> {
        let ChangeEvent::Message { prefix, content } = change else { return None };
        if prefix != MESSAGE_PREFIX {
            return None;
        }
        if let Some((claim, pipeline)) = content.strip_prefix(b"\0").and_then(Claim::read) {
            return Some(Self { pipeline, proof: Proof::Claim(claim) });
        }
        let secret = content.get(..Secret::HEX_BYTES).and_then(Secret::of_hex);
        match (secret, content.get(Secret::HEX_BYTES..)) {
            (Some(secret), Some([b' ', pipeline @ ..])) => {
                Some(Self { pipeline, proof: Proof::Secret(secret) })
            }
            _ => Some(Self { pipeline: content, proof: Proof::None }),
        }
    }
}

/// Whether a change names this pipeline as the writer. It proves nothing.
pub fn is_mark_of(change: &ChangeEvent, pipeline: &str) -> bool {
    Mark::of(change).is_some_and(|mark| mark.pipeline == pipeline.as_bytes())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn message(prefix: &str, content: &str) -> ChangeEvent {
        let content = Bytes::copy_from_slice(content.as_bytes());
        ChangeEvent::Message { prefix: prefix.into(), content }
    }

    #[test]
    fn the_mark_is_known_by_prefix_and_pipeline() {
        assert!(is_mark_of(&message(MESSAGE_PREFIX, "shop"), "shop"));
        assert!(!is_mark_of(&message(MESSAGE_PREFIX, "shop_back"), "shop"));
        assert!(!is_mark_of(&message("cutover.marker", "shop"), "shop"));
    }

    #[test]
    fn a_mark_gives_back_the_secret_that_it_was_made_with() {
        let secret = Secret::random();
        let made = message(MESSAGE_PREFIX, &content(&secret, "shop"));
        let mark = Mark::of(&made).unwrap();
        assert_eq!(mark, Mark { pipeline: b"shop", proof: Proof::Secret(secret) });
        // Cut short it is a strange name, and no proof.
        let cut = message(MESSAGE_PREFIX, &secret.hex());
        assert_eq!(Mark::of(&cut).unwrap().proof, Proof::None);
    }

    #[test]
    fn what_a_decoder_says_of_a_row_is_a_claim() {
        let claim = Claim::make(&Secret::random(), "shop", 1, 2);
        let made = message(MESSAGE_PREFIX, &format!("\0{} shop", claim.words()));
        assert_eq!(Mark::of(&made), Some(Mark { pipeline: b"shop", proof: Proof::Claim(claim) }));
        assert!(is_mark_of(&made, "shop"));
    }

    #[test]
    fn the_name_of_a_mark_that_stands_alone_is_a_literal() {
        assert!(call_alone("it's").ends_with("'cutover.own', 'it''s')"));
    }
}
