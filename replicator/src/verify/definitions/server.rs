//! Extensions, rules, event triggers and publications.

use std::collections::HashMap;

use cutover::verify::objects::{Described, Rigor};

use super::super::reader::{Reader, Trouble};
use super::property;
use super::shape::{properties, qualified, quoted};

/// The first version whose publications have row filters, lists of columns and schemas.
const FILTERS: u32 = 150_000;
/// The first version that publishes TRUNCATE, and the first that publishes through the root.
const TRUNCATES: u32 = 110_000;
const ROOTS: u32 = 130_000;

pub(super) async fn read(reader: &Reader, objects: &mut Vec<Described>) -> Result<(), Trouble> {
    extensions(reader, objects).await?;
    rules(reader, objects).await?;
    event_triggers(reader, objects).await?;
    publications(reader, objects).await
}

/// An extension that is at its server's version on both sides is the same, whatever the numbers: a newer one is what an
/// upgrade is for.
async fn extensions(reader: &Reader, objects: &mut Vec<Described>) -> Result<(), Trouble> {
    let sql = format!(
        "SELECT {}, {}, e.extversion, e.extname FROM pg_extension e \
         JOIN pg_namespace n ON n.oid = e.extnamespace",
        quoted("e.extname"),
        quoted("n.nspname")
    );
    let rows = reader.rows(&sql).await?;
    let newest = newest(reader).await?;
    for row in rows {
        let [Some(name), Some(schema), Some(version), Some(plain)] = row.as_slice() else {
            continue;
        };
        let within = match schema.as_str() {
            "\"pg_catalog\"" => String::new(),
            schema => format!(" SCHEMA {schema}"),
        };
        let is_own = newest.get(plain).is_none_or(|newest| newest == version);
        let version = match is_own {
            true => property("version", "the server's own", Rigor::Noted)
                .set_by(format!("ALTER EXTENSION {name} UPDATE")),
            false => property("version", version, Rigor::Noted),
        };
        let schema = property("schema", schema, Rigor::Noted);
        let extension = Described::new("extension", name, vec![schema, version]);
        objects.push(extension.made_by(format!("CREATE EXTENSION {name}{within}")));
    }
    Ok(())
}

/// The version that the server itself has of each extension, by plain name. None where it can't tell: it reads the files
/// of all, and one that it can't read is an error.
async fn newest(reader: &Reader) -> Result<HashMap<String, String>, Trouble> {
    let sql = "SELECT name, default_version FROM pg_available_extensions \
               WHERE installed_version IS NOT NULL";
    let rows = match reader.rows(sql).await {
        Err(trouble) if !trouble.is_transient => {
            tracing::debug!("{}: versions of extensions: {}", trouble.place, trouble.what);
            return Ok(HashMap::new());
        }
        rows => rows?,
    };
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let [name, version] = <[_; 2]>::try_from(row).ok()?;
            name.zip(version)
        })
        .collect())
}

async fn rules(reader: &Reader, objects: &mut Vec<Described>) -> Result<(), Trouble> {
    let sql = format!(
        "SELECT {table}, {rule}, \
                CASE r.ev_type WHEN '1' THEN 'select' WHEN '2' THEN 'update' WHEN '3' THEN 'insert' \
                     ELSE 'delete' END, r.is_instead, \
                CASE r.ev_enabled WHEN 'O' THEN 'in ordinary sessions' WHEN 'D' THEN 'never' \
                     WHEN 'A' THEN 'always' ELSE 'for replicas' END, \
                substr({behind}, position({to} IN {behind}) + length({to})), pg_get_ruledef(r.oid) \
         FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE r.rulename <> '_RETURN' AND n.nspname !~ '^pg_' \
           AND n.nspname NOT IN ('information_schema', '_cutover') \
           AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass \
                           AND e.objid = c.oid AND e.deptype = 'e')",
        table = qualified("n.nspname", "c.relname"),
        rule = quoted("r.rulename"),
        // What a rule is called may look like anything.
        behind =
            "substr(pg_get_ruledef(r.oid), 1 + length('CREATE RULE ' || quote_ident(r.rulename)))",
        to = "format(' TO %I.%I', n.nspname, c.relname)",
    );
    for row in reader.rows(&sql).await? {
        let [Some(table), Some(rule), rest @ ..] = row.as_slice() else { continue };
        let mut all = properties(rest, &["event", "instead", "acts"]);
        let [.., definition, text] = rest else { continue };
        let text = text.clone().unwrap_or_default();
        // Behind the table's name.
        let definition = definition.as_deref().unwrap_or("none");
        all.push(property("definition", definition, Rigor::Printed));
        objects.push(
            Described::new("rule", format!("{table}.{rule}"), all)
                .made_by(text.trim_end_matches(';'))
                .unmade_by(format!("DROP RULE {rule} ON {table}")),
        );
    }
    Ok(())
}

