//! Publications: which tables a stream carries.
//!
//! Tables are always listed one by one. `FOR ALL TABLES` needs a superuser, and would let a table
//! into the stream that nobody prepared on the target.
//!
//! A statement names at most [`TABLES_PER_STATEMENT`] of them and is a transaction of its own, because
//! each takes a lock until its transaction ends, and a server's lock table has room for a few thousand. So
//! a publication of many tables is not made in one step. A slot must be made behind the whole of it: a change
//! that is decoded before its table is published is lost.

use super::failure::of_session;
use super::ident::quote_identifier;
use super::lock_room;
use super::session::Session;
use crate::change::{QualifiedName, TableId};
use crate::source::SourceError;

/// What a publication publishes of its tables. Generated columns never: the target computes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PublicationOptions {
    /// Changes to partitions are published as changes to the partitioned table that is listed
    /// (`publish_via_partition_root`, PostgreSQL 13+). Before 13 only partitions can be listed.
    pub via_partition_root: bool,
}

/// A table that a publication carries, as the stream will name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedTable {
    /// Its OID.
    pub id: TableId,
    /// Its name.
    pub name: QualifiedName,
}

/// Tables that one statement names.
const TABLES_PER_STATEMENT: usize = 100;

/// How long a publication's drop waits for a table that somebody has locked, seconds.
const LOCK_WAIT_S: u32 = 5;

/// Creates the publication `name` for exactly `tables`. Call it before the slot is made. If it fails, none is
/// left, unless dropping it fails, too; then that is logged.
pub async fn create(
    session: &Session,
    name: &str,
    tables: &[QualifiedName],
    options: PublicationOptions,
) -> Result<(), SourceError> {
    let version_num = session.server_version();
    if options.via_partition_root && version_num < 130_000 {
        return Err(SourceError::halt(
            "publishing partitions as their root needs PostgreSQL 13 or newer on the source",
            "list the partitions instead of the partitioned table",
        ));
    }
    let (first, rest) = tables.split_at(tables.len().min(TABLES_PER_STATEMENT));
    let sql = create_sql(version_num, name, first, options);
    execute(session, &format!("create the publication {name}"), &sql).await?;
    let added = alter(session, name, "ADD", rest).await;
    if added.is_err()
        && let Err(error) = drop(session, name).await
    {
        tracing::warn!(publication = name, %error, "a publication with a part of its tables is left");
    }
    added
}

/// Adds tables, a hundred at a time.
pub async fn add_tables(
    session: &Session,
    name: &str,
    tables: &[QualifiedName],
) -> Result<(), SourceError> {
    alter(session, name, "ADD", tables).await
}

/// Takes tables out, a hundred at a time. A change made before still arrives, if it has not been decoded yet.
pub async fn drop_tables(
    session: &Session,
    name: &str,
    tables: &[QualifiedName],
) -> Result<(), SourceError> {
    alter(session, name, "DROP", tables).await
}

async fn alter(
    session: &Session,
    name: &str,
    verb: &str,
    tables: &[QualifiedName],
) -> Result<(), SourceError> {
    let publication = quote_identifier(name);
    for tables in tables.chunks(TABLES_PER_STATEMENT) {
        let sql = format!("ALTER PUBLICATION {publication} {verb} TABLE {}", table_list(tables));
        execute(session, &format!("alter the publication {name}"), &sql).await?;
    }
    Ok(())
}

/// Drops the publication; fine if there is none.
pub async fn drop(session: &Session, name: &str) -> Result<(), SourceError> {
    // DROP PUBLICATION locks each membership and no table. Taking tables out locks the tables, so that is
    // done only where all memberships at once may not fit, and nobody is kept waiting behind us for long.
    let listed = listed(session, name).await?;
    let doing = format!("drop the publication {name}");
    let room = lock_room::for_one(&**session).await.map_err(|error| of_session(&doing, error))?;
    if listed.len() as i64 > room {
        execute(session, &doing, &format!("SET lock_timeout = '{LOCK_WAIT_S}s'")).await?;
        let taken =
            alter(session, name, "DROP", &listed[TABLES_PER_STATEMENT.min(listed.len())..]).await;
        execute(session, &doing, "RESET lock_timeout").await?;
        taken?;
    }
    let sql = format!("DROP PUBLICATION IF EXISTS {}", quote_identifier(name));
    execute(session, &doing, &sql).await
}

/// The tables that the publication lists one by one, partitioned ones as they are listed.
async fn listed(session: &Session, name: &str) -> Result<Vec<QualifiedName>, SourceError> {
    let doing = format!("list the tables of the publication {name}");
    let rows = session
        .query(
            "SELECT n.nspname::text, c.relname::text
             FROM pg_catalog.pg_publication p
             JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid
             JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE p.pubname = $1",
            &[&name],
        )
        .await
        .map_err(|error| of_session(&doing, error))?;
    let table = |row: &tokio_postgres::Row| {
        Ok(QualifiedName::new(row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?))
    };
    let tables = rows.iter().map(table).collect::<Result<_, tokio_postgres::Error>>();
    tables.map_err(|error| of_session(&doing, error))
}

