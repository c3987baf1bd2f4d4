//! What is read of a table, as SQL.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use cutover::verify::{Mode, VerifyRequest};
use decoders::QualifiedName;
use decoders::mysql::catalog::{ColumnInfo, TableInfo, TableKind, UniqueKey};
use decoders::mysql::server::{Server, identifier};

use super::canonical::{self, Column};
use crate::backfill::mysql::{CHUNK_BYTES, CutKey, Range, chunk_rows, cut_key};
use crate::schema::mysql::qualified;
use crate::verify::chosen::Restriction;

/// A chunk that is judged row by row is at most so large.
const CHUNK_ROWS_MAX: u64 = 200_000;
/// More than any table has: a LIMIT keeps servers from computing a row's hash once for each use.
const ALL_ROWS: &str = "LIMIT 18446744073709551615";
/// Hexadecimal digits of the hash by which rows of a table without a key are put into buckets.
const BUCKET_DIGITS: u32 = 3;

/// Which side a statement is for.
pub(super) const SOURCE: usize = 0;
pub(super) const TARGET: usize = 1;

/// A part of a table. `None`: all of it, in one piece.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Chunk {
    pub number: u64,
    pub range: Option<Range>,
}

/// A table of both sides.
#[derive(Clone, Debug)]
pub(super) struct TablePlan {
    pub name: QualifiedName,
    /// As the source has it.
    pub info: TableInfo,
    /// Columns that are compared; those of the key first, in its order.
    pub columns: Vec<Column>,
    /// So many of them are the key by which rows are matched; 0: rows are compared as a multiset.
    pub key: usize,
    /// By which it is read in chunks.
    pub cut: Option<CutKey>,
    /// Rows of a chunk.
    pub chunk_rows: u64,
    /// The key's index on each side.
    index: [String; 2],
    /// Only rows for which this holds.
    pub restriction: Option<Restriction>,
    /// Columns that one side lacks.
    pub left_out: Vec<String>,
    /// What limits the comparison.
    pub limits: Vec<String>,
}

/// The key of the target that has the same columns.
fn counterpart<'a>(key: &UniqueKey, target: &'a TableInfo) -> Option<&'a UniqueKey> {
    target.unique_keys.iter().find(|other| {
        let nullable = |name: &str| target.column(name).is_none_or(|column| column.nullable);
        other.columns == key.columns
            && other.columns.iter().all(|part| part.column.as_deref().is_some_and(|c| !nullable(c)))
    })
}

impl TablePlan {
    /// Of a table as both sides have it.
    pub fn new(
        source: &TableInfo,
        target: &TableInfo,
        servers: [&Server; 2],
        request: &VerifyRequest,
        restriction: Option<Restriction>,
    ) -> Self {
        let mut limits = Vec::new();
        let mut left_out = Vec::new();
        if source.kind == TableKind::SystemVersioned {
            limits.push("former versions of its rows (FOR SYSTEM_TIME) are not compared".into());
        }
        let keys = source.row_key().map(|key| (key, counterpart(key, target)));
        let key = match keys {
            Some((key, Some(other))) => Some((key, other)),
            Some((key, None)) => {
                limits.push(format!(
                    "the target lacks the key {}: rows are compared as a multiset",
                    identifier(&key.name)
                ));
                None
            }
            None => None,
        };
        // The end of a row's time is part of every key of a table with versions. Of rows that live it is
        // the end of all time, which is another one since MariaDB 11.5.
        let is_own = |name: &str| source.column(name).is_some_and(|c| !canonical::is_comparable(c));
        let names = |key: &UniqueKey| -> Vec<String> {
            let names = key.columns.iter().filter_map(|part| part.column.clone());
            names.filter(|name| !is_own(name)).collect()
        };
        let key_names = key.map(|(key, _)| names(key)).unwrap_or_default();
        let place = |name: &str| key_names.iter().position(|part| part == name);
        let mut compared: Vec<(&ColumnInfo, &ColumnInfo)> = Vec::new();
        for column in &source.columns {
            let is_key = place(&column.name).is_some();
            if !is_key && request.mode == Mode::Count {
                continue;
            }
            if !is_key && !canonical::is_comparable(column) {
                let name = identifier(&column.name);
                limits.push(format!("{name} is not compared: each server or reader has its own"));
                continue;
            }
            match target.column(&column.name) {
                Some(other) => compared.push((column, other)),
                None => left_out.push(format!("{}: one side lacks it", identifier(&column.name))),
            }
        }
        compared.sort_by_key(|(column, _)| place(&column.name).unwrap_or(usize::MAX));
        let is_ordered = |name: &str| {
            let found = compared.iter().find(|(column, _)| identifier(&column.name) == name);
            found.is_some_and(|(one, two)| canonical::is_ordered_alike(one, two, servers))
        };
        let cut = key.and_then(|_| cut_key(source)).and_then(|cut| cut.leading(is_ordered));
        let columns = compared.iter().map(|(one, two)| canonical::column(one, two)).collect();
        let index = |key: Option<&UniqueKey>| {
            key.map(|key| format!("FORCE INDEX ({})", identifier(&key.name))).unwrap_or_default()
        };
        let by_width = chunk_rows(source, CHUNK_BYTES).min(CHUNK_ROWS_MAX);
        Self {
            name: source.name.clone(),
            info: source.clone(),
            columns,
            key: key_names.len(),
            cut,
            chunk_rows: request.chunk_rows.map_or(by_width, u64::from).max(1),
            index: [index(key.map(|(key, _)| key)), index(key.map(|(_, other)| other))],
            restriction,
            left_out,
            limits,
        }
    }

