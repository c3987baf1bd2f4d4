//! Copying a database of 2 GB from MariaDB 10.11 to 11.8: from the start until all rows and indexes are on
//! green. Beside `mariadb-dump | mariadb`; mydumper and myloader with two threads, where they are installed,
//! are told of on standard error.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tests::bench::mysql::{DATABASE, Greens, MARIADB};
use tests::bench::options::{Options, Sides};
use tests::bench::pair::{LONG, stop_replicator};
use tests::bench::report::{Better, Report};
use tests::bench::turns::in_turns;
use tests::mysql::{Mysql, Row};
use tests::paths;
use tests::process::Launch;

/// Rows of the narrow tables; the others are fractions of it. Makes 2 GB with the indexes.
const ROWS: u64 = 5_200_000;
const SMALL_TABLES: u32 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Ours,
    Dump,
    Mydumper,
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Tool::Ours => "replicator",
            Tool::Dump => "mariadb-dump | mariadb",
            Tool::Mydumper => "mydumper, myloader",
        }
    }
}

pub async fn run(options: &Options) -> Result<Report> {
    let mut greens = Greens::start(options, MARIADB)?;
    match rounds(&greens).await {
        Ok(report) => Ok(report),
        Err(error) => Err(error.context(format!("logs: {}", greens.keep().display()))),
    }
}

async fn rounds(greens: &Greens) -> Result<Report> {
    let options = greens.options();
    let (blue, green) = (&greens.blue, &greens.ours);
    blue.run(&schema(options.scaled(ROWS))).context("blue's tables")?;
    let size = format!(
        "select sum(data_length + index_length) div 1000000 from information_schema.tables
         where table_schema = '{DATABASE}'"
    );
    eprintln!("  blue: {} MB", blue.value(&size)?);
    let whole = content(blue)?;
    let mut tools = match options.sides {
        Sides::Both => vec![Tool::Ours, Tool::Dump],
        Sides::Ours => vec![Tool::Ours],
        Sides::Native => vec![Tool::Dump],
    };
    if options.sides != Sides::Ours {
        match tool("mydumper") {
            Ok(_) => tools.push(Tool::Mydumper),
            Err(error) => eprintln!("  without mydumper: {error:#}"),
        }
    }
    let named: Vec<_> = tools.iter().map(|tool| (*tool, tool.name())).collect();
    let measure = async |_, tool: Tool| {
        greens.clear()?;
        greens.settle().await?;
        let seconds = match tool {
            Tool::Ours => replicate(greens).await,
            Tool::Dump => dump(greens),
            Tool::Mydumper => mydumper(greens),
        };
        let seconds = seconds?;
        ensure!(content(green)? == whole, "green is no exact copy");
        Ok(seconds)
    };
    let found = in_turns(options.rounds, &named, measure).await?;
    let [ours, peer, mydumper] =
        [Tool::Ours, Tool::Dump, Tool::Mydumper].map(|tool| found.of(tool));
    if let (Some(ours), Some(mydumper)) = (ours.median(), mydumper.median()) {
        eprintln!("  beside mydumper and myloader: {:.2}", mydumper / ours);
    }
    Ok(Report { bench: "backfill_mariadb", ours, peer, unit: "s", better: Better::Less })
}

/// Until the stream begins: then rows and indexes are there.
async fn replicate(greens: &Greens) -> Result<f64> {
    let start = Instant::now();
    let mut sidecar = greens.start_replicator()?;
    let waiting = greens.api.wait_status(&mut sidecar, "the copy", LONG, |status| {
        status["phase"] == "streaming" || status["phase"] == "catching_up"
    });
    waiting.await?;
    let seconds = start.elapsed().as_secs_f64();
    stop_replicator(&mut sidecar)?;
    Ok(seconds)
}

/// One session on each side, with the tools' defaults.
fn dump(greens: &Greens) -> Result<f64> {
    let script = format!(
        "set -euo pipefail
         {} --no-defaults --skip-ssl --single-transaction {} --databases {DATABASE} |
             {} --no-defaults --skip-ssl --max-allowed-packet=1G {}",
        tool("mariadb-dump")?,
        Greens::login(&greens.blue).join(" "),
        tool("mariadb")?,
        Greens::login(&greens.ours).join(" "),
    );
    Ok(Launch::new("bash").args(["-c", &script]).run(LONG)?.success()?.took.as_secs_f64())
}

