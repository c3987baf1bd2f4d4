//! Code of others that runs with our rights wherever we write to their tables.

use decoders::change::QualifiedName;
use decoders::postgres::catalog::CatalogError;
use tokio_postgres::Client;

/// One expression, constraint or trigger that runs where a table is written to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableCode {
    /// The table that it runs for.
    pub table: QualifiedName,
    /// Whoever may define what it does: the table's owner, or that of a function that it calls.
    pub owner: String,
    /// What it is, and which function runs if that can be told.
    pub what: String,
}

/// Expressions are searched for what they call in their stored form, because the catalog notes no
/// dependency on the server's own functions. Of these only volatile ones do anything. Casts of domains carry the
/// domain's constraint. A function counts as its owner's; what the server brings, or an extension of a
/// superuser's, is nobody's.
const CODE: &str = r#"
WITH trusted AS (
  SELECT oid FROM pg_catalog.pg_roles WHERE rolsuper OR rolname = current_user
), tables AS (
  SELECT c.oid, n.nspname, c.relname, c.relowner
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
    AND n.nspname NOT IN ('information_schema', '_cutover')
), expressions(tab, kind, name, owner, tree) AS (
  SELECT d.adrelid, CASE WHEN a.attidentity = '' THEN 'default' ELSE 'identity' END, a.attname, t.relowner,
         d.adbin::text
  FROM tables t JOIN pg_catalog.pg_attrdef d ON d.adrelid = t.oid
  JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
  UNION ALL
  SELECT k.conrelid, 'constraint', k.conname, t.relowner, k.conbin::text
  FROM tables t JOIN pg_catalog.pg_constraint k ON k.conrelid = t.oid AND k.contype = 'c'
  UNION ALL
  SELECT i.indrelid, 'index', c.relname, t.relowner,
         pg_catalog.concat(i.indexprs::text, ' ', i.indpred::text)
  FROM tables t JOIN pg_catalog.pg_index i ON i.indrelid = t.oid
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  WHERE i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
  UNION ALL
  SELECT a.attrelid, 'domain', y.typname, y.typowner, k.conbin::text
  FROM tables t JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
  JOIN pg_catalog.pg_type y ON y.oid = a.atttypid AND y.typtype = 'd'
  JOIN pg_catalog.pg_constraint k ON k.contypid = y.oid AND k.contype = 'c'
), calls AS (
  SELECT e.tab, e.kind, e.name, e.owner,
         (pg_catalog.regexp_matches(e.tree, ':(?:funcid|opfuncid) ([1-9][0-9]*)', 'g'))[1]::oid AS called
  FROM expressions e
), found(tab, owner, what) AS (
  SELECT c.tab, CASE WHEN p.proowner IN (SELECT oid FROM trusted) THEN c.owner ELSE p.proowner END,
         pg_catalog.format('%s %I calls %s', c.kind, c.name, p.oid::pg_catalog.regprocedure)
  FROM calls c JOIN pg_catalog.pg_proc p ON p.oid = c.called
  WHERE (p.oid < 16384 AND p.provolatile = 'v' AND c.owner NOT IN (SELECT oid FROM trusted)
         AND p.proname NOT IN ('nextval', 'clock_timestamp', 'timeofday', 'random', 'gen_random_uuid', 'uuidv7',
                               'uuidv4'))
     OR (p.oid >= 16384 AND p.proowner NOT IN (SELECT oid FROM trusted))
     OR (p.oid >= 16384 AND c.owner NOT IN (SELECT oid FROM trusted) AND NOT EXISTS (
           SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
             AND d.objid = p.oid AND d.deptype = 'e'))
  UNION ALL
  SELECT t.oid, CASE WHEN p.proowner IN (SELECT oid FROM trusted) THEN t.relowner ELSE p.proowner END,
         pg_catalog.format('trigger %I (%s) calls %s', g.tgname,
           CASE g.tgenabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END, p.oid::pg_catalog.regprocedure)
  FROM tables t JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal
  JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid
  WHERE g.tgenabled IN ('A', 'R')
    AND (p.pronamespace IS DISTINCT FROM pg_catalog.to_regnamespace('_cutover')::pg_catalog.oid
         OR p.proowner NOT IN (SELECT oid FROM trusted))
    AND (p.proowner NOT IN (SELECT oid FROM trusted) OR t.relowner NOT IN (SELECT oid FROM trusted))
)
SELECT DISTINCT t.nspname::text, t.relname::text, pg_catalog.pg_get_userbyid(f.owner)::text, f.what
FROM found f JOIN tables t ON t.oid = f.tab ORDER BY 1, 2, 3, 4"#;

/// Asks for all that there is. What somebody adds later is not there yet.
///
/// # Errors
/// The query failed.
pub async fn read(client: &Client) -> Result<Vec<TableCode>, CatalogError> {
    let failed = |error| CatalogError::query("code in tables", error);
    let rows = client.query(CODE, &[]).await.map_err(failed)?;
    rows.iter()
        .map(|row| {
            let (schema, name): (String, String) =
                (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
            Ok(TableCode {
                table: QualifiedName::new(schema, name),
                owner: row.try_get(2).map_err(failed)?,
                what: row.try_get(3).map_err(failed)?,
            })
        })
        .collect()
}
