//! The way back: blue is opened, and nothing of the fence lives on in a session.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::claim::{self, Comment, Held, Needs};
use super::grants::{self, Connect, Keeper};
use super::sessions::SCAN_PAUSE;
use super::{
    PostgresFence, PostgresUndo, acts, doing, quoted_database, rights, session_of, sessions,
};
use crate::ports::{PortError, PortResult};
use crate::sql::{Sql, TextRow, ident, literal};

/// How long sessions may take to end that were told to. They don't hold the way back up: blue is
/// open by then, and the worst is a session that stays read-only.
const CLOSE_MAX: Duration = Duration::from_millis(500);

/// What of blue a fence may have changed, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Current {
    pub allow_connections: bool,
    pub read_only: Option<String>,
    /// Roles of the undo list that exist and may not log in.
    pub no_login: Vec<String>,
    /// How many of them exist.
    pub of_undo: usize,
    pub connect: Connect,
    /// Of the roles in the undo list's grants: those that exist.
    pub roles: BTreeSet<String>,
    pub keeper: Keeper,
    /// What says whose it is.
    pub comments: Vec<Comment>,
}

/// The statements that undo, and what they leave because somebody else has changed it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lowering {
    /// To be run in one transaction: it can't open half.
    pub statements: Vec<String>,
    pub left: Vec<String>,
}

impl Current {
    /// As a fence leaves it.
    pub fn fenced(undo: &PostgresUndo) -> Self {
        let sealed = !undo.closes_door();
        Self {
            allow_connections: sealed && undo.allow_connections,
            read_only: if undo.may_alter { Some("on".into()) } else { undo.read_only.clone() },
            no_login: undo.roles.clone(),
            of_undo: undo.roles.len(),
            connect: undo.connect.clone().unwrap_or_default(),
            roles: BTreeSet::new(),
            keeper: Keeper { name: String::new(), superuser: true },
            comments: claim::marked(undo),
        }
    }

    /// As our own sessions leave it that came in meanwhile: CONNECT is taken from everybody else. For
    /// a person who opens it by hand; granting what is granted already does no harm.
    pub fn entered(undo: &PostgresUndo) -> Self {
        let fenced = Self::fenced(undo);
        if !undo.closes_door() {
            return fenced;
        }
        let grants = undo.connect.iter().flat_map(|connect| &connect.grants);
        let roles = grants
            .flat_map(|grant| grant.grantee.iter().chain([&grant.grantor]))
            .cloned()
            .collect();
        let connect = Connect { grants: Vec::new(), ..fenced.connect.clone() };
        Self { roles, connect, ..fenced }
    }

    pub async fn read(
        fence: &PostgresFence,
        sql: &Sql,
        undo: &PostgresUndo,
        deadline: Instant,
    ) -> PortResult<Self> {
        let place = fence.place;
        let row = sql
            .row(&rights::prior_sql(&undo.database), deadline)
            .await
            .map_err(doing(place, "reading the database's settings"))?;
        let of_undo = existing(sql, place, &undo.roles, deadline).await?;
        let grants = undo.connect.iter().flat_map(|connect| &connect.grants);
        let named: Vec<_> = grants
            .flat_map(|grant| grant.grantee.iter().chain([&grant.grantor]))
            .cloned()
            .collect();
        let roles = existing(sql, place, &named, deadline).await?;
        Ok(Self {
            allow_connections: row.is_true("allow_connections"),
            read_only: row.get("read_only").map(str::to_owned),
            of_undo: of_undo.len(),
            no_login: of_undo.into_iter().filter(|(_, login)| !login).map(|(n, _)| n).collect(),
            connect: grants::read(sql, place, &undo.database, deadline).await?,
            roles: roles.into_keys().collect(),
            keeper: grants::keeper(sql, place, deadline).await?,
            comments: claim::read(sql, place, undo, deadline).await?,
        })
    }
}

/// Which of these roles exist, and whether they may log in.
async fn existing(
    sql: &Sql,
    place: &'static str,
    roles: &[String],
    deadline: Instant,
) -> PortResult<BTreeMap<String, bool>> {
    if roles.is_empty() {
        return Ok(BTreeMap::new());
    }
    let list: Vec<_> = roles.iter().map(|role| literal(role)).collect();
    let query = format!(
        "SELECT rolname, rolcanlogin AS login FROM pg_catalog.pg_roles WHERE rolname IN ({})",
        list.join(", ")
    );
    let rows = sql.rows(&query, deadline).await.map_err(doing(place, "looking for roles"))?;
    let role = |row: &TextRow| Some((row.at(0)?.to_owned(), row.is_true("login")));
    Ok(rows.iter().filter_map(role).collect())
}

