//! One server and database, as seen by the role that is connected.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::error::CatalogError;

/// A hosting service that forbids parts of PostgreSQL and replaces them by its own means. Told by
/// the roles that it creates in every cluster.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Provider {
    /// Amazon RDS or Aurora (`rds_superuser`).
    Rds,
    /// Google Cloud SQL (`cloudsqlsuperuser`).
    CloudSql,
    /// Google AlloyDB (`alloydbsuperuser`).
    AlloyDb,
    /// Azure Database for PostgreSQL (`azure_pg_admin`).
    Azure,
    /// Neon (`neon_superuser`).
    Neon,
    /// Supabase (`supabase_admin`).
    Supabase,
}

impl Provider {
    const MARKS: [(&'static str, Provider); 6] = [
        ("rds_superuser", Provider::Rds),
        ("cloudsqlsuperuser", Provider::CloudSql),
        ("alloydbsuperuser", Provider::AlloyDb),
        ("azure_pg_admin", Provider::Azure),
        ("neon_superuser", Provider::Neon),
        ("supabase_admin", Provider::Supabase),
    ];
}

/// The connected role.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RoleInfo {
    /// `current_user`.
    pub name: String,
    /// SUPERUSER.
    pub superuser: bool,
    /// The REPLICATION attribute itself; see [`RoleInfo::may_replicate`].
    pub replication: bool,
    /// BYPASSRLS.
    pub bypass_rls: bool,
    /// CREATEROLE.
    pub create_role: bool,
    /// The role's own limit of connections; -1 for none.
    pub connection_limit: i32,
    /// Whether the role has the privileges of `rds_replication`, which stands in for REPLICATION
    /// on RDS.
    pub rds_replication: bool,
    /// Whether the role may signal other roles' backends (`pg_signal_backend`).
    pub signal_backends: bool,
    /// Whether the role sees other sessions' states (`pg_read_all_stats` or `pg_monitor`).
    pub read_all_stats: bool,
}

impl RoleInfo {
    /// Whether logical slots and walsender connections are allowed.
    pub fn may_replicate(&self) -> bool {
        self.superuser || self.replication || self.rds_replication
    }
}

/// The database's character set and default collation.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Locale {
    /// Server encoding, such as `UTF8`.
    pub encoding: String,
    /// `datcollate`.
    pub collate: String,
    /// `datctype`.
    pub ctype: String,
    /// `libc`, `icu` or `builtin`; always `libc` before PostgreSQL 15.
    pub provider: String,
    /// ICU or builtin locale (15+), where the provider has one.
    pub locale: Option<String>,
    /// Version of the collation library when the database was made (15+).
    pub recorded_version: Option<String>,
    /// Version that the library reports now (15+).
    pub actual_version: Option<String>,
}

/// One setting, in the unit that `pg_settings` shows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Setting {
    /// The value.
    pub value: String,
    /// `MB`, `ms`, `8kB` and the like.
    pub unit: Option<String>,
}

/// A server, a database of it and the role connected to it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ServerInfo {
    /// `server_version_num`, such as 150020.
    pub version_num: u32,
    /// `server_version`, as people write it.
    pub version: String,
    /// The cluster's identifier, unless the role may not ask. Physical clones of a cluster share
    /// it, so equal identifiers alone do not prove one server.
    pub system_identifier: Option<u64>,
    /// The database.
    pub database: String,
    /// Its OID.
    pub database_oid: u32,
    /// Its limit of connections; -1 for none.
    pub database_connection_limit: i32,
    /// Its size in bytes, if the role may ask.
    pub database_bytes: Option<i64>,
    /// Whether the role may CREATE in the database (schemas, publications).
    pub may_create: bool,
    /// Character set and collation.
    pub locale: Locale,
    /// The role.
    pub role: RoleInfo,
    /// Whether this is a standby.
    pub in_recovery: bool,
    /// The hosting service, where one is recognized.
    pub provider: Option<Provider>,
    /// The settings named in [`WANTED_SETTINGS`] that the server knows and the role may see.
    pub settings: BTreeMap<String, Setting>,
}