/// Whether there is a publication of this name.
pub async fn exists(session: &Session, name: &str) -> Result<bool, SourceError> {
    let found = session
        .query_opt("SELECT FROM pg_catalog.pg_publication WHERE pubname = $1", &[&name])
        .await
        .map_err(|error| of_session(&format!("look for the publication {name}"), error))?;
    Ok(found.is_some())
}

/// The tables that the publication carries now, ordered by name. Partitioned tables are resolved
/// to what the stream will name: the leaves, or the listed table with `via_partition_root`.
pub async fn tables(session: &Session, name: &str) -> Result<Vec<PublishedTable>, SourceError> {
    let doing = format!("list the tables of the publication {name}");
    let rows = session
        .query(
            "SELECT c.oid, n.nspname::text, c.relname::text
             FROM pg_catalog.pg_publication_tables t
             JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname
             JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
             WHERE t.pubname = $1
             ORDER BY 2, 3",
            &[&name],
        )
        .await
        .map_err(|error| of_session(&doing, error))?;
    let table = |row: &tokio_postgres::Row| {
        let name = QualifiedName::new(row.try_get::<_, String>(1)?, row.try_get::<_, String>(2)?);
        Ok(PublishedTable { id: TableId(row.try_get(0)?), name })
    };
    let tables = rows.iter().map(table).collect::<Result<_, tokio_postgres::Error>>();
    tables.map_err(|error| of_session(&doing, error))
}

/// OIDs of all types of columns that the publications carry, each once.
pub async fn column_types(session: &Session, names: &[String]) -> Result<Vec<u32>, SourceError> {
    let doing = "read the published columns' types";
    let rows = session
        .query(
            "SELECT DISTINCT a.atttypid
             FROM pg_catalog.pg_publication_tables t
             JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname
             JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
             WHERE t.pubname = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped",
            &[&names],
        )
        .await
        .map_err(|error| of_session(doing, error))?;
    let types = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>();
    types.map_err(|error| of_session(doing, error))
}

async fn execute(session: &Session, doing: &str, sql: &str) -> Result<(), SourceError> {
    session.batch_execute(sql).await.map_err(|error| of_session(doing, error))
}

fn create_sql(
    version_num: u32,
    name: &str,
    tables: &[QualifiedName],
    options: PublicationOptions,
) -> String {
    let mut sql = format!("CREATE PUBLICATION {}", quote_identifier(name));
    if !tables.is_empty() {
        sql.push_str(" FOR TABLE ");
        sql.push_str(&table_list(tables));
    }
    // TRUNCATE is published from PostgreSQL 11 on.
    let publish = match version_num {
        ..110_000 => "insert, update, delete",
        _ => "insert, update, delete, truncate",
    };
    sql.push_str(&format!(" WITH (publish = '{publish}'"));
    if options.via_partition_root {
        sql.push_str(", publish_via_partition_root = true");
    }
    if version_num >= 180_000 {
        sql.push_str(", publish_generated_columns = none");
    }
    sql.push(')');
    sql
}

/// `ONLY`, because each table is listed by itself; it means nothing for partitioned tables.
fn table_list(tables: &[QualifiedName]) -> String {
    tables.iter().map(|table| format!("ONLY {table}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_fits_the_version() {
        let tables = [QualifiedName::new("public", "a"), QualifiedName::new("S \"x\"", "Größe")];
        let list = r#"FOR TABLE ONLY "public"."a", ONLY "S ""x"""."Größe""#;
        let root = PublicationOptions { via_partition_root: true };
        let cases = [
            (100_023, PublicationOptions::default(), "(publish = 'insert, update, delete')"),
            (
                120_022,
                PublicationOptions::default(),
                "(publish = 'insert, update, delete, truncate')",
            ),
            (
                130_023,
                root,
                "(publish = 'insert, update, delete, truncate', publish_via_partition_root = true)",
            ),
            (
                180_004,
                root,
                "(publish = 'insert, update, delete, truncate', publish_via_partition_root = true, \
                 publish_generated_columns = none)",
            ),
        ];
        for (version_num, options, with) in cases {
            let expected = format!(r#"CREATE PUBLICATION "p""q" {list} WITH {with}"#);
            assert_eq!(create_sql(version_num, "p\"q", &tables, options), expected);
        }
    }

    #[test]
    fn a_publication_may_start_without_tables() {
        let sql = create_sql(150_000, "p", &[], PublicationOptions::default());
        let expected =
            "CREATE PUBLICATION \"p\" WITH (publish = 'insert, update, delete, truncate')";
        assert_eq!(sql, expected);
    }
}