/// Into files, and from there.
fn mydumper(greens: &Greens) -> Result<f64> {
    let work = tempfile::tempdir()?;
    let directory = work.path().join("dump");
    let launch = |program: &str, server: &Mysql| -> Result<Launch> {
        let launch = Launch::new(tool(program)?).args(Greens::login(server));
        Ok(launch.arg("--threads=2"))
    };
    let dumped = launch("mydumper", &greens.blue)?
        .args(["--database", DATABASE, "--outputdir"])
        .arg(&directory)
        .run(LONG)?
        .success()
        .context("mydumper")?;
    let restored = launch("myloader", &greens.ours)?
        .args(["--database", DATABASE, "--directory"])
        .arg(&directory)
        .run(LONG)?
        .success()
        .context("myloader")?;
    Ok((dumped.took + restored.took).as_secs_f64())
}

fn tool(name: &str) -> Result<String> {
    let program = paths::servers().join("mydumper/usr/bin").join(name);
    ensure!(program.is_file(), "no {}; scripts/setup mydumper fetches it", program.display());
    Ok(program.display().to_string())
}

/// Of each table its columns, its indexes, the number of its rows and a hash of them.
fn content(server: &Mysql) -> Result<Vec<Row>> {
    let mut found = server.rows(&format!(
        "select table_name, column_name, column_type, is_nullable from information_schema.columns
         where table_schema = '{DATABASE}' order by 1, ordinal_position;
         select table_name, index_name, seq_in_index, column_name, non_unique
         from information_schema.statistics where table_schema = '{DATABASE}' order by 1, 2, 3"
    ))?;
    let tables = format!(
        "select table_name, group_concat(column_name order by ordinal_position)
         from information_schema.columns where table_schema = '{DATABASE}' group by 1 order by 1"
    );
    for table in server.rows(&tables)? {
        let [name, columns] = table.as_slice() else { anyhow::bail!("no table: {table:?}") };
        let (name, columns) = (String::from_utf8_lossy(name), String::from_utf8_lossy(columns));
        // 60 bits of each row's hash, so that the sum stays an exact number. No column is nullable.
        found.extend(server.rows(&format!(
            "select '{name}', count(*), sum(cast(conv(left(sha2(concat_ws('|', {columns}), 256), 15), 16, 10)
                 as unsigned)) from {DATABASE}.{name}"
        ))?);
    }
    ensure!(found.len() > 100, "nothing to compare");
    Ok(found)
}

/// Narrow tables with several indexes, a wide one, one with large values, and many small ones.
fn schema(rows: u64) -> String {
    let (customers, wide, documents) = (rows / 10, rows / 20, rows / 200);
    let columns = (1..=30).map(|n| format!("c{n} varchar(40) not null")).collect::<Vec<_>>();
    let values = (1..=30).map(|n| format!("md5(seq * {n})")).collect::<Vec<_>>();
    let mut sql = format!(
        "set time_zone = '+00:00'; use {DATABASE};
         create table customers (id int primary key, email varchar(60) not null unique,
             name varchar(60) not null, joined date not null);
         insert into customers
         select seq, concat(md5(seq), '@example.com'), concat('customer ', seq),
                date '2000-01-01' + interval seq % 9000 day from seq_1_to_{customers};
         create table orders (id bigint primary key, customer int not null,
             amount decimal(12, 2) not null, placed datetime(3) not null, state tinyint not null,
             key (customer), key (placed));
         insert into orders
         select seq, 1 + seq * 7919 % {customers}, (seq % 100000) / 100,
                timestamp '2020-01-01 00:00:00' + interval seq * 13 second, seq % 10 from seq_1_to_{rows};
         create table readings (sensor int, at datetime, value double not null,
             primary key (sensor, at));
         insert into readings
         select seq % 1000, timestamp '2020-01-01 00:00:00' + interval seq div 1000 minute, sin(seq)
         from seq_1_to_{rows};
         create table profiles (id int primary key, {}, extra json not null, key (c1, c2));
         insert into profiles
         select seq, {}, json_object('n', seq, 'half', seq / 2) from seq_1_to_{wide};
         create table documents (id int primary key, title varchar(100) not null,
             body mediumtext not null);
         insert into documents
         select seq, concat('document ', seq), repeat(md5(seq), 500) from seq_1_to_{documents};",
        columns.join(", "),
        values.join(", "),
    );
    for number in 1..=SMALL_TABLES {
        sql.push_str(&format!(
            "create table small_{number} (id int primary key, label varchar(60) not null unique);
             insert into small_{number} select seq, concat('label ', seq) from seq_1_to_1000;"
        ));
    }
    let names = ["customers", "orders", "readings", "profiles", "documents"];
    sql.push_str(&format!("analyze table {}", names.join(", ")));
    sql
}
