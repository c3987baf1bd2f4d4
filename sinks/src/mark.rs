//! What a lane's progress row says, and what the rows of all lanes say together; pure.
//!
//! # Why any number of lanes is exactly-once
//! The stream is cut into windows. A window goes to one lane, or its transactions are shared out to
//! several, which commit in any order; no lane begins the next window before all have committed.
//! So a row needs two facts:
//!
//! - the *floor*: everything up to here is on the target, whichever lane put it there. It is written
//!   in a transaction that begins after that became true, so it is true whenever it can be read.
//! - the *commits above*: the transactions beyond the floor that this lane has committed, by the LSN
//!   of their commit record, which is at or behind the floor. They are written in the transaction
//!   that commits them, so a row lists exactly its own, and it keeps them until its floor is past
//!   them. Not by their end: a transaction that was whole may come in parts the next time, with
//!   smaller limits or another reader, and its first part does not know the end.
//!
//! The union over all rows (also of lanes that are no longer used) is therefore exactly what the
//! target holds, whichever lanes committed before a crash. Whether a window is whole needs no
//! count of what the stream will bring: each share says where the window ends and the fingerprint
//! of all its transactions; when the commits on the target have that fingerprint, all are there.

use std::collections::BTreeSet;

use decoders::change::Lsn;

/// Which part of the stream one commit of a lane is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    /// What was missing: once this is committed, everything up to `through` is on the target. With
    /// `None`, up to the end of the last transaction of the call.
    Rest {
        /// End of the window whose other transactions are committed already.
        through: Option<Lsn>,
    },
    /// Some transactions of a window; other lanes apply the others at the same time.
    Part(Window),
}

impl Share {
    /// All transactions that there are: no other lane has any.
    pub const ALL: Share = Share::Rest { through: None };
}

/// A window that is shared out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Everything up to here is on the target.
    pub floor: Lsn,
    /// End of the last transaction of the window.
    pub end: Lsn,
    /// Of all transactions between the two, those that were on the target before included.
    fingerprint: u64,
}

impl Window {
    /// The window from `floor` to `end` with the transactions that committed at `commits`, those on
    /// the target already too.
    pub fn new(floor: Lsn, end: Lsn, commits: impl IntoIterator<Item = Lsn>) -> Self {
        Self { floor, end, fingerprint: commits.into_iter().fold(0, with) }
    }
}

/// Adds a commit to a fingerprint; in any order. Finalizer of MurmurHash3, so that sums of different
/// sets differ.
fn with(fingerprint: u64, commit: Lsn) -> u64 {
    let mut mixed = commit.0 ^ (commit.0 >> 33);
    mixed = mixed.wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^= mixed >> 33;
    mixed = mixed.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    fingerprint.wrapping_add((mixed ^ (mixed >> 33)) | 1)
}

/// What one lane's row says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LaneMark {
    /// End of the newest transaction that the lane has committed; `None` before the first.
    pub end: Option<Lsn>,
    /// Everything up to here is on the target; `None` if the lane has never said.
    pub floor: Option<Lsn>,
    /// The window that the lane's last commit was a part of.
    window: Option<Window>,
    /// Commits beyond the floor that the lane has committed, ascending.
    above: Vec<Lsn>,
    /// Transactions that the lane has committed so far.
    pub transactions: i64,
}

/// A row whose `above` is not one that a lane wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the commits above the floor can't be read")]
pub struct Unreadable;

impl LaneMark {
    /// A row as it is stored.
    ///
    /// # Errors
    /// [`Unreadable`] if `above` was not made by [`LaneMark::encoded_above`].
    pub fn stored(
        end: Option<Lsn>,
        floor: Option<Lsn>,
        above: Option<&[u8]>,
        transactions: i64,
    ) -> Result<Self, Unreadable> {
        let mut mark = Self { end, floor, window: None, above: Vec::new(), transactions };
        let Some(mut bytes) = above.filter(|bytes| !bytes.is_empty()) else { return Ok(mark) };
        let floor = floor.ok_or(Unreadable)?;
        let step = |from: Lsn, by: u64| from.0.checked_add(by).map(Lsn).ok_or(Unreadable);
        let span = varint(&mut bytes)?;
        if span > 0 {
            let (fingerprint, rest) = bytes.split_first_chunk().ok_or(Unreadable)?;
            bytes = rest;
            let window_floor = floor;
            let fingerprint = u64::from_be_bytes(*fingerprint);
            mark.window =
                Some(Window { floor: window_floor, end: step(floor, span)?, fingerprint });
        }
        let mut last = floor;
        while !bytes.is_empty() {
            last = step(last, varint(&mut bytes)?)?;
            mark.above.push(last);
        }
        Ok(mark)
    }

