//! Everything that has to be true before a stream may be trusted, checked in this order: the
//! publications, the slot, who holds it, the server's identity, and the slot once more after
//! START_REPLICATION, because a server that was asked for a position that the slot has left
//! behind starts later without a word.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::change::Lsn;
use crate::postgres::conninfo::ConnInfo;
use crate::postgres::failure::{of_connect, of_session, of_spool, of_wire};
use crate::postgres::ident::quote_identifier;
use crate::postgres::pgoutput::{PROTOCOL_VERSION, PROTOCOL_VERSION_STREAMING};
use crate::postgres::publication;
use crate::postgres::session::{self, Session};
use crate::postgres::slot::{self, PLUGIN, SlotState};
use crate::postgres::user_types::{InnerOids, binary_safe};
use crate::postgres::wire::{CopyBoth, ReplicationConnection};
use crate::source::SourceError;

use super::spooling::Spooling;
use super::timelines;
use super::verdict::Court;
use super::{Binary, SlotUse, StreamOptions, SystemIdentity};

/// A remedy for everything that only a new copy can heal.
pub(in crate::postgres) const NEW_COPY: &str =
    "run `replicator teardown` and start with a new copy";

/// A stream that has started.
pub(super) struct Started {
    pub(super) link: CopyBoth,
    pub(super) identity: SystemIdentity,
    /// Where it starts.
    pub(super) start: Lsn,
    /// The types that travel in binary; `None` if all values are text.
    pub(super) binary: Option<BTreeSet<u32>>,
    /// Present if large transactions come while they run.
    pub(super) spooling: Option<Spooling>,
    /// `wal_sender_timeout`; zero means never.
    pub(super) sender_timeout: Duration,
}

pub(super) async fn start(
    source: &ConnInfo,
    options: &StreamOptions,
) -> Result<Started, SourceError> {
    let session = session::connect(source, &options.application_name).await.map_err(of_connect)?;
    check_publications(&session, options).await?;
    let existing = match options.slot_use {
        SlotUse::Existing => Some(existing_start(&session, source, options).await?),
        SlotUse::Temporary => None,
    };
    let binary = binary_types(&session, options).await?;
    let sender_timeout = sender_timeout(&session).await?;

    let mut replication = ReplicationConnection::connect(source, &options.application_name)
        .await
        .map_err(of_connect)?;
    let (identity, head) = identify(&mut replication).await?;
    check_identity(&mut replication, options, identity).await?;
    let start = match existing {
        Some(start) => start,
        None => {
            slot::create_temporary(&mut replication, session.server_version(), &options.slot)
                .await?
        }
    };
    if options.slot_use == SlotUse::Existing {
        check_head(head, start)?;
    }
    let version_num = session.server_version();
    let court = Court {
        source: source.clone(),
        application_name: options.application_name.clone(),
        slot: options.slot.clone(),
        walsender_pid: replication.server().process_id,
    };
    let spooling = spooling(options, version_num, court).await?;
    let command = command(options, version_num, start, binary.is_some(), spooling.is_some());
    let doing = format!("stream from the replication slot {}", options.slot);
    let link = replication.copy_both(&command).await.map_err(|error| of_wire(&doing, error))?;
    let slot = usable_slot(&session, source, options).await?;
    check_not_passed(&slot, start)?;
    Ok(Started { link, identity, start, binary, spooling, sender_timeout })
}

/// Where to start reading a slot that exists, with nobody else on it.
pub(in crate::postgres) async fn existing_start(
    session: &Session,
    source: &ConnInfo,
    options: &StreamOptions,
) -> Result<Lsn, SourceError> {
    let slot = usable_slot(session, source, options).await?;
    let start = options.start.filter(|start| start.is_valid());
    let start = start.or(slot.confirmed_flush_lsn).unwrap_or(Lsn::INVALID);
    check_not_passed(&slot, start)?;
    slot::release(session, &options.slot, &options.application_name).await?;
    Ok(start)
}

