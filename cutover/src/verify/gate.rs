//! What a verification means for a cutover.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::wire::{Mode, Verdict, VerifyReport};
use crate::side::Side;

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

    fn proves(&self) -> bool {
        self.verdict == Verdict::Equal && self.is_whole && self.is_close()
    }
}

/// Why a cutover that leaves `from` must not begin; `None`: as far as verifications go, it may.
///
/// With `require`: the last verification has to have found, in `full` or `checksum` mode and
/// everywhere, that both sides are equal, and must not be older than that. Without: it must not have
/// found that they differ.
pub fn refusal(
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
        _ => Some(format!("verification {} is older than that", known.id)),
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
    fn known_differences_refuse_by_default() {
        let different = known(Verdict::Different, Mode::Count, false);
        assert!(refused(Some(&different), None, 0) && refused(Some(&different), Some(60), 0));
    }
}
