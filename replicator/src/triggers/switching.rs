//! States and notes, changed together.

use std::collections::HashMap;
use std::time::Duration;

use decoders::QualifiedName;
use decoders::postgres::catalog::Firing;
use decoders::postgres::session::Session;
use decoders::source::Disposition;
use sinks::TargetError;
use sinks::postgres::target_error;
use tokio::time::Instant;
use tokio_postgres::error::SqlState;

use super::due::Due;
use super::found::{Found, Kind, Which};
use super::locks::{self, Way};
use super::{BATCH, noted};

/// How long those that could not be had together are tried one by one, while clients or changes wait.
const ONE_BY_ONE: Duration = Duration::from_secs(2);

/// The same where nobody waits for it but the next who switches something.
const ROUND: Duration = Duration::from_secs(10);

/// What was set, and what could not be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Switched {
    /// Those that are as noted.
    pub done: Vec<Which>,
    /// What is not as noted, and why.
    pub missing: Vec<String>,
    /// Noted, and not there any more: their notes are struck out.
    pub gone: Vec<Which>,
}

/// What is switched in one transaction or not at all.
pub(super) type Family = Vec<(Which, Firing)>;

/// Families of these, of which parents come before their partitions. From 11 to 14 the statement for a trigger of a
/// partitioned table reaches those that partitions have of it, whatever it says of ONLY: were a parent's run later, it
/// would undo theirs. Elsewhere each is for itself.
pub(super) fn families(wanted: Vec<(Found, Firing)>, server_version: u32) -> Vec<Family> {
    let reaches_down = (110_000..150_000).contains(&server_version);
    let mut families: Vec<Family> = Vec::new();
    let mut heads: HashMap<(Kind, String, QualifiedName), usize> = HashMap::new();
    for (Found { which, above, .. }, state) in wanted {
        let head = |table: &QualifiedName| (which.kind, which.name.clone(), table.clone());
        let known = above.iter().find_map(|table| heads.get(&head(table)).copied());
        match known.filter(|_| reaches_down) {
            Some(at) => families[at].push((which, state)),
            None => {
                heads.insert(head(&which.table), families.len());
                families.push(vec![(which, state)]);
            }
        }
    }
    families
}

/// Switches these off, each in the transaction that notes its state. `may_have_fired`: changes were applied while they
/// were on. Gives those that are still on because of others' locks, and why.
pub(super) async fn off(
    target: &Session,
    pipeline: &str,
    acting: &[Found],
    may_have_fired: bool,
) -> Result<Vec<(Found, String)>, TargetError> {
    let mut refused: Vec<&Found> = Vec::new();
    for batch in acting.chunks(BATCH) {
        let batch: Vec<_> = batch.iter().collect();
        let names = || batch.iter().map(|one| &one.which);
        let mut done =
            off_at_once(target, pipeline, &batch, may_have_fired, Way::Beside.lock_timeout_ms())
                .await;
        if done.is_err() && !target.is_closed() {
            let timeout_ms = locks::clear(target, names(), Way::Beside).await;
            done = off_at_once(target, pipeline, &batch, may_have_fired, timeout_ms).await;
        }
        match done {
            Ok(()) => {}
            Err(error) if target.is_closed() || error.disposition == Disposition::Halt => {
                return Err(error);
            }
            Err(_) => refused.extend(batch),
        }
    }
    let until = Instant::now() + ONE_BY_ONE;
    let mut still = Vec::new();
    for one in refused {
        let why = match Instant::now() < until {
            true => {
                let timeout_ms = Way::Beside.lock_timeout_ms();
                match off_at_once(target, pipeline, &[one], may_have_fired, timeout_ms).await {
                    Ok(()) => continue,
                    Err(error) if target.is_closed() => return Err(error),
                    Err(error) => {
                        error.to_string() + &locks::told(target, [&one.which].into_iter()).await
                    }
                }
            }
            false => NO_TIME.to_owned(),
        };
        still.push((one.clone(), why));
    }
    Ok(still)
}

const NO_TIME: &str = "there was no more time for it";

async fn off_at_once(
    target: &Session,
    pipeline: &str,
    batch: &[&Found],
    may_have_fired: bool,
    timeout_ms: u32,
) -> Result<(), TargetError> {
    begin(target, timeout_ms).await?;
    let done = async {
        noted::write_off(target, pipeline, batch, may_have_fired).await?;
        set(target, batch.iter().map(|one| (&one.which, Firing::Disabled))).await
    };
    end(target, done.await).await
}

/// Renews notes, in one transaction.
pub(super) async fn renew(target: &Session, pipeline: &str, due: &Due) -> Result<(), TargetError> {
    begin(target, Way::Beside.lock_timeout_ms()).await?;
    let done = async {
        let gone: Vec<_> = due.strike.iter().collect();
        noted::strike(target, pipeline, &gone).await?;
        noted::write(target, pipeline, due.note.iter().map(|(which, state)| (which, *state))).await
    };
    end(target, done.await).await
}

