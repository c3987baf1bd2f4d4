//! A plan: both servers, what was checked, what would be done.

use crate::api::{Checks, Plan, Server, Severity};
use crate::side::{Direction, Side};

use super::{Paint, units};

/// How much of a plan to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What a person has to know before saying yes.
    Summary,
    /// Every check and every act, too.
    Everything,
}

/// The plan as text.
pub fn render_plan(plan: &Plan, detail: Detail, paint: Paint) -> String {
    let hash: String = plan.hash.chars().take(8).collect();
    let of = match plan.direction {
        Direction::Forward => "a cutover: blue serves now",
        Direction::Back => "a rollback: green serves now",
    };
    let mut text = format!(
        "{} of {of}  epoch {}  router {}\n",
        paint.bold(&format!("Plan {hash}")),
        plan.epoch,
        plan.router
    );
    let server = |side| match side {
        Side::Blue => server("blue", &plan.blue),
        Side::Green => server("green", &plan.green),
    };
    text.push_str(&format!(
        " now    clients -> {} -> {}\n after  clients -> {} -> {}\n",
        plan.router,
        server(plan.direction.from()),
        plan.router,
        server(plan.direction.to()),
    ));
    text.push_str(&match (plan.way_back, plan.direction) {
        (true, Direction::Forward) => {
            " undo   cutover rollback, for as long as green's changes stream back\n".into()
        }
        (true, Direction::Back) => {
            " undo   cutover again, for as long as blue's changes stream to green\n".into()
        }
        (false, _) => format!(" undo   {}\n", paint.warn("NONE: no way back is kept")),
    });
    text.push_str(&format!(
        " gate   {}   write pause at most {}\n",
        plan.gate,
        units::ms(plan.max_pause_ms as f64)
    ));
    checks(plan, detail, paint, &mut text);
    if detail == Detail::Everything {
        acts(plan, paint, &mut text);
    }
    text.push_str(&match (plan.ready, &plan.waits_for) {
        (true, None) => format!(" {}\n", paint.good("ready")),
        (true, Some(why)) => {
            format!(" {}: {why}\n", paint.warn("not yet; a run would wait at its gate"))
        }
        (false, _) => format!(" {}: nothing was touched\n", paint.bad("not ready")),
    });
    text
}

fn server(name: &str, server: &Server) -> String {
    let version = server.version.as_deref().unwrap_or("version unknown");
    let down = if server.up { "" } else { "  DOWN" };
    format!("{name} {version} {}{down}", server.url)
}

fn checks(plan: &Plan, detail: Detail, paint: Paint, text: &mut String) {
    let Checks { ok, warn, fail } = Checks::of(&plan.checks);
    text.push_str(&format!(" checks {ok} ok  {warn} warn  {fail} fail\n"));
    let width = plan.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    // The worst last: it is what stays in sight above the question.
    let mut checks: Vec<_> = plan.checks.iter().collect();
    checks.sort_by_key(|check| check.severity);
    for check in checks {
        let label = match check.severity {
            Severity::Ok if detail == Detail::Summary => continue,
            Severity::Ok => paint.good("OK  "),
            Severity::Warn => paint.warn("WARN"),
            Severity::Fail => paint.bad("FAIL"),
        };
        text.push_str(&format!("  {label} {:width$}  {}\n", check.name, check.evidence));
        if let (Some(fix), true) = (&check.fix, check.severity != Severity::Ok) {
            text.push_str(&format!("       {:width$}  fix: {fix}\n", ""));
        }
    }
}

