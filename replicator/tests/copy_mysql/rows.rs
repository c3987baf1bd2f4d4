//! Green's rows are blue's, byte by byte, at one position.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server;
use mysql_async::prelude::Queryable;
use replicator::backfill::mysql::{Copied, RowCopy, SetUp, Turn};
use replicator::backfill::{BackfillError, ProgressSender};
use replicator::schema::SchemaMode;
use replicator::schema::mysql::Notes;
use tests::mysql::Mysql;
use tests::wait;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::support::{PAIRS, PIPELINE, pair, schema_copy, url};
use super::types::{TYPES, TYPES_MARIADB, TYPES_MYSQL, keyed_by_everything};

const SOON: Duration = Duration::from_secs(60);

async fn take(green: &Mysql) -> Result<Turn, BackfillError> {
    Turn::take(&url(green), &Notes::of(PIPELINE)).await
}

async fn prepared(blue: &Mysql, green: &Mysql) -> Result<RowCopy> {
    let schema = schema_copy(blue, green);
    let made = schema.make_tables(&ProgressSender::default()).await?;
    Ok(RowCopy {
        epoch: take(green).await?.epoch().clone(),
        blue: url(blue),
        green: url(green),
        tables: made.tables,
        database: schema.database,
        filter: schema.filter,
        workers: 3,
        chunk_bytes: 64 << 10,
        rate_limit_bytes_per_s: 0,
    })
}

async fn copied(copy: &RowCopy) -> Result<Copied> {
    let (_going, cancel) = watch::channel(false);
    Ok(copy.run(&ProgressSender::default(), &cancel).await?)
}

fn same_rows(blue: &Mysql, green: &Mysql, database: &str) -> Result<()> {
    let sql = format!(
        "select table_name from information_schema.tables where table_type = 'BASE TABLE' and table_schema = '{database}'"
    );
    for table in blue.rows(&sql)? {
        let table = String::from_utf8(table[0].clone())?;
        // Of the stored bytes, so of every bit of floats too. MariaDB 10.11.19 and 11.8.9 count a virtual
        // column in different ways.
        let sum = match table.as_str() {
            "made" => "select a, b, c, id from t.made order by id".to_owned(),
            _ => format!("checksum table {database}.`{table}`"),
        };
        let count = format!("select count(*) from {database}.`{table}`");
        assert_eq!(blue.value(&count)?, green.value(&count)?, "{table}");
        assert_eq!(blue.rows(&sum)?, green.rows(&sum)?, "{table}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_type_arrive_bit_by_bit() -> Result<()> {
    for versions in PAIRS {
        let (blue, green) = pair(versions)?;
        blue.run(TYPES)?;
        blue.run(if versions.0.is_mariadb() { TYPES_MARIADB } else { TYPES_MYSQL })?;
        blue.run(&keyed_by_everything(versions.0))?;
        let copy = prepared(&blue, &green).await?;
        let copied = copied(&copy).await.with_context(|| format!("{versions:?}"))?;
        same_rows(&blue, &green, "t").with_context(|| format!("{versions:?}"))?;
        let chunks = "select count(*) from _cutover.copy_chunks where name = 'by_latin'";
        ensure!(green.value(chunks)?.parse::<u32>()? > 2, "the table was not cut");
        let sql = match versions.0.is_mariadb() {
            true => "select @@gtid_binlog_pos",
            false => "select replace(@@gtid_executed, '\\n', '')",
        };
        assert_eq!(copied.position.to_string(), blue.value(sql)?);
    }
    Ok(())
}

/// Writers that each move money and note it: every transaction adds one row to `log`.
struct Traffic {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Result<()>>>,
}

const LEDGER: &str = "
create database bank; use bank;
create table account (id int primary key, balance bigint not null, pad varchar(200), key (balance));
create table log (id bigint auto_increment primary key, payer int, payee int, amount int, pad varchar(200));
insert into account with recursive s (n) as (select 1 union all select n + 1 from s where n < 900)
  select n, 1000, repeat('x', 180) from s;
insert into account select id + 900, 1000, pad from account;
insert into account select id + 1800, 1000, pad from account;
insert into account select id + 3600, 1000, pad from account;
insert into account values (7201, 1000, 'idle');
";
/// Accounts that money moves between; one more is idle.
const ACCOUNTS: u64 = 7200;

impl Traffic {
    fn start(blue: &Mysql) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let writers = (0..4_u64).map(|writer| {
            let (stop, url) = (Arc::clone(&stop), url(blue));
            tokio::spawn(async move {
                let mut conn = server::connect(&url).await?;
                let mut number = writer;
                while !stop.load(Ordering::Relaxed) {
                    number = number.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let (one, two) = (1 + (number >> 33) % ACCOUNTS, 1 + (number >> 20) % ACCOUNTS);
                    let (payer, payee) = (one.min(two), one.max(two));
                    let amount = (number >> 40) % 100;
                    let moved = conn
                        .query_drop(format!(
                            "begin; update bank.account set balance = balance - {amount} where id = {payer};
                             update bank.account set balance = balance + {amount} where id = {payee};
                             insert into bank.log (payer, payee, amount, pad) values ({payer}, {payee}, {amount}, repeat('y', 150));
                             commit"
                        ))
                        .await;
                    match moved {
                        // A deadlock: nothing happened.
                        Err(mysql_async::Error::Server(error)) if error.code == 1213 => {}
                        moved => moved?,
                    }
                }
                Ok(conn.disconnect().await?)
            })
        });
        Self { writers: writers.collect(), stop }
    }

    async fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await??;
        }
        Ok(())
    }
}

