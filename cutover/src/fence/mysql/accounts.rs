//! Accounts that have to lose the right to log in.
//!
//! On MySQL those that `offline_mode` and `read_only` do not bind: with SUPER or CONNECTION_ADMIN, of
//! their own, by a role, or by standing in for somebody else (PROXY). On MariaDB everybody who may
//! write: after a restart nothing else would keep them out. An account that may only read the
//! binlog stays, for it may be a replica's. Ours stays, and what is locked already is somebody else's
//! matter.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;

use super::MysqlUndo;
use super::facts::{Facts, account_text};
use crate::sql::TextRow;
use crate::sql::mysql::{MysqlError, MysqlSession};

/// Accounts in one statement.
const CHUNK: usize = 200;

/// All accounts and roles of MySQL: there is no difference but for the grants. A mandatory role is
/// everybody's.
const MYSQL: &str = "SELECT u.user AS name, u.host AS host, u.account_locked = 'Y' AS is_locked, \
     u.super_priv = 'Y' OR EXISTS (SELECT 1 FROM mysql.global_grants g WHERE g.user = u.user \
     AND g.host = u.host AND g.priv IN ('SUPER', 'CONNECTION_ADMIN')) \
     OR EXISTS (SELECT 1 FROM mysql.proxies_priv p WHERE p.user = u.user AND p.host = u.host) \
     AS passes, EXISTS (SELECT 1 FROM mysql.global_grants g WHERE g.user = u.user \
     AND g.host = u.host AND g.priv = 'SYSTEM_USER') AS is_system, \
     0 AS is_role, 0 AS only_replicates FROM mysql.user u";
const MYSQL_ROLES: &str = "SELECT from_user AS role, from_host AS role_host, to_user AS name, \
     to_host AS host FROM mysql.role_edges";

/// The same of MariaDB. Rights are bits (`privilege.h`): SUPER is 2^15, READ_ONLY ADMIN 2^33. Of
/// those that only replicate: REPLICATION SLAVE 2^19, and no others than this, BINLOG MONITOR 2^20 and
/// SLAVE MONITOR 2^38.
const MARIADB: &str = "SELECT u.user AS name, u.host AS host, \
     coalesce(json_value(u.priv, '$.account_locked'), 0) + 0 AS is_locked, \
     coalesce(json_value(u.priv, '$.is_role'), 0) + 0 AS is_role, \
     u.access & (1 << 15 | 1 << 33) <> 0 \
     OR EXISTS (SELECT 1 FROM mysql.proxies_priv p WHERE p.user = u.user AND p.host = u.host) \
     AS passes, \
     u.access & (1 << 19) <> 0 AND u.access & ~(1 << 19 | 1 << 20 | 1 << 38) = 0 \
     AND NOT EXISTS (SELECT 1 FROM mysql.db d WHERE d.user = u.user AND d.host = u.host) \
     AND NOT EXISTS (SELECT 1 FROM mysql.tables_priv t WHERE t.user = u.user AND t.host = u.host) \
     AND NOT EXISTS (SELECT 1 FROM mysql.procs_priv r WHERE r.user = u.user AND r.host = u.host) \
     AND NOT EXISTS (SELECT 1 FROM mysql.proxies_priv p WHERE p.user = u.user AND p.host = u.host) \
     AND NOT EXISTS (SELECT 1 FROM mysql.roles_mapping m WHERE m.user = u.user AND m.host = u.host) \
     AS only_replicates FROM (SELECT user, host, priv, \
     CAST(coalesce(json_value(priv, '$.access'), 0) AS unsigned) AS access FROM mysql.global_priv) u";
const MARIADB_ROLES: &str =
    "SELECT role, '' AS role_host, user AS name, host FROM mysql.roles_mapping";

/// Roles that every account has (MySQL).
const MANDATORY: &str = "SELECT @@GLOBAL.mandatory_roles AS roles";

type Name = (String, String);

/// The accounts of a server, as far as the fence cares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Accounts {
    /// Who is to be locked out, and is not yet, as statements name them.
    pub to_lock: Vec<String>,
    /// Those of them that could write in spite of read-only mode.
    pub passing: Vec<String>,
    /// Those of them that only a system user may lock (MySQL).
    pub system: Vec<String>,
    /// Who may not log in, as statements name them.
    pub locked: BTreeSet<String>,
    /// Who is there at all.
    pub all: BTreeSet<String>,
    /// Others that log in with our name from other hosts.
    pub namesakes: Vec<String>,
}

fn name_of(row: &TextRow, name: &str, host: &str) -> Name {
    let text = |column| row.get(column).unwrap_or_default().to_owned();
    (text(name), text(host))
}

