//! Progress for people: bars on a terminal, log lines elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{
    BinaryBytes, HumanCount, HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget,
    ProgressStyle,
};
use tokio::sync::watch;
use tokio::time::Instant;

use super::progress::{BackfillProgress, Phase, TableState};

/// How often a log line is written while a phase goes on.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Tables and statements shown by name.
const SHOWN: usize = 6;

/// Shows progress on standard error until the sender is dropped or everything is done.
pub async fn render(progress: watch::Receiver<BackfillProgress>) {
    if std::io::stderr().is_terminal() {
        bars(progress).await;
    } else {
        lines(progress).await;
    }
}

async fn bars(mut progress: watch::Receiver<BackfillProgress>) {
    let multi = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(5));
    // The templates are constants; a mistake in one costs the looks, not the run.
    let style = |template: &str| {
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
    };
    let total = multi.add(ProgressBar::new(0));
    total.set_style(style("{prefix:22} {wide_bar} {percent:>3}%  {msg}"));
    let details: Vec<ProgressBar> = (0..SHOWN)
        .map(|_| {
            let line = multi.add(ProgressBar::new(0));
            line.set_style(style("  {msg}"));
            line
        })
        .collect();
    loop {
        let state = progress.borrow_and_update().clone();
        let (length, position) = match state.phase {
            Phase::Copying => (state.total.bytes_estimated, state.total.bytes_copied),
            _ => (state.steps.total as u64, state.steps.done as u64),
        };
        total.set_prefix(state.phase.label());
        total.set_length(length.max(1));
        total.set_position(position);
        total.set_message(headline(&state));
        let named = names(&state);
        for (at, line) in details.iter().enumerate() {
            line.set_message(named.get(at).cloned().unwrap_or_default());
        }
        if state.phase == Phase::Done || progress.changed().await.is_err() {
            break;
        }
    }
    if multi.clear().is_err() {
        tracing::debug!("the terminal is gone");
    }
}

async fn lines(mut progress: watch::Receiver<BackfillProgress>) {
    let mut shown: Option<(Phase, Instant)> = None;
    loop {
        let state = progress.borrow_and_update().clone();
        let is_due =
            shown.is_none_or(|(phase, at)| phase != state.phase || at.elapsed() >= LOG_EVERY);
        if is_due && state.phase != Phase::Waiting {
            tracing::info!(
                phase = state.phase.label(),
                at = names(&state).join(", "),
                "{}",
                headline(&state)
            );
            shown = Some((state.phase, Instant::now()));
        }
        if state.phase == Phase::Done || progress.changed().await.is_err() {
            return;
        }
    }
}

/// The phase's numbers in a line.
fn headline(state: &BackfillProgress) -> String {
    if state.phase != Phase::Copying {
        return format!("{} of {}", state.steps.done, state.steps.total);
    }
    let total = &state.total;
    let eta = total.eta_s.map_or_else(
        || "unknown".to_owned(),
        |seconds| HumanDuration(Duration::from_secs(seconds)).to_string(),
    );
    format!(
        "{} of {} tables, {} rows, {} of about {}, {}/s, {} left",
        total.tables_copied,
        total.tables,
        HumanCount(total.rows_copied),
        BinaryBytes(total.bytes_copied),
        BinaryBytes(total.bytes_estimated),
        BinaryBytes(total.bytes_per_s),
        eta
    )
}

/// What is being worked on.
fn names(state: &BackfillProgress) -> Vec<String> {
    if state.phase != Phase::Copying {
        return state.steps.current.iter().take(SHOWN).cloned().collect();
    }
    state
        .tables
        .iter()
        .filter(|table| table.state == TableState::Copying)
        .take(SHOWN)
        .map(|table| {
            let percent = table.bytes_copied * 100 / table.bytes_estimated.max(1);
            format!("{} {percent} % ({}/s)", table.table, BinaryBytes(table.bytes_per_s))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use decoders::QualifiedName;

    use super::*;
    use crate::backfill::{TableProgress, Total};

    #[test]
    fn a_copy_is_told_in_a_line() {
        let table = TableProgress {
            table: QualifiedName::new("s", "t"),
            state: TableState::Copying,
            rows_estimated: None,
            rows_copied: 1_234,
            bytes_estimated: 2_048,
            bytes_copied: 1_024,
            bytes_per_s: 512,
            eta_s: Some(2),
        };
        let total = Total {
            tables: 1,
            rows_copied: 1_234,
            bytes_estimated: 2_048,
            bytes_copied: 1_024,
            bytes_per_s: 512,
            eta_s: Some(2),
            ..Total::default()
        };
        let tables = Arc::new(vec![table]);
        let state = BackfillProgress {
            phase: Phase::Copying,
            tables,
            total,
            ..BackfillProgress::default()
        };
        assert_eq!(
            headline(&state),
            "0 of 1 tables, 1,234 rows, 1.00 KiB of about 2.00 KiB, 512 B/s, 2 seconds left"
        );
        assert_eq!(names(&state), ["\"s\".\"t\" 50 % (512 B/s)"]);
    }
}
