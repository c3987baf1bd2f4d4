//! Whether a database's tables can have changed since they were last read.
//!
//! Reading them takes several queries over the catalogs, tens of milliseconds of a server's CPU that
//! clients and the stream then wait for. Their rows' versions say nearly as much for a small part of
//! it: whatever is created, altered, renamed or dropped gives its rows in `pg_class`, `pg_attribute`,
//! `pg_trigger` and others another `xmin`, or takes them away (PostgreSQL manual, 5.6 System Columns). What
//! a mark can't see (who belongs to an extension), or two sums that happen to be the same, is found
//! by the look that is taken in any case, [`super::drift`]'s `WHOLE_INTERVAL`.

use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use decoders::postgres::session::Session;
use tokio_postgres::{Error, Statement};

/// How many rows a catalog has and which, as one expression: `key` tells its rows apart, as a number.
///
/// There are hundreds of thousands in `pg_attribute` of a database with ten thousand tables, so a row costs no
/// text. `age` is the only cheap function of an `xmin`, and counted from a fixed transaction it stays what it
/// is. Frozen rows of old versions have an age without a bound. The salt is this process's: nobody can make
/// changes that happen to give the same sum.
fn sum_of(key: &str) -> String {
    static SALT: OnceLock<u32> = OnceLock::new();
    let salt = SALT.get_or_init(|| RandomState::new().hash_one("mark") as u32);
    format!(
        "pg_catalog.concat(pg_catalog.count(*), ':', pg_catalog.sum(pg_catalog.hashint8( \
             pg_catalog.hashint8(CASE WHEN pg_catalog.age(xmin) = 2147483647 THEN 0 ELSE \
                 ((pg_catalog.age(xmin)::bigint - (SELECT pg_catalog.age('3'::xid))) & 4294967295) END # {salt})::bigint \
             # ({key}))))"
    )
}

/// Rows of objects that are not the system's: their identifiers begin there (`FirstNormalObjectId`). A
/// system column's row changes only with its table's.
fn mark_sql() -> String {
    let (oid, column) = (sum_of("oid::bigint"), sum_of("attrelid::bigint * 2048 + attnum"));
    let child = sum_of("inhrelid::bigint");
    format!(
        "SELECT pg_catalog.concat_ws('/', \
         (SELECT {oid} FROM pg_catalog.pg_class WHERE oid >= 16384), \
         (SELECT {column} FROM pg_catalog.pg_attribute WHERE attrelid >= 16384 AND attnum > 0), \
         (SELECT {oid} FROM pg_catalog.pg_type WHERE oid >= 16384), \
         (SELECT {oid} FROM pg_catalog.pg_namespace), \
         (SELECT {child} FROM pg_catalog.pg_inherits), \
         (SELECT {oid} FROM pg_catalog.pg_trigger WHERE NOT tgisinternal OR tgconstraint = 0 OR tgconstraint IN \
             (SELECT k.oid FROM pg_catalog.pg_constraint k WHERE k.contype = 't')), \
         (SELECT {oid} FROM pg_catalog.pg_rewrite WHERE oid >= 16384), \
         (SELECT {oid} FROM pg_catalog.pg_publication), \
         (SELECT {oid} FROM pg_catalog.pg_publication_rel))"
    )
}

/// Asks one database for its mark, again and again.
pub(super) struct CatalogMark<'a> {
    session: &'a Session,
    statement: Statement,
}

impl<'a> CatalogMark<'a> {
    pub async fn prepare(session: &'a Session) -> Result<Self, Error> {
        // Planning it takes longer than running it.
        Ok(Self { session, statement: session.prepare(&mark_sql()).await? })
    }

    /// Two that are the same: no table was created, altered or dropped between them.
    pub async fn read(&self) -> Result<String, Error> {
        self.session.query_one(&self.statement, &[]).await?.try_get(0)
    }
}
