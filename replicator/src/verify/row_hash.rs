//! A row's hash, as SQL.
//!
//! Since 14 servers can hash a row value by value, with the functions that hash partitioning goes
//! by: what they give does not change between versions, because `pg_upgrade` keeps partitioned
//! tables. That costs a third of printing the row and hashing its text. But a type's hash knows what
//! the type calls equal, not what is the same: 1.0 and 1.00, 0 and -0, 30 days and a month. So a
//! value goes in as a type whose hash is of every bit:
//!
//! | type | hashed as |
//! |---|---|
//! | `boolean`, `smallint`, `integer`, `oid`, `date`, `uuid`, `bytea` | itself |
//! | `bigint` | itself, folded to 32 bits, and its upper half |
//! | `text`, `varchar` | its bytes: collation `C` |
//! | numbers with fractions, times | its binary form, the same on every version |
//! | all others | text, all of them in one |
//!
//! The hash of a record is a sum with one term for each column, and chunks add up the hashes of
//! their rows: two rows that had swapped a value would not be seen. So the terms depend on the row,
//! too: the hash's seed is the hash of the key, or of the whole row where there is no key.

use decoders::postgres::catalog::{ColumnInfo, quote_ident};

use super::canonical::Canonical;

/// Since this version there is `hash_record_extended`.
pub(super) const RECORD_HASH: u32 = 140_000;

/// Values of one record; servers take up to 1,664 (`MaxTupleAttributeNumber`).
const ELEMENTS: usize = 1_600;

/// Types whose hash is of every bit, by OID (`pg_type.dat`).
const ITSELF: [u32; 7] = [16, 17, 21, 23, 26, 1082, 2950];
const BIGINT: u32 = 20;
const TEXT: [u32; 2] = [25, 1043];
/// With their binary output functions.
const BINARY: [(u32, &str); 6] = [
    (1700, "numeric_send"),
    (1083, "time_send"),
    (1266, "timetz_send"),
    (1114, "timestamp_send"),
    (1184, "timestamptz_send"),
    (1186, "interval_send"),
];
/// A NaN has many binary forms and one text: which one arrives is chance.
const FLOATS: [(u32, &str, &str); 2] =
    [(700, "float4", "float4send"), (701, "float8", "float8send")];

/// A column that is compared.
pub(super) struct Hashed<'a> {
    pub source: &'a ColumnInfo,
    pub target: &'a ColumnInfo,
    /// Its value in a form that every server prints alike.
    pub printed: &'a str,
}

/// The hash of these columns, with those of them that `is_key` takes as the key.
pub(super) fn row_hash(
    canonical: &Canonical,
    columns: &[Hashed<'_>],
    is_key: impl Fn(&ColumnInfo) -> bool,
) -> String {
    let all: Vec<&Hashed<'_>> = columns.iter().collect();
    if !canonical.hashes_records() {
        let printed: Vec<String> = all.iter().map(|one| one.printed.to_owned()).collect();
        return canonical.hash(&canonical.text(&printed));
    }
    let key: Vec<&Hashed<'_>> = columns.iter().filter(|one| is_key(one.source)).collect();
    let row = record(canonical, &all);
    let seed = if key.is_empty() { row.clone() } else { record(canonical, &key) };
    format!("hash_record_extended({row}, hash_record_extended({seed}, 0))")
}

fn record(canonical: &Canonical, columns: &[&Hashed<'_>]) -> String {
    let mut elements = Vec::new();
    let mut printed = Vec::new();
    for column in columns {
        match exact(column) {
            Some(exact) if elements.len() + exact.len() < ELEMENTS => elements.extend(exact),
            _ => printed.push(column.printed.to_owned()),
        }
    }
    if !printed.is_empty() {
        elements.push(format!("({}) COLLATE \"C\"", canonical.text(&printed)));
    }
    format!("ROW({})", elements.join(", "))
}

/// As values whose hashes are of every bit; `None`: there are none that are quicker than text.
fn exact(column: &Hashed<'_>) -> Option<Vec<String>> {
    let oid = column.source.type_oid;
    if oid != column.target.type_oid {
        return None;
    }
    let name = format!("t.{}", quote_ident(&column.source.name));
    if ITSELF.contains(&oid) {
        return Some(vec![name]);
    }
    if TEXT.contains(&oid) {
        return Some(vec![format!("{name} COLLATE \"C\"")]);
    }
    if oid == BIGINT {
        let upper = format!("{name} >> 32");
        return Some(vec![name, upper]);
    }
    if let Some((_, kind, send)) = FLOATS.iter().find(|(known, ..)| *known == oid) {
        let nan = format!("'NaN'::{kind}");
        return Some(vec![format!("{send}(CASE WHEN {name} = {nan} THEN {nan} ELSE {name} END)")]);
    }
    let (_, send) = BINARY.iter().find(|(known, _)| *known == oid)?;
    Some(vec![format!("{send}({name})")])
}
