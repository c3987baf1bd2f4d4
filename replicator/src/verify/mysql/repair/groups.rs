//! Which rows are written together: a group that is refused is halved until the row at fault is alone.

use std::collections::VecDeque;

use super::changes::Manner;
use super::keyed::Refusal;

/// Rows that are written together, by number, and what the target refuses of them.
#[derive(Debug, Default)]
pub(super) struct Groups {
    pub queue: VecDeque<(Vec<usize>, Manner)>,
    /// Rows that were refused by themselves, and why.
    pub alone: Vec<(usize, Refusal)>,
    /// Those that were refused have had their try together.
    is_last: bool,
    /// The most that go together: their values are in memory.
    most: usize,
}

impl Groups {
    pub fn new(all: Vec<usize>, rows: usize) -> Self {
        let queue = all.chunks(rows).map(|group| (group.to_vec(), Manner::Updated)).collect();
        Self { queue, most: rows, ..Self::default() }
    }

    pub fn rows(&self) -> u64 {
        self.queue.iter().map(|(group, _)| group.len() as u64).sum()
    }

    /// Whether there is a group to be written. Rows that were refused in different groups may be in each
    /// other's way: once they all go together, unless they are too many. What is wrong by itself would only
    /// bring the others down again.
    pub fn has_more(&mut self) -> bool {
        let conflicts = self.alone.iter().filter(|(_, refusal)| refusal.conflict).count();
        let fit = (2..=self.most).contains(&conflicts);
        if self.queue.is_empty() && !self.is_last && fit {
            self.is_last = true;
            let (together, alone): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.alone).into_iter().partition(|(_, why)| why.conflict);
            self.alone = alone;
            let together = together.into_iter().map(|(at, _)| at).collect();
            self.queue.push_back((together, Manner::Anew));
        }
        !self.queue.is_empty()
    }

    /// One of them is at fault, and the others are not to suffer for it.
    pub fn refused(&mut self, group: Vec<usize>, manner: Manner, why: Refusal) {
        match (manner, group.as_slice()) {
            (Manner::Updated, _) => self.queue.push_front((group, Manner::Anew)),
            (Manner::Anew, [at]) => self.alone.push((*at, why)),
            (Manner::Anew, several) => {
                let (some, others) = several.split_at(several.len() / 2);
                self.queue.push_front((others.to_vec(), Manner::Updated));
                self.queue.push_front((some.to_vec(), Manner::Updated));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `refuses` says whether the target takes a group; gives what was taken, and what was left.
    fn run(rows: usize, refuses: impl Fn(&[usize], Manner) -> bool) -> (Vec<usize>, Vec<usize>) {
        run_with(rows, refuses, |_| true)
    }

    /// `conflicts`: of a row that was refused by itself.
    fn run_with(
        rows: usize,
        refuses: impl Fn(&[usize], Manner) -> bool,
        conflicts: impl Fn(&[usize]) -> bool,
    ) -> (Vec<usize>, Vec<usize>) {
        let mut groups = Groups::new((0..rows).collect(), 4);
        let mut taken = Vec::new();
        while groups.has_more() {
            let (group, manner) = groups.queue.pop_front().unwrap();
            match refuses(&group, manner) {
                true => {
                    let refusal = Refusal { why: "why".into(), conflict: conflicts(&group) };
                    groups.refused(group, manner, refusal);
                }
                false => taken.extend(group),
            }
        }
        taken.sort_unstable();
        let mut left: Vec<usize> = groups.alone.iter().map(|(at, _)| *at).collect();
        left.sort_unstable();
        (taken, left)
    }

    #[test]
    fn one_row_that_is_refused_leaves_the_others_alone() {
        let (taken, left) = run(10, |group, _| group.contains(&5));
        assert_eq!((taken.len(), left), (9, vec![5]));
        let (taken, left) = run(10, |group, _| group.contains(&5) || group.contains(&6));
        assert_eq!((taken.len(), left), (8, vec![5, 6]));
    }

    #[test]
    fn many_that_are_refused_do_not_go_together() {
        let largest = std::cell::Cell::new(0);
        let (taken, left) = run(10, |group, _| {
            largest.set(largest.get().max(group.len()));
            true
        });
        assert_eq!((taken.len(), left.len(), largest.get()), (0, 10, 4));
    }

    #[test]
    fn rows_that_are_in_each_others_way_go_together() {
        // 1 and 9 swap a unique value, and are in different groups.
        let (taken, left) = run(10, |group, manner| {
            let both = group.contains(&1) && group.contains(&9);
            let one = group.contains(&1) || group.contains(&9);
            one && !(both && manner == Manner::Anew)
        });
        assert_eq!((taken.len(), left), (10, vec![]));
    }

    #[test]
    fn what_is_wrong_by_itself_does_not_keep_others_from_going_together() {
        // 1 and 9 swap a unique value; 5 is refused whatever goes with it.
        let (taken, left) = run_with(
            10,
            |group, manner| {
                let both = group.contains(&1) && group.contains(&9);
                let one = group.contains(&1) || group.contains(&9);
                group.contains(&5) || one && !(both && manner == Manner::Anew)
            },
            |group| !group.contains(&5),
        );
        assert_eq!((taken.len(), left), (9, vec![5]));
    }
}
