//! Which user-defined types may travel in binary.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use super::{ChunkError, database};
use crate::postgres::types::is_binary_safe;

struct TypeFacts {
    kind: String,
    /// Of a domain.
    base: u32,
    /// Of a range or multirange.
    subtype: Option<u32>,
    /// Of a composite.
    fields: Vec<u32>,
}

/// Those of `types` whose binary form means the same on every server.
///
/// User-defined types differ in their OIDs only. Enums travel as their label, domains as their
/// base type, ranges and multiranges as their bounds: none of them carries an OID. Arrays carry
/// their element's and composites their fields' OIDs, so they are safe with built-in ones only.
pub(super) async fn binary_safe(
    client: &Client,
    types: BTreeSet<u32>,
) -> Result<BTreeSet<u32>, ChunkError> {
    const FACTS: &str = "
        SELECT t.oid, t.typtype::text, t.typbasetype, r.rngsubtype,
               ARRAY(SELECT a.atttypid FROM pg_catalog.pg_attribute a
                     WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0
                       AND NOT a.attisdropped)
        FROM pg_catalog.pg_type t
        LEFT JOIN pg_catalog.pg_range r
             ON t.oid IN (r.rngtypid, (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::oid)
        WHERE t.oid = ANY ($1)";
    let failed = database("reading the columns' types");
    let mut facts: BTreeMap<u32, TypeFacts> = BTreeMap::new();
    let mut wanted: Vec<u32> = types.iter().copied().filter(|oid| !is_binary_safe(*oid)).collect();
    while !wanted.is_empty() {
        let rows = client.query(FACTS, &[&wanted]).await.map_err(&failed)?;
        wanted.clear();
        for row in rows {
            let known = TypeFacts {
                kind: row.try_get(1).map_err(&failed)?,
                base: row.try_get(2).map_err(&failed)?,
                subtype: row.try_get(3).map_err(&failed)?,
                fields: row.try_get(4).map_err(&failed)?,
            };
            wanted.extend(known.subtype.into_iter().chain(Some(known.base)));
            facts.insert(row.try_get(0).map_err(&failed)?, known);
        }
        wanted.retain(|oid| *oid != 0 && !facts.contains_key(oid) && !is_binary_safe(*oid));
        wanted.sort_unstable();
        wanted.dedup();
    }
    Ok(types.into_iter().filter(|oid| is_safe(*oid, &facts)).collect())
}

fn is_safe(oid: u32, facts: &BTreeMap<u32, TypeFacts>) -> bool {
    if is_binary_safe(oid) {
        return true;
    }
    let Some(known) = facts.get(&oid) else {
        return false;
    };
    match known.kind.as_str() {
        "e" => true,
        "d" => is_safe(known.base, facts),
        "r" | "m" => known.subtype.is_some_and(|subtype| is_safe(subtype, facts)),
        "c" => known.fields.iter().all(|field| is_binary_safe(*field)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oids_inside_values_make_a_type_unsafe() {
        let facts = |kind: &str, base, subtype, fields: &[u32]| TypeFacts {
            kind: kind.into(),
            base,
            subtype,
            fields: fields.to_vec(),
        };
        let known = BTreeMap::from([
            (20_000, facts("e", 0, None, &[])),
            (20_001, facts("b", 0, None, &[])),
            (20_002, facts("d", 20_000, None, &[])),
            (20_003, facts("d", 20_001, None, &[])),
            (20_004, facts("r", 0, Some(20_000), &[])),
            (20_005, facts("c", 0, None, &[23, 25])),
            (20_006, facts("c", 0, None, &[23, 20_000])),
            (20_007, facts("d", 2205, None, &[])),
        ]);
        let safe: Vec<u32> = known.keys().copied().filter(|oid| is_safe(*oid, &known)).collect();
        assert_eq!(safe, [20_000, 20_002, 20_004, 20_005]);
        assert!(!is_safe(30_000, &known), "an unknown type");
    }
}
