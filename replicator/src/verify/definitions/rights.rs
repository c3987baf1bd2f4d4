//! Who owns what and who may do what: owners, privileges and default privileges.
//!
//! MAINTAIN is left out: 17 knows it and GRANT ALL gives it there. What our own role was granted is no
//! right of a client.

use cutover::verify::objects::{Described, Rigor};

use super::super::reader::{Reader, Trouble};
use super::shape::{arguments, qualified, quoted};
use super::{brought, property};

/// What the role that initdb made is called in names: it need not have the same one on both sides.
const BOOTSTRAP: &str = "the superuser of initdb";

/// Since this version `public` belongs to whoever owns the database.
const PUBLIC_SCHEMA: u32 = 150_000;

fn users(class: &str, object: &str) -> String {
    format!(
        "n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', '_cutover') \
         AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = '{class}'::regclass \
                         AND e.objid = {object} AND e.deptype = 'e')"
    )
}

/// Whether it is an extension's: then it belongs to whoever has made that.
fn brought(catalog: &str, oid: &str) -> String {
    format!(
        "EXISTS (SELECT FROM pg_depend e WHERE e.classid = '{catalog}'::regclass \
                 AND e.objid = {oid} AND e.deptype = 'e')"
    )
}

/// Everything that has an owner and privileges: what it is in SQL, its name, owner, privileges.
fn all(version: u32) -> String {
    let procedure = match version >= 110_000 {
        true => "CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END",
        false => "'FUNCTION'",
    };
    format!(
        "SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS what, {relation} AS name, \
                c.relowner AS owner, coalesce(c.relacl, acldefault( \
                    CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\", c.relowner)) AS acl, false AS is_brought \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {of_relations} \
         UNION ALL SELECT 'SCHEMA', {schema}, n.nspowner, coalesce(n.nspacl, acldefault('n', n.nspowner)), false \
         FROM pg_namespace n WHERE {of_schemas} \
         UNION ALL SELECT {procedure}, {function} || '(' || {arguments} || ')', \
                p.proowner, coalesce(p.proacl, acldefault('f', p.proowner)), false \
         FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {of_functions} \
         UNION ALL SELECT 'TYPE', {type_name}, t.typowner, coalesce(t.typacl, acldefault('T', t.typowner)), false \
         FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
         LEFT JOIN pg_class c ON c.oid = t.typrelid \
         WHERE (t.typtype IN ('d', 'e') OR t.typtype = 'r' OR c.relkind = 'c') AND {of_types} \
         UNION ALL SELECT 'LANGUAGE', {language}, l.lanowner, coalesce(l.lanacl, acldefault('l', l.lanowner)), \
                {brought_language} \
         FROM pg_language l WHERE l.lanispl \
         UNION ALL SELECT 'FOREIGN SERVER', {server}, f.srvowner, coalesce(f.srvacl, acldefault('S', f.srvowner)), \
                {brought_server} \
         FROM pg_foreign_server f \
         UNION ALL SELECT 'FOREIGN DATA WRAPPER', {wrapper}, w.fdwowner, \
                coalesce(w.fdwacl, acldefault('F', w.fdwowner)), {brought_wrapper} FROM pg_foreign_data_wrapper w",
        relation = qualified("n.nspname", "c.relname"),
        of_relations = users("pg_class", "c.oid"),
        schema = quoted("n.nspname"),
        of_schemas = users("pg_namespace", "n.oid"),
        function = qualified("n.nspname", "p.proname"),
        arguments = arguments(version),
        of_functions = users("pg_proc", "p.oid"),
        type_name = qualified("n.nspname", "t.typname"),
        of_types = users("pg_type", "t.oid"),
        language = quoted("l.lanname"),
        server = quoted("f.srvname"),
        wrapper = quoted("w.fdwname"),
        brought_language = brought("pg_language", "l.oid"),
        brought_server = brought("pg_foreign_server", "f.oid"),
        brought_wrapper = brought("pg_foreign_data_wrapper", "w.oid"),
    )
}

