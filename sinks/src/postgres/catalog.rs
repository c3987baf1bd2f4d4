//! What green's catalogs say about a table that changes are applied to.

use std::sync::Arc;

use decoders::change::{Generated, QualifiedName};
use tokio_postgres::{Client, Row};

use super::error::target_error;
use super::inner_oids;
use crate::plan::InnerOids;
use crate::target::TargetError;

/// A table of green as it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GreenTable {
    /// Its OID on green.
    pub oid: u32,
    /// Its name.
    pub name: QualifiedName,
    /// Plain or partitioned.
    pub kind: TableKind,
    /// Its columns in attribute order, dropped ones left out.
    pub columns: Vec<GreenColumn>,
    /// Unique indexes that find at most one row: valid, immediate, not partial, without
    /// expressions, every column NOT NULL, and equal is what `=` on the columns says. The primary
    /// key is first.
    pub unique_keys: Vec<UniqueKey>,
    /// User triggers and rules that are not disabled.
    pub triggers: Vec<GreenTrigger>,
    /// Foreign keys of other tables that change or remove their rows when a row here changes
    /// (CASCADE, SET NULL, SET DEFAULT).
    pub cascades: Vec<String>,
}

/// The kinds of relation that rows can be applied to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableKind {
    /// An ordinary table, possibly a partition, possibly with children.
    Plain,
    /// A partitioned table.
    Partitioned,
}

/// A column of green.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GreenColumn {
    /// Name, unquoted.
    pub name: String,
    /// OID of its type on green.
    pub type_oid: u32,
    /// `atttypmod`; -1 for none.
    pub type_modifier: i32,
    /// The type as a person writes it, with modifier.
    pub type_name: String,
    /// NOT NULL.
    pub not_null: bool,
    /// Has a DEFAULT.
    pub has_default: bool,
    /// Computed from other columns.
    pub generated: Option<Generated>,
    /// Identity column, and of which kind.
    pub identity: Option<Identity>,
    /// How its values are compared.
    pub equality: Equality,
    /// The array type whose elements are values of the column, one each. `None` for arrays (there
    /// are no arrays of arrays), composites (`unnest` takes them apart) and types without one.
    pub array: Option<ArrayType>,
    /// OIDs of user-defined types inside binary values, where the type has some.
    pub inner_oids: Option<Arc<InnerOids>>,
}

/// An array type (PostgreSQL manual, 8.15.6 Array Input and Output Syntax).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArrayType {
    /// Its OID on green.
    pub oid: u32,
    /// What stands between two elements in its text.
    pub delimiter: u8,
}

/// `GENERATED .. AS IDENTITY` (PostgreSQL manual, CREATE TABLE).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Identity {
    /// INSERT needs OVERRIDING SYSTEM VALUE, UPDATE can't set it at all.
    Always,
    /// Like a DEFAULT.
    ByDefault,
}

/// How two values of a column are compared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Equality {
    /// By the `=` of this schema, and equal values have equal text.
    Exact {
        /// Where the operator is.
        schema: String,
    },
    /// By the `=` of this schema; equal values may differ in text (1.0 and 1.00, -0 and 0).
    Loose {
        /// Where the operator is.
        schema: String,
    },
    /// The type has no equality (json, xml, point): by text output.
    Text,
}

/// A unique index that identifies rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UniqueKey {
    /// The index's name.
    pub name: String,
    /// Whether it is the primary key.
    pub primary: bool,
    /// Names of its columns.
    pub columns: Vec<String>,
}

/// A user trigger or a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GreenTrigger {
    /// Its name.
    pub name: String,
    /// Whether it fires in sessions with `session_replication_role = replica`
    /// (ENABLE ALWAYS or ENABLE REPLICA).
    pub fires_on_replica: bool,
    /// Whether it fires in ordinary sessions (ENABLE or ENABLE ALWAYS).
    pub fires_on_origin: bool,
}

// `to_jsonb(row) ->> 'column'` reads catalog columns that older servers lack as NULL.
const TABLE: &str = "
SELECT c.oid, c.relkind::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')";

// The default equality of a type is found as the server's type cache does: default btree operator
// class, else default hash operator class; enums, ranges and arrays have theirs under the
// pseudo-type, varchar under text, cidr under inet. Array equality also needs one for the element.
const COLUMNS: &str = "
WITH RECURSIVE base(attnum, oid) AS (
  SELECT a.attnum, a.atttypid FROM pg_catalog.pg_attribute a
  WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
 UNION ALL
  SELECT b.attnum, t.typbasetype FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.oid
  WHERE t.typtype = 'd'
)
SELECT a.attname::text, a.atttypid, a.atttypmod, pg_catalog.format_type(a.atttypid, a.atttypmod),
       a.attnotnull, a.atthasdef, pg_catalog.to_jsonb(a) ->> 'attgenerated', a.attidentity::text,
       CASE WHEN item.oid IS NULL THEN equal.schema
            WHEN equal.schema IS NOT NULL THEN 'pg_catalog' END,
       t.oid, t.typtype::text,
       coalesce((pg_catalog.to_jsonb(l) ->> 'collisdeterministic')::bool, true),
       CASE WHEN t.typtype <> 'c' AND item.oid IS NULL THEN nullif(own.typarray, 0) END,
       own.typdelim::text
