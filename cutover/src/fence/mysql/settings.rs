//! The variables that close a server, and the way back.

use tokio::time::Instant;

use super::accounts::{self, Accounts};
use super::facts::Facts;
use super::{MysqlUndo, Setting, Turn, claim};
use crate::ports::{PortError, PortResult};
use crate::sql::mysql::{MysqlSession, UNLOGGED, literal};

/// A variable, and its value while the server is closed. In the order in which they are closed.
const MYSQL: [(&str, &str); 3] = [("offline_mode", "ON"), (EVENTS, "OFF"), (READ_ONLY, "ON")];
const MARIADB: [(&str, &str); 2] = [(EVENTS, "OFF"), (READ_ONLY, "ON")];
const READ_ONLY: &str = "read_only";
/// On only within the barrier (MySQL).
const BARRIER: &str = "super_read_only";
const EVENTS: &str = "event_scheduler";
/// An event scheduler that can't be turned on or off while the server runs.
const DISABLED: &str = "DISABLED";

fn closing(is_mariadb: bool) -> &'static [(&'static str, &'static str)] {
    if is_mariadb { &MARIADB } else { &MYSQL }
}

fn closed_value(undo: &MysqlUndo, name: &str) -> Option<&'static str> {
    let found = closing(undo.is_mariadb).iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| *value)
}

/// What of a server a fence may have changed, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Current {
    pub settings: Vec<Setting>,
    /// Whether the barrier was left up.
    pub super_read_only: bool,
    pub accounts: Accounts,
}

/// The statements that undo, and what they leave because somebody else has changed it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lowering {
    pub statements: Vec<String>,
    pub left: Vec<String>,
}

fn read_sql(is_mariadb: bool) -> String {
    let names: Vec<_> = closing(is_mariadb).iter().map(|(name, _)| literal(name)).collect();
    let names = names.join(", ");
    match is_mariadb {
        true => format!(
            "SELECT lower(variable_name) AS name, variable_value AS value, NULL AS persisted \
             FROM information_schema.global_variables WHERE variable_name IN ({names})"
        ),
        false => format!(
            "SELECT g.variable_name AS name, g.variable_value AS value, \
             p.variable_value AS persisted FROM performance_schema.global_variables g \
             LEFT JOIN performance_schema.persisted_variables p USING (variable_name) \
             WHERE g.variable_name IN ({names}, '{BARRIER}')"
        ),
    }
}

impl Current {
    /// Looks.
    pub async fn of(
        session: &mut MysqlSession,
        facts: &Facts,
        place: &str,
        deadline: Instant,
    ) -> PortResult<Self> {
        let rows = session.run(&read_sql(facts.is_mariadb), deadline).await;
        let rows = rows.map_err(|error| error.at(place, "reading the server's settings"))?.rows;
        let accounts = accounts::read(session, facts, deadline).await;
        let accounts = accounts.map_err(|error| error.at(place, "reading the accounts"))?;
        let mut found: Vec<Setting> = rows
            .iter()
            .filter_map(|row| {
                Some(Setting {
                    name: row.get("name")?.to_owned(),
                    value: row.get("value")?.to_owned(),
                    persisted: row.get("persisted").map(str::to_owned),
                })
            })
            .collect();
        let barrier = found.iter().position(|setting| setting.name == BARRIER);
        let barrier = barrier.map(|at| found.remove(at));
        // Ours is never persisted: who has done that wants it to stay.
        let super_read_only = barrier.is_some_and(|barrier| {
            barrier.value == "ON" && barrier.persisted.as_deref() != Some("ON")
        });
        let mut settings = Vec::new();
        for (name, _) in closing(facts.is_mariadb) {
            let at = found.iter().position(|setting| setting.name == *name).ok_or_else(|| {
                PortError::new(place, format!("the server has no variable {name}"))
            })?;
            settings.push(found.remove(at));
        }
        Ok(Self { settings, super_read_only, accounts })
    }

    /// The same, by who has the turn.
    pub async fn read(turn: &mut Turn<'_>, deadline: Instant) -> PortResult<Self> {
        let (facts, place) = (turn.facts.clone(), turn.place);
        Self::of(turn.session(), &facts, place, deadline).await
    }

