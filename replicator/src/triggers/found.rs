//! Triggers and rules as a server's catalogs have them.

use std::collections::BTreeSet;

use decoders::QualifiedName;
use decoders::postgres::catalog::{Firing, TableFilter, quote_ident};
use decoders::postgres::session::Session;
use sinks::TargetError;
use sinks::postgres::target_error;

/// What hangs on a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Kind {
    /// A trigger.
    Trigger,
    /// A rule.
    Rule,
}

impl Kind {
    pub(super) fn label(self) -> &'static str {
        match self {
            Kind::Trigger => "trigger",
            Kind::Rule => "rule",
        }
    }

    pub(super) fn from_label(label: &str) -> Self {
        if label == "rule" { Kind::Rule } else { Kind::Trigger }
    }
}

/// Which trigger or rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Which {
    pub kind: Kind,
    pub table: QualifiedName,
    pub name: String,
}

impl Which {
    /// What gives it a state. ONLY: a partition has a state of its own, and is named by itself.
    pub fn statement(&self, state: Firing) -> String {
        let kind = self.kind.label().to_uppercase();
        let name = quote_ident(&self.name);
        format!("ALTER TABLE ONLY {} {} {kind} {name}", self.table, state.verb())
    }
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} on {}", self.kind.label(), quote_ident(&self.name), self.table)
    }
}

/// One that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    pub which: Which,
    pub state: Firing,
    /// Whether our role may change the state.
    pub may: bool,
    /// Who may, for an operator.
    pub owner: String,
    /// Whether its table is a partition.
    pub is_partition: bool,
    /// Its table, and those that this is a partition of.
    pub above: BTreeSet<QualifiedName>,
}

/// What `one` has, with the names that filters know it by. Tables of extensions are left out, and those of sessions.
///
/// `alterable`: what a partition has of its parent's trigger is marked as internal before 15, and before 13 only a
/// superuser may change its state.
pub(super) fn named_by_tables(relkinds: &str) -> String {
    format!(
        "
SELECT one.kind, n.nspname::text, c.relname::text, one.name::text, one.state::text,
       one.alterable AND pg_catalog.pg_has_role(c.relowner, 'USAGE'),
       pg_catalog.pg_get_userbyid(c.relowner)::text, c.relispartition, above.schemas, above.tables
FROM one JOIN pg_catalog.pg_class c ON c.oid = one.relid AND c.relkind IN ({relkinds})
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (
  WITH RECURSIVE up(oid) AS (
    SELECT c.oid
   UNION
    SELECT i.inhparent FROM up JOIN pg_catalog.pg_class p ON p.oid = up.oid AND p.relispartition
    JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid
  )
  SELECT pg_catalog.array_agg(un.nspname::text) AS schemas, pg_catalog.array_agg(uc.relname::text) AS tables
  FROM up JOIN pg_catalog.pg_class uc ON uc.oid = up.oid
  JOIN pg_catalog.pg_namespace un ON un.oid = uc.relnamespace
) above
WHERE n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', '_cutover')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                  WHERE e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = c.oid
                    AND e.objsubid = 0 AND e.deptype = 'e')
ORDER BY pg_catalog.cardinality(above.tables), 1, 2, 3, 4"
    )
}

/// Tables, and those that are partitioned.
const TABLES: &str = "'r', 'p'";

const OF_USERS: &str = "f.nspname <> '_cutover' AND (NOT g.tgisinternal OR g.tgconstraint = 0
  OR EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.oid = g.tgconstraint AND k.contype = 't'))";

const ALTERABLE: &str =
    "(NOT g.tgisinternal OR pg_catalog.current_setting('server_version_num')::int >= 130000
  OR pg_catalog.current_setting('is_superuser') = 'on')";

pub(super) const CODE: &str = "JOIN pg_catalog.pg_proc p ON p.oid = g.tgfoid
JOIN pg_catalog.pg_namespace f ON f.oid = p.pronamespace";

/// Those that fire for what a stream applies, and from 11 to 14 also those of partitions below: there the statement
/// for the parent's trigger reaches them, whatever it says of ONLY.
fn acting_sql() -> String {
    let found = named_by_tables(TABLES);
    format!(
        "WITH RECURSIVE firing AS (
           SELECT g.oid, g.tgrelid, g.tgname, g.tgenabled, {ALTERABLE} AS alterable
           FROM pg_catalog.pg_trigger g {CODE} WHERE g.tgenabled IN ('A', 'R') AND {OF_USERS}
         ), below(relid, name) AS (
           SELECT f.tgrelid, f.tgname FROM firing f
           JOIN pg_catalog.pg_class c ON c.oid = f.tgrelid AND c.relkind = 'p'
           WHERE pg_catalog.current_setting('server_version_num')::int BETWEEN 110000 AND 149999
          UNION
           SELECT i.inhrelid, b.name FROM below b JOIN pg_catalog.pg_inherits i ON i.inhparent = b.relid
         ), one AS (
           SELECT 'trigger' AS kind, tgrelid AS relid, tgname AS name, tgenabled AS state, alterable FROM firing
          UNION ALL
           SELECT 'trigger', g.tgrelid, g.tgname, g.tgenabled, {ALTERABLE}
           FROM below b JOIN pg_catalog.pg_trigger g ON g.tgrelid = b.relid AND g.tgname = b.name {CODE}
           WHERE g.tgenabled NOT IN ('A', 'R') AND {OF_USERS}
          UNION ALL
           SELECT 'rule', r.ev_class, r.rulename, r.ev_enabled, true FROM pg_catalog.pg_rewrite r
           WHERE r.ev_enabled IN ('A', 'R')
         ){found}"
    )
}