FROM base b
JOIN pg_catalog.pg_type t ON t.oid = b.oid AND t.typtype <> 'd'
JOIN pg_catalog.pg_attribute a ON a.attrelid = $1 AND a.attnum = b.attnum
JOIN pg_catalog.pg_type own ON own.oid = a.atttypid
LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
LEFT JOIN pg_catalog.pg_type item
       ON item.oid = t.typelem AND t.typlen = -1 AND t.typcategory = 'A' AND t.typtype = 'b'
LEFT JOIN LATERAL (
  SELECT n.nspname::text AS schema
  FROM pg_catalog.pg_opclass c
  JOIN pg_catalog.pg_amop m ON m.amopfamily = c.opcfamily AND m.amopmethod = c.opcmethod
   AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
   AND m.amopstrategy = CASE c.opcmethod WHEN 403 THEN 3 ELSE 1 END
  JOIN pg_catalog.pg_operator o ON o.oid = m.amopopr AND o.oprname = '='
  JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
  WHERE c.opcdefault AND c.opcmethod IN (403, 405)
    AND c.opcintype = CASE coalesce(item.typtype, t.typtype)
        WHEN 'e' THEN 3500 WHEN 'r' THEN 3831 WHEN 'm' THEN 4537
        ELSE CASE coalesce(item.oid, t.oid) WHEN 1043 THEN 25 WHEN 650 THEN 869
             ELSE coalesce(item.oid, t.oid) END
        END
  ORDER BY c.opcmethod LIMIT 1
) equal ON true
ORDER BY a.attnum";

/// The table and, if it is partitioned, all its partitions, as `family(oid)`. Rows of a partitioned
/// table are its partitions', with their triggers and constraints. Children of a plain table are
/// left alone by our statements.
pub(super) const FAMILY: &str = "
WITH RECURSIVE family(oid) AS (
  SELECT $1::oid
 UNION
  SELECT i.inhrelid FROM family f JOIN pg_catalog.pg_inherits i ON i.inhparent = f.oid
  JOIN pg_catalog.pg_class c ON c.oid = f.oid AND c.relkind = 'p'
)";

/// Names of the columns of the index `i`, those that it only includes left out.
pub(super) const KEY_COLUMNS: &str = "
       ARRAY(SELECT a.attname::text
             FROM pg_catalog.unnest(i.indkey) WITH ORDINALITY k(attnum, at)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             WHERE k.at <= coalesce((pg_catalog.to_jsonb(i) ->> 'indnkeyatts')::int, i.indnatts)
             ORDER BY k.at)";

/// Whether the index `i` may find other values equal than `=` on its columns does: by another
/// collation, or another operator class than the type's default. The vectors count from 0.
pub(super) const OTHER_EQUALITY: &str = "
       EXISTS (SELECT FROM pg_catalog.unnest(i.indkey) WITH ORDINALITY k(attnum, at)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
               JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[(k.at - 1)::int]
               WHERE k.at <= coalesce((pg_catalog.to_jsonb(i) ->> 'indnkeyatts')::int, i.indnatts)
                 AND NOT (o.opcdefault AND i.indcollation[(k.at - 1)::int] = a.attcollation))";

fn unique_keys() -> String {
    format!(
        "SELECT c.relname::text, i.indisprimary, {KEY_COLUMNS}
FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indisready AND i.indimmediate
  AND i.indpred IS NULL AND i.indexprs IS NULL AND NOT {OTHER_EQUALITY}
ORDER BY i.indisprimary DESC, i.indnatts, c.relname"
    )
}

/// Without our own: they report TRUNCATE to the stream in the other direction, which leaves out what
/// we apply. From 11 to 14 what a partition has of its parent's trigger is marked as internal.
const TRIGGERS: &str = "
SELECT tgname::text, tgenabled::text FROM pg_catalog.pg_trigger JOIN family f ON f.oid = tgrelid
WHERE tgenabled <> 'D' AND (NOT tgisinternal OR tgenabled IN ('A', 'R') AND (tgconstraint = 0
    OR EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.oid = tgconstraint AND k.contype = 't')))
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc p
                  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
                  WHERE p.oid = tgfoid AND n.nspname = '_cutover')
