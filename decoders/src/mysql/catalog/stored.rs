//! Views, triggers, routines and events: what runs in somebody's name.

use std::collections::BTreeSet;

use mysql_async::Conn;
use serde::{Deserialize, Serialize};

use super::scope::Scope;
use super::{CatalogError, query};

/// What databases hold beside tables.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Stored {
    /// In whose names views, triggers, routines and events run: `user@host`.
    pub definers: BTreeSet<String>,
    /// Stored functions and triggers: a server that writes a binlog lets only trusted accounts make
    /// them.
    pub functions_and_triggers: u64,
}

impl Stored {
    /// Reads what the account may see of it.
    ///
    /// # Errors
    /// A query failed.
    pub async fn read(conn: &mut Conn, database: Option<&str>) -> Result<Stored, CatalogError> {
        const WHAT: &str = "views, triggers, routines and events";
        let scope = database.map_or(Scope::All, Scope::Database);
        let of = |schema: &str| scope.condition(schema, schema);
        let sql = format!(
            "SELECT 'view', definer FROM information_schema.views WHERE {}
             UNION ALL SELECT 'trigger', definer FROM information_schema.triggers WHERE {}
             UNION ALL SELECT lower(routine_type), definer FROM information_schema.routines WHERE {}
             UNION ALL SELECT 'event', definer FROM information_schema.events WHERE {}",
            of("table_schema"),
            of("trigger_schema"),
            of("routine_schema"),
            of("event_schema"),
        );
        let rows: Vec<(String, String)> = query(conn, WHAT, &sql).await?;
        let trusted = |kind: &str| matches!(kind, "function" | "trigger");
        let functions = rows.iter().filter(|(kind, _)| trusted(kind)).count();
        Ok(Stored {
            functions_and_triggers: functions as u64,
            definers: rows.into_iter().map(|(_, definer)| definer).collect(),
        })
    }
}

/// The accounts of the server, roles of MariaDB included: `user@host`.
///
/// # Errors
/// The query failed; the account may lack SELECT on `mysql.user`.
pub async fn accounts(conn: &mut Conn) -> Result<BTreeSet<String>, CatalogError> {
    let rows: Vec<(String, String)> =
        query(conn, "accounts", "SELECT user, host FROM mysql.user").await?;
    Ok(rows.into_iter().map(|(user, host)| format!("{user}@{host}")).collect())
}

/// How many transactions are prepared (XA) and wait for their end.
///
/// # Errors
/// The query failed; MySQL asks for XA_RECOVER_ADMIN.
pub async fn prepared_transactions(conn: &mut Conn) -> Result<u64, CatalogError> {
    let rows: Vec<mysql_async::Row> = query(conn, "prepared transactions", "XA RECOVER").await?;
    Ok(rows.len() as u64)
}
