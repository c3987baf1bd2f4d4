//! When to try: the lag expression, and how long it has to hold.
//!
//! The gate only decides when to *begin*; that nothing is lost is proven later, by the marker.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tokio::time::Instant;

use crate::lag::{LagReading, SAMPLE_INTERVAL, STALE_AFTER};
use crate::ports::{Obstacle, Progress, Writers};
use crate::side::Side;

/// The smallest time bound: the lag is measured in steps of [`SAMPLE_INTERVAL`], and five of them
/// are needed to tell a lag from noise.
pub const TIME_MIN: Duration = Duration::from_millis(5 * SAMPLE_INTERVAL.as_millis() as u64);

/// Samples that have to be good in a row, however short the time to hold is.
const SAMPLES_MIN: u32 = 5;

/// What one clause bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    Seconds(f64),
    Bytes(u64),
    Transactions(u64),
}

#[derive(Debug, Clone, PartialEq)]
struct Clause {
    bound: Bound,
    inclusive: bool,
    text: String,
}

/// A condition on the lag: clauses that must all hold.
///
/// `expr := clause (',' clause)*`, `clause := ['<' | '<=' | 'lt' | 'le'] number unit`, with the
/// units `ms s m`, `B kB KiB MB MiB GB GiB` and `tx`. `1s` means `<1s`.
#[derive(Debug, Clone, PartialEq)]
pub struct LagExpr {
    clauses: Vec<Clause>,
}

/// The text is not a lag expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseExprError(String);

impl FromStr for LagExpr {
    type Err = ParseExprError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let clauses = text.split(',').map(parse_clause).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { clauses })
    }
}

fn parse_clause(text: &str) -> Result<Clause, ParseExprError> {
    let refuse = |why: String| Err(ParseExprError(why));
    let shown: String = text.trim().chars().take(40).collect();
    let text = text.trim();
    if text.is_empty() {
        return refuse("a lag condition is empty; expected for example '<1s'".into());
    }
    if text.starts_with('>') || text.starts_with("gt") || text.starts_with("ge") {
        let rest = text.trim_start_matches(|c: char| !c.is_ascii_digit());
        return refuse(format!("'{shown}' asks for a lag above a bound; did you mean '<{rest}'?"));
    }
    if let Some(rest) = text.strip_prefix('=') {
        return refuse(format!(
            "'{shown}': a lag is never exactly a number; did you mean '<{}'?",
            rest.trim_start_matches('=')
        ));
    }
    let (inclusive, rest) = match text {
        _ if text.starts_with("<=") => (true, &text[2..]),
        _ if text.starts_with("le") => (true, &text[2..]),
        _ if text.starts_with("lt") => (false, &text[2..]),
        _ if text.starts_with('<') => (false, &text[1..]),
        _ => (false, text),
    };
    let rest = rest.trim();
    let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
    let (number, unit) = (&rest[..digits], rest[digits..].trim());
    let Ok(number) = number.parse::<f64>() else {
        return refuse(format!(
            "'{shown}' is not a lag condition; expected for example '<1s', '<=5MB' or '<100tx'"
        ));
    };
    let whole = |factor: f64| (number * factor) as u64;
    let bound = match unit {
        "ms" => Bound::Seconds(number / 1e3),
        "s" => Bound::Seconds(number),
        "m" => Bound::Seconds(number * 60.0),
        "B" => Bound::Bytes(whole(1.0)),
        "kB" => Bound::Bytes(whole(1e3)),
        "KiB" => Bound::Bytes(whole(1024.0)),
        "MB" => Bound::Bytes(whole(1e6)),
        "MiB" => Bound::Bytes(whole(1024.0 * 1024.0)),
        "GB" => Bound::Bytes(whole(1e9)),
        "GiB" => Bound::Bytes(whole(1024.0 * 1024.0 * 1024.0)),
        "tx" => Bound::Transactions(whole(1.0)),
        "" => return refuse(format!("'{shown}' has no unit; did you mean '<{number}s'?")),
        _ => {
            return refuse(format!(
                "'{shown}': unknown unit; use ms, s, m, B, kB, KiB, MB, MiB, GB, GiB or tx"
            ));
        }
    };
    let least_ms = TIME_MIN.as_millis();
    match bound {
        Bound::Seconds(seconds) if seconds < TIME_MIN.as_secs_f64() => {
            return refuse(format!(
                "'{shown}' can't be told from no lag at all: the lag is sampled every {} ms. \
                 The smallest bound is {least_ms}ms",
                SAMPLE_INTERVAL.as_millis()
            ));
        }
        Bound::Seconds(_) => {}
        Bound::Bytes(0) | Bound::Transactions(0) if !inclusive => {
            return refuse(format!("'{shown}' never holds; did you mean '<{least_ms}ms'?"));
        }
        Bound::Bytes(_) | Bound::Transactions(_) => {}
    }
    let sign = if inclusive { "<=" } else { "<" };
    Ok(Clause { bound, inclusive, text: format!("{sign}{number}{unit}") })
}

