//! What a filter of tables leaves out. The copy leaves out those tables and carries everything else, so what hangs on them
//! is compared with nothing, and everything else is compared.

use std::collections::HashSet;

use cutover::verify::objects::Described;
use decoders::QualifiedName;
use decoders::postgres::catalog::TableFilter;

use super::super::reader::{Reader, Trouble};
use super::shape::qualified;

/// Tables of one side that do not move, their indexes and sequences.
#[derive(Default)]
pub(in crate::verify) struct LeftOut {
    /// With every part quoted.
    names: HashSet<String>,
    /// As `pg_identify_object` writes them: quoted where that is needed.
    identities: HashSet<String>,
}

impl LeftOut {
    /// Asks only if there is a filter.
    pub async fn read(reader: &Reader, filter: &TableFilter) -> Result<Self, Trouble> {
        let mut left_out = Self::default();
        if filter.takes_all() {
            return Ok(left_out);
        }
        let sql = format!(
            "SELECT {name}, format('%I.%I', n.nspname, c.relname), tn.nspname, t.relname \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             LEFT JOIN pg_index x ON x.indexrelid = c.oid \
             LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid \
               AND d.objsubid = 0 AND d.refclassid = 'pg_class'::regclass AND c.relkind = 'S' \
               AND d.deptype IN ('a', 'i') \
             JOIN pg_class t ON t.oid = coalesce(x.indrelid, d.refobjid, c.oid) \
               AND t.relkind IN ('r', 'p') \
             JOIN pg_namespace tn ON tn.oid = t.relnamespace \
             WHERE c.relkind IN ('r', 'p', 'i', 'I', 'S') \
               AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'",
            name = qualified("n.nspname", "c.relname"),
        );
        for row in reader.rows(&sql).await? {
            let [Some(name), Some(identity), Some(schema), Some(table)] =
                <[_; 4]>::try_from(row)
                    .map_err(|_| Trouble::unexpected(reader.side, "no table's names"))?
            else {
                continue;
            };
            if !filter.takes(&QualifiedName::new(schema, table)) {
                left_out.names.insert(name);
                left_out.identities.insert(identity);
            }
        }
        Ok(left_out)
    }

    /// Whether this is, or hangs on, a table that does not move.
    pub fn holds(&self, object: &Described) -> bool {
        if self.names.is_empty() {
            return false;
        }
        let name = object.name.as_str();
        let of_kind =
            |prefixes: [&str; 3]| prefixes.into_iter().find_map(|prefix| name.strip_prefix(prefix));
        match object.kind.as_str() {
            "row security" | "policy" | "rule" | "trigger" => self.begins(name),
            "owner" => of_kind(["table ", "sequence ", "\0"]).is_some_and(|name| self.begins(name)),
            "grant" => {
                let on = of_kind(["on table ", "on sequence ", "on column "]);
                on.is_some_and(|name| self.begins(name))
            }
            "comment" | "security label" => self.is_commented(name),
            _ => false,
        }
    }

    /// Whether a name of ours, or what `."` or a blank follows, is at the beginning.
    fn begins(&self, name: &str) -> bool {
        let ends = name.match_indices(".\"").chain(name.match_indices("\" ")).map(|(at, end)| {
            // The quote belongs to the name.
            if end == "\" " { at + 1 } else { at }
        });
        self.names.contains(name) || ends.into_iter().any(|at| self.names.contains(&name[..at]))
    }

    /// `on table public.t`, `on table column public.t.c`, `on trigger x on public.t`.
    fn is_commented(&self, name: &str) -> bool {
        name.match_indices(' ').any(|(at, _)| {
            let identity = &name[at + 1..];
            let mut dots = identity.match_indices('.');
            self.identities.contains(identity)
                || dots.any(|(dot, _)| self.identities.contains(&identity[..dot]))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_on_a_table_is_known_by_its_name() {
        let left_out = LeftOut {
            names: HashSet::from(["\"s\".\"t\"".into()]),
            identities: HashSet::from(["s.t".into()]),
        };
        let holds =
            |kind: &str, name: &str| left_out.holds(&Described::new(kind, name, Vec::new()));
        for (kind, name) in [
            ("policy", "\"s\".\"t\".\"p\""),
            ("row security", "\"s\".\"t\""),
            ("owner", "table \"s\".\"t\""),
            ("grant", "on table \"s\".\"t\" to \"ann\""),
            ("grant", "on column \"s\".\"t\".\"c\" to PUBLIC"),
            ("comment", "on table s.t"),
            ("comment", "on table column s.t.c"),
            ("comment", "on trigger x on s.t"),
        ] {
            assert!(holds(kind, name), "{kind} {name}");
        }
        for (kind, name) in [
            ("policy", "\"s\".\"t2\".\"p\""),
            ("owner", "table \"s\".\"t t\""),
            ("owner", "function \"s\".\"t\"()"),
            ("grant", "on table \"s\".\"other\" to \"ann\""),
            ("function", "\"s\".\"t\""),
            ("comment", "on table s.t2"),
            ("comment", "on function s.f(s.t2)"),
        ] {
            assert!(!holds(kind, name), "{kind} {name}");
        }
    }
}
