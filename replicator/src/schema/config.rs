//! How green's schema comes to be.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::backfill::Setting;

/// Whether the schema is copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SchemaMode {
    /// Dumped from blue and restored into green in two halves, before and after the rows.
    #[default]
    Copy,
    /// Green has it already; nothing is dumped and nothing is built.
    Existing,
}

/// What is done about accounts of blue that green lacks (MySQL and MariaDB).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccountsMode {
    /// They are named, by the preflight and before each flip.
    #[default]
    Check,
    /// They are made on green before the copy, with their secrets and rights. Our account needs CREATE USER there and
    /// whatever it grants, WITH GRANT OPTION.
    Create,
}

/// What is done about materialized views before a cutover (PostgreSQL).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaterializedViews {
    /// Those that are populated on both sides are refreshed on green before clients are held.
    #[default]
    Refresh,
    /// They stay as old as their last refresh on green.
    Leave,
}

/// The `[schema]` part of the configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SchemaConfig {
    /// Whether the schema is copied.
    pub mode: SchemaMode,
    /// Accounts of blue that green lacks (MySQL and MariaDB).
    pub accounts: AccountsMode,
    /// Materialized views of green before a cutover (PostgreSQL).
    pub materialized_views: MaterializedViews,
    /// The pg_dump to use instead of searching for one.
    pub pg_dump: Option<PathBuf>,
    /// Owners and privileges too. Without, everything belongs to the role that restores.
    pub owners: bool,
    /// Tablespaces too. Without, everything goes to green's default.
    pub tablespaces: bool,
    /// Kinds of objects to leave out, as pg_dump calls them: `EVENT TRIGGER`, `DEFAULT ACL` ..
    pub skip_kinds: Vec<String>,
    /// Connections that build indexes and check foreign keys at the same time. `auto`: one for
    /// each core of green (`copy.green_cores`).
    pub jobs: Setting,
    /// `maintenance_work_mem` of each of them, MiB. `auto`: what one merge of a build's sorted runs
    /// needs; all of them together never more than 1 GiB, or green's `shared_buffers` if that is
    /// more.
    pub index_memory_mib: Setting,
    /// How long pg_dump waits for a lock on blue, seconds.
    pub lock_timeout_s: u64,
}

impl Default for SchemaConfig {
    fn default() -> Self {
        Self {
            mode: SchemaMode::Copy,
            accounts: AccountsMode::Check,
            materialized_views: MaterializedViews::Refresh,
            pg_dump: None,
            owners: true,
            tablespaces: true,
            skip_kinds: Vec::new(),
            jobs: Setting::Auto,
            index_memory_mib: Setting::Auto,
            lock_timeout_s: 30,
        }
    }
}
