//! Flips between servers of MySQL or MariaDB with more under way than small transactions of clients.

use anyhow::{Context, Result, ensure};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tests::ledger;
use tests::mysql::{Stage, Version};
use tests::wait;

use super::SOON;
use super::mysql_cutover::{BACK, GO, Move};

const MARIADB: (Version, Version) = (Version::Mariadb10_11, Version::Mariadb11_8);
const MYSQL: (Version, Version) = (Version::Mysql9_7, Version::Mysql9_7);

/// Rows of the large transactions: more than the sidecar may hold in memory here.
const ROWS: u32 = 100_000;
const LITTLE: &str = "[apply]\nmemory_bytes = 33_554_432\nbatch_bytes = 8_388_608\n";
const LARGE: &str = "create table large (id int primary key, v varchar(200) not null);";

async fn session(url: &str) -> Result<Conn> {
    Ok(Conn::new(ledger::mysql::options(url)?).await?)
}

/// Inserts [`ROWS`] rows from this one on.
fn many(from: u32) -> String {
    format!(
        "insert into large
         with recursive s(n) as (select 0 union all select n + 1 from s where n < 99)
         select {from} + a.n + 100 * b.n + 10000 * c.n, repeat('x', 100)
         from s a, s b, s c where c.n < {}",
        ROWS / 10_000
    )
}

/// One that was committed just before the run is on green, whole; one that is still under way when the
/// clients are held leaves nothing, and its client is told so.
async fn large_transactions_cross(versions: (Version, Version)) -> Result<()> {
    let stage = Stage::start(versions, &[], LITTLE)?;
    let url = stage.app_url();
    let mut this = Move::on(stage, url, LARGE).await?;
    this.more().await?;
    let mut whole = session(&this.stage.app_url()).await?;
    whole.query_drop("begin").await?;
    whole.query_drop(many(0)).await?;
    let mut open = session(&this.stage.app_url()).await?;
    open.query_drop("begin").await?;
    open.query_drop(many(ROWS)).await?;
    whole.query_drop("commit").await?;
    // The gate waits for who has been writing for longer than half of the pause, and this one goes on.
    this.succeed(&["--when-lag", "<1s", "--max-pause", "60s", "--yes"])?;
    ensure!(open.query_drop("commit").await.is_err(), "it was committed on a side that is closed");
    this.more().await?;
    let count =
        format!("select concat(count(*), ' ', coalesce(max(id) < {ROWS}, 1)) from shop.large");
    let expected = format!("{ROWS} 1");
    assert_eq!(this.stage.mover(&this.stage.green).value(&count)?, expected);
    assert_eq!(this.stage.mover(&this.stage.blue).value(&count)?, expected);
    let on_green = this.stage.mover_url(&this.stage.green);
    this.ledger.check(&on_green).await?.ensure_exact()
}

#[tokio::test(flavor = "multi_thread")]
async fn large_transactions_of_mariadb_cross_a_flip_whole_or_not_at_all() -> Result<()> {
    large_transactions_cross(MARIADB).await
}

#[tokio::test(flavor = "multi_thread")]
async fn large_transactions_of_mysql_cross_a_flip_whole_or_not_at_all() -> Result<()> {
    large_transactions_cross(MYSQL).await
}

