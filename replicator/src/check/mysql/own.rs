//! Our own database, `_cutover`, where somebody else may have been: the servers don't say who has made a table, so
//! what does not belong there is looked for, and who else may write there.

use std::collections::BTreeSet;

use decoders::mysql::catalog::CatalogError;
use decoders::mysql::server::{Conn, identifier};
use mysql_async::prelude::Queryable;

use super::super::finding::{Finding, Fix, Side, count};
use super::facts::SideFacts;
use super::logins::account_text;

/// Tables of ours, on either side.
const TABLES: [&str; 13] = [
    "copy_chunks",
    "copy_notes",
    "decision",
    "definition",
    "fence",
    "lease",
    "mark",
    "marker",
    "own_mark",
    "prepared",
    "prepared_piece",
    "progress",
    "stream",
];
const OWN: &str = "_cutover";
/// Rights with which one could write what we read.
const WRITES: [&str; 5] = ["INSERT", "UPDATE", "DELETE", "DROP", "TRIGGER"];
/// Who may do anything on its server anyway.
const ADMINISTRATOR: &str = "root";

/// What is in the database `_cutover`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Own {
    /// Tables that are none of ours, views and routines, as statements name them.
    strangers: BTreeSet<String>,
    /// Triggers on our tables, as statements name them.
    triggers: BTreeSet<String>,
}

impl Own {
    /// Looks.
    ///
    /// # Errors
    /// A query failed.
    pub async fn read(conn: &mut Conn) -> Result<Self, CatalogError> {
        let failed = |error| CatalogError::query("our own database", error);
        let sql = "SELECT table_name, table_type FROM information_schema.tables
                   WHERE table_schema = '_cutover'
                   UNION ALL SELECT routine_name, routine_type FROM information_schema.routines
                   WHERE routine_schema = '_cutover'
                   UNION ALL SELECT event_name, 'EVENT' FROM information_schema.events
                   WHERE event_schema = '_cutover'";
        let objects: Vec<(String, String)> = conn.query(sql).await.map_err(failed)?;
        let sql = "SELECT trigger_name FROM information_schema.triggers
                   WHERE trigger_schema = '_cutover'";
        let triggers: Vec<String> = conn.query(sql).await.map_err(failed)?;
        let is_ours = |(name, kind): &&(String, String)| {
            kind == "BASE TABLE" && TABLES.contains(&name.as_str())
        };
        let strangers = objects.iter().filter(|object| !is_ours(object));
        let named = |name: &String| format!("_cutover.{}", identifier(name));
        Ok(Self {
            strangers: strangers.map(|(name, _)| named(name)).collect(),
            triggers: triggers.iter().map(named).collect(),
        })
    }
}

pub(super) fn evaluate(side: Side, facts: &SideFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Ok(own) = &facts.own {
        findings.extend(intruders(side, own));
    }
    findings.extend(granted(side, facts));
    findings.extend(writers(side, facts));
    findings
}

fn intruders(side: Side, own: &Own) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !own.triggers.is_empty() {
        let statements = own.triggers.iter().map(|name| format!("DROP TRIGGER {name}")).collect();
        findings.push(
            Finding::blocker(
                "own-triggers",
                side,
                "triggers on our own tables would do more than we do, whenever we write there",
            )
            .evidence(count(own.triggers.len(), "trigger"))
            .objects(own.triggers.iter().cloned().collect())
            .fix(Fix::sql(side, statements)),
        );
    }
    if !own.strangers.is_empty() {
        findings.push(
            Finding::warning(
                "own-strangers",
                side,
                "the database _cutover holds what is none of ours; teardown would remove it",
            )
            .evidence(count(own.strangers.len(), "object"))
            .objects(own.strangers.iter().cloned().collect())
            .fix(Fix::advice("move it to another database, or find out who uses our name")),
        );
    }
    findings
}

/// Accounts and roles that were granted something on our database itself: nobody but us has business there. With
/// SELECT one could read by what our transactions are known.
fn granted(side: Side, facts: &SideFacts) -> Option<Finding> {
    let logins = facts.logins.as_ref().ok()?;
    let found: Vec<String> = (logins.all.iter())
        .filter(|((name, _), _)| name != ADMINISTRATOR)
        .flat_map(|(name, login)| {
            let rights = login.grants.rights.keys().filter(|right| right.is_on(OWN));
            rights.map(|right| format!("{}: {}", account_text(name, login.is_role), right.text()))
        })
        .collect();
    (!found.is_empty()).then(|| {
        Finding::blocker(
            "own-rights",
            side,
            "others have rights on the database _cutover: what they write there would be taken for ours",
        )
        .evidence(count(found.len(), "right"))
        .objects(found)
        .fix(Fix::advice(
            "REVOKE them; a pattern that takes _cutover too is replaced by the databases that it is for",
        ))
    })
}

/// Accounts that could write what we read: how far a stream is, who has decided, whose a transaction is.
fn writers(side: Side, facts: &SideFacts) -> Option<Finding> {
    let logins = facts.logins.as_ref().ok()?;
    let may_write = |right: &super::logins::Right| {
        let place = right.on == "*.*";
        let what = right.right.starts_with("ALL") || WRITES.contains(&right.name());
        place && what
    };
    let found: Vec<String> = (logins.all.iter())
        .filter(|((name, _), login)| {
            name != ADMINISTRATOR && !login.locked && login.grants.rights.keys().any(may_write)
        })
        .map(|(name, login)| account_text(name, login.is_role))
        .collect();
    (!found.is_empty()).then(|| {
        Finding::warning(
            "own-writers",
            side,
            "accounts besides ours may write to _cutover: what they write there would be taken for ours",
        )
        .evidence(count(found.len(), "account"))
        .objects(found)
        .fix(Fix::advice(
            "take the rights on *.* from accounts that clients log in with, and grant them on their databases",
        ))
    })
}
