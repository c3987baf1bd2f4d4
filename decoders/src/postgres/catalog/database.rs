//! Objects of a database or a cluster other than relations.

use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::attached::{self, Firing};
use super::error::CatalogError;
use super::filter::USER_SCHEMAS;

/// An installed extension.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Extension {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// Schema of its objects.
    pub schema: String,
}

/// Installed extensions, by name.
pub async fn extensions(client: &Client) -> Result<Vec<Extension>, CatalogError> {
    let rows = client
        .query(
            "SELECT e.extname::text, e.extversion, n.nspname::text
             FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
             ORDER BY 1",
            &[],
        )
        .await
        .map_err(|error| CatalogError::query("extensions", error))?;
    Ok(rows
        .iter()
        .map(|row| Extension { name: row.get(0), version: row.get(1), schema: row.get(2) })
        .collect())
}

/// Extensions that could be installed: name and every version on offer, by name. The default
/// version comes first.
pub async fn available_extensions(
    client: &Client,
) -> Result<Vec<(String, Vec<String>)>, CatalogError> {
    let rows = client
        .query(
            "SELECT a.name::text, array_agg(v.version ORDER BY v.version <> a.default_version)
             FROM pg_catalog.pg_available_extensions a
             JOIN pg_catalog.pg_available_extension_versions v ON v.name = a.name
             GROUP BY 1 ORDER BY 1",
            &[],
        )
        .await
        .map_err(|error| CatalogError::query("available extensions", error))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// A role.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Role {
    /// Name.
    pub name: String,
    /// LOGIN.
    pub login: bool,
    /// INHERIT.
    pub inherit: bool,
    /// CREATEROLE.
    pub create_role: bool,
    /// CREATEDB.
    pub create_db: bool,
}

/// Roles that something in this database depends on: owners, grantees, members of policies and
/// default privileges (`pg_shdepend`), the database's owner, and owners that PostgreSQL does not
/// record because they are built in. Predefined `pg_` roles are left out.
pub async fn referenced_roles(client: &Client) -> Result<Vec<Role>, CatalogError> {
    super::pin_search_path(client).await?;
    let sql = format!(
        "SELECT r.rolname::text, r.rolcanlogin, r.rolinherit, r.rolcreaterole, r.rolcreatedb
         FROM pg_roles r
         WHERE r.rolname !~ '^pg_' AND r.oid IN (
             SELECT d.refobjid FROM pg_shdepend d
             WHERE d.refclassid = 'pg_authid'::regclass
               AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
             UNION SELECT datdba FROM pg_database WHERE datname = current_database()
             UNION SELECT c.relowner FROM pg_class c
                   JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {USER_SCHEMAS}
             UNION SELECT n.nspowner FROM pg_namespace n WHERE {USER_SCHEMAS})
         ORDER BY 1"
    );
    let rows = client
        .query(&sql, &[])
        .await
        .map_err(|error| CatalogError::query("roles that objects refer to", error))?;
    Ok(rows
        .iter()
        .map(|row| Role {
            name: row.get(0),
            login: row.get(1),
            inherit: row.get(2),
            create_role: row.get(3),
            create_db: row.get(4),
        })
        .collect())
}

/// Names of all roles of the cluster.
pub async fn role_names(client: &Client) -> Result<Vec<String>, CatalogError> {
    names(client, "roles", "SELECT rolname::text FROM pg_catalog.pg_roles ORDER BY 1").await
}

/// Names of all tablespaces of the cluster.
pub async fn tablespace_names(client: &Client) -> Result<Vec<String>, CatalogError> {
    let sql = "SELECT spcname::text FROM pg_catalog.pg_tablespace ORDER BY 1";
    names(client, "tablespaces", sql).await
}

/// Names of the users' schemas.
pub async fn schema_names(client: &Client) -> Result<Vec<String>, CatalogError> {
    let sql = format!(
        "SELECT n.nspname::text FROM pg_catalog.pg_namespace n WHERE {USER_SCHEMAS}
           AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend x
                           WHERE x.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
                             AND x.objid = n.oid AND x.deptype = 'e')
         ORDER BY 1"
    );
    names(client, "schemas", &sql).await
}

