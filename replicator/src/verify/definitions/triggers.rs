//! Triggers of users: those of tables that take part, and of a whole database those of views and foreign tables.

use std::collections::BTreeSet;

use cutover::verify::objects::{Described, Rigor};
use decoders::postgres::catalog::{Firing, quote_ident};

use super::super::reader::{Reader, Trouble};
use super::shape::{columns, properties, qualified, quoted};
use super::{exact, property};

/// Between these the server prints a trigger's condition. It gives no other way to it: `pg_get_expr` knows one table, and
/// a condition has two, OLD and NEW.
const CONDITION: &str = " WHEN \\((.*)\\) EXECUTE (?:FUNCTION|PROCEDURE) ";

/// Those of `tables`, and of views and foreign tables if `is_whole`. Without our own.
pub(super) async fn read(
    reader: &Reader,
    tables: &BTreeSet<String>,
    is_whole: bool,
    objects: &mut Vec<Described>,
) -> Result<(), Trouble> {
    // What arguments say may be a secret, as that of a webhook.
    let sql = format!(
        "SELECT {table}, g.tgname, c.relkind, g.tgenabled, pg_get_userbyid(c.relowner), \
                {function}, (g.tgtype & 1) = 1, \
                CASE WHEN g.tgtype & 64 = 64 THEN 'instead of' WHEN g.tgtype & 2 = 2 THEN 'before' \
                     ELSE 'after' END \
                || CASE WHEN g.tgtype & 4 = 4 THEN ' insert' ELSE '' END \
                || CASE WHEN g.tgtype & 8 = 8 THEN ' delete' ELSE '' END \
                || CASE WHEN g.tgtype & 16 = 16 THEN ' update' ELSE '' END \
                || CASE WHEN g.tgtype & 32 = 32 THEN ' truncate' ELSE '' END, \
                {columns}, g.tgqual IS NOT NULL, g.tgdeferrable, g.tginitdeferred, \
                CASE WHEN g.tgnargs > 0 THEN md5(g.tgargs) END, g.tgoldtable, g.tgnewtable, \
                CASE WHEN g.tgqual IS NOT NULL \
                     THEN substring(pg_get_triggerdef(g.oid) FROM '{CONDITION}') END, \
                pg_get_triggerdef(g.oid) || CASE g.tgenabled WHEN 'O' THEN '' \
                     ELSE '; ALTER TABLE ' || {table} || ' DISABLE TRIGGER ' || {trigger} END \
         FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_namespace f ON f.oid = p.pronamespace \
         WHERE NOT g.tgisinternal AND f.nspname <> '_cutover' AND n.nspname <> '_cutover' \
           AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass \
                           AND e.objid = c.oid AND e.objsubid = 0 AND e.deptype = 'e')",
        table = qualified("n.nspname", "c.relname"),
        trigger = quoted("g.tgname"),
        function = qualified("f.nspname", "p.proname"),
        columns = columns("g.tgrelid", "g.tgattr::int2[]", "a.attname"),
    );
    let names = [
        "function",
        "for each row",
        "acts",
        "columns",
        "has a condition",
        "deferrable",
        "deferred at first",
        "hash of its arguments",
        "table of old rows",
        "table of new rows",
    ];
    for row in reader.rows(&sql).await? {
        let [Some(table), Some(name), Some(kind), Some(code), Some(owner), rest @ ..] =
            row.as_slice()
        else {
            continue;
        };
        let is_table = matches!(kind.as_str(), "r" | "p");
        if is_table && !tables.contains(table) || !is_table && !is_whole {
            continue;
        }
        let firing = Firing::from_code(code)
            .ok_or_else(|| Trouble::unexpected(reader.side, "the state of a trigger"))?;
        let trigger = quote_ident(name);
        let mut all = vec![exact("fires", format!("{firing:?}")).set_by(match firing {
            Firing::Origin => format!("ALTER TABLE {table} ENABLE TRIGGER {trigger}"),
            Firing::Disabled => format!("ALTER TABLE {table} DISABLE TRIGGER {trigger}"),
            // Where our role may, its state is noted by itself.
            Firing::Always | Firing::Replica => format!(
                "GRANT {} TO our role: it keeps the trigger off, and the flip switches it on",
                quote_ident(owner)
            ),
        })];
        all.extend(properties(rest, &names));
        let (condition, make) = match rest.get(names.len()..) {
            Some([condition, make]) => (condition.as_deref(), make.clone()),
            _ => return Err(Trouble::unexpected(reader.side, "no statement of a trigger")),
        };
        all.push(property("condition", condition.unwrap_or("none"), Rigor::Printed));
        let drop = format!("DROP TRIGGER {trigger} ON {table}");
        let mut one = Described::new("trigger", format!("{table}.{trigger}"), all).unmade_by(drop);
        one.make = make;
        objects.push(one);
    }
    Ok(())
}
