//! All faults, and what a run is made of: each number gets its own, whatever ran before it.

use anyhow::{Result, ensure};

use super::fault::{At, Break, Fault, Link, Session, Who};
use super::points::{FAILPOINTS, HELD_ACTS, act_of, before};
use super::random::Random;
use super::server::{Engine, Kind};
use crate::mysql::Version;

/// Which way a run goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From blue to green.
    Forward,
    /// A rollback.
    Back,
}

impl Direction {
    pub fn name(self) -> &'static str {
        match self {
            Direction::Forward => "forward",
            Direction::Back => "back",
        }
    }
}

/// What stands between the clients and the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Router {
    PgBouncer {
        members: usize,
    },
    Embedded,
    /// Cuts its clients, and forgets at a restart what it was told.
    HaProxy,
    /// Its stand-in.
    ProxySql,
}

/// One run as the seed wants it.
#[derive(Debug, Clone)]
pub struct Cast {
    pub number: u64,
    pub blue: Kind,
    pub green: Kind,
    pub router: Router,
    /// Which pair of servers: runs of one number share it.
    pub pair: u64,
    pub direction: Direction,
    pub fault: Fault,
    /// How long what was killed or cut stays so.
    pub outage_ms: u64,
    /// After what time a supervisor starts the sidecar again.
    pub restart_ms: u64,
    /// Seed of this run, for the message that says how to play it again.
    pub seed: u64,
}

/// Longer than the lease.
pub const STOP_MS: u64 = 6_000;

/// A seed's order of all faults.
#[derive(Debug)]
pub struct Deck {
    engine: Engine,
    seed: u64,
    faults: Vec<Fault>,
}

impl Deck {
    /// All faults whose name and place have `only` in them, in the seed's order.
    pub fn new(engine: Engine, seed: u64, only: Option<&str>) -> Result<Deck> {
        let mut faults = every();
        faults.retain(|fault| engine.is_postgres() || !fault.is_of_postgres());
        if let Some(only) = only {
            faults.retain(|fault| fault.to_string().contains(only));
        }
        ensure!(!faults.is_empty(), "no fault has {:?} in its name", only.unwrap_or_default());
        Random::of(seed, "deck", 0).shuffle(&mut faults);
        Ok(Deck { engine, seed, faults })
    }

    /// How many runs there are before one comes again.
    pub fn len(&self) -> usize {
        self.faults.len()
    }

    pub fn is_empty(&self) -> bool {
        self.faults.is_empty()
    }

    /// The run of this number.
    pub fn deal(&self, number: u64, runs_per_pair: u64) -> Cast {
        let pair = number / runs_per_pair;
        let mut of_pair = Random::of(self.seed, "pair", pair);
        let (blue, green) = match self.engine {
            Engine::Postgres => {
                let blue = of_pair.between(10, 18) as u32;
                let green = of_pair.between(u64::from(blue), 18) as u32;
                (Kind::Postgres(blue), Kind::Postgres(green))
            }
            Engine::Mariadb => {
                (Kind::Mysql(Version::Mariadb10_11), Kind::Mysql(Version::Mariadb11_8))
            }
            Engine::Mysql => (Kind::Mysql(Version::Mysql9_7), Kind::Mysql(Version::Mysql9_7)),
        };
        let router = match (self.engine.is_postgres(), of_pair.below(4)) {
            (true, 0) => Router::Embedded,
            (true, 1) => Router::PgBouncer { members: 2 },
            (true, _) => Router::PgBouncer { members: 1 },
            (false, 0) => Router::ProxySql,
            (false, _) => Router::HaProxy,
        };
        let mut of_run = Random::of(self.seed, "run", number);
        let mut direction = match of_run.below(2) {
            0 => Direction::Forward,
            _ => Direction::Back,
        };
        let at = (number % self.faults.len() as u64) as usize;
        let fault = placed(self.faults[at].clone(), &mut of_run);
        if fault.wants_a_fresh_pair() {
            direction = Direction::Forward;
        }
        let router = match router {
            Router::Embedded if fault.needs_pgbouncer() => Router::PgBouncer { members: 1 },
            Router::HaProxy if fault.needs_a_memory() => Router::ProxySql,
            router => router,
        };
        // Now and then long enough that only a watchdog can have done what was done meanwhile.
        let restart_ms = if of_run.below(4) == 0 { 3_500 } else { of_run.between(50, 600) };
        let outage_ms = of_run.between(200, 2_500);
        let seed = self.seed;
        Cast { number, blue, green, router, pair, direction, fault, outage_ms, restart_ms, seed }
    }
}

