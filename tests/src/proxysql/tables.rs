//! Tables of the admin interface: names of columns, defaults, and what a row must satisfy.

use std::collections::BTreeMap;

/// Columns with their defaults; without one, a value has to be given.
type Columns = &'static [(&'static str, Option<&'static str>)];

const SERVERS: Columns = &[
    ("hostgroup_id", Some("0")),
    ("hostname", None),
    ("port", Some("3306")),
    ("gtid_port", Some("0")),
    ("status", Some("ONLINE")),
    ("weight", Some("1")),
    ("compression", Some("0")),
    ("max_connections", Some("1000")),
    ("max_replication_lag", Some("0")),
    ("use_ssl", Some("0")),
    ("max_latency_ms", Some("0")),
    ("comment", Some("")),
];
const REPLICATION: Columns = &[
    ("writer_hostgroup", None),
    ("reader_hostgroup", None),
    ("check_type", Some("read_only")),
    ("comment", Some("")),
];
const NODES: Columns =
    &[("hostname", None), ("port", Some("6032")), ("weight", Some("0")), ("comment", Some(""))];
const SCHEDULER: Columns = &[
    ("id", None),
    ("active", Some("1")),
    ("interval_ms", None),
    ("filename", None),
    ("comment", Some("")),
];
const VARIABLES: Columns = &[("variable_name", None), ("variable_value", None)];

const STATUSES: [&str; 4] = ["ONLINE", "SHUNNED", "OFFLINE_SOFT", "OFFLINE_HARD"];

/// One table.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub columns: Columns,
    /// Columns that make a row unique.
    key: &'static [&'static str],
    pub rows: Vec<Vec<String>>,
}

impl Table {
    fn new(columns: Columns, key: &'static [&'static str]) -> Self {
        Self { columns, key, rows: Vec::new() }
    }

    /// Where a column is.
    pub fn at(&self, column: &str) -> Result<usize, String> {
        let at = self.columns.iter().position(|(name, _)| name.eq_ignore_ascii_case(column));
        at.ok_or_else(|| format!("no such column: {column}"))
    }

    /// Takes these rows if they may be together.
    pub fn replace(&mut self, table: &str, rows: Vec<Vec<String>>) -> Result<(), String> {
        let mut keys: Vec<Vec<&str>> = Vec::new();
        for row in &rows {
            for (at, (column, _)) in self.columns.iter().enumerate() {
                check(table, column, &row[at])?;
            }
            let key = self.key.iter().map(|name| Ok(row[self.at(name)?].as_str()));
            keys.push(key.collect::<Result<_, String>>()?);
        }
        keys.sort_unstable();
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            let names: Vec<_> = self.key.iter().map(|name| format!("{table}.{name}")).collect();
            return Err(format!("UNIQUE constraint failed: {}", names.join(", ")));
        }
        self.rows = rows;
        Ok(())
    }
}

/// The CHECK constraints.
fn check(table: &str, column: &str, value: &str) -> Result<(), String> {
    let fine = match column {
        "status" => STATUSES.contains(&value.to_ascii_uppercase().as_str()),
        "port" => value.parse::<u16>().is_ok(),
        column if column.contains("hostgroup") => value.parse::<u32>().is_ok(),
        _ => true,
    };
    fine.then_some(()).ok_or_else(|| format!("CHECK constraint failed: {table}"))
}

/// Everything that LOAD and SAVE move.
#[derive(Debug, Clone)]
pub(super) struct Tables(BTreeMap<&'static str, Table>);

impl Tables {
    /// One server.
    pub fn leading_to(hostgroup: u32, port: u16) -> Self {
        let mut servers = Table::new(SERVERS, &["hostgroup_id", "hostname", "port"]);
        let given = |column: &str| match column {
            "hostgroup_id" => Some(hostgroup.to_string()),
            "hostname" => Some("127.0.0.1".to_owned()),
            "port" => Some(port.to_string()),
            _ => None,
        };
        let row = SERVERS.iter().map(|(name, default)| {
            given(name).unwrap_or_else(|| default.unwrap_or_default().to_owned())
        });
        servers.rows.push(row.collect());
        let mut variables = Table::new(VARIABLES, &["variable_name"]);
        for (name, value) in [
            ("admin-read_only", "false"),
            ("mysql-connect_timeout_server_max", "10000"),
            ("mysql-monitor_enabled", "true"),
        ] {
            variables.rows.push(vec![name.to_owned(), value.to_owned()]);
        }
        Self(BTreeMap::from([
            ("mysql_servers", servers),
            ("mysql_replication_hostgroups", Table::new(REPLICATION, &["writer_hostgroup"])),
            ("proxysql_servers", Table::new(NODES, &["hostname", "port"])),
            ("scheduler", Table::new(SCHEDULER, &["id"])),
            ("global_variables", variables),
        ]))
    }

    pub fn get(&self, name: &str) -> Result<&Table, String> {
        let table = self.0.get(name.to_ascii_lowercase().as_str());
        table.ok_or_else(|| format!("no such table: {name}"))
    }

    pub fn get_mut(&mut self, name: &str) -> Result<&mut Table, String> {
        let table = self.0.get_mut(name.to_ascii_lowercase().as_str());
        table.ok_or_else(|| format!("no such table: {name}"))
    }

    /// Takes some tables over.
    pub fn take(&mut self, from: &Tables, names: &[&'static str]) {
        for name in names {
            if let Some(table) = from.0.get(name) {
                self.0.insert(name, table.clone());
            }
        }
    }
}
