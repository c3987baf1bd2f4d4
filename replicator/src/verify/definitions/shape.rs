//! What constraints and indexes are like, read from the catalogs and not from SQL that the
//! server prints: the same in every version, so that a difference is one between any two.

use std::collections::BTreeSet;

use cutover::verify::objects::{Described, Property, Rigor};
use decoders::postgres::catalog::quote_ident;

use super::super::reader::{Reader, TextRow, Trouble};
use super::{exact, property, yes};

/// The first version with INCLUDE columns.
const INCLUDE: u32 = 110_000;
/// The first version with NULLS NOT DISTINCT and ON DELETE SET NULL (columns).
const NULLS_NOT_DISTINCT: u32 = 150_000;

/// A name in quotes whatever it is: which words need them depends on the version.
pub(super) fn quoted(column: &str) -> String {
    format!("'\"' || replace({column}, '\"', '\"\"') || '\"'")
}

/// A name with its schema's.
pub(super) fn qualified(schema: &str, name: &str) -> String {
    format!("{} || '.' || {}", quoted(schema), quoted(name))
}

/// What tells a function from others of its name. From 14 on a procedure's say IN.
pub(super) fn arguments(version: u32) -> &'static str {
    match version >= 140_000 {
        true => {
            "CASE p.prokind WHEN 'p' \
                  THEN regexp_replace(pg_get_function_identity_arguments(p.oid), '(^|, )IN ', '\\1', 'g') \
                  ELSE pg_get_function_identity_arguments(p.oid) END"
        }
        false => "pg_get_function_identity_arguments(p.oid)",
    }
}

/// The names of the columns of `table` with the numbers in `numbers`, in `order`.
pub(super) fn columns(table: &str, numbers: &str, order: &str) -> String {
    let name = quoted("a.attname");
    format!(
        "(SELECT string_agg(coalesce({name}, 'an expression'), ', ' ORDER BY {order}) \
          FROM unnest({numbers}) WITH ORDINALITY u (num, n) \
          LEFT JOIN pg_attribute a ON a.attrelid = {table} AND a.attnum = u.num)"
    )
}

/// Properties that follow each other in `row`, `names` being theirs.
pub(super) fn properties(row: &[Option<String>], names: &[&str]) -> Vec<Property> {
    let value = |text: &Option<String>| match text.as_deref() {
        None | Some("") => "none".to_owned(),
        Some("t") => yes(true).to_owned(),
        Some("f") => yes(false).to_owned(),
        Some(other) => other.to_owned(),
    };
    names.iter().zip(row).map(|(name, text)| exact(name, value(text))).collect()
}

/// Those of `rows` that are about `tables`, which the first column names.
fn about<'a>(
    rows: &'a [TextRow],
    tables: &'a BTreeSet<String>,
) -> impl Iterator<Item = (&'a str, &'a str, &'a [Option<String>])> {
    rows.iter().filter_map(|row| match row.as_slice() {
        [Some(table), Some(name), rest @ ..] if tables.contains(table) => {
            Some((table.as_str(), name.as_str(), rest))
        }
        _ => None,
    })
}

