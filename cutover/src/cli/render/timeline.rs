//! The lines of a run while it goes.

use std::time::Duration;

use jiff::Timestamp;

use crate::api::{RunEventKind, Step, Stepped};

use super::{Paint, units};

/// Cells of the bar that shows how long the gate has held.
const BAR_CELLS: usize = 8;

/// The gate's line; `None` for any other event.
pub fn render_gate(event: &RunEventKind, paint: Paint) -> Option<String> {
    let RunEventKind::Gate {
        lag_seconds,
        condition,
        held_seconds,
        needed_seconds,
        waiting_for,
        transactions_per_second,
        drain_estimate_ms,
    } = event
    else {
        return None;
    };
    let lag = match lag_seconds {
        Some(seconds) => format!("{seconds:.2}s"),
        None => paint.warn("unknown"),
    };
    let part = if *needed_seconds > 0.0 { held_seconds / needed_seconds } else { 1.0 };
    // The cast saturates: whatever the numbers are, the bar has its length.
    let full = ((part * BAR_CELLS as f64) as usize).min(BAR_CELLS);
    let bar = format!("{}{}", "#".repeat(full), "-".repeat(BAR_CELLS - full));
    let mut line = format!(
        " gate   lag {lag}, needs {condition}  [{bar}] {held_seconds:.1}/{needed_seconds:.1}s"
    );
    if let Some(rate) = transactions_per_second {
        line.push_str(&format!("   rate {} tx/s", units::rate(*rate)));
    }
    if let Some(estimate) = drain_estimate_ms {
        line.push_str(&format!("   drain ~{estimate:.0} ms"));
    }
    if let Some(reason) = waiting_for {
        line.push_str(&format!("   waits: {}", paint.warn(reason)));
    }
    Some(line)
}

/// A step's line: when it ended, how long after the begin of the pause, what was seen.
pub fn render_step(stepped: &Stepped, paint: Paint) -> String {
    let offset = match stepped.offset_ms {
        Some(offset) => format!("+{offset:.1}ms"),
        None => String::new(),
    };
    let name = match stepped.step {
        Step::Commit if stepped.ok => "COMMIT",
        step => step.name(),
    };
    let name = format!("{name:<8}");
    let name = if stepped.ok { paint.bold(&name) } else { paint.bad(&name) };
    let failed = if stepped.ok { "" } else { "FAILED: " };
    let at = units::clock(end(stepped));
    format!(" {at}  {offset:<10} {name} {failed}{}", stepped.summary)
}

fn end(stepped: &Stepped) -> Timestamp {
    let took = Duration::try_from_secs_f64(stepped.ms / 1000.0).unwrap_or_default();
    stepped.start.checked_add(took).unwrap_or(stepped.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: Step, offset_ms: Option<f64>, ok: bool) -> Stepped {
        Stepped {
            step,
            start: "2026-11-21T12:00:04.118Z".parse().unwrap(),
            ms: 34.1,
            offset_ms,
            ok,
            summary: "14 sessions closed".into(),
        }
    }

    #[test]
    fn a_step_shows_its_end() {
        assert_eq!(
            render_step(&step(Step::Fence, Some(34.1), true), Paint::none()),
            " 12:00:04.152  +34.1ms    fence    14 sessions closed"
        );
        assert_eq!(
            render_step(&step(Step::Arm, None, true), Paint::none()),
            " 12:00:04.152             arm      14 sessions closed"
        );
        let line = render_step(&step(Step::Drain, Some(34.1), false), Paint::none());
        assert!(line.contains("drain    FAILED: "), "{line}");
        let line = render_step(&step(Step::Commit, Some(34.1), true), Paint::none());
        assert!(line.contains("COMMIT"), "{line}");
    }

    fn gate(lag_seconds: Option<f64>, needed_seconds: f64) -> RunEventKind {
        RunEventKind::Gate {
            lag_seconds,
            condition: "<1s".into(),
            held_seconds: 2.6,
            needed_seconds,
            waiting_for: lag_seconds.is_none().then(|| "blue does not answer".into()),
            transactions_per_second: Some(2014.4),
            drain_estimate_ms: Some(3.2),
        }
    }

    #[test]
    fn the_gate_shows_how_long_it_has_held() {
        assert_eq!(
            render_gate(&gate(Some(0.24), 3.0), Paint::none()).unwrap(),
            " gate   lag 0.24s, needs <1s  [######--] 2.6/3.0s   rate 2,014 tx/s   drain ~3 ms"
        );
        let unknown = render_gate(&gate(None, 0.0), Paint::none()).unwrap();
        assert!(unknown.contains("lag unknown"), "{unknown}");
        assert!(unknown.ends_with("waits: blue does not answer"), "{unknown}");
        assert_eq!(render_gate(&RunEventKind::Note { text: "x".into() }, Paint::none()), None);
    }
}