/// How many transactions a position has; the servers number them one by one.
fn transactions(position: &BinlogPosition) -> Result<u64> {
    let text = position.to_string();
    let last = text.rsplit(['-', ':']).next().context("a number")?;
    Ok(last.parse()?)
}

fn number(server: &Mysql, sql: &str) -> Result<u64> {
    Ok(server.value(sql)?.parse()?)
}

fn now(blue: &Mysql) -> Result<BinlogPosition> {
    let sql = match blue.version().is_mariadb() {
        true => "select @@gtid_binlog_pos",
        false => "select replace(@@gtid_executed, '\\n', '')",
    };
    blue.value(sql)?.parse().map_err(|error| anyhow::anyhow!("{error}"))
}

/// Balances and log belong together, and to the position.
fn consistent(green: &Mysql, base: u64, position: &BinlogPosition) -> Result<()> {
    let log = number(green, "select count(*) from bank.log")?;
    assert_eq!(transactions(position)? - base, log, "the rows are not those of {position}");
    assert_eq!(number(green, "select count(*) from bank.account")?, ACCOUNTS + 1);
    let wrong = "select count(*) from bank.account a where balance <> 1000
        - (select ifnull(sum(amount), 0) from bank.log where payer = a.id)
        + (select ifnull(sum(amount), 0) from bank.log where payee = a.id)";
    green.run("alter table bank.log add key (payer), add key (payee)")?;
    assert_eq!(number(green, wrong)?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_those_of_one_position_while_clients_write() -> Result<()> {
    for versions in PAIRS {
        let (blue, green) = pair(versions)?;
        blue.run(LEDGER)?;
        let base = transactions(&now(&blue)?)?;
        let traffic = Traffic::start(&blue);
        wait::until("clients to write", SOON, || {
            let written = number(&blue, "select count(*) from bank.log");
            async move { Ok((written? > 200).then_some(())) }
        })
        .await?;
        let copy = prepared(&blue, &green).await?;
        let copied = copied(&copy).await;
        traffic.end().await?;
        let copied = copied?;
        consistent(&green, base, &copied.position).with_context(|| format!("{versions:?}"))?;
        ensure!(
            transactions(&now(&blue)?)? > transactions(&copied.position)?,
            "nobody wrote meanwhile"
        );
    }
    Ok(())
}

/// A copy that is ended at some moment, as a crash would. The last chunk of the accounts meets a lock
/// on green, so that it does not end before.
async fn broken_off(green: &Mysql, copy: &RowCopy) -> Result<()> {
    let mut lock = server::connect(&url(green)).await?;
    lock.query_drop("begin; insert into bank.account values (7201, 0, '')").await?;
    let (_going, cancel) = watch::channel(false);
    let (job, progress) = (copy.clone(), ProgressSender::default());
    let mut running = tokio::spawn(async move { job.run(&progress, &cancel).await });
    let done = "select count(*) from _cutover.copy_chunks where is_done and name = ";
    let wanted = [("account", 4), ("ups", 2), ("child", 1)];
    loop {
        // The table of marks may not be there yet.
        let has = |name: &str| {
            green.value(&format!("{done} '{name}'")).unwrap_or_default().parse().unwrap_or(0)
        };
        if wanted.iter().all(|(name, chunks)| has(name) >= *chunks) {
            break;
        }
        tokio::select! {
            ended = &mut running => bail!("it ended before it was broken off: {:?}", ended?),
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
    running.abort();
    ensure!(running.await.is_err_and(|error| error.is_cancelled()), "it was not broken off");
    lock.query_drop("rollback").await?;
    Ok(lock.disconnect().await?)
}

const BESIDE_THE_BANK: &str = "use bank;
create table ups (id int primary key, u int, pad varchar(250), unique (u));
create table parent (id int primary key);
create table child (id int primary key, p int, foreign key (p) references parent (id) on delete cascade);
create table notes (word varchar(20) character set latin1 collate latin1_german1_ci primary key, n int);
insert into ups select id, id, repeat('z', 240) from account;
insert into parent select id from account where id < 50;
insert into child select id, id from account where id < 50;
insert into notes values ('Äpfel', 1), ('b', 2), ('c', 3);
";

const MEANWHILE: [&str; 8] = [
    "update bank.ups set u = 20000 where id = 5",
    "update bank.ups set u = 5 where id = 6",
    "update bank.ups set id = 30000 where id = 7",
    "delete from bank.ups where id = 8",
    "delete from bank.parent where id = 7",
    "update bank.notes set n = 7 where word = 'äPFEL'",
    "update bank.notes set word = 'ß' where word = 'b'",
    "insert into bank.notes values ('B', 9)",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_breaks_off_goes_on_chunk_by_chunk() -> Result<()> {
    for versions in PAIRS {
        let (blue, green) = pair(versions)?;
        blue.run(LEDGER)?;
        blue.run(BESIDE_THE_BANK)?;
        let base = transactions(&now(&blue)?)?;
        let traffic = Traffic::start(&blue);
        let mut copy = prepared(&blue, &green).await?;
        (copy.workers, copy.chunk_bytes) = (2, 1);
        broken_off(&green, &copy).await.with_context(|| format!("{versions:?}"))?;
        MEANWHILE.iter().try_for_each(|sql| blue.run(sql))?;
        let older = copy.clone();
        copy = prepared(&blue, &green).await?;
        (copy.workers, copy.chunk_bytes) = (2, 1);
        copy.workers = 3;
        let resumed = copied(&copy).await;
        traffic.end().await?;
        let resumed = resumed.with_context(|| format!("{versions:?}"))?;
        // Whoever was overtaken writes nothing any more.
        let late = copied(&older).await.expect_err("another copy has begun since");
        ensure!(late.to_string().contains("another replicator has begun"), "{late}");
        ensure!(resumed.chunks_kept >= 6, "{} chunks were kept", resumed.chunks_kept);
        for table in ["ups", "parent", "child", "notes"] {
            let sum = format!("checksum table bank.{table}");
            assert_eq!(blue.rows(&sum)?, green.rows(&sum)?, "{versions:?} {table}");
        }
        consistent(&green, base + MEANWHILE.len() as u64, &resumed.position)
            .with_context(|| format!("{versions:?}"))?;
        ensure!(
            transactions(&now(&blue)?)? > transactions(&resumed.position)?,
            "nobody wrote meanwhile"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_copies_at_a_time_and_no_table_appears_unseen() -> Result<()> {
    for versions in PAIRS {
        let (blue, green) = pair(versions)?;
        blue.run(LEDGER)?;
        let mut copy = prepared(&blue, &green).await?;
        // The server has yet to notice that the one who prepared it has gone.
        let turn = wait::until("a turn", SOON, async || match take(&green).await {
            Err(error) if error.is_retryable() => Ok(None),
            taken => Ok(Some(taken?)),
        });
        let turn = turn.await?;
        let refused = take(&green).await;
        let refused = refused.expect_err("somebody copies");
        ensure!(refused.is_retryable() && refused.to_string().contains("another"), "{refused}");
        // Another pipeline's copy is none of its business.
        Turn::take(&url(&green), &Notes::of("another")).await?;
        copy.epoch = turn.epoch().clone();
        // Definitions have been read, the snapshot has not been opened.
        blue.run("create table bank.late (id int primary key); insert into bank.late values (1)")?;
        let (_going, cancel) = watch::channel(false);
        let unseen = copy.run(&ProgressSender::default(), &cancel).await;
        let unseen = unseen.expect_err("a table appeared");
        ensure!(unseen.is_retryable() && unseen.to_string().contains("late"), "{unseen}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_green_that_is_set_up_says_its_position_again_and_is_not_touched() -> Result<()> {
    for versions in PAIRS {
        let (blue, green) = pair(versions)?;
        blue.run(LEDGER)?;
        blue.run(BESIDE_THE_BANK)?;
        let set_up = SetUp {
            schema: schema_copy(&blue, &green),
            mode: SchemaMode::Copy,
            workers: 2,
            chunk_bytes: 64 << 10,
            rate_limit_bytes_per_s: 0,
        };
        let (_going, cancel) = watch::channel(false);
        let progress = ProgressSender::default();
        let first = set_up.run(&progress, &cancel).await?;
        let total = progress.borrow().total;
        assert_eq!((total.tables, total.tables_copied), (6, 6));
        assert_eq!(Some(total.rows_copied), first.copied.as_ref().map(|copied| copied.rows));
        assert_eq!(first.position, now(&blue)?);
        same_rows(&blue, &green, "bank")?;
        assert_eq!(
            number(
                &green,
                "select count(*) from information_schema.key_column_usage
            where table_schema = 'bank' and referenced_table_name is not null"
            )?,
            1
        );
        blue.run("delete from bank.notes")?;
        let second = set_up.run(&progress, &cancel).await?;
        assert_eq!((&second.position, second.copied), (&first.position, None));
        assert_eq!(number(&green, "select count(*) from bank.notes")?, 3);
        // Another pipeline must not take these tables for its own.
        let mut other = set_up.clone();
        other.schema.pipeline = "other".into();
        let refused = other.run(&progress, &cancel).await.expect_err("the tables are taken");
        ensure!(refused.to_string().contains("on green already"), "{refused}");
    }
    Ok(())
}
