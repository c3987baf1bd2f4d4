//! What it knows: draft and runtime, the sessions of clients, and the commands between draft, runtime and
//! disk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, watch};

use super::sql::{self, Statement};
use super::tables::Tables;
use super::{HOSTGROUP, locked};

/// Moved by LOAD and SAVE of MYSQL SERVERS.
const SERVERS: [&str; 2] = ["mysql_servers", "mysql_replication_hostgroups"];
const RUNTIME: &str = "runtime_";

/// What a statement has come to.
#[derive(Debug)]
pub(super) enum Answer {
    Rows {
        columns: Vec<String>,
        rows: Vec<Vec<String>>,
    },
    /// So many rows were changed.
    Done(u64),
}

/// A server that a session may be led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub host: String,
    pub port: u16,
}

#[derive(Debug)]
struct Session {
    hostgroup: u32,
    server: Option<Server>,
    killed: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    draft: Tables,
    runtime: Tables,
    sessions: BTreeMap<u64, Session>,
    next_session: u64,
    /// A query rule for all clients.
    rule: Option<u32>,
}

/// Shared by all of its connections.
#[derive(Debug)]
pub(super) struct World {
    state: Mutex<State>,
    disk: Arc<Mutex<Tables>>,
    /// Anything has changed that those who wait may wait for.
    changed: watch::Sender<()>,
}

