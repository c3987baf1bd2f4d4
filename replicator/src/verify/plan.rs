//! What is read of a table, and in which pieces.

use std::hash::{DefaultHasher, Hash, Hasher};

use cutover::verify::{Mode, VerifyRequest};
use decoders::QualifiedName;
use decoders::change::Generated;
use decoders::postgres::catalog::{ColumnInfo, TableInfo, quote_ident, quote_literal};

use super::canonical::Canonical;
use super::chosen::Restriction;
use super::copied;
use super::row_hash::{Hashed, row_hash};

/// Bytes of table that a chunk is meant to have.
const CHUNK_BYTES: i64 = 4 << 20;
/// Rows of a chunk.
const CHUNK_ROWS: std::ops::RangeInclusive<i64> = 200..=20_000;
/// Rows of a chunk whose rows come here.
const CHUNK_ROWS_FULL: i64 = 10_000;
/// Rows of a chunk of a table that nobody has analyzed.
const CHUNK_ROWS_UNKNOWN: i64 = 2_000;
/// Values longer than this are compared by their hash in `full` mode, too: a chunk has to fit into
/// memory. Bytes.
const LONG: usize = 8192;

/// Types of which a value's text is short, by OID: numbers, times, names, UUIDs.
const SHORT: [u32; 16] =
    [16, 18, 19, 20, 21, 23, 26, 700, 701, 1082, 1083, 1114, 1184, 1186, 1266, 2950];
/// `text` and `varchar`: their length is known without printing them.
const TEXTS: [u32; 2] = [25, 1043];
const NUMERIC: u32 = 1700;

/// Types whose order is the same on every server, by OID: numbers, times, bytes, UUIDs. Text goes by
/// a collation, which the operating system defines.
const ORDERED: [u32; 14] = [16, 17, 20, 21, 23, 26, 700, 701, 1082, 1083, 1114, 1184, 1700, 2950];

/// What changes whenever a row is written.
const VERSION: &str = "t.xmin::text || ' ' || t.ctid::text";

/// A column of the key.
#[derive(Debug, Clone)]
pub(super) struct KeyColumn {
    pub name: String,
    /// As SQL, on source and target.
    types: [String; 2],
    /// ` COLLATE ..`, on source and target; mostly empty.
    collations: [String; 2],
}

impl KeyColumn {
    fn literal(&self, value: &str, target: bool) -> String {
        let (kind, collation) = (&self.types[at(target)], &self.collations[at(target)]);
        format!("{}::{kind}{collation}", quote_literal(value))
    }
}

/// A table that is on both sides.
#[derive(Debug, Clone)]
pub(super) struct TablePlan {
    pub name: QualifiedName,
    pub columns: Vec<String>,
    /// Empty: no key.
    pub key: Vec<KeyColumn>,
    /// The order of keys may not be the same on both sides.
    pub order_differs: bool,
    pub chunk_rows: i64,
    pub rows_estimated: u64,
    pub bytes: i64,
    pub limits: Vec<String>,
    /// What of its rows is not compared.
    pub left_out: Vec<String>,
    /// Floats inside of composite types and ranges are printed with 15 digits.
    pub is_rounded: bool,
    /// Only rows for which this holds.
    pub restriction: Option<Restriction>,
    row_hash: String,
    row_values: Vec<String>,
    cells: Vec<String>,
}

/// Where a side's part of a pair of SQL texts is.
fn at(target: bool) -> usize {
    usize::from(target)
}

/// A range of keys: from `lo` on, below `hi`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Range {
    pub number: u64,
    pub lo: Option<Vec<String>>,
    pub hi: Option<Vec<String>>,
}

/// How a table is cut into chunks from some key on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// Of each chunk.
    pub rows: i64,
    /// How many of them.
    pub chunks: i64,
}

