//! Whether the proxy answers, as its keeper has last seen it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// What is known of the proxy. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<Mutex<Seen>>);

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// `None`: nobody has looked yet.
    answers: Option<bool>,
    lost_at: Option<Instant>,
}

impl Pulse {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// It answers.
    pub(super) fn answers(&self) {
        self.seen().answers = Some(true);
    }

    /// It does not answer, has ended, or can't be started. Whether that is news.
    pub(super) fn is_lost(&self) -> bool {
        let mut seen = self.seen();
        let is_news = seen.answers != Some(false);
        *seen = Seen { answers: Some(false), lost_at: Some(Instant::now()) };
        is_news
    }

    /// Whether it answers; `None` before somebody has looked, and without a proxy.
    pub fn is_up(&self) -> Option<bool> {
        self.seen().answers
    }

    /// Seconds since it was last lost, 0 while it is; `None` if it never was.
    pub fn lost_age_seconds(&self) -> Option<f64> {
        let seen = *self.seen();
        let age = seen.lost_at.map(|at| at.elapsed().as_secs_f64());
        if seen.answers == Some(false) { Some(0.0) } else { age }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_came_back_was_lost_all_the_same() {
        let pulse = Pulse::default();
        let known = || (pulse.is_up(), pulse.lost_age_seconds().is_some());
        assert_eq!(known(), (None, false));
        pulse.answers();
        assert_eq!(known(), (Some(true), false));
        assert!(pulse.is_lost() && !pulse.is_lost());
        assert_eq!((pulse.is_up(), pulse.lost_age_seconds()), (Some(false), Some(0.0)));
        pulse.answers();
        assert_eq!(known(), (Some(true), true));
    }
}
