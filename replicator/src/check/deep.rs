//! Rows of blue that break blue's own rules (`replicator check --deep`): without a parent, or twice under
//! a unique index. They got there with triggers off, or by an index that another C library has sorted.
//! Without this they are found when the copy makes green's constraints.
//!
//! Every question is a statement and a transaction of its own, READ ONLY, so vacuum on blue is held back by
//! one at a time and for no longer than `timeout`; it takes no lock but ACCESS SHARE, and waits 2 s for it.
//! Indexes are not used, because a broken one would say that nothing is wrong. No value of a row is read.

use std::time::Duration;

use decoders::QualifiedName;
use decoders::postgres::catalog::{CatalogError, TableFilter, quote_ident};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::finding::{Finding, Fix, Side, count};

/// Foreign keys: the table, its name, whether rows were ever checked, whether all columns count (MATCH
/// FULL), both sides' relations and columns, and the operators that compare them. A key of a
/// partitioned table stands for its partitions' (`conparentid`, from version 11 on).
const KEYS: &str = "
SELECT n.nspname::text, c.relname::text, k.conname::text, k.convalidated, k.confmatchtype = 'f',
       CASE c.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END || format('%I.%I', n.nspname, c.relname),
       CASE p.relkind WHEN 'r' THEN 'ONLY ' ELSE '' END || format('%I.%I', m.nspname, p.relname),
       ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY x(num, at)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = x.num ORDER BY x.at),
       ARRAY(SELECT a.attname::text FROM unnest(k.confkey) WITH ORDINALITY x(num, at)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = p.oid AND a.attnum = x.num ORDER BY x.at),
       ARRAY(SELECT format('OPERATOR(%I.%s)', s.nspname, o.oprname)
             FROM unnest(k.conpfeqop) WITH ORDINALITY x(id, at)
             JOIN pg_catalog.pg_operator o ON o.oid = x.id
             JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace ORDER BY x.at),
       coalesce((to_jsonb(k) ->> 'conperiod')::boolean, false)
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class p ON p.oid = k.confrelid
JOIN pg_catalog.pg_namespace m ON m.oid = p.relnamespace
WHERE k.contype = 'f' AND coalesce(to_jsonb(k) ->> 'conparentid', '0') = '0'
ORDER BY 1, 2, 3";

/// Unique indexes: the table, its name, whether it is the primary key or the replica identity, the columns,
/// whether there are expressions or a predicate, whether NULL equals NULL. Those of partitioned tables
/// stand for nothing: each partition has its own.
const INDEXES: &str = "
SELECT n.nspname::text, c.relname::text, i.relname::text, x.indisprimary OR x.indisreplident,
       ARRAY(SELECT pg_catalog.quote_ident(a.attname)
             FROM unnest(x.indkey::int2[]) WITH ORDINALITY u(num, at)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.num
             WHERE u.at <= coalesce((to_jsonb(x) ->> 'indnkeyatts')::int, x.indnatts::int)
             ORDER BY u.at),
       x.indexprs IS NOT NULL OR x.indpred IS NOT NULL,
       coalesce((to_jsonb(x) ->> 'indnullsnotdistinct')::boolean, false), x.indisexclusion, i.oid
FROM pg_catalog.pg_index x
JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
JOIN pg_catalog.pg_class c ON c.oid = x.indrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE x.indisunique AND c.relkind = 'r' AND c.relpersistence = 'p'
ORDER BY 1, 2, 3";

/// The keys of one index with expressions, and its predicate. The server locks the table to print them.
const KEYS_OF: &str = "
SELECT ARRAY(SELECT pg_catalog.pg_get_indexdef(x.indexrelid, k, false)
             FROM generate_series(1, coalesce((to_jsonb(x) ->> 'indnkeyatts')::int,
                                              x.indnatts::int)) k ORDER BY k),
       pg_catalog.pg_get_expr(x.indpred, x.indrelid)
FROM pg_catalog.pg_index x WHERE x.indexrelid = $1";

/// Periods may not overlap, or have to be covered: more than that rows are equal.
const PERIODS: &str = "periods are not looked at";

/// For the session: nothing of ours is in anybody's way, and no index hides a row.
const SESSION: &str = "
SET default_transaction_read_only = on; SET lock_timeout = '2s'; SET row_security = off;
SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off";

