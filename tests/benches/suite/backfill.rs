//! Copying a database of 2 GB: from the start until all rows, indexes and constraints are on green.
//! Beside the faster of pgcopydb and pg_dump with pg_restore, both with two jobs on two cores.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tests::bench::options::{Options, Sides};
use tests::bench::pair::{BLUE, LONG, Pair, stop_replicator};
use tests::bench::report::{Better, Report};
use tests::bench::turns::in_turns;
use tests::compare::{Content, Sequences};
use tests::paths;
use tests::process::Launch;

/// Rows of the narrow tables; the others are fractions of it. Makes 2 GB with the indexes.
const ROWS: u64 = 5_200_000;
const SMALL_TABLES: u32 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Ours,
    Pgcopydb,
    DumpRestore,
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Tool::Ours => "replicator",
            Tool::Pgcopydb => "pgcopydb",
            Tool::DumpRestore => "pg_dump + pg_restore",
        }
    }

    fn database(self) -> &'static str {
        match self {
            Tool::Ours => "ours",
            Tool::Pgcopydb => "pgcopydb",
            Tool::DumpRestore => "restored",
        }
    }
}

pub async fn run(options: &Options) -> Result<Report> {
    let mut pair = Pair::start(options).await?;
    match rounds(&pair).await {
        Ok(report) => Ok(report),
        Err(error) => Err(error.context(format!("logs: {}", pair.keep().display()))),
    }
}

async fn rounds(pair: &Pair) -> Result<Report> {
    let rows = pair.options().scaled(ROWS);
    pair.on_blue(&schema(rows)).await.context("blue's tables")?;
    let size = "SELECT pg_database_size(current_database()) / 1000000";
    eprintln!("  blue: {} MB", pair.blue.value(BLUE, size).await?);
    let blue = pair.content(BLUE).await?;
    let tools: &[Tool] = match pair.options().sides {
        Sides::Both => &[Tool::Ours, Tool::Pgcopydb, Tool::DumpRestore],
        Sides::Ours => &[Tool::Ours],
        Sides::Native => &[Tool::Pgcopydb, Tool::DumpRestore],
    };
    let named: Vec<_> = tools.iter().map(|tool| (*tool, tool.name())).collect();
    let measure = async |round, tool: Tool| {
        pair.settle().await?;
        pair.green.create_database(tool.database()).await?;
        let seconds = copy(pair, tool).await?;
        // Once is enough, and it is not quick.
        if round == 0 {
            ensure_complete(pair, &blue, tool).await?;
        }
        clean_up(pair, tool).await?;
        Ok(seconds)
    };
    let found = in_turns(pair.options().rounds, &named, measure).await?;
    let [ours, pgcopydb, restored] =
        [Tool::Ours, Tool::Pgcopydb, Tool::DumpRestore].map(|tool| found.of(tool));
    let peer = match (pgcopydb.median(), restored.median()) {
        (Some(one), Some(other)) if other < one => restored,
        _ => pgcopydb,
    };
    Ok(Report { bench: "backfill", ours, peer, unit: "s", better: Better::Less })
}

async fn copy(pair: &Pair, tool: Tool) -> Result<f64> {
    match tool {
        Tool::Ours => replicate(pair).await,
        Tool::Pgcopydb => pgcopydb(pair),
        Tool::DumpRestore => dump_restore(pair),
    }
}

/// Until the stream begins: then rows, indexes and constraints are there.
async fn replicate(pair: &Pair) -> Result<f64> {
    let start = Instant::now();
    let mut sidecar = pair.start_replicator(Tool::Ours.database())?;
    pair.wait_status(&mut sidecar, "the copy", LONG, |status| {
        status["phase"] == "streaming" || status["phase"] == "catching_up"
    })
    .await?;
    let seconds = start.elapsed().as_secs_f64();
    stop_replicator(&mut sidecar)?;
    Ok(seconds)
}

/// With pgcopydb's defaults (4 table jobs, 4 index jobs), but without its VACUUM at the end.
fn pgcopydb(pair: &Pair) -> Result<f64> {
    let program = paths::servers().join("pgcopydb/bin/pgcopydb");
    ensure!(program.is_file(), "no {}; scripts/setup pgcopydb fetches it", program.display());
    let work = tempfile::tempdir()?;
    let finished = Launch::new(program)
        .args(["clone", "--skip-vacuum", "--dir"])
        .arg(work.path().join("work"))
        .args(["--source", &pair.blue.url(BLUE)])
        .args(["--target", &pair.green.url(Tool::Pgcopydb.database())])
        .env("PATH", search_path(&paths::postgres_client("pg_restore")?)?)
        .run(LONG)?
        .success()?;
    Ok(finished.took.as_secs_f64())
}

/// Directory format cannot be piped: one after the other. Without compression, which would only
/// take time here.
fn dump_restore(pair: &Pair) -> Result<f64> {
    let work = tempfile::tempdir()?;
    let dump = work.path().join("dump");
    let dumped = Launch::new(paths::postgres_client("pg_dump")?)
        .args(["-Fd", "-j2", "-Z0", "-f"])
        .arg(&dump)
        .arg(pair.blue.url(BLUE))
        .run(LONG)?
        .success()
        .context("pg_dump")?;
    let restored = Launch::new(paths::postgres_client("pg_restore")?)
        .args(["-j2", "--dbname", &pair.green.url(Tool::DumpRestore.database())])
        .arg(&dump)
        .run(LONG)?
        .success()
        .context("pg_restore")?;
    Ok((dumped.took + restored.took).as_secs_f64())
}

