//! The embedded proxy, seen from outside: its control socket, and the end of a process that is
//! meant to outlive whoever started it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::ports::Port;
use crate::process::kill_all;

/// The longest that an order may take: holds wait for transactions.
const ORDER_DEADLINE: Duration = Duration::from_secs(60);

/// A proxy at a port of ours. Dropping it kills the process that answers at its control socket.
#[derive(Debug)]
pub struct Embedded {
    control: PathBuf,
    port: Port,
}

impl Embedded {
    /// One whose control socket will be here.
    pub fn at(control: PathBuf) -> Result<Embedded> {
        Ok(Embedded { control, port: Port::reserve()? })
    }

    /// Where clients connect.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// For clients of this database.
    pub fn url_as(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port())
    }

    /// Its control socket.
    pub fn control(&self) -> &Path {
        &self.control
    }

    /// Gives an order and returns the answer, whatever it says.
    pub fn order(&self, what: &Value) -> Result<Value> {
        let stream = UnixStream::connect(&self.control)
            .with_context(|| format!("nobody answers at {}", self.control.display()))?;
        stream.set_read_timeout(Some(ORDER_DEADLINE))?;
        let mut stream = BufReader::new(stream);
        stream.get_mut().write_all(format!("{what}\n").as_bytes())?;
        let mut line = String::new();
        stream.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("its answer to {what}: {line:?}"))
    }

    /// An order that must be carried out.
    pub fn must(&self, what: &Value) -> Result<Value> {
        let answer = self.order(what)?;
        if !answer["error"].is_null() {
            bail!("{what} was refused: {answer}");
        }
        Ok(answer)
    }

    pub fn status(&self) -> Result<Value> {
        self.must(&json!({"cmd": "status"}))
    }

    /// Holds everybody, leads them to `side`, lets them go.
    pub fn turn(&self, epoch: u64, serial: u64, side: &str) -> Result<()> {
        self.must(&json!({"cmd": "hold", "epoch": epoch, "serial": serial, "wait_ms": 30_000,
            "limit_ms": 60_000}))?;
        self.must(&json!({"cmd": "route", "epoch": epoch, "side": side}))?;
        self.must(&json!({"cmd": "release", "epoch": epoch, "serial": serial}))?;
        Ok(())
    }

    /// The process that answers.
    pub fn pid(&self) -> Result<u32> {
        let pid = self.status()?["pid"].as_u64().context("it does not tell its pid")?;
        Ok(u32::try_from(pid)?)
    }

    /// `kill -9`.
    pub fn kill9(&self) -> Result<()> {
        kill_all(&[self.pid()?]);
        Ok(())
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // Nobody there is the usual case: a proxy that was never started, or is a child of ours.
        if let Ok(pid) = self.pid() {
            kill_all(&[pid]);
        }
    }
}
