//! SQL through the server's own client, which cannot share a bug with the code under test.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{Mysql, Version};

/// A row's fields as bytes. NULL is the text `NULL`, as the client prints it: ask with `IS NULL`.
pub type Row = Vec<Vec<u8>>;

/// A client of a server, or of a router in front of one.
#[derive(Debug, Clone)]
pub struct Login {
    version: Version,
    way: Way,
}

/// How it gets there, and as whom.
#[derive(Debug, Clone)]
enum Way {
    /// As root.
    Socket(PathBuf),
    /// On loopback.
    Tcp { port: u16, user: String, password: String },
}

impl Login {
    /// Runs statements until one fails, in UTF-8 and UTC.
    pub fn run(&self, sql: &str) -> Result<()> {
        self.client(sql).map(drop)
    }

    /// The rows of all results of `sql`.
    pub fn rows(&self, sql: &str) -> Result<Vec<Row>> {
        Ok(rows_of(&self.client(sql)?))
    }

    /// The only field of the only row.
    pub fn value(&self, sql: &str) -> Result<String> {
        value_of(&self.rows(sql)?, sql)
    }

    fn client(&self, sql: &str) -> Result<Vec<u8>> {
        let mut command = command(self.version)?;
        match &self.way {
            Way::Socket(path) => {
                command.arg("--user=root").arg(format!("--socket={}", path.display()));
            }
            Way::Tcp { port, user, password } => {
                let plain: &[&str] = match self.version.is_mariadb() {
                    true => &["--skip-ssl"],
                    false => &["--ssl-mode=DISABLED", "--get-server-public-key"],
                };
                command.args(["--protocol=TCP", "--host=127.0.0.1", "--connect-timeout=5"]);
                command.args(plain).args([format!("--port={port}"), format!("--user={user}")]);
                command.env("MYSQL_PWD", password);
            }
        }
        output_of(command, self.version, sql)
    }
}

impl Mysql {
    /// A client at this port of loopback: the server's own, or a router's.
    pub fn login(&self, port: u16, user: &str, password: &str) -> Login {
        let (user, password) = (user.to_owned(), password.to_owned());
        Login { version: self.version, way: Way::Tcp { port, user, password } }
    }

    /// Root over the socket.
    fn root(&self) -> Login {
        Login { version: self.version, way: Way::Socket(self.socket.clone()) }
    }

    /// As [`Login::run`], as root over the socket.
    pub fn run(&self, sql: &str) -> Result<()> {
        self.root().run(sql)
    }

    /// As [`Login::rows`], as root over the socket.
    pub fn rows(&self, sql: &str) -> Result<Vec<Row>> {
        self.root().rows(sql)
    }

    /// As [`Login::value`], as root over the socket.
    pub fn value(&self, sql: &str) -> Result<String> {
        self.root().value(sql)
    }
}

fn command(version: Version) -> Result<Command> {
    let mut command = Command::new(version.client()?);
    command.args(["--no-defaults", "--batch", "--skip-column-names"]);
    command.args(["--default-character-set=utf8mb4", "--max-allowed-packet=1G"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

fn output_of(mut command: Command, version: Version, sql: &str) -> Result<Vec<u8>> {
    let mut child = command.spawn().context("cannot start the client")?;
    let mut stdin = child.stdin.take().context("the client has no input")?;
    let sql = format!("set time_zone = '+00:00';\n{sql}\n");
    // A client that fails stops reading; its own message says why.
    let writer = std::thread::spawn(move || drop(stdin.write_all(sql.as_bytes())));
    let output = child.wait_with_output()?;
    drop(writer.join());
    if !output.status.success() {
        bail!("{}: {}", version.name(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

fn rows_of(out: &[u8]) -> Vec<Row> {
    let lines = out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| line.split(|byte| *byte == b'\t').map(unescaped).collect()).collect()
}

fn value_of(rows: &[Row], sql: &str) -> Result<String> {
    match rows {
        [row] if row.len() == 1 => Ok(String::from_utf8(row[0].clone())?),
        rows => bail!("{} rows came for {sql:?}, expected one field", rows.len()),
    }
}

/// Undoes what the client's batch mode does to zero bytes, tabs, newlines and backslashes.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field.iter();
    while let Some(byte) = rest.next() {
        out.push(match (byte, byte == &b'\\') {
            (_, true) => match rest.next() {
                Some(b'0') => 0,
                Some(b't') => b'\t',
                Some(b'n') => b'\n',
                Some(other) => *other,
                None => b'\\',
            },
            (plain, false) => *plain,
        });
    }
    out
}