/// The clients of PostgreSQL's own, then the system's programs.
fn search_path(client: &Path) -> Result<String> {
    let directory = client.parent().context("a program without a directory")?;
    Ok(format!("{}:/usr/bin:/bin", directory.display()))
}

/// Rows, and everything that came after them.
async fn ensure_complete(pair: &Pair, blue: &Content, tool: Tool) -> Result<()> {
    let green = pair.content(tool.database()).await?;
    blue.ensure_equal(&green, Sequences::Ignored)?;
    let objects = "SELECT string_agg(line, e'\\n' ORDER BY line COLLATE \"C\") FROM (
        SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class c ON c.oid = indrelid
        WHERE c.relnamespace = 'public'::regnamespace AND indisvalid
        UNION ALL
        SELECT conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid)
        FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND convalidated AND contype <> 'n') AS t (line)";
    let blue = pair.blue.value(BLUE, objects).await?;
    let green = pair.green.value(tool.database(), objects).await?;
    ensure!(blue == green, "indexes or constraints differ:\n{blue}\n---\n{green}");
    Ok(())
}

async fn clean_up(pair: &Pair, tool: Tool) -> Result<()> {
    if tool == Tool::Ours {
        let teardown =
            pair.replicator().args(["teardown", "--yes", "--config"]).arg(pair.file("ours.toml"));
        teardown.run(LONG)?.success().context("replicator teardown")?;
        std::fs::remove_dir_all(pair.file("state-ours")).context("the replicator's state")?;
    }
    let drop = format!("DROP DATABASE {} WITH (FORCE)", tool.database());
    pair.green.execute("postgres", &drop).await
}

/// Narrow tables with several indexes and foreign keys, a wide one, one with large values, and
/// many small ones.
fn schema(rows: u64) -> String {
    let (customers, wide, documents) = (rows / 10, rows / 20, rows / 200);
    let mut sql = format!(
        "CREATE TABLE customers (
             id int, email text NOT NULL, name text NOT NULL, joined date NOT NULL);
         INSERT INTO customers
         SELECT n, md5(n::text) || '@example.com', 'customer ' || n, date '2000-01-01' + n % 9000
         FROM generate_series(1, {customers}) n;
         ALTER TABLE customers ADD PRIMARY KEY (id), ADD UNIQUE (email);
         CREATE TABLE orders (
             id bigint, customer int NOT NULL, amount numeric(12, 2) NOT NULL,
             placed timestamptz NOT NULL, state smallint NOT NULL CHECK (state BETWEEN 0 AND 9));
         INSERT INTO orders
         SELECT n, 1 + n * 7919 % {customers}, (n % 100000) / 100.0,
                timestamptz '2020-01-01 00:00Z' + n * interval '13 s', n % 10
         FROM generate_series(1, {rows}::bigint) n;
         ALTER TABLE orders ADD PRIMARY KEY (id), ADD FOREIGN KEY (customer) REFERENCES customers;
         CREATE INDEX ON orders (customer);
         CREATE INDEX ON orders (placed);
         CREATE TABLE readings (sensor int, at timestamptz, value float8 NOT NULL);
         INSERT INTO readings
         SELECT n % 1000, timestamptz '2020-01-01 00:00Z' + (n / 1000) * interval '1 min', sin(n)
         FROM generate_series(1, {rows}) n;
         ALTER TABLE readings ADD PRIMARY KEY (sensor, at);
         CREATE TABLE profiles (id int PRIMARY KEY, {}, tags text[], extra jsonb);
         INSERT INTO profiles
         SELECT n, {}, ARRAY[md5(n::text), 'b'], jsonb_build_object('n', n, 'half', n / 2.0)
         FROM generate_series(1, {wide}) n;
         CREATE INDEX ON profiles (c1, c2);
         CREATE INDEX ON profiles USING gin (tags);
         CREATE TABLE documents (id int PRIMARY KEY, title text NOT NULL, body text NOT NULL);
         ALTER TABLE documents ALTER body SET STORAGE EXTERNAL;
         INSERT INTO documents
         SELECT n, 'document ' || n, repeat(md5(n::text), 500) FROM generate_series(1, {documents}) n;",
        (1..=30).map(|n| format!("c{n} text")).collect::<Vec<_>>().join(", "),
        (1..=30).map(|n| format!("md5((n * {n})::text)")).collect::<Vec<_>>().join(", "),
    );
    for number in 1..=SMALL_TABLES {
        sql.push_str(&format!(
            "CREATE TABLE small_{number} (id int PRIMARY KEY, label text NOT NULL UNIQUE);
             INSERT INTO small_{number} SELECT n, 'label ' || n FROM generate_series(1, 1000) n;"
        ));
    }
    sql.push_str("ANALYZE");
    sql
}