/// One rule of blue's, and how to find what breaks it.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    table: QualifiedName,
    /// Constraint or index, with its columns.
    what: String,
    kind: Kind,
    /// Counts the rows (or keys) that break it.
    count: String,
    /// Lists them, for a person.
    find: String,
    /// Why it can't be asked, if so.
    unasked: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A foreign key: green can do without it until its rows are mended.
    Parent,
    /// A unique index that green can do without for now.
    Unique,
    /// One that the copy needs: a primary key, a replica identity.
    Needed,
}

/// What the rows of blue's tables say; `timeout` is for each table.
///
/// # Errors
/// Blue can't be asked for its rules.
pub async fn look(
    blue: &Client,
    filter: &TableFilter,
    timeout: Duration,
) -> Result<Vec<Finding>, CatalogError> {
    let failed = |error| CatalogError::query("the keys and unique indexes of blue", error);
    blue.batch_execute(SESSION).await.map_err(failed)?;
    let mut rules = Vec::new();
    for row in blue.query(KEYS, &[]).await.map_err(failed)? {
        let get = |at| row.try_get::<_, String>(at).map_err(failed);
        let list = |at| row.try_get::<_, Vec<String>>(at).map_err(failed);
        let flag = |at| row.try_get::<_, bool>(at).map_err(failed);
        let table = QualifiedName::new(get(0)?, get(1)?);
        let key = ForeignKey {
            name: get(2)?,
            is_checked: flag(3)?,
            is_full: flag(4)?,
            from: get(5)?,
            to: get(6)?,
            columns: list(7)?,
            parents: list(8)?,
            operators: list(9)?,
            has_period: flag(10)?,
        };
        rules.push(key.rule(table));
    }
    for row in blue.query(INDEXES, &[]).await.map_err(failed)? {
        let get = |at| row.try_get::<_, String>(at).map_err(failed);
        let table = QualifiedName::new(get(0)?, get(1)?);
        let flag = |at| row.try_get::<_, bool>(at).map_err(failed);
        let mut keys: Vec<String> = row.try_get(4).map_err(failed)?;
        let mut predicate: Option<String> = None;
        let kind = if flag(3)? { Kind::Needed } else { Kind::Unique };
        let mut unasked = flag(7)?.then(|| PERIODS.to_owned());
        if flag(5)? && filter.takes(&table) {
            let oid: u32 = row.try_get(8).map_err(failed)?;
            match blue.query_one(KEYS_OF, &[&oid]).await {
                Ok(row) => {
                    keys = row.try_get(0).map_err(failed)?;
                    predicate = row.try_get(1).map_err(failed)?;
                }
                Err(error) => unasked = Some(words(&error)),
            }
        }
        let rule = unique(table, &get(2)?, kind, &keys, predicate.as_deref(), flag(6)?);
        rules.push(Rule { unasked, ..rule });
    }
    rules.retain(|rule| filter.takes(&rule.table));
    rules.sort_by(|one, other| one.table.cmp(&other.table));
    Ok(judge(&ask(blue, rules, timeout).await))
}

/// A rule with what was found: how many, or why that is not known.
type Asked = (Rule, Result<i64, String>);

async fn ask(blue: &Client, rules: Vec<Rule>, timeout: Duration) -> Vec<Asked> {
    let mut asked: Vec<Asked> = Vec::new();
    let mut left = timeout;
    for rule in rules {
        if asked.last().is_none_or(|(last, _)| last.table != rule.table) {
            left = timeout;
        }
        let began = std::time::Instant::now();
        let found = match (&rule.unasked, left.as_millis()) {
            (Some(why), _) => Err(why.clone()),
            (None, 0) => Err(format!("the table's time ({timeout:?}) was over")),
            (None, ms) => one(blue, &rule.count, ms).await,
        };
        left = left.saturating_sub(began.elapsed());
        asked.push((rule, found));
    }
    asked
}

/// Why the server did not answer. Its own words may hold values of a row.
fn words(error: &tokio_postgres::Error) -> String {
    match error.code() {
        Some(&SqlState::QUERY_CANCELED) => "it was not done in time".to_owned(),
        Some(&SqlState::LOCK_NOT_AVAILABLE) => "somebody else holds the table".to_owned(),
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => "our role may not read all of it".to_owned(),
        Some(code) => format!("the server refused it ({})", code.code()),
        None => "the connection was lost".to_owned(),
    }
}

