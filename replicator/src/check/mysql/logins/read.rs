//! The accounts of a server as it keeps them. Their secrets never come here: only what they hash to does.

use std::collections::{BTreeMap, BTreeSet};

use decoders::mysql::catalog::CatalogError;
use decoders::mysql::server::{Conn, Server, code, literal};
use mysql_async::Row;
use mysql_async::prelude::Queryable;
use serde::Deserialize;

use super::rights::{Grants, Right};

const WHAT: &str = "accounts and their rights";

/// No such table, no such database: nobody has closed the server.
const MISSING: [u16; 2] = [1146, 1049];

/// Accounts that a server, its packages or its provider keep for themselves.
const SYSTEM: [&str; 13] = [
    "mysql.sys",
    "mysql.session",
    "mysql.infoschema",
    "mariadb.sys",
    "debian-sys-maint",
    "rdsadmin",
    "rdsrepladmin",
    "rds_superuser_role",
    "cloudsqladmin",
    "cloudsqlimport",
    "cloudsqlexport",
    "cloudsqlreplica",
    "azure_superuser",
];

/// Name and host; a role of MariaDB has no host.
pub type Name = (String, String);

/// An account or a role, as far as it decides who gets in and what he may do.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Login {
    /// Nobody logs in as it (MariaDB tells roles from accounts).
    pub is_role: bool,
    /// Nobody may log in as it; not by our fence.
    pub locked: bool,
    /// The password has to be changed before anything else.
    pub expired: bool,
    /// How it authenticates.
    pub plugin: String,
    /// What the secret hashes to.
    pub secret: String,
    /// What kind of TLS it requires; empty: none.
    pub tls: String,
    /// Queries, updates and connections an hour, connections at a time; 0: any number.
    pub limits: [u64; 4],
    /// How long passwords last, and which may be used again.
    pub passwords: String,
    /// Roles that are active from the beginning.
    pub default_roles: String,
    /// What other attributes hash to.
    pub attributes: String,
    /// Rights, those by roles left out.
    pub grants: Grants,
}

/// All of a server.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Logins {
    /// Whether it is MariaDB.
    pub is_mariadb: bool,
    /// The server's own host.
    pub host: String,
    /// Our account there.
    pub ours: Name,
    /// Rights that the server knows, in capitals.
    pub known_rights: BTreeSet<String>,
    /// Accounts and roles, without the server's own and without ours.
    pub all: BTreeMap<Name, Login>,
}

/// All accounts and roles of MySQL. A role is a locked account.
const MYSQL: &str = "SELECT u.user, u.host, 0, u.account_locked = 'Y', u.password_expired = 'Y', \
     u.plugin, sha2(concat(u.plugin, '/', ifnull(u.authentication_string, '')), 256), \
     trim(concat_ws(' ', u.ssl_type, cast(u.ssl_cipher AS char), cast(u.x509_issuer AS char), \
     cast(u.x509_subject AS char))), \
     u.max_questions, u.max_updates, u.max_connections, u.max_user_connections, \
     concat_ws('/', ifnull(u.password_lifetime, '-'), ifnull(u.password_reuse_history, '-'), \
     ifnull(u.password_reuse_time, '-'), ifnull(u.password_require_current, '-')), \
     ifnull((SELECT group_concat(concat(d.default_role_user, '@', d.default_role_host) ORDER BY 1) \
     FROM mysql.default_roles d WHERE d.user = u.user AND d.host = u.host), ''), \
     sha2(ifnull(u.user_attributes, ''), 256) FROM mysql.user u";

/// The same of MariaDB.
const MARIADB: &str = "SELECT u.user, u.host, coalesce(json_value(priv, '$.is_role'), 0) + 0, \
     coalesce(json_value(priv, '$.account_locked'), 0) + 0, \
     coalesce(json_value(priv, '$.password_last_changed'), 1) = 0, \
     coalesce(json_value(priv, '$.plugin'), ''), \
     sha2(concat(coalesce(json_value(priv, '$.plugin'), ''), '/', \
     coalesce(json_value(priv, '$.authentication_string'), ''), '/', \
     coalesce(json_extract(priv, '$.auth_or'), '')), 256), \
     trim(concat_ws(' ', elt(json_value(priv, '$.ssl_type') + 0, 'ANY', 'X509', 'SPECIFIED'), \
     json_value(priv, '$.ssl_cipher'), json_value(priv, '$.x509_issuer'), \
     json_value(priv, '$.x509_subject'))), \
     coalesce(json_value(priv, '$.max_questions'), 0) + 0, \
     coalesce(json_value(priv, '$.max_updates'), 0) + 0, \
     coalesce(json_value(priv, '$.max_connections'), 0) + 0, \
     coalesce(json_value(priv, '$.max_user_connections'), 0) + 0, \
     coalesce(json_value(priv, '$.password_lifetime'), '-'), \
     coalesce(json_value(priv, '$.default_role'), ''), \
     coalesce(json_value(priv, '$.max_statement_time'), '') FROM mysql.global_priv u";

