//! Whole cutovers between servers of MySQL and MariaDB, and back.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::api::Api;
use tests::haproxy::HaProxy;
use tests::mysql::{Login, Mysql, Version};
use tests::ports::Port;
use tests::process::{Finished, Launch, Process};
use tests::scratch::Scratch;
use tests::wait;

use super::SOON;

const CLIENTS: u64 = 3;
const ACCOUNTS: u64 = 30;
const GO: [&str; 5] = ["--when-lag", "<1s", "--max-pause", "20s", "--yes"];
const BACK: [&str; 4] = ["rollback", "--max-pause", "20s", "--yes"];

const TABLES: &str = "
    create database shop; use shop;
    create table account(id int primary key, balance bigint not null);
    create table entry(id bigint auto_increment primary key, client int not null, seq bigint not null,
      from_account int not null, to_account int not null, note varchar(40), key(client, seq),
      foreign key (from_account) references account(id), foreign key (to_account) references account(id));";

/// What a client was told of its transactions, by their numbers.
#[derive(Default)]
struct Told {
    acknowledged: Vec<u64>,
    /// The connection was lost: it may be there, once.
    unknown: Vec<u64>,
    last_error: String,
}

/// Clients of a router, each with one transaction after the other. Nothing is ever tried again.
struct Ledger {
    stop: Arc<AtomicBool>,
    told: Vec<Arc<Mutex<Told>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Ledger {
    fn start(login: &Login) -> Ledger {
        let stop = Arc::new(AtomicBool::new(false));
        let told: Vec<Arc<Mutex<Told>>> = (0..CLIENTS).map(|_| Arc::default()).collect();
        let client = |(number, told): (u64, &Arc<Mutex<Told>>)| {
            let (stop, told, login) = (Arc::clone(&stop), Arc::clone(told), login.clone());
            std::thread::spawn(move || {
                for seq in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let done = login.run(&transfer(number, seq));
                    let mut told = told.lock().unwrap();
                    match done {
                        Ok(()) => told.acknowledged.push(seq),
                        Err(error) => {
                            told.last_error = format!("{error:#}");
                            told.unknown.push(seq);
                        }
                    }
                }
            })
        };
        let threads = (0..).zip(&told).map(client).collect();
        Ledger { stop, told, threads }
    }

    fn acknowledged(&self) -> Vec<usize> {
        self.told.iter().map(|told| told.lock().unwrap().acknowledged.len()).collect()
    }

    /// Waits until each of them was acknowledged so many more.
    async fn more(&self, count: usize) -> Result<()> {
        let before = self.acknowledged();
        let gone_on = wait::until("the clients to go on", 2 * SOON, || async {
            let now = self.acknowledged();
            let all = now.iter().zip(&before).all(|(now, before)| *now >= before + count);
            Ok(all.then_some(()))
        });
        gone_on.await.with_context(|| self.told[0].lock().unwrap().last_error.clone())
    }

    /// Ends the clients and compares what they were told with what is there.
    fn check(mut self, server: &Login) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            ensure!(thread.join().is_ok(), "a client panicked");
        }
        let mut there: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        for row in server.rows("select client, seq from shop.entry")? {
            let number =
                |at: usize| -> Result<u64> { Ok(String::from_utf8(row[at].clone())?.parse()?) };
            *there.entry((number(0)?, number(1)?)).or_default() += 1;
        }
        let twice: Vec<_> = there.iter().filter(|(_, times)| **times > 1).collect();
        ensure!(twice.is_empty(), "written twice: {twice:?}");
        for (client, told) in (0..).zip(&self.told) {
            let told = told.lock().unwrap();
            for seq in &told.acknowledged {
                ensure!(there.remove(&(client, *seq)).is_some(), "LOST: {client}.{seq}");
            }
            for seq in &told.unknown {
                there.remove(&(client, *seq));
            }
        }
        ensure!(there.is_empty(), "nobody has written {there:?}");
        let sum = server.value("select sum(balance) from shop.account")?;
        ensure!(sum == (ACCOUNTS * 1000).to_string(), "the balances add up to {sum}");
        Ok(())
    }
}

