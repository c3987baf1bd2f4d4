//! A verification that goes on: rows that the stream has written since are looked at again, so that
//! only the last seconds are without a proof.

use serde::{Deserialize, Serialize};

use super::gate::{Known, REQUIRED_BY_DEFAULT};
use super::wire::{Mode, Verdict};
use crate::side::Side;

/// A table that has to be compared again as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DirtyTable {
    /// Its name, quoted.
    pub table: String,
    /// Why its rows can't be looked at one by one.
    pub why: String,
    /// Since when, seconds.
    pub seconds: f64,
}

/// How it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContinuousStatus {
    /// Of which verification.
    pub id: String,
    /// The side that is taken as right.
    pub source: Side,
    /// Everything was compared once; until then nothing is proven.
    pub is_proven: bool,
    /// Rows that were written since they were last compared.
    pub unproven_rows: u64,
    /// How long the oldest of them, or of the dirty tables, has been waiting, seconds.
    pub oldest_seconds: Option<f64>,
    /// Tables that have to be compared again.
    pub dirty: Vec<DirtyTable>,
    /// How long ago everything was compared, seconds.
    pub compared_seconds: f64,
    /// The stream's lag: what it has yet to bring is not proven either, seconds.
    pub lag_seconds: Option<f64>,
    /// Why nothing of it counts any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub void: Option<String>,
    /// Rows that were looked at again so far.
    pub rechecked: u64,
    /// Differences that were found on the way.
    pub differences: u64,
    /// Why it can't look at the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl ContinuousStatus {
    /// What it is worth for the gate: a verification that began when the oldest row without a proof
    /// was written. `None` before all tables were compared once, while one has to be compared again,
    /// while the lag is not known, and once all that was compared is older than what is asked for by
    /// default: what is no row, and what was written on the target alone, was looked at only then.
    pub fn known(&self, mode: Mode, is_whole: bool, now: jiff::Timestamp) -> Option<Known> {
        let is_old = self.compared_seconds > REQUIRED_BY_DEFAULT.as_secs_f64();
        let is_none = self.void.is_some() || is_old || !self.dirty.is_empty();
        if !self.is_proven || (is_none && self.differences == 0) {
            return None;
        }
        let lag = match (self.lag_seconds, self.differences) {
            (Some(lag), _) => lag,
            (None, 0) => return None,
            (None, _) => 0.0,
        };
        let oldest = self.oldest_seconds.unwrap_or(0.0).max(lag).max(0.0);
        let age = jiff::SignedDuration::try_from_secs_f64(oldest).ok()?;
        Some(Known {
            id: self.id.clone(),
            mode,
            verdict: if self.differences > 0 { Verdict::Different } else { Verdict::Equal },
            source: self.source,
            started: now.checked_sub(age).ok()?,
            is_whole,
            differences: self.differences,
        })
    }

    /// One sentence for plans and the status.
    pub fn sentence(&self) -> String {
        let oldest = self
            .oldest_seconds
            .map_or(String::new(), |seconds| format!(", the oldest for {seconds:.1} s"));
        if let Some(void) = &self.void {
            return format!("{void}: cutover verify --continuous, once more");
        }
        match (self.is_proven, self.dirty.as_slice()) {
            (false, _) => "everything is being compared for the first time".to_owned(),
            (true, _) if self.differences > 0 => {
                format!("{} differences were found since", self.differences)
            }
            (true, []) if self.unproven_rows == 0 => {
                "every row was proven, and none that the stream brought since is left to look at"
                    .to_owned()
            }
            (true, []) => format!(
                "{} rows are not proven yet{oldest}; what is left of them at the fence is covered \
                 by the stream's own row checks",
                self.unproven_rows
            ),
            (true, dirty) => format!(
                "{} tables have to be compared again{oldest}: {} ({})",
                dirty.len(),
                dirty[0].table,
                dirty[0].why
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn status() -> ContinuousStatus {
        ContinuousStatus {
            id: "x".into(),
            source: Side::Blue,
            is_proven: true,
            unproven_rows: 3,
            oldest_seconds: Some(2.0),
            dirty: vec![],
            compared_seconds: 3600.0,
            lag_seconds: Some(0.1),
            void: None,
            rechecked: 9,
            differences: 0,
            trouble: None,
        }
    }

    #[test]
    fn it_is_as_old_as_its_oldest_row() {
        let now = Timestamp::from_second(100).unwrap();
        let known = |status: &ContinuousStatus| status.known(Mode::Checksum, true, now);
        let fresh = known(&status()).unwrap();
        assert_eq!(
            (fresh.started, fresh.verdict),
            (Timestamp::from_second(98).unwrap(), Verdict::Equal)
        );
        assert_eq!(known(&ContinuousStatus { is_proven: false, ..status() }), None);
        let behind = ContinuousStatus { lag_seconds: Some(30.0), ..status() };
        assert_eq!(known(&behind).unwrap().started, Timestamp::from_second(70).unwrap());
        for nothing in [
            ContinuousStatus { lag_seconds: None, ..status() },
            ContinuousStatus { void: Some("a table has come".into()), ..status() },
            ContinuousStatus { compared_seconds: 86_401.0, ..status() },
        ] {
            assert_eq!(known(&nothing), None);
        }
        let dirty = DirtyTable { table: "t".into(), why: "w".into(), seconds: 1.0 };
        let soiled = ContinuousStatus { dirty: vec![dirty], ..status() };
        assert_eq!(known(&soiled), None);
        // What differs stays a difference whatever else has to be done.
        let differs = ContinuousStatus { differences: 1, ..soiled };
        assert_eq!(known(&differs).unwrap().verdict, Verdict::Different);
    }
}
