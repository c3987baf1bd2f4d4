//! The rules file at a real Prometheus, with an Alertmanager behind it: every rule fires, and is over again.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::exposition::{Exposition, Sample};
use tests::monitoring::{Monitoring, Target};
use tests::ports::Port;
use tests::process::Process;
use tests::stage::{DATABASE, Stage};
use tests::wait;

use super::SOON;
use super::alerts::Receiver;

const RULES: &str = include_str!("../../../replicator/alerts/cutover.rules.yml");

/// The sidecar's pipeline, and the one whose samples are chosen.
const CHOSEN: &str = "chosen";

/// The rules whose cause is made with servers.
const REAL: [&str; 11] = [
    "CutoverReplicationHalted",
    "CutoverCopyRestarted",
    "CutoverLagHigh",
    "CutoverSlotRetention",
    "CutoverSlotRetained",
    "CutoverVerifyDifferences",
    "CutoverProofLost",
    "CutoverProxyGone",
    "CutoverAuditBroken",
    "CutoverAlertUndelivered",
    "CutoverExporterAbsent",
];

/// The others: samples that a sidecar would show, by series without the label of the pipeline.
const SAMPLES: [(&str, &str, Sample); 22] = [
    ("CutoverLagCritical", "cutover_lag_seconds{direction=\"forward\"}", Sample::Is(60.0)),
    ("CutoverLagUnknown", "cutover_lag_known{direction=\"forward\"}", Sample::Is(0.0)),
    (
        "CutoverSlotGrowing",
        "cutover_slot_retained_bytes{direction=\"forward\"}",
        Sample::Grows { from: 0.0, by: 1e5 },
    ),
    (
        "CutoverSlotFilling",
        "cutover_slot_fill_estimate_seconds{direction=\"forward\"}",
        Sample::Is(600.0),
    ),
    (
        "CutoverBinlogExpiring",
        "cutover_position_age_seconds{direction=\"forward\"}",
        Sample::Is(600.0),
    ),
    (
        "CutoverBinlogExpiring",
        "cutover_binlog_expire_seconds{direction=\"forward\"}",
        Sample::Is(1000.0),
    ),
    ("CutoverCopyStalled", "cutover_copy_idle_seconds", Sample::Is(700.0)),
    ("CutoverStateDirFull", "cutover_state_dir_free_bytes", Sample::Is(1000.0)),
    ("CutoverWayBackLagging", "cutover_lag_seconds{direction=\"back\"}", Sample::Is(60.0)),
    ("CutoverWayBackLagging", "cutover_stream_carries{direction=\"back\"}", Sample::Is(1.0)),
    ("CutoverWayBackBroken", "cutover_way_back_broken", Sample::Is(1.0)),
    ("CutoverWatchBreach", "cutover_watch_breached", Sample::Is(1.0)),
    ("CutoverWatchInconclusive", "cutover_watch_monitors{state=\"inconclusive\"}", Sample::Is(1.0)),
    ("CutoverRolledBack", "cutover_watch_rolled_back", Sample::Is(1.0)),
    ("CutoverRollbackFailed", "cutover_watch_rollback_failed", Sample::Is(1.0)),
    ("CutoverHeld", "cutover_state{state=\"held\"}", Sample::Is(1.0)),
    ("CutoverTriggersOff", "cutover_triggers_off", Sample::Is(1.0)),
    ("CutoverRouterUnverified", "cutover_routers_unverified", Sample::Is(2.0)),
    (
        "CutoverLagRising",
        "cutover_lag_bytes{direction=\"forward\"}",
        Sample::Grows { from: 2e8, by: 1e6 },
    ),
    (
        "CutoverFenceLeak",
        "cutover_fence_leaks_total{direction=\"forward\"}",
        Sample::Grows { from: 0.0, by: 1.0 },
    ),
    ("CutoverSlotGrowing", "cutover_stream_carries{direction=\"forward\"}", Sample::Is(1.0)),
    ("CutoverLagUnknown", "cutover_state{state=\"streaming\"}", Sample::Is(1.0)),
];

/// The copy halts at `fine`.
const TABLES: &str = "
    CREATE FUNCTION is_fine(int) RETURNS bool LANGUAGE sql AS 'SELECT true';
    CREATE TABLE fine (id int PRIMARY KEY CHECK (public.is_fine(id)));
    INSERT INTO fine VALUES (1);
    CREATE OR REPLACE FUNCTION is_fine(int) RETURNS bool LANGUAGE sql AS 'SELECT false';
    CREATE TABLE filler (id bigserial PRIMARY KEY, v text);
    INSERT INTO filler (v) VALUES ('first')";

/// Every `for` is a second, and what is looked at over minutes is looked at over seconds; nothing else differs.
fn hurried() -> Result<String> {
    let hurry = |line: &str| match line.split_once(": ") {
        Some((key, _)) if ["for", "keep_firing_for"].contains(&key.trim()) => {
            format!("{key}: 1s\n")
        }
        _ => format!("{}\n", line.replace("[10m]", "[30s]").replace("[1m]", "[10s]")),
    };
    let rules: String = RULES.lines().map(hurry).collect();
    ensure!(!rules.contains("m]"), "a range of minutes is left:\n{rules}");
    Ok(rules)
}

