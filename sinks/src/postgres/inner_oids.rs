//! Which of green's types have OIDs of user-defined types inside their binary values.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Client;

use super::error::target_error;
use crate::plan::{FIRST_VARIABLE_TYPE, InnerOids};
use crate::target::TargetError;

enum Made {
    Domain(u32),
    Array(u32),
    Composite(Vec<u32>),
    Other,
}

/// What values of `types` have inside, of those that have something.
pub(super) async fn read(
    client: &Client,
    types: impl IntoIterator<Item = u32>,
) -> Result<BTreeMap<u32, InnerOids>, TargetError> {
    const MADE: &str = "
        SELECT t.oid, t.typtype::text, t.typbasetype,
               CASE WHEN t.typtype = 'b' AND t.typlen = -1 AND t.typcategory = 'A'
                    THEN t.typelem ELSE 0 END,
               ARRAY(SELECT a.atttypid FROM pg_catalog.pg_attribute a
                     WHERE t.typrelid <> 0 AND a.attrelid = t.typrelid AND a.attnum > 0
                       AND NOT a.attisdropped ORDER BY a.attnum)
        FROM pg_catalog.pg_type t WHERE t.oid = ANY ($1)";
    let types: BTreeSet<u32> = types.into_iter().collect();
    let mut made: BTreeMap<u32, Made> = BTreeMap::new();
    let mut wanted: Vec<u32> =
        types.iter().copied().filter(|oid| *oid >= FIRST_VARIABLE_TYPE).collect();
    while !wanted.is_empty() {
        let rows = client.query(MADE, &[&wanted]).await;
        let rows = rows.map_err(|e| target_error("reading green's data types", &e))?;
        wanted.clear();
        for row in &rows {
            let (base, element): (u32, u32) = (row.get(2), row.get(3));
            let fields: Vec<u32> = row.get(4);
            wanted.extend([base, element].iter().chain(&fields));
            let form = match row.get::<_, String>(1).as_str() {
                "d" => Made::Domain(base),
                "c" => Made::Composite(fields),
                _ if element != 0 => Made::Array(element),
                _ => Made::Other,
            };
            made.insert(row.get(0), form);
        }
        wanted.retain(|oid| *oid >= FIRST_VARIABLE_TYPE && !made.contains_key(oid));
        wanted.sort_unstable();
        wanted.dedup();
    }
    let inside = types.into_iter().map(|oid| (oid, inside(oid, &made)));
    Ok(inside.filter(|(_, inside)| !inside.is_none()).collect())
}

/// A type can't contain itself but through its own table's row type, which PostgreSQL refuses for
/// columns (`CheckAttributeType`), so this ends.
fn inside(oid: u32, made: &BTreeMap<u32, Made>) -> InnerOids {
    match made.get(&oid) {
        Some(Made::Domain(base)) => inside(*base, made),
        Some(Made::Array(element)) if *element >= FIRST_VARIABLE_TYPE => {
            InnerOids::Array { element: *element, inside: Box::new(inside(*element, made)) }
        }
        Some(Made::Composite(fields)) => {
            let of: Vec<(u32, InnerOids)> =
                fields.iter().map(|field| (*field, inside(*field, made))).collect();
            match of.iter().all(|(oid, of)| *oid < FIRST_VARIABLE_TYPE && of.is_none()) {
                true => InnerOids::None,
                false => InnerOids::Composite(of),
            }
        }
        Some(Made::Array(_) | Made::Other) | None => InnerOids::None,
    }
}
