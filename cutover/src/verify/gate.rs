//! What a verification means for a cutover.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::wire::{Mode, Verdict, VerifyReport};
use crate::api::Check;
use crate::side::Side;

/// How young a proof has to be if nobody says, once there is a verification.
pub const REQUIRED_BY_DEFAULT: Duration = Duration::from_secs(24 * 60 * 60);
/// The check's name in a plan.
const CHECK: &str = "verification";
const FIX: &str = "cutover verify; to go all the same: --accept-differences";

/// What a cutover asks of the verifications before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requirement {
    /// A proof within this time.
    pub within: Option<Duration>,
    /// Whatever the last one has found, unless `within` says otherwise.
    pub accepts: bool,
}

impl Requirement {
    /// As a request says it.
    pub fn new(within_ms: Option<u64>, accepts: bool) -> Self {
        Self { within: within_ms.map(Duration::from_millis), accepts }
    }

    /// Why a cutover that leaves `from` must not begin; `None`: as far as verifications go, it may.
    ///
    /// Where a verification is known, one of the last day is asked for if nobody says.
    pub fn refusal(self, known: Option<&Known>, from: Side, now: Timestamp) -> Option<String> {
        if self.accepts && self.within.is_none() {
            return None;
        }
        let is_known = known.is_some_and(|known| known.source == from);
        let within = self.within.or(is_known.then_some(REQUIRED_BY_DEFAULT));
        refusal(known, within, from, now)
    }

    /// The same as a check of a plan, with what is known.
    pub fn check(self, known: Option<&Known>, from: Side, now: Timestamp) -> Check {
        if let Some(why) = self.refusal(known, from, now) {
            return Check::fail(CHECK, why, FIX);
        }
        let Some(known) = known.filter(|known| known.source == from) else {
            let evidence = format!("nobody has verified that {} equals {from}", from.other());
            return Check::warn(CHECK, evidence, "cutover verify");
        };
        let found = known.describe(now);
        match known.verdict {
            Verdict::Equal if self.accepts && self.within.is_none() => {
                Check::warn(CHECK, format!("{found}; accepted whatever its age"), "cutover verify")
            }
            Verdict::Equal => {
                let within = self.within.unwrap_or(REQUIRED_BY_DEFAULT);
                let within = humantime::format_duration(within);
                Check::ok(CHECK, format!("{found}; asked for: within {within}"))
            }
            Verdict::Incomplete => {
                Check::warn(CHECK, format!("{found}; accepted"), "cutover verify")
            }
            Verdict::Different => {
                Check::warn(CHECK, format!("{found}; accepted"), "cutover repair --plan")
            }
        }
    }
}

/// What is remembered of the last verification that came to an end, also over a restart. No rows
/// and no keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Its name.
    pub id: String,
    /// How closely.
    pub mode: Mode,
    /// What it came to.
    pub verdict: Verdict,
    /// The side that was taken as right.
    pub source: Side,
    /// When it began: what is not older than this may have come later.
    pub started: Timestamp,
    /// All replicated tables, and everything that is no row.
    pub is_whole: bool,
    /// Differences that it found.
    pub differences: u64,
}

impl Known {
    /// Of a report.
    pub fn of(report: &VerifyReport, is_whole: bool) -> Self {
        Self {
            id: report.id.clone(),
            mode: report.mode,
            verdict: report.verdict,
            source: report.source,
            started: report.started,
            is_whole,
            differences: report.differences,
        }
    }

    /// Of a verification that broke off: it was to compare everything, and has not.
    pub fn broken_off(id: String, mode: Mode, source: Side, started: Timestamp) -> Self {
        let (verdict, is_whole) = (Verdict::Incomplete, true);
        Self { id, mode, verdict, source, started, is_whole, differences: 0 }
    }

    /// Whether it is remembered in the place of `before`. Differences always are, and so is what was
    /// to be a proof, whether it became one or not: an older proof is none any more if the same
    /// question has no answer today. But only a proof takes differences back.
    pub fn replaces(&self, before: Option<&Known>) -> bool {
        match self.verdict {
            Verdict::Different => true,
            Verdict::Equal => self.proves(),
            Verdict::Incomplete => {
                let is_proof = before.is_some_and(Known::proves);
                self.is_close() && self.is_whole && is_proof
            }
        }
    }

    /// Whether it has found differences, or proves that there is none.
    pub fn counts(&self) -> bool {
        self.verdict == Verdict::Different || self.proves()
    }

    fn is_close(&self) -> bool {
        matches!(self.mode, Mode::Full | Mode::Checksum)
    }

    /// What it came to and how long ago, for a plan.
    fn describe(&self, now: Timestamp) -> String {
        let (to, from, mode) = (self.source.other(), self.source, self.mode.name());
        let age = now.duration_since(self.started).as_secs().max(0).unsigned_abs();
        let age = humantime::format_duration(Duration::from_secs(age));
        match self.verdict {
            Verdict::Equal => format!("{to} equals {from} ({mode}, {}, {age} ago)", self.id),
            Verdict::Incomplete => {
                format!("{to} was compared in part ({mode}, {}, {age} ago)", self.id)
            }
            Verdict::Different => {
                format!("{} differences of {to} ({mode}, {}, {age} ago)", self.differences, self.id)
            }
        }
    }

