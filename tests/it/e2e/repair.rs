//! `cutover repair`: what a verification has found becomes equal, while clients write, and nothing
//! that they wrote is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::process::Finished;
use tests::stage::{APP, DATABASE, Stage};
use tests::wait;
use tokio_postgres::Client;

use super::{Move, SOON, from_env};

const TABLES: &str = r#"
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE DOMAIN small AS int CHECK (value < 100000);
    CREATE TABLE wide (id int PRIMARY KEY, a text, body bytea, z text);
    INSERT INTO wide SELECT n, md5(n::text), decode(repeat(md5(n::text), 400), 'hex'), 'z'
        FROM generate_series(1, 300) n;
    CREATE TABLE lost (id int PRIMARY KEY, v text);
    INSERT INTO lost SELECT n, 'v' || n FROM generate_series(1, 3000) n;
    CREATE TABLE extra (id int PRIMARY KEY, v text);
    INSERT INTO extra SELECT n, 'v' || n FROM generate_series(1, 1000) n;
    CREATE TABLE swapped (id int PRIMARY KEY, v text UNIQUE);
    INSERT INTO swapped SELECT n, 'v' || n FROM generate_series(1, 1000) n;
    CREATE TABLE "Spaces" ("the key" text PRIMARY KEY, "v ""q""" char(7), w text);
    INSERT INTO "Spaces" SELECT chr(64 + n % 60) || '\' || n || '''ß', 'v', '' FROM generate_series(1, 900) n;
    CREATE TABLE odd (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz, d interval, f float8,
                      g float4[], m mood, s small, n numeric, j json, k jsonb, t tsvector, r int4range);
    INSERT INTO odd (at, d, f, g, m, s, n, j, k, t, r)
        SELECT '2024-03-31 00:30+00'::timestamptz + n * interval '1 h', n * interval '1 month -0.5 s',
               n / 3.0::float8, ARRAY[n / 7.0::float4, NULL], 'ok', n, 1.50, '{"a":  1}', '{"a":  1}',
               'a b', int4range(n, n + 5) FROM generate_series(1, 500) n;
    CREATE TABLE pairs (a int, b text, v int, PRIMARY KEY (b, a));
    INSERT INTO pairs SELECT n % 7, 'k' || n, n FROM generate_series(1, 2000) n;
    CREATE TABLE bag (a int, b text);
    ALTER TABLE bag REPLICA IDENTITY FULL;
    INSERT INTO bag SELECT n % 500, 'b' || n % 500 FROM generate_series(1, 1000) n;
    INSERT INTO bag VALUES (NULL, 'b'), (NULL, 'b'), (7, NULL);
    CREATE TABLE indexed (id serial PRIMARY KEY, v int CHECK (v > 0), w int);
    CREATE INDEX indexed_v ON indexed (v);
    CREATE INDEX indexed_w ON indexed (w);
    INSERT INTO indexed (v, w) SELECT n, n FROM generate_series(1, 20) n;
"#;

