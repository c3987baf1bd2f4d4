//! Global settings. Which of them matter is not asked: each that was changed on blue has to be green's,
//! or to be told.

use std::collections::BTreeMap;

use anyhow::Result;

use super::rows::ask;
use crate::mysql::Mysql;

/// What is a matter of one server: where its log is, how it logs, and what closes it.
const APART: [&str; 11] = [
    "gtid_",
    "binlog_",
    "last_gtid",
    "long_query_time",
    "log_slow_query_time",
    "read_only",
    "super_read_only",
    "offline_mode",
    "innodb_",
    // Another name of default_storage_engine.
    "storage_engine",
    // Another name of tmp_table_size.
    "tmp_memory_table_size",
];
/// Of those all the same.
const NOT_APART: [&str; 3] =
    ["innodb_strict_mode", "innodb_default_row_format", "innodb_lock_wait_timeout"];

/// SHOW GLOBAL VARIABLES.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    pub fn read(server: &Mysql) -> Result<Settings> {
        let rows = ask(server, "SHOW GLOBAL VARIABLES")?;
        let pair = |row: Vec<String>| {
            let mut fields = row.into_iter();
            (fields.next().unwrap_or_default(), fields.next().unwrap_or_default())
        };
        Ok(Settings(rows.into_iter().map(pair).collect()))
    }

    /// What is not any more what it was `before`, and is something else `there`.
    pub fn changed_since(&self, before: &Settings, there: &Settings) -> Vec<String> {
        let is_apart = |name: &str| {
            APART.iter().any(|apart| name.starts_with(apart)) && !NOT_APART.contains(&name)
        };
        let changed = self
            .0
            .iter()
            .filter(|(name, value)| !is_apart(name) && before.0.get(*name) != Some(*value));
        let differs = changed.filter(|(name, value)| there.0.get(*name) != Some(*value));
        let of = |name: &String| there.0.get(name).map_or("absent", String::as_str);
        differs.map(|(name, value)| format!("setting {name}: {value} | {}", of(name))).collect()
    }
}
