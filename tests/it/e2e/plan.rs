//! What `cutover plan` says: what a run would be refused for, whom it would cut, and the statements that it
//! then executes.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::postgres::connect_url;
use tests::stage::{APP, DATABASE, Stage};
use tests::wait;

use super::{Move, SOON};

const TABLES: &str = "
    CREATE TABLE rewritten (id int PRIMARY KEY, s text);
    INSERT INTO rewritten SELECT n, 'ROW ' || n FROM generate_series(1, 100) n";

/// Plans until one says so.
async fn wait_planned(this: &Move, what: &str, said: impl Fn(i32, &str) -> bool) -> Result<String> {
    let mut last = String::new();
    let what = format!("a plan with {what}");
    let found = wait::until(&what, SOON, || {
        let plan = this.stage.cutover(&["plan"], SOON).map(|plan| {
            last = format!("{}: {}{}", plan.code(), plan.stdout, plan.stderr);
            said(plan.code(), &plan.stdout).then_some(plan.stdout)
        });
        async { plan }
    });
    let found = found.await;
    found.with_context(|| last.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_gate_does_not_pass_is_not_ready_in_the_same_words() -> Result<()> {
    let mut this = Move::streaming_with(Stage::builder(15, 17), TABLES).await?;
    wait_planned(&this, "nothing in the way", |code, said| code == 0 && said.ends_with(" ready\n"))
        .await?;
    let rewrite = "ALTER TABLE rewritten ALTER COLUMN s TYPE text USING upper(s)";
    this.stage.blue.execute(DATABASE, rewrite).await?;
    let planned = wait_planned(&this, "an unproven table", |code, said| {
        code == 3 && said.contains("rows of \"public\".\"rewritten\" may differ")
    });
    let planned = planned.await?;
    ensure!(planned.contains("FAIL replication"), "{planned}");
    ensure!(planned.ends_with(" not ready: nothing was touched\n"), "{planned}");
    let refused = this.stage.cutover(&["--when-lag", "<1s", "--yes"], SOON)?;
    ensure!(refused.code() == 3, "{}: {}", refused.code(), refused.stderr);

    // The gate itself, asked past the command.
    let request = serde_json::json!({
        "when_lag": "<1s", "confirmation": "--yes", "gate_timeout_ms": 15_000
    });
    let started = this.stage.api().post("/v1/cutover", &request)?;
    ensure!(started.status == 202, "{}: {}", started.status, started.body);
    let over = this.stage.wait_status(&mut this.sidecar, "the run to be over", SOON, |status| {
        status["cutover"]["report"].is_object()
    });
    let report = over.await?["cutover"]["report"].clone();
    assert_eq!(report["outcome"], "gate_timeout", "{report}");
    let waited = report["error"]["what"].as_str().unwrap_or_default();
    let line = planned.lines().find(|line| line.contains("FAIL replication"));
    let said = line.and_then(|line| line.split_once("replication")).context("no line")?.1.trim();
    ensure!(waited.contains(said), "the plan said {said:?}, the gate waited for {waited:?}");

    let verified =
        this.stage.cutover(&["verify", "--unlimited", "--table", "rewritten"], 2 * SOON)?;
    ensure!(verified.code() == 0, "{}{}", verified.stdout, verified.stderr);
    wait_planned(&this, "nothing in the way again", |code, said| {
        code == 0 && said.ends_with(" ready\n")
    })
    .await?;
    this.more(20).await
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_the_fence_would_cut_are_named_without_their_values() -> Result<()> {
    let this = Move::streaming_with(Stage::builder(15, 17), TABLES).await?;
    let reader = connect_url(&this.stage.blue.url_as(APP, DATABASE)).await?;
    reader
        .batch_execute(
            "SET application_name = 'monthly report'; BEGIN; \
             SELECT count(*) FROM rewritten WHERE s = 'a secret value'",
        )
        .await?;
    let pid: i32 = reader.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    let named = format!("pid {pid} of role {APP} (monthly report) in database {DATABASE} for ");
    let said = wait_planned(&this, "the reader", |_, said| said.contains(&named)).await?;
    for part in
        ["WARN long-sessions", "blue: pid", "AccessShareLock on public.rewritten", "idle in"]
    {
        ensure!(said.contains(part), "{part} is missing in {said}");
    }
    ensure!(said.contains("it has written nothing"), "{said}");
    ensure!(!said.contains("secret"), "{said}");
    reader.batch_execute("COMMIT").await.context("a plan ends nobody")
}

/// One statement of a server's log in a line.
fn statements(log: &Path, from: usize) -> Result<Vec<String>> {
    let bytes = std::fs::read(log)?;
    let text = String::from_utf8_lossy(&bytes[from..]).into_owned();
    let mut found: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in text.lines() {
        if let Some(more) = line.strip_prefix('\t').filter(|_| goes_on) {
            if let Some(statement) = found.last_mut() {
                statement.push(' ');
                statement.push_str(more);
            }
            continue;
        }
        let statement = line.split_once("LOG:  statement: ").map(|(_, sql)| sql).or_else(|| {
            let (_, execute) = line.split_once("LOG:  execute ")?;
            execute.split_once(": ").map(|(_, sql)| sql)
        });
        goes_on = statement.is_some();
        found.extend(statement.map(str::to_owned));
    }
    Ok(found.iter().map(|sql| plain(sql)).collect())
}

fn plain(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is known of a statement before it runs: all between its placeholders.
fn pieces(text: &str) -> Vec<String> {
    let mut text = plain(text);
    for name in ["RUN.EPOCH", "'now'", "<end of the marker>", "SELECT NULL::integer"] {
        text = text.replace(name, "\0");
    }
    let mut pieces: Vec<String> = Vec::new();
    for part in text.split('\0') {
        // `..words..` and `...` stand for something.
        let kept = part.split("..").enumerate().filter(|(at, _)| at % 2 == 0);
        pieces.extend(kept.map(|(_, piece)| piece.trim_matches('.').to_owned()));
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// The end of the first place at or behind `from` where all pieces are in one statement, in order.
fn find(log: &[String], from: (usize, usize), pieces: &[String]) -> Option<(usize, usize)> {
    (from.0..log.len()).find_map(|line| {
        let mut at = if line == from.0 { from.1 } else { 0 };
        for piece in pieces {
            at += log[line].get(at..)?.find(piece.as_str())? + piece.len();
        }
        Some((line, at))
    })
}

/// Every statement of the plan's fence and flip was executed on the server that it names, in that order.
fn ensure_executed(plan: &Value, side: &str, log: &[String]) -> Result<()> {
    const STEPS: [&str; 5] = ["fence", "drain", "seal", "commit", "flip"];
    let acts = plan["acts"].as_array().context("no acts")?;
    let text = |act: &Value, name: &str| act[name].as_str().unwrap_or_default().to_owned();
    let mut at = (0, 0);
    let mut seen = 0;
    for act in acts.iter().filter(|act| act["where"] == side) {
        let (step, sql) = (text(act, "step"), text(act, "text"));
        let is_sql = sql.starts_with(|c: char| c.is_ascii_uppercase());
        if !STEPS.contains(&step.as_str()) || !is_sql {
            continue;
        }
        at = find(log, at, &pieces(&sql)).with_context(|| {
            let last = log.get(at.0).map_or("", String::as_str);
            format!("{side} has not executed this of {step}:\n{sql}\nafter:\n{last}")
        })?;
        seen += 1;
    }
    ensure!(seen > 0, "the plan has no statement for {side}");
    // Both markers are on the side that closes.
    let has = |step: &str| {
        let marker = format!("RUN.EPOCH.{step}");
        acts.iter().any(|act| act["step"] == step && text(act, "text").contains(&marker))
    };
    ensure!(has("drain") && has("seal"), "a marker is missing in {acts:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_execute_what_the_plan_lists_in_its_order() -> Result<()> {
    let builder = Stage::builder(15, 17)
        .blue_setting("log_statement", "all")
        .green_setting("log_statement", "all");
    let mut this = Move::streaming_with(builder, TABLES).await?;
    for command in [&["--when-lag", "<1s", "--yes"][..], &["rollback", "--yes"]] {
        let plan = wait_planned(&this, "a way", |code, _| code == 0).await;
        plan.with_context(|| format!("before {command:?}"))?;
        let plan = this.stage.api().post("/v1/plan", &serde_json::json!({}))?;
        let plan: Value = serde_json::from_str(&plan.body).context(plan.body)?;
        let logs = [this.stage.blue.log_path(), this.stage.green.log_path()];
        let from = logs.each_ref().map(|log| std::fs::metadata(log).map_or(0, |meta| meta.len()));
        let ended = this.stage.cutover(&[command, &["--max-pause", "30s"]].concat(), 2 * SOON)?;
        ensure!(ended.code() == 0, "{}: {}", ended.code(), ended.stderr);
        for ((side, log), from) in ["blue", "green"].into_iter().zip(&logs).zip(from) {
            let log = statements(log, from as usize)?;
            ensure_executed(&plan, side, &log).with_context(|| format!("{command:?}"))?;
        }
        this.more(20).await?;
    }
    this.ledger.stop()?;
    this.ledger.check(&this.stage.blue.url(DATABASE)).await?.ensure_exact()
}
