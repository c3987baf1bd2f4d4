//! Everything between a position and the first gulp: the checks of the stream, the guards of blue,
//! the copy of the slot.

use std::collections::BTreeSet;

use super::{GulpOptions, OpenError};
use crate::change::Lsn;
use crate::postgres::conninfo::ConnInfo;
use crate::postgres::error::WireError;
use crate::postgres::failure::{of_connect, of_session, of_wire};
use crate::postgres::ident::quote_literal;
use crate::postgres::session::{self, Session};
use crate::postgres::slot;
use crate::postgres::stream::{SlotUse, SystemIdentity, start};
use crate::postgres::wire::{ReplicationConnection, TextRows};
use crate::source::SourceError;

/// `pg_copy_logical_replication_slot` came with PostgreSQL 12.
const VERSION_MIN: u32 = 120_000;

/// What a gulp may take of blue's memory before it goes to a temporary file.
const WORK_MEM: &str = "64MB";

/// PostgreSQL's limit for a name.
const NAME_BYTES_MAX: usize = 63;

/// A copy that stands at the position to resume from.
pub(super) struct Opened {
    /// The session that owns the copy.
    pub(super) wire: ReplicationConnection,
    pub(super) copy: String,
    /// For moving the anchor.
    pub(super) session: Session,
    /// Where the anchor stands.
    pub(super) confirmed: Lsn,
    pub(super) start: Lsn,
    pub(super) binary: Option<BTreeSet<u32>>,
    pub(super) identity: SystemIdentity,
}

pub(super) async fn open(source: &ConnInfo, options: &GulpOptions) -> Result<Opened, OpenError> {
    let stream = &options.stream;
    let name = &stream.application_name;
    let session = session::connect(source, name).await.map_err(of_connect)?;
    if session.server_version() < VERSION_MIN {
        return Err(OpenError::unavailable("the source is older than PostgreSQL 12"));
    }
    if stream.slot_use == SlotUse::Temporary {
        return Err(OpenError::unavailable("a temporary slot can't be an anchor"));
    }
    check_idle_timeout(&session).await?;
    start::check_publications(&session, stream).await?;
    let start = start::existing_start(&session, source, stream).await?;
    let anchor = start::usable_slot(&session, source, stream).await?;
    let binary = start::binary_types(&session, stream).await?;
    let identity = identify(source, options, start).await?;

    let wire = ReplicationConnection::connect_plain(source, name).await.map_err(of_connect)?;
    let mut copier = Copier { wire, options };
    copier.guard().await?;
    end_left_overs(&session, options).await?;
    let copy = copy_name(&stream.slot, copier.wire.server().process_id);
    copier.copy(&copy, start).await?;
    Ok(Opened {
        wire: copier.wire,
        copy,
        session,
        confirmed: anchor.confirmed_flush_lsn.unwrap_or(start),
        start,
        binary,
        identity,
    })
}

/// While we read, the anchor is idle, and so is the copy while a gulp is being received: the server
/// notes the time for temporary slots, too (`ReplicationSlotRelease`, slot.c), and ends the session
/// of one that is idle for too long. Moving the anchor in time would begin its time anew
/// (`ReplicationSlotAcquire`), but there is nothing that keeps up the copy, and an anchor that is
/// invalidated is a new copy of everything. A walsender's slot is never idle.
async fn check_idle_timeout(session: &Session) -> Result<(), OpenError> {
    let doing = "read idle_replication_slot_timeout";
    let row = session
        .query_one(
            "SELECT count(*) > 0 FROM pg_catalog.pg_settings
             WHERE name = 'idle_replication_slot_timeout' AND setting <> '0'",
            &[],
        )
        .await
        .map_err(|error| of_session(doing, error))?;
    match row.try_get(0).map_err(|error| of_session(doing, error))? {
        false => Ok(()),
        true => Err(OpenError::unavailable(
            "idle_replication_slot_timeout is set on the source, and the slot is idle while a copy \
             of it is read",
        )),
    }
}

