//! The first copy, as the sidecar's status tells it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::Value;
use tests::api::Api;
use tests::process::Process;
use tests::wait;

use crate::COPY_DEADLINE;
use crate::story::{Story, count, megabytes};

/// Shows the copy as it goes, until the stream runs.
pub async fn copy(story: &Story, api: &Api, sidecar: &mut Process) -> Result<()> {
    let mut shown = String::new();
    let mut shown_at = Instant::now();
    wait::until("the end of the copy", COPY_DEADLINE, || {
        let step = (|| {
            if let Some(status) = sidecar.ended()? {
                bail!("the sidecar ended with {status}; it said:\n{}", sidecar.log_tail());
            }
            let Ok(status) = api.status() else { return Ok(None) };
            let phase = status["phase"].as_str().unwrap_or_default();
            if phase == "halted" {
                bail!("the sidecar stopped: {}", status["last_error"]);
            }
            let (word, line) = progress(&status);
            // A line a second is enough, and a new phase at once.
            let new_phase = !shown.starts_with(&word);
            if !word.is_empty() && (new_phase || shown_at.elapsed() >= Duration::from_secs(1)) {
                let text = format!("{word} {line}");
                if text != shown {
                    story.tell(&word, &line);
                    shown = text;
                    shown_at = Instant::now();
                }
            }
            Ok(matches!(phase, "streaming" | "catching_up").then_some(()))
        })();
        async { step }
    })
    .await
}

fn progress(status: &Value) -> (String, String) {
    let phase = status["phase"].as_str().unwrap_or_default();
    let copy = &status["backfill"];
    match phase {
        "copying" if !copy.is_null() => {
            let number = |key: &str| copy[key].as_u64().unwrap_or(0);
            let mut line = format!(
                "{}/{} tables, {} rows, {} of {}",
                number("tables_done"),
                number("tables_total"),
                count(number("rows")),
                megabytes(number("bytes")),
                megabytes(number("bytes_total"))
            );
            if let Some(eta) = copy["eta_seconds"].as_f64() {
                line.push_str(&format!(", {eta:.0} s left"));
            }
            ("copying".into(), line)
        }
        "indexing" => ("indexing".into(), copy["doing"].as_str().unwrap_or_default().to_owned()),
        "catching_up" => ("catching up".into(), lag_of(status)),
        _ => (String::new(), String::new()),
    }
}

pub fn lag_of(status: &Value) -> String {
    match status["lag"]["seconds"].as_f64() {
        Some(lag) => format!("lag {lag:.2} s"),
        None => "lag unknown".to_owned(),
    }
}
