//! Accounts and roles: what makes them, what they may do, and what is active from the beginning.

use std::collections::BTreeMap;

use anyhow::Result;

use super::rows::ask;
use crate::mysql::Mysql;

/// The sidecar's account and the servers' own.
const APART: &str = "user NOT IN ('mover', 'root', 'mariadb.sys', 'mysql.sys', 'mysql.session', 'mysql.infoschema')";

/// What is so, by account and by what of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accounts(BTreeMap<String, String>);

impl Accounts {
    pub fn read(server: &Mysql) -> Result<Accounts> {
        let is_mariadb = server.version().is_mariadb();
        let (sql, print) = match is_mariadb {
            true => (
                format!("SELECT user, host, is_role, default_role FROM mysql.user WHERE {APART}"),
                "",
            ),
            false => (
                format!("SELECT user, host, 'N', '' FROM mysql.user WHERE {APART}"),
                "SET SESSION print_identified_with_as_hex = ON;",
            ),
        };
        let mut found = BTreeMap::new();
        for row in ask(server, &sql)? {
            let [user, host, is_role, default] = &row[..] else { anyhow::bail!("four fields") };
            let is_role = is_role == "Y" || user == "PUBLIC";
            let account = match is_role {
                true if user == "PUBLIC" => user.clone(),
                true => format!("'{user}'"),
                false => format!("'{user}'@'{host}'"),
            };
            let made = match is_role {
                true => "a role".to_owned(),
                false => lines(server, &format!("{print} SHOW CREATE USER {account}"))?,
            };
            let made = format!("{made} {default}");
            found.insert(format!("account {account}"), made);
            let rights = lines(server, &format!("SHOW GRANTS FOR {account}"))?;
            found.insert(format!("rights of {account}"), rights);
        }
        Ok(Accounts(found))
    }

    /// The names of what one has and the other has not, or not alike.
    pub fn differences(&self, other: &Accounts) -> Vec<String> {
        let mut names: Vec<&String> = self.0.keys().chain(other.0.keys()).collect();
        names.sort();
        names.dedup();
        let of = |all: &Accounts, name: &String| {
            all.0.get(name).cloned().unwrap_or_else(|| "absent".to_owned())
        };
        let names = names.into_iter().filter(|name| self.0.get(*name) != other.0.get(*name));
        names.map(|name| format!("{name}: {} | {}", of(self, name), of(other, name))).collect()
    }
}

/// All lines of an answer, in the order of the alphabet.
fn lines(server: &Mysql, sql: &str) -> Result<String> {
    let mut lines: Vec<String> = ask(server, sql)?.into_iter().map(|row| row.join(" ")).collect();
    lines.sort();
    Ok(lines.join("; "))
}
