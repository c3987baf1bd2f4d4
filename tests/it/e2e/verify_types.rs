//! What servers call equal is not always the same, and what is the same they may write differently:
//! values of every type that rows are hashed by, and of some that are printed.

use anyhow::{Context, Result};
use tests::stage::{DATABASE, Stage};

use super::verify::{ensure_equal, rows, verify};
use super::{Move, SOON};

const TABLES: &str = r#"
    CREATE DOMAIN price AS numeric CHECK (VALUE > 0);
    CREATE TYPE pair AS (a int, b text);
    CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
    CREATE TABLE kinds (
        id bigint PRIMARY KEY, yes boolean, small smallint, n int, big bigint, o oid, exact numeric,
        f real, d double precision, t text, v varchar(40), c char(8), loose text COLLATE loose,
        bytes bytea, u uuid, day date, time time, zoned timetz, at timestamp, moment timestamptz,
        span interval, j json, k jsonb, tags text[], dear price, p pair, bits bit varying,
        address inet, r int4range, x xml, letter "char", name name, place point);
    INSERT INTO kinds
    SELECT n * 4294967296, n % 2 = 0, n, n, 0, n, 1.0, 1, 0, 'x', 'x', 'x', 'x', '\x00', md5(n::text)::uuid,
           '2024-01-01', '12:00', '12:00+00', '2024-01-01', '2024-01-01Z', '30 days', '{"a":1}',
           '{"a":1.0}', ARRAY['a', NULL], 1.50, ROW(1, '')::pair, '101', '10.0.0.1', '[1,5)', '<a/>', 'x', 'x',
           point(1, 2)
    FROM generate_series(-20, 40) n;
    INSERT INTO kinds (id, f, d, exact, at, moment, day, span, big) VALUES
        (1, 'NaN', 'NaN', 'NaN', 'infinity', '-infinity', 'infinity', '-178000 years', -9223372036854775808),
        (2, '-Infinity', '-0', 0.000, '0044-03-15 BC', '294276-01-01Z', '4713-01-01 BC', '1 mon -1 d 1 us', 9223372036854775807);
    -- Arithmetic makes another NaN than input does.
    INSERT INTO kinds (id, d, f) SELECT 3, 'inf'::float8 - 'inf'::float8, 'inf'::float4 - 'inf'::float4;
    CREATE TABLE heap (a int, b text, c bigint);
    ALTER TABLE heap REPLICA IDENTITY FULL;
    INSERT INTO heap SELECT n, 'b' || n, n FROM generate_series(1, 200) n;
"#;

/// Each row gets a value that its type calls equal, or that hashes alike, or that looks alike.
const CHANGES: [(i64, &str, &str); 17] = [
    (1, "exact", "1.00"),
    (2, "d", "'-0'"),
    (3, "f", "1.0000001"),
    (4, "big", "4294967297"),
    (5, "big", "-4294967297"),
    (6, "span", "'1 mon'"),
    (7, "span", "'720 hours'"),
    (8, "loose", "'X'"),
    (9, "t", "'x '"),
    (10, "j", "'{\"a\": 1}'"),
    (11, "k", "'{\"a\":1.00}'"),
    (12, "tags", "'[2:3]={a,NULL}'"),
    (13, "dear", "1.5"),
    (14, "moment", "'2024-01-01 01:00Z'"),
    (15, "bytes", "'\\x0000'"),
    (16, "p", "ROW(1, NULL)"),
    (17, "zoned", "'13:00+01'"),
];