/// Sets these states and strikes their notes. The error is a lost session's.
pub(super) async fn on(
    target: &Session,
    pipeline: &str,
    families: &[Family],
    way: Way,
) -> Result<Switched, TargetError> {
    let mut switched = Switched::default();
    let is_again = matches!(way, Way::Again(_));
    let mut refused: Vec<&Family> = Vec::new();
    for batch in batches(families) {
        if is_again {
            refused.extend(batch);
            continue;
        }
        let all: Vec<_> = batch.iter().copied().flatten().collect();
        match persist(target, pipeline, &all, way).await {
            Ok(()) => switched.done.extend(all.iter().map(|(which, _)| which.clone())),
            Err(error) if target.is_closed() => return Err(error),
            Err(_) => refused.extend(batch),
        }
    }
    if let Way::Again(tries) = way
        && !refused.is_empty()
    {
        // Whoever there was no time for the last time comes earlier.
        let first = tries as usize % refused.len();
        refused.rotate_left(first);
    }
    let until = Instant::now() + if is_again { ROUND } else { ONE_BY_ONE };
    for family in refused {
        let all: Vec<_> = family.iter().collect();
        let why = match Instant::now() < until {
            true => {
                let done = match is_again {
                    true => persist(target, pipeline, &all, way).await,
                    false => switch(target, pipeline, &all, way.lock_timeout_ms()).await,
                };
                match done {
                    Ok(()) => {
                        switched.done.extend(family.iter().map(|(which, _)| which.clone()));
                        continue;
                    }
                    Err(error) if target.is_closed() => return Err(error),
                    Err(error) => {
                        let names = family.iter().map(|(which, _)| which);
                        error.to_string() + &locks::told(target, names).await
                    }
                }
            }
            false => NO_TIME.to_owned(),
        };
        let missing = family.iter();
        let missing =
            missing.map(|(which, state)| format!("{which} ({}): {why}", which.statement(*state)));
        switched.missing.extend(missing);
    }
    Ok(switched)
}

/// Families that are tried together.
fn batches(families: &[Family]) -> Vec<Vec<&Family>> {
    let mut batches: Vec<Vec<&Family>> = Vec::new();
    let mut room = 0;
    for family in families {
        match batches.last_mut() {
            Some(batch) if family.len() <= room => {
                batch.push(family);
                room -= family.len();
            }
            _ => {
                batches.push(vec![family]);
                room = BATCH.saturating_sub(family.len());
            }
        }
    }
    batches
}

/// Tries it, tells who is in the way to go, and tries it once more.
async fn persist(
    target: &Session,
    pipeline: &str,
    batch: &[&(Which, Firing)],
    way: Way,
) -> Result<(), TargetError> {
    match switch(target, pipeline, batch, way.lock_timeout_ms()).await {
        Err(_) if !target.is_closed() => {
            let names = batch.iter().map(|(which, _)| which);
            let timeout_ms = locks::clear(target, names, way).await;
            switch(target, pipeline, batch, timeout_ms).await
        }
        done => done,
    }
}

async fn switch(
    target: &Session,
    pipeline: &str,
    batch: &[&(Which, Firing)],
    timeout_ms: u32,
) -> Result<(), TargetError> {
    begin(target, timeout_ms).await?;
    let done = async {
        set(target, batch.iter().map(|(which, state)| (which, *state))).await?;
        let which: Vec<_> = batch.iter().map(|(which, _)| which).collect();
        noted::strike(target, pipeline, &which).await
    };
    end(target, done.await).await
}

/// Ordinary event triggers for DDL (an audit, a veto) have seen the application's own statement, on the source. They
/// keep quiet about ours, where our role may have that; one that is enabled ALWAYS does not.
async fn begin(target: &Session, timeout_ms: u32) -> Result<(), TargetError> {
    let sql =
        format!("BEGIN READ WRITE; SET LOCAL lock_timeout = {timeout_ms}; SAVEPOINT as_replica");
    target.batch_execute(&sql).await.map_err(failed)?;
    match target.batch_execute("SET LOCAL session_replication_role = replica").await {
        Ok(()) => Ok(()),
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
            target.batch_execute("ROLLBACK TO SAVEPOINT as_replica").await.map_err(failed)
        }
        Err(error) => end(target, Err(failed(error))).await,
    }
}

async fn end(target: &Session, done: Result<(), TargetError>) -> Result<(), TargetError> {
    let word = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = target.batch_execute(word).await;
    done?;
    ended.map_err(failed)
}

async fn set(
    target: &Session,
    wanted: impl Iterator<Item = (&Which, Firing)>,
) -> Result<(), TargetError> {
    let statements: Vec<_> = wanted.map(|(which, state)| which.statement(state)).collect();
    target.batch_execute(&statements.join("; ")).await.map_err(failed)
}

fn failed(error: tokio_postgres::Error) -> TargetError {
    target_error("switching triggers and rules", &error)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn trigger(table: &str, name: &str, above: &[&str]) -> (Found, Firing) {
        let named = |table: &str| QualifiedName::new("s", table);
        let which = Which { kind: Kind::Trigger, table: named(table), name: name.into() };
        let above: BTreeSet<_> = above.iter().chain([&table]).map(|one| named(one)).collect();
        let is_partition = above.len() > 1;
        let owner = "app".into();
        let found = Found { which, state: Firing::Disabled, may: true, owner, is_partition, above };
        (found, Firing::Always)
    }

    #[test]
    fn a_parents_statement_comes_with_those_of_its_partitions_where_it_reaches_them() {
        let all = || {
            vec![
                trigger("top", "g", &[]),
                trigger("other", "g", &[]),
                trigger("low", "g", &["top", "middle"]),
                trigger("low", "h", &["top", "middle"]),
                trigger("middle", "g", &["top"]),
            ]
        };
        let sizes = |version| {
            let families = families(all(), version);
            families.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes(140_000), [3, 1, 1]);
        for version in [100_023, 150_000] {
            assert_eq!(sizes(version), [1; 5]);
        }
    }
}
