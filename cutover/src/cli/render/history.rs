//! The runs so far.

use crate::api::{History, Outcome};
use crate::side::Direction;

use super::{Paint, units};

/// One line a run, newest first.
pub fn render_history(history: &History, paint: Paint) -> String {
    if history.runs.is_empty() {
        return "no run yet\n".into();
    }
    let mut text = String::new();
    for run in &history.runs {
        let how = match run.outcome {
            Some(outcome) => outcome.name(),
            None => run.phase.name(),
        };
        let how = format!("{how:<15}");
        let how = match run.outcome {
            Some(Outcome::Completed | Outcome::RolledBack) => paint.good(&how),
            Some(Outcome::Held) => paint.bad(&how),
            Some(_) => paint.warn(&how),
            None => paint.bold(&how),
        };
        let what = match run.direction {
            Direction::Forward => "cutover",
            Direction::Back => "rollback",
        };
        let pause = match (run.pause_ms, run.ended) {
            (Some(pause), _) => format!("pause {}", units::ms(pause)),
            (None, Some(_)) => "no pause".into(),
            (None, None) => "not over".into(),
        };
        text.push_str(&format!(
            "{}  run {}  epoch {:<3}  {what:<8}  {how}  {pause:<14}  {}",
            units::date(run.started),
            run.run,
            run.epoch,
            run.actor.as_deref().unwrap_or("-"),
        ));
        if let Some(reason) = &run.reason {
            text.push_str(&format!("  \"{reason}\""));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{HistoryItem, SCHEMA_VERSION};
    use crate::phase::Phase;

    #[test]
    fn a_run_is_a_line() {
        let mut history = History { schema_version: SCHEMA_VERSION, runs: Vec::new() };
        assert_eq!(render_history(&history, Paint::none()), "no run yet\n");
        history.runs.push(HistoryItem {
            run: "7f3a".into(),
            epoch: 42,
            direction: crate::Direction::Forward,
            started: "2026-11-21T12:00:04.118Z".parse().unwrap(),
            ended: Some("2026-11-21T12:00:05Z".parse().unwrap()),
            actor: Some("ada".into()),
            reason: Some("move to 17".into()),
            phase: Phase::Done,
            outcome: Some(Outcome::Completed),
            pause_ms: Some(59.7),
        });
        assert_eq!(
            render_history(&history, Paint::none()),
            "2026-11-21 12:00:04 UTC  run 7f3a  epoch 42   cutover   completed        pause 59.7 ms   ada  \
             \"move to 17\"\n"
        );
    }
}