/// Those of these names.
fn named_sql() -> String {
    let found = named_by_tables(TABLES);
    format!(
        "WITH wanted AS (
           SELECT w.kind, c.oid AS relid, w.name
           FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) w(kind, space, rel, name)
           JOIN pg_catalog.pg_namespace n ON n.nspname = w.space::name
           JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.rel::name
         ), one AS (
           SELECT w.kind, g.tgrelid AS relid, g.tgname AS name, g.tgenabled AS state, {ALTERABLE} AS alterable
           FROM wanted w JOIN pg_catalog.pg_trigger g ON g.tgrelid = w.relid AND g.tgname = w.name::name {CODE}
           WHERE w.kind = 'trigger' AND {OF_USERS}
          UNION ALL
           SELECT w.kind, r.ev_class, r.rulename, r.ev_enabled, true
           FROM wanted w JOIN pg_catalog.pg_rewrite r ON r.ev_class = w.relid AND r.rulename = w.name::name
           WHERE w.kind = 'rule'
         ){found}"
    )
}

/// Those on the tables that take part which fire for replicated changes, too. Parents are before their partitions.
pub(super) async fn acting(
    session: &Session,
    filter: &TableFilter,
) -> Result<Vec<Found>, TargetError> {
    let rows = session.query(&acting_sql(), &[]).await;
    let mut all = Vec::new();
    for row in rows.map_err(unread)? {
        let one = found(&row)?;
        // A partition takes part with the table that it is one of.
        if one.above.iter().any(|table| filter.takes(table)) {
            all.push(one);
        }
    }
    Ok(all)
}

/// Those of these names that are there, parents before their partitions.
pub(super) async fn named(
    session: &Session,
    wanted: impl Iterator<Item = &Which>,
) -> Result<Vec<Found>, TargetError> {
    let [mut kinds, mut schemas, mut tables, mut names] = [const { Vec::new() }; 4];
    for which in wanted {
        kinds.push(which.kind.label());
        schemas.push(&*which.table.schema);
        tables.push(&*which.table.name);
        names.push(which.name.as_str());
    }
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let rows = session.query(&named_sql(), &[&kinds, &schemas, &tables, &names]).await;
    rows.map_err(unread)?.iter().map(found).collect()
}

fn found(row: &tokio_postgres::Row) -> Result<Found, TargetError> {
    let text = |at: usize| row.try_get::<_, String>(at).map_err(unread);
    let code = text(4)?;
    let state = Firing::from_code(&code).ok_or_else(|| {
        TargetError::halt(
            format!("a trigger or rule is in a state that this version does not know: {code:?}"),
            "use a version of cutover that knows this server",
        )
    })?;
    let which = which(row)?;
    let (may, is_partition) = (row.try_get(5).map_err(unread)?, row.try_get(7).map_err(unread)?);
    Ok(Found { which, state, may, owner: text(6)?, is_partition, above: above(row)? })
}

/// The table of a row of [`named_by_tables`], and those that it is a partition of.
pub(super) fn above(row: &tokio_postgres::Row) -> Result<BTreeSet<QualifiedName>, TargetError> {
    let schemas: Vec<String> = row.try_get(8).map_err(unread)?;
    let tables: Vec<String> = row.try_get(9).map_err(unread)?;
    let names = schemas.into_iter().zip(tables);
    Ok(names.map(|(schema, table)| QualifiedName::new(schema, table)).collect())
}

/// Which trigger or rule a row of [`named_by_tables`] is.
pub(super) fn which(row: &tokio_postgres::Row) -> Result<Which, TargetError> {
    let text = |at: usize| row.try_get::<_, String>(at).map_err(unread);
    Ok(Which {
        kind: Kind::from_label(&text(0)?),
        table: QualifiedName::new(text(1)?, text(2)?),
        name: text(3)?,
    })
}

pub(super) fn unread(error: tokio_postgres::Error) -> TargetError {
    target_error("reading the states of triggers and rules", &error)
}
