//! What stands around tables: views, functions, policies and domains. Looked at only when all of a
//! database is compared: who moves a part of it need not move these.

use cutover::verify::objects::{Described, Rigor};

use super::super::reader::{Reader, TextRow, Trouble};
use super::shape::{arguments, properties, qualified, quoted};
use super::{exact, places, property, yes};

/// The first version with procedures, and with `prokind`.
const KINDS: u32 = 110_000;

/// The first version with bodies in standard SQL.
const SQL_BODIES: u32 = 140_000;
/// A statement that is longer is not shown: it is on the other side.
const STATEMENT_MAX: usize = 4000;

/// What an aggregate is made of.
const AGGREGATE: &str = "concat_ws(', ', 'sfunc ' || a.aggtransfn::regproc, 'stype ' || format_type(a.aggtranstype, NULL), \
     'initcond ' || a.agginitval, 'final ' || nullif(a.aggfinalfn::oid, 0)::regproc, \
     'combine ' || nullif(a.aggcombinefn::oid, 0)::regproc, 'serial ' || nullif(a.aggserialfn::oid, 0)::regproc, \
     'deserial ' || nullif(a.aggdeserialfn::oid, 0)::regproc, 'msfunc ' || nullif(a.aggmtransfn::oid, 0)::regproc, \
     'minvfunc ' || nullif(a.aggminvtransfn::oid, 0)::regproc, 'mfinal ' || nullif(a.aggmfinalfn::oid, 0)::regproc, \
     'minitcond ' || a.aggminitval, 'sortop ' || nullif(a.aggsortop, 0)::regoperator)";

/// Of the users, and of no extension: those come with it.
fn of_users(class: &str, object: &str) -> String {
    format!(
        "n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', '_cutover') \
         AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = '{class}'::regclass \
                         AND e.objid = {object} AND e.deptype = 'e')"
    )
}

/// All of them.
pub(super) async fn read(reader: &Reader, objects: &mut Vec<Described>) -> Result<(), Trouble> {
    views(reader, objects).await?;
    functions(reader, objects).await?;
    policies(reader, objects).await?;
    domains(reader, objects).await?;
    ranges(reader, objects).await?;
    labels(reader, objects).await
}

/// Objects whose names are in the first column of `rows`. The next columns are the properties `names`,
/// which every version tells alike; then come those that are printed.
fn described(
    rows: Vec<TextRow>,
    kind: &str,
    names: &[&str],
    printed: &[&str],
    objects: &mut Vec<Described>,
) {
    for row in rows {
        let [Some(name), rest @ ..] = row.as_slice() else { continue };
        let mut properties = properties(rest, names);
        for (name, text) in printed.iter().zip(rest.iter().skip(names.len())) {
            let text = text.as_deref().unwrap_or("none");
            properties.push(property(name, text, Rigor::Printed));
        }
        objects.push(Described::new(kind, name, properties));
    }
}

/// Their names.
pub(super) async fn materialized_views(reader: &Reader) -> Result<Vec<String>, Trouble> {
    let sql = format!(
        "SELECT {} FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'm' AND {}",
        qualified("n.nspname", "c.relname"),
        of_users("pg_class", "c.oid"),
    );
    Ok(reader.rows(&sql).await?.into_iter().flatten().flatten().collect())
}

async fn views(reader: &Reader, objects: &mut Vec<Described>) -> Result<(), Trouble> {
    let sql = format!(
        "SELECT {name}, c.relkind = 'm', \
                (SELECT string_agg({column} || ' ' || format_type(a.atttypid, a.atttypmod), ', ' \
                                   ORDER BY a.attnum) \
                 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), \
                array_to_string(c.reloptions, ', '), c.relispopulated, pg_get_viewdef(c.oid), \
                (SELECT string_agg({column} || ' ' || pg_get_expr(d.adbin, d.adrelid), ', ' ORDER BY a.attnum) \
                 FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum \
                 WHERE d.adrelid = c.oid) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('v', 'm') AND {of_users}",
        name = qualified("n.nspname", "c.relname"),
        column = quoted("a.attname"),
        of_users = of_users("pg_class", "c.oid"),
    );
    for row in reader.rows(&sql).await? {
        let [Some(name), is_materialized, _, options, is_populated, definition, defaults] =
            row.as_slice()
        else {
            continue;
        };
        let is_materialized = is_materialized.as_deref() == Some("t");
        let query = definition.as_deref().unwrap_or("none").trim_end_matches(';');
        let (what, replace) = match is_materialized {
            true => ("MATERIALIZED VIEW", "CREATE"),
            false => ("VIEW", "CREATE OR REPLACE"),
        };
        let with = options.as_deref().map_or(String::new(), |all| format!(" WITH ({all})"));
        let mut properties = properties(&row[1..4], &["materialized", "columns", "options"]);
        properties.push(property("definition", query, Rigor::Printed));
        let defaults = defaults.as_deref().unwrap_or("none");
        properties.push(property("defaults", defaults, Rigor::Text));
        if is_materialized {
            let populated = if is_populated.as_deref() == Some("t") { "yes" } else { "no" };
            let refresh = format!("REFRESH MATERIALIZED VIEW {name}");
            properties.push(property("populated", populated, Rigor::AtLeast).set_by(refresh));
        }
        let view = Described::new("view", name, properties)
            .made_by(format!("{replace} {what} {name}{with} AS{}{query}", '\n'))
            .unmade_by(format!("DROP {what} {name}"));
        objects.push(view);
    }
    Ok(())
}

