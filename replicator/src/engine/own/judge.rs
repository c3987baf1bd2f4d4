//! Whose a transaction is that somebody says is ours: by what is known of our lanes where it was written.

use std::collections::{BTreeMap, BTreeSet};

use decoders::{Transaction, UNTOLD_ORIGIN};
use sinks::mysql::own as binlog;
use sinks::own::keys::Known;
use sinks::own::{Claim, Mark, Proof};

/// Whose a transaction is, by what is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Whose {
    Ours,
    /// Whoever wrote it: it is data. `forged`: it says that it is ours.
    Others {
        forged: bool,
    },
    /// It has our replication origin, and no lane of ours has ever written there.
    OriginWithoutLane,
    /// It knows the secret, and all of ours have an origin.
    SecretWithoutOrigin,
    /// It has a mark of ours, which no client may write, and no lane of ours has ever written there.
    MarkWithoutLane,
}

/// What a transaction of a binlog claims.
pub(super) fn claim_of(transaction: &Transaction) -> Option<Claim> {
    match transaction.changes.first().and_then(Mark::of)?.proof {
        Proof::Claim(claim) => Some(claim),
        Proof::None | Proof::Secret(_) => None,
    }
}

/// Judges a transaction of a binlog, or the first part of one, that somebody says is ours. `last`: the number of
/// each lane's last one. Each has one of its own, but for a schema change, which has that of its note.
pub(super) fn judge_claim(
    transaction: &Transaction,
    pipeline: &str,
    last: &BTreeMap<u16, u64>,
    known: &binlog::Known,
) -> Whose {
    let (Some(secret), true) = (known.secret, known.has_written) else {
        return Whose::MarkWithoutLane;
    };
    let Some(claim) = claim_of(transaction) else {
        // The decoder says it of those alone that may be of a version that had no proofs.
        return match known.unproven_until.is_some() {
            true => Whose::Ours,
            false => Whose::Others { forged: true },
        };
    };
    let is_next = last.get(&claim.lane).is_none_or(|last| {
        claim.number > *last || claim.number == *last && transaction.definition().is_some()
    });
    match is_next && claim.is_proven(&secret, pipeline) {
        true => Whose::Ours,
        false => Whose::Others { forged: true },
    }
}

/// Judges a transaction of PostgreSQL, or the first part of one, that somebody says is ours.
pub(super) fn judge(
    transaction: &Transaction,
    pipeline: &str,
    origins: &BTreeSet<String>,
    known: &Known,
) -> Whose {
    let origin = transaction.origin.as_deref();
    if origin.is_some_and(|origin| origins.contains(origin)) {
        return match known.has_written {
            true => Whose::Ours,
            false => Whose::OriginWithoutLane,
        };
    }
    let mark = transaction.changes.first().and_then(Mark::of);
    let Some(mark) = mark.filter(|mark| mark.pipeline == pipeline.as_bytes()) else {
        return Whose::Others { forged: false };
    };
    // What flushes the log. Nothing is left out with it, whoever wrote it.
    if transaction.part.starts() && transaction.part.ends() && transaction.changes.len() == 1 {
        return Whose::Ours;
    }
    let commit = transaction.commit_lsn;
    match (mark.proof, known.secret) {
        (Proof::Secret(proof), Some(secret)) if proof == secret => {
            let has_origin = known.origin_since.is_some_and(|since| commit >= since);
            match has_origin && origin != Some(UNTOLD_ORIGIN) {
                true => Whose::SecretWithoutOrigin,
                false => Whose::Ours,
            }
        }
        // Of a version that had no secrets.
        (Proof::None, Some(_)) if known.has_written && commit < known.since => Whose::Ours,
        _ => Whose::Others { forged: true },
    }
}
