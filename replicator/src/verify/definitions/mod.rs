//! Reads what is no row: tables, columns, constraints, indexes, triggers, types, sequences.

mod apart;
mod around;
mod brought;
mod collations;
mod comments;
mod filtered;
mod logins;
mod noted;
mod partitions;
mod rights;
mod server;
mod settings;
mod shape;
mod storage;
mod triggers;

use std::collections::{BTreeSet, HashMap};

use cutover::verify::objects::{Described, Property, Rigor};
use decoders::QualifiedName;
use decoders::postgres::catalog::{
    self, SequenceInfo, SequenceValue, TableFilter, TableShape, TypeDetail, quote_ident,
};

use collations::Collations;
pub(super) use collations::compare as compare_collations;
pub(super) use filtered::LeftOut;
pub(super) use logins::{Logins, compare as compare_logins};
pub(super) use noted::{as_noted, states as noted_states};
pub(super) use settings::{Settings, Values, compare as compare_settings};

use super::reader::{Reader, Trouble};

/// What a side has, besides rows.
pub(super) struct Definitions {
    pub objects: Vec<Described>,
    pub sequences: Vec<(SequenceInfo, Option<SequenceValue>)>,
    /// Or why they can't be read: the library of a server may not know one any more.
    pub collations: Result<Collations, String>,
}

fn property(name: &str, value: impl ToString, rigor: Rigor) -> Property {
    Property::new(name, value, rigor)
}

fn exact(name: &str, value: impl ToString) -> Property {
    property(name, value, Rigor::Exact)
}

/// What `SELECT *` and an INSERT without names go by.
const COLUMN_ORDER: &str = "order of columns";

fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// Whether it is read where sequences are: each takes a look of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SequenceValues {
    Read,
    LeftOut,
}

/// Everything about the tables that `wanted` takes, and about types and sequences; of a whole database
/// about what stands around them, too.
pub(super) async fn read(
    reader: &Reader,
    tables: &[TableShape],
    wanted: impl Fn(&QualifiedName) -> bool,
    filter: &TableFilter,
    is_whole: bool,
    values: SequenceValues,
) -> Result<Definitions, Trouble> {
    let failed = |error: catalog::CatalogError| Trouble::new(reader.side, error.to_string());
    let mut objects = Vec::new();
    let tables: Vec<&TableShape> = tables.iter().filter(|table| wanted(&table.name)).collect();
    let names: BTreeSet<String> = tables.iter().map(|table| table.name.to_string()).collect();
    for table in &tables {
        of_table(table, &mut objects);
    }
    defaults(reader, &mut objects).await?;
    shape::constraints(reader, &names, &mut objects).await?;
    let mut indexed = names.clone();
    if is_whole {
        indexed.extend(around::materialized_views(reader).await?);
    }
    shape::indexes(reader, &indexed, &mut objects).await?;
    triggers::read(reader, &names, is_whole, &mut objects).await?;
    partitions::read(reader, &mut objects).await?;
    storage::read(reader, &mut objects).await?;
    for found in catalog::user_types(reader.session()).await.map_err(failed)? {
        let what = match found.detail {
            TypeDetail::Enum(labels) => exact("labels", format!("{labels:?}")),
            TypeDetail::Domain(base) => exact("base type", base),
            TypeDetail::Composite(parts) => exact("attributes", format!("{parts:?}")),
            TypeDetail::Range => exact("kind", "range"),
            TypeDetail::Base => exact("kind", "base type"),
        };
        let name = found.name.to_string();
        objects.push(Described::new("type", name, vec![what]));
    }
    let mut sequences: Vec<(SequenceInfo, Option<SequenceValue>)> = Vec::new();
    for found in catalog::sequences(reader.session()).await.map_err(failed)? {
        let is_ours = match &found.owned_by {
            Some((table, _)) => wanted(table),
            None => filter.takes(&found.name),
        };
        if !is_ours {
            continue;
        }
        let name = found.name.to_string();
        let alter = |what: String| format!("ALTER SEQUENCE {name} {what}");
        let properties = vec![
            exact("type", &found.data_type),
            exact("increment", found.increment),
            exact("lowest value", found.min),
            exact("highest value", found.max),
            exact("cycles", yes(found.cycles)),
            exact("start", found.start).set_by(alter(format!("START WITH {}", found.start))),
            exact("cached values", found.cache).set_by(alter(format!("CACHE {}", found.cache))),
        ];
        objects.push(Described::new("sequence", name, properties));
        sequences.push((found, None));
    }
    if values == SequenceValues::Read {
        let readable: Vec<_> = sequences.iter_mut().filter(|(found, _)| found.readable).collect();
        let named: Vec<_> = readable.iter().map(|(found, _)| found.name.clone()).collect();
        let read = catalog::sequence_values(reader.session(), &named).await.map_err(failed)?;
        for ((_, slot), value) in readable.into_iter().zip(read) {
            *slot = Some(value);
        }
    }
    if is_whole {
        around::read(reader, &mut objects).await?;
        apart::read(reader, &mut objects).await?;
        comments::read(reader, &mut objects).await?;
        let left_out = LeftOut::read(reader, filter).await?;
        objects.retain(|object| !left_out.holds(object));
    }
    // The last thing that is asked: an error may end the transaction.
    let collations = match collations::read(reader, &names).await {
        Err(trouble) if !trouble.is_transient => Err(trouble.what),
        read => Ok(read?),
    };
    Ok(Definitions { objects, sequences, collations })
}