    /// The commits above the floor, to be stored: the distance from the floor to the window's end
    /// (0: no window) and the window's fingerprint, then the distance from each commit to the next,
    /// as varints. `None` if there is nothing to say.
    pub fn encoded_above(&self) -> Option<Vec<u8>> {
        if self.window.is_none() && self.above.is_empty() {
            return None;
        }
        let floor = self.floor.unwrap_or(Lsn::INVALID);
        let mut bytes = Vec::with_capacity(16 + 3 * self.above.len());
        match self.window {
            Some(window) => {
                put_varint(&mut bytes, window.end.0 - floor.0);
                bytes.extend_from_slice(&window.fingerprint.to_be_bytes());
            }
            None => put_varint(&mut bytes, 0),
        }
        let mut last = floor;
        for commit in &self.above {
            put_varint(&mut bytes, commit.0 - last.0);
            last = *commit;
        }
        Some(bytes)
    }

    /// Whether the row itself says that the transaction that committed there is on the target.
    pub fn holds(&self, commit: Lsn) -> bool {
        Some(commit) < self.floor || self.above.binary_search(&commit).is_ok()
    }

    /// The row after the lane has committed the transactions whose commit records are at `commits`
    /// as `share`; the last one ends at `end`.
    pub fn after(&self, share: Share, commits: &[Lsn], end: Option<Lsn>) -> Self {
        let (floor, window) = match share {
            Share::Rest { through } => (through.max(end), None),
            Share::Part(window) => (Some(window.floor), Some(window)),
        };
        let floor = floor.max(self.floor);
        let known = self.above.iter().chain(commits).copied();
        let above: BTreeSet<Lsn> = known.filter(|commit| Some(*commit) >= floor).collect();
        Self {
            end: self.end.max(end),
            floor,
            window: window
                .filter(|window| Some(window.floor) == floor && window.end > window.floor),
            above: above.into_iter().collect(),
            transactions: self.transactions + commits.len() as i64,
        }
    }
}

/// How far a target got.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reached {
    /// Every transaction that ends here or before is on the target; `None` if nothing of the
    /// stream was ever applied.
    pub through: Option<Lsn>,
    /// Commits of transactions beyond that are there too, ascending.
    pub beyond: Vec<Lsn>,
}

impl Reached {
    /// Everything up to here and nothing else.
    pub fn through(end: Lsn) -> Self {
        Self { through: Some(end), beyond: Vec::new() }
    }