/// Settings that decide whether and how well a database can be moved.
pub const WANTED_SETTINGS: &[&str] = &[
    "autovacuum_max_workers",
    "autovacuum_worker_slots",
    "default_transaction_read_only",
    "idle_replication_slot_timeout",
    "lc_monetary",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_slot_wal_keep_size",
    "max_wal_senders",
    "max_wal_size",
    "max_worker_processes",
    "output_plugin_libraries",
    "reserved_connections",
    "server_version",
    "superuser_reserved_connections",
    "synchronous_commit",
    "synchronous_standby_names",
    "wal_keep_segments",
    "wal_keep_size",
    "wal_level",
    "wal_segment_size",
    "wal_sender_timeout",
];

impl ServerInfo {
    /// The major version, such as 15.
    pub fn major(&self) -> u32 {
        self.version_num / 10_000
    }

    /// A setting's value.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(|setting| setting.value.as_str())
    }

    /// A numeric setting in the unit of `pg_settings`.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.setting(name)?.parse().ok()
    }

    /// A setting of memory or disk in bytes; negative values (no limit) stay as they are.
    pub fn bytes(&self, name: &str) -> Option<i64> {
        let setting = self.settings.get(name)?;
        let value: i64 = setting.value.parse().ok()?;
        if value < 0 {
            return Some(value);
        }
        let unit = match setting.unit.as_deref() {
            None | Some("B") => 1,
            Some("kB") => 1 << 10,
            Some("8kB") => 8 << 10,
            Some("MB") => 1 << 20,
            Some("16MB") => 16 << 20,
            Some(_) => return None,
        };
        value.checked_mul(unit)
    }

    /// A boolean setting.
    pub fn is_on(&self, name: &str) -> Option<bool> {
        self.setting(name).map(|value| value == "on")
    }

    /// Reads everything about the server, its database and the connected role.
    pub async fn read(client: &Client) -> Result<Self, CatalogError> {
        super::pin_search_path(client).await?;
        let version_num = version_num(client).await?;
        let failed = |error| CatalogError::query("the server's properties", error);
        let row = client.query_one(&database_query(version_num), &[]).await.map_err(failed)?;
        let settings = settings(client).await?;
        Ok(Self {
            version_num,
            version: settings.get("server_version").map(|s| s.value.clone()).unwrap_or_default(),
            system_identifier: system_identifier(client).await,
            database: row.get("datname"),
            database_oid: row.get("oid"),
            database_connection_limit: row.get("datconnlimit"),
            database_bytes: row.get("database_bytes"),
            may_create: row.get("may_create"),
            locale: Locale {
                encoding: row.get("encoding"),
                collate: row.get("datcollate"),
                ctype: row.get("datctype"),
                provider: row.get("provider"),
                locale: row.get("locale"),
                recorded_version: row.get("recorded_version"),
                actual_version: row.get("actual_version"),
            },
            in_recovery: row.get("in_recovery"),
            role: role(client).await?,
            provider: provider(client).await?,
            settings,
        })
    }
}

/// `server_version_num`, which chooses between catalog queries.
pub(super) async fn version_num(client: &Client) -> Result<u32, CatalogError> {
    let what = "the server's version";
    let row = client
        .query_one("SELECT current_setting('server_version_num')", &[])
        .await
        .map_err(|error| CatalogError::query(what, error))?;
    let text: String = row.get(0);
    text.parse().map_err(|_| CatalogError::unexpected(what, format!("not a number: {text:?}")))
}

fn database_query(version_num: u32) -> String {
    let (provider, locale, recorded, actual) = match version_num {
        170_000.. => (
            "CASE d.datlocprovider WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END",
            "d.datlocale::text",
            "d.datcollversion::text",
            "pg_database_collation_actual_version(d.oid)::text",
        ),
        150_000.. => (
            "CASE d.datlocprovider WHEN 'i' THEN 'icu' ELSE 'libc' END",
            "d.daticulocale::text",
            "d.datcollversion::text",
            "pg_database_collation_actual_version(d.oid)::text",
        ),
        _ => ("'libc'", "NULL::text", "NULL::text", "NULL::text"),
    };
    format!(
        "SELECT d.oid, d.datname::text, d.datconnlimit, d.datcollate::text, d.datctype::text,
                pg_encoding_to_char(d.encoding)::text AS encoding,
                {provider} AS provider, {locale} AS locale,
                {recorded} AS recorded_version, {actual} AS actual_version,
                pg_is_in_recovery() AS in_recovery,
                has_database_privilege(d.oid, 'CREATE') AS may_create,
                CASE WHEN has_database_privilege(d.oid, 'CONNECT')
                     THEN pg_database_size(d.oid) END AS database_bytes
         FROM pg_database d WHERE d.datname = current_database()"
    )
}