/// What stands beyond the rows and their tables: rights, extensions, publications, settings, logins.
pub(super) struct Beyond {
    pub objects: Vec<Described>,
    pub settings: Settings,
    pub logins: Logins,
}

/// Reads it. `is_whole`: all objects of the database move, so their rights are to be equal, too.
pub(super) async fn beyond(
    reader: &Reader,
    is_whole: bool,
    rights_are_copied: bool,
) -> Result<Beyond, Trouble> {
    let mut objects = Vec::new();
    if is_whole {
        rights::read(reader, rights_are_copied, &mut objects).await?;
        server::read(reader, &mut objects).await?;
    }
    let settings = settings::read(reader).await?;
    let logins = logins::read(reader).await?;
    Ok(Beyond { objects, settings, logins })
}

fn of_table(table: &TableShape, objects: &mut Vec<Described>) {
    let names: Vec<_> = table.columns.iter().map(|column| quote_ident(&column.name)).collect();
    // A partition may have an order of its own, and a dump attaches it with that.
    let order = if table.is_partition { Rigor::Noted } else { Rigor::Exact };
    let properties = vec![
        exact("kind", format!("{:?}", table.kind)),
        property(COLUMN_ORDER, names.join(", "), order),
    ];
    let name = table.name.to_string();
    objects.push(Described::new("table", name, properties));
    for column in &table.columns {
        let generated = column.generated.map_or("no".into(), |how| format!("{how:?}"));
        let collation = column.collation.clone();
        let alter = |what: &str| {
            format!("ALTER TABLE {} ALTER COLUMN {} {what}", table.name, quote_ident(&column.name))
        };
        let not_null = if column.not_null { "SET NOT NULL" } else { "DROP NOT NULL" };
        let mut properties = vec![
            exact("type", &column.type_name),
            exact("not null", yes(column.not_null)).set_by(alter(not_null)),
            exact("has a default", yes(column.has_default)),
            exact("generated", generated),
            exact("collation", collation.unwrap_or_else(|| "the default".into())),
        ];
        // A partition has its parent's since 17, and had none before: the parent's is compared.
        if !table.is_partition {
            let identity = column.identity.map_or("no".into(), |how| format!("{how:?}"));
            properties.push(exact("identity", identity));
        }
        if !column.has_default {
            properties[2].fix = Some(alter("DROP DEFAULT"));
        }
        let name = format!("{}.{}", table.name, quote_ident(&column.name));
        objects.push(Described::new("column", name, properties));
    }
}

/// Where the objects of a kind are, by name.
fn places(objects: &[Described], kind: &str) -> HashMap<String, usize> {
    let of_kind = objects.iter().enumerate().filter(|(_, one)| one.kind == kind);
    of_kind.map(|(at, one)| (one.name.clone(), at)).collect()
}

async fn defaults(reader: &Reader, objects: &mut [Described]) -> Result<(), Trouble> {
    let sql = "SELECT '\"' || replace(n.nspname, '\"', '\"\"') || '\".\"' \
                      || replace(c.relname, '\"', '\"\"') || '\"', \
                      a.attname, pg_get_expr(d.adbin, d.adrelid) \
               FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid \
               JOIN pg_namespace n ON n.oid = c.relnamespace \
               JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum \
               WHERE c.relkind IN ('r', 'p') AND NOT a.attisdropped";
    let columns = places(objects, "column");
    for row in reader.rows(sql).await? {
        let [Some(table), Some(column), Some(expression)] = row.as_slice() else { continue };
        if let Some(&at) = columns.get(&format!("{table}.{}", quote_ident(column))) {
            let properties = &mut objects[at].properties;
            // What pg_dump writes for a partition without its parent's default; where the type has a
            // length, the server keeps it.
            if expression
                .strip_prefix("NULL")
                .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            {
                for one in properties.iter_mut().filter(|one| one.name == "has a default") {
                    one.value = yes(false).to_owned();
                }
                continue;
            }
            let set = format!(
                "ALTER TABLE {table} ALTER COLUMN {} SET DEFAULT {expression}",
                quote_ident(column)
            );
            for one in properties.iter_mut().filter(|one| one.name == "has a default") {
                one.fix = Some(set.clone());
            }
            let rigor = if is_constant(expression) { Rigor::Exact } else { Rigor::Printed };
            properties.push(property("expression", expression, rigor).set_by(set));
        }
    }
    Ok(())
}

/// Whether every version writes it like this: a number, true or false, or a text.
fn is_constant(expression: &str) -> bool {
    const TYPES: [&str; 6] =
        ["text", "character varying", "bpchar", "integer", "bigint", "numeric"];
    let quoted = |rest: &str| {
        let (value, of) = rest.rsplit_once("'::")?;
        Some(TYPES.contains(&of) && !value.replace("''", "").contains('\''))
    };
    match expression.strip_prefix('\'') {
        Some(rest) => quoted(rest).unwrap_or(false),
        None if matches!(expression, "true" | "false") => true,
        None => {
            !expression.is_empty() && expression.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        }
    }
}

#[cfg(test)]
mod tests {
    use super::is_constant;

    #[test]
    fn a_constant_is_known_from_what_versions_write_differently() {
        for text in ["5", "1.50", "true", "'it''s'::text", "'-1'::integer", "''::character varying"]
        {
            assert!(is_constant(text), "{text}");
        }
        for text in ["now()", "'a'::text || 'b'::text", "'1'::double precision", "x", "", "'x"] {
            assert!(!is_constant(text), "{text}");
        }
    }
}