pub(in crate::postgres) async fn check_publications(
    session: &Session,
    options: &StreamOptions,
) -> Result<(), SourceError> {
    for name in &options.publications {
        if !publication::exists(session, name).await? {
            return Err(SourceError::halt(
                format!("the publication {name} does not exist on the source"),
                NEW_COPY,
            ));
        }
    }
    Ok(())
}

pub(in crate::postgres) async fn usable_slot(
    session: &Session,
    source: &ConnInfo,
    options: &StreamOptions,
) -> Result<SlotState, SourceError> {
    let name = &options.slot;
    let Some(slot) = slot::inspect(session, name).await? else {
        return Err(SourceError::halt(
            format!("the replication slot {name} does not exist on the source"),
            format!("changes since it was dropped are lost to the stream: {NEW_COPY}"),
        ));
    };
    if slot.plugin.as_deref() != Some(PLUGIN) {
        return Err(SourceError::halt(
            format!("the replication slot {name} does not use the output plugin {PLUGIN}"),
            "choose another slot name; this slot belongs to something else",
        ));
    }
    if slot.database.as_deref() != Some(source.dbname()) {
        return Err(SourceError::halt(
            format!("the replication slot {name} decodes another database"),
            "connect to the slot's database, or choose another slot name",
        ));
    }
    if slot.is_lost() {
        return Err(SourceError::halt(
            format!("the source has removed log that the replication slot {name} needs"),
            format!("raise max_slot_wal_keep_size; then {NEW_COPY}"),
        ));
    }
    Ok(slot)
}

/// A position beyond the end of the log is of another history.
pub(in crate::postgres) fn check_head(head: Lsn, start: Lsn) -> Result<(), SourceError> {
    if head >= start {
        return Ok(());
    }
    Err(SourceError::halt(
        format!("the source's log ends at {head}, before the position to resume from, {start}"),
        format!("the source was restored from an older state: {NEW_COPY}"),
    ))
}

/// The server never sends what the slot's owner once acknowledged; asked to, it starts later.
fn check_not_passed(slot: &SlotState, start: Lsn) -> Result<(), SourceError> {
    match slot.confirmed_flush_lsn {
        Some(confirmed) if confirmed > start => Err(passed(&slot.name, confirmed, start)),
        _ => Ok(()),
    }
}

/// The slot stands behind the position to resume from.
pub(in crate::postgres) fn passed(slot: &str, confirmed: Lsn, start: Lsn) -> SourceError {
    SourceError::halt(
        format!(
            "the replication slot {slot} has moved on to {confirmed}, past the position to resume \
             from, {start}: changes between are lost to the stream"
        ),
        format!("somebody else has used the slot: {NEW_COPY}"),
    )
}

/// The types of all published columns if values are to travel in binary and every one may
/// (PostgreSQL 14+).
pub(in crate::postgres) async fn binary_types(
    session: &Session,
    options: &StreamOptions,
) -> Result<Option<BTreeSet<u32>>, SourceError> {
    if options.binary == Binary::Off || session.server_version() < 140_000 {
        return Ok(None);
    }
    let types = publication::column_types(session, &options.publications).await?;
    let types: BTreeSet<u32> = types.into_iter().collect();
    let safe = binary_safe(session, types.clone(), InnerOids::Replaced)
        .await
        .map_err(|error| of_session("read the published columns' types", error))?;
    Ok((safe == types).then_some(safe))
}

async fn sender_timeout(session: &Session) -> Result<Duration, SourceError> {
    let doing = "read wal_sender_timeout";
    let row = session
        .query_one(
            "SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'",
            &[],
        )
        .await
        .map_err(|error| of_session(doing, error))?;
    let timeout_ms: i64 = row.try_get(0).map_err(|error| of_session(doing, error))?;
    Ok(Duration::from_millis(timeout_ms.unsigned_abs()))
}

/// Who the server is, and the end of its log.
pub(in crate::postgres) async fn identify(
    replication: &mut ReplicationConnection,
) -> Result<(SystemIdentity, Lsn), SourceError> {
    let doing = "identify the source";
    let rows =
        replication.simple_query("IDENTIFY_SYSTEM").await.map_err(|error| of_wire(doing, error))?;
    let field = |at: usize| rows.first().and_then(|row| row.get(at)).and_then(Option::as_deref);
    let identity = || {
        let system_id = field(0)?.parse().ok()?;
        let timeline = field(1)?.parse().ok()?;
        Some((SystemIdentity { system_id, timeline }, field(2)?.parse().ok()?))
    };
    identity().ok_or_else(|| {
        SourceError::retry(format!("can't {doing}: the answer to IDENTIFY_SYSTEM is incomplete"))
    })
}

