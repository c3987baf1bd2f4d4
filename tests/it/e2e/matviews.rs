//! Materialized views on green are refreshed before clients are held, those that others read first.

use anyhow::{Result, ensure};
use tests::stage::{DATABASE, Stage};

use super::rollback::expect;
use super::{Move, SOON};

const GO: [&str; 5] = ["--when-lag", "<1s", "--yes", "--max-pause", "30s"];
const BACK: [&str; 4] = ["rollback", "--yes", "--max-pause", "30s"];

/// By name `a_sum` would come first; it reads `totals` through a plain view.
const VIEWS: &str = "
    CREATE TABLE log_of (n int PRIMARY KEY);
    CREATE TABLE probe (id int PRIMARY KEY, v int NOT NULL);
    INSERT INTO probe VALUES (1, 1);
    CREATE MATERIALIZED VIEW totals AS SELECT id % 2 AS part, sum(v) AS sum FROM probe GROUP BY 1;
    CREATE VIEW between_them AS SELECT sum FROM totals;
    CREATE MATERIALIZED VIEW a_sum AS SELECT sum(sum) AS sum FROM between_them;
    CREATE MATERIALIZED VIEW ratio AS SELECT 1 / max(v) AS ratio FROM probe;
    CREATE MATERIALIZED VIEW nothing AS SELECT * FROM probe WITH NO DATA;
";

/// Our role may refresh this one, being a superuser; what the view calls runs as its owner.
const OF_STRANGER: &str = "
    CREATE ROLE stranger;
    GRANT ALL ON SCHEMA public TO stranger;
    CREATE FUNCTION public.whoever() RETURNS text LANGUAGE sql AS 'SELECT current_user::text';
    CREATE MATERIALIZED VIEW public.of_stranger AS SELECT public.whoever() AS name;
    ALTER MATERIALIZED VIEW public.of_stranger OWNER TO stranger";

/// Its query writes when we refresh it.
const WRITING: &str = "
    CREATE FUNCTION public.writes() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
      IF current_setting('application_name') = 'cutover views' THEN INSERT INTO public.log_of VALUES (1); END IF;
      RETURN 1; END $$;
    CREATE MATERIALIZED VIEW public.writing AS SELECT public.writes() AS n";

const STATE: &str = "
    SELECT concat_ws(' ', (SELECT sum(sum) FROM totals), (SELECT sum FROM a_sum),
      (SELECT relispopulated FROM pg_class WHERE relname = 'nothing'))";

#[tokio::test(flavor = "multi_thread")]
async fn they_are_refreshed_in_order_before_the_pause_or_the_run_is_refused() -> Result<()> {
    let this = Move::streaming_with(Stage::builder(15, 17), VIEWS).await?;
    for server in [&this.stage.blue, &this.stage.green] {
        server.execute(DATABASE, OF_STRANGER).await?;
    }
    this.stage.on_blue("UPDATE probe SET v = 40; INSERT INTO probe VALUES (2, 2)").await?;
    this.stage.wait_caught_up(SOON).await?;
    assert_eq!(this.stage.green.value(DATABASE, STATE).await?, "1 1 f", "of the copy");
    let plan = expect(&this, &["plan"], 0)?.stdout;
    let at = |view: &str| plan.find(&format!(r#"REFRESH MATERIALIZED VIEW "public"."{view}""#));
    ensure!(at("totals").is_some() && at("totals") < at("a_sum"), "{plan}");
    ensure!(at("nothing").is_none(), "{plan}");

    for server in [&this.stage.blue, &this.stage.green] {
        server.execute(DATABASE, WRITING).await?;
    }
    let refused = this.stage.cutover(&GO, 2 * SOON)?;
    ensure!(refused.code() == 3, "{}: {}", refused.code(), refused.stderr);
    ensure!(
        refused.stderr.contains(r#"refreshing "public"."writing" writes to public.log_of"#),
        "{}",
        refused.stderr
    );
    let written = "SELECT count(*) FROM public.log_of";
    assert_eq!(this.stage.green.value(DATABASE, written).await?, "0");
    for server in [&this.stage.blue, &this.stage.green] {
        server.execute(DATABASE, "DROP MATERIALIZED VIEW public.writing").await?;
    }

    // One whose query fails now. Blue serves on.
    this.stage.on_blue("UPDATE probe SET v = 0").await?;
    this.stage.wait_caught_up(SOON).await?;
    let refused = this.stage.cutover(&GO, 2 * SOON)?;
    ensure!(refused.code() == 3, "{}: {}", refused.code(), refused.stderr);
    ensure!(refused.stderr.contains(r#"refreshing "public"."ratio""#), "{}", refused.stderr);
    ensure!(refused.stderr.contains("--accept-differences"), "{}", refused.stderr);
    this.more(20).await?;

    this.stage.on_blue("UPDATE probe SET v = 40 + id").await?;
    this.stage.wait_caught_up(SOON).await?;
    let done = expect(&this, &[&GO[..], &["--json"]].concat(), 0)?.stdout;
    ensure!(done.contains("4 materialized views refreshed on green in "), "{done}");
    assert_eq!(this.stage.green.value(DATABASE, STATE).await?, "83 83 f");
    let name = "SELECT name FROM public.of_stranger";
    assert_eq!(this.stage.green.value(DATABASE, name).await?, "stranger");
    this.more(20).await?;

    // A rollback does not wait for a refresh, and says so.
    let plan = expect(&this, &["plan"], 0)?.stdout;
    ensure!(plan.contains("a rollback does not wait"), "{plan}");
    expect(&this, &BACK, 0)?;
    assert_eq!(this.stage.blue.value(DATABASE, STATE).await?, "1 1 f");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_is_left_as_it_is_if_somebody_says_why() -> Result<()> {
    let this = Move::streaming_with(Stage::builder(16, 18), VIEWS).await?;
    this.stage.on_blue("UPDATE probe SET v = 0").await?;
    this.stage.wait_caught_up(SOON).await?;
    let accepting = "--accept-differences=materialized view public.ratio=nobody reads it";
    expect(&this, &[&GO[..], &[accepting]].concat(), 0)?;
    assert_eq!(this.stage.green.value(DATABASE, STATE).await?, "0 0 f");
    let report = expect(&this, &["report"], 0)?.stdout;
    ensure!(
        report.contains("2 materialized views refreshed") && report.contains("1 left"),
        "{report}"
    );
    this.ensure_green_serves().await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_may_be_left_as_they_are() -> Result<()> {
    let builder = Stage::builder(14, 17).config("[schema]\nmaterialized_views = \"leave\"");
    let this = Move::streaming_with(builder, VIEWS).await?;
    this.stage.on_blue("UPDATE probe SET v = 40").await?;
    this.stage.wait_caught_up(SOON).await?;
    expect(&this, &GO, 0)?;
    assert_eq!(this.stage.green.value(DATABASE, STATE).await?, "1 1 f");
    this.ensure_green_serves().await
}
