//! How much of the time a verification may read, while clients of blue work.
//!
//! What a client feels is the slowest answers. So blue is asked the simplest questions, a few
//! in a row, 25 times a second, and beside each chunk that is read. If a part `f` of the answers in the
//! second case is slower than all but a hundredth of those in the first (and a tenth more), and a part
//! `f0` of those in the first is, then letting a share `s` of the clients meet a chunk makes
//! `s * (f - f0)` more of all answers slow. That is kept below a twentieth of a hundredth: the 99th
//! percentile of what clients see then stays near that tenth. (With a fifth and a tenth of a hundredth it
//! was up to 31 % slower, because a quiet percentile is known roughly only.)
//!
//! A lag of the stream that grows cuts the share, too: green is what it is applied to.
//!
//! Pure; [`super::gate`] asks and acts.

use std::collections::VecDeque;
use std::time::Duration;

/// How often blue is asked while clients work: while no chunk is read, and while one that takes long is.
pub(super) const ASK_QUIET: Duration = Duration::from_millis(40);
pub(super) const ASK_READING: Duration = Duration::from_millis(2);
/// Answers that are looked at together: while none is read, and while chunks are.
const QUIET: usize = 500;
const WORKING: usize = 1_000;
/// Fewer of either say nothing.
const ENOUGH: usize = 50;
/// It is judged by them after so many more.
const JUDGED_EVERY: u32 = 8;
/// So much slower than the slowest of the quiet ones is slow.
const SLOWER: f64 = 1.1;
/// And differences below this are the clock's, seconds.
const NOISE: f64 = 100e-6;
/// Part of all answers that may become slow.
const SLOW_SHARE: f64 = 0.0005;
/// The least: if all who meet a chunk are slow, these are fewer than the hundredth that a 99th percentile
/// leaves out. Where it begins, because it would take minutes to learn anything at the least. And the
/// most: it can't learn what is quiet without quiet.
pub(super) const LEAST: f64 = 0.005;
const BEGINNING: f64 = 0.02;
const MOST: f64 = 0.95;
/// The most before [`QUIET`] answers are known: a 99th percentile of few is little more than chance.
const MOST_UNSURE: f64 = 0.1;
/// At most so much more each time: twice as much takes some seconds.
const RISE: f64 = 1.2;
/// A lag from which on it is held back, and one at which it stands at the least, seconds.
pub(super) const LAG: [f64; 2] = [2.0, 10.0];

/// What is known of blue's answers.
#[derive(Debug)]
pub(super) struct Governor {
    quiet: VecDeque<f64>,
    working: VecDeque<f64>,
    /// Answers since it was judged by them.
    unjudged: u32,
    share: f64,
}

impl Default for Governor {
    fn default() -> Self {
        let (quiet, working) = (VecDeque::new(), VecDeque::new());
        Self { quiet, working, unjudged: 0, share: BEGINNING }
    }
}

impl Governor {
    /// Takes an answer's time, and the stream's lag (`None`: unknown).
    pub fn answered(&mut self, took: Duration, is_reading: bool, lag_seconds: Option<f64>) {
        let (answers, most) = match is_reading {
            true => (&mut self.working, WORKING),
            false => (&mut self.quiet, QUIET),
        };
        answers.push_back(took.as_secs_f64());
        if answers.len() > most {
            answers.pop_front();
        }
        self.unjudged += 1;
        if self.unjudged >= JUDGED_EVERY {
            self.unjudged = 0;
            self.share = self.by_answers().min(self.share * RISE).max(LEAST);
        }
        self.share = self.share.min(by_lag(lag_seconds)).clamp(LEAST, MOST);
    }

    /// The part of clients' transactions that may meet a chunk, above 0 and below 1.
    pub fn share(&self) -> f64 {
        self.share
    }

    fn by_answers(&self) -> f64 {
        if self.quiet.len() < ENOUGH || self.working.len() < ENOUGH {
            return BEGINNING;
        }
        let mut quiet: Vec<f64> = self.quiet.iter().copied().collect();
        quiet.sort_by(f64::total_cmp);
        let limit = quiet[quiet.len() * 99 / 100] * SLOWER + NOISE;
        let [with, without] = [&self.working, &self.quiet].map(|answers| {
            let slow = answers.iter().filter(|took| **took > limit).count();
            slow as f64 / answers.len() as f64
        });
        let most = if self.quiet.len() < QUIET { MOST_UNSURE } else { MOST };
        match with - without {
            more if more > 0.0 => (SLOW_SHARE / more).min(most),
            _ => most,
        }
    }
}

fn by_lag(seconds: Option<f64>) -> f64 {
    let [from, to] = LAG;
    match seconds {
        Some(lag) => (1.0 - (lag - from) / (to - from)).clamp(LEAST, 1.0),
        // A sensor that is blind says nothing about the load: the stream may be reconnecting.
        None => LEAST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Duration = Duration::from_micros(100);
    const SLOW: Duration = Duration::from_millis(5);

    /// So many answers of each kind, of which one in `slow_one_in` is slow while chunks are read.
    fn follow(governor: &mut Governor, count: usize, slow_one_in: usize, lag: Option<f64>) -> f64 {
        for number in 0..count {
            governor.answered(FAST, false, lag);
            let took = if number % slow_one_in == 0 { SLOW } else { FAST };
            governor.answered(took, true, lag);
        }
        governor.share()
    }

    #[test]
    fn who_is_not_felt_may_read_nearly_always() {
        let mut governor = Governor::default();
        assert_eq!(follow(&mut governor, 10, usize::MAX, Some(0.0)), BEGINNING);
        assert_eq!(follow(&mut governor, 400, usize::MAX, Some(0.0)), MOST_UNSURE);
        assert_eq!(follow(&mut governor, 1_300, usize::MAX, Some(0.0)), MOST);
    }

    #[test]
    fn the_more_answers_are_slow_the_less_is_read() {
        let mut governor = Governor::default();
        let tenth = follow(&mut governor, 1_000, 10, Some(0.0));
        assert_eq!(tenth, LEAST);
        let fiftieth = follow(&mut Governor::default(), 1_000, 50, Some(0.0));
        assert!((0.023..0.027).contains(&fiftieth), "{fiftieth}");
        assert_eq!(follow(&mut governor, 1_000, 1, Some(0.0)), LEAST);
        assert!(follow(&mut governor, 1_300, usize::MAX, Some(0.0)) > 0.9, "it comes back");
    }

    #[test]
    fn a_blue_that_is_slow_anyway_is_not_made_slow_by_us() {
        let mut governor = Governor::default();
        for number in 0..1_000 {
            let took = if number % 20 == 0 { SLOW } else { FAST };
            governor.answered(took, false, Some(0.0));
            governor.answered(took, true, Some(0.0));
        }
        assert_eq!(governor.share(), MOST);
    }

    #[test]
    fn a_lag_holds_it_back_at_once() {
        let mut governor = Governor::default();
        follow(&mut governor, 1_000, usize::MAX, Some(0.0));
        governor.answered(FAST, false, Some(6.0));
        assert_eq!(governor.share(), 0.5);
        governor.answered(FAST, false, Some(60.0));
        assert_eq!(governor.share(), LEAST);
        follow(&mut governor, 1_000, usize::MAX, Some(0.0));
        governor.answered(FAST, false, None);
        assert_eq!(governor.share(), LEAST);
    }
}
