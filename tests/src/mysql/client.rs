//! SQL through the server's own client, which cannot share a bug with the code under test.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::Mysql;

/// A row's fields as bytes. NULL is the text `NULL`, as the client prints it: ask with `IS NULL`.
pub type Row = Vec<Vec<u8>>;

impl Mysql {
    /// Runs statements as root over the socket, in UTF-8 and UTC, until one fails.
    pub fn run(&self, sql: &str) -> Result<()> {
        self.client(sql).map(drop)
    }

    /// The rows of all results of `sql`.
    pub fn rows(&self, sql: &str) -> Result<Vec<Row>> {
        let out = self.client(sql)?;
        let lines = out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        Ok(lines.map(|line| line.split(|byte| *byte == b'\t').map(unescaped).collect()).collect())
    }

    /// The only field of the only row.
    pub fn value(&self, sql: &str) -> Result<String> {
        match &self.rows(sql)?[..] {
            [row] if row.len() == 1 => Ok(String::from_utf8(row[0].clone())?),
            rows => bail!("{} rows came for {sql:?}, expected one field", rows.len()),
        }
    }

    fn client(&self, sql: &str) -> Result<Vec<u8>> {
        let mut command = Command::new(self.version.client()?);
        command.args(["--no-defaults", "--user=root", "--batch", "--skip-column-names"]);
        command.args(["--default-character-set=utf8mb4", "--max-allowed-packet=1G"]);
        command.arg(format!("--socket={}", self.socket.display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot start the client")?;
        let mut stdin = child.stdin.take().context("the client has no input")?;
        let sql = format!("set time_zone = '+00:00';\n{sql}\n");
        // A client that fails stops reading; its own message says why.
        let writer = std::thread::spawn(move || drop(stdin.write_all(sql.as_bytes())));
        let output = child.wait_with_output()?;
        drop(writer.join());
        if !output.status.success() {
            bail!("{}: {}", self.version.name(), String::from_utf8_lossy(&output.stderr));
        }
        Ok(output.stdout)
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
