//! `cutover repair` between two servers of MySQL or MariaDB: what a verification has found becomes equal,
//! while clients write, and nothing that they wrote is lost.

use super::super::verify::ensure_equal;
use super::*;

const MORE: &str = "
    create table shop.wide(id int primary key, a varchar(64), body blob, z varchar(5));
    insert into shop.wide with recursive s (n) as (select 1 union all select n + 1 from s where n < 300)
      select n, sha2(n, 256), repeat(sha2(n, 256), 200), 'z' from s;
    create table shop.lost(id int primary key, v varchar(20));
    insert into shop.lost select id * 7, concat('v', id) from shop.wide;
    create table shop.extra(id int primary key, v varchar(20));
    insert into shop.extra select id, concat('v', id) from shop.wide;
    create table shop.swapped(id int primary key, v varchar(20) unique);
    insert into shop.swapped select id, concat('v', id) from shop.wide;
    create table shop.`sp``aces`(`the key` varchar(30) collate utf8mb4_bin primary key, `v 'q'` varchar(7), w varchar(5));
    insert into shop.`sp``aces` select concat(char(64 + id % 60), '\\\\', id, '''ß'), 'v', '' from shop.wide;
    create table shop.odd(id bigint unsigned auto_increment primary key, at timestamp(6) null, d datetime, t time(3),
      f double, g float, m enum('sad', 'ok', 'happy'), s set('a', 'b', 'c'), n decimal(20, 6), y year, b bit(12),
      j json, l varchar(20) character set latin1, p point, bin varbinary(10),
      doubled int generated always as (y * 2) stored);
    insert into shop.odd (at, d, t, f, g, m, s, n, y, b, j, l, p, bin)
      select '2024-03-31 00:30:00' + interval id hour, '1999-01-01', '-12:30:01.5', id / 3, id / 7, 'ok', 'a,c', 1.5,
        2024, id, '{\"a\": [1, 1.50, null]}', 'grüße', st_geomfromtext('point(1 2)'), char(id, 0, 255)
      from shop.wide;
    create table shop.pairs(a int, b varbinary(20), m enum('x', 'y'), v int, primary key (b, m, a));
    insert into shop.pairs select id % 7, concat('k', id), if(id % 2, 'x', 'y'), id from shop.wide;
    create table shop.bag(a int, b varchar(10), f float);
    insert into shop.bag select id % 50, concat('b', id % 50), 0.1 from shop.wide;
    insert into shop.bag values (null, 'b', 1), (null, 'b', 1), (7, null, null);
    create table shop.indexed(id int auto_increment primary key, v int);
    alter table shop.indexed add key indexed_v (v);
    create table shop.parent(id int primary key, v int);
    create table shop.child(id int primary key, parent int not null,
      foreign key (parent) references parent(id) on delete cascade on update cascade);
    insert into shop.parent select id, id from shop.wide where id <= 30;
    insert into shop.child select id, (id - 1) % 30 + 1 from shop.wide;
    insert into shop.indexed (v) select id from shop.wide;
    insert into shop.indexed values (4999, 0); delete from shop.indexed where id = 4999;";

/// What is done to green behind the stream's back.
const DAMAGE: &str = "
    update shop.wide set body = insert(body, 3100, 8, 'telltale') where id = 17;
    delete from shop.lost where id % 70 = 0;
    insert into shop.extra values (-5, 'low'), (5000, 'high');
    update shop.swapped set v = 'x' where id = 3;
    update shop.swapped set v = 'v3' where id = 4;
    update shop.swapped set v = 'v4' where id = 3;
    update shop.`sp``aces` set `v 'q'` = 'v ', w = null where `the key` like '%77''%';
    delete from shop.`sp``aces` where `the key` like '%78''%';
    update shop.odd set at = at + interval 1 hour, d = null, t = '00:00:01' where id = 8;
    update shop.odd set f = 0.33333333333333337 where id = 1;
    update shop.odd set g = 0, n = 1.500001, j = '{\"a\": 1}', m = 'sad', s = 'b', y = 1999, b = 0, l = 'grusse',
      p = st_geomfromtext('point(2 1)'), bin = x'00' where id = 2;
    delete from shop.odd where id = 3;
    delete from shop.pairs where b = 'k10';
    update shop.pairs set v = 0 where b = 'k11';
    insert into shop.bag values (3, 'b3', 0.1), (3, 'b3', 0.1), (7, null, null);
    delete from shop.bag where a = 4 limit 1;
    delete from shop.bag where a is null;
    delete from shop.parent where id = 3;
    update shop.parent set v = 0 where id = 5;
    insert into shop.parent values (900, 1); insert into shop.child values (900, 900);
    delete from shop.child where parent = 4;
    alter table shop.indexed drop key indexed_v;
    alter table shop.indexed auto_increment = 301;";

const REPAIRED: [&str; 10] =
    ["wide", "lost", "extra", "swapped", "sp``aces", "odd", "pairs", "bag", "parent", "child"];

impl Move {
    /// Runs `cutover ARGUMENTS --json` to its end and wants this exit code.
    fn expect(&self, arguments: &[&str], code: i32) -> Result<Value> {
        let finished = self.cutover(&[arguments, &["--json"]].concat())?;
        ensure!(
            finished.code() == code,
            "{arguments:?}: exit code {} instead of {code}\n--- stdout\n{}\n--- stderr\n{}\n--- log\n{}",
            finished.code(),
            finished.stdout,
            finished.stderr,
            self.sidecar.log_tail()
        );
        serde_json::from_str(&finished.stdout)
            .with_context(|| format!("no JSON: {}", finished.stdout))
    }
}

fn table<'a>(report: &'a Value, name: &str) -> Result<&'a Value> {
    let quoted = format!("`shop`.`{name}`");
    let tables = report["tables"].as_array().context("no tables")?;
    let found = tables.iter().find(|table| table["table"] == quoted.as_str());
    found.with_context(|| format!("no {quoted} in {report:#}"))
}

fn statements(plan: &Value, name: &str) -> Result<Vec<String>> {
    let all = table(plan, name)?["statements"].as_array().context("no statements")?;
    Ok(all.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_is_repaired_on_mariadb() -> Result<()> {
    every_damage_is_repaired(MARIADB).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_is_repaired_on_mysql() -> Result<()> {
    every_damage_is_repaired(MYSQL).await
}

async fn every_damage_is_repaired(versions: (Version, Version)) -> Result<()> {
    let mut this = Move::start_with(versions, MORE, "")?;
    this.wait_streaming().await?;
    let clients = Clients::start(&this.blue);
    clients.more(2).await?;
    let name = this.blue.version().name();
    this.green.run(&format!("set session foreign_key_checks = 0; {DAMAGE}"))?;
    this.expect(&["verify", "--unlimited"], 9).context(name)?;

    let plan = this.expect(&["repair", "--plan"], 0).context(name)?;
    let wide = statements(&plan, "wide")?;
    ensure!(wide.len() == 1 && wide[0].starts_with("UPDATE `shop`.`wide` SET `body`=x'"), "{name}");
    ensure!(wide[0].ends_with(" WHERE (`id`=17);"), "{name}");
    let (lost, extra) = (statements(&plan, "lost")?, statements(&plan, "extra")?);
    ensure!(lost.len() == 30 && lost.iter().any(|sql| sql.contains("(70,'v10')")), "{lost:?}");
    ensure!(extra.len() == 2 && extra[0].starts_with("DELETE FROM"), "{name}: {extra:?}");
    let objects = plan["objects"].to_string();
    ensure!(
        objects.contains("ALTER TABLE `shop`.`indexed` ADD KEY `indexed_v` (`v`)"),
        "{objects}"
    );
    ensure!(objects.contains("ALTER TABLE `shop`.`indexed` AUTO_INCREMENT = 5000;"), "{objects}");
    // What is printed does what it says: one of each kind, typed by hand.
    for sql in [&wide[0], &lost[0], &extra[0]] {
        this.green.run(sql).with_context(|| format!("{name}: {sql}"))?;
    }

    let report = this.expect(&["repair", "--yes"], 0).context(name)?;
    for (of, counts) in [
        ("wide", [0, 0, 0, 1, 1]),
        ("lost", [29, 0, 0, 1, 30]),
        ("extra", [0, 0, 1, 1, 2]),
        ("swapped", [0, 2, 0, 0, 2]),
        ("sp``aces", [3, 3, 0, 0, 6]),
        ("odd", [1, 3, 0, 0, 4]),
        ("pairs", [1, 1, 0, 0, 2]),
        ("bag", [3, 0, 3, 0, 4]),
        // Nothing goes along with a row that is taken out or changed.
        ("parent", [1, 1, 1, 0, 3]),
        ("child", [10, 0, 1, 0, 11]),
    ] {
        let found = table(&report, of)?;
        let fields = ["inserted", "updated", "deleted", "equal_before", "verified"];
        let numbers = fields.map(|field| found[field].as_u64().unwrap_or(u64::MAX));
        assert_eq!(numbers, counts, "{name}, {of}: {found:#}");
    }
    ensure_equal(this.verify(&["--unlimited", "--rows-only"])?)
        .with_context(|| format!("{name}: {}", this.sidecar.log_tail()))?;
    let audit = this.expect(&["audit"], 0)?.to_string();
    ensure!(audit.contains("POST /v1/repair: 202") && audit.contains("is over"), "{name}: {audit}");
    for text in [this.sidecar.log_tail(), audit] {
        ensure!(
            !text.contains("telltale") && !text.contains("k10"),
            "values are in no log: {text}"
        );
    }
    clients.more(2).await?;
    clients.end()?;
    // By the servers' own client, once everything is there.
    let done = this.blue.value("select count(*) from shop.transfer")?;
    wait::until("green to have everything", SOON, || {
        let found = this.green.value("select count(*) from shop.transfer");
        let done = done.clone();
        async move { Ok((found? == done).then_some(())) }
    })
    .await?;
    for table in NAMES.into_iter().chain(REPAIRED) {
        let table = format!("`{table}`");
        let (blue, green) = (rows(&this.blue, &table)?, rows(&this.green, &table)?);
        ensure!(blue == green, "{name}: {table} differs, {} and {} rows", blue.len(), green.len());
    }
    ensure!(this.api().status()?["phase"] == "streaming");
    Ok(())
}

/// An update of `v` by the stream does not bring `big` along: nothing but a repair mends it, and a repair
/// that wrote an older `v` would lose what a client has counted.
const HOT: &str = "
    create table shop.hot(id int primary key, v bigint not null, big varchar(2000) not null);
    insert into shop.hot with recursive s (n) as (select 1 union all select n + 1 from s where n < 200)
      select n, 0, repeat(sha2(n, 256), 20) from s;
    create table shop.quiet(id int primary key, v bigint not null);
    insert into shop.quiet with recursive s (n) as (select 1 union all select n + 1 from s where n < 500)
      select n, n from s;
    create table shop.heap(a int, b int);
    insert into shop.heap select id % 10, 0 from shop.quiet;";

const SPOIL: &str = "
    begin;
    update shop.hot set big = concat('x', big) where id % 2 = 0;
    delete from shop.quiet where id % 50 = 0;
    update shop.quiet set v = -v where id % 50 = 1;
    insert into shop.quiet values (1001, 1), (1002, 2), (1003, 3), (1004, 4), (1005, 5);
    insert into shop.heap values (77, 0), (77, 0), (1, 0);
    delete from shop.heap where a = 2 and b = 0 limit 1;
    commit;";

/// Counts as fast as blue takes it, in rows that are being repaired.
fn count(blue: &Mysql, seed: u64, stop: &AtomicBool) -> Result<u64> {
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let statements = (0..20).map(|_| {
            done += 1;
            let n = (done * 7919 + seed * 31) % 200 + 1;
            // The table without a key is written as well.
            let m = n % 10;
            format!(
                "begin; update shop.hot set v = v + 1 where id = {n};
                 insert into shop.heap values ({m}, {seed}); commit;"
            )
        });
        let sql: String = statements.collect();
        blue.run(&sql)?;
    }
    Ok(done)
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_and_stream_do_not_fight_on_mariadb() -> Result<()> {
    repair_and_stream_do_not_fight(MARIADB).await
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_and_stream_do_not_fight_on_mysql() -> Result<()> {
    repair_and_stream_do_not_fight(MYSQL).await
}

/// A verification of all rows. The stream may have lost a deadlock and be on its way back.
async fn verified(this: &Move) -> Result<(i32, Value)> {
    wait::until("a stream to verify", SOON, || {
        let found = this.verify(&["--rows-only", "--unlimited"]);
        async move { Ok(Some(found?).filter(|(code, _)| *code != 11)) }
    })
    .await
}

async fn repair_and_stream_do_not_fight(versions: (Version, Version)) -> Result<()> {
    let mut this = Move::start_with(versions, HOT, "")?;
    this.wait_streaming().await?;
    let name = this.blue.version().name();
    let stop = Arc::new(AtomicBool::new(false));
    let clients = (0..3).map(|seed| {
        let (blue, stop) = (Arc::clone(&this.blue), Arc::clone(&stop));
        std::thread::spawn(move || count(&blue, seed, &stop))
    });
    let clients: Vec<_> = clients.collect();
    let mut updated = 0;
    for round in 0..super::super::from_env("REPAIR_ROUNDS", 2) {
        // It may lose a deadlock to the stream.
        wait::until("rows to be spoiled", SOON, || {
            let spoiled = this.green.run(SPOIL);
            async move { Ok(spoiled.ok()) }
        })
        .await?;
        this.wait_streaming().await?;
        let (code, found) = verified(&this).await?;
        ensure!(code == 9, "{name}, round {round}: {found:#}");
        let report = this
            .expect(&["repair", "--yes"], 0)
            .with_context(|| format!("{name}, round {round}"))?;
        assert_eq!(table(&report, "quiet")?["verified"], 25, "{name}: {report:#}");
        let heap = table(&report, "heap")?;
        assert_eq!((&heap["inserted"], &heap["deleted"]), (&1.into(), &3.into()), "{heap:#}");
        updated += table(&report, "hot")?["updated"].as_u64().unwrap_or_default();
        ensure_equal(verified(&this).await?).with_context(|| format!("{name}, round {round}"))?;
    }
    stop.store(true, Ordering::Relaxed);
    let mut done: u64 = 0;
    for client in clients {
        done += client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
    }
    // Else this has shown nothing.
    ensure!(updated >= 100 && done > 200, "{name}: {updated} rows repaired beside {done} updates");
    wait::until("green to have everything that was counted", SOON, || {
        let sum = this.green.value("select sum(v) from shop.hot");
        async move { Ok((sum?.parse::<u64>()? == done).then_some(())) }
    })
    .await?;
    for table in ["hot", "quiet", "heap"] {
        ensure!(rows(&this.blue, table)? == rows(&this.green, table)?, "{name}: {table} differs");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_green_refuses_is_left_and_the_others_do_not_suffer() -> Result<()> {
    for versions in [MARIADB, MYSQL] {
        let mut this = Move::start_with(versions, MORE, "")?;
        this.wait_streaming().await?;
        let name = this.blue.version().name();
        let none = this.expect(&["repair", "--yes"], 3)?;
        ensure!(none["what"].to_string().contains("no verification"), "{name}: {none}");
        this.green.run(
            "delete from shop.lost where id in (7, 14, 21, 28);
             alter table shop.lost add constraint only_here check (v <> 'v3');
             update shop.pairs set v = 0 where b = 'k9';
             insert into shop.bag values (3, 'b3', 0.1);
             insert into shop.extra values (-1, 'only on green')",
        )?;
        this.expect(&["verify", "--rows-only", "--unlimited"], 9)?;
        let other = serde_json::json!({ "confirmation": "other" });
        let unconfirmed = this.api().post("/v1/repair", &other)?;
        assert_eq!(unconfirmed.status, 400, "{}", unconfirmed.body);
        // Only what was asked for.
        let some = this.expect(&["repair", "--yes", "--table", "shop.extra"], 0)?;
        assert_eq!(some["tables"].as_array().map(Vec::len), Some(1), "{name}: {some:#}");

        let report = this.expect(&["repair", "--yes"], 9)?;
        let lost = table(&report, "lost")?;
        let numbers = ["inserted", "refused", "verified", "rows"].map(|field| &lost[field]);
        assert_eq!(numbers, [3, 1, 3, 4], "{name}: {report:#}");
        assert_eq!(lost["left"][0]["key"][0]["value"], "21", "{name}: {report:#}");
        ensure!(lost["left"][0]["why"].to_string().contains("CHECK"), "{name}: {report:#}");
        for other in ["pairs", "bag", "extra"] {
            assert_eq!(table(&report, other)?["verified"], 1, "{name}, {other}: {report:#}");
        }
        let found = this.expect(&["verify", "--rows-only", "--unlimited"], 9)?;
        assert_eq!(found["differences"], 1, "{name}: {found:#}");
    }
    Ok(())
}