impl Current {
    /// Whether the fence has done all that it does, and nothing was undone.
    pub fn is_closed(&self, undo: &PostgresUndo) -> bool {
        let door = !undo.closes_door() || !self.allow_connections;
        let read_only = !undo.may_alter || self.read_only.as_deref() == Some("on");
        door && read_only && self.no_login.len() == self.of_undo
    }

    /// Whether nobody keeps clients out.
    fn is_open(&self, undo: &PostgresUndo) -> bool {
        self.allow_connections == undo.allow_connections && self.no_login.is_empty()
    }
}

/// From what is there now to what `undo` says: nothing, if it is so already. What is neither as it
/// was nor as the fence sets it was changed by somebody else, and stays.
pub(super) fn lower(undo: &PostgresUndo, now: &Current) -> Lowering {
    let database = quoted_database(undo);
    let mut lowering = Lowering::default();
    if let Some(prior) = &undo.connect {
        let exists = |role: &str| now.roles.contains(role) || role == now.connect.owner;
        lowering.statements = prior.restore(&undo.database, &now.connect, &now.keeper, exists);
    }
    if undo.closes_door() && now.allow_connections != undo.allow_connections {
        lowering.statements.push(acts::allow_connections(undo, undo.allow_connections));
    }
    if undo.may_alter && now.read_only != undo.read_only {
        if now.read_only.as_deref() == Some("on") {
            let parameter = "default_transaction_read_only";
            lowering.statements.push(match &undo.read_only {
                Some(value) => {
                    format!("ALTER DATABASE {database} SET {parameter} = {}", literal(value))
                }
                None => format!("ALTER DATABASE {database} RESET {parameter}"),
            });
        } else {
            lowering.left.push(format!("default_transaction_read_only of database {database}"));
        }
    }
    let login = now.no_login.iter().map(|role| format!("ALTER ROLE {} LOGIN", ident(role)));
    lowering.statements.extend(login);
    lowering.statements.extend(claim::unmark(undo, &now.comments));
    lowering
}

impl PostgresFence {
    /// Undoes whatever was done, from whatever state blue is in.
    pub(super) async fn open_again(
        &self,
        undo: &PostgresUndo,
        deadline: Instant,
    ) -> PortResult<()> {
        // From outside: blue itself may refuse us.
        let outside = self.outside.get(deadline).await?;
        // Before any session is ended, which may be of who acts now.
        let found = claim::read(&outside, self.place, undo, deadline).await?;
        if let other @ Held::Other(_) = claim::held(&found, undo.claim.as_ref()) {
            return Err(claim::superseded(self.place, &other));
        }
        // The airlock might close blue again behind our back.
        while !self.door.give_up() {
            self.end_own_sessions(&outside, &undo.database, deadline).await?;
            tokio::task::yield_now().await;
        }
        self.end_own_sessions(&outside, &undo.database, deadline).await?;
        let now = Current::read(self, &outside, undo, deadline).await?;
        match claim::held(&now.comments, undo.claim.as_ref()) {
            Held::Us => {}
            // By a version without claims, or by nobody: it is looked at as it is.
            Held::Nobody if undo.claim.is_none() => {}
            // It was never closed, or was opened by who had the right to.
            Held::Nobody if now.is_open(undo) => return Ok(()),
            held => return Err(claim::superseded(self.place, &held)),
        }
        let lowering = lower(undo, &now);
        for what in &lowering.left {
            tracing::warn!("{what} was changed by somebody else meanwhile, and stays as it is");
        }
        if lowering.statements.is_empty() {
            return Ok(());
        }
        let (doors, what) = (&self.outside, "opening the database again");
        let open = lowering.statements;
        claim::change(doors, self.place, undo, Needs::Ours, open, what, deadline).await?;
        let now = Current::read(self, &outside, undo, deadline).await?;
        if !lower(undo, &now).statements.is_empty() {
            return Err(PortError::new(
                self.place,
                format!(
                    "{}'s settings are not what they were before, although they were put back",
                    self.place
                ),
            ));
        }
        self.close_read_only_sessions(&outside, undo, deadline).await
    }

    /// Ends every session of a fence around this database but the one that asks, whoever opened
    /// it. A statement of an interrupted act may still run in one: it would take effect after it
    /// was undone. A session that waits for a lock does not even notice that we are gone.
    async fn end_own_sessions(
        &self,
        outside: &Sql,
        database: &str,
        deadline: Instant,
    ) -> PortResult<()> {
        self.admin.close().await;
        self.locks.close().await;
        self.marker.close().await;
        let query = acts::end_own_sql(database);
        loop {
            let left = outside
                .rows(&query, deadline)
                .await
                .map_err(doing(self.place, "ending the fence's own sessions"))?;
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() + SCAN_PAUSE >= deadline {
                let left: Vec<_> = left.iter().map(session_of).collect();
                return Err(PortError::new(
                    self.place,
                    format!("the fence's own sessions did not end in time: {}", left.join("; ")),
                ));
            }
            tokio::time::sleep(SCAN_PAUSE).await;
        }
    }

