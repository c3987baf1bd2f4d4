//! `cutover verify`: every difference is found and named, and nothing else is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::stage::{APP, DATABASE, Stage};
use tests::wait;
use tokio_postgres::Client;

use super::{Move, SOON, from_env};

const TABLES: &str = r#"
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TABLE wide (id int PRIMARY KEY, a text, body bytea, z text);
    INSERT INTO wide SELECT n, md5(n::text), decode(repeat(md5(n::text), 400), 'hex'), 'z'
        FROM generate_series(1, 300) n;
    CREATE TABLE lost (id int PRIMARY KEY, v text);
    INSERT INTO lost SELECT n, 'v' || n FROM generate_series(1, 3000) n;
    CREATE TABLE extra (id int PRIMARY KEY, v text);
    INSERT INTO extra SELECT n, 'v' || n FROM generate_series(1, 1000) n;
    CREATE TABLE swapped (id int PRIMARY KEY, v text);
    INSERT INTO swapped SELECT n, 'v' || n FROM generate_series(1, 1000) n;
    CREATE TABLE empties (id int PRIMARY KEY, v text, w text);
    INSERT INTO empties SELECT n, NULL, '' FROM generate_series(1, 10) n;
    CREATE TABLE "Spaces" ("the key" text PRIMARY KEY, "v ""q""" text);
    INSERT INTO "Spaces" SELECT chr(64 + n % 60) || '\' || n || '''ß', 'v' FROM generate_series(1, 900) n;
    CREATE TABLE times (id uuid PRIMARY KEY, at timestamptz, d interval, day date);
    INSERT INTO times SELECT md5(n::text)::uuid, '2024-03-31 00:30+00'::timestamptz + n * interval '1 h',
        n * interval '1 month 3 d -0.5 s', '2024-01-01'::date + n FROM generate_series(1, 500) n;
    CREATE TABLE floats (id numeric PRIMARY KEY, f float8, g float4, a float8[], p point, m mood,
                         c "char", n numeric);
    INSERT INTO floats SELECT n / 10.0, n / 3.0::float8, n / 7.0::float4, ARRAY[n / 11.0::float8, NULL, 0.1],
        point(n / 3.0, 1), 'ok', 'x', 1.50 FROM generate_series(1, 500) n;
    CREATE TABLE pairs (a int, b text, j json, k jsonb, PRIMARY KEY (b, a));
    INSERT INTO pairs SELECT n % 7, 'k' || n, '{"a":  1}', '{"a":  1}' FROM generate_series(1, 2000) n;
    CREATE TABLE bag (a int, b text);
    ALTER TABLE bag REPLICA IDENTITY FULL;
    INSERT INTO bag SELECT n % 500, 'b' || n % 500 FROM generate_series(1, 1000) n;
    CREATE TABLE indexed (id serial PRIMARY KEY, v int CHECK (v > 0), w int);
    CREATE INDEX indexed_v ON indexed (v);
    CREATE INDEX indexed_w ON indexed (w);
    INSERT INTO indexed (v, w) SELECT n, n FROM generate_series(1, 20) n;
"#;