fn transfer(client: u64, seq: u64) -> String {
    let (from, to) =
        (1 + (client * 7 + seq) % ACCOUNTS, 1 + (client * 11 + seq * 3 + 1) % ACCOUNTS);
    // In one order, so that nobody waits for each other for ever.
    let (low, high) = (from.min(to), from.max(to));
    let change = |id: u64| {
        let by = i64::from(id == to) - i64::from(id == from);
        format!("update shop.account set balance = balance + {by} where id = {id};")
    };
    format!(
        "begin; {} {} insert into shop.entry(client, seq, from_account, to_account, note)
         values ({client}, {seq}, {from}, {to}, 'Überweisung'); commit;",
        change(low),
        if low == high { String::new() } else { change(high) }
    )
}

/// Two servers, an HAProxy in front of them, and a sidecar.
struct Move {
    blue: Mysql,
    green: Mysql,
    haproxy: HaProxy,
    scratch: Scratch,
    port: Port,
    sidecar: Process,
}

impl Move {
    fn start((blue, green): (Version, Version)) -> Result<Move> {
        let server = |version: Version| -> Result<Mysql> {
            let server = Mysql::start(version, &[])?;
            server.run(
                "create user 'mover'@'%' identified by 'se cret'; grant all on *.* to 'mover'@'%';
                 create user 'app'@'%' identified by 'app'; grant all on shop.* to 'app'@'%';",
            )?;
            Ok(server)
        };
        let (blue, green) = (server(blue)?, server(green)?);
        let accounts: Vec<String> = (1..=ACCOUNTS).map(|id| format!("({id}, 1000)")).collect();
        blue.run(&format!("{TABLES} insert into account values {};", accounts.join(",")))?;
        let haproxy = HaProxy::start(blue.port(), green.port())?;
        let (scratch, port) = (Scratch::new()?, Port::reserve()?);
        let scheme = if blue.version().is_mariadb() { "mariadb" } else { "mysql" };
        let url = |port: u16| format!("{scheme}://mover@127.0.0.1:{port}/shop");
        let config = format!(
            "name = \"shop\"\nstate_dir = {:?}\n[blue]\nurl = {:?}\n[green]\nurl = {:?}\n\
             [api]\nlisten = \"127.0.0.1:{}\"\n\
             [[cutover.haproxy]]\nsocket = {:?}\nbackend = \"databases\"\nblue = \"blue\"\n\
             green = \"green\"\nclient = \"{scheme}://app:app@127.0.0.1:{}/shop\"\n",
            scratch.path().join("state"),
            url(blue.port()),
            url(green.port()),
            port.number(),
            haproxy.socket(),
            haproxy.port(),
        );
        std::fs::write(scratch.path().join("cutover.toml"), config)?;
        let sidecar = Self::launch(&scratch)?;
        Ok(Move { blue, green, haproxy, scratch, port, sidecar })
    }

    fn launch(scratch: &Scratch) -> Result<Process> {
        Launch::ours("replicator")?
            .args(["run", "--config"])
            .arg(scratch.path().join("cutover.toml"))
            .env("MYSQL_PWD", "se cret")
            .start(&scratch.path().join("replicator"))
    }

    fn api(&self) -> Api {
        Api::new(self.port.number())
    }

    /// `kill -9`, and the next life.
    fn kill(&mut self) -> Result<()> {
        self.sidecar.kill9()?;
        self.sidecar = Self::launch(&self.scratch)?;
        Ok(())
    }

    async fn wait(&mut self, what: &str, ready: impl Fn(&Value) -> bool) -> Result<Value> {
        self.api().wait_status(&mut self.sidecar, what, 2 * SOON, ready).await
    }

    async fn wait_streaming(&mut self) -> Result<Value> {
        self.api().wait_streaming(&mut self.sidecar, 1.0, 2 * SOON).await
    }

