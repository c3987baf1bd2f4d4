//! Where a table is cut. Bounds are keys of its own rows, chosen and compared by the server alone: how
//! texts are ordered is the business of their collation.

use decoders::mysql::catalog::{ColumnInfo, TableInfo};
use decoders::mysql::server::{Conn, identifier};
use mysql_async::Row;
use mysql_async::prelude::Queryable;

use super::failed;
use super::marks::Range;
use crate::backfill::BackfillError;
use crate::schema::mysql::qualified;

/// What a chunk should hold: a transaction of green, and what a crash costs.
pub const CHUNK_BYTES: u64 = 16 << 20;
/// And at least so many rows: finding a bound costs a statement.
const CHUNK_ROWS_MIN: u64 = 1_000;
/// And at most, where statistics say that rows are small.
const CHUNK_ROWS_MAX: u64 = 500_000;

/// A column of the key by which a table is cut.
#[derive(Clone, PartialEq, Eq, Debug)]
struct KeyPart {
    /// Quoted name.
    name: String,
    /// An expression that gives the value's bytes in ASCII.
    select: String,
    /// What stands before and behind them in a literal.
    quotes: (String, &'static str),
}

/// The key by which a table is cut.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CutKey {
    index: String,
    parts: Vec<KeyPart>,
}

/// The leading columns of the table's key whose order the server keeps for literals. `None`: the table
/// is copied whole.
///
/// ENUM and SET are ordered by index but compared as texts, FLOAT has no exact literal, small numbers
/// mean other years beside a YEAR, and of a prefix the index knows the beginning only: the key counts up to the column before.
pub(crate) fn cut_key(table: &TableInfo) -> Option<CutKey> {
    let key = table.row_key()?;
    let columns = key.columns.iter().map_while(|part| {
        let column = table.column(part.column.as_deref()?)?;
        if part.prefix.is_some() { None } else { key_part(column) }
    });
    let parts: Vec<KeyPart> = columns.collect();
    (!parts.is_empty()).then(|| CutKey { index: identifier(&key.name), parts })
}

