//! Transactions in progress that a new slot has to wait for.

use std::time::Duration;

use decoders::postgres::catalog::CatalogError;
use tokio_postgres::Client;

use super::{Probe, age};

/// A transaction that has written (holds a transaction id), in any database of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WritingTransaction {
    /// Backend.
    pub pid: i32,
    /// Database.
    pub database: Option<String>,
    /// Role.
    pub user: Option<String>,
    /// Application name; hidden from ordinary roles.
    pub application: Option<String>,
    /// `active`, `idle in transaction` ..; hidden from ordinary roles.
    pub state: Option<String>,
    /// Since its start; hidden from ordinary roles.
    pub age: Option<Duration>,
}

/// A prepared transaction: it stays until somebody commits or rolls it back.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PreparedTransaction {
    /// Global identifier.
    pub gid: String,
    /// Database.
    pub database: String,
    /// Role.
    pub owner: String,
    /// Since it was prepared.
    pub age: Duration,
}

/// What a new slot has to wait for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Activity {
    /// Transactions with an id.
    pub writing: Vec<WritingTransaction>,
    /// Prepared ones.
    pub prepared: Vec<PreparedTransaction>,
}

pub(super) async fn read(client: &Client) -> Probe<Activity> {
    let failed = |error| CatalogError::query("transactions in progress", error);
    // pg_locks shows every transaction id to everybody; pg_stat_activity hides details of others.
    let writing = client
        .query(
            "SELECT DISTINCT l.pid, a.datname::text, a.usename::text, a.application_name, a.state,
                    extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8 AS age
             FROM pg_catalog.pg_locks l
             JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
             WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
               AND l.pid <> pg_catalog.pg_backend_pid()
             ORDER BY 1",
            &[],
        )
        .await
        .map_err(failed)?;
    let prepared = client
        .query(
            "SELECT gid, database::text, owner::text,
                    extract(epoch FROM pg_catalog.clock_timestamp() - prepared)::float8 AS age
             FROM pg_catalog.pg_prepared_xacts ORDER BY prepared",
            &[],
        )
        .await
        .map_err(failed)?;
    Ok(Activity {
        writing: writing
            .iter()
            .map(|row| WritingTransaction {
                pid: row.get("pid"),
                database: row.get("datname"),
                user: row.get("usename"),
                application: row.get("application_name"),
                state: row.get("state"),
                age: row.get::<_, Option<f64>>("age").map(age),
            })
            .collect(),
        prepared: prepared
            .iter()
            .map(|row| PreparedTransaction {
                gid: row.get("gid"),
                database: row.get("database"),
                owner: row.get("owner"),
                age: age(row.get("age")),
            })
            .collect(),
    })
}
