//! Which types, user-defined ones among them, may travel in binary.
//!
//! User-defined types of two servers differ in their OIDs only. Enums travel as their label,
//! domains as their base type, ranges and multiranges as their bounds: none of them carries an
//! OID. Arrays carry their element's OID and composites their fields': with built-in ones inside
//! they mean the same everywhere, with others only to a reader that puts its own OIDs in
//! (`array_send`, `record_send` in PostgreSQL's `arrayfuncs.c` and `rowtypes.c`).
//!
//! Base types of extensions (hstore, geometry, ..) are left to text: what they send is theirs to
//! change from version to version.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use super::types::is_binary_safe;

/// What is to be thought of values with OIDs of user-defined types inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InnerOids {
    /// They are passed on as they are: not safe.
    Kept,
    /// The reader replaces them by its own.
    Replaced,
}

struct TypeFacts {
    kind: String,
    /// Of a domain.
    base: u32,
    /// Of an array.
    element: u32,
    /// Of a range or multirange.
    subtype: Option<u32>,
    /// Of a composite.
    fields: Vec<u32>,
}

/// Those of `types` whose binary form means the same on every server.
///
/// # Errors
/// The session's, reading catalogs.
pub async fn binary_safe(
    client: &Client,
    types: BTreeSet<u32>,
    inner: InnerOids,
) -> Result<BTreeSet<u32>, tokio_postgres::Error> {
    const FACTS: &str = "
        SELECT t.oid, t.typtype::text, t.typbasetype, r.rngsubtype,
               ARRAY(SELECT a.atttypid FROM pg_catalog.pg_attribute a
                     WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0
                       AND NOT a.attisdropped),
               CASE WHEN t.typtype = 'b' AND t.typlen = -1 AND t.typcategory = 'A'
                    THEN t.typelem ELSE 0 END
        FROM pg_catalog.pg_type t
        LEFT JOIN pg_catalog.pg_range r
             ON t.oid IN (r.rngtypid, (pg_catalog.to_jsonb(r) ->> 'rngmultitypid')::oid)
        WHERE t.oid = ANY ($1)";
    let mut facts: BTreeMap<u32, TypeFacts> = BTreeMap::new();
    let mut wanted: Vec<u32> = types.iter().copied().filter(|oid| !is_binary_safe(*oid)).collect();
    while !wanted.is_empty() {
        let rows = client.query(FACTS, &[&wanted]).await?;
        wanted.clear();
        for row in rows {
            let known = TypeFacts {
                kind: row.try_get(1)?,
                base: row.try_get(2)?,
                subtype: row.try_get(3)?,
                fields: row.try_get(4)?,
                element: row.try_get::<_, u32>(5)?,
            };
            wanted.extend(known.subtype.into_iter().chain([known.base, known.element]));
            wanted.extend(&known.fields);
            facts.insert(row.try_get(0)?, known);
        }
        wanted.retain(|oid| *oid != 0 && !facts.contains_key(oid) && !is_binary_safe(*oid));
        wanted.sort_unstable();
        wanted.dedup();
    }
    Ok(types.into_iter().filter(|oid| is_safe(*oid, &facts, inner)).collect())
}

fn is_safe(oid: u32, facts: &BTreeMap<u32, TypeFacts>, inner: InnerOids) -> bool {
    if is_binary_safe(oid) {
        return true;
    }
    let Some(known) = facts.get(&oid) else {
        return false;
    };
    let carried = |oid: u32| match inner {
        InnerOids::Kept => is_binary_safe(oid),
        InnerOids::Replaced => is_safe(oid, facts, inner),
    };
    match known.kind.as_str() {
        "e" => true,
        "d" => is_safe(known.base, facts, inner),
        // Nothing looks for OIDs within bounds.
        "r" | "m" => known.subtype.is_some_and(|subtype| is_safe(subtype, facts, InnerOids::Kept)),
        "c" => known.fields.iter().all(|field| carried(*field)),
        "b" => known.element != 0 && carried(known.element),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(kind: &str, base: u32, subtype: Option<u32>, fields: &[u32]) -> TypeFacts {
        TypeFacts { kind: kind.into(), base, element: 0, subtype, fields: fields.to_vec() }
    }

    fn array(element: u32) -> TypeFacts {
        TypeFacts { element, ..facts("b", 0, None, &[]) }
    }

    fn known() -> BTreeMap<u32, TypeFacts> {
        BTreeMap::from([
            (20_000, facts("e", 0, None, &[])),
            (20_001, facts("b", 0, None, &[])),
            (20_002, facts("d", 20_000, None, &[])),
            (20_003, facts("d", 20_001, None, &[])),
            (20_004, facts("r", 0, Some(20_000), &[])),
            (20_005, facts("c", 0, None, &[23, 25])),
            (20_006, facts("c", 0, None, &[23, 20_000])),
            (20_007, facts("d", 2205, None, &[])),
            (20_008, array(20_000)),
            (20_009, array(20_001)),
            (20_010, facts("c", 0, None, &[20_008, 20_006])),
            (20_011, facts("r", 0, Some(20_006), &[])),
            (20_012, facts("d", 20_008, None, &[])),
        ])
    }

    fn safe(inner: InnerOids) -> Vec<u32> {
        let known = known();
        known.keys().copied().filter(|oid| is_safe(*oid, &known, inner)).collect()
    }

    #[test]
    fn oids_inside_values_make_a_type_unsafe() {
        assert_eq!(safe(InnerOids::Kept), [20_000, 20_002, 20_004, 20_005]);
        assert!(!is_safe(30_000, &known(), InnerOids::Kept), "an unknown type");
    }

    #[test]
    fn unless_the_reader_puts_its_own_in() {
        let expected = [20_000, 20_002, 20_004, 20_005, 20_006, 20_008, 20_010, 20_012];
        assert_eq!(safe(InnerOids::Replaced), expected);
    }
}