async fn functions(reader: &Reader, objects: &mut Vec<Described>) -> Result<(), Trouble> {
    let kind = match reader.session().server_version() >= KINDS {
        true => {
            "CASE p.prokind WHEN 'a' THEN 'aggregate' WHEN 'w' THEN 'window function' \
                      WHEN 'p' THEN 'procedure' ELSE 'function' END"
        }
        false => {
            "CASE WHEN p.proisagg THEN 'aggregate' WHEN p.proiswindow THEN 'window function' \
                  ELSE 'function' END"
        }
    };
    let version = reader.session().server_version();
    let (is_aggregate, is_procedure) = match version >= KINDS {
        true => ("p.prokind = 'a'", "p.prokind = 'p'"),
        false => ("p.proisagg", "false"),
    };
    let (sql_body, has_sql_body) = match version >= SQL_BODIES {
        true => ("md5(pg_get_function_sqlbody(p.oid))", "p.prosqlbody IS NOT NULL"),
        false => ("NULL", "false"),
    };
    // The body is what was written, whatever the version.
    let sql = format!(
        "SELECT {name} || '(' || {arguments} || ')', {kind}, l.lanname, \
                CASE p.provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' \
                     ELSE 'volatile' END, \
                p.proisstrict, p.prosecdef, array_to_string(p.proconfig, ', '), md5(p.prosrc), \
                pg_get_function_result(p.oid), p.proleakproof, p.proparallel, {aggregate}, \
                md5(pg_get_expr(p.proargdefaults, 0)), {sql_body}, \
                CASE WHEN {is_aggregate} THEN 'AGGREGATE' WHEN {is_procedure} THEN 'PROCEDURE' \
                     ELSE 'FUNCTION' END, \
                CASE WHEN NOT {is_aggregate} THEN pg_get_functiondef(p.oid) END, \
                CASE WHEN NOT {is_aggregate} AND (p.pronargdefaults > 0 OR {has_sql_body}) \
                     THEN substr(pg_get_functiondef(p.oid), 1 + length('CREATE OR REPLACE ' \
                         || CASE WHEN {is_procedure} THEN 'PROCEDURE ' ELSE 'FUNCTION ' END \
                         || quote_ident(n.nspname) || '.' || quote_ident(p.proname))) END \
         FROM pg_proc p LEFT JOIN pg_aggregate a ON a.aggfnoid = p.oid JOIN pg_namespace n ON n.oid = p.pronamespace \
         JOIN pg_language l ON l.oid = p.prolang WHERE {of_users}",
        name = qualified("n.nspname", "p.proname"),
        of_users = of_users("pg_proc", "p.oid"),
        aggregate = AGGREGATE,
        arguments = arguments(version),
    );
    let names = [
        "kind",
        "language",
        "volatility",
        "strict",
        "security definer",
        "settings",
        "hash of its body",
        "returns",
        "leakproof",
        "parallel",
        "aggregate",
    ];
    for row in reader.rows(&sql).await? {
        let [Some(name), rest @ ..] = row.as_slice() else { continue };
        let mut properties = properties(rest, &names);
        let at = |index: usize| rest.get(names.len() + index).cloned().flatten();
        // With this a server can print it again, and the hashes of what it prints say nothing.
        let printed = at(4).filter(|text| text.len() <= STATEMENT_MAX);
        let rigor = if printed.is_some() { Rigor::Printed } else { Rigor::Noted };
        for (index, what) in ["hash of its defaults", "hash of its SQL body"].iter().enumerate() {
            properties.push(property(what, at(index).unwrap_or("none".into()), rigor));
        }
        if let Some(text) = printed {
            properties.push(property("defaults and body", text, Rigor::Printed));
        }
        let what = at(2).unwrap_or_default();
        let mut function =
            Described::new("function", name, properties).unmade_by(format!("DROP {what} {name}"));
        function.make =
            at(3).filter(|text| text.len() <= STATEMENT_MAX).map(|text| text.trim_end().to_owned());
        objects.push(function);
    }
    Ok(())
}

