//! Repairs around a cutover between servers of MySQL or MariaDB: not beside a run, known to a way back
//! that stands by, and of the side that was left.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::mysql::Version;

use super::SOON;
use super::mysql_cutover::{BACK, GO, Move};

const MORE: &str = "
    create table shop.pairs (a int, b varchar(10), v int not null, primary key (b, a));
    insert into shop.pairs with recursive s (n) as (select 1 union all select n + 1 from s where n < 200)
      select n % 7, concat('k', n), n from s;
    create table shop.bag (a int, b int);
    insert into shop.bag select a, v from shop.pairs";

/// As many rows as before: a run would not get to its gate otherwise.
const DAMAGE: &str = "
    update shop.pairs set v = -v where v < 50;
    delete from shop.pairs where v = 60; insert into shop.pairs values (1, 'extra', 60);
    update shop.bag set b = 0 where b = 7";

impl Move {
    pub(super) fn expect(&self, arguments: &[&str], code: i32) -> Result<Value> {
        let finished = self.stage.cutover(&[arguments, &["--json"]].concat(), 3 * SOON)?;
        ensure!(
            finished.code() == code,
            "{arguments:?}: exit code {} instead of {code}\n{}\n{}\nthe sidecar's log:\n{}",
            finished.code(),
            finished.stdout,
            finished.stderr,
            self.sidecar.log_tail()
        );
        serde_json::from_str(&finished.stdout)
            .with_context(|| format!("no JSON: {}", finished.stdout))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_is_repaired_before_a_cutover_and_behind_it() -> Result<()> {
    is_repaired_around_a_cutover((Version::Mariadb10_11, Version::Mariadb11_8)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_is_repaired_before_a_cutover_and_behind_it() -> Result<()> {
    is_repaired_around_a_cutover((Version::Mysql9_7, Version::Mysql9_7)).await
}

async fn is_repaired_around_a_cutover(versions: (Version, Version)) -> Result<()> {
    let this = Move::start(versions, &[], MORE).await?;
    let name = this.stage.blue.version().name();
    this.more().await?;
    this.stage.mover(&this.stage.green).run(DAMAGE)?;
    this.expect(&["verify", "--unlimited"], 9).context(name)?;

    // A run that waits for its gate may be in its pause at any moment. It has armed the way back.
    let waiting = serde_json::json!({
        "when_lag": "<1s", "for_ms": 3_600_000, "confirmation": "--yes", "accept_differences": true,
    });
    let api = this.stage.api();
    let started = api.post("/v1/cutover", &waiting)?;
    assert_eq!(started.status, 202, "{name}: {}", started.body);
    tests::wait::until("the way back to stand by", SOON, || {
        let status = api.status();
        async move { Ok((status?["streams"][1]["state"] == "hot").then_some(())) }
    })
    .await?;
    let busy = this.expect(&["repair", "--yes"], 8)?;
    ensure!(busy["what"].to_string().contains("is under way"), "{name}: {busy}");
    this.expect(&["abort"], 0)?;

    let report = this.expect(&["repair", "--yes"], 0).context(name)?;
    assert_eq!(report["target"], "green", "{name}");
    this.expect(&["verify", "--unlimited"], 0).context(name)?;
    // The run reads the way back up to its own marker, behind what the repair has written.
    this.succeed(&GO).context(name)?;
    this.more().await?;
    let status = this.stage.api().status()?;
    let back = &status["streams"][1];
    assert_eq!((&back["state"], &back["foreign"]), (&"carries".into(), &Value::Null), "{name}");

    // Behind the stream's back, and not in blue's log: the other stream reads that.
    let damage = format!("set session sql_log_bin = 0; {DAMAGE}");
    this.stage.mover(&this.stage.blue).run(&damage)?;
    let found = this.expect(&["verify", "--rows-only", "--unlimited"], 9).context(name)?;
    assert_eq!((&found["source"], &found["target"]), (&"green".into(), &"blue".into()), "{name}");
    let report = this.expect(&["repair", "--yes"], 0).context(name)?;
    assert_eq!(report["target"], "blue", "{name}");
    this.expect(&["verify", "--unlimited"], 0).context(name)?;
    this.succeed(&BACK).context(name)?;
    this.more().await?;
    let status = this.stage.api().status()?;
    assert_eq!(status["streams"][1]["foreign"], Value::Null, "{name}: {status}");
    this.expect(&["verify", "--rows-only", "--unlimited"], 0).context(name)?;
    let on_blue = this.stage.mover_url(&this.stage.blue);
    this.ledger.rest(SOON).await?;
    this.ledger.check_resting(&on_blue).await?.ensure_exact().context(name)
}
