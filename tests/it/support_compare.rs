//! The exact comparison must find every difference, and none where there is none.

use anyhow::Result;
use tests::compare::{Content, Sequences, ensure_equal};
use tests::postgres::Postgres;

const SCHEMA: &str = r#"
    CREATE SCHEMA "Mixed Case";
    CREATE TABLE plain (id int PRIMARY KEY, t text, f float8, g float4[], n numeric, at timestamptz);
    CREATE TABLE "Mixed Case"."Täble" (a int, "b ""quoted""" bytea);
    CREATE TABLE nothing ();
    CREATE TABLE part (k int, v text) PARTITION BY RANGE (k);
    CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
    CREATE SEQUENCE counter;
"#;

/// In two orders, and in servers whose float output differs (12 made it shortest-exact).
const ROWS: [&str; 2] = [
    r#"INSERT INTO plain SELECT n, NULLIF('x' || n, 'x3'), 0.1 * n / 3, ARRAY[n / 7.0, NULL], n / 3.0, now() - now() + 'epoch'::timestamptz + n * interval '1 s' FROM generate_series(1, 9) n;"#,
    r#"INSERT INTO plain SELECT n, NULLIF('x' || n, 'x3'), 0.1 * n / 3, ARRAY[n / 7.0, NULL], n / 3.0, now() - now() + 'epoch'::timestamptz + n * interval '1 s' FROM generate_series(9, 1, -1) n;"#,
];
const MORE: &str = r#"
    INSERT INTO "Mixed Case"."Täble" VALUES (1, '\x00ff'), (1, '\x00ff'), (NULL, '');
    INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;
    INSERT INTO part VALUES (1, 'one');
    SELECT nextval('counter');
"#;

#[tokio::test(flavor = "multi_thread")]
async fn equal_content_is_equal_across_versions_and_differences_are_named() -> Result<()> {
    let (old, new) = (Postgres::start_major(10)?, Postgres::start_major(17)?);
    for (server, insert) in [(&old, ROWS[0]), (&new, ROWS[1])] {
        server.execute("postgres", &format!("{SCHEMA} {insert} {MORE}")).await?;
    }
    new.execute("postgres", "CREATE SCHEMA _cutover; CREATE TABLE _cutover.progress (x int)")
        .await?;
    let (a, b) = (old.url("postgres"), new.url("postgres"));
    let whole = ensure_equal(&a, &b, Sequences::Equal).await?;
    assert_eq!((whole.tables.len(), whole.rows()), (4, 9 + 3 + 2 + 1));

    let damages = [
        ("UPDATE plain SET t = '' WHERE id = 3", "UPDATE plain SET t = NULL WHERE id = 3", "plain"),
        (
            "UPDATE plain SET f = f + 1e-17 WHERE id = 1",
            "UPDATE plain SET f = 0.1 * 1 / 3 WHERE id = 1",
            "plain",
        ),
        (
            "DELETE FROM nothing WHERE ctid = '(0,1)'",
            "INSERT INTO nothing DEFAULT VALUES",
            "nothing",
        ),
        ("UPDATE part SET v = 'One'", "UPDATE part SET v = 'one'", "part_1"),
        ("ALTER TABLE part ADD z int", "ALTER TABLE part DROP z", "part_1"),
        ("CREATE TABLE extra (x int)", "DROP TABLE extra", "extra"),
    ];
    for (damage, repair, table) in damages {
        new.execute("postgres", damage).await?;
        let differences =
            Content::read(&a).await?.differences(&Content::read(&b).await?, Sequences::Equal);
        assert_eq!(differences.len(), 1, "{damage}: {differences:?}");
        assert!(differences[0].contains(table), "{damage}: {differences:?}");
        new.execute("postgres", repair).await?;
        ensure_equal(&a, &b, Sequences::Equal).await?;
    }

    // The same number of rows, and one of them twice in place of another.
    new.execute(
        "postgres",
        r#"DELETE FROM "Mixed Case"."Täble" WHERE a IS NULL; INSERT INTO "Mixed Case"."Täble" VALUES (1, '\x00ff')"#,
    )
    .await?;
    new.execute("postgres", "SELECT setval('counter', 1, false)").await?;
    let blue = Content::read(&a).await?;
    let green = Content::read(&b).await?;
    assert_eq!(blue.differences(&green, Sequences::Equal).len(), 2);
    assert_eq!(blue.differences(&green, Sequences::Ignored).len(), 1);
    Ok(())
}