/// A role's name in a name, where the one that initdb made has always the same.
pub(super) fn role(oid: &str) -> String {
    let name = quoted(&format!("pg_get_userbyid({oid})"));
    format!("CASE {oid} WHEN 0 THEN 'PUBLIC' WHEN 10 THEN '{BOOTSTRAP}' ELSE {name} END")
}

/// What `aclexplode` gives, put together for each grantee; the last column is what may be passed on.
fn privileges(from: &str, keys: &str) -> String {
    format!(
        "SELECT {keys}, {grantee}, string_agg(DISTINCT x.privilege_type, ', ' ORDER BY x.privilege_type), \
                string_agg(DISTINCT x.privilege_type, ', ' ORDER BY x.privilege_type) \
                    FILTER (WHERE x.is_grantable) \
         FROM ({from}) o CROSS JOIN LATERAL aclexplode(o.acl) x \
         WHERE x.privilege_type <> 'MAINTAIN' AND x.grantee <> o.owner \
           AND x.grantee <> coalesce((SELECT oid FROM pg_roles WHERE rolname = session_user), 0) \
         GROUP BY {keys}, x.grantee",
        grantee = role("x.grantee"),
    )
}

/// `are_copied`: the copy takes owners and privileges, so a difference is one.
pub(super) async fn read(
    reader: &Reader,
    are_copied: bool,
    objects: &mut Vec<Described>,
) -> Result<(), Trouble> {
    let version = reader.session().server_version();
    let rigor = if are_copied { Rigor::Exact } else { Rigor::Noted };
    let all = all(version);
    let owners = format!(
        "SELECT o.what, o.name, CASE WHEN o.is_brought THEN '{BOOTSTRAP}' ELSE {} END FROM ({all}) o",
        role("o.owner")
    );
    for row in reader.rows(&owners).await? {
        let [Some(what), Some(name), Some(owner)] = row.as_slice() else { continue };
        // Since 15 it belongs to whoever owns the database.
        let is_public = what == "SCHEMA" && name == "\"public\"";
        let owner = match is_public && is_default_owner(owner, version) {
            true => "the default",
            false => owner,
        };
        let mut property = property("owner", owner, rigor);
        // A sequence of a column goes with its table.
        if owner.starts_with('"') && what != "SEQUENCE" {
            // Privileges on it are granted with one word more.
            let what = if what == "FOREIGN SERVER" { "SERVER" } else { what };
            property = property.set_by(format!("ALTER {what} {name} OWNER TO {owner}"));
        }
        objects.push(Described::new(
            "owner",
            format!("{} {name}", what.to_lowercase()),
            vec![property],
        ));
    }
    let granted = privileges(&all, "o.what, o.name");
    for row in reader.rows(&granted).await? {
        let [Some(what), Some(name), Some(grantee), Some(privileges), passed_on] = row.as_slice()
        else {
            continue;
        };
        let on = format!("{what} {name}");
        objects.push(grant("grant", &on, grantee, privileges, passed_on.as_deref(), "", rigor));
    }
    let columns = format!(
        "SELECT {column} AS name, {table} AS relation, c.relowner AS owner, a.attacl AS acl \
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE a.attacl IS NOT NULL AND NOT a.attisdropped AND {of_users}",
        column = quoted("a.attname"),
        table = qualified("n.nspname", "c.relname"),
        of_users = users("pg_class", "c.oid"),
    );
    for row in reader.rows(&privileges(&columns, "o.relation, o.name")).await? {
        let [Some(table), Some(column), Some(grantee), Some(privileges), passed_on] =
            row.as_slice()
        else {
            continue;
        };
        let on = format!("COLUMN {table}.{column}");
        let described = grant("grant", &on, grantee, privileges, passed_on.as_deref(), "", rigor);
        let of_column = |all: &str| {
            all.split(", ").map(|one| format!("{one} ({column})")).collect::<Vec<_>>().join(", ")
        };
        let all = of_column(privileges);
        let described = match grantee == BOOTSTRAP {
            true => described,
            false => described
                .made_by(format!("GRANT {all} ON TABLE {table} TO {grantee}"))
                .unmade_by(format!("REVOKE {all} ON TABLE {table} FROM {grantee}")),
        };
        objects.push(described);
    }
    brought::read(reader, objects).await?;
    defaults(reader, rigor, objects).await
}