impl fmt::Display for LagExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, clause) in self.clauses.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{}", clause.text)?;
        }
        Ok(())
    }
}

/// How a value stands to its bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Under,
    Over,
    /// At twice the bound or more, or not known.
    FarOver,
}

impl Clause {
    fn judge(&self, reading: &LagReading) -> (Standing, String) {
        let (value, bound, shown) = match self.bound {
            Bound::Seconds(bound) => match reading.seconds {
                Some(seconds) => (seconds, bound, format!("{seconds:.2} s")),
                None => return (Standing::FarOver, "the lag is unknown".into()),
            },
            Bound::Bytes(bound) => match (reading.seconds, reading.bytes) {
                // A byte count beside an unknown time lag may be stale.
                (Some(_), Some(bytes)) => (bytes as f64, bound as f64, format!("{bytes} B")),
                _ => return (Standing::FarOver, "the lag is unknown".into()),
            },
            Bound::Transactions(bound) => match reading.seconds {
                Some(_) => {
                    let count = reading.transactions;
                    (count as f64, bound as f64, format!("{count} tx"))
                }
                None => return (Standing::FarOver, "the lag is unknown".into()),
            },
        };
        let standing = if value < bound || (self.inclusive && value <= bound) {
            Standing::Under
        } else if value < 2.0 * bound {
            Standing::Over
        } else {
            Standing::FarOver
        };
        (standing, format!("the lag is {shown}, not {}", self.text))
    }
}

/// What the gate says.
#[derive(Debug, Clone, PartialEq)]
pub struct GateState {
    /// It has held for long enough: go.
    pub passed: bool,
    /// How long it has held.
    pub held: Duration,
    /// Why it does not hold now.
    pub waiting_for: Option<Obstacle>,
}

/// Watches the condition over time. Pure: all time comes in through [`Gate::observe`].
///
/// Time counts only while everything is good. Between the bound and twice the bound the count
/// stands still; beyond, or when anything is unknown, it starts over. It passes only on a good
/// sample.
#[derive(Debug)]
pub struct Gate {
    expr: LagExpr,
    hold_for: Duration,
    samples_needed: u32,
    max_pause: Duration,
    leaving: Side,
    held: Duration,
    samples: u32,
    last: Option<(Instant, Standing)>,
}

impl Gate {
    /// A gate that passes when `expr` has held for `hold_for` and a pause of at most `max_pause`
    /// is in sight. A zero `hold_for` passes on the first good sample.
    pub fn new(expr: LagExpr, hold_for: Duration, max_pause: Duration) -> Self {
        let samples_needed = if hold_for.is_zero() { 1 } else { SAMPLES_MIN };
        Self {
            expr,
            hold_for,
            samples_needed,
            max_pause,
            leaving: Side::Blue,
            held: Duration::ZERO,
            samples: 0,
            last: None,
        }
    }

    /// The same in front of the side that is to be left: blue, if nothing is said.
    pub fn leaving(self, side: Side) -> Self {
        Self { leaving: side, ..self }
    }

    /// The engine and the side that is to be left as they are at `now`.
    pub fn observe(&mut self, now: Instant, progress: &Progress, writers: &Writers) -> GateState {
        let (standing, waiting_for) = self.judge(now, progress, writers);
        let since_last = self.last.map(|(at, was)| (now.saturating_duration_since(at), was));
        match (standing, since_last) {
            (Standing::FarOver, _) => self.start_over(),
            // A gap between two looks hides whatever happened in it.
            (_, Some((gap, _))) if gap > STALE_AFTER => {
                self.start_over();
                self.samples = u32::from(standing == Standing::Under);
            }
            (Standing::Under, Some((gap, Standing::Under))) => {
                self.held += gap;
                self.samples += 1;
            }
            (Standing::Under, _) => self.samples += 1,
            (Standing::Over, _) => {}
        }
        self.last = Some((now, standing));
        let passed = standing == Standing::Under
            && self.held >= self.hold_for
            && self.samples >= self.samples_needed;
        GateState { passed, held: self.held, waiting_for }
    }

