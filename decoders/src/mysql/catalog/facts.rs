//! What a server says of its settings, its account's rights and its surroundings.

use std::collections::{BTreeMap, BTreeSet};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use serde::{Deserialize, Serialize};

use super::scope::Scope;
use super::{CatalogError, query};
use crate::change::QualifiedName;
use crate::mysql::server::Server;

/// Global variables, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Reads all of them.
    ///
    /// # Errors
    /// The query failed.
    pub async fn read(conn: &mut Conn) -> Result<Variables, CatalogError> {
        let rows: Vec<(String, String)> = query(conn, "settings", "SHOW GLOBAL VARIABLES").await?;
        Ok(rows.into_iter().collect())
    }

    /// A variable's value, if the server has that variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether a variable is on; false if the server does not have it.
    pub fn is_on(&self, name: &str) -> bool {
        matches!(self.get(name), Some("ON" | "1" | "YES"))
    }

    /// A variable as a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// The members of a variable that is a list.
    pub fn members(&self, name: &str) -> BTreeSet<&str> {
        let list = self.get(name).unwrap_or_default();
        list.split(',').filter(|member| !member.is_empty()).collect()
    }
}

impl FromIterator<(String, String)> for Variables {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        let lower = |(name, value): (String, String)| (name.to_ascii_lowercase(), value);
        Variables(variables.into_iter().map(lower).collect())
    }
}

/// The account's rights on everything (`ON *.*`), those of active roles included.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Rights {
    /// The account as a statement names it, such as `` `cutover`@`%` ``.
    pub account: Option<String>,
    everywhere: BTreeSet<String>,
    /// Rights on whole databases, by the pattern that names them.
    databases: BTreeMap<String, BTreeSet<String>>,
}

impl Rights {
    /// Reads them.
    ///
    /// # Errors
    /// The query failed.
    pub async fn read(conn: &mut Conn) -> Result<Rights, CatalogError> {
        let grants: Vec<String> = query(conn, "rights", "SHOW GRANTS").await?;
        Ok(Rights::of(grants.iter().map(String::as_str)))
    }

    /// The rights in the lines of SHOW GRANTS.
    pub fn of<'a>(grants: impl IntoIterator<Item = &'a str>) -> Rights {
        let mut rights = Rights::default();
        for grant in grants {
            let Some((list, rest)) =
                grant.strip_prefix("GRANT ").and_then(|grant| grant.split_once(" ON "))
            else {
                continue;
            };
            // Rights on columns have a list of their own; they are on no whole database.
            let list = list.split(',').map(|right| right.trim().to_ascii_uppercase());
            let Some((object, to)) = rest.split_once(" TO ") else { continue };
            rights.account = rights.account.or_else(|| account(to).map(str::to_owned));
            if object == "*.*" {
                rights.everywhere.extend(list);
            } else if let Some(database) = object.strip_suffix(".*") {
                let database = database.trim_matches('`').replace("``", "`");
                rights.databases.entry(database).or_default().extend(list);
            }
        }
        rights
    }

    /// Whether one of these rights is there, on everything.
    pub fn has(&self, any_of: &[&str]) -> bool {
        let all = ["ALL PRIVILEGES", "ALL"];
        all.iter().chain(any_of).any(|right| self.everywhere.contains(*right))
    }

    /// Whether the right is there on a whole database.
    pub fn has_on(&self, right: &str, database: &str) -> bool {
        self.has(&[right])
            || self.databases.iter().any(|(pattern, rights)| {
                let granted = rights.contains(right) || rights.contains("ALL PRIVILEGES");
                granted && like(pattern, database)
            })
    }
}

/// The account at the beginning of what stands behind TO.
fn account(to: &str) -> Option<&str> {
    let host = to.find("`@`")? + 3;
    let end = host + to[host..].find('`')? + 1;
    to.get(..end)
}

/// The pattern of a grant: `%` and `_` are wildcards unless a backslash stands before them.
fn like(pattern: &str, text: &str) -> bool {
    let mut pattern_rest = pattern.chars();
    let Some(first) = pattern_rest.next() else { return text.is_empty() };
    let mut rest = text.chars();
    match first {
        '%' => {
            let after = pattern_rest.as_str();
            text.char_indices().map(|(at, _)| &text[at..]).chain([""]).any(|text| like(after, text))
        }
        '_' => rest.next().is_some() && like(pattern_rest.as_str(), rest.as_str()),
        first => {
            let literal = if first == '\\' { pattern_rest.next() } else { Some(first) };
            literal.is_some()
                && rest.next() == literal
                && like(pattern_rest.as_str(), rest.as_str())
        }
    }
}