    /// What the rows of all lanes say together.
    pub fn by<'a>(rows: impl IntoIterator<Item = &'a LaneMark> + Clone) -> Self {
        let mut through = rows.clone().into_iter().filter_map(|row| row.floor).max();
        let commits: BTreeSet<Lsn> =
            rows.clone().into_iter().flat_map(|row| row.above.iter().copied()).collect();
        for window in rows.into_iter().filter_map(|row| row.window) {
            let there = commits.range(window.floor..window.end);
            if there.copied().fold(0, with) == window.fingerprint {
                through = through.max(Some(window.end));
            }
        }
        let beyond = commits.into_iter().filter(|commit| Some(*commit) >= through).collect();
        Self { through, beyond }
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Unreadable> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(Unreadable)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift).ok_or(Unreadable)?;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Unreadable)
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lsns(numbers: &[u64]) -> Vec<Lsn> {
        numbers.iter().copied().map(Lsn).collect()
    }

    fn stored_again(mark: &LaneMark) -> LaneMark {
        let above = mark.encoded_above();
        LaneMark::stored(mark.end, mark.floor, above.as_deref(), mark.transactions).unwrap()
    }

    #[test]
    fn a_window_is_whole_when_the_last_share_is_there() {
        let window = Window::new(Lsn(100), Lsn(130), lsns(&[100, 110, 120]));
        let one = LaneMark::default();
        let one = one.after(Share::Part(window), &lsns(&[100, 120]), Some(Lsn(130)));
        assert_eq!(
            Reached::by([&one]),
            Reached { through: Some(Lsn(100)), beyond: lsns(&[100, 120]) }
        );
        let other = LaneMark::default();
        let other = other.after(Share::Part(window), &lsns(&[110]), Some(Lsn(120)));
        assert_eq!(Reached::by([&one, &other]), Reached::through(Lsn(130)));
        assert_eq!(stored_again(&one), one);
    }

    #[test]
    fn the_rest_of_a_window_completes_it() {
        let window = Window::new(Lsn(100), Lsn(130), lsns(&[100, 110, 120]));
        let one = LaneMark::default();
        let one = one.after(Share::Part(window), &lsns(&[120]), Some(Lsn(130)));
        let rest = Share::Rest { through: Some(Lsn(130)) };
        let zero = LaneMark::default().after(rest, &lsns(&[100, 110]), Some(Lsn(120)));
        assert_eq!(Reached::by([&zero, &one]), Reached::through(Lsn(130)));
        assert!(zero.holds(Lsn(120)) && !zero.holds(Lsn(130)));
    }

    #[test]
    fn bytes_that_no_lane_wrote_are_refused() {
        for bytes in [&[5][..], &[5, 1, 2], &[0, 0xff], &[0xff; 11]] {
            assert_eq!(LaneMark::stored(None, Some(Lsn(1)), Some(bytes), 0), Err(Unreadable));
        }
        assert_eq!(LaneMark::stored(None, None, Some(&[0, 1]), 0), Err(Unreadable));
    }

    /// One life of the replicator: how many lanes, how large its windows are, what becomes of each
    /// share of each window, and how it ends.
    #[derive(Clone, Debug)]
    struct Life {
        lanes: usize,
        windows: Vec<WindowPlan>,
    }

    #[derive(Clone, Debug)]
    struct WindowPlan {
        size: usize,
        /// For each transaction, the lane that it is given to.
        lane_of: Vec<usize>,
        /// The shares that commit, by lane; the others are lost in the crash after this window.
        commits: Vec<bool>,
        /// A share that failed is applied by lane 0 once the others have committed.
        recovers: bool,
    }

    fn life() -> impl Strategy<Value = Life> {
        let window = (
            1..9usize,
            proptest::collection::vec(0..8usize, 8),
            proptest::collection::vec(prop_oneof![4 => Just(true), 1 => Just(false)], 8),
            any::<bool>(),
        );
        let window = window.prop_map(|(size, lane_of, commits, recovers)| WindowPlan {
            size,
            lane_of,
            commits,
            recovers,
        });
        (1..6usize, proptest::collection::vec(window, 1..5))
            .prop_map(|(lanes, windows)| Life { lanes, windows })
    }

    proptest! {
        /// Whatever subset of the lanes commits before each crash, and however many lanes each life
        /// has: every transaction is applied once, and the rows say exactly which are.
        #[test]
        fn every_life_applies_exactly_the_rest(lives in proptest::collection::vec(life(), 1..6)) {
            // A transaction is named by its commit record, which begins where the one before ends.
            const LENGTH: u64 = 10;
            let end_of = |commit: Lsn| Lsn(commit.0 + LENGTH);
            let stream: Vec<Lsn> = (0..60).map(|n| Lsn(1000 + LENGTH * n)).collect();
            let start = Lsn(1000);
            let mut rows = vec![LaneMark::default(); 8];
            let mut applied: BTreeSet<Lsn> = BTreeSet::new();
            let commit = |rows: &mut Vec<LaneMark>, applied: &mut BTreeSet<Lsn>,
                          lane: usize, share: Share, commits: &[Lsn]| {
                for commit in commits {
                    assert!(applied.insert(*commit), "{commit} was applied twice");
                }
                let end = commits.iter().copied().map(end_of).max();
                rows[lane] = stored_again(&rows[lane].after(share, commits, end));
            };
            for life in lives {
                let reached = Reached::by(rows.iter());
                let low = reached.through.unwrap_or(start).max(start);
                let said: BTreeSet<Lsn> = stream.iter().copied().filter(|at| *at < low)
                    .chain(reached.beyond.iter().copied()).collect();
                prop_assert_eq!(&said, &applied);
                let mut rest =
                    stream.iter().copied().filter(|at| !said.contains(at)).collect::<Vec<_>>();
                let mut floor = low;
                for plan in &life.windows {
                    let size = plan.size.min(rest.len());
                    let commits: Vec<Lsn> = rest.drain(..size).collect();
                    let Some(last) = commits.last().copied().map(end_of) else { break };
                    let known = reached.beyond.iter().copied()
                        .filter(|at| *at >= floor && *at < last);
                    let window = Window::new(floor, last, commits.iter().copied().chain(known));
                    let mut shares = vec![Vec::new(); life.lanes];
                    for (at, lane) in commits.iter().zip(&plan.lane_of) {
                        shares[lane % life.lanes].push(*at);
                    }
                    let used: Vec<usize> =
                        (0..life.lanes).filter(|lane| !shares[*lane].is_empty()).collect();
                    if let [lane] = used[..] {
                        if !plan.commits[lane] { break; }
                        commit(&mut rows, &mut applied, lane, Share::ALL, &commits);
                    } else {
                        let mut failed = Vec::new();
                        for lane in used {
                            if plan.commits[lane] {
                                let share = Share::Part(window);
                                commit(&mut rows, &mut applied, lane, share, &shares[lane]);
                            } else {
                                failed.extend(shares[lane].iter().copied());
                            }
                        }
                        if !failed.is_empty() {
                            if !plan.recovers { break; }
                            failed.sort();
                            let share = Share::Rest { through: Some(last) };
                            commit(&mut rows, &mut applied, 0, share, &failed);
                        }
                        prop_assert!(Reached::by(rows.iter()).through >= Some(last));
                    }
                    floor = last;
                }
            }
        }
    }
}
