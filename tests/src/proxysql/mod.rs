//! A stand-in for ProxySQL, which is not packaged for the test machines: its admin interface over the
//! protocol of MySQL, with draft, runtime and disk, and a port for clients.
//!
//! It differs from the real one on purpose in what no statement of ours can tell: a client's session is
//! one connection to one server, byte for byte, so each keeps "its server connection" as long as it
//! lives, as sessions with a temporary table do there. Statements that it does not know are refused, so
//! what is sent is written down here: [`sql`] has the grammar, [`world`] the commands.

mod clients;
mod sql;
mod tables;
mod wire;
mod world;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::ports::Port;
use crate::wait;
use tables::Tables;
use world::{Answer, World};

/// The hostgroup that clients use.
pub const HOSTGROUP: u32 = 10;
/// The account that cutover uses; `admin` is the operator's, `stats` may only look at statistics.
const ACCOUNTS: [(&str, &str); 3] = [("radmin", "s3cret"), ("admin", "admin"), ("stats", "stats")];
const START_DEADLINE: Duration = Duration::from_secs(20);

/// A process, as far as anybody can tell from outside. Dropping it ends it.
#[derive(Debug)]
pub struct ProxySql {
    admin: Port,
    clients: Port,
    /// What a restart begins with.
    disk: Arc<Mutex<Tables>>,
    /// Statements that came over the wire, in all of its lives.
    told: Arc<Mutex<Vec<String>>>,
    life: Option<Life>,
}

#[derive(Debug)]
struct Life {
    world: Arc<World>,
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl ProxySql {
    /// Its only server is this port of loopback, in [`HOSTGROUP`].
    pub fn start(server: u16) -> Result<ProxySql> {
        let disk = Arc::new(Mutex::new(Tables::leading_to(HOSTGROUP, server)));
        let (admin, clients) = (Port::reserve()?, Port::reserve()?);
        let mut this = ProxySql { admin, clients, disk, told: Arc::default(), life: None };
        this.revive()?;
        Ok(this)
    }

    /// The port of clients.
    pub fn port(&self) -> u16 {
        self.clients.number()
    }

    /// URL of the admin interface for one of the accounts.
    pub fn admin_url(&self, user: &str) -> String {
        let password = ACCOUNTS.iter().find(|(name, _)| *name == user).map_or("", |(_, word)| word);
        format!("mysql://{user}:{password}@127.0.0.1:{}?ssl-mode=disabled", self.admin.number())
    }

    /// What the operator writes about it, where `client` is a client's URL.
    pub fn config(&self, client: &str) -> String {
        format!(
            "[[cutover.proxysql]]\nadmin = {:?}\nhostgroup = {HOSTGROUP}\nclient = {client:?}\n",
            self.admin_url("radmin")
        )
    }

    /// Somebody at its console. Rows as text.
    pub fn tell(&self, sql: &str) -> Result<Vec<Vec<String>>> {
        let life = self.life.as_ref().context("it is not running")?;
        match life.world.execute(sql) {
            Ok(Answer::Rows { rows, .. }) => Ok(rows),
            Ok(Answer::Done(_)) => Ok(Vec::new()),
            Err(refusal) => Err(anyhow!("{sql}: {refusal}")),
        }
    }

    /// Somebody adds a query rule that sends all clients to this hostgroup; `None`: takes it away.
    pub fn send_to(&self, hostgroup: Option<u32>) {
        if let Some(life) = &self.life {
            life.world.send_to(hostgroup);
        }
    }

    /// The statements that came over the wire so far.
    pub fn told(&self) -> Vec<String> {
        locked(&self.told).clone()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(life) = self.life.take() {
            drop(life.end);
            // A panic in there has printed itself.
            drop(life.thread.join());
        }
    }

    /// `kill -9` and a new start, from what is on disk.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        self.revive()
    }

    /// A new start.
    pub fn revive(&mut self) -> Result<()> {
        let tables = locked(&self.disk).clone();
        let world = Arc::new(World::new(tables, self.disk.clone()));
        let (end, ended) = oneshot::channel();
        let (admin, clients) = (self.admin.number(), self.clients.number());
        let (state, told) = (world.clone(), self.told.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::spawn(move || {
            // Whatever it has begun dies with the runtime.
            runtime.block_on(async move {
                tokio::select! {
                    served = serve(admin, clients, state, told) => {
                        if let Err(error) = served {
                            eprintln!("the stand-in for ProxySQL can't listen: {error}");
                        }
                    }
                    _ = ended => {}
                }
            });
        });
        self.life = Some(Life { world, end, thread });
        wait::until_blocking("the stand-in for ProxySQL to listen", START_DEADLINE, || {
            let open = |port| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
            Ok(open(admin).then_some(()))
        })
    }
}

impl Drop for ProxySql {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn serve(
    admin: u16,
    clients: u16,
    world: Arc<World>,
    told: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    let clients = TcpListener::bind(("127.0.0.1", clients)).await?;
    let admin = TcpListener::bind(("127.0.0.1", admin)).await?;
    loop {
        tokio::select! {
            accepted = admin.accept() => {
                let (stream, _) = accepted?;
                let (world, told) = (world.clone(), told.clone());
                tokio::spawn(async move {
                    // How a session ends is its client's business.
                    drop(wire::converse(stream, &ACCOUNTS, &world, &told).await);
                });
            }
            accepted = clients.accept() => {
                tokio::spawn(clients::lead(accepted?.0, world.clone()));
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
