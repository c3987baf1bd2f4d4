//! Privileges on what a server or an extension has brought, as far as somebody has changed them: who may reset statistics,
//! or call a function that reaches other hosts. A dump carries them (PostgreSQL manual, pg_init_privs). What differs is worth
//! a look: a version or a service may bring another privilege, so that the same one is a change on one side only.

use cutover::verify::objects::{Described, Rigor};

use super::super::reader::{Reader, Trouble};
use super::property;
use super::rights::role;
use super::shape::qualified;

/// A grantee's privileges that it did not have when the object was made, and those that it had then and has no more.
pub(super) async fn read(reader: &Reader, objects: &mut Vec<Described>) -> Result<(), Trouble> {
    let procedure = match reader.session().server_version() >= 110_000 {
        true => "CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END",
        false => "'FUNCTION'",
    };
    // Without a list of its own an object has the default one, now as when it was made.
    let brought = |catalog: &str, oid: &str| {
        format!(
            "(n.nspname = 'pg_catalog' OR EXISTS (SELECT FROM pg_depend e \
              WHERE e.classid = '{catalog}'::regclass AND e.objid = {oid} AND e.objsubid = 0 AND e.deptype = 'e'))"
        )
    };
    let initial = |catalog: &str, oid: &str| {
        format!(
            "(SELECT i.initprivs FROM pg_init_privs i WHERE i.classoid = '{catalog}'::regclass \
              AND i.objoid = {oid} AND i.objsubid = 0)"
        )
    };
    let sql = format!(
        "SELECT o.what, o.name, {grantee}, \
                string_agg(x.privilege_type, ', ' ORDER BY x.privilege_type) FILTER (WHERE x.is_new), \
                string_agg(x.privilege_type, ', ' ORDER BY x.privilege_type) FILTER (WHERE NOT x.is_new) \
         FROM (SELECT {procedure} AS what, \
                      {function} || '(' || oidvectortypes(p.proargtypes) || ')' AS name, \
                      p.proowner AS owner, p.proacl AS acl, \
                      coalesce({of_function}, acldefault('f', p.proowner)) AS initial \
               FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace \
               WHERE p.proacl IS NOT NULL AND {brought_function} \
               UNION ALL \
               SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, {relation}, c.relowner, c.relacl, \
                      coalesce({of_relation}, acldefault( \
                          CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::\"char\", c.relowner)) \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               WHERE c.relacl IS NOT NULL AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {brought_relation}) o \
         CROSS JOIN LATERAL ( \
             SELECT a.grantee, a.privilege_type, true AS is_new FROM ( \
                 SELECT e.grantee, e.privilege_type FROM aclexplode(o.acl) e \
                 EXCEPT SELECT e.grantee, e.privilege_type FROM aclexplode(o.initial) e) a \
             UNION ALL \
             SELECT b.grantee, b.privilege_type, false FROM ( \
                 SELECT e.grantee, e.privilege_type FROM aclexplode(o.initial) e \
                 EXCEPT SELECT e.grantee, e.privilege_type FROM aclexplode(o.acl) e) b) x \
         WHERE x.privilege_type <> 'MAINTAIN' AND x.grantee <> o.owner \
           AND (x.grantee = 0 OR x.grantee IN (SELECT oid FROM pg_roles)) \
           AND x.grantee <> coalesce((SELECT oid FROM pg_roles WHERE rolname = session_user), 0) \
         GROUP BY o.what, o.name, x.grantee",
        grantee = role("x.grantee"),
        function = qualified("n.nspname", "p.proname"),
        of_function = initial("pg_proc", "p.oid"),
        brought_function = brought("pg_proc", "p.oid"),
        relation = qualified("n.nspname", "c.relname"),
        of_relation = initial("pg_class", "c.oid"),
        brought_relation = brought("pg_class", "c.oid"),
    );
    for row in reader.rows(&sql).await? {
        let [Some(what), Some(name), Some(grantee), granted, revoked] = row.as_slice() else {
            continue;
        };
        let all = vec![
            property("granted", granted.as_deref().unwrap_or("none"), Rigor::Noted),
            property("revoked", revoked.as_deref().unwrap_or("none"), Rigor::Noted),
        ];
        let on = format!("{what} {name}");
        let statement = |verb: &str, all: &Option<String>, to: &str| {
            all.as_ref().map(|all| format!("{verb} {all} ON {on} {to} {grantee}"))
        };
        let both = |one: Option<String>, other: Option<String>| {
            one.into_iter().chain(other).collect::<Vec<_>>().join("; ")
        };
        let mut object = Described::new(
            "changed privilege",
            format!("on {} {name} of {grantee}", what.to_lowercase()),
            all,
        );
        if grantee.starts_with('"') || grantee == "PUBLIC" {
            object = object
                .made_by(both(
                    statement("GRANT", granted, "TO"),
                    statement("REVOKE", revoked, "FROM"),
                ))
                .unmade_by(both(
                    statement("REVOKE", granted, "FROM"),
                    statement("GRANT", revoked, "TO"),
                ));
        }
        objects.push(object);
    }
    Ok(())
}
