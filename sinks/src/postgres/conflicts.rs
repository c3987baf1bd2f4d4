//! What green's catalogs say about the order that changes of a table must keep.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use decoders::change::{QualifiedName, TableSchema};
use decoders::postgres::session::Session;

use super::catalog::{Equality, FAMILY, GreenTable, KEY_COLUMNS, OTHER_EQUALITY, TableKind};
use super::error::target_error;
use crate::conflicts::{Reference, TableConflicts, TableFacts};
use crate::plan::{Fire, TablePlan};
use crate::target::TargetError;

// What constrains a row of a partitioned table may be declared on a partition alone. Partial indexes
// too: more conflicts than there are do no harm. NULLS NOT DISTINCT, expressions and equality other
// than the columns' own are what the stream's values do not show.
fn unique() -> String {
    format!(
        "{FAMILY}
SELECT DISTINCT {KEY_COLUMNS},
       i.indisexclusion OR i.indexprs IS NOT NULL
         OR coalesce((pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false)
         OR {OTHER_EQUALITY}
FROM pg_catalog.pg_index i JOIN family f ON f.oid = i.indrelid
WHERE (i.indisunique OR i.indisexclusion) AND i.indisready
ORDER BY 1, 2"
    )
}

/// Names of a constraint's columns of one of its two tables.
macro_rules! columns {
    ($what:literal, $key:literal, $table:literal) => {
        concat!(
            "ARRAY(SELECT ",
            $what,
            " FROM pg_catalog.unnest(",
            $key,
            ")
                   WITH ORDINALITY k(attnum, at)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = ",
            $table,
            " AND a.attnum = k.attnum
             ORDER BY k.at)"
        )
    };
}

// Types and collations: what they have in common is how values are compared and spelled.
const REFERENCES: &str = concat!(
    "
SELECT DISTINCT n.nspname::text, p.relname::text, ",
    columns!("a.attname::text", "c.conkey", "c.conrelid"),
    ", ",
    columns!("a.attname::text", "c.confkey", "c.confrelid"),
    ", ",
    columns!("(a.atttypid, a.attcollation)::text", "c.conkey", "c.conrelid"),
    " = ",
    columns!("(a.atttypid, a.attcollation)::text", "c.confkey", "c.confrelid"),
    "
FROM pg_catalog.pg_constraint c JOIN family f ON f.oid = c.conrelid
CROSS JOIN LATERAL (
  WITH RECURSIVE up(oid, depth) AS (
    SELECT c.confrelid, 0
   UNION ALL
    SELECT i.inhparent, up.depth + 1 FROM up
    JOIN pg_catalog.pg_class r ON r.oid = up.oid AND r.relispartition
    JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid
  )
  SELECT up.oid FROM up ORDER BY up.depth DESC LIMIT 1
) top
JOIN pg_catalog.pg_class p ON p.oid = top.oid
JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace
WHERE c.contype = 'f'
ORDER BY 1, 2, 3, 4"
);

// A foreign key may refer to a partition, or to the table that this one is a partition of.
const REFERRED: &str = concat!(
    ", up(oid) AS (
  SELECT $1::oid
 UNION
  SELECT i.inhparent FROM up
  JOIN pg_catalog.pg_class c ON c.oid = up.oid AND c.relispartition
  JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid
)
SELECT DISTINCT ",
    columns!("a.attname::text", "c.confkey", "c.confrelid"),
    "
FROM pg_catalog.pg_constraint c
WHERE c.contype = 'f'
  AND (c.confrelid IN (SELECT oid FROM family) OR c.confrelid IN (SELECT oid FROM up))
ORDER BY 1"
);

const TREE: &str = "
WITH RECURSIVE up(oid, depth) AS (
  SELECT i.inhparent, 1 FROM pg_catalog.pg_inherits i
  JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition
  WHERE i.inhrelid = $1
 UNION ALL
  SELECT i.inhparent, up.depth + 1 FROM up
  JOIN pg_catalog.pg_class c ON c.oid = up.oid AND c.relispartition
  JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid
)
SELECT n.nspname::text, c.relname::text
FROM up JOIN pg_catalog.pg_class c ON c.oid = up.oid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
ORDER BY up.depth DESC LIMIT 1";

