//! A stop between two windows, before a transaction that somebody else chooses.
//!
//! Who compares two sides in snapshots of one moment needs a target that has the transactions of one
//! position of the source and no others, for as long as it takes to open a snapshot there. So the
//! scheduling task asks here before each window. While a target is held nothing is given to the lanes,
//! then what lies before the position that the holder names: a window that reaches beyond it is cut in
//! two. The source is read on meanwhile, until the memory budget is used up.
//!
//! A part of a large transaction may be held while the parts before it are written: nobody sees those
//! before they are committed.

use std::sync::Arc;

use decoders::Lsn;
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

/// Where the target of a stream may be held. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Hold {
    state: watch::Sender<State>,
    /// One holder at a time.
    holder: Arc<Mutex<()>>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// Transactions that are committed at or behind it wait; `None`: none do.
    limit: Option<Lsn>,
    /// Windows that are with the lanes.
    writing: usize,
    /// Commit of the first transaction that waits.
    waiting: Option<Lsn>,
    /// Nothing on the target ends behind it.
    newest: Lsn,
}

impl State {
    fn lets(&self, first: Lsn) -> bool {
        self.limit.is_none_or(|limit| first < limit)
    }
}

impl Default for Hold {
    fn default() -> Self {
        Self { state: watch::Sender::new(State::default()), holder: Arc::default() }
    }
}

impl Hold {
    /// Waits until no window is being written, and lets none begin until what this gives is dropped.
    pub async fn hold(&self) -> Held {
        let holder = Arc::clone(&self.holder).lock_owned().await;
        let held = Held { hold: self.clone(), _holder: holder };
        self.state.send_modify(|state| state.limit = Some(Lsn(0)));
        // Whoever sends is `held`.
        let _ = self.state.subscribe().wait_for(|state| state.writing == 0).await;
        held
    }

    /// A run begins on a target on which nothing ends behind `newest`.
    pub(super) fn resume(&self, newest: Lsn) {
        self.state.send_modify(|state| {
            (state.writing, state.waiting, state.newest) = (0, None, newest);
        });
    }

    /// Whether a window whose first transaction is committed at `first` may begin.
    pub(super) fn ask(&self, first: Lsn) -> Option<Admission> {
        let mut admission = None;
        self.state.send_if_modified(|state| {
            let is_let = state.lets(first);
            state.writing += usize::from(is_let);
            admission = is_let.then(|| Admission { state: self.state.clone(), limit: state.limit });
            let waiting = (!is_let).then_some(first);
            let is_news = state.waiting != waiting;
            state.waiting = waiting;
            is_news
        });
        admission
    }

    /// The same, and waits until it may.
    pub(super) async fn admit(&self, first: Lsn) -> Admission {
        let mut states = self.state.subscribe();
        loop {
            if let Some(admission) = self.ask(first) {
                return admission;
            }
            // Whoever sends is `self`.
            let _ = states.wait_for(|state| state.lets(first)).await;
        }
    }
}

/// A window that may be written; dropped when it is on the target, or given up. There may be several at once.
pub(super) struct Admission {
    state: watch::Sender<State>,
    /// Only what is committed before may be in it; `None`: anything.
    pub limit: Option<Lsn>,
}

impl Admission {
    /// It is about to be written, and ends with a transaction that ends at `end`.
    pub fn ends_at(&self, end: Lsn) {
        self.state.send_if_modified(|state| {
            state.newest = state.newest.max(end);
            false
        });
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.state.send_if_modified(|state| {
            state.writing = state.writing.saturating_sub(1);
            state.limit.is_some()
        });
    }
}

/// A target that is held. Dropping it lets the stream go on.
#[derive(Debug)]
pub struct Held {
    hold: Hold,
    _holder: OwnedMutexGuard<()>,
}

impl Held {
    /// Where the newest transaction on the target ends.
    pub fn newest(&self) -> Lsn {
        self.hold.state.borrow().newest
    }

    /// Lets what is committed before `limit` go to the target.
    pub fn let_through(&self, limit: Lsn) {
        self.hold.state.send_modify(|state| state.limit = Some(limit));
    }

    /// Waits until the first transaction that waits is one that is committed at or behind `limit`: all
    /// before it are on the target. Where none comes behind them it waits for ever, see
    /// [`Frontier::applied`](super::frontier::Frontier::applied).
    pub async fn until_waiting_at(&self, limit: Lsn) {
        let stands = |state: &State| {
            state.writing == 0 && state.waiting.is_some_and(|waiting| waiting >= limit)
        };
        // Whoever sends is `self`.
        let _ = self.hold.state.subscribe().wait_for(stands).await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.hold.state.send_modify(|state| state.limit = None);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_window_waits_for_the_holder_and_the_holder_for_a_window() {
        let hold = Hold::default();
        let written = hold.admit(Lsn(1)).await;
        assert_eq!(written.limit, None);
        let mut holding = Box::pin(hold.hold());
        assert!(holding.as_mut().now_or_never().is_none(), "a window is being written");
        written.ends_at(Lsn(2));
        drop(written);
        let held = holding.await;
        assert_eq!(held.newest(), Lsn(2));
        let mut next = Box::pin(hold.admit(Lsn(2)));
        assert!(next.as_mut().now_or_never().is_none(), "the target is held");
        assert!(hold.hold().now_or_never().is_none(), "one holder at a time");
        held.until_waiting_at(Lsn(2)).await;
        assert!(held.until_waiting_at(Lsn(3)).now_or_never().is_none());

        held.let_through(Lsn(3));
        let written = next.await;
        assert_eq!(written.limit, Some(Lsn(3)));
        assert!(held.until_waiting_at(Lsn(3)).now_or_never().is_none());
        drop(written);
        let mut beyond = Box::pin(hold.admit(Lsn(3)));
        assert!(beyond.as_mut().now_or_never().is_none());
        held.until_waiting_at(Lsn(3)).await;
        drop(held);
        assert_eq!(beyond.await.limit, None);
    }

    #[tokio::test]
    async fn the_holder_waits_for_all_windows_that_were_sent() {
        let hold = Hold::default();
        let (first, second) = (hold.ask(Lsn(1)).unwrap(), hold.ask(Lsn(2)).unwrap());
        let mut holding = Box::pin(hold.hold());
        assert!(holding.as_mut().now_or_never().is_none());
        assert!(hold.ask(Lsn(3)).is_none());
        drop(first);
        assert!(holding.as_mut().now_or_never().is_none(), "the second is on its way");
        drop(second);
        holding.await;
    }

    #[tokio::test]
    async fn who_gives_up_while_waiting_lets_go() {
        let hold = Hold::default();
        let written = hold.admit(Lsn(1)).await;
        assert!(hold.hold().now_or_never().is_none());
        drop(written);
        assert_eq!(hold.admit(Lsn(2)).await.limit, None);
    }
}