async fn names(
    client: &Client,
    what: &'static str,
    sql: &str,
) -> Result<Vec<String>, CatalogError> {
    let rows = client.query(sql, &[]).await.map_err(|error| CatalogError::query(what, error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Large objects (`pg_largeobject`), whose changes are never decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LargeObjects {
    /// How many, counted up to [`LargeObjects::COUNT_LIMIT`].
    pub count: i64,
}

impl LargeObjects {
    /// Counting stops here: whether it is 1 million or 100 makes no difference.
    pub const COUNT_LIMIT: i64 = 1_000_000;
}

/// Counts large objects.
pub async fn large_objects(client: &Client) -> Result<LargeObjects, CatalogError> {
    let sql = format!(
        "SELECT count(*) FROM (SELECT 1 FROM pg_catalog.pg_largeobject_metadata LIMIT {}) m",
        LargeObjects::COUNT_LIMIT
    );
    let row = client
        .query_one(&sql, &[])
        .await
        .map_err(|error| CatalogError::query("large objects", error))?;
    Ok(LargeObjects { count: row.get(0) })
}

/// A publication.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Publication {
    /// Name.
    pub name: String,
    /// FOR ALL TABLES.
    pub all_tables: bool,
    /// `publish_via_partition_root` (13+).
    pub via_root: bool,
}

/// Publications of the database, by name.
pub async fn publications(client: &Client) -> Result<Vec<Publication>, CatalogError> {
    let version_num = super::server::version_num(client).await?;
    let via_root = if version_num >= 130_000 { "pubviaroot" } else { "false" };
    let sql = format!(
        "SELECT pubname::text, puballtables, {via_root} FROM pg_catalog.pg_publication ORDER BY 1"
    );
    let rows = client
        .query(&sql, &[])
        .await
        .map_err(|error| CatalogError::query("publications", error))?;
    Ok(rows
        .iter()
        .map(|row| Publication { name: row.get(0), all_tables: row.get(1), via_root: row.get(2) })
        .collect())
}

/// A subscription: changes that arrive from elsewhere.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Subscription {
    /// Name.
    pub name: String,
    /// Enabled.
    pub enabled: bool,
}

/// Subscriptions of the database, by name. The connection string is a secret and is not read.
pub async fn subscriptions(client: &Client) -> Result<Vec<Subscription>, CatalogError> {
    let rows = client
        .query(
            "SELECT subname::text, subenabled FROM pg_catalog.pg_subscription
             WHERE subdbid = (SELECT oid FROM pg_catalog.pg_database
                              WHERE datname = pg_catalog.current_database())
             ORDER BY 1",
            &[],
        )
        .await
        .map_err(|error| CatalogError::query("subscriptions", error))?;
    Ok(rows.iter().map(|row| Subscription { name: row.get(0), enabled: row.get(1) }).collect())
}

/// An event trigger.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventTrigger {
    /// Name.
    pub name: String,
    /// `ddl_command_start`, `ddl_command_end`, `sql_drop`, `table_rewrite` or `login`.
    pub event: String,
    /// When it fires.
    pub firing: Firing,
}

/// Event triggers that belong to no extension, by name.
pub async fn event_triggers(client: &Client) -> Result<Vec<EventTrigger>, CatalogError> {
    let rows = client
        .query(
            "SELECT t.evtname::text, t.evtevent::text, t.evtenabled::text
             FROM pg_catalog.pg_event_trigger t
             WHERE NOT EXISTS (
                 SELECT 1 FROM pg_catalog.pg_depend x
                 WHERE x.classid = 'pg_catalog.pg_event_trigger'::pg_catalog.regclass
                   AND x.objid = t.oid AND x.deptype = 'e')
             ORDER BY 1",
            &[],
        )
        .await
        .map_err(|error| CatalogError::query("event triggers", error))?;
    rows.iter()
        .map(|row| {
            let firing = attached::firing(row.get(2), "event triggers")?;
            Ok(EventTrigger { name: row.get(0), event: row.get(1), firing })
        })
        .collect()
}
