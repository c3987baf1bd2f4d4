//! What the runs came to: a line for each, a table of them all, and one JSON object.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::deck::Cast;
use super::judge::Found;
use super::pair::{Pair, describe};
use super::{Engine, FAILPOINTS, Options};

/// How a run is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// As it may be.
    Legal,
    /// It may not be so: why.
    Illegal(String),
    /// The fault can't be done here: why.
    Skipped(String),
    /// The harness could not do its work: why.
    Broken(String),
}

/// One run, told.
#[derive(Debug, Clone)]
pub struct Told {
    number: u64,
    fault: String,
    place: String,
    servers: String,
    direction: &'static str,
    /// Whether the fault happened.
    struck: bool,
    /// Exit code of the operator's command.
    code: Option<i32>,
    serving: &'static str,
    pause_ms: Option<f64>,
    /// The longest time in which no client of the router was answered.
    gap: Duration,
    /// How long clients went without service from the fault on, or from when somebody could serve, if
    /// they had been held and the side that was to be left serves again.
    abort: Option<Duration>,
    /// The same from when the run was given up on.
    given_up: Option<Duration>,
    /// How often the sidecar died.
    deaths: u32,
    killed_at: Vec<&'static str>,
    lost: usize,
    duplicated: usize,
    client_errors: usize,
    pub verdict: Verdict,
    pub took: Duration,
}

impl Told {
    fn blank(cast: &Cast, verdict: Verdict) -> Told {
        Told {
            number: cast.number,
            fault: cast.fault.name(),
            place: cast.fault.place(),
            servers: describe(cast.blue, cast.green, cast.router),
            direction: cast.direction.name(),
            struck: false,
            code: None,
            serving: "?",
            pause_ms: None,
            gap: Duration::ZERO,
            abort: None,
            given_up: None,
            deaths: 0,
            killed_at: Vec::new(),
            lost: 0,
            duplicated: 0,
            client_errors: 0,
            verdict,
            took: Duration::ZERO,
        }
    }

    pub fn illegal(cast: &Cast, error: &anyhow::Error) -> Told {
        Told::blank(cast, Verdict::Illegal(format!("{error:#}")))
    }

    pub fn broken(cast: &Cast, error: &anyhow::Error) -> Told {
        Told::blank(cast, Verdict::Broken(format!("{error:#}")))
    }

    pub fn skipped(cast: &Cast, why: &str) -> Told {
        Told::blank(cast, Verdict::Skipped(why.to_owned()))
    }

    /// A run that was judged.
    pub fn found(
        pair: &Pair,
        cast: &Cast,
        code: i32,
        struck: Option<Instant>,
        began: Instant,
        killed_at: &[&'static str],
        found: &Found,
    ) -> Told {
        let mut verdict = Verdict::Legal;
        if found.report["outcome"] == "held" {
            verdict = Verdict::Illegal(format!("held: {}", found.report["error"]));
        }
        if !found.ledger.is_exact() {
            verdict = Verdict::Illegal(format!("the ledger is not exact: {}", found.ledger));
        }
        let held = pair.points.whole_trace().iter().any(|name| name == "act.hold_traffic.before");
        let put_back = held && found.serving == cast.direction.from();
        Told {
            struck: struck.is_some(),
            code: Some(code),
            serving: found.serving.name(),
            pause_ms: found.report["pause_ms"].as_f64(),
            gap: pair.ledger.longest_gap(began),
            abort: (put_back && struck.is_some()).then_some(found.longest_wait),
            given_up: found.abort_wait.filter(|_| put_back && struck.is_some()),
            deaths: pair.deaths,
            killed_at: killed_at.to_vec(),
            lost: found.ledger.lost,
            duplicated: found.ledger.duplicated,
            client_errors: found.client_errors,
            ..Told::blank(cast, verdict)
        }
    }

    /// Whether a person has to look at it.
    pub fn is_wrong(&self) -> bool {
        matches!(self.verdict, Verdict::Illegal(_) | Verdict::Broken(_))
    }

    fn line(&self) -> String {
        let mut line = format!(
            "{:>4}  {:<7} {} at {}{}",
            self.number,
            self.direction,
            self.fault,
            self.place,
            if self.struck { "" } else { " (never came)" }
        );
        match &self.verdict {
            Verdict::Skipped(why) => write!(line, "  skipped: {why}"),
            Verdict::Illegal(why) => write!(line, "  ILLEGAL ({}): {why}", self.servers),
            Verdict::Broken(why) => write!(line, "  NOT RUN ({}): {why}", self.servers),
            Verdict::Legal => write!(
                line,
                "  {} serves, exit {}, gap {} ms{}, {:.1} s",
                self.serving,
                self.code.unwrap_or(-1),
                self.gap.as_millis(),
                self.abort.map_or(String::new(), |abort| format!(
                    ", back after {} ms",
                    abort.as_millis()
                )),
                self.took.as_secs_f64()
            ),
        }
        .unwrap_or_else(|error| unreachable!("writing to a string: {error}"));
        line
    }
}

/// All runs.
#[derive(Debug)]
pub struct Summary {
    engine: Engine,
    seed: u64,
    only: Option<String>,
    is_loud: bool,
    runs: Vec<Told>,
    /// Pairs whose sides were equal at their end.
    pub pairs_equal: usize,
    /// Pairs whose sides were not: why.
    pub pairs_differ: Vec<String>,
    pub took: Duration,
}

impl Summary {
    pub fn new(options: &Options) -> Summary {
        Summary {
            engine: options.engine,
            seed: options.seed,
            only: options.only.clone(),
            is_loud: options.is_loud,
            runs: Vec::new(),
            pairs_equal: 0,
            pairs_differ: Vec::new(),
            took: Duration::ZERO,
        }
    }