fn rules() -> impl Iterator<Item = &'static str> {
    RULES.lines().filter_map(|line| line.trim_start().strip_prefix("- alert: "))
}

/// The same series with the label of its pipeline.
fn of_chosen(series: &str) -> String {
    let pipeline = format!("pipeline=\"{CHOSEN}\"");
    match series.split_once('{') {
        Some((name, labels)) => format!("{name}{{{pipeline},{labels}"),
        None => format!("{series}{{{pipeline}}}"),
    }
}

/// What has come through Alertmanager.
struct Heard {
    receiver: Receiver,
    monitoring: Monitoring,
}

impl Heard {
    fn is_told(&self, alert: &str, pipeline: &str, status: &str) -> bool {
        let is_it = |told: &Value| {
            told["status"] == status
                && told["labels"]["alertname"] == alert
                && told["labels"]["pipeline"] == pipeline
        };
        let any =
            |body: &Value| body["alerts"].as_array().is_some_and(|told| told.iter().any(is_it));
        self.receiver.count(|path, body| path == "/alerts" && any(body)) > 0
    }

    async fn wait(&self, pipeline: &str, status: &str, alerts: &[&str]) -> Result<()> {
        let missing = || -> Vec<&str> {
            let told = |alert: &&&str| !self.is_told(alert, pipeline, status);
            alerts.iter().filter(told).copied().collect()
        };
        let what = format!("{alerts:?} to be {status}");
        let waited = wait::until(&what, SOON, || async { Ok(missing().is_empty().then_some(())) });
        waited.await.with_context(|| {
            let known = self.monitoring.alerts().unwrap_or_default();
            format!("{:?} of {pipeline}: {known}\n{}", missing(), self.monitoring.log_tail())
        })
    }

    async fn fires(&self, alerts: &[&str]) -> Result<()> {
        self.wait(DATABASE, "firing", alerts).await
    }