    fn cutover(&self, arguments: &[&str]) -> Result<Finished> {
        let api = self.api();
        Launch::ours("cutover")?.args(["--api", api.base_url()]).args(arguments).run(2 * SOON)
    }

    /// As above, and it has to succeed.
    fn succeed(&self, arguments: &[&str]) -> Result<Finished> {
        let finished = self.cutover(arguments)?;
        ensure!(
            finished.code() == 0,
            "{arguments:?}: {}\n{}\n{}\nthe sidecar's log:\n{}",
            finished.code(),
            finished.stdout,
            finished.stderr,
            self.sidecar.log_tail()
        );
        Ok(finished)
    }

    /// A client of the router.
    fn app(&self) -> Login {
        self.blue.login(self.haproxy.port(), "app", "app")
    }

    /// Our own account, which a closed side lets in.
    fn mover(server: &Mysql) -> Login {
        server.login(server.port(), "mover", "se cret")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_is_cut_over_and_back_and_nothing_is_lost() -> Result<()> {
    is_cut_over_and_back((Version::Mariadb10_11, Version::Mariadb11_8)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_is_cut_over_and_back_and_nothing_is_lost() -> Result<()> {
    is_cut_over_and_back((Version::Mysql9_7, Version::Mysql9_7)).await
}

async fn is_cut_over_and_back(versions: (Version, Version)) -> Result<()> {
    let mut this = Move::start(versions)?;
    let name = this.blue.version().name();
    this.wait_streaming().await.context(name)?;
    let ledger = Ledger::start(&this.app());
    ledger.more(5).await?;
    let plan = this.succeed(&["plan"])?;
    let closes = match this.blue.version().is_mariadb() {
        true => "ACCOUNT LOCK",
        false => "offline_mode",
    };
    ensure!(plan.stdout.contains(closes), "{}", plan.stdout);
    assert_eq!(this.app().value("select @@port")?, this.blue.port().to_string(), "{name}");

    this.succeed(&GO).context(name)?;
    ledger.more(5).await?;
    assert_eq!(this.app().value("select @@port")?, this.green.port().to_string(), "{name}");
    let status = this.api().status()?;
    assert_eq!(status["serving"], "green", "{status}");
    assert_eq!(status["sealed"], "blue", "{status}");
    let report = &status["cutover"]["report"];
    assert_eq!(report["routers"][0]["verified"], true, "{report}");
    let refused = this.blue.login(this.blue.port(), "app", "app").run("select 1");
    ensure!(refused.is_err(), "{name}: a client gets into the closed side");

    // The next life knows who serves, and what each stream is for.
    this.kill()?;
    this.wait("the way back to carry", |status| {
        status["serving"] == "green" && status["streams"][1]["state"] == "carries"
    })
    .await?;
    ledger.more(5).await?;
    this.succeed(&BACK).context(name)?;
    ledger.more(5).await?;
    assert_eq!(this.app().value("select @@port")?, this.blue.port().to_string(), "{name}");
    assert_eq!(this.api().status()?["serving"], "blue");

    // And once more, over what the first run and its rollback have left.
    this.succeed(&GO).context(name)?;
    ledger.more(5).await?;
    assert_eq!(this.app().value("select @@port")?, this.green.port().to_string(), "{name}");
    ledger.check(&Move::mover(&this.green)).context(name)?;
    // What came last is on the way back.
    let count = "select count(*) from shop.entry";
    let all = Move::mover(&this.green).value(count)?;
    wait::until("blue to have everything", SOON, || {
        let found = Move::mover(&this.blue).value(count);
        let all = all.clone();
        async move { Ok((found? == all).then_some(())) }
    })
    .await?;
    this.succeed(&["finish", "--yes"]).context(name)?;
    let left = "select group_concat(table_name order by 1) from information_schema.tables
                where table_schema = '_cutover'";
    assert_eq!(Move::mover(&this.blue).value(left)?, "decision,fence", "{name}");
    this.sidecar.terminate()?;
    ensure!(this.sidecar.wait(SOON)?.success(), "{}", this.sidecar.log_tail());
    Ok(())
}
