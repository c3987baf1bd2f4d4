//! Who may connect to the database: `pg_database.datacl`, exactly.
//!
//! While the door is ajar for our own sessions, CONNECT is what keeps clients out. It is taken
//! from everybody only then, and given back by `lower`: a run that never needs the airlock leaves
//! the list untouched, byte for byte (one that is NULL can't be made NULL again, only equal to
//! what NULL stands for).
//!
//! A REVOKE takes away only what the same grantor gave (manual, REVOKE). As owner or superuser
//! that is the owner; for the others `SET ROLE` is needed.

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::doing;
use crate::ports::PortResult;
use crate::sql::{Sql, ident, literal};

/// One entry: somebody may connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The role; `None`: everybody (PUBLIC).
    pub grantee: Option<String>,
    /// Who granted it.
    pub grantor: String,
    /// WITH GRANT OPTION.
    pub grantable: bool,
}

/// All entries.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// The database's owner.
    pub owner: String,
    /// The entries, in the list's order.
    pub grants: Vec<Grant>,
}

/// The role that we log in as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Keeper {
    pub name: String,
    /// It needs no CONNECT.
    pub superuser: bool,
}

pub(super) const KEEPER: &str = "SELECT session_user AS name, rolsuper AS superuser \
     FROM pg_catalog.pg_roles WHERE rolname = session_user";

fn connect_sql(database: &str) -> String {
    format!(
        "SELECT x.grantee = 0 AS everybody, pg_catalog.pg_get_userbyid(x.grantee) AS grantee, \
                pg_catalog.pg_get_userbyid(x.grantor) AS grantor, x.is_grantable AS grantable, \
                pg_catalog.pg_get_userbyid(d.datdba) AS owner \
         FROM pg_catalog.pg_database d LEFT JOIN LATERAL pg_catalog.aclexplode( \
              coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) x \
              ON x.privilege_type = 'CONNECT' WHERE d.datname = {}",
        literal(database)
    )
}

pub(super) async fn read(
    sql: &Sql,
    place: &'static str,
    database: &str,
    deadline: Instant,
) -> PortResult<Connect> {
    let rows = sql.rows(&connect_sql(database), deadline).await;
    let rows = rows.map_err(doing(place, "reading who may connect"))?;
    let text = |value: Option<&str>| value.unwrap_or_default().to_owned();
    Ok(Connect {
        owner: rows.first().map(|row| text(row.get("owner"))).unwrap_or_default(),
        grants: rows
            .iter()
            .filter(|row| row.get("grantor").is_some())
            .map(|row| Grant {
                grantee: (!row.is_true("everybody")).then(|| text(row.get("grantee"))),
                grantor: text(row.get("grantor")),
                grantable: row.is_true("grantable"),
            })
            .collect(),
    })
}

pub(super) async fn keeper(
    sql: &Sql,
    place: &'static str,
    deadline: Instant,
) -> PortResult<Keeper> {
    let row = sql.row(KEEPER, deadline).await.map_err(doing(place, "asking who we are"))?;
    let name = row.get("name").unwrap_or_default().to_owned();
    Ok(Keeper { name, superuser: row.is_true("superuser") })
}

impl Connect {
    /// Entries that only their own grantor can take away.
    pub(super) fn of_others(&self) -> impl Iterator<Item = &Grant> {
        self.grants.iter().filter(|grant| grant.grantor != self.owner)
    }

    /// How many grants lie between the owner and this one.
    fn depth(&self, grant: &Grant) -> usize {
        let mut grantor = grant.grantor.as_str();
        for depth in 0..self.grants.len() {
            if grantor == self.owner {
                return depth;
            }
            let given = self.grants.iter().find(|g| g.grantee.as_deref() == Some(grantor));
            let Some(given) = given else { return depth };
            grantor = &given.grantor;
        }
        self.grants.len()
    }

    /// Statements after which nobody but `keeper` (and superusers) may connect. None: it is so.
    pub(super) fn revoke_all(&self, database: &str, keeper: &Keeper) -> Vec<String> {
        let kept = |grant: &Grant| {
            !keeper.superuser
                && grant.grantee.as_ref() == Some(&keeper.name)
                && grant.grantor == self.owner
        };
        let mut statements = Vec::new();
        if !keeper.superuser && !self.grants.iter().any(kept) {
            statements.push(self.given(database, &Grant::to(&keeper.name, &self.owner)));
        }
        let mut taken: Vec<_> = self.grants.iter().filter(|grant| !kept(grant)).collect();
        // What was granted on goes first.
        taken.sort_by_key(|grant| std::cmp::Reverse(self.depth(grant)));
        statements.extend(taken.into_iter().map(|grant| self.taken(database, grant)));
        statements
    }