fn acts(plan: &Plan, paint: Paint, text: &mut String) {
    text.push_str(&format!(" acts   {}\n", plan.acts.len()));
    let mut step = "";
    let width = plan.acts.iter().map(|act| act.place.chars().count()).max().unwrap_or(0);
    for (number, act) in plan.acts.iter().enumerate() {
        if act.step != step {
            step = &act.step;
            text.push_str(&format!("  {}\n", paint.bold(step)));
        }
        // A statement of several lines stays under its number.
        let lines = act.text.replace('\n', &format!("\n{:1$}", "", 9 + width));
        text.push_str(&format!("   {:>3} {:width$}  {lines}\n", number + 1, act.place));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api::{Act, Check, SCHEMA_VERSION};

    pub fn shop(name: &str, version: &str) -> Server {
        Server {
            url: format!("postgres://db-{name}:5432/shop"),
            database: "shop".into(),
            version: Some(version.into()),
            up: true,
        }
    }

    fn plan(checks: Vec<Check>) -> Plan {
        Plan {
            schema_version: SCHEMA_VERSION,
            hash: "7f3a00112233445566".into(),
            epoch: 42,
            direction: crate::Direction::Forward,
            way_back: true,
            blue: shop("blue", "13.22"),
            green: shop("green", "17.2"),
            router: "pgbouncer x3".into(),
            gate: "lag <1s for 3s".into(),
            max_pause_ms: 2000,
            ready: checks.iter().all(|check| check.severity != Severity::Fail),
            waits_for: None,
            checks,
            acts: vec![
                Act { step: "quiesce".into(), place: "pgb-1".into(), text: "PAUSE shop".into() },
                Act {
                    step: "fence".into(),
                    place: "blue".into(),
                    text: "LOCK TABLE a\n, b".into(),
                },
            ],
        }
    }

    #[test]
    fn the_summary_is_what_a_person_has_to_know() {
        let checks = vec![
            Check::warn("long-txn", "pid 8812 writing for 41 s", "wait"),
            Check::ok("wal-level", "logical"),
        ];
        assert_eq!(
            render_plan(&plan(checks), Detail::Summary, Paint::none()),
            "Plan 7f3a0011 of a cutover: blue serves now  epoch 42  router pgbouncer x3\n \
             now    clients -> pgbouncer x3 -> blue 13.22 postgres://db-blue:5432/shop\n \
             after  clients -> pgbouncer x3 -> green 17.2 postgres://db-green:5432/shop\n \
             undo   cutover rollback, for as long as green's changes stream back\n \
             gate   lag <1s for 3s   write pause at most 2.00 s\n \
             checks 1 ok  1 warn  0 fail\n  \
             WARN long-txn   pid 8812 writing for 41 s\n                  fix: wait\n \
             ready\n"
        );
    }

    #[test]
    fn what_the_gate_would_wait_for_is_not_called_ready() {
        let waits_for = Some("the lag is unknown".to_owned());
        let text =
            render_plan(&Plan { waits_for, ..plan(Vec::new()) }, Detail::Summary, Paint::none());
        assert!(
            text.ends_with(" not yet; a run would wait at its gate: the lag is unknown\n"),
            "{text}"
        );
    }

    #[test]
    fn a_rollback_goes_the_other_way() {
        let back = Plan { direction: Direction::Back, way_back: false, ..plan(Vec::new()) };
        let text = render_plan(&back, Detail::Summary, Paint::none());
        assert!(text.starts_with("Plan 7f3a0011 of a rollback: green serves now"), "{text}");
        assert!(text.contains(" now    clients -> pgbouncer x3 -> green 17.2"), "{text}");
        assert!(text.contains(" undo   NONE: no way back is kept\n"), "{text}");
    }

    #[test]
    fn everything_has_each_check_and_each_act_in_order() {
        let checks = vec![
            Check::fail("primary-key", "public.log has none", "ALTER TABLE .."),
            Check::ok("wal-level", "logical"),
        ];
        let text = render_plan(&plan(checks), Detail::Everything, Paint::none());
        assert!(text.contains("OK   wal-level") && text.contains("FAIL primary-key"), "{text}");
        assert!(text.find("wal-level") < text.find("primary-key"), "{text}");
        assert!(
            text.contains("  fence\n     2 blue   LOCK TABLE a\n              , b\n"),
            "{text}"
        );
        assert!(text.ends_with(" not ready: nothing was touched\n"), "{text}");
    }
}
