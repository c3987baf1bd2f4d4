//! TRUNCATE on the oldest blue, which does not send it: triggers report it.

use anyhow::{Result, ensure};
use tests::stage::{DATABASE, Stage};

use super::{Move, SOON};

/// Tables linked by foreign keys, partitions, and triggers of the application's own that write
/// while the tables are being emptied.
const TABLES: &str = "
    CREATE TABLE parents (id int PRIMARY KEY, label text NOT NULL);
    CREATE TABLE children (id int PRIMARY KEY, parent int NOT NULL REFERENCES parents);
    CREATE TABLE log (id serial PRIMARY KEY, what text NOT NULL, at int NOT NULL);
    CREATE TABLE parted (id int NOT NULL, at int NOT NULL) PARTITION BY RANGE (at);
    CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
    CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20);
    ALTER TABLE parted_1 ADD PRIMARY KEY (id);
    ALTER TABLE parted_2 ADD PRIMARY KEY (id);
    INSERT INTO parents SELECT n, 'p' || n FROM generate_series(1, 100) n;
    INSERT INTO children SELECT n, 1 + n % 100 FROM generate_series(1, 300) n;
    INSERT INTO parted SELECT n, n % 20 FROM generate_series(1, 200) n;
    CREATE FUNCTION logs() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO log (what, at) VALUES (TG_WHEN || ' ' || TG_TABLE_NAME, 1);
        IF TG_WHEN = 'AFTER' AND TG_TABLE_NAME = 'parents' THEN
            INSERT INTO parents VALUES (0, 'always there');
            INSERT INTO children VALUES (0, 0);
            TRUNCATE parted_2;
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER aaa BEFORE TRUNCATE ON parents FOR EACH STATEMENT EXECUTE PROCEDURE logs();
    CREATE TRIGGER aaa BEFORE TRUNCATE ON children FOR EACH STATEMENT EXECUTE PROCEDURE logs();
    CREATE TRIGGER aab AFTER TRUNCATE ON parents FOR EACH STATEMENT EXECUTE PROCEDURE logs();
    CREATE TRIGGER aab AFTER TRUNCATE ON children FOR EACH STATEMENT EXECUTE PROCEDURE logs()";

const OWN_TRIGGERS: &str = "SELECT count(*) FROM pg_trigger WHERE tgname LIKE '%cutover%'";

#[tokio::test(flavor = "multi_thread")]
async fn a_truncate_on_postgresql_10_reaches_green() -> Result<()> {
    let mut this = Move::streaming_with(Stage::builder(10, 17).routers(0), TABLES).await?;
    let stage = &this.stage;
    assert_eq!(stage.green.value(DATABASE, OWN_TRIGGERS).await?, "0");
    assert_ne!(stage.blue.value(DATABASE, OWN_TRIGGERS).await?, "0");
    // Resuming asks the same questions as the start; our own triggers are no obstacle.
    let checked = stage.replicator_command("check")?.run(SOON)?;
    let said = format!("{}{}", checked.stdout, checked.stderr);
    ensure!(!said.contains("cutover_after_truncate"), "{said}");

    stage
        .on_blue(
            "BEGIN;
             INSERT INTO parents VALUES (1001, 'goes'); INSERT INTO children VALUES (1001, 1001);
             TRUNCATE parents, children RESTART IDENTITY;
             INSERT INTO parents VALUES (1, 'comes'); INSERT INTO children VALUES (1, 1);
             SAVEPOINT s; TRUNCATE log; ROLLBACK TO s;
             INSERT INTO parted VALUES (1001, 1); TRUNCATE parted_1;
             INSERT INTO parted VALUES (1002, 2), (1003, 13);
             UPDATE log SET at = 2;
             COMMIT",
        )
        .await?;
    stage.on_blue("TRUNCATE parents CASCADE").await?;
    this.more(20).await?;
    this.ensure_exact_copy().await?.ensure_unnoticed()?;
    let stage = &this.stage;
    // 0 came back by the trigger after each TRUNCATE.
    assert_eq!(stage.green.value(DATABASE, "SELECT sum(id) FROM parents").await?, "0");
    assert_eq!(stage.green.value(DATABASE, "SELECT count(*) FROM children").await?, "1");

    // All partitions by their root, and a session whose ordinary triggers rest.
    stage
        .blue
        .execute(DATABASE, "SET session_replication_role = replica; TRUNCATE parted, log")
        .await?;
    stage.wait_caught_up(SOON).await?;
    for table in ["parted", "log"] {
        let count = format!("SELECT count(*) FROM {table}");
        assert_eq!(stage.blue.value(DATABASE, &count).await?, "0", "{table}");
        assert_eq!(stage.green.value(DATABASE, &count).await?, "0", "{table}");
    }

    // What nobody would see must not go on unnoticed.
    this.stage.on_blue("ALTER TABLE log DISABLE TRIGGER ALL").await?;
    let halted = this.stage.wait_status(&mut this.sidecar, "the halt", SOON, |status| {
        let told = status["halt"]["what"].as_str();
        told.is_some_and(|told| told.contains("\"log\""))
    });
    let status = halted.await?;
    ensure!(status["halt"]["remedy"].is_string(), "{status}");
    this.sidecar.terminate()?;
    ensure!(this.sidecar.wait(SOON)?.success(), "{}", this.sidecar.log_tail());
    let torn_down = this.stage.replicator_command("teardown")?.arg("--yes").run(SOON)?;
    ensure!(torn_down.code() == 0, "{}{}", torn_down.stdout, torn_down.stderr);
    assert_eq!(this.stage.blue.value(DATABASE, OWN_TRIGGERS).await?, "0");
    let left = "SELECT count(*) FROM pg_namespace WHERE nspname = '_cutover'";
    assert_eq!(this.stage.blue.value(DATABASE, left).await?, "0");
    Ok(())
}
