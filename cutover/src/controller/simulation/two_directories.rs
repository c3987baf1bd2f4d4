//! Two state directories for one pipeline: a host is lost or stands still, another one takes the
//! pipeline up with an empty directory, and the first comes back.
//!
//! Whatever the first knows, only one side ever admits writes, and the one that was left behind ends
//! without having changed anything.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::actors::{Stage, check_report};
use super::world::Shared;
use super::{clients, inside_a_run, kill_sidecar, number, unserved};
use crate::api::{ErrorCode, Outcome};
use crate::side::Direction;

/// What one history was.
#[derive(Debug, Default)]
struct Told {
    /// Runs of the second directory that have changed over, or back.
    flips: u64,
    /// The first was left in the middle of a run that the second has found closed.
    taken_down: u64,
    /// The first has found out that it does not count any more.
    superseded: u64,
}

/// Takes the first host out of the history, most often in the middle of a run.
async fn lose(first: Arc<Stage>, long: Duration) {
    inside_a_run(&first, Duration::from_secs(9)).await;
    let is_cut = first.shared.lock().random.per_mille(500);
    match is_cut {
        true => first.power_cut(long),
        false => first.freeze(long),
    }
}

/// Lets the first host go on inside a run of the second, if it stands still then.
async fn wake(first: Arc<Stage>, second: Arc<Stage>) {
    inside_a_run(&second, Duration::from_secs(40)).await;
    first.thaw();
}

async fn history(seed: u64, has_claims: bool) -> (Told, Vec<String>, Vec<String>) {
    let shared = Shared::new(seed);
    shared.lock().has_claims = has_claims;
    let (first, second) = (Stage::new(shared.clone(), 0), Stage::new(shared.clone(), 1));
    tokio::spawn(first.clone().supervise());
    for at in [0, 0, 1] {
        tokio::spawn(clients::through_a_router(shared.clone(), at));
    }
    tokio::spawn(clients::past_the_router(shared.clone()));
    let ordered = first.clone();
    tokio::spawn(async move { ordered.order(Direction::Forward).await });
    let long = shared.lock().random.ms(500, 40_000);
    lose(first.clone(), long).await;

    let pause = shared.lock().random.ms(0, 5000);
    tokio::time::sleep(pause).await;
    tokio::spawn(second.clone().supervise());
    if shared.lock().random.per_mille(500) {
        tokio::spawn(wake(first.clone(), second.clone()));
    }
    let mut told = Told::default();
    let runs = shared.lock().random.below(4);
    for _ in 0..runs {
        if shared.lock().random.per_mille(150) {
            kill_sidecar(&second);
        }
        let direction = Direction::leaving(shared.lock().truth());
        let ordered = tokio::time::timeout(Duration::from_secs(30), second.order(direction));
        let Ok(Some(report)) = ordered.await else { continue };
        check_report(&shared, &report);
        if matches!(report.outcome, Outcome::Completed | Outcome::RolledBack) {
            told.flips += 1;
        }
        if shared.lock().random.per_mille(200) {
            let again = shared.lock().random.ms(500, 8000);
            first.freeze(again);
        }
    }
    // Everybody is back, and has had the time to find out where he stands.
    let back = Instant::now() + Duration::from_secs(60);
    loop {
        for stage in [&first, &second] {
            stage.resolve().await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let problem = unserved(&mut shared.lock());
        match problem {
            None if Instant::now() > back => break,
            Some(problem) if Instant::now() > back + Duration::from_secs(60) => {
                shared.lock().violated(format!("after everything: {problem}"));
                break;
            }
            _ => {}
        }
    }
    let held = first.service().and_then(|service| service.current()).and_then(|run| run.report);
    let error = held.and_then(|report| report.error);
    let is_superseded = error.is_some_and(|error| error.code == ErrorCode::Superseded);
    let state = shared.lock();
    let says = |who: &str, what: &str| {
        let line = |line: &String| line.contains(who) && line.contains(what);
        state.schedule.iter().position(line)
    };
    told.superseded = u64::from(is_superseded || says(" sidecar", "knows nothing").is_some());
    let (lowered, raised) = (says("B:sidecar", ": lower blue"), says("B:sidecar", ": raise"));
    told.taken_down = u64::from(lowered.is_some_and(|at| raised.is_none_or(|raised| at < raised)));
    (told, state.violations.clone(), state.schedule.clone())
}

fn run_seed(seed: u64, has_claims: bool) -> (Told, Vec<String>, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(history(seed, has_claims))
}

#[test]
fn two_state_directories_never_make_two_writers() {
    let runs = number("SIM_RUNS", 100);
    let first = number("SIM_SEED", 1);
    let mut all = Told::default();
    for seed in first..first + runs {
        let (told, violations, schedule) = run_seed(seed, true);
        all.flips += told.flips;
        all.superseded += told.superseded;
        all.taken_down += told.taken_down;
        assert!(
            violations.is_empty(),
            "{}\n\nviolated: {violations:#?}\nseed {seed}: SIM_RUNS=1 SIM_SEED={seed}",
            schedule.join("\n")
        );
    }
    println!(
        "{{\"sim\":{runs},\"seed\":{first},\"directories\":2,\"flips\":{},\"taken_down\":{},\
         \"superseded\":{},\"illegal\":0}}",
        all.flips, all.taken_down, all.superseded
    );
    assert!(
        runs < 100 || all.flips > runs / 4 && all.superseded > runs / 20 && all.taken_down > 0,
        "the histories are too dull: {all:?}"
    );
}

/// The same histories, if a closed side could be opened by whoever has an undo list for it. One in some
/// hundreds has two writers then; SIM_SEED begins the search elsewhere.
#[test]
fn without_claims_they_do() {
    let first = number("SIM_SEED", 1);
    let is_wrong = |seed: &u64| {
        let (_, violations, _) = run_seed(*seed, false);
        violations.iter().any(|violation| violation.contains("two writers"))
    };
    let found = (first..first + 599).find(is_wrong);
    println!("two writers with seed {found:?}");
    assert!(found.is_some(), "these histories would not notice two writers");
}
