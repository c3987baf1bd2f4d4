//! What a stream needed of its source's tables and nothing else may need: `REPLICA IDENTITY FULL` costs every
//! UPDATE and DELETE the whole old row in the log.
//!
//! Whether somebody had a reason of his own for it is not known here. Tables of another publication are left out:
//! its stream needs it.

use decoders::postgres::session::describe;
use tokio_postgres::types::ToSql;

use super::arming::{SlotRoute, of_door};
use super::failure::Failure;

/// So many statements are given.
const NAMED_MAX: i64 = 1000;

/// Our own publication is `$1`.
const WHOLE_ROWS: &str = "
    SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND c.relreplident = 'f'
      AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', '_cutover')
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication_tables p
                      WHERE p.pubname <> $1 AND p.schemaname = n.nspname AND p.tablename = c.relname)
    ORDER BY 1 LIMIT $2";

/// The statements, each with the side that it is for.
pub(super) async fn read(route: &SlotRoute) -> Result<Vec<String>, Failure> {
    let place = route.ends.direction.from();
    let _guard = route.door.enter(place).await.map_err(of_door)?;
    let source = route.connect("blue", &route.ends.source).await?;
    let publication = route.config.publication();
    let values: [&(dyn ToSql + Sync); 2] = [&publication, &NAMED_MAX];
    let rows = source.query(WHOLE_ROWS, &values).await.map_err(|error| {
        Failure::retry("blue", format!("reading replica identities: {}", describe(&error)))
    })?;
    let statement = |row: &tokio_postgres::Row| {
        let table: String = row.get(0);
        format!("{place}: ALTER TABLE {table} REPLICA IDENTITY DEFAULT")
    };
    Ok(rows.iter().map(statement).collect())
}