/// With several lanes there and back; a backlog before the flip is shared out among them.
async fn several_lanes_flip(versions: (Version, Version)) -> Result<()> {
    let stage = Stage::start(versions, &[], "[apply]\nlanes = 4\n")?;
    let url = stage.app_url();
    let mut this = Move::on(stage, url, "create table island (id int primary key);").await?;
    this.more().await?;
    this.sidecar.kill9()?;
    // Transfers meet in their accounts; these meet in nothing.
    let mut islands = session(&this.stage.app_url()).await?;
    for id in 0..800 {
        islands.query_drop(format!("insert into island values ({id})")).await?;
    }
    this.more().await?;
    this.live_on()?;
    this.wait("the next life to stream", |status| status["phase"] == "streaming").await?;
    this.succeed(&GO)?;
    this.more().await?;
    let series = "cutover_windows_shared_total{pipeline=\"shop\",direction=\"forward\"}";
    let shared = this.stage.api().metric(series)?.context("no such series")?;
    ensure!(shared > 0.0, "no window was ever shared out");
    this.succeed(&BACK)?;
    this.more().await?;
    this.ledger.rest(SOON).await?;
    for server in [&this.stage.blue, &this.stage.green] {
        assert_eq!(this.stage.mover(server).value("select count(*) from shop.island")?, "800");
        let all = "select count(*) from shop.ledger_entries";
        let wanted = this.stage.mover(&this.stage.blue).value(all)?;
        wait::until("both sides to have everything", SOON, || {
            let found = this.stage.mover(server).value(all);
            let wanted = wanted.clone();
            async move { Ok((found? == wanted).then_some(())) }
        })
        .await?;
        let url = this.stage.mover_url(server);
        this.ledger.check_resting(&url).await?.ensure_exact()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn four_lanes_of_mariadb_flip_and_come_back() -> Result<()> {
    several_lanes_flip(MARIADB).await
}

#[tokio::test(flavor = "multi_thread")]
async fn four_lanes_of_mysql_flip_and_come_back() -> Result<()> {
    several_lanes_flip(MYSQL).await
}

/// Somebody with every right writes to the side that is closed: it is seen, said, and no rollback goes
/// over it.
async fn a_write_on_the_closed_side_is_seen(versions: (Version, Version)) -> Result<()> {
    let mut this = Move::start(versions, &[], "create table alien (id int primary key);").await?;
    this.more().await?;
    this.succeed(&GO)?;
    this.more().await?;
    // A run that arms its way back from the closed side, and does not come past its gate.
    let mut armed = BACK.to_vec();
    armed.extend(["--when-lag", "<1s", "--for", "60s", "--gate-timeout", "4s"]);
    let finished = this.stage.cutover(&armed, 2 * SOON)?;
    ensure!(finished.code() == 4, "{}: {}", finished.code(), finished.stderr);
    let open = match this.stage.blue.version().is_mariadb() {
        true => "set global read_only = 0",
        false => "set global super_read_only = 0, global read_only = 0",
    };
    let close = match this.stage.blue.version().is_mariadb() {
        true => "set global read_only = 1",
        false => "set global super_read_only = 1",
    };
    let write = format!("{open}; insert into shop.alien values (1); {close}");
    this.stage.mover(&this.stage.blue).run(&write)?;
    this.wait("the write to be seen", |status| {
        let streams = status["streams"].as_array();
        streams.is_some_and(|all| all.iter().any(|stream| stream["foreign"]["changes"] == 1))
    })
    .await?;
    let shown = this.stage.cutover(&["status"], SOON)?.stdout;
    ensure!(shown.contains("blue WAS WRITTEN BY SOMEBODY ELSE: 1 row changes"), "{shown}");
    let mut back = BACK.to_vec();
    back.extend(["--gate-timeout", "15s"]);
    let refused = this.stage.cutover(&back, 2 * SOON)?;
    let said = format!("{}{}", refused.stdout, refused.stderr);
    ensure!(refused.code() == 3, "{}: {said}", refused.code());
    ensure!(said.contains("was written by somebody else") && said.contains("alien"), "{said}");
    this.more().await?;
    let alien = "select count(*) from shop.alien";
    assert_eq!(this.stage.mover(&this.stage.green).value(alien)?, "0");
    let on_green = this.stage.mover_url(&this.stage.green);
    this.ledger.check(&on_green).await?.ensure_exact()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_on_the_closed_side_of_mariadb_is_seen() -> Result<()> {
    a_write_on_the_closed_side_is_seen(MARIADB).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_on_the_closed_side_of_mysql_is_seen() -> Result<()> {
    a_write_on_the_closed_side_is_seen(MYSQL).await
}