    /// Columns of the key.
    pub fn key(&self) -> &[Column] {
        &self.columns[..self.key]
    }

    /// Changes with everything that decides what a chunk's comparison means.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let columns: Vec<_> =
            self.columns.iter().map(|c| (&c.name, &c.select, &c.hashed)).collect();
        (columns, self.key, &self.index, &self.restriction).hash(&mut hasher);
        hasher.finish()
    }

    fn from(&self, side: usize, chunk: &Chunk) -> String {
        let mut conditions = Vec::new();
        if let (Some(cut), Some(range)) = (&self.cut, &chunk.range) {
            conditions.push(cut.condition(range));
        }
        conditions.extend(self.restriction.iter().map(|restriction| restriction.sql.clone()));
        let conditions = match conditions.is_empty() {
            true => "TRUE".to_owned(),
            false => conditions.join(" AND "),
        };
        format!("FROM {} {} WHERE {conditions}", qualified(&self.name), self.index[side])
    }

    /// Hash of the columns that `takes`, as an expression.
    fn hash(&self, side: usize, takes: impl Fn(&Column) -> bool) -> String {
        let columns = self.columns.iter().filter(|column| takes(column));
        let parts: Vec<&str> = columns.map(|column| column.hashed[side].as_str()).collect();
        // An expression without a column would be a constant, which is well: all rows are alike.
        format!("SHA2(CONCAT('', {}), 256)", [&parts[..], &["''"]].concat().join(", ',', "))
    }

    /// Number of rows, of hashes, and two sums of independent halves of these.
    pub fn sums_sql(&self, side: usize, chunk: &Chunk) -> String {
        // What is put aside for a while is a chunk, never a table.
        let limit = if chunk.range.is_some() { ALL_ROWS } else { "" };
        format!(
            "SELECT {SUMS} FROM (SELECT {} AS h {} {limit}) AS r",
            self.hash(side, |_| true),
            self.from(side, chunk),
        )
    }

    /// The same by buckets, which come first in each row.
    pub fn buckets_sql(&self, side: usize, chunk: &Chunk) -> String {
        format!(
            "SELECT b, {SUMS} FROM (SELECT {} AS h, {} AS b {}) AS r GROUP BY b",
            self.hash(side, |_| true),
            self.bucket(side),
            self.from(side, chunk),
        )
    }

    /// The same row is in the same bucket on both sides: only what has one text counts.
    fn bucket(&self, side: usize) -> String {
        format!("LEFT({}, {BUCKET_DIGITS})", self.hash(side, |column| column.form.is_exact()))
    }

    /// Rows of some buckets.
    pub fn contents_sql(&self, side: usize, chunk: &Chunk, buckets: &[String]) -> String {
        self.of_buckets(side, &self.selected(side), chunk, buckets)
    }

    /// Rows for which `condition` holds, whatever the predicate says, with more expressions behind the
    /// columns that are compared.
    pub fn rows_where_sql(&self, side: usize, more: &str, condition: &str) -> String {
        format!(
            "SELECT {}, {more} FROM {} {} WHERE {condition}",
            self.selected(side),
            qualified(&self.name),
            self.index[side]
        )
    }

    /// The same of some buckets, where the predicate holds.
    pub fn contents_with_sql(
        &self,
        side: usize,
        more: &str,
        chunk: &Chunk,
        buckets: &[String],
    ) -> String {
        let selected = format!("{}, {more}", self.selected(side));
        self.of_buckets(side, &selected, chunk, buckets)
    }

    fn of_buckets(&self, side: usize, selected: &str, chunk: &Chunk, buckets: &[String]) -> String {
        let buckets: Vec<String> = buckets.iter().map(|bucket| format!("'{bucket}'")).collect();
        format!(
            "SELECT {selected} {} AND {} IN ({})",
            self.from(side, chunk),
            self.bucket(side),
            buckets.join(", ")
        )
    }

    /// Rows in the order of the key.
    pub fn rows_sql(&self, side: usize, chunk: &Chunk) -> String {
        let order: Vec<String> = self.key().iter().map(|part| identifier(&part.name)).collect();
        format!(
            "SELECT {} {} ORDER BY {}",
            self.selected(side),
            self.from(side, chunk),
            order.join(", ")
        )
    }

    fn selected(&self, side: usize) -> String {
        let columns: Vec<&str> = self.columns.iter().map(|c| c.select[side].as_str()).collect();
        if columns.is_empty() { "''".to_owned() } else { columns.join(", ") }
    }

    /// One statement that shows whether the server understands the predicate.
    pub fn predicate_sql(&self) -> Option<String> {
        let condition = &self.restriction.as_ref()?.sql;
        Some(format!("SELECT 1 FROM {} WHERE {condition} LIMIT 0", qualified(&self.name)))
    }
}

const SUMS: &str = "COUNT(*), COUNT(h), SUM(CAST(CONV(LEFT(h, 16), 16, 10) AS UNSIGNED)), \
     SUM(CAST(CONV(SUBSTR(h, 17, 16), 16, 10) AS UNSIGNED))";