    /// Closes the sessions that connected while blue was read-only by default: the setting is
    /// copied when a session starts, so they would stay read-only for life. With the door closed
    /// these are few: who was just starting, and who came through the airlock.
    async fn close_read_only_sessions(
        &self,
        outside: &Sql,
        undo: &PostgresUndo,
        deadline: Instant,
    ) -> PortResult<()> {
        let Some(since) = undo.at.as_deref().filter(|_| undo.may_alter) else { return Ok(()) };
        let what = "closing sessions that are read-only";
        let until = outside.row(acts::NOW, deadline).await.map_err(doing(self.place, what))?;
        let until = until.get("now").unwrap_or("infinity").to_owned();
        let query = acts::close_since_sql(&undo.database, since, &until);
        // Who is just starting has read the old setting, perhaps, but can't be seen yet.
        let mut starting: Option<BTreeSet<String>> = None;
        let deadline = deadline.min(Instant::now() + CLOSE_MAX);
        loop {
            if starting.as_ref().is_none_or(|pids| !pids.is_empty()) {
                let now = sessions::starting(outside, self.place, &undo.database, deadline).await?;
                starting = Some(match starting {
                    None => now,
                    Some(before) => before.intersection(&now).cloned().collect(),
                });
            }
            let rows = outside.rows(&query, deadline).await.map_err(doing(self.place, what))?;
            let (closing, kept): (Vec<_>, Vec<_>) =
                rows.iter().partition(|row| row.is_true("closable"));
            let done = closing.is_empty() && starting.as_ref().is_none_or(BTreeSet::is_empty);
            let late = Instant::now() + SCAN_PAUSE >= deadline;
            if done || late {
                let left: Vec<_> = kept.into_iter().chain(closing).map(session_of).collect();
                if !left.is_empty() {
                    tracing::warn!(
                        "{} accepts writes again, but sessions that connected meanwhile could \
                         not be closed and stay read-only: {}",
                        self.place,
                        left.join("; ")
                    );
                }
                return Ok(());
            }
            tokio::time::sleep(SCAN_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::SealBy;
    use super::super::grants::Grant;
    use super::*;

    fn undo() -> PostgresUndo {
        PostgresUndo {
            database: "shop".into(),
            at: None,
            may_alter: true,
            read_only: Some("off".into()),
            allow_connections: true,
            seal_by: SealBy::AllowConnections,
            roles: Vec::new(),
            tables: Vec::new(),
            version_num: 150_000,
            connect: Some(Connect::default()),
            comments: Vec::new(),
            claim: None,
        }
    }

    #[test]
    fn whoever_opens_it_by_hand_gives_connect_back() {
        let owner = "app".to_owned();
        let everybody = Grant { grantee: None, grantor: owner.clone(), grantable: false };
        let connect = Some(Connect { owner, grants: vec![everybody] });
        let undo = PostgresUndo { connect, ..undo() };
        let statements = lower(&undo, &Current::entered(&undo)).statements;
        assert_eq!(statements[0], "GRANT CONNECT ON DATABASE \"shop\" TO PUBLIC");
        assert_eq!(statements[1], "ALTER DATABASE \"shop\" ALLOW_CONNECTIONS true");
    }

    #[test]
    fn only_what_the_fence_has_changed_is_put_back() {
        let undo = undo();
        let fenced = Current::fenced(&undo);
        assert_eq!(
            lower(&undo, &fenced).statements,
            [
                "ALTER DATABASE \"shop\" ALLOW_CONNECTIONS true",
                "ALTER DATABASE \"shop\" SET default_transaction_read_only = 'off'",
            ]
        );
        let opened = Current {
            allow_connections: true,
            read_only: undo.read_only.clone(),
            ..fenced.clone()
        };
        assert_eq!(lower(&undo, &opened), Lowering::default());
        // Somebody has removed our setting meanwhile: it stays removed.
        let other = Current { read_only: None, ..fenced };
        let lowering = lower(&undo, &other);
        assert_eq!(lowering.statements.len(), 1);
        assert_eq!(lowering.left.len(), 1);
        // Without the right to alter the database, roles get LOGIN back: those that lack it.
        let undo = PostgresUndo {
            may_alter: false,
            seal_by: SealBy::NoLogin,
            roles: vec!["app".into(), "gone".into()],
            ..undo
        };
        let fenced = Current { no_login: vec!["app".into()], ..Current::fenced(&undo) };
        assert_eq!(lower(&undo, &fenced).statements, ["ALTER ROLE \"app\" LOGIN"]);
    }
}
