use std::time::Duration;

use super::sim::Sim;
use super::tests::order;
use super::{Limits, Order, run};
use crate::api::{Check, Outcome, RunEventKind, RunReport, Step};
use crate::hub::RunHub;
use crate::ports::{Clock, Epoch, Refreshed, World, Writers};
use crate::side::Direction;

/// Runs; gives everything that the gate said it waited for, too.
async fn gated(sim: &Sim, order: &Order) -> (RunReport, Vec<String>) {
    let hub = RunHub::new("7f3a", Epoch(42), Direction::Forward, sim.clock().wall());
    let limits = Limits::default();
    let mut said: Vec<String> = Vec::new();
    let listening = async {
        let mut after = 0;
        loop {
            let update = hub.update(after, Duration::from_secs(1)).await;
            after = update.status.last_event;
            for event in update.events {
                if let RunEventKind::Gate { waiting_for: Some(why), .. } = event.kind
                    && said.last() != Some(&why)
                {
                    said.push(why);
                }
            }
            if update.status.report.is_some() {
                break;
            }
        }
    };
    let (report, ()) = tokio::join!(run(sim, order, &limits, &hub), listening);
    (report, said)
}

fn gate_step(report: &RunReport) -> &crate::api::Stepped {
    report.steps.iter().find(|step| step.step == Step::Gate).unwrap()
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_writers_and_prepared_transactions_and_says_who() {
    let sim = Sim::new();
    let writer = Writers {
        oldest: Some(Duration::from_secs(41)),
        oldest_who: Some("pid 8812 of role app".into()),
        ..Writers::default()
    };
    let prepared = Writers { prepared: vec!["gid-1 (app)".into()], ..Writers::default() };
    sim.state.lock().unwrap().under_way = vec![writer, prepared, Writers::default()];
    let (report, said) = gated(&sim, &order()).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:?}");
    assert!(said.iter().any(|why| why.contains("pid 8812 of role app")), "{said:?}");
    assert!(said.iter().any(|why| why.contains("gid-1 (app)")), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn rows_that_differ_end_the_run_with_nothing_touched() {
    let sim = Sim::new();
    let found = vec![
        Check::fail("row-counts", "public.t: 1 missing on green", "look"),
        Check::ok("row-counts", "3 tables are equal"),
    ];
    sim.state.lock().unwrap().compared = vec![Ok(found)];
    let (report, _) = gated(&sim, &order()).await;
    assert_eq!(report.outcome, Outcome::PrecheckFailed, "{report:?}");
    let error = report.error.unwrap();
    assert!(error.what.contains("public.t"), "{error:?}");
    assert!(error.state.contains("nothing was touched"), "{error:?}");
    assert_eq!((report.pause_ms, report.checks.fail), (None, 1));
    assert!(report.findings.iter().any(|check| check.evidence.contains("public.t")));
}

#[tokio::test(start_paused = true)]
async fn a_definition_that_changes_while_the_gate_waits_ends_the_run_with_nothing_touched() {
    let sim = Sim::new();
    let other = Check::fail("definitions", "view public.v: definition", "make it");
    sim.state.lock().unwrap().defined = vec![Ok(Vec::new()), Ok(vec![other])];
    let (report, _) = gated(&sim, &order()).await;
    assert_eq!(report.outcome, Outcome::PrecheckFailed, "{report:?}");
    assert!(report.error.unwrap().what.contains("view public.v"));
    assert_eq!(report.pause_ms, None);
}

#[tokio::test(start_paused = true)]
async fn definitions_that_can_not_be_compared_are_compared_again() {
    let sim = Sim::new();
    sim.state.lock().unwrap().defined = vec![Ok(Vec::new()), Err("green is away"), Ok(Vec::new())];
    let (report, said) = gated(&sim, &order()).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:?}");
    assert!(said.iter().any(|why| why.contains("green is away")), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn views_are_refreshed_before_the_pause_and_the_report_says_so() {
    let sim = Sim::new();
    let takes = Duration::from_secs(10);
    let done = Ok(Refreshed::Done("2 materialized views refreshed".into()));
    sim.state.lock().unwrap().refreshed = vec![(takes, Err("green is away")), (takes, done)];
    let (report, said) = gated(&sim, &order()).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:?}");
    assert!(said.iter().any(|why| why.contains("green is away")), "{said:?}");
    assert!(said.iter().any(|why| why.contains("refreshing materialized views")), "{said:?}");
    assert!(gate_step(&report).summary.contains("2 materialized views"));
    assert_eq!(sim.get().refreshes, 2);

    // A drill changes nothing on green.
    let sim = Sim::new();
    sim.state.lock().unwrap().drill = true;
    let (report, _) = gated(&sim, &Order { drill: true, ..order() }).await;
    assert_eq!((report.outcome, sim.get().refreshes), (Outcome::Drilled, 0), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_view_that_can_not_be_refreshed_ends_the_run_with_nothing_touched() {
    let sim = Sim::new();
    let refused = Refreshed::Refused(Check::fail("materialized-views", "public.v fails", "mend"));
    sim.state.lock().unwrap().refreshed = vec![(Duration::ZERO, Ok(refused))];
    let (report, _) = gated(&sim, &order()).await;
    assert_eq!(report.outcome, Outcome::PrecheckFailed, "{report:?}");
    assert_eq!(report.pause_ms, None);
    assert!(report.findings.iter().any(|check| check.evidence.contains("public.v")));
    // Nor one that takes longer than the gate may wait.
    let sim = Sim::new();
    sim.state.lock().unwrap().refreshed =
        vec![(Duration::from_secs(864_000), Ok(Refreshed::Nothing))];
    let (report, _) = gated(&sim, &order()).await;
    assert_eq!(report.outcome, Outcome::GateTimeout, "{report:?}");
    assert!(report.error.unwrap().what.contains("refreshing materialized views"));
}

#[tokio::test(start_paused = true)]
async fn views_that_have_grown_old_while_the_gate_waited_are_refreshed_again() {
    let sim = Sim::new();
    {
        let mut state = sim.state.lock().unwrap();
        // The gate looks again after each failure, for longer than a refresh is good for.
        state.defined = vec![Ok(Vec::new())];
        state.defined.extend((0..4000).map(|_| Err("green is away")));
        state.defined.push(Ok(Vec::new()));
    }
    let order = Order { gate_timeout: Duration::from_secs(86_400), ..order() };
    let (report, _) = gated(&sim, &order).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:?}");
    assert!(sim.get().refreshes >= 2, "{}", sim.get().refreshes);
}

#[tokio::test(start_paused = true)]
async fn a_comparison_that_can_not_be_made_is_made_again() {
    let sim = Sim::new();
    sim.state.lock().unwrap().compared = vec![Err("green is away"), Ok(Vec::new())];
    let (report, said) = gated(&sim, &Order { hold_for: Duration::ZERO, ..order() }).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:?}");
    assert!(said.iter().any(|why| why.contains("green is away")), "{said:?}");
    assert!(gate_step(&report).ok);

    let sim = Sim::new();
    sim.state.lock().unwrap().compared = vec![Err("green is away")];
    let (report, _) = gated(&sim, &order()).await;
    assert_eq!(report.outcome, Outcome::GateTimeout, "{report:?}");
    assert!(report.error.unwrap().what.contains("green is away"));
}

#[tokio::test(start_paused = true)]
async fn a_world_that_left_its_plan_ends_the_run_with_nothing_touched() {
    // Against the plan that was agreed to, and against the one that was made while arming.
    let agreed = Order { plan_hash: Some("one".into()), ..order() };
    for (order, plans) in [(agreed, vec![Ok("two")]), (order(), vec![Ok("one"), Ok("two")])] {
        let sim = Sim::new();
        sim.state.lock().unwrap().plans = plans;
        let (report, _) = gated(&sim, &order).await;
        assert_eq!(report.outcome, Outcome::PrecheckFailed, "{report:?}");
        let error = report.error.unwrap();
        assert!(error.what.contains("no longer the one"), "{error:?}");
        assert_eq!((report.pause_ms, error.place.as_str()), (None, "plan"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_plan_that_nobody_can_tell_is_waited_for() {
    let sim = Sim::new();
    sim.state.lock().unwrap().plans = vec![Ok("one"), Err("blue is away"), Ok("one")];
    let (report, said) = gated(&sim, &order()).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:?}");
    assert!(said.iter().any(|why| why.contains("blue is away")), "{said:?}");

    let sim = Sim::new();
    sim.state.lock().unwrap().plans = vec![Ok("one"), Err("blue is away")];
    let (report, _) = gated(&sim, &order()).await;
    assert_eq!(report.outcome, Outcome::GateTimeout, "{report:?}");
}

/// Its session may have been lost while the gate waited, and a commit through a newer one is refused.
#[tokio::test(start_paused = true)]
async fn the_decision_is_prepared_again_before_the_fence() {
    let sim = Sim::new();
    sim.state.lock().unwrap().plans = vec![Ok("one")];
    let (report, _) = gated(&sim, &order()).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:?}");
    let log = sim.get().log;
    let fenced = log.iter().position(|act| act == "raise").unwrap();
    let prepared = log[..fenced].iter().filter(|act| *act == "prepare_decision").count();
    assert_eq!(prepared, 2, "{log:?}");
}

#[tokio::test(start_paused = true)]
async fn a_difference_that_is_found_while_it_waits_ends_the_run_with_nothing_touched() {
    let proven = || Ok(Check::ok("verification", "green equals blue"));
    let differs = Check::fail("verification", "1 differences of green", "cutover repair --plan");
    let sim = Sim::new();
    sim.state.lock().unwrap().proofs = vec![proven(), proven(), proven(), Ok(differs.clone())];
    let (report, _) = gated(&sim, &order()).await;
    assert_eq!((report.outcome, report.pause_ms), (Outcome::PrecheckFailed, None), "{report:?}");
    let error = report.error.unwrap();
    assert!(error.what.contains("1 differences") && error.state.contains("nothing was touched"));

    let sim = Sim::new();
    (sim.state.lock().unwrap().proofs, sim.state.lock().unwrap().drill) = (vec![Ok(differs)], true);
    let (report, _) = gated(&sim, &Order { drill: true, ..order() }).await;
    assert_eq!(report.outcome, Outcome::Drilled, "a drill asks nothing: {report:?}");

    let sim = Sim::new();
    sim.state.lock().unwrap().proofs = vec![Err("the disk is away"), proven()];
    let (report, said) = gated(&sim, &order()).await;
    assert_eq!(report.outcome, Outcome::Completed, "{report:?}");
    assert!(said.iter().any(|why| why.contains("the disk is away")), "{said:?}");
    assert!(report.findings.iter().any(|check| check.evidence == "green equals blue"));
}
