//! Are two databases exactly equal? Every row of every user table, whatever its order.
//!
//! Each side is read in one snapshot. A table's fingerprint is its number of rows and the sum of a
//! 60-bit hash of each, a multiset hash: equal rows in another order are equal, a row more or less
//! or a row twice is not. Rows are hashed in their text form with the settings that shape it pinned;
//! floats in their binary form, because before PostgreSQL 12 their text was not exact.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};
use tokio_postgres::Client;

use crate::postgres::{connect_url, rows};

/// Tables of our own bookkeeping, which only one side has.
const OUR_SCHEMA: &str = "_cutover";

/// What to look at besides the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sequences {
    /// `last_value` and `is_called` are the same on both sides.
    Equal,
    /// Not looked at: logical replication leaves them alone until the cutover.
    Ignored,
}

/// A table's content in two numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    pub columns: Vec<String>,
    pub rows: u64,
    pub hash: String,
}

/// All that is compared of one database, as of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    pub tables: BTreeMap<String, Fingerprint>,
    /// `last_value` and `is_called`.
    pub sequences: BTreeMap<String, String>,
}

impl Content {
    /// Reads the whole database behind this URL.
    pub async fn read(url: &str) -> Result<Content> {
        Content::read_where(url, |_| true).await
    }

    /// Reads only the tables (by quoted name with schema) that `wanted` accepts.
    pub async fn read_where(url: &str, wanted: impl Fn(&str) -> bool) -> Result<Content> {
        let client = connect_url(url).await.context("cannot connect for the comparison")?;
        client.batch_execute(SNAPSHOT).await?;
        let mut content = Content::default();
        for (table, columns) in tables(&client).await? {
            if wanted(&table) {
                let fingerprint = fingerprint(&client, &table, columns).await?;
                content.tables.insert(table, fingerprint);
            }
        }
        content.sequences = sequences(&client).await?;
        Ok(content)
    }

    pub fn rows(&self) -> u64 {
        self.tables.values().map(|table| table.rows).sum()
    }

    /// Fails with every difference, named, unless the other side is the same.
    pub fn ensure_equal(&self, other: &Content, sequences: Sequences) -> Result<()> {
        let differences = self.differences(other, sequences);
        if !differences.is_empty() {
            bail!("the databases differ:\n  {}", differences.join("\n  "));
        }
        Ok(())
    }

    /// One line for each table or sequence that differs.
    pub fn differences(&self, other: &Content, sequences: Sequences) -> Vec<String> {
        let mut found = Vec::new();
        let names: BTreeSet<_> = self.tables.keys().chain(other.tables.keys()).collect();
        for name in names {
            match (self.tables.get(name), other.tables.get(name)) {
                (Some(_), None) => found.push(format!("{name} is missing on the second")),
                (None, Some(_)) => found.push(format!("{name} is missing on the first")),
                (Some(a), Some(b)) if a.columns != b.columns => {
                    found.push(format!("{name}: columns {:?} and {:?}", a.columns, b.columns));
                }
                (Some(a), Some(b)) if a.rows != b.rows => {
                    found.push(format!("{name}: {} and {} rows", a.rows, b.rows));
                }
                (Some(a), Some(b)) if a.hash != b.hash => {
                    found.push(format!("{name}: {} rows each, with other content", a.rows));
                }
                _ => {}
            }
        }
        if sequences == Sequences::Equal {
            let names: BTreeSet<_> = self.sequences.keys().chain(other.sequences.keys()).collect();
            for name in names {
                let (a, b) = (self.sequences.get(name), other.sequences.get(name));
                if a != b {
                    found.push(format!("sequence {name}: {a:?} and {b:?}"));
                }
            }
        }
        found
    }
}

/// Reads both and fails with every difference.
pub async fn ensure_equal(blue: &str, green: &str, sequences: Sequences) -> Result<Content> {
    let (blue, green) = tokio::try_join!(Content::read(blue), Content::read(green))?;
    blue.ensure_equal(&green, sequences)?;
    Ok(blue)
}

const SNAPSHOT: &str = "
    SET statement_timeout = 0; SET lock_timeout = 0; SET TimeZone = 'UTC';
    SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET bytea_output = 'hex';
    SET lc_monetary = 'C'; SET search_path = pg_catalog; SET row_security = off;
    BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Ordinary tables, partitions among them, with the expression of each column, by column name:
/// dropped and re-added columns stand in another order.
async fn tables(client: &Client) -> Result<Vec<(String, Vec<(String, String)>)>> {
    let sql = format!(
        "SELECT format('%I.%I', n.nspname, c.relname), a.attname, quote_ident(a.attname),
                CASE WHEN t.typlen = -1 AND t.typelem <> 0 THEN t.typelem ELSE t.oid END IN (700, 701), t.typelem <> 0 AND t.typlen = -1
         FROM pg_class c
         JOIN pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         LEFT JOIN pg_type t ON t.oid = a.atttypid
         WHERE c.relkind = 'r' AND c.relpersistence = 'p'
           AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND n.nspname <> '{OUR_SCHEMA}'
         ORDER BY 1, a.attname::text COLLATE \"C\""
    );
    let mut tables: Vec<(String, Vec<(String, String)>)> = Vec::new();
    for row in rows(client, &sql).await? {
        let Some(Some(table)) = row.first() else { bail!("a table without a name") };
        if tables.last().is_none_or(|(last, _)| last != table) {
            tables.push((table.clone(), Vec::new()));
        }
        if let [_, Some(name), Some(quoted), Some(float), Some(array)] = row.as_slice()
            && let Some((_, columns)) = tables.last_mut()
        {
            let expression = match (float == "t", array == "t") {
                (true, true) => format!("array_send({quoted})"),
                // float4 converts to float8 exactly.
                (true, false) => format!("float8send({quoted})"),
                _ => format!("{quoted}::text"),
            };
            columns.push((name.clone(), expression));
        }
    }
    Ok(tables)
}

async fn fingerprint(
    client: &Client,
    table: &str,
    columns: Vec<(String, String)>,
) -> Result<Fingerprint> {
    let (names, expressions): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let sql = format!(
        "SELECT count(*), coalesce(sum(('x' || substr(md5(ROW({})::text), 1, 15))::bit(60)::bigint), 0)
         FROM ONLY {table}",
        expressions.join(", ")
    );
    let answer = rows(client, &sql).await.with_context(|| format!("cannot read {table}"))?;
    let Some([Some(count), Some(hash)]) = answer.first().map(Vec::as_slice) else {
        bail!("no fingerprint of {table}")
    };
    Ok(Fingerprint { columns: names, rows: count.parse()?, hash: hash.clone() })
}

async fn sequences(client: &Client) -> Result<BTreeMap<String, String>> {
    let sql = format!(
        "SELECT format('%I.%I', schemaname, sequencename) FROM pg_sequences
         WHERE schemaname <> '{OUR_SCHEMA}' ORDER BY 1"
    );
    let mut found = BTreeMap::new();
    for row in rows(client, &sql).await? {
        let [Some(name)] = row.as_slice() else { bail!("a sequence without a name") };
        let state = rows(client, &format!("SELECT last_value, is_called FROM {name}")).await?;
        let Some([Some(last), Some(called)]) = state.first().map(Vec::as_slice) else {
            bail!("sequence {name} has no state")
        };
        found.insert(name.clone(), format!("{last} {called}"));
    }
    Ok(found)
}
