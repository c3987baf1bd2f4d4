//! Schema and rows of a whole database, from one real server to another.

mod backfill {
    pub mod catalog;
    mod contention;
    mod failing;
    pub mod fixture;
    mod put_off;
    mod squatter;
    pub mod stage;
}

use std::time::{Duration, Instant};

use anyhow::Result;
use backfill::stage::{DATABASE, Snapshot, Stage};
use backfill::{catalog, fixture};
use decoders::postgres::chunks::CopyFormat;
use decoders::postgres::wire::ReplicationConnection;
use replicator::backfill::{BackfillError, CopyConfig, Setting, TableState, cleanup};
use replicator::protect::{BlueConnections, ProtectConfig};
use replicator::schema::SchemaMode;
use tests::compare::{Sequences, ensure_equal};
use tests::wait;

const SOON: Duration = Duration::from_secs(30);

async fn everything_moves(blue: u32, green: u32) -> Result<()> {
    let stage = Stage::new(blue, green).await?;
    stage.on_blue(&fixture::sql(blue)).await?;
    // Large enough for several chunks.
    stage
        .on_blue(
            "CREATE TABLE shop.large (id bigserial PRIMARY KEY, t text);
             INSERT INTO shop.large (t) SELECT repeat(md5(g::text), 10) FROM generate_series(1, 20000) g;
             DELETE FROM shop.large WHERE id % 7 = 0",
        )
        .await?;
    stage.on_blue("VACUUM ANALYZE shop.large").await?;
    let snapshot = stage.snapshot().await?;
    let pre = stage.pre_data(&snapshot).await?;
    assert!(!pre.was_there && pre.warnings.is_empty(), "{pre:?}");
    let summary = stage.rows(&snapshot).await?;
    assert!(summary.is_replica_role);
    let post = stage.post_data().await?;
    assert!(post.warnings.is_empty(), "{post:?}");
    stage.analyze(&summary).await?;

    let content =
        ensure_equal(&stage.blue.url(DATABASE), &stage.green.url(DATABASE), Sequences::Ignored)
            .await?;
    assert_eq!(summary.rows, content.rows());
    catalog::ensure_equal(&stage.blue, &stage.green, DATABASE).await?;

    let format = |name: &str| {
        summary.tables.iter().find(|table| table.name.name == name).map(|table| table.format)
    };
    assert_eq!(format("enum_only"), Some(CopyFormat::Binary));
    assert_eq!(format("types"), Some(CopyFormat::Text), "regclass and xml");
    assert_eq!(format("custom"), Some(CopyFormat::Text), "arrays of user-defined types");
    assert_eq!(format("large"), Some(CopyFormat::Binary));
    let analyzed = "SELECT count(*) FROM pg_stats WHERE tablename = 'large'";
    assert_eq!(stage.green.value(DATABASE, analyzed).await?, "2");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_moves_from_15_to_17() -> Result<()> {
    everything_moves(15, 17).await
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_moves_from_10_to_18() -> Result<()> {
    everything_moves(10, 18).await
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_moves_from_13_to_14() -> Result<()> {
    everything_moves(13, 14).await
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_moves_from_18_to_18() -> Result<()> {
    everything_moves(18, 18).await
}

/// Writes after the snapshot belong to the stream.
#[tokio::test(flavor = "multi_thread")]
async fn later_writes_do_not_show_up() -> Result<()> {
    let stage = Stage::new(15, 17).await?;
    stage
        .on_blue(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1, 10000) g",
        )
        .await?;
    let snapshot = stage.snapshot().await?;
    stage.pre_data(&snapshot).await?;
    stage
        .on_blue(
            "INSERT INTO t SELECT g, 'late' FROM generate_series(10001, 20000) g;
             UPDATE t SET v = 'late' WHERE id % 3 = 0;
             DELETE FROM t WHERE id % 3 = 1",
        )
        .await?;
    let summary = stage.rows(&snapshot).await?;
    assert_eq!(summary.rows, 10_000);
    let late = "SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE v = 'late') FROM t";
    let counts = stage.green.rows(DATABASE, late).await?;
    assert_eq!(counts[0], ["10000", "10000", "0"].map(|n| Some(n.to_owned())));
    let progress = stage.progress.borrow().clone();
    assert!(progress.tables.iter().all(|table| table.state == TableState::Copied));
    assert_eq!(progress.total.rows_copied, 10_000);
    assert_eq!(progress.total.bytes_estimated, progress.total.bytes_copied);
    Ok(())
}

/// While the copy goes on nobody rewrites the tables, and a request to stop is heard at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_stop_ends_the_copy_and_its_statements() -> Result<()> {
    let mut stage = Stage::new(15, 17).await?;
    stage.copy.rate_limit_bytes_per_s = 200_000;
    stage
        .on_blue(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1, 20000) g",
        )
        .await?;
    let snapshot = stage.snapshot().await?;
    stage.pre_data(&snapshot).await?;
    let job = stage.backfill(&snapshot).await?;
    let (progress, cancel) = (stage.progress.clone(), stage.stop.subscribe());
    let copy = tokio::spawn(async move { job.run(&progress, &cancel).await });
    wait::until("rows on their way", SOON, async || {
        Ok((stage.progress.borrow().total.bytes_copied > 0).then_some(()))
    })
    .await?;
    let locked =
        stage.on_blue("SET lock_timeout = '100ms'; ALTER TABLE t ALTER id TYPE bigint").await;
    assert!(locked.is_err(), "nobody is let in at once");

    let asked = Instant::now();
    stage.stop.send_replace(true);
    let error = copy.await?.unwrap_err();
    assert!(matches!(error, BackfillError::Cancelled), "{error}");
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    for server in [&stage.blue, &stage.green] {
        wait::until("no statement is left", SOON, async || {
            let left =
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cutover copy'";
            Ok((server.value(DATABASE, left).await? == "0").then_some(()))
        })
        .await?;
    }

    // Starting over empties what was filled, and only that.
    stage.copy.rate_limit_bytes_per_s = 0;
    stage.stop.send_replace(false);
    let snapshot = stage.snapshot().await?;
    assert!(stage.pre_data(&snapshot).await?.was_there);
    let summary = stage.rows(&snapshot).await?;
    assert_eq!((summary.rows, summary.emptied.len()), (20_000, 1));
    stage.post_data().await?;
    ensure_equal(&stage.blue.url(DATABASE), &stage.green.url(DATABASE), Sequences::Ignored).await?;

    // A finished copy is nobody's to empty.
    let names: Vec<_> = summary.tables.into_iter().map(|table| table.name).collect();
    assert!(cleanup(&stage.green_info()?, &names).await?.is_empty());
    let job = stage.backfill(&snapshot).await?;
    let error = job.run(&stage.progress, &stage.stop.subscribe()).await.unwrap_err();
    assert!(!error.is_retryable() && error.to_string().contains("already has rows"), "{error}");
    assert_eq!(stage.green.value(DATABASE, "SELECT count(*) FROM t").await?, "20000");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn green_with_rows_of_its_own_is_refused() -> Result<()> {
    let mut stage = Stage::new(15, 17).await?;
    stage.schema.mode = SchemaMode::Existing;
    for sql in ["CREATE TABLE a (id int)", "CREATE TABLE b (id int)"] {
        stage.on_blue(sql).await?;
        stage.on_green(sql).await?;
    }
    stage.on_blue("CREATE TABLE \"not there\" (id int)").await?;
    let snapshot = stage.snapshot().await?;
    let error = stage.rows(&snapshot).await.unwrap_err();
    assert!(format!("{error:#}").contains("not there"), "{error:#}");
    stage.on_blue("DROP TABLE \"not there\"").await?;
    stage.on_green("INSERT INTO b VALUES (1)").await?;
    let snapshot = stage.snapshot().await?;
    let error = stage.rows(&snapshot).await.unwrap_err();
    assert!(format!("{error:#}").contains("\"b\""), "{error:#}");
    assert_eq!(stage.green.value(DATABASE, "SELECT count(*) FROM b").await?, "1");
    Ok(())
}

/// With a schema of its own green keeps its foreign keys and triggers, and none of them fires.
#[tokio::test(flavor = "multi_thread")]
async fn an_existing_schema_stays_as_it_is() -> Result<()> {
    let mut stage = Stage::new(15, 17).await?;
    stage.schema.mode = SchemaMode::Existing;
    let schema = "CREATE TABLE child (id int PRIMARY KEY, p int);
        CREATE TABLE parent (id int PRIMARY KEY);
        ALTER TABLE child ADD FOREIGN KEY (p) REFERENCES parent;
        CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'fired'; END$$;
        CREATE TRIGGER no BEFORE INSERT ON child FOR EACH ROW EXECUTE PROCEDURE no();";
    stage.on_blue(schema).await?;
    stage.on_green(schema).await?;
    stage
        .on_blue(
            "SET session_replication_role = replica; INSERT INTO parent SELECT generate_series(1, 100);
             INSERT INTO child SELECT g, g FROM generate_series(1, 100) g",
        )
        .await?;
    let snapshot = stage.snapshot().await?;
    stage.rows(&snapshot).await?;
    stage.post_data().await?;
    ensure_equal(&stage.blue.url(DATABASE), &stage.green.url(DATABASE), Sequences::Ignored).await?;
    catalog::ensure_equal(&stage.blue, &stage.green, DATABASE).await?;

    // A trigger that fires all the same is found before a row is written.
    stage.on_green("TRUNCATE child, parent; ALTER TABLE child ENABLE ALWAYS TRIGGER no").await?;
    let snapshot = stage.snapshot().await?;
    let error = format!("{:#}", stage.rows(&snapshot).await.unwrap_err());
    assert!(error.contains("no on"), "{error}");
    Ok(())
}

/// The widest table there is, values out of line, and names that look like patterns.
#[tokio::test(flavor = "multi_thread")]
async fn wide_tables_and_large_values_move() -> Result<()> {
    let mut stage = Stage::new(15, 17).await?;
    stage.copy.chunk_mib = Setting::Fixed(4);
    let columns: Vec<String> = (0..1_600).map(|at| format!("c{at} smallint")).collect();
    stage
        .on_blue(&format!(
            "CREATE TABLE \"wide*.?\" ({});
             INSERT INTO \"wide*.?\" (c0, c1599) SELECT g, g FROM generate_series(1, 100) g;
             CREATE TABLE big (id int PRIMARY KEY, b bytea, t text);
             ALTER TABLE big ALTER b SET STORAGE EXTERNAL;
             INSERT INTO big SELECT g, decode(repeat(md5(g::text), 32768), 'hex'), repeat('é', 100000)
             FROM generate_series(1, 40) g",
            columns.join(", ")
        ))
        .await?;
    let snapshot = stage.snapshot().await?;
    stage.pre_data(&snapshot).await?;
    stage.rows(&snapshot).await?;
    stage.post_data().await?;
    ensure_equal(&stage.blue.url(DATABASE), &stage.green.url(DATABASE), Sequences::Ignored).await?;
    Ok(())
}

/// A database that never checked its bytes keeps them.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_sql_ascii_stay_as_they_are() -> Result<()> {
    let stage = Stage::new(15, 17).await?;
    for server in [&stage.blue, &stage.green] {
        server.execute("postgres", &format!("DROP DATABASE {DATABASE}")).await?;
        let create = format!(
            "CREATE DATABASE {DATABASE} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        );
        server.execute("postgres", &create).await?;
    }
    stage
        .on_blue(
            "CREATE TABLE raw (id int, t text, x xml);
             SET client_encoding = 'SQL_ASCII';
             INSERT INTO raw SELECT g, chr(g), NULL FROM generate_series(128, 255) g;
             CREATE TABLE bin (id int, t text);
             INSERT INTO bin SELECT g, chr(g) FROM generate_series(128, 255) g",
        )
        .await?;
    let snapshot = stage.snapshot().await?;
    stage.pre_data(&snapshot).await?;
    assert_eq!(stage.rows(&snapshot).await?.rows, 256);
    for table in ["raw", "bin"] {
        let hash = format!(
            "SELECT md5(string_agg(convert_to(t, 'SQL_ASCII')::text, '' ORDER BY id)) FROM {table}"
        );
        assert_eq!(
            stage.blue.value(DATABASE, &hash).await?,
            stage.green.value(DATABASE, &hash).await?
        );
    }
    Ok(())
}

/// Without superuser on green: everything belongs to the role that restores, and triggers and
/// foreign keys come after the rows anyway.
#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_owner_of_green_is_enough() -> Result<()> {
    let mut stage = Stage::new(15, 17).await?;
    stage.schema.owners = false;
    stage
        .on_blue(
            "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (p int REFERENCES p);
             CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'fired'; END$$;
             INSERT INTO p VALUES (1); INSERT INTO c VALUES (1);
             CREATE TRIGGER no BEFORE INSERT ON c FOR EACH ROW EXECUTE PROCEDURE no()",
        )
        .await?;
    let green = "CREATE ROLE plain LOGIN; ALTER DATABASE shop OWNER TO plain; ALTER SCHEMA public OWNER TO plain";
    stage.on_green(green).await?;
    stage.green_user = Some("plain");
    let snapshot = stage.snapshot().await?;
    stage.pre_data(&snapshot).await?;
    let summary = stage.rows(&snapshot).await?;
    assert!(!summary.is_replica_role);
    stage.post_data().await?;
    stage.analyze(&summary).await?;
    ensure_equal(&stage.blue.url(DATABASE), &stage.green.url(DATABASE), Sequences::Ignored).await?;
    Ok(())
}

/// The snapshot of a replication slot serves pg_dump and all workers.
#[tokio::test(flavor = "multi_thread")]
async fn a_slots_snapshot_carries_schema_and_rows() -> Result<()> {
    let mut stage = Stage::new(10, 14).await?;
    stage
        .on_blue(
            "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 50000)",
        )
        .await?;
    let mut wire = ReplicationConnection::connect(&stage.blue_info()?, "test").await?;
    let answer = wire
        .simple_query("CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT")
        .await?;
    let name = format!("{answer:?}");
    let name = name.split('"').find(|part| part.matches('-').count() == 2);
    let snapshot = name.expect("a snapshot's name").to_owned();
    stage.on_blue("INSERT INTO t VALUES (-1); CREATE TABLE late (id int)").await?;
    stage.copy.workers = Setting::Fixed(2);
    let snapshot = Snapshot { name: snapshot, _holder: None };
    stage.pre_data(&snapshot).await?;
    let mut job = stage.backfill(&snapshot).await?;
    let late: u32 = stage.blue.value(DATABASE, "SELECT 'late'::regclass::oid").await?.parse()?;
    job.tables.retain(|id| id.0 != late);
    let summary = job.run(&stage.progress, &stage.stop.subscribe()).await?;
    assert_eq!(summary.rows, 50_000);
    assert_eq!(stage.green.value(DATABASE, "SELECT to_regclass('late') IS NULL").await?, "t");
    drop(wire);
    // With its connection the snapshot is gone; a new start makes another.
    wait::until("the snapshot is gone", SOON, async || {
        let error = job.run(&stage.progress, &stage.stop.subscribe()).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        Ok(error.to_string().contains("snapshot").then_some(()))
    })
    .await?;
    Ok(())
}

const INDEXED: &str = "
    CREATE TABLE small (id int PRIMARY KEY, v text);
    INSERT INTO small SELECT g, md5(g::text) FROM generate_series(1, 1000) g;
    CREATE TABLE large (id int PRIMARY KEY, v text UNIQUE, s int REFERENCES small);
    INSERT INTO large SELECT g, md5(g::text), 1 + g % 1000 FROM generate_series(1, 50000) g;
    CREATE INDEX large_s ON large (s);
    CREATE INDEX large_v ON large (lower(v)) WHERE id % 2 = 0;
    CREATE TABLE part (id int, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
    CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
    CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (10) TO (20);
    CREATE INDEX part_at ON part (at);
    INSERT INTO part SELECT g, g % 20 FROM generate_series(1, 5000) g";

const INDEXES: &str = "SELECT count(*) FROM pg_index JOIN pg_class ON oid = indrelid
    WHERE relnamespace = 'public'::regnamespace";

/// A table's indexes do not wait for other tables' rows; what they make is what the dump says.
#[tokio::test(flavor = "multi_thread")]
async fn indexes_are_built_while_other_tables_are_copied() -> Result<()> {
    for (blue, green) in [(13, 17), (16, 18)] {
        let mut stage = Stage::new(blue, green).await?;
        stage.copy.chunk_mib = Setting::Auto;
        stage.on_blue(INDEXED).await?;
        stage.on_blue("VACUUM ANALYZE").await?;
        let snapshot = stage.snapshot().await?;
        stage.pre_data(&snapshot).await?;
        let (summary, builder) = stage.rows_with_indexes(&snapshot).await?;
        // Two steps for each of four constraints, and of partitions those of their own; the
        // partitioned tables' key is one.
        let built = builder.finish().await?;
        assert!(built >= 10, "{built}");
        let post = stage.post_data().await?;
        // Two attachments for each index of the partitioned table, and two steps of a foreign key.
        assert!(post.statements < built, "{post:?}");
        stage.analyze(&summary).await?;
        let (blue, green) = (stage.blue.url(DATABASE), stage.green.url(DATABASE));
        ensure_equal(&blue, &green, Sequences::Ignored).await?;
        catalog::ensure_equal(&stage.blue, &stage.green, DATABASE).await?;
        // Written frozen: pages are known to be visible to everybody (from 14 on), but for the
        // last ones, which the server adds in advance.
        let seen = "SELECT relallvisible > relpages / 2 FROM pg_class WHERE relname = 'large'";
        assert_eq!(stage.green.value(DATABASE, seen).await?, "t");
    }
    Ok(())
}

/// Rows that are copied again must not find the indexes of the first attempt.
#[tokio::test(flavor = "multi_thread")]
async fn indexes_of_a_broken_copy_go_with_its_rows() -> Result<()> {
    let stage = Stage::new(15, 17).await?;
    stage.on_blue(INDEXED).await?;
    let snapshot = stage.snapshot().await?;
    stage.pre_data(&snapshot).await?;
    let (_, builder) = stage.rows_with_indexes(&snapshot).await?;
    builder.finish().await?;
    assert_ne!(stage.green.value(DATABASE, INDEXES).await?, "0");
    // Here the process ends, before it has written down that all rows are there.
    let snapshot = stage.snapshot().await?;
    assert!(stage.pre_data(&snapshot).await?.was_there);
    let summary = stage.rows(&snapshot).await?;
    assert_eq!(summary.emptied.len(), 4);
    // Those of the partitioned table are empty by themselves.
    let left = format!("{INDEXES} AND relkind = 'r'");
    assert_eq!(stage.green.value(DATABASE, &left).await?, "0");
    stage.post_data().await?;
    let (blue, green) = (stage.blue.url(DATABASE), stage.green.url(DATABASE));
    ensure_equal(&blue, &green, Sequences::Ignored).await?;
    catalog::ensure_equal(&stage.blue, &stage.green, DATABASE).await?;
    // From here on the indexes are green's own.
    assert!(stage.rows(&snapshot).await.is_err());
    catalog::ensure_equal(&stage.blue, &stage.green, DATABASE).await?;
    Ok(())
}

/// However many workers are wanted, blue sees no more connections than it was promised.
#[tokio::test(flavor = "multi_thread")]
async fn blue_sees_no_more_connections_than_allowed() -> Result<()> {
    let mut stage = Stage::new(14, 17).await?;
    stage.copy = CopyConfig { rate_limit_bytes_per_s: 2_000_000, ..stage.copy };
    stage.copy.workers = Setting::Auto;
    stage.copy.green_cores = Setting::Fixed(8);
    let protect = ProtectConfig { blue_connections: Setting::Fixed(8), ..ProtectConfig::default() };
    stage.connections = BlueConnections::new(&protect, &stage.copy);
    stage
        .on_blue(
            "CREATE TABLE t (id int PRIMARY KEY, v text);
             INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(1, 10000) g",
        )
        .await?;
    let snapshot = stage.snapshot().await?;
    stage.pre_data(&snapshot).await?;
    let job = stage.backfill(&snapshot).await?;
    let (progress, cancel) = (stage.progress.clone(), stage.stop.subscribe());
    let copy = tokio::spawn(async move { job.run(&progress, &cancel).await });
    let mut most = 0;
    while !copy.is_finished() {
        let ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cutover copy'";
        most = most.max(stage.blue.value(DATABASE, ours).await?.parse::<usize>()?);
    }
    assert_eq!(copy.await??.rows, 10_000);
    assert_eq!(most, 3, "the keeper and two workers");
    Ok(())
}