    fn value(&self, name: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.name == name)
    }

    /// Takes down a barrier that was left up.
    pub fn barrier_sql(&self) -> Option<&'static str> {
        self.super_read_only.then_some("SET GLOBAL super_read_only = OFF")
    }

    /// Whether scheduled events run.
    pub fn runs_events(&self) -> bool {
        self.value(EVENTS).is_some_and(|setting| setting.value == "ON")
    }

    /// Whether everything that closes it is in place, also for a restart.
    pub fn is_closed(&self, undo: &MysqlUndo) -> bool {
        let settings = undo.settings.iter().all(|prior| {
            let now = self.value(&prior.name);
            let closed = closed_value(undo, &prior.name);
            now.is_some_and(|now| {
                Some(now.value.as_str()) == closed
                    && (undo.is_mariadb || now.persisted.as_deref() == closed)
            })
        });
        let gone = |account: &String| !self.accounts.all.contains(account);
        let shut = |account: &String| self.accounts.locked.contains(account) || gone(account);
        settings && undo.accounts.iter().all(shut)
    }
}

/// Whether a variable has to be changed. One that MariaDB does not remember is left alone if it is as it
/// has to be: to set this one takes SUPER.
fn concerns(facts: &Facts, setting: &Setting) -> bool {
    let is_off = setting.value == DISABLED || facts.is_mariadb && setting.value == "OFF";
    setting.name != EVENTS || !is_off
}

async fn identity(
    session: &mut MysqlSession,
    facts: &Facts,
    place: &str,
    deadline: Instant,
) -> PortResult<String> {
    let identity = if facts.is_mariadb { "@@server_id" } else { "@@server_uuid" };
    let row = session.row(&format!("SELECT {identity} AS server"), deadline).await;
    let row = row.map_err(|error| error.at(place, "asking the server who it is"))?;
    Ok(row.get("server").unwrap_or_default().to_owned())
}

/// Fails if it is another server than the one that was looked at: an address may lead elsewhere by now.
pub(super) async fn is_still_there(
    turn: &mut Turn<'_>,
    undo: &MysqlUndo,
    deadline: Instant,
) -> PortResult<()> {
    let (facts, place) = (turn.facts.clone(), turn.place);
    let found = identity(turn.session(), &facts, place, deadline).await?;
    if found == undo.server {
        return Ok(());
    }
    let what = format!("{place} is another server now: {found}, and not {}", undo.server);
    Err(PortError::new(place, what).remedy("find out why its address leads to another server"))
}

/// What undoing will need.
pub(super) async fn prepare(
    session: &mut MysqlSession,
    place: &str,
    deadline: Instant,
) -> PortResult<MysqlUndo> {
    let facts = Facts::read(session, place, deadline).await?;
    let now = Current::of(session, &facts, place, deadline).await?;
    Ok(MysqlUndo {
        is_mariadb: facts.is_mariadb,
        server: identity(session, &facts, place, deadline).await?,
        settings: now.settings.into_iter().filter(|setting| concerns(&facts, setting)).collect(),
        accounts: now.accounts.to_lock,
        claim: None,
    })
}

fn close_sql(undo: &MysqlUndo, which: impl Fn(&str) -> bool) -> Vec<String> {
    let set = if undo.is_mariadb { "GLOBAL" } else { "PERSIST" };
    let close = |setting: &Setting| {
        let value = closed_value(undo, &setting.name).filter(|_| which(&setting.name))?;
        Some(format!("SET {set} {} = {value}", setting.name))
    };
    undo.settings.iter().filter_map(close).collect()
}

/// Closes the door. Done already: the same again.
pub(super) fn door_sql(undo: &MysqlUndo) -> Vec<String> {
    close_sql(undo, |name| name != READ_ONLY)
}

/// Refuses the writes of whoever is inside.
pub(super) fn read_only_sql(undo: &MysqlUndo) -> Vec<String> {
    close_sql(undo, |name| name == READ_ONLY)
}

