//! Definitions, judged by SHOW CREATE.
//!
//! What makes blue's tables and views is run in a database of its own on green's server, and that one is
//! shown by the same server as green's. So what differs between versions differs in neither. The statements
//! of what runs are kept by the servers as they came, and compared as they are.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use super::rows::ask;
use crate::mysql::{DATABASE, Mysql};

/// Where blue's tables are made again.
const REFERENCE: &str = "unseen_reference";

/// What the servers are asked for, by kind: names, then SHOW CREATE of each.
const KINDS: [(&str, &str); 7] = [
    (
        "TABLE",
        "SELECT table_name FROM information_schema.tables WHERE table_schema = '?' AND table_type NOT IN ('VIEW', 'SEQUENCE')",
    ),
    (
        "VIEW",
        "SELECT table_name FROM information_schema.tables WHERE table_schema = '?' AND table_type = 'VIEW'",
    ),
    ("TRIGGER", "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = '?'"),
    (
        "PROCEDURE",
        "SELECT routine_name FROM information_schema.routines WHERE routine_schema = '?' AND routine_type = 'PROCEDURE'",
    ),
    (
        "FUNCTION",
        "SELECT routine_name FROM information_schema.routines WHERE routine_schema = '?' AND routine_type = 'FUNCTION'",
    ),
    (
        "PACKAGE",
        "SELECT routine_name FROM information_schema.routines WHERE routine_schema = '?' AND routine_type LIKE 'PACKAGE%'",
    ),
    ("EVENT", "SELECT event_name FROM information_schema.events WHERE event_schema = '?'"),
];

/// What a database is beside its collation; only one family has each.
const OF_DATABASE: [&str; 2] = [
    "SELECT '?', schema_comment FROM information_schema.schemata WHERE schema_name = '?'",
    "SELECT '?', concat_ws(' ', default_encryption, options) FROM information_schema.schemata
     JOIN information_schema.schemata_extensions USING (schema_name) WHERE schema_name = '?'",
];

/// Facts that no SHOW CREATE has, or that have to be taken apart.
const FACTS: [(&str, &str); 3] = [
    (
        "TRIGGER ORDER",
        "SELECT trigger_name, concat(event_object_table, ' ', action_timing, ' ', event_manipulation, ' ', action_order)
         FROM information_schema.triggers WHERE trigger_schema = '?'",
    ),
    (
        "COLUMN ORDER",
        "SELECT table_name, group_concat(column_name ORDER BY ordinal_position)
         FROM information_schema.columns WHERE table_schema = '?' GROUP BY 1",
    ),
    (
        "DATABASE",
        "SELECT '?', concat_ws(' ', default_character_set_name, default_collation_name)
         FROM information_schema.schemata WHERE schema_name = '?'",
    ),
];

/// Objects by kind and name, each with the statement that makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definitions(BTreeMap<String, String>);

impl Definitions {
    /// Those of the database that moves.
    pub fn read(server: &Mysql) -> Result<Definitions> {
        read(server, DATABASE)
    }

    /// The same as this server shows them.
    pub fn on(&self, server: &Mysql) -> Result<Definitions> {
        // Both are of one version; and made again, a column without a default would have NULL for one.
        if !server.version().is_mariadb() {
            return Ok(self.clone());
        }
        let of = |kind: &str| {
            let prefix = format!("{kind} {DATABASE}.");
            self.0.iter().filter(move |(name, _)| name.starts_with(&prefix)).map(|(_, text)| text)
        };
        let mut sql = format!(
            "SET sql_log_bin = 0, foreign_key_checks = 0, sql_mode = '', innodb_strict_mode = 0;
             CREATE DATABASE {REFERENCE}; USE {REFERENCE};"
        );
        for text in of("TABLE").chain(of("VIEW")) {
            let text = text.replace(&format!("`{DATABASE}`."), &format!("`{REFERENCE}`."));
            sql.push_str(&format!("{text};\n"));
        }
        server.run(&sql).context("blue's tables on green's server")?;
        let mut found = self.0.clone();
        let there = read(server, REFERENCE)?;
        found.extend(
            there
                .0
                .into_iter()
                .filter(|(name, _)| name.starts_with("TABLE ") || name.starts_with("VIEW ")),
        );
        Ok(Definitions(found))
    }