/// What is done to green behind the stream's back.
const DAMAGE: &str = r#"
    UPDATE wide SET body = set_byte(body, 3100, get_byte(body, 3100) # 1) WHERE id = 17;
    DELETE FROM lost WHERE id % 10 = 4;
    INSERT INTO extra VALUES (-5, 'low'), (5000, 'high');
    UPDATE swapped SET v = 'x' WHERE id = 3;
    UPDATE swapped SET v = 'v3' WHERE id = 4;
    UPDATE swapped SET v = 'v4' WHERE id = 3;
    UPDATE "Spaces" SET "v ""q""" = 'v\', w = NULL WHERE "the key" LIKE '%\\77''%';
    DELETE FROM "Spaces" WHERE "the key" LIKE '%\\78''%';
    UPDATE odd SET at = at + interval '1 h', d = NULL WHERE id = 8;
    UPDATE odd SET f = '0.33333333333333337'::float8 WHERE id = 1;
    UPDATE odd SET g = '{}', n = 1.5, j = '{"a": 1}', m = 'sad' WHERE id = 2;
    DELETE FROM odd WHERE id = 3;
    DELETE FROM pairs WHERE a = 3 AND b = 'k10';
    UPDATE pairs SET v = 0 WHERE a = 4 AND b = 'k11';
    INSERT INTO bag VALUES (3, 'b3'), (3, 'b3'), (7, NULL);
    DELETE FROM bag WHERE ctid = (SELECT ctid FROM bag WHERE a = 4 LIMIT 1);
    DELETE FROM bag WHERE a IS NULL;
"#;

/// What a repair does not touch.
const OBJECTS: &str = r#"
    DROP INDEX indexed_v;
    ALTER TABLE indexed DROP CONSTRAINT indexed_v_check;
    UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'indexed_w'::regclass;
"#;

/// Exit code: the stream is connecting again.
const UNAVAILABLE: i32 = 10;

/// Runs `cutover ARGUMENTS --json` to its end and wants this exit code.
fn expect(this: &Move, arguments: &[&str], code: i32) -> Result<(Value, Finished)> {
    let finished = this.stage.cutover(&[arguments, &["--json"]].concat(), 3 * SOON)?;
    ensure!(
        finished.code() == code,
        "{arguments:?}: exit code {} instead of {code}\n--- stdout\n{}\n--- stderr\n{}\n--- log\n{}",
        finished.code(),
        finished.stdout,
        finished.stderr,
        this.sidecar.log_tail()
    );
    let answer = serde_json::from_str(&finished.stdout);
    Ok((answer.with_context(|| format!("no JSON: {}", finished.stdout))?, finished))
}

fn table<'a>(report: &'a Value, name: &str) -> Result<&'a Value> {
    let tables = report["tables"].as_array().context("no tables")?;
    let quoted = format!("\"public\".\"{name}\"");
    tables.iter().find(|table| table["table"] == quoted.as_str()).context("no such table")
}