    /// Statements that give back what `self` had and `now` lacks, and take from `keeper` what it
    /// was given to get in. Entries that somebody else has added meanwhile stay. `exists` says
    /// which roles are still there.
    pub(super) fn restore(
        &self,
        database: &str,
        now: &Connect,
        keeper: &Keeper,
        exists: impl Fn(&str) -> bool,
    ) -> Vec<String> {
        // Under a new owner what the old one had granted is the new one's grant.
        let mut prior = self.clone();
        for grant in &mut prior.grants {
            if grant.grantor == self.owner {
                grant.grantor.clone_from(&now.owner);
            }
        }
        prior.owner.clone_from(&now.owner);
        let same = |a: &Grant, b: &Grant| a.grantee == b.grantee && a.grantor == b.grantor;
        let mut missing: Vec<_> = prior
            .grants
            .iter()
            .filter(|grant| !now.grants.iter().any(|have| same(have, grant)))
            .filter(|grant| exists(&grant.grantor))
            .filter(|grant| grant.grantee.as_deref().is_none_or(&exists))
            .collect();
        if missing.is_empty() {
            return Vec::new();
        }
        missing.sort_by_key(|grant| prior.depth(grant));
        let mut statements: Vec<_> =
            missing.into_iter().map(|grant| prior.given(database, grant)).collect();
        let lent = Grant::to(&keeper.name, &now.owner);
        if !keeper.superuser
            && now.grants.iter().any(|have| same(have, &lent))
            && !prior.grants.iter().any(|had| same(had, &lent))
        {
            statements.push(prior.taken(database, &lent));
        }
        statements
    }

    fn given(&self, database: &str, grant: &Grant) -> String {
        let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
        let to = grant.grantee();
        self.by(grant, format!("GRANT CONNECT ON DATABASE {} TO {to}{option}", ident(database)))
    }

    fn taken(&self, database: &str, grant: &Grant) -> String {
        let from = grant.grantee();
        self.by(grant, format!("REVOKE CONNECT ON DATABASE {} FROM {from}", ident(database)))
    }

    /// A statement as the grantor; to be run within a transaction.
    fn by(&self, grant: &Grant, statement: String) -> String {
        if grant.grantor == self.owner {
            return statement;
        }
        format!("SET LOCAL ROLE {}; {statement}; RESET ROLE", ident(&grant.grantor))
    }
}

impl Grant {
    fn to(role: &str, grantor: &str) -> Self {
        Self { grantee: Some(role.to_owned()), grantor: grantor.to_owned(), grantable: false }
    }

    fn grantee(&self) -> String {
        self.grantee.as_deref().map_or_else(|| "PUBLIC".into(), ident)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(grantee: &str, grantor: &str, grantable: bool) -> Grant {
        let grantee = (grantee != "PUBLIC").then(|| grantee.to_owned());
        Grant { grantee, grantor: grantor.to_owned(), grantable }
    }

    fn connect() -> Connect {
        Connect {
            owner: "own".into(),
            grants: vec![
                grant("PUBLIC", "own", false),
                grant("own", "own", false),
                grant("late", "app", false),
                grant("app", "own", true),
            ],
        }
    }

    #[test]
    fn what_was_granted_on_is_taken_first_and_given_back_last() {
        let superuser = Keeper { name: "postgres".into(), superuser: true };
        let taken = connect().revoke_all("d", &superuser);
        assert_eq!(taken.len(), 4);
        assert_eq!(
            taken[0],
            "SET LOCAL ROLE \"app\"; REVOKE CONNECT ON DATABASE \"d\" FROM \"late\"; RESET ROLE"
        );
        let nobody = Connect { owner: "own".into(), grants: Vec::new() };
        assert!(nobody.revoke_all("d", &superuser).is_empty());
        let given = connect().restore("d", &nobody, &superuser, |_| true);
        assert_eq!(given.len(), 4);
        assert!(given[3].starts_with("SET LOCAL ROLE \"app\""), "{given:?}");
        assert!(given[2].ends_with("TO \"app\" WITH GRANT OPTION"), "{given:?}");
        assert!(connect().restore("d", &connect(), &superuser, |_| true).is_empty());
        // A role that is gone can't be given anything.
        let given = connect().restore("d", &nobody, &superuser, |role| role != "late");
        assert_eq!(given.len(), 3);
    }

    #[test]
    fn our_own_role_stays_and_what_it_was_lent_is_taken_back() {
        let mover = Keeper { name: "mover".into(), superuser: false };
        let taken = connect().revoke_all("d", &mover);
        assert_eq!(taken[0], "GRANT CONNECT ON DATABASE \"d\" TO \"mover\"");
        let only_us = Connect { owner: "own".into(), grants: vec![grant("mover", "own", false)] };
        assert!(only_us.revoke_all("d", &mover).is_empty());
        let given = connect().restore("d", &only_us, &mover, |_| true);
        assert_eq!(given.last().unwrap(), "REVOKE CONNECT ON DATABASE \"d\" FROM \"mover\"");
        // What somebody else has granted meanwhile stays.
        let mut also = only_us.clone();
        also.grants.push(grant("new", "own", false));
        let given = connect().restore("d", &also, &mover, |_| true);
        assert!(given.iter().all(|statement| !statement.contains("new")));
        // As the owner nothing is lent.
        let own = Keeper { name: "own".into(), superuser: false };
        assert_eq!(connect().revoke_all("d", &own).len(), 3);
    }
}