/// What of the fence's claim is of interest here.
#[derive(Deserialize)]
struct Claim {
    undo: Undo,
}

#[derive(Deserialize)]
struct Undo {
    accounts: BTreeSet<String>,
}

/// Reads them.
///
/// # Errors
/// A query failed; the account may lack SELECT on `mysql.*`.
pub async fn read(conn: &mut Conn, server: &Server) -> Result<Logins, CatalogError> {
    let failed = |error| CatalogError::query(WHAT, error);
    let is_mariadb = server.is_mariadb();
    let about: Option<(String, String)> =
        conn.query_first("SELECT @@hostname, current_user()").await.map_err(failed)?;
    let (host, ours) = about.unwrap_or_default();
    let (name, at) = ours.rsplit_once('@').unwrap_or((&ours, ""));
    let ours = (name.to_owned(), at.to_owned());
    let privileges: Vec<Row> = conn.query("SHOW PRIVILEGES").await.map_err(failed)?;
    let known_rights =
        privileges.into_iter().filter_map(|mut row| row.take_opt::<String, _>(0)?.ok());
    let known_rights = known_rights.map(|right| right.to_ascii_uppercase()).collect();
    let shut = locked_by_the_fence(conn).await?;
    let sql = if is_mariadb { MARIADB } else { MYSQL };
    let rows: Vec<Row> = conn.query(sql).await.map_err(failed)?;
    let mut all = BTreeMap::new();
    for row in rows {
        let Some((name, mut login)) = login(row) else {
            return Err(CatalogError::unexpected(WHAT, "a field of an account is none"));
        };
        if SYSTEM.contains(&name.0.as_str()) || name == ours {
            continue;
        }
        login.locked &= !shut.contains(&format!("{}@{}", literal(&name.0), literal(&name.1)));
        let account = account_text(&name, login.is_role);
        let show = format!("SHOW GRANTS FOR {account}");
        let lines: Vec<String> = conn.query(show).await.map_err(failed)?;
        login.grants = Grants::of(&lines);
        all.insert(name, login);
    }
    Ok(Logins { is_mariadb, host, ours, known_rights, all })
}

/// An account or a role as statements name it.
pub fn account_text((name, host): &Name, is_role: bool) -> String {
    match is_role {
        true => literal(name),
        false => format!("{}@{}", literal(name), literal(host)),
    }
}

/// Accounts that an open claim of the fence has locked, as statements name them.
async fn locked_by_the_fence(conn: &mut Conn) -> Result<BTreeSet<String>, CatalogError> {
    let lists: Vec<String> = match conn.query("SELECT undo_list FROM _cutover.fence").await {
        Ok(lists) => lists,
        Err(error) if code(&error).is_some_and(|code| MISSING.contains(&code)) => Vec::new(),
        Err(error) => return Err(CatalogError::query("who has closed the server", error)),
    };
    let accounts = |list: &String| {
        serde_json::from_str::<Claim>(list).map(|claim| claim.undo.accounts).map_err(|_| {
            CatalogError::unexpected("who has closed the server", "the claim can't be read")
        })
    };
    let all = lists.iter().map(accounts).collect::<Result<Vec<_>, _>>()?;
    Ok(all.into_iter().flatten().collect())
}

fn login(mut row: Row) -> Option<(Name, Login)> {
    let name = (row.take_opt::<String, _>(0)?.ok()?, row.take_opt::<String, _>(1)?.ok()?);
    let mut number = |at: usize| row.take_opt::<u64, _>(at)?.ok();
    let flags = [number(2)?, number(3)?, number(4)?];
    let limits = [number(8)?, number(9)?, number(10)?, number(11)?];
    let mut text = |at: usize| row.take_opt::<String, _>(at)?.ok();
    let login = Login {
        is_role: flags[0] != 0,
        locked: flags[1] != 0,
        expired: flags[2] != 0,
        plugin: text(5)?,
        secret: text(6)?,
        tls: text(7)?,
        limits,
        passwords: text(12)?,
        default_roles: text(13)?,
        attributes: text(14)?,
        grants: Grants::default(),
    };
    Some((name, login))
}

impl Login {
    /// Whether it has to do with the database: a right there, everywhere, or by a role.
    pub fn concerns(&self, database: Option<&str>) -> bool {
        let Some(database) = database else { return true };
        self.grants.rights.keys().any(|right| right.reaches(database))
    }

    /// Whether it has this right, also by a wider one.
    pub fn has(&self, right: &Right) -> bool {
        self.grants.rights.keys().any(|own| own.covers(right))
    }
}
