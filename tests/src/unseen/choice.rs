//! What a run is: chosen by seed and number, the same each time.

use std::fmt;

use clap::ValueEnum;

use super::{Impact, Kind, Options, kinds};
use crate::chaos::random::Random;
use crate::mysql;

/// Whose servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Engine {
    Postgres,
    Mariadb,
    Mysql,
}

/// The versions of blue and green.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Versions {
    Postgres(u32, u32),
    Mysql(mysql::Version, mysql::Version),
}

impl Versions {
    /// Whether blue has this kind of change.
    fn have(self, kind: &Kind) -> bool {
        match self {
            Versions::Postgres(blue, _) => kind.since <= blue,
            Versions::Mysql(..) => true,
        }
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Versions::Postgres(blue, green) => write!(f, "{blue} -> {green}"),
            Versions::Mysql(blue, green) => write!(f, "{} -> {}", blue.name(), green.name()),
        }
    }
}

/// When a change is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the sidecar begins.
    Before,
    /// While it copies.
    Copying,
    /// While it streams.
    Streaming,
    /// While it is stopped.
    Down,
}

/// One change of a run.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    pub kind: &'static Kind,
    pub moment: Moment,
}

/// One run, chosen by seed and number.
#[derive(Debug, Clone)]
pub struct Choice {
    pub number: u64,
    pub versions: Versions,
    /// Whether the stream is told to repeat schema changes; only MySQL's and MariaDB's can.
    pub repeats_definitions: bool,
    pub changes: Vec<Change>,
}

impl Choice {
    /// Every kind comes once before any comes again; a run has one to three of them.
    pub(super) fn of(options: &Options, number: u64) -> Choice {
        use mysql::Version::{Mariadb10_11, Mariadb11_8, Mysql9_7};
        let mut random = Random::of(options.seed, "unseen", number);
        let versions = match options.engine {
            Engine::Postgres => {
                let (blue, green) = [(13, 17), (15, 18)][random.below(2) as usize];
                Versions::Postgres(blue, green)
            }
            Engine::Mariadb => Versions::Mysql(Mariadb10_11, Mariadb11_8),
            Engine::Mysql => Versions::Mysql(Mysql9_7, Mysql9_7),
        };
        let repeats_definitions = options.engine != Engine::Postgres && random.below(3) > 0;
        let all = kinds::all(options.engine);
        let pool: Vec<&Kind> = match options.only.as_deref() {
            Some("none") => Vec::new(),
            Some(part) => all.filter(|kind| kind.name.contains(part)).collect(),
            None => all.collect(),
        };
        let mut chosen: Vec<&Kind> = Vec::new();
        if !pool.is_empty() {
            let round = number / pool.len() as u64;
            let mut order: Vec<usize> = (0..pool.len()).collect();
            Random::of(options.seed, "round", round).shuffle(&mut order);
            chosen.push(pool[order[(number % pool.len() as u64) as usize]]);
            let more = if options.is_alone { 0 } else { random.below(3) };
            for _ in 0..more {
                chosen.push(pool[random.below(pool.len() as u64) as usize]);
            }
        }
        let changes = chosen.into_iter().filter(|kind| versions.have(kind)).map(|kind| Change {
            kind,
            moment: match random.below(8) {
                0 => Moment::Before,
                1 => Moment::Copying,
                2..=5 => Moment::Streaming,
                _ => Moment::Down,
            },
        });
        let mut changes: Vec<_> = changes.collect();
        changes.sort_by_key(|change| change.moment as u8);
        Choice { number, versions, repeats_definitions, changes }
    }

    /// Whether all that it changes leaves green equal by itself.
    pub(super) fn is_harmless(&self) -> bool {
        self.changes.iter().all(|change| change.kind.impact == Impact::Harmless)
    }

    /// Whether a difference of it may be left to a person who was told: it changes neither rows,
    /// rights nor results.
    pub(super) fn may_be_told(&self) -> bool {
        self.changes.iter().any(|change| change.kind.impact == Impact::Minor)
    }

    /// Whether rows may differ that only `cutover verify` sees.
    pub(super) fn needs_verification(&self) -> bool {
        self.changes.iter().any(|change| change.kind.impact == Impact::Verified)
    }

    /// The changes of a moment, in order.
    pub(super) fn at(&self, moment: Moment) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(move |change| change.moment == moment)
    }

    /// Number, versions and changes, for a person who plays it again.
    pub(super) fn describe(&self) -> String {
        let changes = self.changes.iter().map(|change| {
            format!("{} ({})", change.kind.name, format!("{:?}", change.moment).to_lowercase())
        });
        let changes = changes.collect::<Vec<_>>().join(", ");
        let what = if changes.is_empty() { "nothing changes" } else { &changes };
        let repeats = if self.repeats_definitions { ", ddl repeated" } else { "" };
        format!("run {} ({}{repeats}): {what}", self.number, self.versions)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn options(engine: Engine) -> Options {
        Options {
            engine,
            seed: 1,
            runs: 0,
            at: 0,
            jobs: 1,
            only: None,
            is_alone: false,
            is_loud: false,
        }
    }

    #[test]
    fn kinds_have_names_of_their_own_and_are_many() {
        for engine in Engine::value_variants() {
            let names: BTreeSet<_> = kinds::all(*engine).map(|kind| kind.name).collect();
            assert_eq!(names.len(), kinds::all(*engine).count(), "{engine:?}");
            assert!(names.len() >= 80, "{engine:?}: {}", names.len());
        }
    }

    #[test]
    fn a_run_is_the_same_each_time_and_every_kind_comes() {
        for engine in Engine::value_variants() {
            let options = options(*engine);
            let all = kinds::all(*engine).count() as u64;
            let mut seen = BTreeSet::new();
            for number in 0..2 * all {
                let choice = Choice::of(&options, number);
                assert_eq!(choice.describe(), Choice::of(&options, number).describe());
                seen.extend(choice.changes.iter().map(|change| change.kind.name));
            }
            assert_eq!(seen.len() as u64, all, "{engine:?}");
        }
    }

    #[test]
    fn runs_without_changes_can_be_asked_for() {
        let options = Options { only: Some("none".into()), ..options(Engine::Postgres) };
        assert!(Choice::of(&options, 5).changes.is_empty());
    }
}
