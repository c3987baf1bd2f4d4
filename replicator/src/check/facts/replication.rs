//! Slots, senders and connections: what is there and what is left over.

use decoders::postgres::catalog::{CONTROL_SCHEMA, CatalogError, quote_literal};
use tokio_postgres::Client;

use super::Probe;
use crate::check::request::CheckRequest;

/// A replication slot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SlotFacts {
    /// Name.
    pub name: String,
    /// Output plugin; `None` for a physical slot.
    pub plugin: Option<String>,
    /// Database of a logical slot.
    pub database: Option<String>,
    /// Whether somebody reads it now.
    pub active: bool,
    /// Bytes of WAL that it keeps.
    pub retained_bytes: Option<i64>,
    /// `wal_status` (13+): `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: Option<String>,
}

/// What is in use of limited things.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replication {
    /// All slots of the cluster.
    pub slots: Vec<SlotFacts>,
    /// Walsenders at work.
    pub senders: i64,
    /// Sessions in any database.
    pub sessions: i64,
    /// Sessions of the connected role.
    pub role_sessions: i64,
    /// Sessions in this database.
    pub database_sessions: i64,
}

pub(super) async fn read(client: &Client) -> Probe<Replication> {
    let failed = |error| CatalogError::query("replication slots and connections", error);
    let version: String = client
        .query_one("SELECT pg_catalog.current_setting('server_version_num')", &[])
        .await
        .map_err(failed)?
        .get(0);
    // Compared as text: all supported versions have six digits.
    let wal_status = if version.as_str() >= "130000" { "wal_status" } else { "NULL::text" };
    let sql = format!(
        "SELECT slot_name::text, plugin::text, database::text, active, {wal_status} AS wal_status,
                pg_catalog.pg_wal_lsn_diff(
                    CASE WHEN pg_catalog.pg_is_in_recovery()
                         THEN pg_catalog.pg_last_wal_replay_lsn()
                         ELSE pg_catalog.pg_current_wal_lsn() END, restart_lsn)::int8 AS retained
         FROM pg_catalog.pg_replication_slots ORDER BY 1"
    );
    let slots = client.query(&sql, &[]).await.map_err(failed)?;
    let counts = client
        .query_one(
            "SELECT (SELECT count(*) FROM pg_catalog.pg_stat_replication) AS senders,
                    (SELECT coalesce(sum(numbackends), 0)::int8
                     FROM pg_catalog.pg_stat_database) AS sessions,
                    (SELECT count(*) FROM pg_catalog.pg_stat_activity
                     WHERE usename = current_user) AS role_sessions,
                    (SELECT count(*) FROM pg_catalog.pg_stat_activity
                     WHERE datname = pg_catalog.current_database()) AS database_sessions",
            &[],
        )
        .await
        .map_err(failed)?;
    Ok(Replication {
        slots: slots
            .iter()
            .map(|row| SlotFacts {
                name: row.get("slot_name"),
                plugin: row.get("plugin"),
                database: row.get("database"),
                active: row.get("active"),
                retained_bytes: row.get("retained"),
                wal_status: row.get("wal_status"),
            })
            .collect(),
        senders: counts.get("senders"),
        sessions: counts.get("sessions"),
        role_sessions: counts.get("role_sessions"),
        database_sessions: counts.get("database_sessions"),
    })
}

/// What an earlier run of this pipeline may have left.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Leftovers {
    /// The slot exists.
    pub slot: bool,
    /// The publication exists.
    pub publication: bool,
    /// The engine's schema exists.
    pub control_schema: bool,
    /// Pipelines that have progress rows; `None` if there is no such table or it can't be read.
    pub pipelines: Option<Vec<String>>,
}

pub(super) async fn leftovers(client: &Client, request: &CheckRequest) -> Probe<Leftovers> {
    let failed = |error| CatalogError::query("what an earlier run left behind", error);
    let stream = format!("{CONTROL_SCHEMA}.stream");
    let row = client
        .query_one(
            "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_replication_slots
                            WHERE slot_name = $1::text) AS slot,
                    EXISTS (SELECT 1 FROM pg_catalog.pg_publication
                            WHERE pubname = $2::text) AS publication,
                    EXISTS (SELECT 1 FROM pg_catalog.pg_namespace
                            WHERE nspname = $3::text) AS control_schema",
            &[&request.slot, &request.publication, &CONTROL_SCHEMA],
        )
        .await
        .map_err(failed)?;
    let control_schema: bool = row.get("control_schema");
    let mut pipelines = None;
    if control_schema {
        let readable = format!(
            "SELECT coalesce((
                 SELECT pg_catalog.has_table_privilege(c.oid, 'SELECT')
                    AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                 FROM pg_catalog.pg_class c
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = 'pipeline'
                 WHERE n.nspname = {} AND c.relname = 'stream'), false)",
            quote_literal(CONTROL_SCHEMA)
        );
        if client.query_one(&readable, &[]).await.map_err(failed)?.get(0) {
            let sql = format!("SELECT pipeline::text FROM {stream} ORDER BY 1");
            let rows = client.query(&sql, &[]).await.map_err(failed)?;
            pipelines = Some(rows.iter().map(|row| row.get(0)).collect());
        }
    }
    Ok(Leftovers {
        slot: row.get("slot"),
        publication: row.get("publication"),
        control_schema,
        pipelines,
    })
}