    fn start_over(&mut self) {
        self.held = Duration::ZERO;
        self.samples = 0;
    }

    fn judge(
        &self,
        now: Instant,
        progress: &Progress,
        writers: &Writers,
    ) -> (Standing, Option<Obstacle>) {
        let far_over = |why| (Standing::FarOver, Some(why));
        if let Some(blocked) = &progress.blocked {
            return far_over(blocked.clone());
        }
        let age = now.saturating_duration_since(progress.lag.at);
        if age > STALE_AFTER {
            let why = format!("the lag is unknown: no news from the stream for {age:.1?}");
            return far_over(Obstacle::passing(why));
        }
        if !writers.prepared.is_empty() {
            let why = format!(
                "{} has prepared transactions, which a fence can't stop: {}",
                self.leaving,
                writers.prepared.join(", ")
            );
            // Whoever coordinates them ends them.
            return far_over(Obstacle::passing(why));
        }
        let budget = self.max_pause / 2;
        if let Some(oldest) = writers.oldest.filter(|oldest| *oldest > budget) {
            let someone = || format!("a session on {}", self.leaving);
            let who = writers.oldest_who.clone().unwrap_or_else(someone);
            let why = format!("{who} has been writing for {oldest:.1?}; at most {budget:.1?}");
            return far_over(Obstacle::passing(why));
        }
        let judged = self.expr.clauses.iter().map(|clause| clause.judge(&progress.lag));
        if let Some((standing, why)) =
            judged.max_by_key(|(standing, _)| *standing).filter(|(s, _)| *s != Standing::Under)
        {
            let why = progress.lag.reason.as_ref().map_or(why.clone(), |r| format!("{why}: {r}"));
            return (standing, Some(Obstacle::passing(why)));
        }
        match progress.lag.drain_estimate_seconds {
            Some(seconds) if seconds > budget.as_secs_f64() => {
                let why = format!(
                    "applying what is outstanding would take {seconds:.2} s; at most {budget:.1?}"
                );
                (Standing::Over, Some(Obstacle::passing(why)))
            }
            // Nothing was applied lately, and something waits: how long it takes is anybody's
            // guess, so it is not the moment to begin. An idle blue has no lag.
            None if progress.lag.bytes.is_some_and(|bytes| bytes > 0)
                && progress.lag.seconds.is_some_and(|seconds| seconds > 0.0) =>
            {
                let why = "how long applying what is outstanding would take is unknown: nothing \
                           was applied lately";
                (Standing::Over, Some(Obstacle::passing(why)))
            }
            _ => (Standing::Under, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expr(text: &str) -> LagExpr {
        text.parse().unwrap()
    }

    fn progress(at: Instant, seconds: Option<f64>) -> Progress {
        let lag = LagReading {
            at,
            seconds,
            bytes: Some(0),
            transactions: 0,
            drain_estimate_seconds: Some(0.0),
            reason: None,
        };
        Progress { lag, blocked: None, transactions_per_second: None }
    }

    #[test]
    fn the_grammar() {
        for (text, canonical) in [
            ("1s", "<1s"),
            ("<1s", "<1s"),
            ("<= 5MB,<2s", "<=5MB,<2s"),
            ("lt1s", "<1s"),
            ("le500ms", "<=500ms"),
            ("<0.5s", "<0.5s"),
            ("<100tx", "<100tx"),
            ("<=0B", "<=0B"),
        ] {
            assert_eq!(expr(text).to_string(), canonical);
        }
    }

    #[test]
    fn what_it_refuses_and_the_hints() {
        for (text, hint) in [
            (">5s", "'<5s'"),
            ("=1s", "'<1s'"),
            ("0s", "500ms"),
            ("<0s", "500ms"),
            ("100ms", "500ms"),
            ("--yes", "not a lag condition"),
            ("", "empty"),
            ("<1s,", "empty"),
            ("1", "'<1s'"),
            ("1h", "unknown unit"),
            ("<1.2.3s", "not a lag condition"),
            ("<0B", "never holds"),
        ] {
            let error = text.parse::<LagExpr>().unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }

    fn observe(gate: &mut Gate, start: Instant, ms: u64, seconds: Option<f64>) -> GateState {
        let now = start + Duration::from_millis(ms);
        gate.observe(now, &progress(now, seconds), &Writers::default())
    }

    #[test]
    fn it_passes_after_it_has_held() {
        let start = Instant::now();
        let mut gate = Gate::new(expr("<1s"), Duration::from_secs(3), Duration::from_secs(2));
        for ms in (0..3000).step_by(100) {
            assert!(!observe(&mut gate, start, ms, Some(0.1)).passed, "{ms}");
        }
        assert!(observe(&mut gate, start, 3000, Some(0.1)).passed);
    }

    #[test]
    fn between_one_and_two_bounds_the_count_stands_still_and_beyond_it_starts_over() {
        let start = Instant::now();
        let mut gate = Gate::new(expr("<1s"), Duration::from_secs(3), Duration::from_secs(2));
        for ms in (0..=2000).step_by(100) {
            observe(&mut gate, start, ms, Some(0.1));
        }
        let over = observe(&mut gate, start, 2100, Some(1.5));
        assert_eq!((over.passed, over.held), (false, Duration::from_secs(2)));
        assert!(over.waiting_for.unwrap().why.contains("1.50 s"));
        assert_eq!(observe(&mut gate, start, 2200, Some(2.0)).held, Duration::ZERO);
        observe(&mut gate, start, 2300, Some(0.1));
        assert_eq!(observe(&mut gate, start, 2400, None).held, Duration::ZERO);
    }

    #[test]
    fn silence_is_not_consent() {
        let start = Instant::now();
        let mut gate = Gate::new(expr("<1s"), Duration::from_secs(3), Duration::from_secs(2));
        let stale = progress(start, Some(0.0));
        for ms in (0..10_000).step_by(100) {
            let now = start + Duration::from_millis(ms);
            assert!(!gate.observe(now, &stale, &Writers::default()).passed, "{ms}");
        }
        // Nor is a look every few seconds a hold.
        for s in 10..30 {
            assert!(!observe(&mut gate, start, s * 1500, Some(0.0)).passed);
        }
    }

    #[test]
    fn writers_and_prepared_transactions_hold_it_up() {
        let start = Instant::now();
        let mut gate = Gate::new(expr("<1s"), Duration::ZERO, Duration::from_secs(2));
        let long = Writers {
            oldest: Some(Duration::from_secs(41)),
            oldest_who: Some("pid 8812".into()),
            ..Writers::default()
        };
        let state = gate.observe(start, &progress(start, Some(0.0)), &long);
        assert!(!state.passed && state.waiting_for.unwrap().why.contains("pid 8812"));
        let prepared = Writers { prepared: vec!["gid".into()], ..Writers::default() };
        assert!(!gate.observe(start, &progress(start, Some(0.0)), &prepared).passed);
        assert!(gate.observe(start, &progress(start, Some(0.0)), &Writers::default()).passed);
    }

    #[test]
    fn outstanding_bytes_without_a_rate_are_no_moment_to_begin() {
        let start = Instant::now();
        let mut gate = Gate::new(expr("<1s"), Duration::ZERO, Duration::from_secs(2));
        let mut progress = progress(start, Some(0.2));
        progress.lag.drain_estimate_seconds = None;
        progress.lag.bytes = Some(4096);
        let state = gate.observe(start, &progress, &Writers::default());
        assert!(!state.passed && state.waiting_for.unwrap().why.contains("nothing was applied"));
        // Without a lag, as behind a trickle of records that change nothing: go.
        progress.lag.seconds = Some(0.0);
        assert!(gate.observe(start, &progress, &Writers::default()).passed);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,20}") {
            let _ = text.parse::<LagExpr>();
        }

        #[test]
        fn it_never_passes_on_unknown(lags in proptest::collection::vec(
            proptest::option::of(0.0f64..3.0), 1..200)
        ) {
            let start = Instant::now();
            let mut gate = Gate::new(expr("<1s"), Duration::from_millis(500), Duration::from_secs(2));
            for (beat, lag) in lags.into_iter().enumerate() {
                let state = observe(&mut gate, start, beat as u64 * 100, lag);
                prop_assert!(!state.passed || lag.is_some_and(|lag| lag < 1.0));
            }
        }
    }
}