/// What is done to green behind the stream's back.
const DAMAGE: &str = r#"
    UPDATE wide SET body = set_byte(body, 3100, get_byte(body, 3100) # 1) WHERE id = 17;
    DELETE FROM lost WHERE id = 1234;
    INSERT INTO extra VALUES (-5, 'low'), (5000, 'high');
    UPDATE swapped SET v = CASE id WHEN 3 THEN 'v4' ELSE 'v3' END WHERE id IN (3, 4);
    UPDATE empties SET v = '' WHERE id = 4;
    UPDATE empties SET w = NULL WHERE id = 5;
    UPDATE "Spaces" SET "v ""q""" = 'v ' WHERE "the key" LIKE '%\\77''%';
    UPDATE times SET at = at + interval '1 h' WHERE id = md5('8')::uuid;
    UPDATE floats SET f = '0.33333333333333337'::float8 WHERE id = 0.1;
    UPDATE floats SET a = ARRAY[2 / 11.0::float8, NULL, '0.10000000000000002'::float8] WHERE id = 0.2;
    UPDATE floats SET n = 1.5 WHERE id = 0.3;
    DELETE FROM pairs WHERE a = 3 AND b = 'k10';
    UPDATE pairs SET j = '{"a": 1}' WHERE a = 4 AND b = 'k11';
    INSERT INTO bag VALUES (3, 'b3');
    DELETE FROM bag WHERE ctid = (SELECT min(ctid) FROM bag WHERE a = 4);
    DROP INDEX indexed_v;
    ALTER TABLE indexed DROP CONSTRAINT indexed_v_check;
    UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'indexed_w'::regclass;
"#;

/// Table, kind, key or number of rows on both sides, columns.
const EXPECTED: [&str; 16] = [
    r#""public"."Spaces" different the key=Q\77'ß [v "q"]"#,
    r#""public"."bag" extra 2/3 []"#,
    r#""public"."bag" missing 2/1 []"#,
    r#""public"."empties" different id=4 [v]"#,
    r#""public"."empties" different id=5 [w]"#,
    r#""public"."extra" extra id=-5 []"#,
    r#""public"."extra" extra id=5000 []"#,
    r#""public"."floats" different id=0.10000000000000000000 [f]"#,
    r#""public"."floats" different id=0.20000000000000000000 [a]"#,
    r#""public"."floats" different id=0.30000000000000000000 [n]"#,
    r#""public"."lost" missing id=1234 []"#,
    r#""public"."pairs" different b=k11,a=4 [j]"#,
    r#""public"."pairs" missing b=k10,a=3 []"#,
    r#""public"."swapped" different id=3 [v]"#,
    r#""public"."swapped" different id=4 [v]"#,
    r#""public"."wide" different id=17 [body]"#,
];

pub(super) fn verify(stage: &Stage, arguments: &[&str]) -> Result<(i32, Value)> {
    // The ledger's clients would be spared, and the test would take that much longer.
    let mut all = vec!["verify", "--json", "--unlimited"];
    all.extend(arguments);
    let finished = stage.cutover(&all, 3 * SOON)?;
    let report = serde_json::from_str(&finished.stdout)
        .with_context(|| format!("no report: {}\n{}", finished.stdout, finished.stderr))?;
    Ok((finished.code(), report))
}

/// The rows that differ, one line each.
pub(super) fn rows(report: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let none = Vec::new();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for table in report["tables"].as_array().unwrap_or(&none) {
        for row in list(&table["differences"]) {
            let key: Vec<String> = list(&row["key"])
                .iter()
                .map(|part| format!("{}={}", text(&part["column"]), text(&part["value"])))
                .collect();
            let which = match key.is_empty() {
                true => format!("{}/{}", row["on_source"], row["on_target"]),
                false => key.join(","),
            };
            let columns: Vec<String> = list(&row["columns"]).iter().map(&text).collect();
            let columns = columns.join(",");
            let (table, kind) = (text(&table["table"]), text(&row["kind"]));
            found.push(format!("{table} {kind} {which} [{columns}]"));
        }
    }
    found.sort();
    found
}

fn objects(report: &Value, severity: &str) -> Vec<String> {
    let all = report["objects"].as_array().cloned().unwrap_or_default();
    let fails = all.iter().filter(|found| found["severity"] == severity);
    fails.map(|found| format!("{} {}", found["kind"], found["object"])).collect()
}

pub(super) fn ensure_equal(found: (i32, Value)) -> Result<Value> {
    let (code, report) = found;
    ensure!(code == 0 && report["verdict"] == "equal", "exit code {code}: {report:#}");
    Ok(report)
}

async fn every_damage_is_found(blue: u32, green: u32) -> Result<()> {
    let this = Move::streaming_with(Stage::builder(blue, green).routers(0), TABLES).await?;
    let stage = &this.stage;
    stage.wait_caught_up(SOON).await?;
    for mode in ["full", "checksum", "count"] {
        let report = ensure_equal(verify(stage, &["--mode", mode, "--chunk-rows", "137"])?)
            .with_context(|| format!("{blue} -> {green}, {mode}"))?;
        assert!(report["rows"].as_u64() > Some(10_000), "{report:#}");
        let behind = objects(&report, "warn");
        assert!(behind.iter().any(|found| found.contains("entries_id_seq")), "{behind:?}");
    }
    stage.green.execute(DATABASE, DAMAGE).await?;
    let mut expected: Vec<String> = EXPECTED.map(str::to_owned).to_vec();
    let shifted = stage.green.value(DATABASE, "SELECT md5('8')::uuid").await?;
    expected.push(format!("\"public\".\"times\" different id={shifted} [at]"));
    expected.sort();
    for mode in ["full", "checksum"] {
        let (code, report) = verify(stage, &["--mode", mode, "--chunk-rows", "137"])?;
        assert_eq!(rows(&report), expected, "{blue} -> {green}, {mode}: {report:#}");
        let found = objects(&report, "fail");
        for part in ["indexed_v\\\"", "indexed_w\\\"", "indexed_v_check"] {
            assert!(found.iter().any(|one| one.contains(part)), "{part}: {found:?}");
        }
        assert_eq!((code, found.len()), (9, 3), "{found:?}");
        assert_eq!(report["verdict"], "different");
    }
    let (code, report) = verify(stage, &["--mode", "count", "--table", "lost", "--rows-only"])?;
    assert_eq!((code, rows(&report)), (9, vec![EXPECTED[10].to_owned()]));
    // As many rows as before, under another key.
    stage.green.execute(DATABASE, "UPDATE swapped SET id = -7 WHERE id = 7").await?;
    let (code, report) = verify(stage, &["--mode", "count", "--table", "swapped"])?;
    let swapped = |what: &str| format!(r#""public"."swapped" {what} []"#);
    assert_eq!((code, rows(&report)), (9, vec![swapped("extra id=-7"), swapped("missing id=7")]));
    // Values are in no log, and keys in no log either.
    let log = this.sidecar.log_tail();
    assert!(!log.contains("k10") && !log.contains("1234"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_is_found_from_15_to_17() -> Result<()> {
    every_damage_is_found(15, 17).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_is_found_from_10_to_18() -> Result<()> {
    every_damage_is_found(10, 18).await
}

const BUSY: &str = "
    CREATE TABLE queue (id bigserial PRIMARY KEY, v text);
    CREATE TABLE moving (id int PRIMARY KEY, v int);
    INSERT INTO moving SELECT n, 0 FROM generate_series(1, 2000) n;
    CREATE TABLE hot (id text PRIMARY KEY, v bigint);
    INSERT INTO hot SELECT 'h' || n, 0 FROM generate_series(1, 5) n;
    CREATE TABLE pile (a int, b text);
    ALTER TABLE pile REPLICA IDENTITY FULL;
";

/// Inserts, deletes, key changes and counters, as fast as blue takes them.
async fn churn(client: Client, seed: i64, stop: Arc<AtomicBool>) -> Result<u64> {
    let mut done = 0;
    while !stop.load(Ordering::SeqCst) {
        let n = (done as i64 * 7919 + seed * 31) % 2000 + 1;
        let sql = format!(
            "INSERT INTO queue (v) VALUES ('q{n}');
             UPDATE moving SET id = -id, v = v + 1 WHERE abs(id) = {n};
             UPDATE hot SET v = v + 1 WHERE id = 'h' || ({n} % 5 + 1);
             INSERT INTO pile VALUES ({n} % 50, 'p');
             DELETE FROM queue WHERE id IN (SELECT id FROM queue ORDER BY id LIMIT 1 OFFSET 20);
             DELETE FROM pile WHERE ctid = (SELECT ctid FROM pile WHERE a = {n} % 49 LIMIT 1)"
        );
        match client.batch_execute(&sql).await {
            Ok(()) => done += 1,
            // Two of us wanted the same row the other way round.
            Err(error) if error.code().is_some_and(|code| code.code() == "40P01") => {}
            Err(error) => return Err(tests::postgres::describe(&error)),
        }
    }
    Ok(done)
}

/// `VERIFY_ROUNDS=500` for the long form.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_found_where_nothing_is_wrong_however_much_is_written() -> Result<()> {
    let builder = Stage::builder(15, 17).routers(0).config("[apply]\nlanes = 2");
    let this = Move::streaming_with(builder, BUSY).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for seed in 0..3 {
        let client = tests::postgres::connect_url(&this.stage.blue.url_as(APP, DATABASE)).await?;
        clients.push(tokio::spawn(churn(client, seed, Arc::clone(&stop))));
    }
    let mut rechecked = 0;
    for round in 0..from_env("VERIFY_ROUNDS", 8) {
        let mode = ["checksum", "full", "count"][round as usize % 3];
        let arguments = ["--mode", mode, "--chunk-rows", "200"];
        let report = ensure_equal(verify(&this.stage, &arguments)?)
            .with_context(|| format!("round {round}, {mode}"))?;
        let tables = report["tables"].as_array().context("no tables")?;
        rechecked += tables.iter().filter_map(|t| t["rechecked"].as_u64()).sum::<u64>();
    }
    stop.store(true, Ordering::SeqCst);
    let mut done = 0;
    for client in clients {
        done += client.await??;
    }
    // Else this has shown nothing.
    assert!(rechecked > 10 && done > 500, "{rechecked} rows looked at again, {done} transactions");
    Ok(())
}

/// A commit is in the log, and on green, before blue shows it: it waits for a standby. That is no
/// difference, and nothing that could be called equal either.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_blue_does_not_show_yet_is_no_difference() -> Result<()> {
    let tables = "CREATE TABLE slow (id int PRIMARY KEY, v int);
                  INSERT INTO slow SELECT n, 0 FROM generate_series(1, 100) n";
    let mut this = Move::streaming_with(Stage::builder(15, 17).routers(0), tables).await?;
    this.ledger.stop()?;
    this.stage.wait_caught_up(SOON).await?;
    let blue = &this.stage.blue;
    blue.execute("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await?;
    blue.execute("postgres", "SELECT pg_reload_conf()").await?;
    let waiting = this.stage.blue.connect(DATABASE).await?;
    let set = "SHOW synchronous_standby_names";
    wait::until("the setting", SOON, || async {
        Ok((blue.value(DATABASE, set).await? == "nobody").then_some(()))
    })
    .await?;
    let update = "SET synchronous_commit = on; UPDATE slow SET v = 1 WHERE id = 7; \
                  DELETE FROM slow WHERE id = 8; INSERT INTO slow VALUES (1000, 1)";
    let writer = tokio::spawn(async move { waiting.batch_execute(update).await });
    let green = &this.stage.green;
    wait::until("the change on green", SOON, || async {
        Ok((green.value(DATABASE, "SELECT v FROM slow WHERE id = 7").await? == "1").then_some(()))
    })
    .await?;
    assert_eq!(blue.value(DATABASE, "SELECT v FROM slow WHERE id = 7").await?, "0");

    let (code, report) = verify(&this.stage, &["--table", "slow", "--settle", "2s"])?;
    assert_eq!((code, &report["verdict"]), (1, &"incomplete".into()), "{report:#}");
    assert_eq!(report["tables"][0]["unsettled"], 3, "{report:#}");

    blue.execute("postgres", "ALTER SYSTEM RESET synchronous_standby_names").await?;
    blue.execute("postgres", "SELECT pg_reload_conf()").await?;
    writer.await??;
    ensure_equal(verify(&this.stage, &["--table", "slow"])?)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time_and_it_can_be_stopped() -> Result<()> {
    let tables = "CREATE TABLE many (id int PRIMARY KEY);
                  INSERT INTO many SELECT generate_series(1, 20000)";
    let this = Move::streaming_with(Stage::builder(15, 17).routers(0), tables).await?;
    let api = this.stage.api();
    let slow = serde_json::json!({ "rows_per_second": 100, "chunk_rows": 100 });
    let started = api.post("/v1/verify", &slow)?;
    assert_eq!(started.status, 202, "{}", started.body);
    let (code, error) = verify(&this.stage, &[])?;
    assert_eq!((code, &error["code"]), (8, &"busy".into()), "{error:#}");
    wait::until("some progress", SOON, || {
        let rows = api.json("/v1/verify/last").map(|s| s["progress"]["rows_done"].as_u64());
        async { Ok((rows? > Some(0)).then_some(())) }
    })
    .await?;
    let (code, report) = verify(&this.stage, &["--stop"])?;
    assert_eq!((code, &report["verdict"]), (1, &"incomplete".into()), "{report:#}");
    assert_eq!(report["stopped"], true);
    let readers = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cutover verify'";
    wait::until("its sessions to end", SOON, || async {
        Ok((this.stage.blue.value(DATABASE, readers).await? == "0").then_some(()))
    })
    .await?;
    let half = ["--mode", "sample", "--sample", "50", "--chunk-rows", "100", "--table", "many"];
    let report = ensure_equal(verify(&this.stage, &half)?)?;
    let sample = &report["sample"];
    assert_eq!(sample["chunks_in_all"], 200, "{report:#}");
    let taken = sample["chunks"].as_u64().context("no chunks")?;
    assert!((50..150).contains(&taken), "{report:#}");
    assert!(sample["bound_95"].as_f64().is_some_and(|bound| bound > 0.01 && bound < 0.07));
    for wrong in [&["--table", "nothing"][..], &["--sample", "0"], &["--table", "a.b.c"]] {
        let (code, error) = verify(&this.stage, wrong)?;
        assert!(code == 1 || code == 2, "{wrong:?}: {code} {error:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cutover_asks_for_its_proof() -> Result<()> {
    let tables = "CREATE TABLE kept (id int PRIMARY KEY, n int);
                  INSERT INTO kept SELECT i, i FROM generate_series(1, 100) i";
    let mut this = Move::streaming_with(Stage::builder(15, 17), tables).await?;
    let go = ["--when-lag", "<1s", "--yes", "--require-verified", "1h"];
    let refused = |arguments: &[&str], why: &str| -> Result<()> {
        let finished = this.stage.cutover(arguments, SOON)?;
        let (code, said) = (finished.code(), finished.stderr);
        ensure!(code == 3 && said.contains(why), "{code} instead of 3: {said}");
        Ok(())
    };
    refused(&go, "no verification")?;
    ensure_equal(verify(&this.stage, &["--mode", "count"])?)?;
    refused(&go, "no verification")?;
    let green = &this.stage.green;
    // What no count of rows would find.
    green.execute(DATABASE, "UPDATE kept SET n = 0 WHERE id = 7").await?;
    assert_eq!(verify(&this.stage, &["--table", "kept"])?.0, 9);
    refused(&go[..3], "1 differences")?;
    green.execute(DATABASE, "UPDATE kept SET n = 7 WHERE id = 7").await?;
    ensure_equal(verify(&this.stage, &["--table", "kept"])?)?;
    refused(&go[..3], "1 differences")?;
    ensure_equal(verify(&this.stage, &[])?)?;
    this.sidecar.terminate()?;
    this.sidecar.wait(SOON)?;
    this.restart_sidecar()?;
    this.wait_streaming().await?;
    let finished = this.stage.cutover(&go, 2 * SOON)?;
    ensure!(finished.code() == 0, "{}: {}", finished.code(), finished.stderr);

    // The other way round now: green is the one that is right.
    let report = ensure_equal(verify(&this.stage, &["--table", "kept"])?)?;
    assert_eq!((&report["source"], &report["target"]), (&"green".into(), &"blue".into()));

    // Green was written since: what was proven before it served proves nothing on the way back.
    let finished = this.stage.cutover(&["rollback", "--yes", "--max-pause", "30s"], 2 * SOON)?;
    ensure!(finished.code() == 0, "{}: {}", finished.code(), finished.stderr);
    let refused = this.stage.cutover(&go, SOON)?;
    let (code, said) = (refused.code(), refused.stderr);
    ensure!(code == 3 && said.contains("no verification"), "{code} instead of 3: {said}");
    Ok(())
}
