//! Sequences, whose values are in no change stream.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::error::CatalogError;
use super::filter::USER_SCHEMAS;
use crate::change::QualifiedName;

/// A sequence: stand-alone, of a serial or of an identity column.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SequenceInfo {
    /// OID.
    pub oid: u32,
    /// Name.
    pub name: QualifiedName,
    /// Owner (role).
    pub owner: String,
    /// Table and column that own it (`OWNED BY` or an identity column).
    pub owned_by: Option<(QualifiedName, String)>,
    /// Belongs to an identity column.
    pub identity: bool,
    /// `smallint`, `integer` or `bigint`.
    pub data_type: String,
    /// First value.
    pub start: i64,
    /// Step; negative for a descending sequence.
    pub increment: i64,
    /// Lowest value.
    pub min: i64,
    /// Highest value.
    pub max: i64,
    /// Values cached by each session.
    pub cache: i64,
    /// CYCLE.
    pub cycles: bool,
    /// UNLOGGED (15+).
    pub unlogged: bool,
    /// The role may SELECT from it and use its schema.
    pub readable: bool,
    /// The role may `setval` it.
    pub writable: bool,
}

/// Where a sequence is: exactly what `setval(sequence, last_value, is_called)` takes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SequenceValue {
    /// The sequence.
    pub name: QualifiedName,
    /// Last value handed out, or the next one if not `is_called`.
    pub last_value: i64,
    /// Whether `last_value` was handed out.
    pub is_called: bool,
}

/// All sequences outside of system schemas and extensions, by name.
pub async fn sequences(client: &Client) -> Result<Vec<SequenceInfo>, CatalogError> {
    super::pin_search_path(client).await?;
    let sql = format!(
        "SELECT c.oid, n.nspname::text, c.relname::text, pg_get_userbyid(c.relowner)::text AS owner,
                tn.nspname::text AS table_schema, t.relname::text AS table_name,
                a.attname::text AS column_name, coalesce(d.deptype = 'i', false) AS identity,
                format_type(s.seqtypid, NULL) AS data_type, s.seqstart, s.seqincrement, s.seqmin,
                s.seqmax, s.seqcache, s.seqcycle, c.relpersistence = 'u' AS unlogged,
                has_schema_privilege(n.oid, 'USAGE')
                    AND has_sequence_privilege(c.oid, 'SELECT') AS readable,
                has_schema_privilege(n.oid, 'USAGE')
                    AND has_sequence_privilege(c.oid, 'UPDATE') AS writable
         FROM pg_class c
         JOIN pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_sequence s ON s.seqrelid = c.oid
         LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
              AND d.objsubid = 0 AND d.refclassid = 'pg_class'::regclass
              AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
         LEFT JOIN pg_class t ON t.oid = d.refobjid
         LEFT JOIN pg_namespace tn ON tn.oid = t.relnamespace
         LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
         WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND {USER_SCHEMAS}
           AND NOT EXISTS (SELECT 1 FROM pg_depend x
                           WHERE x.classid = 'pg_class'::regclass AND x.objid = c.oid
                             AND x.deptype = 'e')
         ORDER BY n.nspname, c.relname"
    );
    let rows =
        client.query(&sql, &[]).await.map_err(|error| CatalogError::query("sequences", error))?;
    Ok(rows
        .iter()
        .map(|row| {
            let table: Option<String> = row.get("table_name");
            let owned_by = table.map(|name| {
                (QualifiedName { schema: row.get("table_schema"), name }, row.get("column_name"))
            });
            SequenceInfo {
                oid: row.get("oid"),
                name: QualifiedName { schema: row.get("nspname"), name: row.get("relname") },
                owner: row.get("owner"),
                owned_by,
                identity: row.get("identity"),
                data_type: row.get("data_type"),
                start: row.get("seqstart"),
                increment: row.get("seqincrement"),
                min: row.get("seqmin"),
                max: row.get("seqmax"),
                cache: row.get("seqcache"),
                cycles: row.get("seqcycle"),
                unlogged: row.get("unlogged"),
                readable: row.get("readable"),
                writable: row.get("writable"),
            }
        })
        .collect())
}

/// Sequences per statement: bounds the size of the statement and of its plan.
const VALUES_PER_QUERY: usize = 500;

/// Reads the exact values of sequences, in the given order. Sequences do not follow snapshots:
/// the values are those of the moment of reading, so writers must be stopped for a final reading.
pub async fn sequence_values(
    client: &Client,
    names: &[QualifiedName],
) -> Result<Vec<SequenceValue>, CatalogError> {
    let mut values = Vec::with_capacity(names.len());
    for names in names.chunks(VALUES_PER_QUERY) {
        let selects: Vec<String> = names
            .iter()
            .enumerate()
            .map(|(at, name)| format!("SELECT {at}::int4, last_value, is_called FROM {name}"))
            .collect();
        let rows = client
            .query(&selects.join(" UNION ALL "), &[])
            .await
            .map_err(|error| CatalogError::query("sequence values", error))?;
        let mut read: Vec<Option<(i64, bool)>> = vec![None; names.len()];
        for row in &rows {
            let at = usize::try_from(row.get::<_, i32>(0)).ok();
            if let Some(slot) = at.and_then(|at| read.get_mut(at)) {
                *slot = Some((row.get(1), row.get(2)));
            }
        }
        for (name, value) in names.iter().zip(read) {
            let (last_value, is_called) = value.ok_or_else(|| {
                CatalogError::unexpected("sequence values", format!("{name} has no row"))
            })?;
            values.push(SequenceValue { name: name.clone(), last_value, is_called });
        }
    }
    Ok(values)
}