UNION
SELECT rulename::text, ev_enabled::text FROM pg_catalog.pg_rewrite JOIN family f ON f.oid = ev_class
WHERE ev_enabled <> 'D'
ORDER BY 1";

const CASCADES: &str = "
SELECT pg_catalog.format('%I on %s', conname, conrelid::regclass)
FROM pg_catalog.pg_constraint JOIN family f ON f.oid = confrelid
WHERE contype = 'f'
  AND (confdeltype IN ('c', 'n', 'd') OR confupdtype IN ('c', 'n', 'd'))
ORDER BY 1";

/// Reads a table of green; `None` if there is no relation of that name.
pub async fn read_table(
    client: &Client,
    name: &QualifiedName,
) -> Result<Option<GreenTable>, TargetError> {
    let fail = |e| target_error(&format!("reading green's definition of {name}"), &e);
    let row = client.query_opt(TABLE, &[&name.schema, &name.name]).await.map_err(fail)?;
    let Some(row) = row else { return Ok(None) };
    let oid: u32 = row.get(0);
    let kind = match row.get::<_, String>(1).as_str() {
        "r" => TableKind::Plain,
        "p" => TableKind::Partitioned,
        _ => {
            return Err(TargetError::halt(
                format!("{name} is not a table on green"),
                "Make it a table like blue's, or leave it out of the publication",
            ));
        }
    };
    let columns = client.query(COLUMNS, &[&oid]).await.map_err(fail)?;
    let mut columns: Vec<GreenColumn> = columns.iter().map(column).collect();
    let inside = inner_oids::read(client, columns.iter().map(|column| column.type_oid)).await?;
    for column in &mut columns {
        column.inner_oids = inside.get(&column.type_oid).cloned().map(Arc::new);
    }
    let not_null = |wanted: &String| columns.iter().any(|c| c.name == *wanted && c.not_null);
    let unique_keys = client.query(&unique_keys(), &[&oid]).await.map_err(fail)?;
    let unique_keys = unique_keys
        .iter()
        .map(|row| UniqueKey { name: row.get(0), primary: row.get(1), columns: row.get(2) })
        .filter(|key| key.columns.iter().all(not_null))
        .collect();
    let triggers = client.query(&format!("{FAMILY}{TRIGGERS}"), &[&oid]).await.map_err(fail)?;
    let triggers = triggers.iter().map(trigger).collect();
    let cascades = client.query(&format!("{FAMILY}{CASCADES}"), &[&oid]).await.map_err(fail)?;
    let cascades = cascades.iter().map(|row| row.get(0)).collect();
    let name = name.clone();
    Ok(Some(GreenTable { oid, name, kind, columns, unique_keys, triggers, cascades }))
}

fn column(row: &Row) -> GreenColumn {
    let generated = match row.get::<_, Option<String>>(6).as_deref() {
        Some("s") => Some(Generated::Stored),
        Some("v") => Some(Generated::Virtual),
        _ => None,
    };
    let identity = match row.get::<_, String>(7).as_str() {
        "a" => Some(Identity::Always),
        "d" => Some(Identity::ByDefault),
        _ => None,
    };
    let exact = equal_means_identical(row.get(9), row.get::<_, String>(10) == "e", row.get(11));
    let equality = match (row.get::<_, Option<String>>(8), exact) {
        (Some(schema), true) => Equality::Exact { schema },
        (Some(schema), false) => Equality::Loose { schema },
        (None, _) => Equality::Text,
    };
    let delimiter = row.get::<_, String>(13).bytes().next().unwrap_or(b',');
    let array = row.get::<_, Option<u32>>(12).map(|oid| ArrayType { oid, delimiter });
    GreenColumn {
        name: row.get(0),
        type_oid: row.get(1),
        type_modifier: row.get(2),
        type_name: row.get(3),
        not_null: row.get(4),
        has_default: row.get(5),
        generated,
        identity,
        equality,
        array,
        inner_oids: None,
    }
}

/// Types whose equal values have equal text. Not among them: numeric (scale), floats (-0),
/// interval (1 day = 24 h), char(n) without a length, jsonb and arrays (numbers within), citext.
fn equal_means_identical(base_type: u32, is_enum: bool, deterministic: bool) -> bool {
    const EXACT: [u32; 25] = [
        16, 17, 18, 19, 20, 21, 23, 25, 26, 28, 650, 774, 790, 829, 869, 1043, 1082, 1083, 1114,
        1184, 1266, 1560, 1562, 2950, 3220,
    ];
    deterministic && (is_enum || EXACT.contains(&base_type))
}

fn trigger(row: &Row) -> GreenTrigger {
    let enabled: String = row.get(1);
    GreenTrigger {
        name: row.get(0),
        fires_on_replica: matches!(enabled.as_str(), "A" | "R"),
        fires_on_origin: matches!(enabled.as_str(), "O" | "A"),
    }
}
