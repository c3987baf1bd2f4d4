//! What stands around tables: views, functions, policies and domains. Looked at only when all of a
//! database is compared: who moves a part of it need not move these.

use cutover::verify::objects::{Described, Rigor};

use super::super::reader::{Reader, TextRow, Trouble};
use super::property;
use super::shape::{properties, qualified, quoted};

/// The first version with procedures, and with `prokind`.
const KINDS: u32 = 110_000;

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
    domains(reader, objects).await
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
        objects.push(Described { kind: kind.to_owned(), name: name.clone(), properties });
    }
}

async fn views(reader: &Reader, objects: &mut Vec<Described>) -> Result<(), Trouble> {
    let sql = format!(
        "SELECT {name}, c.relkind = 'm', \
                (SELECT string_agg({column} || ' ' || format_type(a.atttypid, a.atttypmod), ', ' \
                                   ORDER BY a.attnum) \
                 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), \
                pg_get_viewdef(c.oid) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('v', 'm') AND {of_users}",
        name = qualified("n.nspname", "c.relname"),
        column = quoted("a.attname"),
        of_users = of_users("pg_class", "c.oid"),
    );
    let rows = reader.rows(&sql).await?;
    described(rows, "view", &["materialized", "columns"], &["definition"], objects);
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
    // The body is what was written, whatever the version.
    let sql = format!(
        "SELECT {name} || '(' || pg_get_function_identity_arguments(p.oid) || ')', {kind}, l.lanname, \
                CASE p.provolatile WHEN 'i' THEN 'immutable' WHEN 's' THEN 'stable' \
                     ELSE 'volatile' END, \
                p.proisstrict, p.prosecdef, array_to_string(p.proconfig, ', '), md5(p.prosrc), \
                pg_get_function_result(p.oid) \
         FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
         JOIN pg_language l ON l.oid = p.prolang WHERE {of_users}",
        name = qualified("n.nspname", "p.proname"),
        of_users = of_users("pg_proc", "p.oid"),
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
    ];
    described(reader.rows(&sql).await?, "function", &names, &[], objects);
    Ok(())
}

async fn policies(reader: &Reader, objects: &mut Vec<Described>) -> Result<(), Trouble> {
    let (table, of_users) = (qualified("n.nspname", "c.relname"), of_users("pg_class", "c.oid"));
    let from = "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace";
    let sql = format!(
        "SELECT {table}, c.relforcerowsecurity {from} WHERE c.relrowsecurity AND {of_users}"
    );
    described(reader.rows(&sql).await?, "row security", &["forced on the owner"], &[], objects);
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
    let constraints = |what: &str| {
        format!(
            "(SELECT string_agg({what}, ', ' ORDER BY k.conname::text COLLATE \"C\") \
              FROM pg_constraint k WHERE k.contypid = t.oid AND k.contype = 'c')"
        )
    };
    let name = quoted("k.conname");
    let sql = format!(
        "SELECT {domain}, t.typnotnull, {names}, {definitions}, t.typdefault \
         FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
         WHERE t.typtype = 'd' AND {of_users}",
        domain = qualified("n.nspname", "t.typname"),
        names = constraints(&format!(
            "{name} || CASE WHEN k.convalidated THEN '' ELSE ' not valid' END"
        )),
        definitions = constraints("pg_get_constraintdef(k.oid)"),
        of_users = of_users("pg_type", "t.oid"),
    );
    let names = ["not null", "constraints"];
    described(reader.rows(&sql).await?, "domain", &names, &["definitions", "default"], objects);
    Ok(())
}