/// Reads what matters for the order of changes to the table of `plan`.
///
/// An index or a foreign key that comes later is not seen; its refusals are then more frequent.
pub(super) async fn read(
    client: &Session,
    plan: &TablePlan,
    fire: Fire,
) -> Result<TableConflicts, TargetError> {
    let (schema, green) = (plan.schema(), plan.green());
    let fail = |e| target_error(&format!("reading green's keys of {}", green.name), &e);
    let unique = client.query(&unique(), &[&green.oid]).await.map_err(fail)?;
    let of_family = |query: &str| format!("{FAMILY}{query}");
    let references = client.query(&of_family(REFERENCES), &[&green.oid]).await.map_err(fail)?;
    let referred = client.query(&of_family(REFERRED), &[&green.oid]).await.map_err(fail)?;
    let tree = client.query_opt(TREE, &[&green.oid]).await.map_err(fail)?;
    // Where replicas apply, foreign keys are not checked.
    let checked = fire != Fire::OnReplica;
    let exact = |name: &String| {
        let column = green.columns.iter().find(|column| column.name == *name);
        column.is_some_and(|column| matches!(column.equality, Equality::Exact { .. }))
    };
    let mut facts = TableFacts {
        identity: plan.key_positions().filter(|key| is_unique(plan, key)).map(<[usize]>::to_vec),
        // What would fire otherwise is refused when the plan is made.
        acts: fire == Fire::Accepted && !(green.triggers.is_empty() && green.cascades.is_empty()),
        tree: tree.map(|row| QualifiedName::new(row.get::<_, String>(0), row.get::<_, String>(1))),
        is_partitioned: green.kind == TableKind::Partitioned,
        columns: columns_hash(green),
        ..TableFacts::default()
    };
    if checked {
        facts.referred = referred.iter().map(|row| row.get(0)).collect();
    }
    for row in &unique {
        let columns: Vec<String> = row.get(0);
        facts.in_order |= row.get::<_, bool>(1) || !columns.iter().all(exact);
        facts.unique.push(columns);
    }
    for row in &references {
        let (own, parents): (Vec<String>, Vec<String>) = (row.get(2), row.get(3));
        let spelled_alike = row.get::<_, bool>(4) && own.iter().all(exact);
        facts.refers_loosely |= checked && !spelled_alike;
        facts.references.push(Reference {
            parent: QualifiedName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
            columns: own.into_iter().zip(parents).collect(),
        });
    }
    Ok(TableConflicts::new(schema, &facts))
}

const SHARES_ROWS: &str = "
WITH RECURSIVE own(oid) AS (
  SELECT c.oid FROM unnest($1::text[], $2::text[]) t(schema, name)
  JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.name
), up(oid) AS (
  SELECT i.inhparent FROM own JOIN pg_catalog.pg_inherits i ON i.inhrelid = own.oid
  JOIN pg_catalog.pg_class c ON c.oid = own.oid AND c.relispartition
 UNION
  SELECT i.inhparent FROM up JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid
)
SELECT EXISTS (SELECT FROM own JOIN up USING (oid))";

/// Whether one of the tables is a partition of another, at any depth.
pub(super) async fn shares_rows(
    client: &Session,
    tables: &[Arc<TableSchema>],
) -> Result<bool, TargetError> {
    let schemas: Vec<&str> = tables.iter().map(|table| &*table.name.schema).collect();
    let names: Vec<&str> = tables.iter().map(|table| &*table.name.name).collect();
    let row = client.query_one(SHARES_ROWS, &[&schemas, &names]).await;
    row.map(|row| row.get(0)).map_err(|e| target_error("reading green's partitions", &e))
}

/// Of names and types of the columns, in any order, as tables with the same can be attached to each
/// other (PostgreSQL manual, ALTER TABLE .. ATTACH PARTITION).
fn columns_hash(green: &GreenTable) -> u64 {
    let mut columns: Vec<_> =
        green.columns.iter().map(|column| (&*column.name, column.type_oid)).collect();
    columns.sort_unstable();
    let mut hasher = DefaultHasher::new();
    columns.hash(&mut hasher);
    hasher.finish()
}

/// Whether a unique index of green lies within the columns.
fn is_unique(plan: &TablePlan, positions: &[usize]) -> bool {
    let names: Vec<&str> = positions.iter().map(|at| &*plan.green_column(*at).name).collect();
    let keys = &plan.green().unique_keys;
    keys.iter().any(|key| key.columns.iter().all(|column| names.contains(&&**column)))
}
