//! An HAProxy in TCP mode in front of two servers, of which the second is disabled.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use std::time::Duration;

use crate::ports::Port;
use crate::process::{Launch, Process};
use crate::scratch::Scratch;
use crate::side::Side;
use crate::wait;

const PROGRAM: &str = "/usr/sbin/haproxy";
const START_DEADLINE: Duration = Duration::from_secs(20);

/// Dropping it stops it.
#[derive(Debug)]
pub struct HaProxy {
    port: Port,
    servers: [u16; 2],
    process: Option<Process>,
    scratch: Scratch,
}

impl HaProxy {
    /// In front of these ports of loopback.
    pub fn start(blue: u16, green: u16) -> Result<HaProxy> {
        let (scratch, port) = (Scratch::new()?, Port::reserve()?);
        let mut haproxy = HaProxy { port, servers: [blue, green], process: None, scratch };
        haproxy.lead_to(Side::Blue)?;
        haproxy.revive()?;
        Ok(haproxy)
    }

    /// Writes its configuration, as an operator does after a cutover: a restart begins with it.
    pub fn lead_to(&self, side: Side) -> Result<()> {
        let [blue, green] = self.servers;
        let disabled = |of: Side| if of == side { "" } else { " disabled" };
        let text = format!(
            "global\n  stats socket {} level admin\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
             timeout client 1h\n  timeout server 1h\nfrontend clients\n  bind 127.0.0.1:{}\n  \
             default_backend databases\nbackend databases\n  server blue 127.0.0.1:{blue}{}\n  \
             server green 127.0.0.1:{green}{}\n",
            self.socket().display(),
            self.port(),
            disabled(Side::Blue),
            disabled(Side::Green),
        );
        Ok(std::fs::write(self.scratch.path().join("haproxy.cfg"), text)?)
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its stats socket.
    pub fn socket(&self) -> PathBuf {
        self.scratch.path().join("admin.sock")
    }

    /// For clients of this database of PostgreSQL.
    pub fn url_as(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port())
    }

    /// What the operator writes about it, for PostgreSQL.
    pub fn config(&self, user: &str, database: &str) -> String {
        self.config_for(&self.url_as(user, database))
    }

    /// The same with this URL of a client.
    pub fn config_for(&self, client: &str) -> String {
        format!(
            "[[cutover.haproxy]]\nsocket = {:?}\nbackend = \"databases\"\nblue = \"blue\"\n\
             green = \"green\"\nclient = {:?}\n",
            self.socket(),
            client
        )
    }

    /// `kill -9` and a new start: what was set at run time is gone.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.revive()
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().map_or(Ok(()), |mut process| process.kill9())
    }

    /// A new start after that.
    pub fn revive(&mut self) -> Result<()> {
        let launch =
            Launch::new(PROGRAM).args(["-db", "-f"]).arg(self.scratch.path().join("haproxy.cfg"));
        let mut process =
            launch.start(&self.scratch.path().join("haproxy")).context("run scripts/setup")?;
        let port = self.port();
        wait::until_blocking("HAProxy to listen", START_DEADLINE, || {
            if let Some(status) = process.ended()? {
                bail!("HAProxy ended with {status}:\n{}", process.log_tail());
            }
            // The stats socket gets its name after the port listens.
            let clients = std::net::TcpStream::connect(("127.0.0.1", port)).ok();
            let operator = std::os::unix::net::UnixStream::connect(self.socket()).ok();
            Ok(clients.and(operator).map(drop))
        })?;
        self.process = Some(process);
        Ok(())
    }
}