fn statements(plan: &Value, name: &str) -> Result<Vec<String>> {
    let all = table(plan, name)?["statements"].as_array().context("no statements")?;
    Ok(all.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

async fn every_damage_is_repaired(blue: u32, green: u32) -> Result<()> {
    let mut this = Move::streaming_with(Stage::builder(blue, green).routers(0), TABLES).await?;
    this.stage.wait_caught_up(SOON).await?;
    let on_green = &this.stage.green;
    on_green.execute(DATABASE, DAMAGE).await?;
    on_green.execute(DATABASE, OBJECTS).await?;
    expect(&this, &["verify", "--unlimited"], 9)?;

    let (plan, _) = expect(&this, &["repair", "--plan"], 0)?;
    let wide = statements(&plan, "wide")?;
    assert!(wide.len() == 1 && wide[0].starts_with("UPDATE ONLY"), "{wide:?}");
    assert!(wide[0].contains("\"body\" = E'\\\\x") && !wide[0].contains("\"a\" ="), "{wide:?}");
    let (lost, extra) = (statements(&plan, "lost")?, statements(&plan, "extra")?);
    let has_it = lost.iter().any(|sql| sql.contains("'v4'"));
    assert!(lost.len() == 300 && has_it, "{:?}", lost.first());
    assert!(extra.iter().all(|sql| sql.starts_with("DELETE")), "{extra:?}");
    let objects = plan["objects"].to_string();
    for part in [
        "CREATE INDEX CONCURRENTLY indexed_v ON",
        "indexed_v_check\\\" CHECK ((v > 0)) NOT VALID;",
        "VALIDATE CONSTRAINT",
        "REINDEX INDEX",
        "setval('\\\"ledger\\\".\\\"entries_id_seq\\\"', ",
    ] {
        assert!(objects.contains(part), "{part}: {objects}");
    }
    // Somebody has only looked.
    expect(&this, &["verify", "--rows-only", "--unlimited"], 9)?;
    // What is printed does what it says: one of each kind, typed by hand.
    let replica = "SET session_replication_role = replica;";
    for sql in [&wide[0], &lost[0], &extra[0]] {
        on_green
            .execute(DATABASE, &format!("{replica} {sql}"))
            .await
            .with_context(|| sql.clone())?;
    }

    let (report, _) = expect(&this, &["repair", "--yes"], 0)?;
    for (name, counts) in [
        ("wide", [0, 0, 0, 1, 1]),
        ("lost", [299, 0, 0, 1, 300]),
        ("extra", [0, 0, 1, 1, 2]),
        ("swapped", [0, 2, 0, 0, 2]),
        ("Spaces", [1, 1, 0, 0, 2]),
        ("odd", [1, 3, 0, 0, 4]),
        ("pairs", [1, 1, 0, 0, 2]),
        ("bag", [3, 0, 3, 0, 4]),
    ] {
        let of = table(&report, name)?;
        let fields = ["inserted", "updated", "deleted", "equal_before", "verified"];
        let found = fields.map(|field| of[field].as_u64().unwrap_or(u64::MAX));
        assert_eq!(found, counts, "{name}: {of:#}");
    }
    expect(&this, &["verify", "--rows-only", "--unlimited"], 0)?;

    let log = this.sidecar.log_tail();
    assert!(!log.contains("k10") && !log.contains("'v4'"), "{log}");
    let (audit, _) = expect(&this, &["audit"], 0)?;
    let audit = audit.to_string();
    assert!(audit.contains("POST /v1/repair: 202") && audit.contains("is over"), "{audit}");
    assert!(!audit.contains("k10"), "{audit}");
    this.ensure_exact_copy().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_is_repaired_from_15_to_17() -> Result<()> {
    every_damage_is_repaired(15, 17).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_is_repaired_from_10_to_13() -> Result<()> {
    every_damage_is_repaired(10, 13).await
}

/// `big` is stored beside the row, so an update of `v` does not send it: nothing but a repair mends
/// it, and a repair that wrote an older `v` would lose what a client has counted.
const HOT: &str = "
    CREATE TABLE hot (id int PRIMARY KEY, v bigint NOT NULL, big text NOT NULL);
    ALTER TABLE hot ALTER COLUMN big SET STORAGE EXTERNAL;
    INSERT INTO hot SELECT n, 0, repeat(md5(n::text), 200) FROM generate_series(1, 200) n;
    CREATE TABLE quiet (id int PRIMARY KEY, v bigint NOT NULL);
    INSERT INTO quiet SELECT n, n FROM generate_series(1, 500) n;
";

const SPOIL: &str = "
    SET session_replication_role = replica;
    UPDATE hot SET big = 'x' || big WHERE id % 2 = 0;
    DELETE FROM quiet WHERE id % 50 = 0;
    UPDATE quiet SET v = -v WHERE id % 50 = 1;
    INSERT INTO quiet SELECT n, n FROM generate_series(1001, 1005) n;
";

/// Between two updates of a client: each row is written about three times a second. A row that is
/// written more often than a look takes is never at rest, and how long a look takes is the machine's.
const PACE: Duration = Duration::from_millis(5);

/// Counts in rows that are being repaired.
async fn count(client: Client, seed: i64, stop: Arc<AtomicBool>) -> Result<u64> {
    let mut done = 0;
    let mut pace = tokio::time::interval(PACE);
    while !stop.load(Ordering::SeqCst) {
        pace.tick().await;
        let n = (done as i64 * 7919 + seed * 31) % 200 + 1;
        let sql = format!("UPDATE hot SET v = v + 1 WHERE id = {n}");
        client.batch_execute(&sql).await.map_err(|error| tests::postgres::describe(&error))?;
        done += 1;
    }
    Ok(done)
}

/// `REPAIR_ROUNDS=100` for the long form.
async fn repair_and_stream_do_not_fight(lanes: u32) -> Result<()> {
    let config = format!("[apply]\nlanes = {lanes}");
    let builder = Stage::builder(15, 17).routers(0).config(&config);
    let mut this = Move::streaming_with(builder, HOT).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for seed in 0..3 {
        let client = tests::postgres::connect_url(&this.stage.blue.url_as(APP, DATABASE)).await?;
        clients.push(tokio::spawn(count(client, seed, Arc::clone(&stop))));
    }
    let mut updated = 0;
    for round in 0..from_env("REPAIR_ROUNDS", 2) {
        // It may lose a deadlock to the stream; or the stream one to it, and connect again.
        wait::until("rows to be spoiled", SOON, || async {
            Ok(this.stage.green.execute(DATABASE, SPOIL).await.ok())
        })
        .await?;
        // A stream that has lost may say so only now: then there is no verification.
        let verify = ["verify", "--rows-only", "--unlimited", "--json"];
        let code = wait::until("the stream to be verified", SOON, || async {
            this.stage.cutover(&["wait", "--for-state", "streaming"], SOON)?;
            let code = this.stage.cutover(&verify, 3 * SOON)?.code();
            Ok((code != UNAVAILABLE).then_some(code))
        })
        .await?;
        assert_eq!(code, 9, "rows were spoiled");
        let (report, _) =
            expect(&this, &["repair", "--yes"], 0).with_context(|| format!("round {round}"))?;
        assert_eq!(table(&report, "quiet")?["verified"], 25, "{report:#}");
        updated += table(&report, "hot")?["updated"].as_u64().unwrap_or_default();
        expect(&this, &["verify", "--rows-only", "--unlimited"], 0)?;
    }
    stop.store(true, Ordering::SeqCst);
    let mut done: u64 = 0;
    for client in clients {
        done += client.await??;
    }
    // Else this has shown nothing.
    assert!(updated >= 100 && done > 500, "{updated} rows repaired beside {done} updates");
    this.ensure_exact_copy().await?;
    let sum = this.stage.green.value(DATABASE, "SELECT sum(v) FROM hot").await?;
    assert_eq!(sum, done.to_string(), "what the clients have counted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_and_stream_do_not_fight_with_one_lane() -> Result<()> {
    repair_and_stream_do_not_fight(1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_and_stream_do_not_fight_with_four_lanes() -> Result<()> {
    repair_and_stream_do_not_fight(4).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_is_refused_where_it_must_not_be() -> Result<()> {
    let this = Move::streaming_with(Stage::builder(15, 17), TABLES).await?;
    let (none, _) = expect(&this, &["repair", "--yes"], 3)?;
    assert!(none["what"].to_string().contains("no verification"), "{none}");
    expect(&this, &["repair"], 2)?;
    let green = &this.stage.green;
    green
        .execute(DATABASE, "UPDATE pairs SET v = 0 WHERE v = 9; INSERT INTO bag VALUES (3, 'b3')")
        .await?;
    green.execute(DATABASE, "CREATE UNIQUE INDEX only_here ON pairs (v)").await?;
    green.execute(DATABASE, "DELETE FROM lost WHERE id = 7").await?;
    green.execute(DATABASE, "ALTER TABLE lost ADD CHECK (v <> 'v7') NOT VALID").await?;
    expect(&this, &["verify", "--rows-only", "--unlimited"], 9)?;
    let api = this.stage.api();
    let unconfirmed = api.post("/v1/repair", &serde_json::json!({ "confirmation": "other" }))?;
    assert_eq!(unconfirmed.status, 400, "{}", unconfirmed.body);

    // A run that waits for its gate may be in its pause at any moment.
    let waiting = serde_json::json!({
        "when_lag": "<1s", "for_ms": 3_600_000, "confirmation": "--yes", "accept_differences": true,
    });
    let started = api.post("/v1/cutover", &waiting)?;
    assert_eq!(started.status, 202, "{}", started.body);
    let (busy, _) = expect(&this, &["repair", "--yes"], 8)?;
    assert!(busy["what"].to_string().contains("is under way"), "{busy}");
    expect(&this, &["abort"], 0)?;

    // One row is refused by what only green has, and the others are not to suffer for it.
    let (report, _) = expect(&this, &["repair", "--yes"], 9)?;
    assert_eq!(table(&report, "pairs")?["verified"], 1, "{report:#}");
    let lost = table(&report, "lost")?;
    assert_eq!((&lost["refused"], &lost["verified"]), (&1.into(), &0.into()), "{report:#}");
    assert!(lost["left"][0]["why"].to_string().contains("lost_v_check"), "{report:#}");
    let found = expect(&this, &["verify", "--rows-only", "--unlimited"], 9)?.0;
    assert_eq!(found["differences"], 1, "{found:#}");
    Ok(())
}

/// Once green serves, blue is the copy. What a repair writes there must not come back to green.
#[tokio::test(flavor = "multi_thread")]
async fn the_side_that_was_left_is_repaired_too() -> Result<()> {
    let mut this = Move::streaming_with(Stage::builder(15, 17), TABLES).await?;
    let run = ["--when-lag", "<1s", "--yes", "--max-pause", "30s"];
    expect(&this, &run, 0)?;
    this.more(50).await?;
    // With an origin of the stream's own, as only a superuser can, or the damage itself would be taken for a
    // client's write.
    let name = this.stage.api().status()?["pipeline"].as_str().context("no name")?.to_owned();
    let origin = format!("cutover_{name}_back_64");
    let damage = format!(
        "BEGIN READ WRITE; SELECT pg_replication_origin_create('{origin}');
         SELECT pg_replication_origin_session_setup('{origin}');
         UPDATE pairs SET v = 0 WHERE v = 9; DELETE FROM lost WHERE id < 10; COMMIT"
    );
    let open = format!("ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS true");
    let blue = &this.stage.blue;
    wait::until("a moment in which blue is open", SOON, || async {
        // The sidecar closes blue behind its own sessions: then it is the next try.
        blue.execute("postgres", &open).await?;
        Ok(blue.execute(DATABASE, &damage).await.ok())
    })
    .await?;
    let (found, _) = expect(&this, &["verify", "--rows-only", "--unlimited"], 9)?;
    assert_eq!((&found["source"], &found["target"]), (&"green".into(), &"blue".into()));
    let (report, _) = expect(&this, &["repair", "--yes"], 0)?;
    assert_eq!(report["target"], "blue");
    expect(&this, &["verify", "--rows-only", "--unlimited"], 0)?;
    expect(&this, &["rollback", "--yes", "--max-pause", "30s"], 0)?;
    this.more(50).await?;
    expect(&this, &["verify", "--rows-only", "--unlimited"], 0)?;
    this.ledger.stop()?;
    this.ledger.check(&this.stage.blue.url(DATABASE)).await?.ensure_exact()
}

/// Of a run that goes no further than to its gate.
const ARM_ONLY: [&str; 8] =
    ["--when-lag", "<1s", "--for", "1h", "--gate-timeout", "10s", "--yes", "--accept-differences"];

/// A stream that stands by for the way back leaves out what a repair writes: by its mark, or, where
/// the server forwards none, by its origin.
#[tokio::test(flavor = "multi_thread")]
async fn a_way_back_that_stands_by_knows_a_repair() -> Result<()> {
    for (blue, green) in [(15, 17), (13, 13)] {
        let mut this = Move::streaming_with(Stage::builder(blue, green), TABLES).await?;
        // As many rows as before: a run would not get to its gate otherwise.
        let damage = "UPDATE pairs SET v = -v WHERE v < 50; UPDATE odd SET n = 0 WHERE id < 9";
        this.stage.green.execute(DATABASE, damage).await?;
        expect(&this, &["verify", "--rows-only", "--unlimited"], 9)?;
        expect(&this, &ARM_ONLY, 4)?;
        expect(&this, &["repair", "--yes"], 0)?;
        expect(&this, &["verify", "--rows-only", "--unlimited"], 0)?;
        this.more(100).await?;
        let head = this.stage.green.value(DATABASE, "SELECT pg_current_wal_lsn()").await?;
        let passed = format!(
            "SELECT bool_and(confirmed_flush_lsn >= '{head}') FROM pg_replication_slots \
             WHERE slot_type = 'logical'"
        );
        let on_green = &this.stage.green;
        wait::until("the way back to have read the repair", SOON, || async {
            Ok((on_green.value(DATABASE, &passed).await? == "t").then_some(()))
        })
        .await?;
        let status = this.stage.api().status()?;
        let foreign = &status["streams"][1]["foreign"];
        assert!(foreign.is_null() || foreign["changes"] == 0, "{blue} -> {green}: {foreign}");
        this.ensure_exact_copy().await?;
    }
    Ok(())
}