fn key_part(column: &ColumnInfo) -> Option<KeyPart> {
    let name = identifier(&column.name);
    let plain = |quotes: (&str, &'static str)| (name.clone(), (quotes.0.to_owned(), quotes.1));
    let (select, quotes) = match column.data_type.as_str() {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "decimal" => plain(("", "")),
        "date" | "datetime" | "timestamp" | "time" | "uuid" | "inet4" | "inet6" => {
            plain(("'", "'"))
        }
        "binary" | "varbinary" => (format!("HEX({name})"), ("x'".to_owned(), "'")),
        "char" | "varchar" => {
            let charset = column.charset.as_deref()?;
            (format!("HEX({name})"), (format!("_{charset} x'"), "'"))
        }
        _ => return None,
    };
    Some(KeyPart { name, select, quotes })
}

impl CutKey {
    /// The same with its first columns only, as many as `is_ordered` takes by name; `None` if that is
    /// none.
    pub(crate) fn leading(mut self, is_ordered: impl Fn(&str) -> bool) -> Option<Self> {
        let kept = self.parts.iter().take_while(|part| is_ordered(&part.name)).count();
        self.parts.truncate(kept);
        (kept > 0).then_some(self)
    }

    /// The upper bound of the chunk that begins above `above`: the key of its last row. `None` if
    /// the rest of the table is no larger than a chunk of so many rows.
    pub(crate) async fn next_bound(
        &self,
        reader: &mut Conn,
        table: &TableInfo,
        above: Option<&Vec<String>>,
        rows: u64,
    ) -> Result<Option<Vec<String>>, BackfillError> {
        let list = |of: fn(&KeyPart) -> &String| {
            self.parts.iter().map(of).cloned().collect::<Vec<_>>().join(", ")
        };
        let offset = rows.saturating_sub(1);
        let sql = format!(
            "SELECT {} FROM {} FORCE INDEX ({}) WHERE {} ORDER BY {} LIMIT 1 OFFSET {offset}",
            list(|part| &part.select),
            qualified(&table.name),
            self.index,
            self.above(above),
            list(|part| &part.name),
        );
        let row: Result<Option<Row>, _> = reader.query_first(sql).await;
        let row =
            row.map_err(|error| failed(format!("cutting the table {}", table.name), error))?;
        let Some(mut row) = row else { return Ok(None) };
        let literal = |(at, part): (usize, &KeyPart)| {
            let text: String = row.take_opt(at)?.ok()?;
            Some(format!("{}{text}{}", part.quotes.0, part.quotes.1))
        };
        let bound: Option<Vec<String>> = self.parts.iter().enumerate().map(literal).collect();
        bound.map(Some).ok_or_else(|| {
            BackfillError::halt(
                format!("a key of {} has a value without a literal", table.name),
                "this is a defect; please report it",
            )
        })
    }

    /// The condition for the rows of a range.
    pub(crate) fn condition(&self, range: &Range) -> String {
        let upper = match &range.up_to {
            None => "TRUE".to_owned(),
            Some(bound) => self.compared(bound, "<", "<="),
        };
        format!("{} AND {upper}", self.above(range.above.as_ref()))
    }

    /// In the order of the key: green's tree grows at its end.
    pub(super) fn order(&self) -> String {
        let names: Vec<&str> = self.parts.iter().map(|part| part.name.as_str()).collect();
        format!(" ORDER BY {}", names.join(", "))
    }

    fn above(&self, bound: Option<&Vec<String>>) -> String {
        bound.map_or_else(|| "TRUE".to_owned(), |bound| self.compared(bound, ">", ">"))
    }

    /// `(a > x) OR (a = x AND b > y)`: row constructors don't use indexes. The redundant first
    /// condition gives the server a range to begin with.
    fn compared(&self, bound: &[String], strict: &str, last: &str) -> String {
        let parts: Vec<(&String, &String)> =
            self.parts.iter().map(|part| &part.name).zip(bound).collect();
        let alternatives = (0..parts.len()).map(|at| {
            let equal = parts[..at].iter().map(|(name, value)| format!("{name} = {value}"));
            let operator = if at + 1 == parts.len() { last } else { strict };
            let (name, value) = parts[at];
            let conditions: Vec<String> =
                equal.chain([format!("{name} {operator} {value}")]).collect();
            format!("({})", conditions.join(" AND "))
        });
        let alternatives: Vec<String> = alternatives.collect();
        match (&alternatives[..], parts.first()) {
            ([_, _, ..], Some((name, value))) => {
                format!("({name} {strict}= {value} AND ({}))", alternatives.join(" OR "))
            }
            _ => alternatives.join(" OR "),
        }
    }
}

/// Rows of one chunk, by the statistics.
pub(crate) fn chunk_rows(table: &TableInfo, chunk_bytes: u64) -> u64 {
    let rows = table.estimated_rows.unwrap_or(0).max(1);
    let row_bytes = (table.bytes / rows).max(1);
    (chunk_bytes / row_bytes).clamp(CHUNK_ROWS_MIN, CHUNK_ROWS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(names: &[&str]) -> CutKey {
        let part = |name: &&str| KeyPart {
            name: (*name).to_owned(),
            select: (*name).to_owned(),
            quotes: (String::new(), ""),
        };
        CutKey { index: "`PRIMARY`".into(), parts: names.iter().map(part).collect() }
    }

    #[test]
    fn ranges_meet_without_a_gap() {
        let bound = |values: &[&str]| Some(values.iter().map(|v| (*v).to_owned()).collect());
        let range = Range { above: bound(&["1"]), up_to: bound(&["5"]) };
        assert_eq!(key(&["a"]).condition(&range), "(a > 1) AND (a <= 5)");
        assert_eq!(key(&["a"]).condition(&Range::default()), "TRUE AND TRUE");
        let range = Range { above: bound(&["1", "2"]), up_to: bound(&["1", "9"]) };
        assert_eq!(
            key(&["a", "b"]).condition(&range),
            "(a >= 1 AND ((a > 1) OR (a = 1 AND b > 2))) AND (a <= 1 AND ((a < 1) OR (a = 1 AND b <= 9)))"
        );
    }
}