async fn event_triggers(reader: &Reader, objects: &mut Vec<Described>) -> Result<(), Trouble> {
    let sql = format!(
        "SELECT {name}, t.evtevent, {function}, t.evtenabled = 'D', array_to_string(t.evttags, ', '), \
                (SELECT string_agg(quote_literal(tag), ', ') FROM unnest(t.evttags) tag) \
         FROM pg_event_trigger t JOIN pg_proc p ON p.oid = t.evtfoid \
         JOIN pg_namespace n ON n.oid = p.pronamespace \
         WHERE n.nspname NOT IN ('_cutover', 'pg_catalog') \
           AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_event_trigger'::regclass \
                           AND e.objid = t.oid AND e.deptype = 'e')",
        name = quoted("t.evtname"),
        function = qualified("n.nspname", "p.proname"),
    );
    for row in reader.rows(&sql).await? {
        let [Some(name), Some(event), Some(function), _, _, tags] = row.as_slice() else {
            continue;
        };
        let all = properties(&row[1..5], &["event", "function", "disabled", "tags"]);
        let all = all.into_iter().map(|one| property(&one.name, one.value, Rigor::Noted));
        let when = tags.as_ref().map_or(String::new(), |tags| format!(" WHEN TAG IN ({tags})"));
        objects.push(
            Described::new("event trigger", name, all.collect())
                .made_by(format!(
                    "CREATE EVENT TRIGGER {name} ON {event}{when} EXECUTE PROCEDURE {function}()"
                ))
                .unmade_by(format!("DROP EVENT TRIGGER {name}")),
        );
    }
    Ok(())
}

/// All but ours.
async fn publications(reader: &Reader, objects: &mut Vec<Described>) -> Result<(), Trouble> {
    let version = reader.session().server_version();
    let table = qualified("n.nspname", "c.relname");
    let (columns, filter, schemas) = match version >= FILTERS {
        true => (
            format!(
                "coalesce((SELECT ' (' || string_agg({column}, ', ' ORDER BY a.attnum) || ')' \
                   FROM pg_attribute a WHERE a.attrelid = c.oid \
                   AND a.attnum = ANY (r.prattrs::int2[])), '')",
                column = quoted("a.attname")
            ),
            "coalesce(' WHERE (' || pg_get_expr(r.prqual, r.prrelid) || ')', '')".to_owned(),
            format!(
                "(SELECT string_agg({schema}, ', ' ORDER BY n.nspname::text COLLATE \"C\") \
                  FROM pg_publication_namespace s JOIN pg_namespace n ON n.oid = s.pnnspid \
                  WHERE s.pnpubid = p.oid)",
                schema = quoted("n.nspname")
            ),
        ),
        false => ("''".to_owned(), "''".to_owned(), "NULL::text".to_owned()),
    };
    let truncates = if version >= TRUNCATES { "p.pubtruncate" } else { "true" };
    let via_root = if version >= ROOTS { "p.pubviaroot" } else { "false" };
    let sql = format!(
        "SELECT {name}, p.puballtables, \
                concat_ws(', ', CASE WHEN p.pubinsert THEN 'insert' END, \
                    CASE WHEN p.pubupdate THEN 'update' END, CASE WHEN p.pubdelete THEN 'delete' END, \
                    CASE WHEN {truncates} THEN 'truncate' END), {via_root}, \
                (SELECT string_agg({table} || {columns} || {filter}, ', ' \
                                   ORDER BY n.nspname::text COLLATE \"C\", c.relname::text COLLATE \"C\") \
                 FROM pg_publication_rel r JOIN pg_class c ON c.oid = r.prrelid \
                 JOIN pg_namespace n ON n.oid = c.relnamespace WHERE r.prpubid = p.oid), \
                {schemas} \
         FROM pg_publication p WHERE p.pubname NOT LIKE 'cutover\\_%'",
        name = quoted("p.pubname"),
    );
    for row in reader.rows(&sql).await? {
        let [Some(name), all_tables, Some(publish), via_root, tables, schemas] = row.as_slice()
        else {
            continue;
        };
        let is_true = |value: &Option<String>| value.as_deref() == Some("t");
        let mut what = Vec::new();
        what.extend(tables.as_ref().map(|tables| format!("TABLE {tables}")));
        what.extend(schemas.as_ref().map(|schemas| format!("TABLES IN SCHEMA {schemas}")));
        let what = match is_true(all_tables) {
            true => " FOR ALL TABLES".to_owned(),
            false if what.is_empty() => String::new(),
            false => format!(" FOR {}", what.join(", ")),
        };
        let root = if is_true(via_root) { ", publish_via_partition_root = true" } else { "" };
        let properties = vec![
            property("tables", what.trim_start(), Rigor::Noted),
            property("publishes", publish, Rigor::Noted),
            property("through the root", root.is_empty(), Rigor::Noted),
        ];
        objects.push(
            Described::new("publication", name, properties)
                .made_by(format!(
                    "CREATE PUBLICATION {name}{what} WITH (publish = '{publish}'{root})"
                ))
                .unmade_by(format!("DROP PUBLICATION {name}")),
        );
    }
    Ok(())
}
