//! Whether a database's tables can have changed since they were last read.
//!
//! Reading them takes several queries over the catalogs, tens of milliseconds of a server's CPU that
//! clients and the stream then wait for. Their rows' versions say nearly as much for a small part of
//! it: whatever is created, altered, renamed or dropped gives its rows in `pg_class` and
//! `pg_attribute` another `xmin`, or takes them away (PostgreSQL manual, 5.6 System Columns). What
//! a mark can't see (who belongs to an extension), or two sums that happen to be the same, is found
//! by the look that is taken in any case, [`super::drift`]'s `WHOLE_INTERVAL`.

use decoders::postgres::session::Session;
use tokio_postgres::{Error, Statement};

/// Rows of objects that are not the system's: their identifiers begin there (`FirstNormalObjectId`).
const MARK: &str = "
    SELECT pg_catalog.concat_ws('/',
      (SELECT pg_catalog.concat(pg_catalog.count(*), ':', pg_catalog.sum(
                pg_catalog.hashtext(pg_catalog.concat(xmin, '.', oid))))
         FROM pg_catalog.pg_class WHERE oid >= 16384),
      (SELECT pg_catalog.concat(pg_catalog.count(*), ':', pg_catalog.sum(
                pg_catalog.hashtext(pg_catalog.concat(xmin, '.', attrelid, '.', attnum))))
         FROM pg_catalog.pg_attribute WHERE attrelid >= 16384),
      (SELECT pg_catalog.sum(pg_catalog.hashtext(pg_catalog.concat(xmin, '.', oid)))
         FROM pg_catalog.pg_type WHERE oid >= 16384),
      (SELECT pg_catalog.sum(pg_catalog.hashtext(pg_catalog.concat(xmin, '.', oid)))
         FROM pg_catalog.pg_namespace),
      (SELECT pg_catalog.sum(pg_catalog.hashtext(pg_catalog.concat(xmin, '.', inhrelid)))
         FROM pg_catalog.pg_inherits),
      (SELECT pg_catalog.sum(pg_catalog.hashtext(pg_catalog.concat(xmin, '.', oid)))
         FROM pg_catalog.pg_publication),
      (SELECT pg_catalog.sum(pg_catalog.hashtext(pg_catalog.concat(xmin, '.', oid)))
         FROM pg_catalog.pg_publication_rel))";

/// Asks one database for its mark, again and again.
pub(super) struct CatalogMark<'a> {
    session: &'a Session,
    statement: Statement,
}

impl<'a> CatalogMark<'a> {
    pub async fn prepare(session: &'a Session) -> Result<Self, Error> {
        // Planning it takes longer than running it.
        Ok(Self { session, statement: session.prepare(MARK).await? })
    }

    /// Two that are the same: no table was created, altered or dropped between them.
    pub async fn read(&self) -> Result<String, Error> {
        self.session.query_one(&self.statement, &[]).await?.try_get(0)
    }
}