    /// What one has and the other has not, or not alike: the name, and both statements.
    pub fn differences(&self, other: &Definitions) -> Vec<String> {
        let mut names: Vec<&String> = self.0.keys().chain(other.0.keys()).collect();
        names.sort();
        names.dedup();
        let of = |all: &Definitions, name: &String| {
            all.0.get(name).cloned().unwrap_or_else(|| "absent".to_owned())
        };
        let names = names.into_iter().filter(|name| self.0.get(*name) != other.0.get(*name));
        names.map(|name| format!("{name}: {} | {}", of(self, name), of(other, name))).collect()
    }
}

fn read(server: &Mysql, database: &str) -> Result<Definitions> {
    let mut found = BTreeMap::new();
    for (kind, names) in KINDS {
        let names = format!("{} ORDER BY 1", names.replace('?', database));
        for name in ask(server, &names)? {
            let name = name.concat();
            let shown = show(server, kind, database, &name)?;
            let mut shown = shown.replace(REFERENCE, DATABASE);
            if kind == "VIEW" {
                // MariaDB prints the database of columns or not, as the view was made.
                shown = shown.replace(&format!("`{DATABASE}`."), "");
            }
            found.insert(format!("{kind} {DATABASE}.{name}"), shown);
        }
    }
    let [of_mariadb, of_mysql] = OF_DATABASE;
    let of_database = if server.version().is_mariadb() { of_mariadb } else { of_mysql };
    for (kind, sql) in FACTS.into_iter().chain([("DATABASE OPTIONS", of_database)]) {
        for row in ask(server, &sql.replace('?', database))? {
            let [name, fact] = &row[..] else { anyhow::bail!("{kind}: no fact") };
            if name.as_str() != REFERENCE {
                found.insert(format!("{kind} {DATABASE}.{name}"), fact.clone());
            }
        }
    }
    if server.version().is_mariadb() {
        sequences(server, database, &mut found)?;
    }
    Ok(Definitions(found))
}

/// What SHOW CREATE says, without what a clock or a counter gave.
fn show(server: &Mysql, kind: &str, database: &str, name: &str) -> Result<String> {
    let sql = format!("USE `{database}`; SHOW CREATE {kind} `{name}`");
    let rows = ask(server, &sql)?;
    let mut fields = rows.into_iter().next().with_context(|| format!("{sql}: nothing"))?;
    fields.remove(0);
    if kind == "TRIGGER" {
        // When it was made.
        fields.truncate(5);
    }
    if kind == "TABLE" || kind == "VIEW" {
        fields.truncate(1);
    }
    Ok(without_implied_charset(&without_counter(&fields.join("; "))))
}

/// MySQL writes a column's character set down if the statement that made it named one. A collation
/// has one character set only, so beside it the other says nothing.
fn without_implied_charset(text: &str) -> String {
    let mut parts = text.split(" CHARACTER SET ");
    let mut told = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(' ') {
            Some((_, rest)) if rest.starts_with("COLLATE ") => told.push_str(&format!(" {rest}")),
            _ => told.push_str(&format!(" CHARACTER SET {part}")),
        }
    }
    told
}

/// `AUTO_INCREMENT=7` is where a counter is, and no definition.
fn without_counter(text: &str) -> String {
    let Some((before, behind)) = text.split_once(" AUTO_INCREMENT=") else {
        return text.to_owned();
    };
    let rest = behind.trim_start_matches(|digit: char| digit.is_ascii_digit());
    format!("{before}{rest}")
}

fn sequences(server: &Mysql, database: &str, found: &mut BTreeMap<String, String>) -> Result<()> {
    let names = format!(
        "SELECT table_name FROM information_schema.tables
         WHERE table_schema = '{database}' AND table_type = 'SEQUENCE'"
    );
    for name in ask(server, &names)? {
        let name = name.concat();
        let sql = format!(
            "SELECT concat_ws(' ', minimum_value, maximum_value, start_value, increment, cache_size, cycle_option)
             FROM `{database}`.`{name}`"
        );
        found.insert(format!("SEQUENCE {DATABASE}.{name}"), server.value(&sql)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_set_is_told_by_its_collation() {
        let shown =
            "`a` text CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, `b` text CHARACTER SET ascii";
        let told = "`a` text COLLATE utf8mb4_bin, `b` text CHARACTER SET ascii";
        assert_eq!(without_implied_charset(shown), told);
    }

    #[test]
    fn a_counter_is_no_definition() {
        let shown = ") ENGINE=InnoDB AUTO_INCREMENT=101 DEFAULT CHARSET=latin1";
        assert_eq!(without_counter(shown), ") ENGINE=InnoDB DEFAULT CHARSET=latin1");
        assert_eq!(
            without_counter("`id` int NOT NULL AUTO_INCREMENT,"),
            "`id` int NOT NULL AUTO_INCREMENT,"
        );
    }
}