    /// Adds a run, and says so.
    pub fn add(&mut self, told: Told, logs: Option<PathBuf>) {
        if self.is_loud {
            eprintln!("{}", told.line());
            if told.is_wrong() {
                if let Some(logs) = logs {
                    eprintln!("      logs: {}", logs.display());
                }
                eprintln!("      again: {}", self.replay(told.number));
            }
        }
        self.runs.push(told);
    }

    /// The last comparison of a pair has failed.
    pub fn sides_differ(&mut self, pair: &Pair, error: &anyhow::Error, logs: Option<PathBuf>) {
        let logs = logs.map_or(String::new(), |logs| format!("; logs: {}", logs.display()));
        let text = format!("{}: {error:#}{logs}", pair.describe());
        if self.is_loud {
            eprintln!("      SIDES DIFFER {text}");
        }
        self.pairs_differ.push(text);
    }

    fn replay(&self, number: u64) -> String {
        let only = self.only.as_ref().map_or(String::new(), |only| format!(" ONLY='{only}'"));
        let engine = self.engine.name();
        format!("make chaos ENGINE={engine} SEED={} RUNS=1 AT={number}{only}", self.seed)
    }

    /// Runs that ended as they may not, with the command that plays each again.
    pub fn wrong(&self) -> Vec<String> {
        let wrong = self.runs.iter().filter(|told| told.is_wrong());
        let runs = wrong.map(|told| format!("{}\n{}", told.line(), self.replay(told.number)));
        runs.chain(self.pairs_differ.iter().cloned()).collect()
    }

    /// Runs that were played, faults that can't be done here not counted.
    pub fn played(&self) -> usize {
        self.runs.iter().filter(|told| !matches!(told.verdict, Verdict::Skipped(_))).count()
    }

    /// Failpoints at which a process was killed.
    pub fn failpoints(&self) -> BTreeSet<&'static str> {
        self.runs.iter().flat_map(|told| told.killed_at.iter().copied()).collect()
    }

    fn aborts(&self, dead: bool) -> Vec<Duration> {
        let runs = self.runs.iter().filter(|told| (told.deaths > 0) == dead);
        runs.filter_map(|told| told.abort).collect()
    }

    /// From when a living sidecar gave a run up.
    fn given_up(&self) -> Vec<Duration> {
        let runs = self.runs.iter().filter(|told| told.deaths == 0);
        runs.filter_map(|told| told.given_up).collect()
    }

