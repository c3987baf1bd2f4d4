//! Green read-only by default: our own statements say `READ WRITE`, but its clients would be sent
//! to a server that refuses every write of theirs, and after the flip it is too late to say so.

use std::collections::BTreeSet;

use crate::api::Check;
use crate::ports::PortResult;
use crate::sql::{Sql, SqlError, ident, soon};

/// Settings of this database and of roles (pg_db_role_setting; role 0 and database 0 mean all).
const SETTINGS: &str = "SELECT r.rolname AS role, d.datname AS database \
     FROM pg_catalog.pg_db_role_setting s \
     CROSS JOIN LATERAL unnest(s.setconfig) AS c(setting) \
     LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase \
     LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole \
     WHERE (s.setdatabase = 0 OR d.datname = pg_catalog.current_database()) \
     AND CASE WHEN c.setting LIKE 'default\\_transaction\\_read\\_only=%' \
     THEN substr(c.setting, length('default_transaction_read_only=') + 1)::boolean \
     ELSE false END ORDER BY 1, 2";

/// The server's own default; what databases, roles and our session say comes after it.
const SERVER: &str = "SELECT count(*) AS found FROM pg_catalog.pg_settings \
     WHERE name = 'default_transaction_read_only' AND reset_val = 'on' \
     AND source NOT IN ('database', 'user', 'database user', 'client', 'session')";

/// A role, if not all of them, and whether the setting is of one database only.
type Scope = (Option<String>, bool);

async fn scopes(sql: &Sql) -> Result<(BTreeSet<Scope>, Option<String>), SqlError> {
    let mut scopes = BTreeSet::new();
    let mut database = None;
    for row in sql.rows(SETTINGS, soon()).await? {
        scopes.insert((row.get("role").map(str::to_owned), row.get("database").is_some()));
        database = database.or(row.get("database").map(str::to_owned));
    }
    Ok((scopes, database))
}

/// Fails if clients of the target would find it read-only. A role that is read-only on the source,
/// too, is meant to be. Each side comes with its name. `sealed`: the database's own setting is that
/// of a fence of ours, which is lowered before clients come.
pub(crate) async fn inspect(
    (source, from): (&Sql, &str),
    (target, to): (&Sql, &str),
    sealed: bool,
) -> PortResult<Vec<Check>> {
    let doing = "looking for default_transaction_read_only";
    let (of_source, _) = scopes(source).await.map_err(|error| error.at(from, doing))?;
    let (of_target, database) = scopes(target).await.map_err(|error| error.at(to, doing))?;
    let server = target.row(SERVER, soon()).await.and_then(|row| row.number::<u64>("found"));
    let server = server.map_err(|error| error.at(to, doing))? > 0;
    let mut found = Vec::new();
    if server {
        found.push(("the server".to_owned(), "ALTER SYSTEM".to_owned()));
    }
    let database = database.map(|name| ident(&name)).unwrap_or_default();
    for scope in &of_target {
        match scope {
            (None, true) if sealed => {}
            (None, _) => {
                let statement = format!("ALTER DATABASE {database}");
                found.push((format!("database {database}"), statement));
            }
            (Some(_), _) if of_source.contains(scope) => {}
            (Some(role), of_one) => {
                let role = ident(role);
                let within =
                    if *of_one { format!(" IN DATABASE {database}") } else { String::new() };
                found.push((format!("role {role}"), format!("ALTER ROLE {role}{within}")));
            }
        }
    }
    Ok(found
        .into_iter()
        .map(|(who, statement)| {
            Check::fail(
                format!("{to}-read-only"),
                format!(
                    "{to} has default_transaction_read_only = on for {who}: clients could not \
                     write there after the flip"
                ),
                format!("{statement} RESET default_transaction_read_only on {to}"),
            )
        })
        .collect())
}
