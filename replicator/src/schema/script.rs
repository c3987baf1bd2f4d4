//! pg_dump's output as a list of statements that know what they make.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::split::{line_comments, split};
use crate::pipeline::truncation;

/// What pg_dump's comment says about the statements after it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Toc {
    /// The object; for constraints, triggers and the like "table name".
    pub name: String,
    /// `TABLE`, `INDEX`, `FK CONSTRAINT` ..
    pub kind: String,
    /// Its schema; empty for objects outside of schemas.
    pub schema: String,
}

impl Toc {
    /// Reads `Name: N; Type: T; Schema: S; Owner: O`. Names may hold semicolons, so from the right.
    fn parse(comment: &str) -> Option<Self> {
        let comment = comment.strip_prefix("Data for ").unwrap_or(comment);
        let rest = comment.strip_prefix("Name: ")?;
        let (rest, _owner) = rest.rsplit_once("; Owner:")?;
        let (rest, schema) = rest.rsplit_once("; Schema: ")?;
        let (name, kind) = rest.rsplit_once("; Type: ")?;
        let schema = if schema == "-" { "" } else { schema };
        Some(Self { name: name.to_owned(), kind: kind.to_owned(), schema: schema.to_owned() })
    }

    /// For messages: `INDEX public.orders_at`.
    pub fn describe(&self) -> String {
        match (self.kind.is_empty(), self.schema.is_empty()) {
            (true, _) => "the dump's preamble".to_owned(),
            (false, true) => format!("{} {}", self.kind, self.name),
            (false, false) => format!("{} {}.{}", self.kind, self.schema, self.name),
        }
    }
}

/// Session settings in force, by name: the statement that sets each.
pub type Settings = BTreeMap<String, String>;

/// A statement to execute.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its number in the script: the same text gives the same numbers.
    pub ordinal: usize,
    /// What it is about.
    pub toc: Arc<Toc>,
    /// The statement.
    pub sql: String,
    /// The settings that it needs.
    pub settings: Arc<Settings>,
}

/// What the target can't take and the dump may hold.
#[derive(Clone, Debug, Default)]
pub struct Dialect {
    /// Settings that the target knows; `None` keeps all.
    pub known_settings: Option<BTreeSet<String>>,
    /// Kinds of objects (as in [`Toc::kind`]) to leave out.
    pub skip_kinds: BTreeSet<String>,
    /// Privileges may be granted in other roles' names (superusers only); otherwise they are
    /// granted in the object's owner's.
    pub may_act_for_others: bool,
}

/// Reads a dump.
///
/// Left out are psql's meta-commands, settings that the target does not know (a newer pg_dump
/// sets newer ones), kinds that the dialect skips, our own triggers, and the column option `pg_attver`, which
/// servers of late 2026 write into their own catalogs and nobody else accepts.
pub fn parse(script: &str, dialect: &Dialect) -> Vec<Entry> {
    let mut toc = Arc::new(Toc::default());
    let mut settings = Arc::new(Settings::new());
    let mut entries = Vec::new();
    for (ordinal, piece) in split(script).into_iter().enumerate() {
        if let Some(next) = line_comments(piece.before).filter_map(Toc::parse).last() {
            toc = Arc::new(next);
        }
        if piece.statement.is_empty() {
            continue;
        }
        if is_authorization(piece.statement) {
            if !dialect.may_act_for_others {
                continue;
            }
        } else if let Some(name) = setting_name(piece.statement) {
            let is_known =
                dialect.known_settings.as_ref().is_none_or(|known| known.contains(&name));
            if is_known {
                Arc::make_mut(&mut settings).insert(name, piece.statement.to_owned());
            }
            continue;
        }
        if dialect.skip_kinds.contains(&toc.kind) || is_own_trigger(&toc) {
            continue;
        }
        let Some(sql) = without_attver(piece.statement) else { continue };
        entries.push(Entry { ordinal, toc: toc.clone(), sql, settings: settings.clone() });
    }
    entries
}

/// Of a dump, the statements that fill materialized views, with their comments.
pub(super) fn refreshes(script: &str) -> String {
    let mut kind = String::new();
    let pieces = split(script).into_iter().filter(|piece| {
        if let Some(toc) = line_comments(piece.before).filter_map(Toc::parse).last() {
            kind = toc.kind;
        }
        kind == "MATERIALIZED VIEW DATA" && !piece.statement.is_empty()
    });
    pieces.flat_map(|piece| [piece.before, piece.statement]).collect()
}

/// The triggers that report TRUNCATE belong to blue; green has not even their function. Both the
/// trigger and the statement that enables it stand under the trigger's name, after its table's.
fn is_own_trigger(toc: &Toc) -> bool {
    let name = || toc.name.rsplit(' ').next().unwrap_or_default();
    toc.kind == "TRIGGER" && truncation::is_trigger(name())
}

/// pg_dump puts these round privileges that somebody else than the owner has granted.
fn is_authorization(statement: &str) -> bool {
    ["SET SESSION AUTHORIZATION ", "RESET SESSION AUTHORIZATION"]
        .iter()
        .any(|start| statement.starts_with(start))
}

/// Whether the statements behind this one run in another role's name; `None` if it changes nothing about that.
pub(super) fn authorizes(statement: &str) -> Option<bool> {
    is_authorization(statement).then(|| statement.starts_with("SET "))
}