pub(super) async fn constraints(
    reader: &Reader,
    tables: &BTreeSet<String>,
    objects: &mut Vec<Described>,
) -> Result<(), Trouble> {
    let only_these = match reader.session().server_version() >= NULLS_NOT_DISTINCT {
        true => format!(
            "CASE WHEN k.confdelsetcols IS NOT NULL THEN {} END",
            columns("k.conrelid", "k.confdelsetcols", "a.attname")
        ),
        false => "NULL".to_owned(),
    };
    let action = |column: &str| {
        format!(
            "CASE WHEN k.contype = 'f' THEN CASE {column} WHEN 'a' THEN 'no action' \
                  WHEN 'r' THEN 'restrict' WHEN 'c' THEN 'cascade' WHEN 'n' THEN 'set null' \
                  ELSE 'set default' END END"
        )
    };
    // What partitions have from their parents is compared there. The columns of a CHECK have no order.
    let sql = format!(
        "SELECT {table}, k.conname, k.contype, k.convalidated, \
                CASE k.contype WHEN 'c' THEN {checked} ELSE {keys} END, \
                CASE k.contype WHEN 'f' THEN \
                     (SELECT {other} FROM pg_class fc JOIN pg_namespace fn ON fn.oid = fc.relnamespace \
                      WHERE fc.oid = k.confrelid) || ' (' || {referenced} || ')' END, \
                {update}, {delete}, {only_these}, \
                CASE WHEN k.contype = 'f' THEN CASE k.confmatchtype WHEN 'f' THEN 'full' \
                     WHEN 'p' THEN 'partial' ELSE 'simple' END END, \
                k.condeferrable, k.condeferred, k.contype = 'c' AND k.connoinherit, \
                CASE WHEN k.conexclop IS NOT NULL THEN (SELECT string_agg(o.oprname, ', ' ORDER BY u.n) \
                     FROM unnest(k.conexclop) WITH ORDINALITY u (op, n) \
                     JOIN pg_operator o ON o.oid = u.op) END, \
                CASE WHEN k.contype = 'c' THEN pg_get_expr(k.conbin, k.conrelid) END, \
                pg_get_constraintdef(k.oid) \
         FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE k.contype IN ('c', 'f', 'p', 'u', 'x') AND c.relkind IN ('r', 'p') \
           AND NOT (c.relispartition AND k.coninhcount > 0)",
        table = qualified("n.nspname", "c.relname"),
        checked = columns("k.conrelid", "k.conkey", "a.attname"),
        keys = columns("k.conrelid", "k.conkey", "u.n"),
        other = qualified("fn.nspname", "fc.relname"),
        referenced = columns("k.confrelid", "k.confkey", "u.n"),
        update = action("k.confupdtype"),
        delete = action("k.confdeltype"),
    );
    let names = [
        "kind",
        "valid",
        "columns",
        "references",
        "on update",
        "on delete",
        "columns set on delete",
        "match",
        "deferrable",
        "deferred at first",
        "not inherited",
        "operators",
    ];
    let rows = reader.rows(&sql).await?;
    for (table, name, row) in about(&rows, tables) {
        let mut properties = properties(row, &names);
        let [condition, text] = <[_; 2]>::try_from(row[names.len()..].to_vec())
            .map_err(|_| Trouble::unexpected(reader.side, "no constraint's text"))?;
        let text = text.unwrap_or_default();
        properties.push(match condition {
            // All else of a CHECK is among the properties.
            Some(condition) => property("condition", condition, Rigor::Printed),
            // What of an EXCLUDE may be written in many ways is compared with its index.
            None if row.first().is_some_and(|kind| kind.as_deref() == Some("x")) => {
                property("definition", &text, Rigor::Printed)
            }
            None => property("definition", &text, Rigor::Text),
        });
        let add = format!("ALTER TABLE {table} ADD CONSTRAINT {} {text}", quote_ident(name));
        let drop = format!("ALTER TABLE {table} DROP CONSTRAINT {}", quote_ident(name));
        let name = format!("{table}.{}", quote_ident(name));
        objects.push(Described::new("constraint", name, properties).made_by(add).unmade_by(drop));
    }
    Ok(())
}