    async fn is_over(&self, alerts: &[&str]) -> Result<()> {
        self.wait(DATABASE, "resolved", alerts).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_of_the_file_fires_and_is_over_again() -> Result<()> {
    let down = Port::reserve()?;
    let down = format!("127.0.0.1:{}", down.number());
    let config = format!(
        "[halt]\nretry_first_s = 1\n[protect]\nretained_wal_warn_bytes = 16_000_000\n\
         [alerts.webhook]\nurl = 'http://{down}/hook'"
    );
    let builder = Stage::builder(15, 17).embedded().config(&config);
    let stage = builder.blue_setting("max_slot_wal_keep_size", "128MB").start().await?;
    stage.create_marker().await?;
    stage.on_blue(TABLES).await?;
    let mut sidecar = stage.replicator()?;

    // A copy that halts: what it shows is all that the samples are chosen from.
    let halted = |status: &Value| status["phase"] == "halted";
    stage.wait_status(&mut sidecar, "the copy to halt", SOON, halted).await?;
    let chosen = Exposition::start(&stage.api().get("/metrics")?.body, DATABASE, CHOSEN)?;
    let token_file = Some(stage.state_dir().join(tests::api::TOKEN));
    let targets = [
        Target { address: stage.api().base_url().replace("http://", ""), token_file },
        Target { address: chosen.address.clone(), token_file: None },
    ];
    for (_, series, sample) in SAMPLES {
        chosen.choose(&of_chosen(series), sample)?;
    }
    let receiver = Receiver::start()?;
    let hook = format!("http://{}/alerts", receiver.address);
    let monitoring = Monitoring::start(&hurried()?, &targets, &hook)?;
    let heard = Heard { receiver, monitoring };

    heard.fires(&["CutoverReplicationHalted", "CutoverAlertUndelivered"]).await?;
    begin_again(&stage, &mut sidecar).await?;
    heard.fires(&["CutoverCopyRestarted"]).await?;
    heard.is_over(&["CutoverReplicationHalted"]).await?;
    fall_behind(&stage, &heard).await?;
    differ(&stage, &heard).await?;
    let mut by_samples: Vec<&str> = SAMPLES.iter().map(|(alert, ..)| *alert).collect();
    by_samples.sort_unstable();
    by_samples.dedup();
    heard.wait(CHOSEN, "firing", &by_samples).await?;
    chosen.forget();

    stage.embedded.as_ref().context("no proxy")?.kill9()?;
    heard.fires(&["CutoverProxyGone"]).await?;
    let audit = stage.state_dir().join("audit.jsonl");
    swap(&audit, "POST /v1/verify", "GET /v1/verify")?;
    stage.cutover(&["audit", "--verify"], SOON)?;
    heard.fires(&["CutoverAuditBroken"]).await?;

    // Nothing of what it could not be told is lost to a receiver that was down, nor comes in another order.
    let late = Receiver::start_at(&down)?;
    sidecar.terminate()?;
    ensure!(sidecar.wait(SOON)?.success(), "{}", sidecar.log_tail());
    let told = |alert: &str, status: &str| {
        late.count(|_, body| body["alert"] == alert && body["status"] == status)
    };
    let first = late.posted_to("/hook").into_iter().next().context("nothing came")?;
    assert_eq!((&first["alert"], &first["status"]), (&REAL[0].into(), &"firing".into()));
    for alert in ["CutoverReplicationHalted", "CutoverVerifyDifferences", "CutoverProofLost"] {
        let [firing, resolved] = ["firing", "resolved"].map(|status| told(alert, status));
        ensure!(firing > 0 && firing == resolved, "{alert}: {firing}, {resolved}");
    }
    assert_eq!(told("CutoverAuditBroken", "firing"), 1);
    heard.fires(&["CutoverExporterAbsent"]).await?;
    swap(&audit, "GET /v1/verify", "POST /v1/verify")?;
    let mut sidecar = stage.replicator()?;
    stage.wait_streaming(&mut sidecar, 1.0, SOON).await?;
    heard.is_over(&["CutoverExporterAbsent", "CutoverAuditBroken", "CutoverProxyGone"]).await?;
    heard.is_over(&["CutoverCopyRestarted", "CutoverAlertUndelivered"]).await?;
    heard.wait(CHOSEN, "resolved", &by_samples).await?;

    let seen = |alert: &&str| {
        ["firing", "resolved"].iter().all(|status| {
            [DATABASE, CHOSEN].iter().any(|pipeline| heard.is_told(alert, pipeline, status))
        })
    };
    let unseen: Vec<&str> = rules().filter(|alert| !seen(alert)).collect();
    ensure!(unseen.is_empty(), "not seen to fire and to be over: {unseen:?}");
    let known = REAL.iter().chain(&by_samples).filter(|alert| rules().any(|rule| rule == **alert));
    assert_eq!(known.count(), rules().count(), "each rule by servers or by samples");
    Ok(())
}

/// Changes a file by hand.
fn swap(file: &Path, from: &str, to: &str) -> Result<()> {
    let text = std::fs::read_to_string(file)?;
    ensure!(text.contains(from), "{from} is not in {}: {text}", file.display());
    Ok(std::fs::write(file, text.replacen(from, to, 1))?)
}

/// The copy begins again, and comes to its end.
async fn begin_again(stage: &Stage, sidecar: &mut Process) -> Result<()> {
    let allow =
        "CREATE OR REPLACE FUNCTION is_fine(int) RETURNS bool LANGUAGE sql AS 'SELECT true'";
    stage.green.execute(DATABASE, allow).await?;
    stage.cutover(&["retry"], SOON)?.success()?;
    stage.wait_streaming(sidecar, 1.0, SOON).await?;
    // Blue's schema may not change while it is copied.
    stage.blue.execute(DATABASE, allow).await
}

/// Green is locked while blue writes more than half of what a slot may retain.
async fn fall_behind(stage: &Stage, heard: &Heard) -> Result<()> {
    let alerts = ["CutoverLagHigh", "CutoverSlotRetained", "CutoverSlotRetention"];
    let holder = stage.green.connect(DATABASE).await?;
    holder.batch_execute("BEGIN; LOCK TABLE filler IN ACCESS EXCLUSIVE MODE").await?;
    let fill =
        "INSERT INTO filler (v) SELECT repeat(md5(n::text), 30) FROM generate_series(1, 80000) n";
    stage.on_blue(fill).await?;
    heard.fires(&alerts).await?;
    holder.batch_execute("ROLLBACK").await?;
    stage.wait_caught_up(SOON).await?;
    // A checkpoint of blue logs what its slots may let go of.
    wait::until("the slot to move", SOON, || async {
        stage.blue.execute(DATABASE, "CHECKPOINT").await?;
        let kept = "SELECT pg_current_wal_lsn() - restart_lsn < 8000000 FROM pg_replication_slots";
        let moved = stage.blue.value(DATABASE, kept).await? == "t";
        Ok(moved.then_some(()))
    })
    .await?;
    heard.is_over(&alerts).await
}

/// A row differs and is repaired; and a proof that goes on ends with a column that nobody has compared.
async fn differ(stage: &Stage, heard: &Heard) -> Result<()> {
    stage.green.execute(DATABASE, "UPDATE filler SET v = 'damaged' WHERE id = 1").await?;
    let verify = ["verify", "--table", "filler"];
    ensure!(stage.cutover(&verify, 2 * SOON)?.code() != 0, "no difference");
    heard.fires(&["CutoverVerifyDifferences"]).await?;
    stage.cutover(&["repair", "--yes"], 2 * SOON)?.success()?;
    stage.cutover(&["verify", "--continuous"], 2 * SOON)?.success()?;
    heard.is_over(&["CutoverVerifyDifferences"]).await?;
    let alter = "ALTER TABLE fine ADD more int";
    stage.green.execute(DATABASE, alter).await?;
    stage.blue.execute(DATABASE, alter).await?;
    stage.blue.execute(DATABASE, "UPDATE fine SET more = 1").await?;
    heard.fires(&["CutoverProofLost"]).await?;
    stage.cutover(&["verify", "--stop"], SOON)?.success()?;
    heard.is_over(&["CutoverProofLost"]).await
}
