//! What hangs on a table and may act when rows are written: foreign keys, triggers, rules.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::error::CatalogError;
use super::filter::CONTROL_SCHEMA;
use crate::change::QualifiedName;

/// When a trigger, a rule or an event trigger fires, depending on `session_replication_role`
/// (PostgreSQL manual, ALTER TABLE .. ENABLE TRIGGER).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Firing {
    /// Not under `replica`: the usual kind.
    Origin,
    /// Never.
    Disabled,
    /// Only under `replica`.
    Replica,
    /// Always.
    Always,
}

impl Firing {
    /// From `pg_trigger.tgenabled`, `pg_rewrite.ev_enabled` or `pg_event_trigger.evtenabled`.
    pub fn from_code(code: &str) -> Option<Self> {
        Some(match code {
            "O" => Firing::Origin,
            "D" => Firing::Disabled,
            "R" => Firing::Replica,
            "A" => Firing::Always,
            _ => return None,
        })
    }

    /// As the catalogs have it.
    pub fn code(self) -> &'static str {
        match self {
            Firing::Origin => "O",
            Firing::Disabled => "D",
            Firing::Replica => "R",
            Firing::Always => "A",
        }
    }

    /// What ALTER TABLE says before `TRIGGER` or `RULE`.
    pub fn verb(self) -> &'static str {
        match self {
            Firing::Origin => "ENABLE",
            Firing::Disabled => "DISABLE",
            Firing::Replica => "ENABLE REPLICA",
            Firing::Always => "ENABLE ALWAYS",
        }
    }

    /// Whether it fires for changes that are applied with `session_replication_role = replica`.
    pub fn fires_on_replica(self) -> bool {
        matches!(self, Firing::Replica | Firing::Always)
    }

    /// Whether it fires for an application's changes.
    pub fn fires_on_origin(self) -> bool {
        matches!(self, Firing::Origin | Firing::Always)
    }
}

/// A foreign key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ForeignKey {
    /// Constraint name.
    pub name: String,
    /// Referencing columns.
    pub columns: Vec<String>,
    /// The referenced table.
    pub references: QualifiedName,
    /// Its OID.
    pub references_oid: u32,
    /// Referenced columns, in the order of `columns`.
    pub referenced_columns: Vec<String>,
    /// False for NOT VALID.
    pub validated: bool,
    /// DEFERRABLE.
    pub deferrable: bool,
    /// ON DELETE or ON UPDATE does more than refuse (CASCADE, SET NULL, SET DEFAULT).
    pub cascades: bool,
    /// Comes from the partitioned parent's constraint.
    pub inherited: bool,
}

/// A user's trigger (constraints' own triggers are not listed).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Trigger {
    /// Name.
    pub name: String,
    /// When it fires.
    pub firing: Firing,
    /// The function.
    pub function: QualifiedName,
    /// FOR EACH ROW.
    pub row_level: bool,
}

/// A rewrite rule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rule {
    /// Name.
    pub name: String,
    /// When it acts.
    pub firing: Firing,
    /// INSTEAD.
    pub instead: bool,
}