/// Only a replication connection may be asked who the server is, without any other right.
async fn identify(
    source: &ConnInfo,
    options: &GulpOptions,
    start: Lsn,
) -> Result<SystemIdentity, OpenError> {
    let name = &options.stream.application_name;
    let mut replication = match ReplicationConnection::connect(source, name).await {
        Ok(replication) => replication,
        Err(error) if error.server_error().is_some_and(|error| error.sqlstate == "42501") => {
            return Err(OpenError::unavailable(error.to_string()));
        }
        Err(error) => return Err(of_connect(error).into()),
    };
    let (identity, head) = start::identify(&mut replication).await?;
    start::check_identity(&mut replication, &options.stream, identity).await?;
    start::check_head(head, start)?;
    Ok(identity)
}

/// A reader of before that broke off may still decode on the server, and its copy takes a place
/// among max_replication_slots.
async fn end_left_overs(session: &Session, options: &GulpOptions) -> Result<(), SourceError> {
    let doing = "look for copies of the replication slot";
    let prefix = copy_prefix(&options.stream.slot);
    let rows = session
        .query(
            "SELECT slot_name::text FROM pg_catalog.pg_replication_slots
             WHERE temporary AND database = pg_catalog.current_database()
                 AND pg_catalog.starts_with(slot_name::text, $1)",
            &[&prefix],
        )
        .await
        .map_err(|error| of_session(doing, error))?;
    for row in rows {
        let copy: &str = row.try_get(0).map_err(|error| of_session(doing, error))?;
        slot::release(session, copy, &options.stream.application_name).await?;
    }
    Ok(())
}

/// The session that will own the copy.
struct Copier<'a> {
    wire: ReplicationConnection,
    options: &'a GulpOptions,
}

impl Copier<'_> {
    async fn run(&mut self, sql: &str) -> Result<TextRows, WireError> {
        self.wire.simple_query(sql).await
    }

    /// Bounds what a gulp may cost blue. `logical_decoding_work_mem` stays as blue's administrator
    /// has it: decoding costs no more here than in a walsender.
    async fn guard(&mut self) -> Result<(), OpenError> {
        let doing = "set the limits of the session that reads";
        let wire = |error| of_wire(doing, error);
        self.run(&format!("SET work_mem = '{WORK_MEM}'")).await.map_err(wire)?;
        let sql = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'temp_file_limit'";
        let rows = self.run(sql).await.map_err(wire)?;
        let set_kb = field(&rows, 0).and_then(|text| text.parse::<i64>().ok());
        let wanted_kb = i64::try_from(self.options.temp_bytes >> 10).unwrap_or(i64::MAX);
        // What is set already and lower is the administrator's word.
        if set_kb.is_some_and(|set_kb| (0..=wanted_kb).contains(&set_kb)) {
            return Ok(());
        }
        match self.run(&format!("SET temp_file_limit = '{wanted_kb}kB'")).await {
            Ok(_) => Ok(()),
            Err(error) if is_one_of(&error, &["42501"]) => match set_kb {
                Some(0..) => Ok(()),
                _ => Err(OpenError::unavailable(
                    "temp_file_limit is not set on the source and the role may not set it \
                     (GRANT SET ON PARAMETER temp_file_limit, PostgreSQL 15+)",
                )),
            },
            Err(error) => Err(wire(error).into()),
        }
    }

    /// Copies the anchor and brings the copy to `start`, if gulps would pay from there.
    async fn copy(&mut self, copy: &str, start: Lsn) -> Result<(), OpenError> {
        let anchor = &self.options.stream.slot;
        let doing = format!("copy the replication slot {anchor}");
        let sql = format!(
            "SELECT lsn FROM pg_catalog.pg_copy_logical_replication_slot({}, {}, true)",
            quote_literal(anchor),
            quote_literal(copy)
        );
        let rows = self.run(&sql).await.map_err(|error| refusal(&doing, error))?;
        let stands = lsn(&rows, &doing)?;
        if stands > start {
            return Err(start::passed(anchor, stands, start).into());
        }
        if stands < start {
            self.advance(copy, start).await?;
        }
        if start.bytes_since(self.restart(copy).await?) <= self.options.reread_bytes {
            return Ok(());
        }
        // The first pass over log keeps only the first place in it from which decoding could
        // begin; what lies before the copy's position is taken at once
        // (`LogicalIncreaseRestartDecodingForSlot`, logical.c).
        self.advance(copy, start).await?;
        let again = start.bytes_since(self.restart(copy).await?);
        if again <= self.options.reread_bytes {
            return Ok(());
        }
        Err(OpenError::NotNow {
            reason: format!(
                "a transaction that was open for long on the source would make each gulp decode \
                 {} MiB of its log again",
                again >> 20
            ),
        })
    }

    /// Where a call would begin to decode.
    async fn restart(&mut self, copy: &str) -> Result<Lsn, OpenError> {
        let doing = "look at the copy of the replication slot";
        let sql = format!(
            "SELECT restart_lsn FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
            quote_literal(copy)
        );
        let rows = self.run(&sql).await.map_err(|error| of_wire(doing, error))?;
        Ok(lsn(&rows, doing)?)
    }

    async fn advance(&mut self, copy: &str, start: Lsn) -> Result<(), OpenError> {
        let anchor = &self.options.stream.slot;
        let doing = format!("advance a copy of the replication slot {anchor} to {start}");
        let sql = format!(
            "SELECT end_lsn FROM pg_catalog.pg_replication_slot_advance({}, '{start}')",
            quote_literal(copy)
        );
        let rows = self.run(&sql).await.map_err(|error| refusal(&doing, error))?;
        match lsn(&rows, &doing)? {
            reached if reached == start => Ok(()),
            reached => {
                Err(SourceError::retry(format!("can't {doing}: the server moved it to {reached}"))
                    .into())
            }
        }
    }
}