impl TablePlan {
    /// Of a table as both sides have it.
    pub fn new(
        source: &TableInfo,
        target: &TableInfo,
        canonical: &Canonical,
        request: &VerifyRequest,
    ) -> Self {
        let is_virtual = |column: &ColumnInfo| column.generated == Some(Generated::Virtual);
        let (mut limits, mut left_out) = (Vec::new(), Vec::new());
        let mut columns = Vec::new();
        for column in source.columns.iter().filter(|column| !is_virtual(column)) {
            match target.column_named(&column.name) {
                Some(other) => columns.push((column, other)),
                None => left_out.push(format!("column {} is on one side only", column.name)),
            }
        }
        let keyed = key_columns(source)
            .filter(|key| key.iter().all(|column| target.column_named(&column.name).is_some()));
        // Rounding is a setting of the session: a key would lose digits, too, and match no row.
        let is_key_exact = keyed.iter().flatten().all(|column| !canonical.prints_floats(column));
        if !is_key_exact {
            columns.retain(|(column, _)| {
                let is_kept = !canonical.column(column).is_rounded;
                if !is_kept {
                    left_out.push(format!(
                        "{} is not compared: it holds floats that the two versions print \
                         differently, and so does the key",
                        column.name
                    ));
                }
                is_kept
            });
        }
        let expressions: Vec<_> = columns.iter().map(|(here, _)| canonical.column(here)).collect();
        let is_rounded = expressions.iter().any(|expression| expression.is_rounded);
        for ((column, _), _) in columns.iter().zip(&expressions).filter(|(_, e)| e.is_rounded) {
            limits.push(format!("floats inside of {} are compared to 15 digits", column.name));
        }
        let sql: Vec<String> = expressions.into_iter().map(|expression| expression.sql).collect();
        let hash = |sql: &String| canonical.hash(&canonical.text(std::slice::from_ref(sql)));
        let short = |(column, sql): (&ColumnInfo, &String)| {
            if is_short(column) {
                return sql.clone();
            }
            let text = match TEXTS.contains(&column.type_oid) {
                true => sql.clone(),
                false => canonical.text(std::slice::from_ref(sql)),
            };
            let hash = hash(sql);
            format!(
                "CASE WHEN octet_length({text}) > {LONG} \
                 THEN octet_length({text}) || ' ' || {hash} ELSE {text} END"
            )
        };
        let key: Vec<KeyColumn> = keyed
            .unwrap_or_default()
            .into_iter()
            .filter_map(|column| Some((column, target.column_named(&column.name)?)))
            .map(|(here, there)| KeyColumn {
                name: here.name.clone(),
                types: [here.type_name.clone(), there.type_name.clone()],
                collations: [here, there].map(|column| {
                    let collation = column.collation.as_ref();
                    collation.map_or(String::new(), |name| format!(" COLLATE {name}"))
                }),
            })
            .collect();
        let ordered = |column: &KeyColumn| {
            source.column_named(&column.name).is_some_and(|c| ORDERED.contains(&c.type_oid))
        };
        let rows = source.estimated_rows.filter(|rows| *rows >= 1.0);
        let by_width = rows.map_or(CHUNK_ROWS_UNKNOWN, |rows| {
            let width = (source.bytes as f64 / rows).max(1.0);
            ((CHUNK_BYTES as f64 / width) as i64).clamp(*CHUNK_ROWS.start(), *CHUNK_ROWS.end())
        });
        let is_count = request.mode == Mode::Count;
        let values = columns.iter().zip(&sql).map(|((here, there), printed)| {
            copied::binary(here, there).unwrap_or_else(|| short((*here, printed)))
        });
        let row_values: Vec<String> = values.collect();
        let hashed: Vec<Hashed<'_>> = columns
            .iter()
            .zip(&sql)
            .map(|((source, target), printed)| Hashed { source, target, printed })
            .collect();
        let is_key = |column: &ColumnInfo| key.iter().any(|part| part.name == column.name);
        let row_hash = match is_count {
            true => {
                let keys: Vec<Hashed<'_>> =
                    hashed.into_iter().filter(|one| is_key(one.source)).collect();
                match keys.is_empty() {
                    true => "0::int8".to_owned(),
                    false => row_hash(canonical, &keys, is_key),
                }
            }
            false => row_hash(canonical, &hashed, is_key),
        };
        let chunk_rows = match (request.chunk_rows, request.mode) {
            (Some(rows), _) => i64::from(rows).max(1),
            (None, Mode::Full) => by_width.min(CHUNK_ROWS_FULL),
            (None, _) => by_width,
        };
        Self {
            name: source.name.clone(),
            order_differs: !key.iter().all(ordered),
            row_hash,
            key,
            chunk_rows,
            rows_estimated: rows.unwrap_or(0.0) as u64,
            bytes: source.bytes,
            limits,
            left_out,
            is_rounded,
            restriction: None,
            row_values,
            cells: match is_count {
                true => Vec::new(),
                false => sql.iter().map(hash).collect(),
            },
            columns: columns.iter().map(|(column, _)| column.name.clone()).collect(),
        }
    }

