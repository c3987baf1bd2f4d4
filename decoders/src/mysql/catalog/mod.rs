//! Reading `information_schema`: what is there, not what to make of it.
//!
//! A fixed handful of queries, whatever the number of tables; nothing is locked. Left out everywhere:
//! system schemas, views, and the engine's schema `_cutover`.

mod column;
mod facts;
mod key;
mod scope;
mod stored;
mod table;

use mysql_async::Conn;
use mysql_async::prelude::{FromRow, Queryable};

pub use column::{ColumnInfo, GeneratedAs};
pub use facts::{
    Rights, Surroundings, Variables, collations, enabled_events, read_only_databases, surroundings,
};
pub use key::{ForeignKey, KeyColumn, ReferentialAction, UniqueKey};
pub use stored::{Stored, accounts, prepared_transactions};
pub use table::{TableInfo, TableKind, Trigger, sequences, table, tables};

use super::server::{code, describe};

/// A catalog query failed. Catalogs hold names, never row values, so the server's own message is safe
/// to show.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what}: {reason}")]
pub struct CatalogError {
    /// The facts that could not be read, such as "tables".
    pub what: &'static str,
    /// The server's message, or the driver's.
    pub reason: String,
    /// The server's error number, if it answered at all.
    pub code: Option<u16>,
    /// The error beneath.
    #[source]
    pub cause: Option<Box<mysql_async::Error>>,
}

impl CatalogError {
    /// The error of a query for `what`.
    pub fn query(what: &'static str, error: mysql_async::Error) -> Self {
        let (reason, code) = (describe(&error), code(&error));
        CatalogError { what, reason, code, cause: Some(Box::new(error)) }
    }

    /// The server answered with something that the reader does not understand.
    pub fn unexpected(what: &'static str, reason: impl Into<String>) -> Self {
        CatalogError { what, reason: reason.into(), code: None, cause: None }
    }
}

/// The rows of a query for `what`.
async fn query<R: FromRow + Send + 'static>(
    conn: &mut Conn,
    what: &'static str,
    sql: &str,
) -> Result<Vec<R>, CatalogError> {
    conn.query(sql).await.map_err(|error| CatalogError::query(what, error))
}