/// The setting that a statement changes, if it does nothing else.
fn setting_name(statement: &str) -> Option<String> {
    const SEARCH_PATH: &str = "SELECT pg_catalog.set_config('search_path', ";
    if statement.starts_with(SEARCH_PATH) {
        return Some("search_path".to_owned());
    }
    let rest = statement.strip_prefix("SET ")?;
    let name = rest.split(|c: char| c == '=' || c.is_whitespace()).next()?;
    Some(name.to_ascii_lowercase())
}

/// The statement without `pg_attver`; `None` if nothing else was in it.
fn without_attver(statement: &str) -> Option<String> {
    const OPTION: &str = "pg_attver=";
    let unchanged = || Some(statement.to_owned());
    if !statement.contains(OPTION) || !statement.starts_with("ALTER ") {
        return unchanged();
    }
    let Some((head, list)) = statement.rsplit_once(" SET (") else { return unchanged() };
    let Some(list) = list.strip_suffix(");") else { return unchanged() };
    if !head.contains(" ALTER COLUMN ") {
        return unchanged();
    }
    let kept: Vec<&str> =
        list.split(',').map(str::trim).filter(|option| !option.starts_with(OPTION)).collect();
    (!kept.is_empty()).then(|| format!("{head} SET ({});", kept.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "--\n-- PostgreSQL database dump\n--\n\n\\restrict Xyz\n\n\
        SET statement_timeout = 0;\nSET transaction_timeout = 0;\n\
        SELECT pg_catalog.set_config('search_path', '', false);\n\n\
        --\n-- Name: a; b; Type: TABLE; Schema: s; Owner: o\n--\n\n\
        CREATE TABLE s.\"a; b\" (id int);\n\nALTER TABLE s.\"a; b\" OWNER TO o;\n\n\
        ALTER TABLE ONLY s.\"a; b\" ALTER COLUMN id SET (pg_attver=1);\n\
        ALTER TABLE ONLY s.\"a; b\" ALTER COLUMN id SET (n_distinct=5, pg_attver=1);\n\
        SET default_tablespace = fast;\n\n\
        --\n-- Name: EXTENSION hstore; Type: COMMENT; Schema: -; Owner: \n--\n\n\
        COMMENT ON EXTENSION hstore IS 'x';\n\n\\unrestrict Xyz\n";

    #[test]
    fn statements_know_what_they_make() {
        let entries = parse(DUMP, &Dialect::default());
        let told: Vec<String> = entries.iter().map(|entry| entry.toc.describe()).collect();
        assert_eq!(
            told,
            ["TABLE s.a; b", "TABLE s.a; b", "TABLE s.a; b", "COMMENT EXTENSION hstore"]
        );
        assert!(entries[2].sql.ends_with("SET (n_distinct=5);"), "{}", entries[2].sql);
        assert!(!entries[0].settings.contains_key("default_tablespace"));
        assert_eq!(entries[3].settings["default_tablespace"], "SET default_tablespace = fast;");
        assert!(entries[0].settings.contains_key("search_path"));
    }

    #[test]
    fn what_the_target_does_not_know_is_left_out() {
        let known = ["statement_timeout", "search_path"].map(str::to_owned);
        let dialect = Dialect {
            known_settings: Some(BTreeSet::from(known)),
            skip_kinds: BTreeSet::from(["COMMENT".to_owned()]),
            may_act_for_others: false,
        };
        let entries = parse(DUMP, &dialect);
        assert_eq!(entries.len(), 3);
        assert!(!entries[0].settings.contains_key("transaction_timeout"));
        assert!(entries[0].settings.contains_key("statement_timeout"));
    }

    #[test]
    fn only_refreshes_are_taken_of_a_dump_of_views() {
        let script = "\\restrict Xyz\n\nSET statement_timeout = 0;\n\n\
            --\n-- Name: m_idx; Type: INDEX; Schema: s; Owner: o\n--\n\nCREATE INDEX m_idx ON s.m (a);\n\n\
            --\n-- Name: m; Type: MATERIALIZED VIEW DATA; Schema: s; Owner: o\n--\n\n\
            REFRESH MATERIALIZED VIEW s.m;\n\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict Xyz\n";
        let entries = parse(&refreshes(script), &Dialect::default());
        let told: Vec<&str> = entries.iter().map(|entry| entry.sql.as_str()).collect();
        assert_eq!(told, ["REFRESH MATERIALIZED VIEW s.m;"]);
        assert_eq!(entries[0].toc.kind, "MATERIALIZED VIEW DATA");
    }

    #[test]
    fn our_own_triggers_stay_on_blue() {
        let trigger = |name: &str| {
            format!(
                "--\n-- Name: my t {name}; Type: TRIGGER; Schema: s; Owner: o\n--\n\n\
                 CREATE TRIGGER \"{name}\" AFTER TRUNCATE ON \"s\".\"my t\" FOR EACH STATEMENT \
                 EXECUTE PROCEDURE \"f\"();\n\n\
                 ALTER TABLE \"s\".\"my t\" ENABLE ALWAYS TRIGGER \"{name}\";\n"
            )
        };
        let count = |name| parse(&trigger(name), &Dialect::default()).len();
        assert_eq!(count("theirs"), 2);
        assert_eq!(count("!cutover_before_truncate"), 0);
        assert_eq!(count("!cutover_after_truncate"), 0);
    }

    #[test]
    fn grants_in_others_names_need_a_superuser() {
        let script =
            "SET SESSION AUTHORIZATION \"x\";\nGRANT a TO b;\nRESET SESSION AUTHORIZATION;\n";
        let count = |may_act_for_others| {
            parse(script, &Dialect { may_act_for_others, ..Dialect::default() }).len()
        };
        assert_eq!((count(true), count(false)), (3, 1));
    }
}
