//! By what a monitor is judged.

use std::time::Duration;

use crate::api::MonitorAction;

/// The rule of one monitor.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The monitor's name.
    pub name: String,
    /// Between two samples.
    pub interval: Duration,
    /// How long taking one may take beyond that.
    pub patience: Duration,
    /// A breach takes so many bad samples...
    pub failures: usize,
    /// ...of the newest so many.
    pub of: usize,
    /// What a breach leads to.
    pub action: MonitorAction,
    /// Whether it must have been seen to be well before the flip: what was bad before is not the
    /// flip's doing, and going back would not mend it.
    pub needs_before: bool,
    /// What the samples are held against, in words.
    pub limit: String,
}

impl Rule {
    /// A sample says nothing about the present once it is so old.
    pub fn stale_after(&self) -> Duration {
        let of = u32::try_from(self.of).unwrap_or(u32::MAX);
        (self.interval + self.patience).saturating_mul(of.saturating_add(1))
    }
}
