//! Triggers of users: those of tables that take part, and of a whole database those of views and foreign tables.

use std::collections::BTreeSet;

use cutover::verify::objects::{Described, Rigor};
use decoders::postgres::catalog::{Firing, quote_ident};

use super::super::reader::{Reader, Trouble};
use super::shape::{columns, properties, qualified, quoted};
use super::{exact, property};

/// The first version that tells what a partition has of its parent's triggers.
const PARENTS: u32 = 130_000;

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
                pg_get_triggerdef(g.oid), pg_get_triggerdef(g.oid) || CASE g.tgenabled WHEN 'O' THEN '' \
                     ELSE '; ALTER TABLE ' || {table} || ' DISABLE TRIGGER ' || {trigger} END \
         FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid \
         JOIN pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_namespace f ON f.oid = p.pronamespace \
         WHERE NOT g.tgisinternal AND {is_own} AND f.nspname <> '_cutover' \
           AND n.nspname !~ '^pg_' AND n.nspname <> '_cutover' \
           AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = 'pg_class'::regclass \
                           AND e.objid = c.oid AND e.objsubid = 0 AND e.deptype = 'e')",
        table = qualified("n.nspname", "c.relname"),
        trigger = quoted("g.tgname"),
        function = qualified("f.nspname", "p.proname"),
        columns = columns("g.tgrelid", "g.tgattr::int2[]", "a.attname"),
        // What a partition has of its parent's was internal before 15, and is none of its own.
        is_own = match reader.session().server_version() >= PARENTS {
            true => "g.tgparentid = 0",
            false => "true",
        },
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
        // One that was dropped just now has no statement any more.
        let [.., Some(text), make] = rest else { continue };
        let has_condition =
            all.iter().any(|one| one.name == "has a condition" && one.value == "yes");
        let condition = if has_condition { condition(text) } else { None };
        all.push(property("condition", condition.unwrap_or("none"), Rigor::Printed));
        let drop = format!("DROP TRIGGER {trigger} ON {table}");
        let mut one = Described::new("trigger", format!("{table}.{trigger}"), all).unmade_by(drop);
        one.make.clone_from(make);
        objects.push(one);
    }
    Ok(())
}

/// What is behind WHEN in a statement that a server has printed. It gives no other way to it: `pg_get_expr` knows one
/// table, and a condition has two, OLD and NEW. What stands in quotes is somebody's name or text, and may look like a part
/// of the statement.
fn condition(statement: &str) -> Option<&str> {
    const WHEN: &str = " WHEN (";
    let bytes = statement.as_bytes();
    let (mut quote, mut has_escapes, mut depth, mut begins) = (None, false, 0_u32, None);
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        match (quote, byte) {
            (Some(_), b'\\') if has_escapes => at += 1,
            // A quote in a quoted text is written twice: it ends the text and begins another.
            (Some(quoted), _) if byte == quoted => quote = None,
            (Some(_), _) => {}
            (None, b'\'' | b'"') => {
                quote = Some(byte);
                has_escapes = byte == b'\'' && at > 0 && bytes[at - 1] == b'E';
            }
            (None, b' ') if begins.is_none() && statement[at..].starts_with(WHEN) => {
                at += WHEN.len() - 1;
                (begins, depth) = (Some(at + 1), 1);
            }
            (None, b'(') => depth += 1,
            (None, b')') if begins.is_some() => {
                depth -= 1;
                if depth == 0 {
                    return statement.get(begins?..at);
                }
            }
            (None, b')') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::condition;

    #[test]
    fn a_condition_is_what_stands_behind_when_and_not_what_looks_like_it() {
        let of = |name: &str, when: &str, arguments: &str| {
            format!(
                "CREATE TRIGGER {name} AFTER UPDATE OF \"a WHEN (b)\" ON s.t FOR EACH ROW \
                 WHEN ({when}) EXECUTE FUNCTION s.f({arguments})"
            )
        };
        for when in [
            "(old.a > 1)",
            "(new.b = ')'::text)",
            "(new.\"c)\" = E'\\\\\\')'::text)",
            "(f('it''s)') > 1)",
        ] {
            for name in ["x", "\"x WHEN (true) EXECUTE FUNCTION y(); --\"", "\"\"\" WHEN (\""] {
                for arguments in ["", "') EXECUTE FUNCTION z('", "'a', 'it''s) EXECUTE'"] {
                    let statement = of(name, when, arguments);
                    assert_eq!(condition(&statement), Some(when), "{statement}");
                }
            }
        }
        assert_eq!(
            condition("CREATE TRIGGER x AFTER INSERT ON s.t EXECUTE FUNCTION f(' WHEN (a)')"),
            None
        );
    }
}