/// `pg_control_system()` may be called by everybody unless somebody revoked it; then the
/// identifier stays unknown (`IDENTIFY_SYSTEM` on a replication connection would tell it).
async fn system_identifier(client: &Client) -> Option<u64> {
    let sql = "SELECT system_identifier FROM pg_control_system()";
    match client.query_one(sql, &[]).await {
        Ok(row) => Some(row.get::<_, i64>(0).cast_unsigned()),
        Err(error) => {
            let reason = super::describe(&error);
            tracing::debug!(%reason, "the system identifier stays unknown");
            None
        }
    }
}

async fn role(client: &Client) -> Result<RoleInfo, CatalogError> {
    let may_use = |role: &str| {
        format!(
            "coalesce((SELECT pg_has_role(current_user, m.oid, 'USAGE')
                       FROM pg_roles m WHERE m.rolname = '{role}'), false)"
        )
    };
    let sql = format!(
        "SELECT r.rolname::text, r.rolsuper, r.rolreplication, r.rolbypassrls, r.rolcreaterole,
                r.rolconnlimit, {} AS rds_replication, {} AS signal_backends,
                {} AS read_all_stats
         FROM pg_roles r WHERE r.rolname = current_user",
        may_use("rds_replication"),
        may_use("pg_signal_backend"),
        may_use("pg_read_all_stats"),
    );
    let row = client
        .query_one(&sql, &[])
        .await
        .map_err(|error| CatalogError::query("the connected role", error))?;
    Ok(RoleInfo {
        name: row.get("rolname"),
        superuser: row.get("rolsuper"),
        replication: row.get("rolreplication"),
        bypass_rls: row.get("rolbypassrls"),
        create_role: row.get("rolcreaterole"),
        connection_limit: row.get("rolconnlimit"),
        rds_replication: row.get("rds_replication"),
        signal_backends: row.get("signal_backends"),
        read_all_stats: row.get("read_all_stats"),
    })
}

async fn provider(client: &Client) -> Result<Option<Provider>, CatalogError> {
    let names: Vec<&str> = Provider::MARKS.iter().map(|(name, _)| *name).collect();
    let rows = client
        .query("SELECT rolname::text FROM pg_roles WHERE rolname = ANY ($1::text[])", &[&names])
        .await
        .map_err(|error| CatalogError::query("the hosting service", error))?;
    let found: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(Provider::MARKS
        .iter()
        .find(|(name, _)| found.iter().any(|f| f == name))
        .map(|(_, provider)| *provider))
}

async fn settings(client: &Client) -> Result<BTreeMap<String, Setting>, CatalogError> {
    let rows = client
        .query(
            "SELECT name, setting, unit FROM pg_settings WHERE name = ANY ($1::text[])",
            &[&WANTED_SETTINGS],
        )
        .await
        .map_err(|error| CatalogError::query("the settings", error))?;
    Ok(rows
        .iter()
        .map(|row| (row.get(0), Setting { value: row.get(1), unit: row.get(2) }))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_bytes() {
        let mut server = ServerInfo::default();
        let mut set = |name: &str, value: &str, unit: Option<&str>| {
            let setting = Setting { value: value.into(), unit: unit.map(str::to_owned) };
            server.settings.insert(name.into(), setting);
        };
        set("a", "-1", Some("MB"));
        set("b", "1024", Some("MB"));
        set("c", "2", Some("8kB"));
        set("d", "2", Some("fortnights"));
        set("e", "9223372036854775807", Some("MB"));
        assert_eq!(server.bytes("a"), Some(-1));
        assert_eq!(server.bytes("b"), Some(1 << 30));
        assert_eq!(server.bytes("c"), Some(16 << 10));
        assert_eq!(server.bytes("d"), None);
        assert_eq!(server.bytes("e"), None);
    }
}