    /// Whether it proves that both sides were equal.
    pub fn proves(&self) -> bool {
        self.verdict == Verdict::Equal && self.is_whole && self.is_close()
    }
}

/// Why a cutover that leaves `from` must not begin; `None`: as far as verifications go, it may.
///
/// With `require`: the last verification has to have found, in `full` or `checksum` mode and
/// everywhere, that both sides are equal, and must not be older than that. Without: it must not have
/// found that they differ.
fn refusal(
    known: Option<&Known>,
    require: Option<Duration>,
    from: Side,
    now: Timestamp,
) -> Option<String> {
    let known = known.filter(|known| known.source == from);
    if let Some(known) = known.filter(|known| known.verdict == Verdict::Different) {
        let (id, count, to) = (&known.id, known.differences, from.other());
        return Some(format!(
            "verification {id} has found {count} differences of {to} from {from}"
        ));
    }
    let require = require?;
    let Some(known) = known else {
        return Some("no verification has come to an end yet".into());
    };
    if !known.proves() {
        return Some(format!("verification {} was not of everything, or not to its end", known.id));
    }
    // A clock that was set back makes it young, not old: that is as bad.
    let age = Duration::try_from(now.duration_since(known.started));
    match age {
        Ok(age) if age <= require => None,
        _ => {
            let require = humantime::format_duration(require);
            Some(format!("verification {} is older than {require}", known.id))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(verdict: Verdict, mode: Mode, is_whole: bool) -> Known {
        Known {
            id: "x".into(),
            mode,
            verdict,
            source: Side::Blue,
            started: Timestamp::UNIX_EPOCH,
            is_whole,
            differences: 0,
        }
    }

    fn refused(known: Option<&Known>, require: Option<u64>, now: i64) -> bool {
        let now = Timestamp::from_second(now).unwrap();
        refusal(known, require.map(Duration::from_secs), Side::Blue, now).is_some()
    }

    #[test]
    fn only_a_whole_and_young_proof_counts() {
        let equal = known(Verdict::Equal, Mode::Checksum, true);
        assert!(!refused(Some(&equal), Some(60), 60) && refused(Some(&equal), Some(60), 61));
        assert!(refused(Some(&equal), Some(60), -1), "from the future");
        assert!(refused(None, Some(60), 0) && !refused(None, None, 0));
        let weak = [
            known(Verdict::Equal, Mode::Count, true),
            known(Verdict::Equal, Mode::Sample, true),
            known(Verdict::Equal, Mode::Full, false),
            known(Verdict::Incomplete, Mode::Full, true),
        ];
        for weak in weak {
            assert!(refused(Some(&weak), Some(60), 0) && !refused(Some(&weak), None, 0));
            assert!(!weak.counts());
        }
        let other_way = Known { source: Side::Green, ..equal };
        assert!(refused(Some(&other_way), Some(60), 0));
    }

    #[test]
    fn a_proof_that_could_not_be_repeated_is_none_any_more() {
        let equal = known(Verdict::Equal, Mode::Checksum, true);
        let different = known(Verdict::Different, Mode::Count, false);
        let incomplete = known(Verdict::Incomplete, Mode::Full, true);
        assert!(incomplete.replaces(Some(&equal)) && refused(Some(&incomplete), Some(60), 0));
        assert!(!incomplete.replaces(Some(&different)), "differences stay until there is a proof");
        assert!(!incomplete.replaces(None));
        assert!(equal.replaces(Some(&different)) && different.replaces(Some(&equal)));
        for weak in [
            known(Verdict::Incomplete, Mode::Full, false),
            known(Verdict::Incomplete, Mode::Sample, true),
            known(Verdict::Equal, Mode::Count, true),
            known(Verdict::Equal, Mode::Full, false),
        ] {
            assert!(!weak.replaces(Some(&equal)) && !weak.replaces(Some(&different)));
        }
    }

    #[test]
    fn a_proof_that_is_known_has_to_be_of_the_last_day() {
        let equal = known(Verdict::Equal, Mode::Checksum, true);
        let by_default = |known: Option<&Known>, hours: i64| {
            let now = Timestamp::from_second(hours * 3600).unwrap();
            let requirement = Requirement::default();
            assert_eq!(
                requirement.refusal(known, Side::Blue, now).is_some(),
                requirement.check(known, Side::Blue, now).severity == crate::api::Severity::Fail
            );
            requirement.refusal(known, Side::Blue, now)
        };
        assert_eq!(by_default(Some(&equal), 24), None);
        assert!(by_default(Some(&equal), 25).unwrap().contains("older than 1day"));
        assert_eq!(by_default(None, 25), None);
        let now = Timestamp::from_second(90_000).unwrap();
        let accepts = Requirement::new(None, true);
        assert_eq!(accepts.refusal(Some(&equal), Side::Blue, now), None);
        let both = Requirement::new(Some(1000), true);
        assert!(both.refusal(Some(&equal), Side::Blue, now).is_some());
    }

    #[test]
    fn known_differences_refuse_by_default() {
        let different = known(Verdict::Different, Mode::Count, false);
        assert!(refused(Some(&different), None, 0) && refused(Some(&different), Some(60), 0));
    }
}