impl World {
    pub fn new(tables: Tables, disk: Arc<Mutex<Tables>>) -> Self {
        let state = State {
            draft: tables.clone(),
            runtime: tables,
            sessions: BTreeMap::new(),
            next_session: 1,
            rule: None,
        };
        Self { state: Mutex::new(state), disk, changed: watch::Sender::new(()) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Told of every change.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub fn send_to(&self, hostgroup: Option<u32>) {
        self.state().rule = hostgroup;
        self.changed.send_replace(());
    }

    /// Carries out a statement, or says in ProxySQL's words why not.
    pub fn execute(&self, sql: &str) -> Result<Answer, String> {
        let words: Vec<_> = sql.trim().trim_end_matches(';').split_whitespace().collect();
        let upper: Vec<_> = words.iter().map(|word| word.to_ascii_uppercase()).collect();
        let upper: Vec<_> = upper.iter().map(String::as_str).collect();
        let mut state = self.state();
        match upper[..] {
            ["SELECT", "1"] => {
                Ok(Answer::Rows { columns: vec!["1".into()], rows: vec![vec!["1".into()]] })
            }
            ["LOAD", "MYSQL", "SERVERS", "TO", "RUNTIME"] => {
                let draft = state.draft.clone();
                state.runtime.take(&draft, &SERVERS);
                self.changed.send_replace(());
                Ok(Answer::Done(0))
            }
            ["SAVE", "MYSQL", "SERVERS", "FROM", "RUNTIME"] => {
                let runtime = state.runtime.clone();
                state.draft.take(&runtime, &SERVERS);
                Ok(Answer::Done(0))
            }
            ["SAVE", "MYSQL", "SERVERS", "TO", "DISK"] => {
                locked(&self.disk).take(&state.draft, &SERVERS);
                Ok(Answer::Done(0))
            }
            // Of words that sessions of MySQL are set up by it knows none.
            ["SET", assignment] if assignment.contains('=') => state.set(words[1]),
            ["LOAD", "MYSQL" | "ADMIN", "VARIABLES", "TO", "RUNTIME"] => {
                let draft = state.draft.clone();
                state.runtime.take(&draft, &["global_variables"]);
                Ok(Answer::Done(0))
            }
            ["LOAD", "PROXYSQL", "SERVERS", "TO", "RUNTIME"] => {
                let draft = state.draft.clone();
                state.runtime.take(&draft, &["proxysql_servers"]);
                Ok(Answer::Done(0))
            }
            ["LOAD", "SCHEDULER", "TO", "RUNTIME"] => {
                let draft = state.draft.clone();
                state.runtime.take(&draft, &["scheduler"]);
                Ok(Answer::Done(0))
            }
            ["KILL", "CONNECTION", id] => {
                let session = id.parse().ok().and_then(|id: u64| state.sessions.get(&id));
                let session = session.ok_or_else(|| format!("Unknown thread id: {id}"))?;
                session.killed.notify_one();
                Ok(Answer::Done(0))
            }
            _ => state.on_tables(sql, &self.disk),
        }
    }

    /// A client has come.
    pub fn begin(&self) -> (u64, Arc<Notify>) {
        let mut state = self.state();
        let id = state.next_session;
        state.next_session += 1;
        let killed = Arc::new(Notify::new());
        let hostgroup = state.rule.unwrap_or(HOSTGROUP);
        state.sessions.insert(id, Session { hostgroup, server: None, killed: killed.clone() });
        (id, killed)
    }

    /// The server that a session gets now, if there is one for it.
    pub fn lead(&self, id: u64) -> Option<Server> {
        let mut state = self.state();
        let hostgroup = state.rule.unwrap_or(HOSTGROUP);
        let server = state.servers().into_iter().find_map(|(group, server, status)| {
            (group == hostgroup && status == "ONLINE").then_some(server)
        })?;
        let session = state.sessions.get_mut(&id)?;
        (session.hostgroup, session.server) = (hostgroup, Some(server.clone()));
        Some(server)
    }

    /// Whether a session may use its connection still.
    pub fn may_go_on(&self, id: u64) -> bool {
        let state = self.state();
        let Some(session) = state.sessions.get(&id) else { return false };
        state.servers().iter().any(|(group, server, status)| {
            (*group == session.hostgroup && Some(server) == session.server.as_ref())
                && status != "OFFLINE_HARD"
        })
    }

    /// A client has gone.
    pub fn end(&self, id: u64) {
        self.state().sessions.remove(&id);
    }

    /// For how long queries wait for a server, in milliseconds.
    pub fn patience_ms(&self) -> u64 {
        self.state().variable("mysql-connect_timeout_server_max").parse().unwrap_or(0)
    }
}

impl State {
    fn variable(&self, name: &str) -> String {
        let rows = self.runtime.get("global_variables").map(|table| table.rows.as_slice());
        let row = rows.unwrap_or_default().iter().find(|row| row[0] == name);
        row.map(|row| row[1].clone()).unwrap_or_default()
    }

    /// `NAME=VALUE`, in the draft.
    fn set(&mut self, assignment: &str) -> Result<Answer, String> {
        let (name, value) = assignment.split_once('=').unwrap_or((assignment, ""));
        let table = self.draft.get_mut("global_variables")?;
        let row = table.rows.iter_mut().find(|row| row[0] == name);
        let row = row.ok_or_else(|| format!("Unknown global variable: '{name}'"))?;
        row[1] = value.trim_matches('\'').to_owned();
        Ok(Answer::Done(0))
    }

    /// Hostgroup, address and status of each server at run time.
    fn servers(&self) -> Vec<(u32, Server, String)> {
        let Ok(table) = self.runtime.get("mysql_servers") else { return Vec::new() };
        let read = |row: &Vec<String>| {
            let of = |name: &str| Some(row[table.at(name).ok()?].as_str());
            let server = Server { host: of("hostname")?.into(), port: of("port")?.parse().ok()? };
            Some((of("hostgroup_id")?.parse().ok()?, server, of("status")?.to_ascii_uppercase()))
        };
        table.rows.iter().filter_map(read).collect()
    }

    /// How many sessions use a server.
    fn used(&self, hostgroup: u32, server: &Server) -> usize {
        let uses = |session: &&Session| {
            session.hostgroup == hostgroup && session.server.as_ref() == Some(server)
        };
        self.sessions.values().filter(uses).count()
    }

    fn on_tables(&mut self, sql: &str, disk: &Mutex<Tables>) -> Result<Answer, String> {
        match sql::parse(sql)? {
            Statement::Select { table, columns, is } => {
                let (names, rows) = self.rows_of(&table, disk)?;
                let names: Vec<_> = names.iter().map(String::as_str).collect();
                let (columns, rows) = sql::select(&names, &rows, &columns, &is)?;
                Ok(Answer::Rows { columns, rows })
            }
            statement => {
                if self.variable("admin-read_only") == "true" {
                    return Err("attempt to write a readonly database".into());
                }
                sql::write(&mut self.draft, statement).map(Answer::Done)
            }
        }
    }

    fn rows_of(
        &self,
        name: &str,
        disk: &Mutex<Tables>,
    ) -> Result<(Vec<String>, Vec<Vec<String>>), String> {
        let whole = |tables: &Tables, name: &str| {
            let table = tables.get(name)?;
            let columns = table.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
            Ok((columns, table.rows.clone()))
        };
        if let Some(name) = name.strip_prefix("disk.") {
            return whole(&locked(disk), name);
        }
        match name {
            "runtime_mysql_servers" => {
                let (columns, mut rows) = whole(&self.runtime, "mysql_servers")?;
                // What was taken out and is still in use.
                for (hostgroup, server) in self.left_over() {
                    let row = columns.iter().map(|column: &String| match column.as_str() {
                        "hostgroup_id" => hostgroup.to_string(),
                        "hostname" => server.host.clone(),
                        "port" => server.port.to_string(),
                        "status" => "OFFLINE_HARD".into(),
                        _ => "0".into(),
                    });
                    rows.push(row.collect());
                }
                Ok((columns, rows))
            }
            "stats_mysql_connection_pool" => Ok(self.pool()),
            "stats_mysql_processlist" => Ok(self.processlist()),
            name => match name.strip_prefix(RUNTIME) {
                Some(name) => whole(&self.runtime, name)
                    .map_err(|_: String| format!("no such table: {RUNTIME}{name}")),
                None => whole(&self.draft, name),
            },
        }
    }

    fn left_over(&self) -> Vec<(u32, Server)> {
        let known = self.servers();
        let mut left: Vec<(u32, Server)> = Vec::new();
        for session in self.sessions.values() {
            let Some(server) = &session.server else { continue };
            let is_known = known
                .iter()
                .any(|(group, known, _)| *group == session.hostgroup && known == server);
            let entry = (session.hostgroup, server.clone());
            if !is_known && !left.contains(&entry) {
                left.push(entry);
            }
        }
        left
    }

    fn pool(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let columns = ["hostgroup", "srv_host", "srv_port", "status", "ConnUsed", "ConnFree"];
        let mut all = self.servers();
        for (hostgroup, server) in self.left_over() {
            all.push((hostgroup, server, "OFFLINE_HARD".into()));
        }
        let row = |(hostgroup, server, status): (u32, Server, String)| {
            let used = self.used(hostgroup, &server);
            let (group, port) = (hostgroup.to_string(), server.port.to_string());
            vec![group, server.host, port, status, used.to_string(), "0".into()]
        };
        (columns.map(str::to_owned).into(), all.into_iter().map(row).collect())
    }

    fn processlist(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let columns = ["SessionID", "hostgroup", "srv_host", "srv_port", "command"];
        let row = |(id, session): (&u64, &Session)| {
            let (host, port, command) = match &session.server {
                Some(server) => (server.host.clone(), server.port.to_string(), "Sleep"),
                None => (String::new(), String::new(), "Connect"),
            };
            vec![id.to_string(), session.hostgroup.to_string(), host, port, command.into()]
        };
        (columns.map(str::to_owned).into(), self.sessions.iter().map(row).collect())
    }
}