pub(super) async fn indexes(
    reader: &Reader,
    tables: &BTreeSet<String>,
    objects: &mut Vec<Described>,
) -> Result<(), Trouble> {
    let version = reader.session().server_version();
    let keys = if version >= INCLUDE { "x.indnkeyatts" } else { "x.indnatts" };
    let nulls = match version >= NULLS_NOT_DISTINCT {
        true => "x.indnullsnotdistinct",
        false => "false",
    };
    // A default class of operators may have another name in another version. The type `name` has a
    // collation since 12 only: what is the column's own is not told. The columns of all indexes are put together at
    // once: a query for each takes twice as long.
    let sql = format!(
        "SELECT {table}, {index}, x.indisvalid AND x.indisready, x.indisunique, {table}, m.amname, \
                k.columns, k.included, x.indpred IS NOT NULL, {nulls}, x.indisprimary, \
                x.indisexclusion, x.indimmediate, x.indisclustered, {own_name}, \
                pg_get_expr(x.indpred, x.indrelid), pg_get_expr(x.indexprs, x.indrelid), \
                pg_get_indexdef(i.oid) \
         FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am m ON m.oid = i.relam \
         LEFT JOIN (SELECT x.indexrelid, \
                        string_agg(coalesce({column}, 'an expression') \
                            || CASE WHEN o.opcdefault AND o.opcintype = a.atttypid THEN '' \
                                    ELSE ' ' || o.opcname END \
                            || CASE WHEN l.oid IS NULL OR l.oid = a.attcollation \
                                         OR a.attnum IS NULL AND (l.collname = 'default' \
                                                                  OR o.opcintype = 'name'::regtype) THEN '' \
                                    ELSE ' collate ' || {collation} END \
                            || CASE WHEN x.indoption[u.n - 1] & 1 = 1 THEN ' desc' ELSE '' END \
                            || CASE WHEN x.indoption[u.n - 1] & 2 = 2 THEN ' nulls first' ELSE '' END, \
                            ', ' ORDER BY u.n) FILTER (WHERE u.n <= {keys}) AS columns, \
                        string_agg({column}, ', ' ORDER BY u.n) FILTER (WHERE u.n > {keys}) AS included \
                    FROM pg_index x \
                    CROSS JOIN LATERAL unnest(x.indkey::int2[]) WITH ORDINALITY u (num, n) \
                    LEFT JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = u.num \
                    LEFT JOIN pg_opclass o ON o.oid = x.indclass[u.n - 1] \
                    LEFT JOIN pg_collation l ON l.oid = x.indcollation[u.n - 1] \
                    GROUP BY x.indexrelid) k ON k.indexrelid = x.indexrelid \
         JOIN pg_class c ON c.oid = x.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'm') AND NOT i.relispartition",
        table = qualified("n.nspname", "c.relname"),
        index = qualified("n.nspname", "i.relname"),
        own_name = quoted("i.relname"),
        column = quoted("a.attname"),
        collation = quoted("l.collname"),
    );
    let names = [
        "valid",
        "unique",
        "table",
        "method",
        "columns",
        "included columns",
        "has a predicate",
        "nulls not distinct",
        "primary",
        "excludes",
        "checked at once",
    ];
    let rows = reader.rows(&sql).await?;
    for (table, name, row) in about(&rows, tables) {
        let mut properties = properties(row, &names);
        let rest = &row[names.len()..];
        let [_, _, predicate, expressions, text] = rest else {
            return Err(Trouble::unexpected(reader.side, "no index's text"));
        };
        let text = text.clone().unwrap_or_default();
        let is_printed = predicate.is_some() || expressions.is_some();
        for (name, text) in [("predicate", predicate), ("expressions", expressions)] {
            let text = text.as_deref().unwrap_or("none");
            properties.push(property(name, text, Rigor::Printed));
        }
        let rigor = if is_printed { Rigor::Printed } else { Rigor::Text };
        properties.push(property("definition", &text, rigor));
        // Where the next CLUSTER without an index takes it from: no result depends on it.
        let is_clustered = matches!(rest, [Some(flag), ..] if flag == "t");
        let cluster = match rest {
            [_, Some(own_name), ..] if is_clustered => {
                format!("ALTER TABLE {table} CLUSTER ON {own_name}")
            }
            _ => format!("ALTER TABLE {table} SET WITHOUT CLUSTER"),
        };
        properties.push(property("clustered on", yes(is_clustered), Rigor::Noted).set_by(cluster));
        let drop = format!("DROP INDEX {name}");
        objects.push(Described::new("index", name, properties).made_by(text).unmade_by(drop));
    }
    Ok(())
}
