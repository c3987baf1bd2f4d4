//! Rights, settings and counters outside of a database's dump, as lines by the object's name.
//!
//! What a populated materialized view holds is not judged: a cutover refreshes green's, and blue's is as old
//! as its last refresh.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};

use crate::postgres::Postgres;
use crate::stage::DATABASE;

/// Name and state of what is compared. Roles that only one side has are found by their absence;
/// the superuser belongs to each server itself.
const QUERIES: [(&str, &str); 7] = [
    (
        "role",
        "SELECT rolname, concat_ws(' ', rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin,
                rolreplication, rolbypassrls, rolconnlimit, rolvaliduntil, rolpassword)
         FROM pg_authid WHERE rolname !~ '^pg_' AND rolname <> 'postgres'",
    ),
    (
        "membership",
        "SELECT r.rolname || ' of ' || m.rolname, max(am.admin_option::text)
         FROM pg_auth_members am JOIN pg_roles r ON r.oid = am.roleid
              JOIN pg_roles m ON m.oid = am.member
         WHERE r.rolname !~ '^pg_' AND m.rolname <> 'postgres' GROUP BY 1",
    ),
    (
        "setting",
        "SELECT coalesce(d.datname, 'every database') || ' / ' || coalesce(r.rolname, 'every role'),
                (SELECT string_agg(c, ', ' ORDER BY c) FROM unnest(s.setconfig) c)
         FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase
              LEFT JOIN pg_roles r ON r.oid = s.setrole
         WHERE coalesce(d.datname, 'shop') = 'shop'",
    ),
    (
        "database rights",
        "SELECT datname, coalesce((SELECT string_agg(a::text, ', ' ORDER BY a::text) FROM
                unnest(coalesce(datacl, acldefault('d', datdba))) a), '')
         FROM pg_database WHERE datname = 'shop'",
    ),
    (
        "database comment",
        "SELECT datname, coalesce(shobj_description(oid, 'pg_database'), '')
         FROM pg_database WHERE datname = 'shop'",
    ),
    (
        "database limit",
        "SELECT datname, datconnlimit::text FROM pg_database WHERE datname = 'shop'",
    ),
    (
        "materialized view populated",
        "SELECT relname::text, relispopulated::text FROM pg_class WHERE relkind = 'm'",
    ),
];

/// What is so on one server, by object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts(BTreeMap<String, String>);

impl Facts {
    pub async fn read(server: &Postgres) -> Result<Facts> {
        let mut found = BTreeMap::new();
        for (what, sql) in QUERIES {
            for row in server.rows(DATABASE, sql).await? {
                let [Some(name), state] = row.as_slice() else { bail!("{what}: no name") };
                found.insert(format!("{what} {name}"), state.clone().unwrap_or_default());
            }
        }
        Ok(Facts(found))
    }

    /// The names of what differs.
    pub fn differences(&self, other: &Facts) -> BTreeSet<String> {
        let all = self.0.keys().chain(other.0.keys());
        all.filter(|name| self.0.get(*name) != other.0.get(*name)).cloned().collect()
    }
}

/// Sequences of green that stand before blue's: each would give a number again.
pub async fn counters(server: &Postgres) -> Result<BTreeMap<String, i64>> {
    let sql = "SELECT format('%I.%I', schemaname, sequencename),
                      coalesce(last_value, start_value - 1) * sign(increment_by)
               FROM pg_sequences WHERE schemaname <> '_cutover'";
    let mut found = BTreeMap::new();
    for row in server.rows(DATABASE, sql).await? {
        let [Some(name), Some(value)] = row.as_slice() else { bail!("a sequence without a name") };
        found.insert(name.clone(), value.parse()?);
    }
    Ok(found)
}