/// The server is the one that was followed, or continues its history with everything that was applied.
pub(in crate::postgres) async fn check_identity(
    replication: &mut ReplicationConnection,
    options: &StreamOptions,
    found: SystemIdentity,
) -> Result<(), SourceError> {
    let Some(expected) = options.expected_identity.filter(|expected| *expected != found) else {
        return Ok(());
    };
    if expected.system_id != found.system_id {
        return Err(SourceError::halt(
            format!(
                "the source is another server: its system identifier is {}, not {}",
                found.system_id, expected.system_id
            ),
            format!("correct the source's address; if the server was replaced, {NEW_COPY}"),
        ));
    }
    let applied = options.applied.max(options.start).unwrap_or(Lsn::INVALID);
    timelines::check(replication, expected, found, applied).await
}

/// An empty spool, where there is one and the server can make use of it.
async fn spooling(
    options: &StreamOptions,
    version_num: u32,
    court: Court,
) -> Result<Option<Spooling>, SourceError> {
    let Some(spool) = options.spool.as_ref().filter(|_| version_num >= 140_000) else {
        return Ok(None);
    };
    let emptied = Arc::clone(spool);
    let begun = tokio::task::spawn_blocking(move || emptied.begin()).await;
    let begun = begun.map_err(|error| SourceError::retry(format!("the spool failed: {error}")))?;
    let generation = begun.map_err(of_spool)?;
    Ok(Some(Spooling::new(Arc::clone(spool), generation, court)))
}

/// Names are identifiers inside a literal; the replication grammar knows only doubled quotes.
fn command(
    options: &StreamOptions,
    version_num: u32,
    start: Lsn,
    binary: bool,
    streaming: bool,
) -> String {
    let protocol = if streaming { PROTOCOL_VERSION_STREAMING } else { PROTOCOL_VERSION };
    let publications: Vec<_> =
        options.publications.iter().map(|name| quote_identifier(name)).collect();
    let mut command = format!(
        "START_REPLICATION SLOT {} LOGICAL {start} (proto_version '{protocol}', \
         publication_names '{}'",
        quote_identifier(&options.slot),
        publications.join(",").replace('\'', "''"),
    );
    if version_num >= 140_000 {
        command.push_str(", messages 'true'");
    }
    if binary {
        command.push_str(", binary 'true'");
    }
    if streaming {
        command.push_str(", streaming 'on'");
    }
    if options.origin.is_sent(version_num) {
        command.push_str(", origin 'none'");
    }
    command.push(')');
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::stream::OriginFilter;

    #[test]
    fn the_command_fits_the_version() {
        let publications = vec!["p".to_owned(), "it's \"x\"".to_owned()];
        let options = StreamOptions::new("s", publications, "cutover");
        let base = "START_REPLICATION SLOT \"s\" LOGICAL 0/10 (proto_version '1', \
                    publication_names '\"p\",\"it''s \"\"x\"\"\"'";
        assert_eq!(command(&options, 130_023, Lsn(16), false, false), format!("{base})"));
        assert_eq!(
            command(&options, 140_000, Lsn(16), true, false),
            format!("{base}, messages 'true', binary 'true')")
        );
        let base = base.replace("proto_version '1'", "proto_version '2'");
        assert_eq!(
            command(&options, 140_000, Lsn(16), false, true),
            format!("{base}, messages 'true', streaming 'on')")
        );
        let filtered = StreamOptions { origin: OriginFilter::None, ..options };
        let sent = |version_num| command(&filtered, version_num, Lsn(16), false, false);
        assert!(sent(160_000).ends_with(", messages 'true', origin 'none')"), "{}", sent(160_000));
        assert!(!sent(150_000).contains("origin"), "{}", sent(150_000));
    }
}
