//! Rows, and where counters are.
//!
//! A table's fingerprint is its number of rows and the sum of a 60-bit hash of each, as
//! [`crate::compare`] has it. A value is the bytes of its text.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use crate::mysql::{DATABASE, Mysql, Row};

/// What tables hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    tables: BTreeMap<String, String>,
    /// The next value of each, by table or sequence.
    counters: BTreeMap<String, i128>,
}

impl Rows {
    pub fn read(server: &Mysql) -> Result<Rows> {
        let mut columns: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let sql = format!(
            "SELECT table_name, column_name FROM information_schema.columns
             JOIN information_schema.tables USING (table_schema, table_name)
             WHERE table_schema = '{DATABASE}' AND table_type <> 'VIEW'
               AND table_type <> 'SEQUENCE' ORDER BY table_name, column_name"
        );
        for row in ask(server, &sql)? {
            let [table, column] = two(row)?;
            columns.entry(table).or_default().push(column);
        }
        let mut tables = BTreeMap::new();
        for (table, columns) in columns {
            let text = |column: &String| format!("ifnull(hex(cast(`{column}` AS binary)), '~')");
            let text = columns.iter().map(text).collect::<Vec<_>>().join(", ");
            let hash = format!(
                "cast(conv(left(sha2(concat_ws('|', {text}), 256), 15), 16, 10) AS unsigned)"
            );
            let sql = format!(
                "SELECT concat(count(*), ' rows, ', ifnull(sum({hash}), 0)) FROM {DATABASE}.`{table}`"
            );
            tables.insert(table, server.value(&sql).with_context(|| sql.clone())?);
        }
        Ok(Rows { tables, counters: counters(server)? })
    }

    /// Tables that differ, and counters that would give a value of `self`'s again on `other`.
    pub fn differences(&self, other: &Rows) -> Vec<String> {
        let mut names: Vec<&String> = self.tables.keys().chain(other.tables.keys()).collect();
        names.sort();
        names.dedup();
        let of = |rows: &Rows, name: &String| {
            rows.tables.get(name).cloned().unwrap_or_else(|| "absent".to_owned())
        };
        let names =
            names.into_iter().filter(|name| self.tables.get(*name) != other.tables.get(*name));
        let tables =
            names.map(|name| format!("rows of {name}: {} | {}", of(self, name), of(other, name)));
        let behind = self.counters.iter().filter_map(|(name, next)| {
            let there = other.counters.get(name)?;
            (there < next).then(|| format!("counter of {name}: {next} | {there}"))
        });
        tables.chain(behind).collect()
    }
}

fn counters(server: &Mysql) -> Result<BTreeMap<String, i128>> {
    // MySQL keeps what it says here for a day.
    let fresh = match server.version().is_mariadb() {
        true => "",
        false => "SET SESSION information_schema_stats_expiry = 0;",
    };
    let sql = format!(
        "{fresh} SELECT table_name, auto_increment FROM information_schema.tables
         WHERE table_schema = '{DATABASE}' AND auto_increment IS NOT NULL"
    );
    let mut found = BTreeMap::new();
    for row in ask(server, &sql)? {
        let [table, next] = two(row)?;
        found.insert(table, next.parse()?);
    }
    let sql = format!(
        "SELECT table_name FROM information_schema.tables
         WHERE table_schema = '{DATABASE}' AND table_type = 'SEQUENCE'"
    );
    for row in ask(server, &sql)? {
        let name = row.concat();
        let next = format!("SELECT next_not_cached_value FROM {DATABASE}.`{name}`");
        found.insert(name, server.value(&next)?.parse()?);
    }
    Ok(found)
}

/// The rows of an answer as text.
pub fn ask(server: &Mysql, sql: &str) -> Result<Vec<Vec<String>>> {
    let text = |row: Row| -> Result<Vec<String>> {
        row.into_iter().map(|field| Ok(String::from_utf8(field)?)).collect()
    };
    let rows = server.rows(sql).with_context(|| sql.to_owned())?;
    rows.into_iter().map(text).collect()
}

fn two(row: Vec<String>) -> Result<[String; 2]> {
    match row.try_into() {
        Ok(two) => Ok(two),
        Err(row) => bail!("{} fields came, expected two", row.len()),
    }
}
