//! Numbers for the transactions of a binlog, and the position that stands behind each number.
//!
//! # Why numbers
//! A GTID set is no total order: of two sets neither need cover the other, and comparing them for each
//! transaction would cost more than applying it. A binlog itself is totally ordered, and everything
//! beyond the source (windows, lanes, marks, frontier) only ever asks "is this before that". So the
//! transactions of one stream are counted from where it was registered to begin: that place is
//! [`Ledger::START`], and each transaction that the server sends behind it, also one without a row that
//! concerns us, is the next number. The ledger remembers which position a number stands for until
//! that is stored.
//!
//! # Why the count is the same every time
//! A server sends what is not in the set that it is asked for in the order of its binlog files, which
//! is fixed once a transaction is there. The set behind number n is the start and the first n
//! transactions in that order, so who asks with it gets number n next. Two things would break that,
//! and both are refused where they can happen: another server under the same name (a replica may have
//! written its transactions in another order), which the registered stream's source tells, and a
//! number without a position, which no store ever holds.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::gtid::{BinlogPosition, TransactionId};
use crate::change::Lsn;
use crate::source::Positions;

/// A number and the position that it stands for: every transaction with a smaller number is in the
/// position, and no other one behind the start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The number of the next transaction.
    pub number: Lsn,
    /// What has been read by then.
    pub position: BinlogPosition,
}

impl Place {
    fn pass(&mut self, id: &TransactionId) {
        self.number = Lsn(self.number.0 + 1);
        self.position.add(id);
    }
}

/// Where a position of the source is among the numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// It has exactly the transactions with smaller numbers.
    At(Lsn),
    /// It has transactions that have not been read, and all that have been, up to this number.
    Unread(Lsn),
    /// It lacks a transaction before one that it has, or one that is remembered no more: no number
    /// stands for it.
    Nowhere,
}

/// The transactions of one stream that are under way: numbered when they are read, forgotten when a
/// place behind them is stored. Shared by who reads and who writes.
#[derive(Debug)]
pub struct Ledger {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Before the oldest transaction that is remembered.
    base: Place,
    /// The last place that was asked for: the next question is rarely about an earlier one.
    asked: Place,
    /// Behind the newest that has a number.
    read: Place,
    /// From the base's number on.
    ids: VecDeque<TransactionId>,
}

/// Transactions that are remembered, at most: about 16 MiB, whatever they hold. Those that concern none
/// of the tables count nowhere else.
const MOST_UNDER_WAY: usize = 1 << 18;

impl Ledger {
    /// The number of a stream's first transaction.
    pub const START: Lsn = Lsn(1);

    /// A ledger whose next transaction is the one behind `place`.
    pub fn new(place: Place) -> Self {
        let (base, asked, read) = (place.clone(), place.clone(), place);
        let inner = Inner { base, asked, read, ids: VecDeque::new() };
        Ledger { inner: Mutex::new(inner) }
    }

    /// Gives the next transaction its number.
    pub fn number(&self, id: TransactionId) -> Lsn {
        let mut inner = self.lock();
        let number = inner.read.number;
        inner.read.pass(&id);
        inner.ids.push_back(id);
        number
    }

    /// Whether as many transactions are under way as may be remembered.
    pub fn is_full(&self) -> bool {
        self.lock().ids.len() >= MOST_UNDER_WAY
    }

    /// The place behind the newest transaction that has a number: it has begun to come, and everything
    /// before it has come.
    pub fn read(&self) -> Place {
        self.lock().read.clone()
    }

    /// The place with this number, or the oldest that is remembered if that is a later one: then
    /// everything before it was applied, or needed nothing. `None` for a number that no transaction
    /// has reached.
    pub fn place(&self, number: Lsn) -> Option<Place> {
        let mut inner = self.lock();
        let Inner { base, asked, ids, .. } = &mut *inner;
        if number <= base.number {
            return Some(base.clone());
        }
        if number < asked.number {
            *asked = base.clone();
        }
        let skipped = usize::try_from(asked.number.0 - base.number.0).ok()?;
        let wanted = usize::try_from(number.0 - base.number.0).ok()?;
        if wanted > ids.len() {
            return None;
        }
        ids.range(skipped..wanted).for_each(|id| asked.pass(id));
        Some(asked.clone())
    }

