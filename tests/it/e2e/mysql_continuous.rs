//! `cutover verify --continuous` between servers of MySQL or MariaDB: what is written is looked at again,
//! so that a proof stays young.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::mysql::{Login, Version};
use tests::wait;

use super::SOON;
use super::mysql_cutover::Move;

/// An update of `v` by the stream does not bring `big` along, nor mend it.
const TABLES: &str = "
    create table shop.hot (id int primary key, v bigint not null, big varchar(2000) not null);
    insert into shop.hot with recursive s (n) as (select 1 union all select n + 1 from s where n < 200)
      select n, 0, repeat(sha2(n, 256), 20) from s;
    create table shop.named (name varchar(20) character set latin1, at datetime(3), e enum('a', 'b'),
      b varbinary(8), f bit(9), v int, primary key (name, at, e, b, f));
    insert into shop.named select concat('nä', id), '2024-01-01 00:00:00.5', 'b', char(id, 0, 255), id, id
      from shop.hot where id <= 50;
    create table shop.bag (a int, b varchar(10));
    insert into shop.bag select id % 50, 'b' from shop.hot;
    create table shop.parent (id int primary key);
    create table shop.child (id int primary key, parent int, v int,
      foreign key (parent) references parent (id) on delete cascade);
    insert into shop.parent select id from shop.hot where id <= 20;
    insert into shop.child select id, (id - 1) % 20 + 1, 0 from shop.hot";

/// Everything that a stream brings, over and over.
fn churn(blue: &Login, stop: &AtomicBool) -> Result<u64> {
    let mut done = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let statements = (0..10).map(|_| {
            done += 1;
            let n = done * 7919 % 150 + 1;
            format!(
                "update shop.hot set v = v + 1 where id = {n};
                 update shop.named set v = v + 1 where name = 'nä{n}';
                 update shop.named set name = concat(name, 'x') where name = 'nä{n}';
                 update shop.named set name = 'nä{n}' where name = 'nä{n}x';
                 insert ignore into shop.hot values (1000 + {n}, 0, 'small');
                 delete from shop.hot where id = 1000 + {n} - 5;"
            )
        });
        blue.run(&statements.collect::<String>())?;
    }
    Ok(done)
}

/// Waits until the verification that goes on is as `is` wants it.
async fn until(this: &Move, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
    let api = this.stage.api();
    let seen = wait::until(what, SOON, || {
        let status = api.status().map(|status| status["verification"].clone());
        let fits = status.map(|status| is(&status).then_some(status));
        async { fits }
    });
    seen.await.with_context(|| format!("{:#}", api.status().unwrap_or_default()))
}

fn number(status: &Value, name: &str) -> u64 {
    status[name].as_u64().unwrap_or_default()
}

fn the_check(plan: &Value) -> Result<Value> {
    let checks = plan["checks"].as_array().context("no checks")?;
    let found = checks.iter().find(|check| check["name"] == "verification");
    Ok(found.context("no such check")?.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_of_mariadb_stays_young_while_rows_are_written() -> Result<()> {
    a_proof_stays_young((Version::Mariadb10_11, Version::Mariadb11_8)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_of_mysql_stays_young_while_rows_are_written() -> Result<()> {
    a_proof_stays_young((Version::Mysql9_7, Version::Mysql9_7)).await
}

async fn a_proof_stays_young(versions: (Version, Version)) -> Result<()> {
    let mut this = Move::start(versions, &[], TABLES).await?;
    let (blue, green) = (this.stage.mover(&this.stage.blue), this.stage.mover(&this.stage.green));
    let name = this.stage.blue.version().name();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (blue, stop) = (blue.clone(), Arc::clone(&stop));
        std::thread::spawn(move || churn(&blue, &stop))
    };
    this.expect(&["plan", "--require-verified", "1h"], 3)?;
    let report = this.expect(&["verify", "--continuous"], 0).context(name)?;
    until(&this, "the whole to be proven", |status| status["is_proven"] == true).await?;
    let again = |status: &Value| number(status, "rechecked") > 300;
    let seen = until(&this, "rows to be looked at again", again).await?;
    assert_eq!((&seen["differences"], &seen["id"]), (&0.into(), &report["id"]), "{name}: {seen:#}");

    // Older than what is asked for, and yet a proof: what was written since is younger.
    let since = Instant::now();
    let is_young = |status: &Value| status["oldest_seconds"].as_f64().is_none_or(|age| age < 8.0);
    let later = |status: &Value| since.elapsed() > Duration::from_secs(11) && is_young(status);
    until(&this, "only the last seconds to be unproven", later).await?;
    let plan = this.expect(&["plan", "--require-verified", "12s"], 0).context(name)?;
    let check = the_check(&plan)?;
    ensure!(check["severity"] == "ok", "{name}: {check}");
    ensure!(check["evidence"].to_string().contains("continuous"), "{name}: {check}");

    // A table without a key is compared again as a whole.
    let before = number(&until(&this, "the count", |_| true).await?, "rechecked");
    blue.run("insert into shop.bag values (1, 'new'), (2, 'new')")?;
    until(&this, "the table to be clean again", |status| {
        let is_clean = status["dirty"].as_array().is_some_and(Vec::is_empty);
        is_clean && number(status, "rechecked") > before + 202
    })
    .await?;

    // Behind the stream's back, in a row that is written: the next look at it finds it.
    green.run("update shop.hot set big = concat('x', big) where id = 8")?;
    let mut differences = 1;
    if versions.0.is_mariadb() {
        // What its foreign keys change is in no log, so the whole table is looked at again.
        green.run("update shop.child set v = 1 where id = 7")?;
        blue.run("delete from shop.parent where id = 3")?;
        differences = 2;
    }
    let all = |status: &Value| number(status, "differences") == differences;
    until(&this, "the differences", all).await.context(name)?;
    let refused = the_check(&this.expect(&["plan"], 3)?)?;
    let said = format!("{differences} differences");
    ensure!(refused["evidence"].to_string().contains(&said), "{name}: {refused}");
    this.expect(&["--when-lag", "<1s", "--yes"], 3)?;
    let repaired = this.expect(&["repair", "--yes"], 0).context(name)?;
    let verified = repaired["tables"].as_array().into_iter().flatten();
    let verified: u64 = verified.map(|table| number(table, "verified")).sum();
    assert_eq!(verified, differences, "{name}: {repaired:#}");

    this.expect(&["verify", "--continuous"], 0).context(name)?;
    until(&this, "the whole to be proven again", |status| status["is_proven"] == true).await?;
    stop.store(true, Ordering::Relaxed);
    let done = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    ensure!(done > 100, "{name}: {done} rounds have shown nothing");
    // And a cutover goes by it.
    let go = ["--when-lag", "<1s", "--max-pause", "20s", "--require-verified", "1h", "--yes"];
    this.succeed(&go).context(name)?;
    until(&this, "it to end with the direction", Value::is_null).await?;
    let audit = this.expect(&["audit"], 0)?.to_string();
    ensure!(audit.contains("verification at the fence: "), "{name}: {audit}");
    this.more().await?;
    let on_green = this.stage.mover_url(&this.stage.green);
    this.ledger.check(&on_green).await?.ensure_exact().context(name)
}