fn is_default_owner(owner: &str, version: u32) -> bool {
    match version >= PUBLIC_SCHEMA {
        true => owner == "\"pg_database_owner\"" || owner == BOOTSTRAP,
        false => owner == BOOTSTRAP,
    }
}

/// One grantee's privileges on something. `before` begins both statements.
fn grant(
    kind: &str,
    on: &str,
    grantee: &str,
    privileges: &str,
    passed_on: Option<&str>,
    before: &str,
    rigor: Rigor,
) -> Described {
    let properties = vec![
        property("privileges", privileges, rigor),
        property("may be passed on", passed_on.unwrap_or("none"), rigor),
    ];
    let name = format!("on {} to {grantee}", small(on));
    let described = Described::new(kind, name, properties);
    if grantee == BOOTSTRAP {
        return described;
    }
    let mut make = format!("{before}GRANT {privileges} ON {on} TO {grantee}");
    if let Some(passed_on) = passed_on {
        make.push_str(&format!(
            "; {before}GRANT {passed_on} ON {on} TO {grantee} WITH GRANT OPTION"
        ));
    }
    described.made_by(make).unmade_by(format!("{before}REVOKE ALL ON {on} FROM {grantee}"))
}

/// What something is in small letters, and its name as it is.
fn small(on: &str) -> String {
    match on.split_once('"') {
        Some((what, name)) => format!("{}\"{name}", what.to_lowercase()),
        None => on.to_lowercase(),
    }
}

async fn defaults(
    reader: &Reader,
    rigor: Rigor,
    objects: &mut Vec<Described>,
) -> Result<(), Trouble> {
    let sql = format!(
        "SELECT {of}, coalesce({schema}, ''), \
                CASE d.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' \
                     WHEN 'f' THEN 'FUNCTIONS' WHEN 'T' THEN 'TYPES' WHEN 'n' THEN 'SCHEMAS' \
                     ELSE 'LARGE OBJECTS' END, {grantee}, \
                string_agg(DISTINCT x.privilege_type, ', ' ORDER BY x.privilege_type), \
                string_agg(DISTINCT x.privilege_type, ', ' ORDER BY x.privilege_type) \
                    FILTER (WHERE x.is_grantable) \
         FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace \
         CROSS JOIN LATERAL aclexplode(d.defaclacl) x WHERE x.privilege_type <> 'MAINTAIN' \
         GROUP BY d.defaclrole, n.nspname, d.defaclobjtype, x.grantee",
        of = role("d.defaclrole"),
        schema = quoted("n.nspname"),
        grantee = role("x.grantee"),
    );
    for row in reader.rows(&sql).await? {
        let [Some(of), Some(schema), Some(on), Some(grantee), Some(privileges), passed_on] =
            row.as_slice()
        else {
            continue;
        };
        let within = if schema.is_empty() { String::new() } else { format!(" IN SCHEMA {schema}") };
        let before = format!("ALTER DEFAULT PRIVILEGES FOR ROLE {of}{within} ");
        let kind = "default privilege";
        let mut one = grant(kind, on, grantee, privileges, passed_on.as_deref(), &before, rigor);
        one.name = format!("of {of}{} {}", within.replacen("IN SCHEMA", "in schema", 1), one.name);
        if of == BOOTSTRAP {
            (one.make, one.unmake) = (None, None);
        }
        objects.push(one);
    }
    Ok(())
}
