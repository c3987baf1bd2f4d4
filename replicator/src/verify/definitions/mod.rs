//! Reads what is no row: tables, columns, constraints, indexes, triggers, types, sequences.

mod around;
mod collations;
mod shape;

use std::collections::{BTreeSet, HashMap};

use cutover::verify::objects::{Described, Property, Rigor};
use decoders::QualifiedName;
use decoders::postgres::catalog::{
    self, SequenceInfo, SequenceValue, TableFilter, TableInfo, TypeDetail, quote_ident,
};

use collations::Collations;
pub(super) use collations::compare as compare_collations;

use super::reader::{Reader, Trouble};

/// What a side has, besides rows.
pub(super) struct Definitions {
    pub objects: Vec<Described>,
    pub sequences: Vec<(SequenceInfo, Option<SequenceValue>)>,
    /// Or why they can't be read: the library of a server may not know one any more.
    pub collations: Result<Collations, String>,
}

fn property(name: &str, value: impl ToString, rigor: Rigor) -> Property {
    Property { name: name.to_owned(), value: value.to_string(), rigor }
}

fn exact(name: &str, value: impl ToString) -> Property {
    property(name, value, Rigor::Exact)
}

fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// Everything about the tables that `wanted` takes, and about types and sequences; of a whole database
/// about what stands around them, too.
pub(super) async fn read(
    reader: &Reader,
    tables: &[TableInfo],
    wanted: impl Fn(&QualifiedName) -> bool,
    filter: &TableFilter,
    is_whole: bool,
) -> Result<Definitions, Trouble> {
    let failed = |error: catalog::CatalogError| Trouble::new(reader.side, error.to_string());
    let mut objects = Vec::new();
    let tables: Vec<&TableInfo> = tables.iter().filter(|table| wanted(&table.name)).collect();
    let names: BTreeSet<String> = tables.iter().map(|table| table.name.to_string()).collect();
    for table in &tables {
        of_table(table, &mut objects);
    }
    defaults(reader, &mut objects).await?;
    shape::constraints(reader, &names, &mut objects).await?;
    shape::indexes(reader, &names, &mut objects).await?;
    shape::triggers(reader, &mut objects).await?;
    for found in catalog::user_types(reader.session()).await.map_err(failed)? {
        let what = match found.detail {
            TypeDetail::Enum(labels) => exact("labels", format!("{labels:?}")),
            TypeDetail::Domain(base) => exact("base type", base),
            TypeDetail::Composite(parts) => exact("attributes", format!("{parts:?}")),
            TypeDetail::Range => exact("kind", "range"),
            TypeDetail::Base => exact("kind", "base type"),
        };
        let name = found.name.to_string();
        objects.push(Described { kind: "type".into(), name, properties: vec![what] });
    }
    let mut sequences = Vec::new();
    for found in catalog::sequences(reader.session()).await.map_err(failed)? {
        let is_ours = match &found.owned_by {
            Some((table, _)) => wanted(table),
            None => filter.takes(&found.name),
        };
        if !is_ours {
            continue;
        }
        let properties = vec![
            exact("type", &found.data_type),
            exact("increment", found.increment),
            exact("lowest value", found.min),
            exact("highest value", found.max),
            exact("cycles", yes(found.cycles)),
        ];
        let name = found.name.to_string();
        objects.push(Described { kind: "sequence".into(), name, properties });
        let value = match found.readable {
            true => {
                let names = [found.name.clone()];
                let values = catalog::sequence_values(reader.session(), &names).await;
                values.map_err(failed)?.pop()
            }
            false => None,
        };
        sequences.push((found, value));
    }
    if is_whole && filter.include.is_empty() && filter.exclude.is_empty() {
        around::read(reader, &mut objects).await?;
    }
    // The last thing that is asked: an error may end the transaction.
    let collations = match collations::read(reader, &names).await {
        Err(trouble) if !trouble.is_transient => Err(trouble.what),
        read => Ok(read?),
    };
    Ok(Definitions { objects, sequences, collations })
}

fn of_table(table: &TableInfo, objects: &mut Vec<Described>) {
    let properties = vec![exact("kind", format!("{:?}", table.kind))];
    let name = table.name.to_string();
    objects.push(Described { kind: "table".into(), name, properties });
    for column in &table.columns {
        let generated = column.generated.map_or("no".into(), |how| format!("{how:?}"));
        let identity = column.identity.map_or("no".into(), |how| format!("{how:?}"));
        let collation = column.collation.clone();
        let properties = vec![
            exact("type", &column.type_name),
            exact("not null", yes(column.not_null)),
            exact("has a default", yes(column.has_default)),
            exact("generated", generated),
            exact("identity", identity),
            exact("collation", collation.unwrap_or_else(|| "the default".into())),
        ];
        let name = format!("{}.{}", table.name, quote_ident(&column.name));
        objects.push(Described { kind: "column".into(), name, properties });
    }
    for trigger in &table.triggers {
        let properties = vec![
            exact("fires", format!("{:?}", trigger.firing)),
            exact("function", &trigger.function),
            exact("for each row", yes(trigger.row_level)),
        ];
        let name = format!("{}.{}", table.name, quote_ident(&trigger.name));
        objects.push(Described { kind: "trigger".into(), name, properties });
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
            let rigor = if is_constant(expression) { Rigor::Exact } else { Rigor::Text };
            objects[at].properties.push(property("expression", expression, rigor));
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