/// An event of the event scheduler that is enabled.
pub async fn enabled_events(
    conn: &mut Conn,
    database: Option<&str>,
) -> Result<Vec<QualifiedName>, CatalogError> {
    let scope = database.map_or(Scope::All, Scope::Database);
    let of = scope.condition("event_schema", "event_name");
    let sql = format!(
        "SELECT event_schema, event_name FROM information_schema.events
         WHERE status = 'ENABLED' AND {of} ORDER BY 1, 2"
    );
    let rows: Vec<(String, String)> = query(conn, "events", &sql).await?;
    Ok(rows.into_iter().map(|(schema, name)| QualifiedName::new(schema, name)).collect())
}

/// The collations that the server knows, by name.
pub async fn collations(conn: &mut Conn) -> Result<BTreeSet<String>, CatalogError> {
    let rows: Vec<mysql_async::Row> = query(conn, "collations", "SHOW COLLATION").await?;
    let mut names: BTreeSet<String> =
        rows.into_iter().filter_map(|mut row| row.take_opt::<String, _>(0)?.ok()).collect();
    // MariaDB 10.10+ lists some names without their character set, which stands before them then.
    let bare: Vec<String> =
        names.iter().filter(|name| name.starts_with("uca1400")).cloned().collect();
    for charset in ["utf8mb3", "utf8mb4", "ucs2", "utf16", "utf32"] {
        names.extend(bare.iter().map(|name| format!("{charset}_{name}")));
    }
    Ok(names)
}

/// The databases in which nobody may write, whatever his rights (`ALTER DATABASE .. READ ONLY = 1`, MySQL from
/// 8.0.22 on), our own among them.
///
/// # Errors
/// The query failed.
pub async fn read_only_databases(
    conn: &mut Conn,
    server: &Server,
) -> Result<BTreeSet<String>, CatalogError> {
    if server.is_mariadb() || server.number < (8, 0, 22) {
        return Ok(BTreeSet::new());
    }
    let sql = "SELECT schema_name FROM information_schema.schemata_extensions
               WHERE options LIKE '%READ ONLY=1%'";
    Ok(query::<String>(conn, "read-only databases", sql).await?.into_iter().collect())
}

/// What the server is part of.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Surroundings {
    /// It receives changes from another server.
    pub is_replica: bool,
    /// `binlog_do_db` and `binlog_ignore_db`: databases that alone are logged, or are not.
    pub binlog_filter: Option<String>,
}

/// Asks what the server is part of.
///
/// # Errors
/// The query failed; the account may lack the right (MySQL: REPLICATION CLIENT; MariaDB: BINLOG
/// MONITOR and SLAVE MONITOR).
pub async fn surroundings(conn: &mut Conn, server: &Server) -> Result<Surroundings, CatalogError> {
    const WHAT: &str = "replication";
    let failed = |error| CatalogError::query(WHAT, error);
    let (replica, log) = match server.is_mariadb() {
        true => ("SHOW ALL SLAVES STATUS", "SHOW MASTER STATUS"),
        false if server.number >= (8, 2, 0) => ("SHOW REPLICA STATUS", "SHOW BINARY LOG STATUS"),
        false if server.number >= (8, 0, 22) => ("SHOW REPLICA STATUS", "SHOW MASTER STATUS"),
        false => ("SHOW SLAVE STATUS", "SHOW MASTER STATUS"),
    };
    let replicas: Vec<Row> = conn.query(replica).await.map_err(failed)?;
    let log: Option<Row> = conn.query_first(log).await.map_err(failed)?;
    let filter = log.and_then(|mut row| {
        let mut field = |at: usize| row.take_opt::<Option<String>, _>(at)?.ok()?;
        let (only, without) = (field(2).unwrap_or_default(), field(3).unwrap_or_default());
        match (only.is_empty(), without.is_empty()) {
            (true, true) => None,
            (false, _) => Some(format!("binlog_do_db = {only}")),
            (true, false) => Some(format!("binlog_ignore_db = {without}")),
        }
    });
    Ok(Surroundings { is_replica: !replicas.is_empty(), binlog_filter: filter })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_read_from_grants() {
        let rights = Rights::of([
            "GRANT USAGE ON *.* TO `x`@`%` IDENTIFIED BY PASSWORD '*0'",
            "GRANT REPLICATION SLAVE, BINLOG MONITOR ON *.* TO `x`@`%`",
            "GRANT SELECT, INSERT ON `my\\_shop`.* TO `x`@`%`",
            "GRANT ALL PRIVILEGES ON `team%`.* TO `x`@`%`",
            "GRANT SELECT ON `other`.`t` TO `x`@`%`",
        ]);
        assert_eq!(rights.account.as_deref(), Some("`x`@`%`"));
        assert!(rights.has(&["REPLICATION SLAVE"]) && !rights.has(&["SELECT"]));
        for (database, expected) in
            [("my_shop", true), ("my-shop", false), ("team1", true), ("other", false)]
        {
            assert_eq!(rights.has_on("SELECT", database), expected, "{database}");
        }
        assert!(Rights::of(["GRANT ALL PRIVILEGES ON *.* TO `r`@`%`"]).has_on("SELECT", "x"));
    }
}