    /// The table: fault, moment, how its runs ended, the worst pause, the ledger.
    pub fn table(&self) -> String {
        let mut rows: BTreeMap<(&str, &str), Vec<&Told>> = BTreeMap::new();
        for told in &self.runs {
            rows.entry((&told.fault, &told.place)).or_default().push(told);
        }
        let mut text = format!(
            "{:<44} {:<46} {:>4}  {:<26} {:>9} {:>9} {:>9}  ledger\n",
            "fault", "at", "runs", "served at the end", "gap ms", "pause ms", "back ms"
        );
        for ((fault, place), runs) in rows {
            let mut ends: BTreeMap<String, usize> = BTreeMap::new();
            for told in &runs {
                let end = match &told.verdict {
                    Verdict::Legal if told.struck => told.serving.to_owned(),
                    Verdict::Legal => format!("{} (never came)", told.serving),
                    Verdict::Illegal(_) => "ILLEGAL".into(),
                    Verdict::Skipped(_) => "skipped".into(),
                    Verdict::Broken(_) => "not run".into(),
                };
                *ends.entry(end).or_default() += 1;
            }
            let ends: Vec<_> = ends.iter().map(|(end, count)| format!("{end} {count}")).collect();
            let worst = |values: Vec<f64>| {
                let worst = values.into_iter().fold(f64::NAN, f64::max);
                if worst.is_nan() { "-".to_owned() } else { format!("{worst:.0}") }
            };
            let gap = runs.iter().map(|told| told.gap.as_secs_f64() * 1e3).collect();
            let pause = runs.iter().filter_map(|told| told.pause_ms).collect();
            let abort = runs.iter().filter_map(|told| told.abort);
            let abort = abort.map(|abort| abort.as_secs_f64() * 1e3).collect();
            let wrong: usize = runs.iter().map(|told| told.lost + told.duplicated).sum();
            let ledger = if wrong == 0 { "exact".to_owned() } else { format!("{wrong} WRONG") };
            let line = format!(
                "{fault:<44} {place:<46} {:>4}  {:<26} {:>9} {:>9} {:>9}  {ledger}\n",
                runs.len(),
                ends.join(", "),
                worst(gap),
                worst(pause),
                worst(abort)
            );
            text.push_str(&line);
        }
        let killed = self.failpoints();
        let missing: Vec<_> = FAILPOINTS.iter().filter(|name| !killed.contains(*name)).collect();
        if !missing.is_empty() && self.runs.len() >= FAILPOINTS.len() {
            text.push_str(&format!("failpoints at which nobody was killed: {missing:?}\n"));
        }
        text
    }

    /// The last line.
    pub fn json(&self) -> Value {
        let count = |wanted: fn(&Verdict) -> bool| {
            self.runs.iter().filter(|told| wanted(&told.verdict)).count()
        };
        let legal = count(|verdict| *verdict == Verdict::Legal);
        let ms =
            |durations: Vec<Duration>| percentile(durations, 99).map(|at| at.as_millis() as u64);
        let held = self.runs.iter().filter(
            |told| matches!(&told.verdict, Verdict::Illegal(why) if why.starts_with("held")),
        );
        json!({
            "chaos": self.played(),
            "lost": self.runs.iter().map(|told| told.lost).sum::<usize>(),
            "duplicated": self.runs.iter().map(|told| told.duplicated).sum::<usize>(),
            "client_errors": self.runs.iter().map(|told| told.client_errors).sum::<usize>(),
            "illegal": count(|verdict| matches!(verdict, Verdict::Illegal(_)))
                + self.pairs_differ.len(),
            "unattended": legal,
            "held": held.count(),
            "struck": self.runs.iter().filter(|told| told.struck).count(),
            "skipped": count(|verdict| matches!(verdict, Verdict::Skipped(_))),
            "not_run": count(|verdict| matches!(verdict, Verdict::Broken(_))),
            "failpoints": self.failpoints().len(),
            "failpoints_all": FAILPOINTS.len(),
            "pairs_equal": self.pairs_equal,
            "abort_p99_ms": ms(self.aborts(true)),
            "abort_alive_p99_ms": ms(self.given_up()),
            "abort_alive_from_fault_p99_ms": ms(self.aborts(false)),
            "aborts": self.aborts(true).len(),
            "aborts_alive": self.aborts(false).len(),
            "seconds": self.took.as_secs(),
            "engine": self.engine.name(),
            "seed": self.seed,
        })
    }

    /// Whether everything ended as it may, and everything could be run.
    pub fn is_clean(&self) -> bool {
        self.wrong().is_empty()
    }
}

/// The smallest that this many percent do not exceed (nearest rank).
fn percentile(mut all: Vec<Duration>, percent: usize) -> Option<Duration> {
    all.sort_unstable();
    let rank = (all.len() * percent).div_ceil(100);
    all.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let all: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(all.clone(), 99), Some(Duration::from_millis(198)));
        assert_eq!(percentile(all[..1].to_vec(), 99), Some(Duration::from_millis(1)));
        assert_eq!(percentile(Vec::new(), 99), None);
    }
}
