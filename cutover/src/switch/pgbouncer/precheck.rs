//! What PgBouncer can't do is found out before anybody is made to wait.

use std::path::Path;

use tokio::time::Instant;

use super::member::{Bouncer, Entry};
use crate::api::Check;
use crate::ports::PortResult;
use crate::side::Side;
use crate::sql::{TextRow, ident, soon};
use crate::switch::identity::Identity;
use crate::switch::ini::{self, Place};

impl Bouncer {
    /// All prechecks of this member.
    pub async fn inspect(&self, from: Side, serving: &Identity) -> PortResult<Vec<Check>> {
        let deadline = soon();
        let entries = match self.entries(deadline).await {
            Ok(entries) => entries,
            Err(error) => {
                let fix = error.remedy.clone().unwrap_or_else(|| {
                    "let the sidecar log in to its console (admin_users)".into()
                });
                return Ok(vec![Check::fail(self.check("console"), error.what, fix)]);
            }
        };
        let config = self.settings(deadline).await?;
        let mut checks = vec![Check::ok(self.check("console"), "answers")];
        checks.push(self.pool_mode(&entries, &config));
        checks.extend(self.session_users(deadline).await?);
        checks.extend(self.kept_connections(&entries, &config));
        checks.extend(self.same_place(&entries));
        checks.extend(self.file(from.other(), &entries, &config, deadline).await?);
        if let Some(entry) = entries.iter().find(|entry| entry.paused) {
            checks.push(Check::fail(
                self.check("paused"),
                format!("{} is paused already", entry.database),
                format!("find out by whom, then RESUME {}", ident(&entry.database)),
            ));
            // A probe would wait for ever.
            return Ok(checks);
        }
        checks.push(match self.probe(deadline).await {
            Ok(reached) if reached == *serving => {
                Check::ok(self.check("probe"), format!("leads to {from}, {}", reached.shown))
            }
            Ok(reached) => Check::fail(
                self.check("probe"),
                format!("it does not lead to {from} but to {}", reached.shown),
                format!("name the router that {from}'s clients use"),
            ),
            Err(error) => Check::fail(
                self.check("probe"),
                error.what,
                "set cutover.pgbouncer.client to a connection string that works through it",
            ),
        });
        Ok(checks)
    }

    fn check(&self, what: &str) -> String {
        format!("pgbouncer-{what} ({})", self.name)
    }

    async fn settings(&self, deadline: Instant) -> PortResult<Vec<TextRow>> {
        let console = self.console.get(deadline).await?;
        console.rows("SHOW CONFIG", deadline).await.map_err(self.failed("SHOW CONFIG"))
    }

    fn pool_mode(&self, entries: &[Entry], config: &[TextRow]) -> Check {
        let default = setting(config, "pool_mode").unwrap_or("session");
        let of = |entry: &Entry| {
            let own = entry.pool_mode.clone().filter(|mode| !mode.is_empty());
            own.unwrap_or_else(|| default.to_owned())
        };
        match entries.iter().find(|entry| of(entry) == "session") {
            Some(entry) => Check::fail(
                self.check("pool-mode"),
                format!(
                    "{} is in session mode, where PAUSE waits until every client disconnects",
                    entry.database
                ),
                "pool_mode = transaction",
            ),
            None => {
                Check::ok(self.check("pool-mode"), entries.first().map_or(default.to_owned(), of))
            }
        }
    }

    /// `min_pool_size` is kept up while a database is paused, too (only the global PAUSE stops it:
    /// `janitor.c`). The closed side refuses these logins, and after one that was refused clients
    /// wait for `server_login_retry` although the other side is there.
    fn kept_connections(&self, entries: &[Entry], config: &[TextRow]) -> Option<Check> {
        let default = setting(config, "min_pool_size").and_then(|size| size.parse().ok());
        let size = |entry: &Entry| entry.min_pool_size.or(default).unwrap_or(0);
        let entry = entries.iter().find(|entry| size(entry) > 0)?;
        let retry = setting(config, "server_login_retry").unwrap_or("15");
        Some(Check::fail(
            self.check("min-pool-size"),
            format!(
                "{} has min_pool_size = {}: PgBouncer opens server connections in the pause, the \
                 closed side refuses them, and clients then wait {retry} s (server_login_retry)",
                entry.database,
                size(entry)
            ),
            "min_pool_size = 0 and RELOAD, for the time of the cutover",
        ))
    }

    /// A user's own pool_mode comes before the database's. Only users that have a pool here are
    /// known to be clients.
    async fn session_users(&self, deadline: Instant) -> PortResult<Option<Check>> {
        let console = self.console.get(deadline).await?;
        let users =
            console.rows("SHOW USERS", deadline).await.map_err(self.failed("SHOW USERS"))?;
        let users: Vec<_> = users
            .iter()
            .filter(|row| row.get("pool_mode") == Some("session"))
            .filter_map(|row| row.get("name"))
            .collect();
        if users.is_empty() {
            return Ok(None);
        }
        let pools =
            console.rows("SHOW POOLS", deadline).await.map_err(self.failed("SHOW POOLS"))?;
        let is_ours = |row: &&TextRow| {
            row.get("database").is_some_and(|name| self.databases.iter().any(|ours| ours == name))
        };
        let here: Vec<_> = pools
            .iter()
            .filter(is_ours)
            .filter_map(|row| row.get("user"))
            .filter(|user| users.contains(user))
            .collect();
        let fix = "pool_mode = transaction for them in [users]";
        Ok(Some(if here.is_empty() {
            Check::warn(
                self.check("users"),
                format!(
                    "users in session mode have not been here yet; once one is connected, PAUSE \
                     waits until it disconnects: {}",
                    users.join(", ")
                ),
                fix,
            )
        } else {
            Check::fail(
                self.check("users"),
                format!(
                    "users in session mode, for whom PAUSE waits until they disconnect: {}",
                    here.join(", ")
                ),
                fix,
            )
        }))
    }