async fn policies(reader: &Reader, objects: &mut Vec<Described>) -> Result<(), Trouble> {
    let (table, of_users) = (qualified("n.nspname", "c.relname"), of_users("pg_class", "c.oid"));
    let from = "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace";
    let sql = format!(
        "SELECT {table}, c.relforcerowsecurity {from} WHERE c.relrowsecurity AND {of_users}"
    );
    for row in reader.rows(&sql).await? {
        let [Some(name), rest @ ..] = row.as_slice() else { continue };
        let forced = rest.first().cloned().flatten().as_deref() == Some("t");
        let force = if forced { "FORCE" } else { "NO FORCE" };
        let properties = vec![
            exact("forced on the owner", yes(forced))
                .set_by(format!("ALTER TABLE {name} {force} ROW LEVEL SECURITY")),
        ];
        let enable =
            format!("ALTER TABLE {name} ENABLE ROW LEVEL SECURITY, {force} ROW LEVEL SECURITY");
        let disable = format!("ALTER TABLE {name} DISABLE ROW LEVEL SECURITY");
        objects.push(
            Described::new("row security", name, properties).made_by(enable).unmade_by(disable),
        );
    }
    let sql = format!(
        "SELECT {table} || '.' || {policy}, \
                CASE p.polcmd WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert' WHEN 'w' THEN 'update' \
                     WHEN 'd' THEN 'delete' ELSE 'all' END, p.polpermissive, \
                (SELECT string_agg(coalesce(r.rolname::text, 'everybody'), ', ' \
                                   ORDER BY r.rolname::text COLLATE \"C\") \
                 FROM unnest(p.polroles) u (role) LEFT JOIN pg_roles r ON r.oid = u.role), \
                p.polqual IS NOT NULL, p.polwithcheck IS NOT NULL, \
                pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid) \
         {from} JOIN pg_policy p ON p.polrelid = c.oid WHERE {of_users}",
        policy = quoted("p.polname"),
    );
    let names = ["command", "permissive", "roles", "has a condition", "has a check"];
    described(reader.rows(&sql).await?, "policy", &names, &["condition", "check"], objects);
    Ok(())
}

async fn domains(reader: &Reader, objects: &mut Vec<Described>) -> Result<(), Trouble> {
    // A domain's NOT NULL is among its constraints since 17 only.
    let constraints = |what: &str, between: &str| {
        format!(
            "(SELECT string_agg({what}, '{between}' ORDER BY k.conname::text COLLATE \"C\") \
              FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c')"
        )
    };
    let name = quoted("k.conname");
    let sql = format!(
        "SELECT {domain}, t.typnotnull, {names}, \
                format_type(t.typbasetype, t.typtypmod) || ' ' || {definitions}, pg_get_expr(t.typdefaultbin, 0) \
         FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
         WHERE t.typtype = 'd' AND {of_users}",
        domain = qualified("n.nspname", "t.typname"),
        names = constraints(
            &format!("{name} || CASE WHEN k.convalidated THEN '' ELSE ' not valid' END"),
            ", "
        ),
        definitions = constraints(
            &format!("'CONSTRAINT ' || {name} || ' CHECK (' || pg_get_expr(k.conbin, 0) || ')'"),
            " "
        ),
        of_users = of_users("pg_type", "t.oid"),
    );
    let names = ["not null", "constraints"];
    described(reader.rows(&sql).await?, "domain", &names, &["definitions", "default"], objects);
    Ok(())
}

/// What ranges are of, added to the types.
async fn ranges(reader: &Reader, objects: &mut [Described]) -> Result<(), Trouble> {
    let sql = format!(
        "SELECT {name}, concat_ws(', ', format_type(r.rngsubtype, NULL), {class}, {collation}, \
                nullif(r.rngcanonical::oid, 0)::regproc, nullif(r.rngsubdiff::oid, 0)::regproc) \
         FROM pg_range r JOIN pg_type t ON t.oid = r.rngtypid \
         JOIN pg_namespace n ON n.oid = t.typnamespace JOIN pg_opclass o ON o.oid = r.rngsubopc \
         LEFT JOIN pg_collation l ON l.oid = r.rngcollation WHERE {of_users}",
        name = qualified("n.nspname", "t.typname"),
        class = quoted("o.opcname"),
        collation = quoted("l.collname"),
        of_users = of_users("pg_type", "t.oid"),
    );
    let types = places(objects, "type");
    for row in reader.rows(&sql).await? {
        let [Some(name), Some(range)] = row.as_slice() else { continue };
        if let Some(&at) = types.get(name) {
            objects[at].properties.push(exact("range of", range));
        }
    }
    Ok(())
}

/// Security labels: some modules mask or hide by them.
async fn labels(reader: &Reader, objects: &mut Vec<Described>) -> Result<(), Trouble> {
    let sql = "SELECT concat(s.provider, ' on ', o.type, ' ', o.identity), md5(s.label) FROM pg_seclabel s, \
                      LATERAL pg_identify_object(s.classoid, s.objoid, s.objsubid) o \
               WHERE o.identity IS NOT NULL AND o.schema IS DISTINCT FROM '_cutover' \
                 AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = s.classoid \
                                 AND e.objid = s.objoid AND e.deptype = 'e')";
    for row in reader.rows(sql).await? {
        let [Some(name), Some(hash)] = row.as_slice() else { continue };
        // The copy goes on without those that their module refuses.
        let hash = property("hash of its text", hash, Rigor::Noted);
        objects.push(Described::new("security label", name, vec![hash]));
    }
    Ok(())
}