async fn one(blue: &Client, count: &str, ms: u128) -> Result<i64, String> {
    let words = |error| words(&error);
    blue.batch_execute(&format!("SET statement_timeout = {ms}")).await.map_err(words)?;
    blue.query_one(count, &[]).await.and_then(|row| row.try_get(0)).map_err(words)
}

struct ForeignKey {
    name: String,
    is_checked: bool,
    is_full: bool,
    /// Both relations as FROM takes them.
    from: String,
    to: String,
    columns: Vec<String>,
    parents: Vec<String>,
    operators: Vec<String>,
    has_period: bool,
}

impl ForeignKey {
    fn rule(&self, table: QualifiedName) -> Rule {
        let there = |column: &String| format!("c.{} IS NOT NULL", quote_ident(column));
        let there: Vec<_> = self.columns.iter().map(there).collect();
        let pairs = self.parents.iter().zip(&self.operators).zip(&self.columns);
        let equal = pairs.map(|((parent, operator), column)| {
            format!("p.{} {operator} c.{}", quote_ident(parent), quote_ident(column))
        });
        let equal: Vec<_> = equal.collect();
        let has_key = there.join(if self.is_full { " OR " } else { " AND " });
        let rows = format!(
            "FROM {} c WHERE ({has_key}) AND NOT EXISTS (SELECT FROM {} p WHERE {})",
            self.from,
            self.to,
            equal.join(" AND ")
        );
        let unchecked = if self.is_checked { "" } else { ", NOT VALID on blue" };
        let columns = self.columns.iter().map(|column| quote_ident(column)).collect::<Vec<_>>();
        Rule {
            what: format!(
                "foreign key {} ({}){unchecked}",
                quote_ident(&self.name),
                columns.join(", ")
            ),
            kind: Kind::Parent,
            count: format!("SELECT pg_catalog.count(*) {rows}"),
            find: format!("SELECT c.ctid, c.* {rows}"),
            unasked: self.has_period.then(|| PERIODS.to_owned()),
            table,
        }
    }
}

fn unique(
    table: QualifiedName,
    name: &str,
    kind: Kind,
    keys: &[String],
    predicate: Option<&str>,
    nulls_equal: bool,
) -> Rule {
    let mut conditions: Vec<_> =
        predicate.iter().map(|predicate| format!("({predicate})")).collect();
    if !nulls_equal {
        conditions.extend(keys.iter().map(|key| format!("({key}) IS NOT NULL")));
    }
    let condition = match conditions.is_empty() {
        true => String::new(),
        false => format!(" WHERE {}", conditions.join(" AND ")),
    };
    // In parentheses an expression can't be taken for the position of a column.
    let list = keys.iter().map(|key| format!("({key})")).collect::<Vec<_>>().join(", ");
    let twice =
        format!("FROM ONLY {table}{condition} GROUP BY {list} HAVING pg_catalog.count(*) > 1");
    Rule {
        what: format!("unique index {} ({})", quote_ident(name), keys.join(", ")),
        kind,
        count: format!("SELECT pg_catalog.count(*) FROM (SELECT {twice}) AS twice"),
        find: format!("SELECT {list}, pg_catalog.count(*), pg_catalog.array_agg(ctid) {twice}"),
        unasked: None,
        table,
    }
}

fn judge(asked: &[Asked]) -> Vec<Finding> {
    let mut findings: Vec<_> = [Kind::Parent, Kind::Unique, Kind::Needed]
        .into_iter()
        .filter_map(|kind| broken(kind, asked))
        .collect();
    let unknown: Vec<_> = asked
        .iter()
        .filter_map(|(rule, found)| {
            let why = found.as_ref().err()?;
            Some(format!("{}: {}: {why}", rule.table, rule.what))
        })
        .collect();
    if !unknown.is_empty() {
        findings.push(
            not_looked_at(format!("{} of {}", count(unknown.len(), "rule"), asked.len()))
                .objects(unknown),
        );
    }
    if findings.is_empty() {
        let summary = "no row breaks a foreign key or a unique index";
        let finding = Finding::ok("rows-keep-rules", Side::Blue, summary);
        findings.push(finding.evidence(count(asked.len(), "rule")));
    }
    findings
}