/// Rights (42501), free slots (53400), functions (42883, 0A000): a walsender may do better.
fn refusal(doing: &str, error: WireError) -> OpenError {
    if is_one_of(&error, &["42501", "53400", "42883", "0A000"]) {
        return OpenError::unavailable(format!("can't {doing}: {error}"));
    }
    of_wire(doing, error).into()
}

fn is_one_of(error: &WireError, sqlstates: &[&str]) -> bool {
    error.server_error().is_some_and(|error| sqlstates.contains(&error.sqlstate.as_str()))
}

fn field(rows: &TextRows, at: usize) -> Option<&str> {
    rows.first().and_then(|row| row.get(at)).and_then(Option::as_deref)
}

fn lsn(rows: &TextRows, doing: &str) -> Result<Lsn, SourceError> {
    field(rows, 0).and_then(|text| text.parse().ok()).ok_or_else(|| {
        SourceError::retry(format!("can't {doing}: the server's answer is incomplete"))
    })
}

/// Slot names are ASCII: lower-case letters, digits and underscores.
fn copy_prefix(anchor: &str) -> String {
    const SUFFIX: &str = "_gulp_";
    const PID_DIGITS_MAX: usize = 10;
    let room = NAME_BYTES_MAX - SUFFIX.len() - PID_DIGITS_MAX;
    let kept: String = anchor.chars().take(room).collect();
    kept + SUFFIX
}

/// Unique among the copies that live: it dies with the process that it names.
fn copy_name(anchor: &str, process_id: i32) -> String {
    format!("{}{process_id}", copy_prefix(anchor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copys_name_always_fits() {
        assert_eq!(copy_name("cutover_slot", 4711), "cutover_slot_gulp_4711");
        assert_eq!(copy_name(&"s".repeat(63), i32::MAX).len(), NAME_BYTES_MAX);
    }
}