/// Reads them.
pub(super) async fn read(
    session: &mut MysqlSession,
    facts: &Facts,
    deadline: Instant,
) -> Result<Accounts, MysqlError> {
    let (accounts, roles) = match facts.is_mariadb {
        true => (MARIADB, MARIADB_ROLES),
        false => (MYSQL, MYSQL_ROLES),
    };
    let rows = session.run(accounts, deadline).await?.rows;
    let mut granted: BTreeMap<Name, Vec<Name>> = BTreeMap::new();
    for row in session.run(roles, deadline).await?.rows {
        let to = granted.entry(name_of(&row, "name", "host")).or_default();
        to.push(name_of(&row, "role", "role_host"));
    }
    let mandatory = match facts.is_mariadb {
        true => Vec::new(),
        false => {
            let row = session.row(MANDATORY, deadline).await?;
            role_names(row.get("roles").unwrap_or_default())
        }
    };
    let passing: BTreeSet<Name> = rows
        .iter()
        .filter(|row| row.is_true("passes"))
        .map(|row| name_of(row, "name", "host"))
        .collect();
    let mut found = Accounts::default();
    for row in rows.iter().filter(|row| !row.is_true("is_role")) {
        let name = name_of(row, "name", "host");
        let account = account_text(&name.0, &name.1);
        found.all.insert(account.clone());
        if row.is_true("is_locked") {
            found.locked.insert(account);
            continue;
        }
        if account == facts.account {
            continue;
        }
        if name.0 == facts.login {
            found.namesakes.push(account.clone());
        }
        let passes =
            std::iter::once(&name).chain(&mandatory).any(|name| reaches(name, &granted, &passing));
        if passes {
            found.passing.push(account.clone());
        }
        if passes && row.is_true("is_system") {
            found.system.push(account.clone());
        }
        if passes || facts.is_mariadb && !row.is_true("only_replicates") {
            found.to_lock.push(account);
        }
    }
    Ok(found)
}

/// Names of a list as a variable holds it: `role1@host1,'role 2',r3`, each as in a statement.
fn role_names(list: &str) -> Vec<Name> {
    let mut names = Vec::new();
    let (mut parts, mut quote) = (vec![String::new()], None);
    for c in list.chars().chain([',']) {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (c, None) if matches!(c, '\'' | '"' | '`') => quote = Some(c),
            ('@', None) => parts.push(String::new()),
            (',', None) => {
                let host = parts.get(1).cloned().unwrap_or_else(|| "%".to_owned());
                let name = std::mem::take(&mut parts[0]);
                if !name.is_empty() {
                    names.push((name, host));
                }
                parts = vec![String::new()];
            }
            (c, None) if c.is_whitespace() => {}
            (c, _) => parts.last_mut().expect("there is always one").push(c),
        }
    }
    names
}

/// Whether an account, or a role that it has in any way, is one of those.
fn reaches(from: &Name, granted: &BTreeMap<Name, Vec<Name>>, goal: &BTreeSet<Name>) -> bool {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(name) = open.pop() {
        if goal.contains(name) {
            return true;
        }
        if seen.insert(name) {
            open.extend(granted.get(name).into_iter().flatten());
        }
    }
    false
}

/// One that was dropped meanwhile lets nobody in.
fn alter(accounts: &[String], state: &str) -> Vec<String> {
    let statement =
        |names: &[String]| format!("ALTER USER IF EXISTS {} ACCOUNT {state}", names.join(", "));
    accounts.chunks(CHUNK).map(statement).collect()
}

/// Locks them out.
pub(super) fn lock_sql(undo: &MysqlUndo) -> Vec<String> {
    alter(&undo.accounts, "LOCK")
}

/// Lets them in.
pub(super) fn unlock_sql(accounts: &[String]) -> Vec<String> {
    alter(accounts, "UNLOCK")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mandatory_roles_are_read_as_statements_name_them() {
        let name = |name: &str, host: &str| (name.to_owned(), host.to_owned());
        assert!(role_names("").is_empty());
        assert_eq!(
            role_names("a, `b c`@`%.x`,'d,e'@localhost"),
            [name("a", "%"), name("b c", "%.x"), name("d,e", "localhost")]
        );
    }

    #[test]
    fn rights_come_through_roles_of_roles_that_may_form_a_circle() {
        let name = |name: &str| (name.to_owned(), "%".to_owned());
        let granted = BTreeMap::from([
            (name("app"), vec![name("r1")]),
            (name("r1"), vec![name("r2"), name("app")]),
            (name("r2"), vec![name("r1"), name("admin")]),
        ]);
        let goal = BTreeSet::from([name("admin")]);
        assert!(reaches(&name("app"), &granted, &goal));
        assert!(reaches(&name("admin"), &granted, &goal));
        assert!(!reaches(&name("other"), &granted, &goal));
        assert!(!reaches(&name("app"), &granted, &BTreeSet::from([name("other")])));
    }
}