    /// The same, of the rows for which this holds.
    pub fn restricted_to(self, restriction: Option<Restriction>) -> Self {
        Self { restriction, ..self }
    }

    /// Of what is compared, and how: not the same, and what was compared proves nothing. It may
    /// change with the version of this program.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let names: Vec<&String> = self.key.iter().map(|column| &column.name).collect();
        (&self.row_hash, &self.row_values, &self.restriction, names).hash(&mut hasher);
        hasher.finish()
    }

    /// To be run before anything else is read of this table.
    pub fn settings(&self) -> String {
        // Up to 0 all versions print with the same rounding.
        let digits = if self.is_rounded { 0 } else { 3 };
        format!("SET extra_float_digits = {digits}")
    }

    fn key_names(&self) -> Vec<String> {
        self.key.iter().map(|column| format!("t.{}", quote_ident(&column.name))).collect()
    }

    /// A key as SQL.
    fn key_literal(&self, key: &[String], target: bool) -> String {
        let literal = |(column, value): (&KeyColumn, &String)| column.literal(value, target);
        let parts: Vec<_> = self.key.iter().zip(key).map(literal).collect();
        row(&parts)
    }

    /// What has to be one valid statement on both sides before anything is read by the predicate.
    pub fn predicate_sql(&self) -> Option<String> {
        let predicate = self.predicate_condition()?;
        Some(format!("SELECT FROM ONLY {} t WHERE {predicate}", self.name))
    }

    fn predicate_condition(&self) -> Option<String> {
        self.restriction.as_ref().map(|restriction| restriction.sql.clone())
    }

    /// Of statements that read all of a table.
    fn only(&self) -> String {
        self.predicate_condition().map_or(String::new(), |predicate| format!(" WHERE {predicate}"))
    }

    fn condition(&self, range: &Range, target: bool) -> String {
        let key = row(&self.key_names());
        let bound = |operator: &str, bound: &Option<Vec<String>>| {
            let bound = bound.as_ref()?;
            Some(format!("{key} {operator} {}", self.key_literal(bound, target)))
        };
        let all = [bound(">=", &range.lo), bound("<", &range.hi), self.predicate_condition()];
        let all: Vec<String> = all.into_iter().flatten().collect();
        if all.is_empty() { String::new() } else { format!(" WHERE {}", all.join(" AND ")) }
    }

    /// The key that is `skipped` rows behind `lo`, on the source.
    pub fn bound_sql(&self, lo: Option<&Vec<String>>, skipped: i64) -> String {
        let names = self.key_names();
        let range = Range { number: 0, lo: lo.cloned(), hi: None };
        let texts: Vec<_> = names.iter().map(|name| format!("{name}::text")).collect();
        format!(
            "SELECT {} FROM ONLY {} t{} ORDER BY {} OFFSET {skipped} LIMIT 1",
            texts.join(", "),
            self.name,
            self.condition(&range, false),
            names.join(", ")
        )
    }

    /// The keys at which so many chunks from `lo` on end, on the source, in order; fewer at the end of
    /// the table.
    pub fn bounds_sql(&self, lo: Option<&Vec<String>>, cut: &Cut) -> String {
        let names = self.key_names();
        let range = Range { number: 0, lo: lo.cloned(), hi: None };
        let order = names.join(", ");
        let texts: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(at, name)| (format!("{name}::text AS k{at}"), format!("x.k{at}")))
            .collect();
        let (texts, keys): (Vec<_>, Vec<_>) = texts.into_iter().unzip();
        let Cut { rows, chunks } = cut;
        format!(
            "SELECT {} FROM (SELECT {}, row_number() OVER (ORDER BY {order}) - 1 AS n \
             FROM ONLY {} t{} ORDER BY {order} LIMIT {}) x \
             WHERE x.n > 0 AND x.n % {rows} = 0 ORDER BY x.n",
            keys.join(", "),
            texts.join(", "),
            self.name,
            self.condition(&range, false),
            rows * chunks + 1,
        )
    }

    /// Whether `hi` comes behind `lo` by the operators that ranges are read with.
    pub fn is_behind_sql(&self, lo: &[String], hi: &[String], target: bool) -> String {
        let [lo, hi] = [lo, hi].map(|key| self.key_literal(key, target));
        format!("SELECT {hi} > {lo}")
    }

    /// Number of rows and sum of their hashes.
    pub fn sum_sql(&self, range: &Range, target: bool) -> String {
        format!(
            "SELECT count(*), sum({}) FROM ONLY {} t{}",
            self.row_hash,
            self.name,
            self.condition(range, target)
        )
    }

    /// Each row's key, then its content: a hash, or in full.
    pub fn copy_sql(&self, range: &Range, target: bool, is_full: bool) -> String {
        let names = self.key_names();
        let mut columns: Vec<String> = names.iter().map(|name| format!("{name}::text")).collect();
        match is_full {
            true => columns.extend(self.row_values.iter().cloned()),
            false => columns.push(self.row_hash.clone()),
        }
        format!(
            "COPY (SELECT {} FROM ONLY {} t{} ORDER BY {}) TO STDOUT (FORMAT binary)",
            columns.join(", "),
            self.name,
            self.condition(range, target),
            names.join(", ")
        )
    }

    /// The rows with these keys: which of the keys, version, whether it is free, columns' hashes.
    pub fn look_sql(&self, keys: &[Vec<String>], target: bool) -> String {
        let mut read = vec![VERSION.to_owned(), "t.xmax::text = '0'".to_owned()];
        read.extend(self.cells.iter().cloned());
        self.by_key_sql(keys, target, &read)
    }

    /// The rows with these keys: which of the keys, version, and these columns' values as they are.
    pub fn values_sql(&self, keys: &[Vec<String>], columns: &[String], target: bool) -> String {
        let mut read = vec![VERSION.to_owned()];
        read.extend(columns.iter().map(|name| format!("t.{}", quote_ident(name))));
        self.by_key_sql(keys, target, &read)
    }

    fn by_key_sql(&self, keys: &[Vec<String>], target: bool, read: &[String]) -> String {
        let values: Vec<_> = keys
            .iter()
            .enumerate()
            .map(|(number, key)| {
                let literal =
                    |(column, value): (&KeyColumn, &String)| column.literal(value, target);
                let literals: Vec<_> = self.key.iter().zip(key).map(literal).collect();
                format!("({number}, {})", literals.join(", "))
            })
            .collect();
        let names: Vec<_> = (0..self.key.len()).map(|number| format!("k{number}")).collect();
        let same: Vec<_> = self
            .key_names()
            .iter()
            .zip(&names)
            .map(|(column, name)| format!("{column} = v.{name}"))
            .collect();
        // OFFSET 0: row by row through the index, however large the planner believes the list is.
        format!(
            "SELECT v.n, x.* FROM (VALUES {}) v(n, {}) CROSS JOIN LATERAL \
             (SELECT {} FROM ONLY {} t WHERE {} OFFSET 0) x",
            values.join(", "),
            names.join(", "),
            read.join(", "),
            self.name,
            same.join(" AND ")
        )
    }

    /// The whole table in buckets of row hashes: bucket, rows, sum.
    pub fn buckets_sql(&self, mask: i64) -> String {
        format!(
            "SELECT x.h & {mask}, count(*), sum(x.h) FROM (SELECT {} AS h FROM ONLY {} t{}) x \
             GROUP BY 1",
            self.row_hash,
            self.name,
            self.only()
        )
    }

    /// The hashes in some buckets, and how many rows have each.
    pub fn contents_sql(&self, mask: i64, buckets: &[i64]) -> String {
        format!(
            "SELECT x.h, count(*) FROM (SELECT {} AS h FROM ONLY {} t{}) x \
             WHERE x.h & {mask} IN ({}) GROUP BY 1",
            self.row_hash,
            self.name,
            self.only(),
            numbers(buckets)
        )
    }

    /// One row with each of these hashes, as it is: which of them, a version that says nothing, and
    /// these columns' values.
    pub fn content_values_sql(&self, hashes: &[i64], columns: &[String]) -> String {
        let values: Vec<_> = hashes
            .iter()
            .enumerate()
            .map(|(number, hash)| format!("({number}, '{hash}'::int8)"))
            .collect();
        let read: Vec<_> =
            columns.iter().map(|name| format!(", t.{}", quote_ident(name))).collect();
        format!(
            "SELECT DISTINCT ON (v.n) v.n, ''{} FROM ONLY {} t \
             JOIN (VALUES {}) v(n, h) ON v.h = {}",
            read.concat(),
            self.name,
            values.join(", "),
            self.row_hash
        )
    }

    /// How many rows have each of these hashes: which of them, version, not free, rows.
    pub fn look_contents_sql(&self, hashes: &[i64]) -> String {
        let values: Vec<_> = hashes
            .iter()
            .enumerate()
            .map(|(number, hash)| format!("({number}, '{hash}'::int8)"))
            .collect();
        format!(
            "SELECT v.n, sum(hashtext(x.v))::text || ' ' || count(*)::text, false, count(*) \
             FROM (SELECT t.xmin::text || t.ctid::text AS v, {} AS h FROM ONLY {} t{}) x \
             JOIN (VALUES {}) v(n, h) ON v.h = x.h GROUP BY v.n",
            self.row_hash,
            self.name,
            self.only(),
            values.join(", ")
        )
    }
}

/// Whether no value of the column can be long. A `numeric` with a precision has 1,000 digits at most.
fn is_short(column: &ColumnInfo) -> bool {
    SHORT.contains(&column.type_oid) || (column.type_oid == NUMERIC && column.type_modifier >= 0)
}

fn numbers(numbers: &[i64]) -> String {
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A row constructor, or the one value.
fn row(parts: &[String]) -> String {
    match parts {
        [one] => one.clone(),
        several => format!("ROW({})", several.join(", ")),
    }
}

/// By what rows are told apart: the primary key, the replica identity, or another unique index
/// without NULLs.
fn key_columns(table: &TableInfo) -> Option<Vec<&ColumnInfo>> {
    let usable = |columns: &[i16]| -> Option<Vec<&ColumnInfo>> {
        columns.iter().map(|number| table.column(*number)).collect()
    };
    table.primary_key().or_else(|| table.key_columns()).or_else(|| {
        let index = table.unique_indexes.iter().find(|index| index.can_identify(&table.columns))?;
        usable(&index.columns)
    })
}
