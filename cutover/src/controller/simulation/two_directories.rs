//! Two state directories for one pipeline: a host is lost or stands still, another one takes the
//! pipeline up with an empty directory, and the first comes back.
//!
//! Whatever the first knows, only one side ever admits writes, and the one that was left behind ends
//! without having changed anything.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::actors::{Stage, check_report};
use super::world::{Shared, State};
use super::{clients, inside_a_run, kill_sidecar, number, unserved};
use crate::api::{ErrorCode, Outcome};
use crate::side::{Direction, Side};

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

async fn history(seed: u64) -> (Told, Vec<String>, Vec<String>) {
    let shared = Shared::new(seed);
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

fn run<T>(history: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(history)
}

#[test]
fn two_state_directories_never_make_two_writers() {
    let runs = number("SIM_RUNS", 150);
    let first = number("SIM_SEED", 1);
    let mut all = Told::default();
    for seed in first..first + runs {
        let (told, violations, schedule) = run(history(seed));
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

/// The history that claims are there for: the first host stands still while blue is closed and nothing is
/// decided, the second changes over to green, and the first goes on with its undo list for blue.
async fn left_behind(seed: u64, has_claims: bool) -> (Told, Vec<String>, Vec<String>) {
    let shared = Shared::new(seed);
    shared.lock().has_claims = has_claims;
    let (first, second) = (Stage::new(shared.clone(), 0), Stage::new(shared.clone(), 1));
    tokio::spawn(first.clone().supervise());
    tokio::spawn(clients::past_the_router(shared.clone()));
    let ordered = first.clone();
    tokio::spawn(async move { ordered.order(Direction::Forward).await });
    let closed = |state: &mut State| state.side(Side::Blue).claim.is_some();
    let mut told = Told::default();
    if !until(&shared, Duration::from_secs(20), closed).await {
        return (told, shared.lock().violations.clone(), shared.lock().schedule.clone());
    }
    first.freeze(Duration::from_secs(600));

    tokio::spawn(second.clone().supervise());
    let report =
        tokio::time::timeout(Duration::from_secs(60), second.order(Direction::Forward)).await;
    if let Ok(Some(report)) = report {
        check_report(&shared, &report);
        told.flips = u64::from(report.outcome == Outcome::Completed);
    }
    first.thaw();
    let acted = |state: &mut State| !state.violations.is_empty();
    until(&shared, Duration::from_secs(30), acted).await;
    let state = shared.lock();
    (told, state.violations.clone(), state.schedule.clone())
}

/// Waits until the world is so; `false` if it never is within `patience`.
async fn until(shared: &Shared, patience: Duration, is_so: impl Fn(&mut State) -> bool) -> bool {
    let end = Instant::now() + patience;
    while Instant::now() < end {
        if is_so(&mut shared.lock()) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    false
}

/// Each of these histories is played twice: if a closed side could be opened by whoever has an undo list
/// for it, there would be two writers; with claims there never are.
#[test]
fn without_claims_they_do() {
    let has_two_writers = |(_, violations, _): &(Told, Vec<String>, Vec<String>)| {
        violations.iter().any(|violation| violation.contains("two writers"))
    };
    let (mut flips, mut found) = (0, 0);
    for seed in 1..=20 {
        let (told, violations, schedule) = run(left_behind(seed, true));
        assert!(violations.is_empty(), "{}\n\nviolated: {violations:#?}", schedule.join("\n"));
        flips += told.flips;
        found += u64::from(has_two_writers(&run(left_behind(seed, false))));
    }
    println!("{flips} of 20 changed over, {found} have two writers without claims");
    assert!(flips > 10, "the second host has changed over in {flips} of 20 histories only");
    assert!(found > 0, "these histories would not notice two writers");
}