async fn same_and_not_the_same(blue: u32, green: u32) -> Result<()> {
    let this = Move::streaming_with(Stage::builder(blue, green).routers(0), TABLES).await?;
    let stage = &this.stage;
    stage.wait_caught_up(SOON).await?;
    // Whatever the sessions of either side would print by themselves.
    let settings = "ALTER DATABASE shop SET datestyle = 'German';
        ALTER DATABASE shop SET timezone = 'Asia/Kolkata';
        ALTER DATABASE shop SET intervalstyle = 'iso_8601';
        ALTER DATABASE shop SET bytea_output = 'escape';
        ALTER DATABASE shop SET xmloption = 'document';
        ALTER DATABASE shop SET extra_float_digits = -3";
    stage.green.execute("postgres", &settings.replace("shop", DATABASE)).await?;
    let arguments = ["--table", "kinds", "--table", "heap", "--chunk-rows", "25"];
    let report =
        ensure_equal(verify(stage, &arguments)?).with_context(|| format!("{blue} -> {green}"))?;
    // Nothing writes to them: hashes that servers compute differently would be seen here.
    for table in report["tables"].as_array().context("no tables")? {
        assert_eq!(table["rechecked"], 0, "{blue} -> {green}: {table:#}");
    }
    let mut expected = Vec::new();
    for (number, column, value) in CHANGES {
        let id = number * 4_294_967_296;
        let sql = format!("UPDATE kinds SET {column} = {value} WHERE id = {id}");
        stage.green.execute(DATABASE, &sql).await.context(column)?;
        expected.push(format!(r#""public"."kinds" different id={id} [{column}]"#));
    }
    // Two rows swap a value: every column has the same values as before.
    let swap = "UPDATE heap SET b = 'b' || 13 - a, c = 13 - a WHERE a IN (6, 7);
                UPDATE kinds SET u = md5((41 - id / 4294967296)::text)::uuid
                WHERE id / 4294967296 IN (20, 21)";
    stage.green.execute(DATABASE, swap).await?;
    for number in [20, 21] {
        let id = number * 4_294_967_296_i64;
        expected.push(format!(r#""public"."kinds" different id={id} [u]"#));
    }
    expected.sort();
    for mode in ["checksum", "full"] {
        let mut all = arguments.to_vec();
        all.extend(["--mode", mode]);
        let (code, report) = verify(stage, &all)?;
        let (heap, kinds): (Vec<_>, Vec<_>) =
            rows(&report).into_iter().partition(|row| row.contains("heap"));
        assert_eq!((code, &kinds), (9, &expected), "{blue} -> {green}, {mode}: {report:#}");
        let missing = heap.iter().filter(|row| row.contains("missing 1/0")).count();
        assert_eq!((missing, heap.len()), (2, 4), "{blue} -> {green}, {mode}: {heap:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn same_and_not_the_same_from_15_to_17() -> Result<()> {
    same_and_not_the_same(15, 17).await
}

/// 11 and 17 print floats with different digits: they go in binary form.
#[tokio::test(flavor = "multi_thread")]
async fn a_nan_of_arithmetic_is_one_of_input_from_11_to_17() -> Result<()> {
    let tables = "CREATE TABLE nans (id int PRIMARY KEY, d float8, f float4, a float8[]);
                  INSERT INTO nans SELECT n, 'inf'::float8 - 'inf'::float8,
                         'inf'::float4 - 'inf'::float4, ARRAY['inf'::float8 - 'inf'::float8, 1, NULL]
                  FROM generate_series(1, 5) n;";
    let this = Move::streaming_with(Stage::builder(11, 17).routers(0), tables).await?;
    this.stage.wait_caught_up(SOON).await?;
    for mode in ["checksum", "full"] {
        ensure_equal(verify(&this.stage, &["--table", "nans", "--mode", mode])?)?;
    }
    this.stage.green.execute(DATABASE, "UPDATE nans SET d = 0 WHERE id = 3").await?;
    let (code, report) = verify(&this.stage, &["--table", "nans"])?;
    assert_eq!((code, rows(&report)), (9, vec![r#""public"."nans" different id=3 [d]"#.into()]));
    Ok(())
}

/// Hashed as text: 13 can't hash records.
#[tokio::test(flavor = "multi_thread")]
async fn same_and_not_the_same_from_13_to_18() -> Result<()> {
    same_and_not_the_same(13, 18).await
}

#[tokio::test(flavor = "multi_thread")]
async fn same_and_not_the_same_from_14_to_18() -> Result<()> {
    same_and_not_the_same(14, 18).await
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_the_same_in_another_character_set() -> Result<()> {
    let tables = "CREATE TABLE words (id int PRIMARY KEY, t text, v varchar(20), tags text[]);
                  INSERT INTO words SELECT n, chr(191 + n % 64) || n, 'Straße', ARRAY['é', 'e']
                  FROM generate_series(1, 300) n;
                  CREATE TABLE heap (t text);
                  ALTER TABLE heap REPLICA IDENTITY FULL;
                  INSERT INTO heap SELECT chr(191 + n) FROM generate_series(1, 60) n";
    let latin = "ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0";
    let stage = Stage::builder(15, 17).routers(0).blue_options(latin);
    let this = Move::streaming_with(stage, tables).await?;
    let stage = &this.stage;
    stage.wait_caught_up(SOON).await?;
    let of_rows = ["--rows-only", "--table", "words", "--table", "heap", "--mode"];
    for mode in ["checksum", "full"] {
        ensure_equal(verify(stage, &[&of_rows[..], &[mode]].concat())?)?;
    }
    stage.green.execute(DATABASE, "UPDATE words SET v = 'Strasse' WHERE id = 7").await?;
    for mode in ["checksum", "full"] {
        let (code, report) = verify(stage, &[&of_rows[..], &[mode]].concat())?;
        assert_eq!(
            (code, rows(&report)),
            (9, vec![r#""public"."words" different id=7 [v]"#.into()])
        );
    }
    Ok(())
}
