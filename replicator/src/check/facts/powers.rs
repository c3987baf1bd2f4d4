//! What the role on green may make and close.

use decoders::postgres::catalog::CatalogError;
use tokio_postgres::Client;

use super::Probe;

/// What is not for everybody to do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Powers {
    /// Extensions on offer that only a superuser may create, and the role is none.
    pub superuser_extensions: Vec<String>,
    /// Roles that the role may not act as (SET ROLE).
    pub unsettable_roles: Vec<String>,
    /// It may end sessions of other roles.
    pub may_signal: bool,
    /// It owns the database, or may act as its owner.
    pub may_alter_database: bool,
}

pub(super) async fn read(client: &Client) -> Probe<Powers> {
    let failed = |error| CatalogError::query("what the role may make", error);
    let version = "SELECT current_setting('server_version_num')::int4";
    let version: i32 = client.query_one(version, &[]).await.map_err(failed)?.get(0);
    // Extensions may be trusted since 13; a grant may leave SET out since 16.
    let trusted = if version >= 130_000 { "AND NOT v.trusted" } else { "" };
    let right = if version >= 160_000 { "SET" } else { "MEMBER" };
    let names = async |sql: String| -> Result<Vec<String>, tokio_postgres::Error> {
        let rows = client.query(&sql, &[]).await?;
        rows.iter().map(|row| row.try_get(0)).collect()
    };
    let superuser_extensions = names(format!(
        "SELECT v.name::text FROM pg_catalog.pg_available_extension_versions v
         JOIN pg_catalog.pg_available_extensions e
             ON e.name = v.name AND e.default_version = v.version
         WHERE v.superuser {trusted} AND current_setting('is_superuser') = 'off' ORDER BY 1"
    ));
    let unsettable_roles = names(format!(
        "SELECT rolname::text FROM pg_catalog.pg_roles
         WHERE NOT pg_catalog.pg_has_role(current_user, oid, '{right}') ORDER BY 1"
    ));
    let powers = "
        SELECT pg_catalog.pg_has_role(current_user, 'pg_signal_backend', 'USAGE'),
               pg_catalog.pg_has_role(current_user, datdba, 'USAGE')
        FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()";
    let row = client.query_one(powers, &[]).await.map_err(failed)?;
    Ok(Powers {
        superuser_extensions: superuser_extensions.await.map_err(failed)?,
        unsettable_roles: unsettable_roles.await.map_err(failed)?,
        may_signal: row.get(0),
        may_alter_database: row.get(1),
    })
}
