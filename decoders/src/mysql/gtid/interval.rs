//! Sets of transaction numbers as sorted, disjoint ranges.

use std::fmt;

/// `start..=end`, both at least 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Interval {
    /// The first number.
    pub start: u64,
    /// The last number.
    pub end: u64,
}

/// Sorted ranges that neither touch nor overlap.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
pub struct Intervals(Vec<Interval>);

impl Intervals {
    /// The ranges in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Interval> + '_ {
        self.0.iter().copied()
    }

    /// Whether there is no number in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many numbers there are.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start + 1).sum()
    }

    /// Whether `number` is in it.
    pub fn contains(&self, number: u64) -> bool {
        let at = self.0.partition_point(|range| range.end < number);
        self.0.get(at).is_some_and(|range| range.start <= number)
    }

    /// Adds `start..=end`; nothing if that is empty.
    pub fn add(&mut self, start: u64, end: u64) {
        if start > end {
            return;
        }
        // The common case: the next number of a growing range.
        if let Some(last) = self.0.last_mut()
            && start >= last.start
            && start <= last.end.saturating_add(1)
        {
            last.end = last.end.max(end);
            return;
        }
        let from = self.0.partition_point(|range| range.end.saturating_add(1) < start);
        let until = self.0.partition_point(|range| range.start <= end.saturating_add(1));
        let merged = match self.0.get(from..until) {
            Some([first, .., last]) => {
                Interval { start: first.start.min(start), end: last.end.max(end) }
            }
            Some([only]) => Interval { start: only.start.min(start), end: only.end.max(end) },
            _ => Interval { start, end },
        };
        self.0.splice(from..until, [merged]);
    }

    /// Adds what `other` has.
    pub fn union(&mut self, other: &Intervals) {
        for range in other.iter() {
            self.add(range.start, range.end);
        }
    }

    /// Removes what `other` has.
    pub fn subtract(&mut self, other: &Intervals) {
        let mut kept = Vec::new();
        let mut holes = other.0.iter().peekable();
        for range in &self.0 {
            let mut start = range.start;
            while holes.next_if(|hole| hole.end < start).is_some() {}
            let mut ahead = holes.clone();
            let mut whole = false;
            while let Some(hole) = ahead.next_if(|hole| hole.start <= range.end) {
                if hole.start > start {
                    kept.push(Interval { start, end: hole.start - 1 });
                }
                match hole.end.checked_add(1).filter(|next| *next <= range.end) {
                    Some(next) => start = start.max(next),
                    None => {
                        whole = true;
                        break;
                    }
                }
            }
            if !whole {
                kept.push(Interval { start, end: range.end });
            }
        }
        self.0 = kept;
    }

    /// Whether all of `other` is in it.
    pub fn covers(&self, other: &Intervals) -> bool {
        other.0.iter().all(|range| {
            let at = self.0.partition_point(|own| own.end < range.start);
            self.0.get(at).is_some_and(|own| own.start <= range.start && range.end <= own.end)
        })
    }
}

/// `1-5:7`, as in MySQL's GTID sets.
impl fmt::Display for Intervals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(":")?;
            }
            match range.start == range.end {
                true => write!(f, "{}", range.start)?,
                false => write!(f, "{}-{}", range.start, range.end)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec((1u64..40, 0u64..6).prop_map(|(at, more)| (at, at + more)), 0..8)
    }

    fn both(ranges: &[(u64, u64)]) -> (Intervals, BTreeSet<u64>) {
        let mut intervals = Intervals::default();
        for (start, end) in ranges {
            intervals.add(*start, *end);
        }
        (intervals, ranges.iter().flat_map(|(start, end)| *start..=*end).collect())
    }

    fn numbers(intervals: &Intervals) -> BTreeSet<u64> {
        intervals.iter().flat_map(|range| range.start..=range.end).collect()
    }

    fn is_canonical(intervals: &Intervals) -> bool {
        let all: Vec<_> = intervals.iter().collect();
        all.windows(2).all(|pair| pair[0].end + 1 < pair[1].start)
            && all.iter().all(|range| range.start <= range.end)
    }

    proptest! {
        #[test]
        fn they_behave_like_sets_of_numbers(a in ranges(), b in ranges()) {
            let ((own, own_set), (other, other_set)) = (both(&a), both(&b));
            prop_assert!(is_canonical(&own));
            prop_assert_eq!(&numbers(&own), &own_set);
            prop_assert_eq!(own.count(), own_set.len() as u64);
            prop_assert_eq!(own.covers(&other), own_set.is_superset(&other_set));
            for number in 0..50 {
                prop_assert_eq!(own.contains(number), own_set.contains(&number));
            }
            let mut union = own.clone();
            union.union(&other);
            prop_assert!(is_canonical(&union));
            prop_assert_eq!(numbers(&union), &own_set | &other_set);
            let mut rest = own.clone();
            rest.subtract(&other);
            prop_assert!(is_canonical(&rest));
            prop_assert_eq!(numbers(&rest), &own_set - &other_set);
        }
    }

    #[test]
    fn the_ends_of_the_range_of_numbers_do_not_overflow() {
        let mut all = Intervals::default();
        all.add(1, u64::MAX);
        let mut last = Intervals::default();
        last.add(u64::MAX, u64::MAX);
        all.subtract(&last);
        assert_eq!(all.to_string(), format!("1-{}", u64::MAX - 1));
        all.union(&last);
        assert_eq!(all.to_string(), format!("1-{}", u64::MAX));
        all.subtract(&all.clone());
        assert!(all.is_empty());
    }
}
