//! `cutover verify` between two servers of MySQL or MariaDB, while clients write.

use super::super::verify::{ensure_equal, rows as differing};
use super::*;

/// Other rows than the clients': what is wrong with them stays wrong.
const MORE: &str = "
    create table shop.still(id int primary key, v varchar(20), w varchar(20), f double, d datetime(6), b blob);
    insert into shop.still select n, 'v', null, n / 3, '2024-03-31 00:30:00' + interval n hour,
        repeat(char(n), 4000)
      from (select 10 * a.n + b.n + 1 as n
        from (select 0 n union select 1 union select 2 union select 3 union select 4) a,
             (select 0 n union select 1 union select 2 union select 3 union select 4
              union select 5 union select 6 union select 7 union select 8 union select 9) b) s;
    create table shop.loose(a int, b varchar(10));
    insert into shop.loose values (1, 'x'), (1, 'x'), (2, 'y');
    alter table shop.still add key still_v (v), add key still_w (w);";

/// What is done to green behind the stream's back.
const DAMAGE: &str = "
    update shop.still set b = insert(b, 3000, 9, 'telltale~') where id = 7;
    delete from shop.still where id = 12;
    insert into shop.still values (500, 'v', null, 0, null, null);
    update shop.still set v = 'v ' where id = 20;
    update shop.still set w = '' where id = 21;
    update shop.still set f = 0.33333333333333337 where id = 1;
    update shop.still set d = d + interval 1 hour where id = 30;
    insert into shop.loose values (1, 'x');
    alter table shop.still drop key still_v;";

const EXPECTED: [&str; 8] = [
    "`shop`.`loose` extra 2/3 []",
    "`shop`.`still` different id=1 [f]",
    "`shop`.`still` different id=20 [v]",
    "`shop`.`still` different id=21 [w]",
    "`shop`.`still` different id=30 [d]",
    "`shop`.`still` different id=7 [b]",
    "`shop`.`still` extra id=500 []",
    "`shop`.`still` missing id=12 []",
];

impl Move {
    /// A verification's exit code and report.
    pub(super) fn verify(&self, arguments: &[&str]) -> Result<(i32, Value)> {
        let mut all = vec!["verify", "--json"];
        all.extend(arguments);
        let finished = self.cutover(&all)?;
        let report = serde_json::from_str(&finished.stdout)
            .with_context(|| format!("no report: {}\n{}", finished.stdout, finished.stderr))?;
        Ok((finished.code(), report))
    }

    /// Copied and followed, with clients at work.
    async fn streaming(versions: (Version, Version)) -> Result<(Move, Clients)> {
        let sequence =
            if versions.0.is_mariadb() { "create sequence shop.ticket nocache;" } else { "" };
        let mut this = Move::start_with(versions, &format!("{MORE} {sequence}"), "")?;
        this.wait_streaming().await?;
        let clients = Clients::start(&this.blue);
        clients.more(2).await?;
        Ok((this, clients))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_is_verified_while_clients_write() -> Result<()> {
    is_verified_while_clients_write(MARIADB).await
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_is_verified_while_clients_write() -> Result<()> {
    is_verified_while_clients_write(MYSQL).await
}

async fn is_verified_while_clients_write(versions: (Version, Version)) -> Result<()> {
    let (mut this, clients) = Move::streaming(versions).await?;
    let name = this.blue.version().name();
    if this.blue.version().is_mariadb() {
        // The row of a sequence is written to the log, too.
        this.blue.run("do nextval(shop.ticket); do nextval(shop.ticket)")?;
    }
    for mode in ["checksum", "full", "count"] {
        let before = clients.committed.load(Ordering::Relaxed);
        let arguments = ["--unlimited", "--mode", mode, "--chunk-rows", "500"];
        let report = ensure_equal(this.verify(&arguments)?)
            .with_context(|| format!("{name}, {mode}: {}", this.sidecar.log_tail()))?;
        ensure!(report["rows"].as_u64() > Some(30_000), "{name}: {report:#}");
        let now = clients.committed.load(Ordering::Relaxed);
        ensure!(now > before, "{name}: nobody wrote meanwhile, so this has shown nothing");
    }
    // With the limits: the clients go on, and so does the verification.
    let report = ensure_equal(this.verify(&["--table", "still", "--table", "account"])?)?;
    ensure!(report["rows"] == 50 + ACCOUNTS, "{name}: {report:#}");

    this.green.run(DAMAGE)?;
    for mode in ["full", "checksum"] {
        let (code, report) =
            this.verify(&["--unlimited", "--mode", mode, "--chunk-rows", "500"])?;
        assert_eq!(differing(&report), EXPECTED, "{name}, {mode}: {report:#}");
        let objects = report["objects"].as_array().cloned().unwrap_or_default();
        let fails = objects.iter().filter(|found| found["severity"] == "fail");
        let fails: Vec<String> = fails.map(|found| found["object"].to_string()).collect();
        assert!(fails.len() == 1 && fails[0].contains("still_v"), "{name}: {objects:#?}");
        assert_eq!((code, &report["verdict"]), (9, &"different".into()), "{name}: {report:#}");
    }
    let log = this.sidecar.log_tail();
    ensure!(!log.contains("telltale"), "values are in no log: {log}");
    this.wait_streaming().await?;
    clients.end()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_goes_on_after_a_crash() -> Result<()> {
    let (mut this, clients) = Move::streaming(MARIADB).await?;
    let slowly = serde_json::json!({
        "mode": "checksum", "tables": ["ballast"], "unlimited": true, "rows_per_second": 1000,
        "chunk_rows": 500
    });
    let started = this.api().post("/v1/verify", &slowly)?;
    assert_eq!(started.status, 202, "{}", started.body);
    let first: Value = serde_json::from_str(&started.body)?;
    let api = this.api();
    let done = wait::until("some progress", SOON, || {
        let rows = api.json("/v1/verify/last").map(|s| s["progress"]["rows_done"].as_u64());
        async { Ok(rows?.filter(|rows| *rows >= 3000)) }
    })
    .await?;
    let all: u64 = this.blue.value("select count(*) from shop.ballast")?.parse()?;
    this.kill(true)?;
    this.wait_streaming().await?;
    let report = ensure_equal(this.verify(&["--unlimited", "--table", "ballast"])?)?;
    assert_eq!((&report["rows"], &report["id"]), (&all.into(), &first["id"]), "{report:#}");
    let before = report["resumed"]["rows"].as_u64().context("it has not gone on")?;
    ensure!(before + 1000 >= done && before < all, "{before} of {done} rows: {report:#}");
    // It has come to its end: the next one reads everything.
    let report = ensure_equal(this.verify(&["--unlimited", "--table", "ballast"])?)?;
    ensure!(report["resumed"].is_null(), "{report:#}");
    clients.end()
}