/// A fault at any time happens at a time of the run's own.
fn placed(mut fault: Fault, random: &mut Random) -> Fault {
    let time = random.between(0, 1_800);
    match &mut fault {
        Fault::Kill { at, .. } | Fault::Stop { at } | Fault::Network { at, .. } => {
            if matches!(at, At::Time(_)) {
                *at = At::Time(time);
            }
        }
        _ => {}
    }
    fault
}

/// Every fault once.
fn every() -> Vec<Fault> {
    let mut all = Vec::new();
    let anytime = At::Time(0);
    let point = |act: &&'static str| At::Point(before(act));
    for at in FAILPOINTS.iter().copied() {
        match act_of(at) {
            // Reached only by runs that go back, or that don't know what was decided.
            "put_back" => all.push(Fault::FailThenKill { at: before("drain"), then: at }),
            "claim_abort" => all.push(Fault::DoubtThenKill { then: Some(at) }),
            _ => all.push(Fault::Kill { who: Who::Sidecar, at: At::Point(at) }),
        }
    }
    for act in &HELD_ACTS {
        for who in [Who::Watchdog, Who::SidecarAndWatchdog, Who::Router, Who::From, Who::To] {
            all.push(Fault::Kill { who, at: point(act) });
        }
        all.push(Fault::Fail { at: before(act) });
        all.push(Fault::Stop { at: point(act) });
    }
    for (number, act) in HELD_ACTS.iter().enumerate() {
        for (more, link) in Link::ALL.into_iter().enumerate() {
            // Each link breaks in each way, each act sees each link.
            let how = Break::ALL[(number + more) % Break::ALL.len()];
            all.push(Fault::Network { link, how, at: point(act) });
        }
        all.push(Fault::DiskFull { at: point(act) });
        all.push(Fault::Abort { at: point(act) });
    }
    for who in [Who::From, Who::To, Who::Router, Who::All] {
        for act in ["arm", "await_gate", "turn_streams", "confirm_way_back", "watch"] {
            all.push(Fault::Kill { who, at: At::Point(before(act)) });
        }
    }
    for who in [Who::Sidecar, Who::Router, Who::From, Who::To, Who::All, Who::SidecarAndWatchdog] {
        for _ in 0..4 {
            all.push(Fault::Kill { who, at: anytime });
        }
    }
    for act in ["drain", "decide", "flip", "release"] {
        all.push(Fault::Kill { who: Who::All, at: At::Point(before(act)) });
    }
    let twice = [
        (before("drain"), "act.put_back.before"),
        (before("seal"), "act.put_back.after"),
        ("journal.decide.after", "journal.put_back.after"),
        ("act.decide.after", "act.flip.after"),
        (before("flip"), "act.flip.before"),
        (before("release"), "act.release.before"),
        (before("turn_streams"), "act.turn_streams.after"),
        (before("confirm_way_back"), "act.confirm_way_back.before"),
    ];
    all.extend(twice.map(|(at, then)| Fault::KillTwice { at, then }));
    let too = [
        (before("raise_fence"), "act.put_back.before"),
        (before("drain"), "act.put_back.after"),
        ("journal.decide.after", "act.put_back.before"),
        ("act.decide.after", "act.flip.before"),
        (before("flip"), "act.flip.after"),
        (before("release"), "act.release.after"),
    ];
    all.extend(too.map(|(at, then)| Fault::KillWatchdogToo { at, then }));
    all.push(Fault::DoubtThenKill { then: None });
    for at in [
        "journal.raise_fence.before",
        "journal.seal.before",
        "journal.decide.before",
        "journal.flip.before",
        "journal.turn_streams.before",
    ] {
        all.push(Fault::Fail { at });
    }
    for act in ["await_gate", "hold_traffic"] {
        let at = At::Point(before(act));
        all.push(Fault::SlotDropped { at, way_back: false });
        all.push(Fault::SlotTaken { at });
    }
    for act in ["await_gate", "drain", "watch"] {
        all.push(Fault::SlotDropped { at: At::Point(before(act)), way_back: true });
    }
    for what in Session::ALL {
        all.push(Fault::Session { what, at: None });
        if what != Session::Reading {
            all.push(Fault::Session { what, at: Some(At::Point(before("hold_traffic"))) });
        }
        // Through the router nobody comes while it holds.
        if what != Session::WritingThroughRouter {
            all.push(Fault::Session { what, at: Some(At::Point(before("raise_fence"))) });
        }
    }
    for act in ["arm", "await_gate", "drain", "flip"] {
        let at = At::Point(before(act));
        all.push(Fault::SecondOperator { at });
        all.push(Fault::SecondSidecar { at });
        all.push(Fault::SecondSidecarElsewhere { at });
    }
    for act in ["raise_fence", "drain", "seal", "decide", "flip"] {
        all.push(Fault::StrayResume { at: At::Point(before(act)) });
    }
    for act in ["hold_traffic", "raise_fence"] {
        let at = At::Point(before(act));
        all.push(Fault::ApplyConflict { at });
        all.push(Fault::Ddl { at });
    }
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_run_depends_on_its_number_and_its_seed_alone() -> Result<()> {
        let (one, other) =
            (Deck::new(Engine::Postgres, 7, None)?, Deck::new(Engine::Postgres, 8, None)?);
        let (first, again) = (one.deal(33, 12), Deck::new(Engine::Postgres, 7, None)?.deal(33, 12));
        assert_eq!(format!("{first:?}"), format!("{again:?}"));
        let faults = |deck: &Deck| (0..20).map(|n| deck.deal(n, 12).fault).collect::<Vec<_>>();
        assert_ne!(faults(&one), faults(&other));
        Ok(())
    }

    #[test]
    fn every_failpoint_is_killed_at_before_any_fault_comes_again() -> Result<()> {
        let deck = Deck::new(Engine::Postgres, 1, None)?;
        let mut killed = BTreeSet::new();
        for number in 0..deck.len() as u64 {
            match deck.deal(number, 12).fault {
                Fault::Kill { who: Who::Sidecar, at: At::Point(at) } => killed.insert(at),
                Fault::FailThenKill { then, .. } | Fault::DoubtThenKill { then: Some(then) } => {
                    killed.insert(then)
                }
                _ => false,
            };
        }
        assert_eq!(killed, FAILPOINTS.iter().copied().collect());
        assert!(deck.len() <= 300, "300 runs are to see every fault: {}", deck.len());
        Ok(())
    }

    #[test]
    fn haproxy_is_killed_only_where_the_run_leads_it_again() -> Result<()> {
        for engine in [Engine::Mariadb, Engine::Mysql] {
            let deck = Deck::new(engine, 1, None)?;
            let casts: Vec<_> = (0..deck.len() as u64).map(|n| deck.deal(n, 12)).collect();
            assert!(casts.iter().any(|cast| cast.router == Router::ProxySql));
            for cast in casts.iter().filter(|cast| cast.router == Router::HaProxy) {
                assert!(!cast.fault.needs_a_memory(), "{}", cast.fault);
            }
        }
        Ok(())
    }

    #[test]
    fn faults_can_be_chosen_by_name() -> Result<()> {
        let deck = Deck::new(Engine::Postgres, 1, Some("kill -9 sidecar at act.flip"))?;
        assert_eq!(deck.len(), 2);
        assert!(Deck::new(Engine::Postgres, 1, Some("no such fault")).is_err());
        Ok(())
    }
}
