//! What is written down: the audit log and the reports.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::postgres::connect_url;
use tests::stage::{APP, DATABASE, Stage};
use tests::wait;

use super::{Move, SOON};

fn lines(stage: &Stage) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(stage.state_dir().join("audit.jsonl"))?;
    text.lines().map(|line| serde_json::from_str(line).context("a line that is no JSON")).collect()
}

fn ensure_verified(stage: &Stage) -> Result<()> {
    let seen = stage.cutover(&["audit", "--verify"], SOON)?;
    ensure!(seen.code() == 0, "{}: {}\n{}", seen.code(), seen.stdout, seen.stderr);
    ensure!(seen.stdout.contains("prove each other"), "{}", seen.stdout);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_acts_are_in_the_log_and_tampering_is_told() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(15, 17)).await?;
    let refused = json!({ "when_lag": "<1s", "actor": "mallory", "confirmation": "wrong" });
    let refused = this.stage.api().post("/v1/cutover", &refused)?;
    ensure!(refused.status == 400, "{}: {}", refused.status, refused.body);
    let go = ["--when-lag", "<1s", "--yes", "--actor", "ann", "--reason", "größer"];
    let finished = this.stage.cutover(&go, 2 * SOON)?;
    ensure!(finished.code() == 0, "{}\n{}", finished.stderr, this.sidecar.log_tail());
    this.more(20).await?;

    let log = lines(&this.stage)?;
    let has = |kind: &str, what: &str| {
        let found = log.iter().find(|line| {
            line["kind"] == kind && line["what"].as_str().is_some_and(|text| text.contains(what))
        });
        found.with_context(|| format!("no {kind} {what} in {log:#?}"))
    };
    assert_eq!((&log[0]["kind"], &log[1]["kind"]), (&json!("keyed"), &json!("opened")));
    for (answer, claim) in [("POST /v1/cutover: 400", "mallory"), ("POST /v1/cutover: 202", "ann")]
    {
        let answer = has("answer", answer)?;
        assert_eq!((&answer["actor"], &answer["said_by"]), (&json!("token:local"), &json!(claim)));
        let peer = answer["peer"].as_str().context("no peer")?;
        ensure!(peer.starts_with("127.0.0.1:"), "{peer}");
    }
    let began = has("began", "a run")?;
    assert_eq!((&began["actor"], &began["said_by"]), (&json!("token:local"), &json!("ann")));
    assert_eq!(began["detail"]["reason"], "größer");
    for (phase, next) in [("gate", "hold_traffic"), ("sealed", "decide"), ("committed", "flip")] {
        has("reached", &format!("{phase}; next: {next}"))?;
    }
    ensure!(has("ended", "completed; green serves")?["run"] == began["run"]);
    ensure_verified(&this.stage)?;
    let shown = this.stage.cutover(&["audit", "--last", "200"], SOON)?;
    ensure!(
        shown.stdout.contains("by token:local  said by ann") && shown.stdout.contains("größer"),
        "{}",
        shown.stdout
    );

    // Power is lost while a line is written.
    this.sidecar.kill9()?;
    let file = this.stage.state_dir().join("audit.jsonl");
    let mut bytes = std::fs::read(&file)?;
    bytes.extend(br#"{"number":99,"at":"2026-"#);
    std::fs::write(&file, &bytes)?;
    this.restart_sidecar()?;
    wait::until("the sidecar to answer", SOON, || async {
        Ok(this.stage.api().get("/livez").ok().filter(|answer| answer.status == 200))
    })
    .await?;
    wait::until("the torn line to be put aside", SOON, || async {
        Ok(lines(&this.stage).ok().filter(|log| log.iter().any(|l| l["kind"] == "repaired")))
    })
    .await?;
    ensure_verified(&this.stage)?;
    let aside = std::fs::read_dir(this.stage.state_dir())?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("audit.jsonl.torn-"));
    assert_eq!(aside.count(), 1);

    // Somebody makes it say another name.
    let text = String::from_utf8(std::fs::read(&file)?)?;
    let forged = this.stage.path().join("forged.jsonl");
    std::fs::write(&forged, text.replacen("\"mallory\"", "\"ann\"", 1))?;
    let forged = forged.display().to_string();
    let key = this.stage.state_dir().join("audit.key").display().to_string();
    let file = ["audit", "--verify", "--file", &forged, "--key-file", &key];
    let told = this.stage.cutover(&file, SOON)?;
    ensure!(told.code() == 9, "{}: {}", told.code(), told.stdout);
    ensure!(told.stderr.contains("its hash is not that of its text"), "{}", told.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_is_there_after_the_run_and_after_a_restart() -> Result<()> {
    let mut this = Move::streaming(Stage::builder(14, 17)).await?;
    let none = this.stage.cutover(&["report"], SOON)?;
    ensure!(none.code() == 1 && none.stderr.contains("no run has ended"), "{}", none.stderr);
    let go = ["--when-lag", "<1s", "--yes", "--actor", "ann"];
    let finished = this.stage.cutover(&go, 2 * SOON)?;
    ensure!(finished.code() == 0, "{}\n{}", finished.stderr, this.sidecar.log_tail());
    let report = this.stage.api().status()?["cutover"]["report"].clone();
    let run = report["run"].as_str().context("no run in the report")?.to_owned();

    this.sidecar.kill9()?;
    // The file is written beside the run's end: one that is missing comes back with the next start.
    let reports = this.stage.state_dir().join("reports");
    let file = |end: &str| reports.join(format!("{run}.{end}"));
    if file("md").exists() {
        std::fs::remove_file(file("md"))?;
    }
    this.restart_sidecar()?;
    wait::until("the report's file", SOON, || async {
        Ok((file("md").exists() && this.stage.api().status().is_ok()).then_some(()))
    })
    .await?;
    let text = this.stage.cutover(&["report", &run], SOON)?;
    ensure!(text.code() == 0, "{}", text.stderr);
    for part in
        ["# Cutover", "## Timeline", "## The pause by step", "## Proof", "## Routers", "ann"]
    {
        ensure!(text.stdout.contains(part), "{part}:\n{}", text.stdout);
    }
    assert_eq!(std::fs::read_to_string(file("md"))?, text.stdout);
    let by_epoch = report["epoch"].to_string();
    for which in ["last", &by_epoch] {
        let json = this.stage.cutover(&["report", which, "--format", "json"], SOON)?;
        let json: Value = serde_json::from_str(&json.stdout).context("no JSON")?;
        assert_eq!(json, report);
    }
    let written: Value = serde_json::from_slice(&std::fs::read(file("json"))?)?;
    assert_eq!(written, report);
    Ok(())
}

/// What a run that was killed had done, and what became of it, is in the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_killed_is_in_the_log_to_its_end() -> Result<()> {
    let held = "CREATE TABLE held (id int PRIMARY KEY)";
    let mut this = Move::streaming_with(Stage::builder(13, 16), held).await?;
    // Keeps the run at its gate.
    let writer = connect_url(&this.stage.blue.url_as(APP, DATABASE)).await?;
    writer.batch_execute("BEGIN; INSERT INTO held VALUES (1)").await?;
    let request = json!({ "when_lag": "<1s", "confirmation": "--yes", "actor": "ann" });
    let started = this.stage.api().post("/v1/cutover", &request)?;
    ensure!(started.status == 202, "{}: {}", started.status, started.body);
    this.stage
        .wait_status(&mut this.sidecar, "a run at its gate", SOON, |status| {
            status["cutover"]["phase"] == "armed"
        })
        .await?;
    this.sidecar.kill9()?;
    writer.batch_execute("COMMIT").await?;
    this.restart_sidecar()?;
    this.wait_streaming().await?;
    let log = lines(&this.stage)?;
    let kinds: Vec<_> =
        log.iter().filter(|line| line["epoch"] == 1).filter_map(|l| l["kind"].as_str()).collect();
    for kind in ["began", "reached", "ended"] {
        ensure!(kinds.contains(&kind), "no {kind}: {log:#?}");
    }
    ensure_verified(&this.stage)?;
    let report = this.stage.cutover(&["report", "--json"], SOON)?;
    let report: Value = serde_json::from_str(&report.stdout).context("no JSON")?;
    assert_eq!(report["outcome"], "aborted", "{report}");
    this.more(20).await?;
    this.ensure_exact_copy().await?.ensure_unnoticed()
}
