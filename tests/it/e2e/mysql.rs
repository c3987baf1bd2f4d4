//! A move between two servers of MySQL or MariaDB: copied and streamed under load, whatever dies.

mod repair;
mod verify;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tests::api::Api;
use tests::mysql::{Mysql, Row, Version};
use tests::ports::Port;
use tests::process::{Launch, Process};
use tests::scratch::Scratch;
use tests::wait;

use super::SOON;

const MARIADB: (Version, Version) = (Version::Mariadb10_11, Version::Mariadb11_8);
const MYSQL: (Version, Version) = (Version::Mysql9_7, Version::Mysql9_7);

const TABLES: &str = "
    create database shop; use shop;
    create table account(id int primary key, balance decimal(12,2) not null,
      changed timestamp(6) not null default current_timestamp(6) on update current_timestamp(6));
    create table transfer(id bigint auto_increment primary key, client int not null, n int not null,
      amount decimal(12,2), note varchar(40), unique key (client, n));
    create table parcel(id int auto_increment primary key, account int not null, label varchar(20),
      foreign key (account) references account(id) on delete cascade on update cascade);
    create table visit(client int, n int, what varchar(10));
    create table ballast(id int primary key, filler varchar(200) not null, key(filler));
    create view rich as select id from account where balance > 1000;
    create trigger watched after delete on account for each row set @gone = old.id;";
const NAMES: [&str; 5] = ["account", "transfer", "parcel", "visit", "ballast"];
const ACCOUNTS: u64 = 60;
const CLIENTS: u64 = 3;