/// The rules of one kind that rows break.
fn broken(kind: Kind, asked: &[Asked]) -> Option<Finding> {
    let broken: Vec<_> = (asked.iter())
        .filter_map(|(rule, found)| match found {
            Ok(number @ 1..) if rule.kind == kind => Some((rule, number)),
            _ => None,
        })
        .collect();
    if broken.is_empty() {
        return None;
    }
    let (finding, what) = match kind {
        Kind::Parent => (
            Finding::warning(
                "rows-without-parent",
                Side::Blue,
                "rows violate a foreign key: they are copied, and no cutover begins until green can check \
                 the key (one that is NOT VALID on blue stays so)",
            ),
            "rows without a parent",
        ),
        Kind::Unique => (
            Finding::warning(
                "rows-twice",
                Side::Blue,
                "keys are there more than once under a unique index: they are copied, and no cutover \
                 begins until green can make the index",
            ),
            "keys more than once",
        ),
        Kind::Needed => (
            Finding::blocker(
                "key-rows-twice",
                Side::Blue,
                "keys are there more than once under a primary key or replica identity: the copy would \
                 stop when it makes the key on green",
            ),
            "keys more than once",
        ),
    };
    let line =
        |(rule, number): &(&Rule, &i64)| format!("{}: {}: {number} {what}", rule.table, rule.what);
    let statements = broken.iter().map(|(rule, _)| rule.find.clone()).collect();
    let then = Some("correct or remove what they list; then check again".to_owned());
    Some(
        finding
            .evidence(count(broken.len(), "rule"))
            .objects(broken.iter().map(line).collect())
            .fix(Fix::Sql { side: Side::Blue, statements, then }),
    )
}

/// What nobody knows, and why.
pub(crate) fn not_looked_at(why: String) -> Finding {
    Finding::warning(
        "rows-not-looked-at",
        Side::Blue,
        "rules that nobody knows to hold: their rows were not looked at to the end",
    )
    .evidence(why)
    .fix(Fix::advice("give each table more time: --timeout 10m, say; or look when blue rests"))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Severity;
    use super::*;

    fn table() -> QualifiedName {
        QualifiedName::new("public", "orders")
    }

    #[test]
    fn a_row_without_its_whole_key_needs_no_parent() {
        let mut key = ForeignKey {
            name: "orders_fkey".into(),
            is_checked: true,
            is_full: false,
            from: "ONLY public.orders".into(),
            to: "public.shops".into(),
            columns: vec!["a".into(), "B".into()],
            parents: vec!["x".into(), "y".into()],
            operators: vec!["OPERATOR(pg_catalog.=)".into(); 2],
            has_period: false,
        };
        let rule = key.rule(table());
        assert_eq!(
            rule.count,
            "SELECT pg_catalog.count(*) FROM ONLY public.orders c WHERE (c.\"a\" IS NOT NULL AND \
             c.\"B\" IS NOT NULL) AND NOT EXISTS (SELECT FROM public.shops p WHERE p.\"x\" \
             OPERATOR(pg_catalog.=) c.\"a\" AND p.\"y\" OPERATOR(pg_catalog.=) c.\"B\")"
        );
        key.is_full = true;
        assert!(key.rule(table()).count.contains("IS NOT NULL OR c.\"B\""));
    }

    #[test]
    fn what_was_not_looked_at_is_not_in_order() {
        let rule =
            || unique(table(), "u", Kind::Unique, &["lower(a)".into()], Some("b > 0"), false);
        let ids = |asked: Vec<Asked>| -> Vec<_> {
            judge(&asked).iter().map(|found| (found.id, found.severity)).collect()
        };
        assert_eq!(ids(vec![(rule(), Ok(0))]), [("rows-keep-rules", Severity::Ok)]);
        let late = Err("it was not done in time".to_owned());
        assert_eq!(ids(vec![(rule(), late)]), [("rows-not-looked-at", Severity::Warning)]);
        assert_eq!(ids(vec![(rule(), Ok(2))]), [("rows-twice", Severity::Warning)]);
        let needed = Rule { kind: Kind::Needed, ..rule() };
        assert_eq!(ids(vec![(needed, Ok(1))]), [("key-rows-twice", Severity::Blocker)]);
    }
}