    /// All entries are sent to one place, so they must come from one.
    fn same_place(&self, entries: &[Entry]) -> Option<Check> {
        let first = entries.first()?;
        if entries.iter().all(|entry| entry.place == first.place) {
            return None;
        }
        let shown: Vec<_> =
            entries.iter().map(|entry| format!("{} to {}", entry.database, entry.place)).collect();
        Some(Check::fail(
            self.check("databases"),
            format!("they lead to different places: {}", shown.join(", ")),
            "name only entries of blue's database, all with the same host, port and dbname",
        ))
    }

    /// The file: that it can be edited, that it is the one PgBouncer reads, and that no other name
    /// leads to blue.
    async fn file(
        &self,
        to: Side,
        entries: &[Entry],
        config: &[TextRow],
        deadline: Instant,
    ) -> PortResult<Vec<Check>> {
        let path = self.config_file.display().to_string();
        let text = match self.try_edit(to) {
            Ok(text) => text,
            Err(error) => {
                let fix = error.remedy.clone().unwrap_or_default();
                return Ok(vec![Check::fail(self.check("config"), error.what, fix)]);
            }
        };
        let places = ini::places(&text);
        let its_file = setting(config, "conffile").unwrap_or_default();
        let differ = entries.iter().find_map(|entry| {
            let (_, place) = places.iter().find(|(name, _)| *name == entry.database)?;
            (*place != entry.place).then_some((entry, place))
        });
        let mut checks = vec![match differ {
            Some((entry, place)) => Check::fail(
                self.check("config"),
                format!(
                    "{} leads to {place} in {path}, and to {} in PgBouncer itself",
                    entry.database, entry.place
                ),
                format!("name the file that it reads ({its_file}); RELOAD if that was edited"),
            ),
            None if !is_same_file(&self.config_file, its_file) => Check::warn(
                self.check("config"),
                format!("it was started with {its_file}, and cutover edits {path}"),
                "make sure that both are one file (it may be mounted elsewhere)",
            ),
            None => Check::ok(self.check("config"), path),
        }];
        let shown = self.shown(deadline).await?;
        checks.extend(self.aliases(entries, &shown, &places));
        Ok(checks)
    }

    fn try_edit(&self, to: Side) -> PortResult<String> {
        let text = ini::read(&self.config_file).map_err(|error| self.ini(error))?;
        ini::retarget(&text, &self.databases, self.target(to)).map_err(|error| self.ini(error))?;
        ini::try_replace(&self.config_file).map_err(|error| self.ini(error))?;
        Ok(text)
    }

    /// Other names of the same database: their clients would neither be held nor moved.
    fn aliases(
        &self,
        entries: &[Entry],
        shown: &[Entry],
        places: &[(String, Place)],
    ) -> Vec<Check> {
        let shown = shown.iter().map(|entry| (&entry.database, &entry.place));
        let all = shown.chain(places.iter().map(|(name, place)| (name, place)));
        // The console itself is among them.
        let mut others: Vec<_> = all
            .filter(|(name, _)| !self.databases.contains(name) && *name != "pgbouncer")
            .collect();
        others.sort_by_key(|(name, _)| *name);
        let has_entry = |dbname: &String| places.iter().any(|(name, _)| name == dbname);
        let leads = |(name, place): &(&String, &Place), same_host: bool| {
            entries.iter().any(|entry| {
                // What `*` leads to has the name that was asked for, if no entry has that name.
                let dbname = if *name == "*" && place.dbname.is_empty() {
                    !has_entry(&entry.place.dbname)
                } else {
                    place.dbname == entry.place.dbname
                };
                dbname
                    && place.port == entry.place.port
                    && (place.host == entry.place.host) == same_host
            })
        };
        let names = |same_host: bool| {
            let found = others.iter().filter(|other| leads(other, same_host));
            let mut names: Vec<_> = found.map(|(name, _)| name.as_str()).collect();
            names.dedup();
            names.join(", ")
        };
        let mut checks = Vec::new();
        let same = names(true);
        if !same.is_empty() {
            checks.push(Check::fail(
                self.check("aliases"),
                format!("other entries lead to blue and would be neither held nor moved: {same}"),
                "add them to `database = [..]`; remove a `*`, or give it another server",
            ));
        }
        let similar = names(false);
        if !similar.is_empty() {
            checks.push(Check::warn(
                self.check("similar"),
                format!("other entries lead to a database of this name on other hosts: {similar}"),
                "if one of these hosts is blue under another name, write the same host in all \
                 entries and add it to `database = [..]`",
            ));
        }
        checks
    }
}

fn setting<'a>(config: &'a [TextRow], key: &str) -> Option<&'a str> {
    config.iter().find(|row| row.get("key") == Some(key))?.get("value")
}

/// Whether PgBouncer's own word for its file may mean this one. What it does not tell is not held
/// against it.
fn is_same_file(ours: &Path, its: &str) -> bool {
    let its = Path::new(its);
    if its.is_relative() {
        return ours.ends_with(its);
    }
    let real = |path: &Path| path.canonicalize().ok();
    ours == its || real(ours).is_some_and(|ours| real(its) == Some(ours))
}