/// Clients of blue. Each transfers between accounts and notes it in the same transaction.
struct Clients {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Clients {
    fn start(blue: &Arc<Mysql>) -> Clients {
        let stop = Arc::new(AtomicBool::new(false));
        let committed = Arc::new(AtomicU64::new(0));
        let threads = (0..CLIENTS).map(|client| {
            let (blue, stop) = (Arc::clone(blue), Arc::clone(&stop));
            let committed = Arc::clone(&committed);
            std::thread::spawn(move || {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    match blue.run(&transactions(client, n)) {
                        Ok(()) => {}
                        // A deadlock: the client has ended, and nothing of its transaction stays.
                        Err(error)
                            if ["1213", "1205"].iter().any(|n| error.to_string().contains(n)) => {}
                        Err(error) => return Err(error),
                    }
                    n += 1;
                    committed.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        let threads = threads.collect();
        Clients { stop, committed, threads }
    }

    /// Waits until they have come so much further.
    async fn more(&self, count: u64) -> Result<()> {
        let wanted = self.committed.load(Ordering::Relaxed) + count;
        wait::until("the clients to go on", SOON, || {
            let failed = self.threads.iter().any(JoinHandle::is_finished);
            let there = self.committed.load(Ordering::Relaxed) >= wanted;
            async move {
                ensure!(!failed, "a client has ended");
                Ok(there.then_some(()))
            }
        })
        .await
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            match thread.join() {
                Ok(ended) => ended?,
                Err(_) => bail!("a client panicked"),
            }
        }
        Ok(())
    }
}

/// Three transactions, each with a number of its own that shows which of them green has.
fn transactions(client: u64, round: u64) -> String {
    let mut sql = String::from("use shop;");
    for n in 3 * round..3 * round + 3 {
        // Each client has accounts of its own, so that deadlocks are rare.
        let own = ACCOUNTS / CLIENTS;
        let (from, to) = (client * own + n % own, client * own + (n * 7 + 3) % own);
        sql.push_str(&format!(
            "begin;
             update account set balance = balance - {n}.25 where id = {from};
             update account set balance = balance + {n}.25 where id = {to};
             insert into transfer(client, n, amount, note) values ({client}, {n}, {n}.25, 'grüße {n}');
             insert into parcel(account, label) values ({to}, 'p{n}');
             insert into visit values ({client}, {}, 'here'), ({client}, {}, 'here');",
            n % 5,
            n % 5
        ));
        if n % 4 == 0 {
            sql.push_str(&format!(
                "delete from visit where client = {client} and n = {} limit 1;",
                n % 5
            ));
        }
        if n % 11 == 10 {
            // What hangs on it goes with it; the balance stays as it was.
            sql.push_str(&format!(
                "set @balance = (select balance from account where id = {from});
                 delete from account where id = {from};
                 insert into account(id, balance) values ({from}, @balance);"
            ));
        }
        sql.push_str("commit;");
    }
    sql
}

/// A sidecar between two servers.
struct Move {
    blue: Arc<Mysql>,
    green: Mysql,
    scratch: Scratch,
    port: Port,
    sidecar: Process,
}

impl Move {
    fn start(versions: (Version, Version)) -> Result<Move> {
        Move::start_with(versions, "do 1", "rate_limit_bytes_per_s = 2_000_000\n")
    }

    /// With more tables, and more settings of `[copy]`.
    fn start_with((blue, green): (Version, Version), more: &str, copy: &str) -> Result<Move> {
        let server = |version: Version| -> Result<Mysql> {
            let server = Mysql::start(version, &[])?;
            server.run(
                "create user 'mover'@'%' identified by 'se cret'; grant all on *.* to 'mover'@'%'",
            )?;
            Ok(server)
        };
        let (blue, green) = (Arc::new(server(blue)?), server(green)?);
        blue.run(TABLES)?;
        let accounts: Vec<String> = (0..ACCOUNTS).map(|id| format!("({id}, 500)")).collect();
        blue.run(&format!(
            "use shop; insert into account(id, balance) values {};
             insert into ballast select a.id * {ACCOUNTS} * 10 + b.id * 10 + c.n, repeat(char(97 + c.n), 200)
               from account a, account b, (select 0 as n union select 1 union select 2 union select 3
                 union select 4 union select 5 union select 6 union select 7 union select 8) c;",
            accounts.join(",")
        ))?;
        blue.run(more)?;
        let (scratch, port) = (Scratch::new()?, Port::reserve()?);
        let url = |server: &Mysql| {
            let scheme = if server.version().is_mariadb() { "mariadb" } else { "mysql" };
            format!("{scheme}://mover@127.0.0.1:{}/shop", server.port())
        };
        let config = format!(
            "name = \"shop\"\nstate_dir = {:?}\n[blue]\nurl = {:?}\n[green]\nurl = {:?}\n\
             [api]\nlisten = \"127.0.0.1:{}\"\n[apply]\nlanes = 2\n\
             [cutover]\nrouter = \"none\"\n\
             [copy]\n{copy}chunk_mib = 1\n",
            scratch.path().join("state"),
            url(&blue),
            url(&green),
            port.number()
        );
        tests::scratch::write_private(&scratch.path().join("cutover.toml"), config)?;
        let sidecar = launch(&scratch.path().join("cutover.toml"))?
            .start(&scratch.path().join("replicator"))?;
        Ok(Move { blue, green, scratch, port, sidecar })
    }

    fn api(&self) -> Api {
        Api::new(self.port.number(), self.scratch.path().join("state"))
    }

    /// `kill -9`, and the next life, with what is in the state directory or without.
    fn kill(&mut self, keeps_state: bool) -> Result<()> {
        self.sidecar.kill9()?;
        if !keeps_state {
            std::fs::remove_dir_all(self.scratch.path().join("state"))?;
        }
        let log: PathBuf = self.scratch.path().join("replicator");
        self.sidecar = launch(&self.scratch.path().join("cutover.toml"))?.start(&log)?;
        Ok(())
    }

    async fn wait(&mut self, what: &str, ready: impl FnMut(&Value) -> bool) -> Result<Value> {
        self.api().wait_status(&mut self.sidecar, what, 2 * SOON, ready).await
    }

    async fn wait_streaming(&mut self) -> Result<Value> {
        self.api().wait_streaming(&mut self.sidecar, 1.0, 2 * SOON).await
    }

    fn cutover(&self, arguments: &[&str]) -> Result<tests::process::Finished> {
        self.api().command()?.args(arguments).run(SOON)
    }
}

fn launch(config: &std::path::Path) -> Result<Launch> {
    Ok(Launch::ours("replicator")?
        .args(["run", "--config"])
        .arg(config)
        .env("MYSQL_PWD", "se cret"))
}

/// All rows of a table, in one order.
fn rows(server: &Mysql, table: &str) -> Result<Vec<Row>> {
    let mut rows = server.rows(&format!("select * from shop.{table}"))?;
    rows.sort();
    Ok(rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_is_copied_and_followed_through_kills() -> Result<()> {
    is_copied_and_followed_through_kills(MARIADB).await
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_is_copied_and_followed_through_kills() -> Result<()> {
    is_copied_and_followed_through_kills(MYSQL).await
}

async fn is_copied_and_followed_through_kills(versions: (Version, Version)) -> Result<()> {
    let mut this = Move::start(versions)?;
    let name = this.blue.version().name();
    let clients = Clients::start(&this.blue);
    clients.more(3).await?;
    // In the middle of the copy, twice: chunks that are done stay.
    for rows in [1, 8_000] {
        this.wait("rows being copied", |status| {
            status["phase"] == "copying"
                && status["backfill"]["rows"].as_u64().is_some_and(|copied| copied >= rows)
        })
        .await
        .context(name)?;
        this.kill(rows == 1)?;
    }
    for kill in 0..4 {
        this.wait_streaming().await.context(name)?;
        clients.more([2, 9, 20, 5][kill]).await?;
        // Green alone knows where to go on.
        this.kill(kill != 2)?;
        clients.more([1, 12, 3, 6][kill]).await?;
    }
    let status = this.wait_streaming().await.context(name)?;
    assert_eq!(status["serving"], "blue");
    assert!(status["positions"]["applied"]["gtid"].is_string(), "{status}");
    assert!(status["lag"]["bytes"].is_null() && status["lag"]["known"] == true, "{status}");
    assert!(status["green"]["up"] == true && status["green"]["version"].is_string(), "{status}");

    clients.end()?;
    let done: u64 = this.blue.value("select count(*) from shop.transfer")?.parse()?;
    ensure!(done > 150, "{name}: {done} transactions prove little");
    wait::until("green to have everything", SOON, || {
        let found = this.green.value("select count(*) from shop.transfer");
        async move { Ok((found?.parse::<u64>()? == done).then_some(())) }
    })
    .await?;
    for table in NAMES {
        let (blue, green) = (rows(&this.blue, table)?, rows(&this.green, table)?);
        ensure!(!blue.is_empty(), "{name}: {table} is empty");
        ensure!(blue == green, "{name}: {table} differs, {} and {} rows", blue.len(), green.len());
    }
    let sum = "select sum(balance) from shop.account";
    assert_eq!(this.green.value(sum)?, format!("{}.00", 500 * ACCOUNTS), "{name}");
    let rich = "select count(*) from shop.rich";
    assert_eq!(this.green.value(rich)?, this.blue.value(rich)?, "{name}");

    let scraped = this.api().get("/metrics")?;
    ensure!(scraped.body.contains("cutover_lag_seconds{"), "{}", scraped.body);
    let shown = this.cutover(&["status"])?;
    ensure!(shown.code() == 0 && shown.stdout.contains("streaming"), "{}", shown.stdout);
    // No router is named, and nothing was cut over that could be undone.
    for (refused, why) in [
        (&["plan"][..], "router"),
        (&["--when-lag", "<9s", "--yes"], "router"),
        (&["rollback", "--yes"], "blue"),
        (&["finish", "--yes"], "cut over"),
    ] {
        let answer = this.cutover(refused)?;
        let said = format!("{}{}", answer.stdout, answer.stderr);
        ensure!(answer.code() != 0, "{name}: {refused:?} was not refused: {said}");
        ensure!(said.contains(why), "{name}: {refused:?}: {said}");
    }
    ensure!(this.api().status()?["phase"] == "streaming", "what was refused has changed nothing");
    this.sidecar.terminate()?;
    let ended = this.sidecar.wait(SOON)?;
    ensure!(ended.success(), "{ended}: {}", this.sidecar.log_tail());

    let teardown = Launch::ours("replicator")?.args(["teardown", "--yes", "--config"]);
    let config = this.scratch.path().join("cutover.toml");
    teardown.arg(config).env("MYSQL_PWD", "se cret").run(SOON)?.success()?;
    let ours = "select count(*) from information_schema.schemata where schema_name = '_cutover'";
    for side in [&this.green, &*this.blue] {
        assert_eq!(side.value(ours)?, "0", "{name}");
    }
    assert_eq!(rows(&this.green, "account")?.len() as u64, ACCOUNTS);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_way_stops_a_move_before_anything_is_touched() -> Result<()> {
    let mut this = Move::start(MARIADB)?;
    this.sidecar.kill9()?;
    let touched = "select count(*) from information_schema.schemata where schema_name in ('shop', '_cutover')";
    // It may have begun meanwhile.
    this.green.run("drop database if exists shop; drop database if exists _cutover")?;
    this.green.run("set global read_only = 0; create database shop; create table shop.account(id int primary key)")?;
    let state = this.scratch.path().join("state");
    if state.exists() {
        std::fs::remove_dir_all(state)?;
    }
    let blocked = launch(&this.scratch.path().join("cutover.toml"))?.run(SOON)?;
    ensure!(blocked.code() == 3, "{}: {}", blocked.code(), blocked.stderr);
    ensure!(blocked.stderr.contains("green-empty"), "{}", blocked.stderr);
    assert_eq!(this.green.value(touched)?, "1");
    Ok(())
}
