//! How the monitors of the side that is watched do.

use crate::api::{MonitorAction, MonitorState, MonitorStatus};

use super::Paint;

/// A row of name and text for each.
pub(super) fn rows(monitors: &[MonitorStatus], paint: Paint) -> Vec<(&'static str, String)> {
    monitors.iter().map(|monitor| ("monitor", row(monitor, paint))).collect()
}

fn row(monitor: &MonitorStatus, paint: Paint) -> String {
    let name = monitor.state.name();
    let state = match monitor.state {
        MonitorState::Healthy => paint.good(name),
        MonitorState::Inconclusive => paint.warn(name),
        MonitorState::Breached => paint.bad(name),
    };
    let seen = monitor.why.as_ref().or(monitor.seen.as_ref());
    let seen = seen.map(|seen| format!("  {seen}")).unwrap_or_default();
    let action = match monitor.action {
        MonitorAction::Alert => "",
        MonitorAction::Rollback => "  (a breach rolls back)",
    };
    format!("{}  {state}{seen}{action}", monitor.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_the_state_and_why() {
        let healthy = MonitorStatus {
            name: "page".into(),
            state: MonitorState::Healthy,
            action: MonitorAction::Rollback,
            since: "2026-11-21T12:00:00Z".parse().unwrap(),
            seen: Some("status 200 after 3 ms".into()),
            limit: "2xx within 2000 ms".into(),
            why: None,
        };
        let silent = MonitorStatus {
            name: "errors".into(),
            state: MonitorState::Inconclusive,
            action: MonitorAction::Alert,
            why: Some("the query has no value now".into()),
            ..healthy.clone()
        };
        let rows = rows(&[healthy, silent], Paint::none());
        assert_eq!(rows[0].1, "page  healthy  status 200 after 3 ms  (a breach rolls back)");
        assert_eq!(rows[1].1, "errors  inconclusive  the query has no value now");
    }
}
