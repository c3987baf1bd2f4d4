//! How tables and columns are kept: replica identity, storage parameters, TOAST, statistics targets. None of that changes
//! a result or a right, so a difference is worth a look. And from whom tables inherit, which changes what a parent shows.

use std::collections::HashMap;

use cutover::verify::objects::{Described, Rigor};
use decoders::postgres::catalog::quote_ident;

use super::super::reader::{Reader, Trouble};
use super::shape::{qualified, quoted};
use super::{COLUMN_ORDER, exact, places, property};

/// The first version in which a column chooses its compression.
const COMPRESSION: u32 = 140_000;

const DEFAULT: &str = "default";

/// Adds properties to the tables and columns in `objects`.
pub(super) async fn read(reader: &Reader, objects: &mut [Described]) -> Result<(), Trouble> {
    tables(reader, objects).await?;
    columns(reader, objects).await
}

async fn tables(reader: &Reader, objects: &mut [Described]) -> Result<(), Trouble> {
    let sorted = |options: &str| {
        format!("(SELECT string_agg(o, ', ' ORDER BY o COLLATE \"C\") FROM unnest({options}) o)")
    };
    let sql = format!(
        "SELECT {name}, \
                CASE c.relreplident WHEN 'n' THEN 'NOTHING' WHEN 'f' THEN 'FULL' WHEN 'i' THEN \
                     (SELECT 'USING INDEX ' || {index} FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid \
                      WHERE i.indrelid = c.oid AND i.indisreplident) END, \
                concat_ws(', ', {options}, {toast}), {parents} \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         LEFT JOIN pg_class t ON t.oid = c.reltoastrelid \
         WHERE c.relkind IN ('r', 'p') \
           AND (c.relreplident <> 'd' OR c.reloptions IS NOT NULL OR t.reloptions IS NOT NULL \
                OR c.oid IN (SELECT inhrelid FROM pg_inherits))",
        parents = parents(),
        name = qualified("n.nspname", "c.relname"),
        index = quoted("x.relname"),
        options = sorted("c.reloptions"),
        toast = sorted("(SELECT array_agg('toast.' || p) FROM unnest(t.reloptions) p)"),
    );
    let mut found = HashMap::new();
    for row in reader.rows(&sql).await? {
        let [Some(name), identity, options, parents] = <[_; 4]>::try_from(row)
            .map_err(|_| Trouble::unexpected(reader.side, "no table's storage"))?
        else {
            continue;
        };
        found.insert(name, (identity, options.filter(|options| !options.is_empty()), parents));
    }
    for table in objects.iter_mut().filter(|object| object.kind == "table") {
        let (identity, options, parents) = found.remove(&table.name).unwrap_or_default();
        let identity = identity.as_deref().unwrap_or("DEFAULT");
        let statement = format!("ALTER TABLE {} REPLICA IDENTITY {identity}", table.name);
        table
            .properties
            .push(property("replica identity", identity, Rigor::Noted).set_by(statement));
        let value = options.as_deref().unwrap_or(DEFAULT);
        let mut parameters = property("storage parameters", value, Rigor::Noted);
        if let Some(options) = &options {
            let statement = format!("ALTER TABLE {} SET ({options})", table.name);
            parameters = parameters.set_by(statement);
        }
        table.properties.push(parameters);
        if parents.is_some() {
            // A dump makes inherited columns in the parent's order, whatever it was on the child.
            for one in table.properties.iter_mut().filter(|one| one.name == COLUMN_ORDER) {
                one.rigor = Rigor::Noted;
            }
        }
        table.properties.push(exact("inherits", parents.as_deref().unwrap_or("none")));
    }
    Ok(())
}

/// The parents of a table that is no partition, in order.
fn parents() -> String {
    format!(
        "(SELECT string_agg({}, ', ' ORDER BY i.inhseqno) FROM pg_inherits i \
          JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace m ON m.oid = p.relnamespace \
          WHERE i.inhrelid = c.oid AND NOT c.relispartition)",
        qualified("m.nspname", "p.relname")
    )
}

async fn columns(reader: &Reader, objects: &mut [Described]) -> Result<(), Trouble> {
    let compression = match reader.session().server_version() >= COMPRESSION {
        true => "CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END",
        false => "NULL",
    };
    // Each is the clause of ALTER COLUMN that sets it. Without a target it is -1 before 17 and NULL from then on.
    let sql = format!(
        "SELECT * FROM (SELECT {table} AS name, a.attname::text AS column_name, \
                CASE WHEN a.attstorage <> t.typstorage THEN 'SET STORAGE ' || CASE a.attstorage \
                     WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END END \
                  AS storage, \
                'SET COMPRESSION ' || {compression} AS compression, \
                'SET STATISTICS ' || nullif(a.attstattarget, -1) AS target, \
                'SET (' || array_to_string(a.attoptions, ', ') || ')' AS options \
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_type t ON t.oid = a.atttypid \
         WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND n.nspname !~ '^pg_' \
           AND n.nspname <> 'information_schema') found \
         WHERE num_nonnulls(storage, compression, target, options) > 0",
        table = qualified("n.nspname", "c.relname"),
    );
    let all = places(objects, "column");
    for &at in all.values() {
        objects[at].properties.push(property("storage", DEFAULT, Rigor::Noted));
    }
    for row in reader.rows(&sql).await? {
        let [Some(table), Some(column), clauses @ ..] = row.as_slice() else { continue };
        let column = quote_ident(column);
        let Some(&at) = all.get(&format!("{table}.{column}")) else { continue };
        let clauses: Vec<_> = clauses.iter().flatten().collect();
        let words: Vec<_> =
            clauses.iter().map(|clause| clause.trim_start_matches("SET ")).collect();
        let alter: Vec<_> =
            clauses.iter().map(|clause| format!("ALTER COLUMN {column} {clause}")).collect();
        let statement = format!("ALTER TABLE {table} {}", alter.join(", "));
        if let Some(last) = objects[at].properties.last_mut() {
            *last = property("storage", words.join(", "), Rigor::Noted).set_by(statement);
        }
    }
    Ok(())
}