/// Opens it, from whatever state it is in. Writes are taken again before anybody is let in.
pub(super) fn lower(undo: &MysqlUndo, now: &Current) -> Lowering {
    let mut lowering = Lowering::default();
    lowering.statements.extend(now.barrier_sql().map(str::to_owned));
    // The last that was closed is the first that is opened; the door comes behind the accounts.
    let (mut first, mut last) = (Vec::new(), Vec::new());
    for prior in undo.settings.iter().rev() {
        let statements = if prior.name == MYSQL[0].0 { &mut last } else { &mut first };
        let Some(found) = now.value(&prior.name) else { continue };
        let closed = closed_value(undo, &prior.name).unwrap_or_default();
        if found.value != prior.value {
            match found.value == closed {
                true => statements.push(format!("SET GLOBAL {} = {}", prior.name, prior.value)),
                false => lowering.left.push(format!("{} = {}", prior.name, found.value)),
            }
        }
        if found.persisted != prior.persisted {
            match (found.persisted.as_deref() == Some(closed), &prior.persisted) {
                (true, None) => {
                    statements.push(format!("RESET PERSIST IF EXISTS {}", prior.name));
                }
                (true, Some(value)) => {
                    statements.push(format!("SET PERSIST {} = {value}", prior.name));
                    // That has set the variable, too.
                    statements.push(format!("SET GLOBAL {} = {}", prior.name, prior.value));
                }
                (false, _) => lowering.left.push(format!("the persisted {}", prior.name)),
            }
        }
    }
    let shut: Vec<_> =
        undo.accounts.iter().filter(|a| now.accounts.locked.contains(*a)).cloned().collect();
    lowering.statements.extend(first);
    lowering.statements.extend(accounts::unlock_sql(&shut));
    lowering.statements.extend(last);
    lowering
}

/// The same and the end of the claim, for whoever types it.
pub(super) fn by_hand(undo: &MysqlUndo, now: &Current) -> Vec<String> {
    let mut statements = vec![UNLOGGED.to_owned()];
    statements.extend(lower(undo, now).statements);
    statements.push(claim::REMOVE.to_owned());
    statements
}

/// A server as a fence leaves it, for a plan.
pub(super) fn fenced(undo: &MysqlUndo) -> Current {
    let close = |prior: &Setting| {
        let closed = closed_value(undo, &prior.name).unwrap_or_default().to_owned();
        let persisted = (!undo.is_mariadb).then(|| closed.clone());
        Setting { name: prior.name.clone(), value: closed, persisted }
    };
    let accounts =
        Accounts { locked: undo.accounts.iter().cloned().collect(), ..Accounts::default() };
    Current {
        settings: undo.settings.iter().map(close).collect(),
        super_read_only: false,
        accounts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn undo() -> MysqlUndo {
        let setting = |name: &str, value: &str, persisted: Option<&str>| Setting {
            name: name.into(),
            value: value.into(),
            persisted: persisted.map(str::to_owned),
        };
        MysqlUndo {
            is_mariadb: false,
            server: "1".into(),
            settings: vec![
                setting("offline_mode", "OFF", None),
                setting("event_scheduler", "ON", Some("OFF")),
                setting("read_only", "OFF", Some("OFF")),
            ],
            accounts: vec!["'boss'@'%'".into()],
            claim: None,
        }
    }

    #[test]
    fn what_was_persisted_is_persisted_again_and_the_door_opens_last() {
        let undo = undo();
        let fenced = fenced(&undo);
        assert!(fenced.is_closed(&undo));
        assert_eq!(
            lower(&undo, &Current { super_read_only: true, ..fenced.clone() }).statements,
            [
                "SET GLOBAL super_read_only = OFF",
                "SET GLOBAL read_only = OFF",
                "SET PERSIST read_only = OFF",
                "SET GLOBAL read_only = OFF",
                "SET GLOBAL event_scheduler = ON",
                "ALTER USER IF EXISTS 'boss'@'%' ACCOUNT UNLOCK",
                "SET GLOBAL offline_mode = OFF",
                "RESET PERSIST IF EXISTS offline_mode",
            ]
        );
        // The list is removed behind all that it undoes, and no replica is told to.
        let by_hand = by_hand(&undo, &fenced);
        assert_eq!(by_hand[0], "SET SESSION sql_log_bin = 0");
        assert_eq!(by_hand[1..by_hand.len() - 1], lower(&undo, &fenced).statements);
        assert_eq!(by_hand.last().unwrap(), "DELETE FROM _cutover.fence");
        let open = Current { settings: undo.settings.clone(), ..fenced.clone() };
        let open = Current { accounts: Accounts::default(), ..open };
        assert_eq!(lower(&undo, &open), Lowering::default());
        assert!(!open.is_closed(&undo));
        // Somebody has persisted something else meanwhile: that stays.
        let mut other = open;
        other.settings[0].persisted = Some("OFF".into());
        let lowering = lower(&undo, &other);
        assert_eq!((lowering.statements.len(), lowering.left.len()), (0, 1));
    }
}