/// Foreign keys of all candidate tables, by referencing table.
pub(super) async fn foreign_keys(
    client: &Client,
    version_num: u32,
) -> Result<HashMap<u32, Vec<ForeignKey>>, CatalogError> {
    let inherited = if version_num >= 110_000 { "k.conparentid <> 0" } else { "false" };
    let candidates = super::candidates();
    let names = |relation: &str, numbers: &str| {
        format!(
            "(SELECT array_agg(a.attname::text ORDER BY u.p)
              FROM unnest({numbers}) WITH ORDINALITY u(n, p)
              JOIN pg_attribute a ON a.attrelid = {relation} AND a.attnum = u.n)"
        )
    };
    let sql = format!(
        "SELECT k.conrelid, k.conname::text, {} AS columns, {} AS referenced,
                rn.nspname::text AS ref_schema, r.relname::text AS ref_name, k.confrelid,
                k.convalidated, k.condeferrable, {inherited} AS inherited,
                k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd') AS cascades
         FROM ({candidates}) c
         JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'f'
         JOIN pg_class r ON r.oid = k.confrelid
         JOIN pg_namespace rn ON rn.oid = r.relnamespace
         ORDER BY k.conrelid, k.conname",
        names("k.conrelid", "k.conkey"),
        names("k.confrelid", "k.confkey"),
    );
    let rows = client
        .query(&sql, &[])
        .await
        .map_err(|error| CatalogError::query("foreign keys", error))?;
    let mut tables: HashMap<u32, Vec<ForeignKey>> = HashMap::new();
    for row in &rows {
        tables.entry(row.get("conrelid")).or_default().push(ForeignKey {
            name: row.get("conname"),
            columns: row.get::<_, Option<_>>("columns").unwrap_or_default(),
            references: QualifiedName { schema: row.get("ref_schema"), name: row.get("ref_name") },
            references_oid: row.get("confrelid"),
            referenced_columns: row.get::<_, Option<_>>("referenced").unwrap_or_default(),
            validated: row.get("convalidated"),
            deferrable: row.get("condeferrable"),
            cascades: row.get("cascades"),
            inherited: row.get("inherited"),
        });
    }
    Ok(tables)
}

/// Users' triggers of all candidate tables, by table. Those that call the engine's functions are
/// not users'.
pub(super) async fn triggers(client: &Client) -> Result<HashMap<u32, Vec<Trigger>>, CatalogError> {
    let candidates = super::candidates();
    let sql = format!(
        "SELECT g.tgrelid, g.tgname::text, g.tgenabled::text, pn.nspname::text, p.proname::text,
                (g.tgtype & 1) = 1 AS row_level
         FROM ({candidates}) c
         JOIN pg_trigger g ON g.tgrelid = c.oid AND NOT g.tgisinternal
         JOIN pg_proc p ON p.oid = g.tgfoid
         JOIN pg_namespace pn ON pn.oid = p.pronamespace AND pn.nspname <> '{CONTROL_SCHEMA}'
         ORDER BY g.tgrelid, g.tgname"
    );
    let rows =
        client.query(&sql, &[]).await.map_err(|error| CatalogError::query("triggers", error))?;
    let mut tables: HashMap<u32, Vec<Trigger>> = HashMap::new();
    for row in &rows {
        tables.entry(row.get("tgrelid")).or_default().push(Trigger {
            name: row.get("tgname"),
            firing: firing(row.get("tgenabled"), "triggers")?,
            function: QualifiedName { schema: row.get("nspname"), name: row.get("proname") },
            row_level: row.get("row_level"),
        });
    }
    Ok(tables)
}

/// Rules of all candidate tables, by table.
pub(super) async fn rules(client: &Client) -> Result<HashMap<u32, Vec<Rule>>, CatalogError> {
    let candidates = super::candidates();
    let sql = format!(
        "SELECT w.ev_class, w.rulename::text, w.ev_enabled::text, w.is_instead
         FROM ({candidates}) c JOIN pg_rewrite w ON w.ev_class = c.oid
         ORDER BY w.ev_class, w.rulename"
    );
    let rows =
        client.query(&sql, &[]).await.map_err(|error| CatalogError::query("rules", error))?;
    let mut tables: HashMap<u32, Vec<Rule>> = HashMap::new();
    for row in &rows {
        tables.entry(row.get("ev_class")).or_default().push(Rule {
            name: row.get("rulename"),
            firing: firing(row.get("ev_enabled"), "rules")?,
            instead: row.get("is_instead"),
        });
    }
    Ok(tables)
}

pub(super) fn firing(code: &str, what: &'static str) -> Result<Firing, CatalogError> {
    Firing::from_code(code)
        .ok_or_else(|| CatalogError::unexpected(what, format!("unknown firing code {code:?}")))
}