    /// The number that stands for `position`.
    pub fn find(&self, position: &BinlogPosition) -> Found {
        let inner = self.lock();
        if !position.covers(&inner.base.position) {
            return Found::Nowhere;
        }
        let mut place = inner.base.clone();
        let mut ids = inner.ids.iter().peekable();
        // Equal first: without gtid_strict_mode MariaDB's sequences may stand still or go back, and then the
        // place behind the next one has the position, too.
        while place.position != *position
            && let Some(id) = ids.next_if(|id| position.contains(id))
        {
            place.pass(id);
        }
        match (place.position.covers(position), ids.next()) {
            (true, _) => Found::At(place.number),
            (false, None) => Found::Unread(place.number),
            (false, Some(_)) => Found::Nowhere,
        }
    }

    /// Forgets what is before `number`: a place there, or a later one, is stored.
    pub fn forget(&self, number: Lsn) {
        let mut inner = self.lock();
        while inner.base.number < number
            && let Some(id) = inner.ids.pop_front()
        {
            inner.base.pass(&id);
        }
        if inner.asked.number < inner.base.number {
            inner.asked = inner.base.clone();
        }
    }

    /// Nothing that runs under the lock panics half-way.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Positions for Ledger {
    fn in_own_terms(&self, position: Lsn) -> Option<String> {
        let place = self.place(position).filter(|place| place.number == position)?;
        Some(place.position.to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mysql::gtid::MariadbGtid;

    fn id(sequence: u64) -> TransactionId {
        // Two domains, so that positions are more than one number.
        let domain = u32::from(sequence.is_multiple_of(3));
        TransactionId::Mariadb(MariadbGtid { domain, server: 1, sequence })
    }

    #[test]
    fn so_many_and_no_more_are_remembered() {
        let ledger = Ledger::new(start());
        for sequence in 1..=MOST_UNDER_WAY as u64 {
            assert!(!ledger.is_full());
            ledger.number(id(sequence));
        }
        assert!(ledger.is_full());
        ledger.forget(Lsn(2));
        assert!(!ledger.is_full());
    }

    #[test]
    fn a_position_is_found_by_the_transactions_that_it_has() {
        let position = |text: &str| -> BinlogPosition { text.parse().unwrap() };
        let ledger = Ledger::new(Place { number: Lsn(5), position: position("0-1-10") });
        assert_eq!(ledger.find(&position("0-1-10")), Found::At(Lsn(5)));
        assert_eq!(ledger.find(&position("0-1-11")), Found::Unread(Lsn(5)));
        let gtid =
            |domain, sequence| TransactionId::Mariadb(MariadbGtid { domain, server: 1, sequence });
        for id in [gtid(0, 11), gtid(7, 1), gtid(0, 12)] {
            ledger.number(id);
        }
        assert_eq!(ledger.find(&position("0-1-11")), Found::At(Lsn(6)));
        assert_eq!(ledger.find(&position("0-1-11,7-1-1")), Found::At(Lsn(7)));
        assert_eq!(ledger.find(&position("0-1-12,7-1-1")), Found::At(Lsn(8)));
        assert_eq!(ledger.find(&position("0-1-12,7-1-2")), Found::Unread(Lsn(8)));
        assert_eq!(ledger.find(&position("0-1-12")), Found::Nowhere, "not without 7-1-1");
        let stands_still =
            TransactionId::Mariadb(MariadbGtid { domain: 0, server: 2, sequence: 12 });
        ledger.number(stands_still);
        assert_eq!(ledger.find(&position("0-1-12,7-1-1")), Found::At(Lsn(8)));
        ledger.forget(Lsn(6));
        assert_eq!(ledger.find(&position("0-1-11")), Found::At(Lsn(6)));
        assert_eq!(ledger.find(&position("0-1-10")), Found::Nowhere);
    }

    fn start() -> Place {
        Place { number: Ledger::START, position: "0-1-0".parse().unwrap() }
    }

    proptest! {
        /// Whatever is asked and forgotten in whatever order: a number means the same position.
        #[test]
        fn a_number_stands_for_one_position(acts in prop::collection::vec((0..3u8, 0..40u64), 1..120)) {
            let ledger = Ledger::new(start());
            let mut all = vec![start()];
            let mut base = Ledger::START;
            for (act, at) in acts {
                let number = Lsn(at + 1);
                match act {
                    0 => {
                        let mut next = all[all.len() - 1].clone();
                        let id = id(all.len() as u64);
                        prop_assert_eq!(ledger.number(id.clone()), next.number);
                        next.pass(&id);
                        prop_assert_eq!(&ledger.read(), &next);
                        all.push(next);
                    }
                    1 => {
                        let expected = all.get((number.max(base).0 - 1) as usize).cloned();
                        prop_assert_eq!(ledger.place(number), expected);
                    }
                    _ => {
                        let last = Lsn(all.len() as u64);
                        ledger.forget(number.min(last));
                        base = base.max(number.min(last));
                    }
                }
            }
        }
    }
}
