//! `cutover verify` on a table of 10 M rows and 2 GB, PostgreSQL 15 -> 17.

pub mod checksum;
pub mod full;
pub mod load;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::bench::options::Options;
use tests::bench::pair::{BLUE, LONG, OURS, Pair};
use tests::process::Process;

/// Makes 2 GB with the primary key.
const ROWS: u64 = 10_000_000;
/// Columns of [`schema`]'s table besides the key.
const COLUMNS: [&str; 7] = ["customer", "amount", "placed", "state", "paid", "reference", "note"];
/// How long one request for the state of a verification is held open.
const WAIT: Duration = Duration::from_secs(5);

/// The types that such tables have most: numbers, a time, an id of somebody else's, a text.
fn schema(rows: u64) -> String {
    format!(
        "CREATE TABLE orders (
             id bigint, customer int NOT NULL, amount numeric(12, 2) NOT NULL,
             placed timestamptz NOT NULL, state smallint NOT NULL, paid boolean NOT NULL,
             reference uuid NOT NULL, note text);
         INSERT INTO orders
         SELECT n, n * 7919 % 1000000, (n % 1000000) / 100.0,
                timestamptz '2020-01-01 00:00Z' + n * interval '13 s', n % 10, n % 3 = 0,
                md5(n::text)::uuid, CASE WHEN n % 10 > 0 THEN repeat(md5((n * 3)::text), 3) END
         FROM generate_series(1, {rows}::bigint) n;
         ALTER TABLE orders ADD PRIMARY KEY (id)"
    )
}

/// Blue and a green that is its copy, and the sidecar that keeps it so.
pub(super) struct Copied {
    pub pair: Pair,
    pub rows: u64,
    sidecar: Process,
}

impl Copied {
    /// The table, and what `more` makes on blue.
    async fn start(
        options: &Options,
        more: impl AsyncFnOnce(&Pair) -> Result<()>,
    ) -> Result<Copied> {
        let pair = Pair::start(options).await?;
        let rows = options.scaled(ROWS);
        pair.on_blue(&schema(rows)).await.context("blue's table")?;
        more(&pair).await?;
        pair.green.create_database(OURS).await?;
        let mut sidecar = pair.start_replicator(OURS)?;
        pair.wait_status(&mut sidecar, "the first copy", LONG, |status| {
            status["phase"] == "streaming"
                && status["lag"]["seconds"].as_f64().is_some_and(|lag| lag < 1.0)
        })
        .await?;
        // Whoever reads a row first after it was written pays for its hint bits.
        pair.on_blue("VACUUM ANALYZE").await?;
        pair.green.execute(OURS, "VACUUM ANALYZE").await?;
        let size = "SELECT pg_total_relation_size('orders') / 1000000";
        eprintln!("  {rows} rows, {} MB on blue", pair.blue.value(BLUE, size).await?);
        pair.settle().await?;
        Ok(Copied { pair, rows, sidecar })
    }

    /// A verification to its end, or until it is stopped because time is up; its report.
    async fn verify_until(&mut self, request: Value, until: Instant) -> Result<Value> {
        let api = self.pair.api();
        let started = api.post("/v1/verify", &request)?;
        ensure!(started.status == 202, "{}: {}", started.status, started.body);
        loop {
            let wait = until.saturating_duration_since(Instant::now()).min(WAIT);
            let status = match wait.is_zero() {
                true => {
                    let stopped = api.post("/v1/verify/last/stop", &json!({}))?;
                    serde_json::from_str(&stopped.body).context("no status")?
                }
                false => api.json(&format!("/v1/verify/last?wait_ms={}", wait.as_millis()))?,
            };
            if status["state"] != "running" {
                ensure!(status["report"].is_object(), "{status:#}");
                return Ok(status["report"].clone());
            }
            ensure!(self.sidecar.is_running(), "{}", self.sidecar.log_tail());
        }
    }

    /// Only `orders`, only rows, in this mode; seconds.
    async fn verify_orders(&mut self, mode: &str) -> Result<f64> {
        let request =
            json!({ "mode": mode, "tables": ["public.orders"], "rows_only": true, "fresh": true });
        let began = Instant::now();
        let report = self.verify_until(request, began + LONG).await?;
        let seconds = began.elapsed().as_secs_f64();
        ensure!(report["verdict"] == "equal", "{report:#}");
        ensure!(report["rows"].as_u64() == Some(self.rows), "{report:#}");
        Ok(seconds)
    }
}
