//! What green's catalogs say about the order that changes of a table must keep.

use decoders::change::QualifiedName;
use decoders::postgres::session::Session;

use super::catalog::Equality;
use super::error::target_error;
use crate::conflicts::{Reference, TableConflicts, TableFacts};
use crate::plan::{Fire, TablePlan};
use crate::target::TargetError;

// Partial indexes too: more conflicts than there are do no harm. NULLS NOT DISTINCT and expressions
// are what the stream's values do not show.
const UNIQUE: &str = "
SELECT ARRAY(SELECT a.attname::text
             FROM pg_catalog.unnest(i.indkey) WITH ORDINALITY k(attnum, at)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             WHERE k.at <= coalesce((pg_catalog.to_jsonb(i) ->> 'indnkeyatts')::int, i.indnatts)
             ORDER BY k.at),
       i.indisexclusion OR i.indexprs IS NOT NULL
         OR coalesce((pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false)
FROM pg_catalog.pg_index i
WHERE i.indrelid = $1 AND (i.indisunique OR i.indisexclusion) AND i.indisready
ORDER BY i.indexrelid";

const REFERENCES: &str = "
SELECT n.nspname::text, p.relname::text,
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(c.conkey) WITH ORDINALITY k(attnum, at)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum
             ORDER BY k.at),
       ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(c.confkey) WITH ORDINALITY k(attnum, at)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum
             ORDER BY k.at),
       ARRAY(SELECT a.atttypid FROM pg_catalog.unnest(c.conkey) WITH ORDINALITY k(attnum, at)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum
             ORDER BY k.at)
     = ARRAY(SELECT a.atttypid FROM pg_catalog.unnest(c.confkey) WITH ORDINALITY k(attnum, at)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum
             ORDER BY k.at)
FROM pg_catalog.pg_constraint c
JOIN pg_catalog.pg_class p ON p.oid = c.confrelid
JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace
WHERE c.conrelid = $1 AND c.contype = 'f'
ORDER BY c.oid";

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
    let unique = client.query(UNIQUE, &[&green.oid]).await.map_err(fail)?;
    let references = client.query(REFERENCES, &[&green.oid]).await.map_err(fail)?;
    let exact = |name: &String| {
        let column = green.columns.iter().find(|column| column.name == *name);
        column.is_some_and(|column| matches!(column.equality, Equality::Exact { .. }))
    };
    let mut facts = TableFacts {
        identity: plan.key_positions().filter(|key| is_unique(plan, key)).map(<[usize]>::to_vec),
        // What would fire otherwise is refused when the plan is made.
        acts: fire == Fire::Accepted && !(green.triggers.is_empty() && green.cascades.is_empty()),
        ..TableFacts::default()
    };
    for row in &unique {
        let columns: Vec<String> = row.get(0);
        facts.in_order |= row.get::<_, bool>(1) || !columns.iter().all(exact);
        facts.unique.push(columns);
    }
    for row in &references {
        let (own, parents): (Vec<String>, Vec<String>) = (row.get(2), row.get(3));
        let spelled_alike = row.get::<_, bool>(4) && own.iter().all(exact);
        // Where replicas apply, foreign keys are not checked.
        facts.in_order |= fire != Fire::OnReplica && !spelled_alike;
        facts.references.push(Reference {
            parent: QualifiedName::new(row.get::<_, String>(0), row.get::<_, String>(1)),
            columns: own.into_iter().zip(parents).collect(),
        });
    }
    Ok(TableConflicts::new(schema, &facts))
}

/// Whether a unique index of green lies within the columns.
fn is_unique(plan: &TablePlan, positions: &[usize]) -> bool {
    let names: Vec<&str> = positions.iter().map(|at| &*plan.green_column(*at).name).collect();
    let keys = &plan.green().unique_keys;
    keys.iter().any(|key| key.columns.iter().all(|column| names.contains(&&**column)))
}
