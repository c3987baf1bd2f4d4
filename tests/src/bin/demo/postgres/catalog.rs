//! Tables of many types that are changed while the stream runs and left alone during the cutover:
//! what is on blue then must be on green exactly.

use anyhow::{Context, Result};
use tests::compare::{Content, Sequences};
use tests::postgres::Postgres;
use tests::stage::{DATABASE, Stage};

const ITEMS: u64 = 20_000;

const CREATE: &str = r#"
    CREATE SCHEMA catalog;
    CREATE TYPE catalog.mood AS ENUM ('sad', 'ok', 'happy');
    CREATE DOMAIN catalog.price AS numeric(12, 2) CHECK (VALUE >= 0);
    CREATE TYPE catalog.size AS (width int, height int);
    CREATE TABLE catalog.items (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        name text NOT NULL,
        mood catalog.mood,
        price catalog.price,
        size catalog.size,
        tags text[],
        spec jsonb,
        valid tstzrange,
        weight double precision,
        seen timestamptz,
        blob bytea,
        address inet,
        token uuid UNIQUE,
        words tsvector
    );
    CREATE INDEX ON catalog.items USING gin (words);
    CREATE TABLE catalog."Größen & Maße" (
        "Artikel" bigint REFERENCES catalog.items ON DELETE CASCADE,
        "Maß" numeric,
        PRIMARY KEY ("Artikel", "Maß")
    );
    CREATE TABLE catalog.keyless (n int, t text);
    ALTER TABLE catalog.keyless REPLICA IDENTITY FULL;
    CREATE TABLE catalog.scratchpad (id int PRIMARY KEY, t text);
    INSERT INTO catalog.scratchpad SELECT n, 'gone soon' FROM generate_series(1, 100) n;
"#;

fn insert(count: u64) -> String {
    format!(
        r#"WITH fresh AS (
            INSERT INTO catalog.items
                (name, mood, price, size, tags, spec, valid, weight, seen, blob, address, token, words)
            SELECT 'item ' || n,
                (ARRAY['sad', 'ok', 'happy', NULL])[1 + n % 4]::catalog.mood,
                n / 7.0, (n, n * 2)::catalog.size,
                ARRAY['a' || n, NULL, '', '{{}}'],
                jsonb_build_object('n', n, 'list', ARRAY[n, n + 1]),
                tstzrange('2020-01-01', CASE WHEN n % 3 = 0 THEN NULL ELSE '2030-01-01'::timestamptz END),
                CASE n % 5 WHEN 0 THEN 'NaN' WHEN 1 THEN '-Infinity' ELSE n / 3.0::float8 END,
                CASE n % 6 WHEN 0 THEN 'infinity' ELSE '2024-02-29 12:00:00.123456+02'::timestamptz + n * interval '1 min' END,
                decode(md5(n::text), 'hex'), ('10.0.0.0'::inet + n),
                md5(clock_timestamp()::text || n)::uuid, to_tsvector('simple', 'item number ' || n)
            FROM generate_series(1, {count}) n RETURNING id)
        INSERT INTO catalog."Größen & Maße" SELECT id, m FROM fresh, unnest(ARRAY[1.5, 2.50]) m
        WHERE id % 10 = 0;
        INSERT INTO catalog.keyless SELECT n, NULLIF('row ' || n, 'row 7') FROM generate_series(1, 50) n;"#
    )
}

/// A value too long for its row: it is stored apart (TOAST), and an UPDATE of another column does
/// not send it.
const LONG: &str = r#"
    UPDATE catalog.items SET spec = jsonb_build_object('long',
        (SELECT string_agg(md5((id * 1000 + g)::text), '') FROM generate_series(1, 400) g))
    WHERE id % 1000 = 1;
"#;

/// Creates and fills the tables on blue, as the application. Gives the number of items.
pub async fn create(stage: &Stage) -> Result<u64> {
    stage.on_blue(CREATE).await.context("the catalog's tables")?;
    stage.on_blue(&insert(ITEMS)).await.context("the catalog's rows")?;
    stage.on_blue(LONG).await.context("the catalog's long values")?;
    Ok(ITEMS)
}

/// Every kind of change, some transactions of many rows.
pub async fn change(stage: &Stage) -> Result<()> {
    for sql in [
        insert(500).as_str(),
        "UPDATE catalog.items SET price = price + 1 WHERE id % 1000 IN (1, 2)",
        "UPDATE catalog.items SET name = NULLIF(name, '') || ' äöü', mood = NULL WHERE id % 50 = 0",
        "DELETE FROM catalog.items WHERE id % 70 = 0",
        "UPDATE catalog.keyless SET t = 'changed' WHERE n = 7",
        "DELETE FROM catalog.keyless WHERE n = 8",
        r#"UPDATE catalog."Größen & Maße" SET "Maß" = 3 WHERE "Maß" = 2.5 AND "Artikel" % 20 = 0"#,
        "TRUNCATE catalog.scratchpad",
        "BEGIN; INSERT INTO catalog.scratchpad VALUES (1, 'never'); ROLLBACK",
    ] {
        stage.on_blue(sql).await.with_context(|| sql.to_owned())?;
    }
    Ok(())
}

/// What is there now.
pub async fn read(server: &Postgres) -> Result<Content> {
    let mut content =
        Content::read_where(&server.url(DATABASE), |table| table.starts_with("catalog.")).await?;
    content.sequences.retain(|name, _| name.starts_with("catalog."));
    Ok(content)
}

/// Gives the number of rows that are exactly equal, or every difference.
pub async fn compare(expected: &Content, green: &Postgres) -> Result<u64> {
    let found = read(green).await?;
    expected.ensure_equal(&found, Sequences::Equal)?;
    Ok(found.rows())
}
