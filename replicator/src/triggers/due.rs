//! What the notes of a target have to become, from what both sides have.

use std::collections::{BTreeMap, BTreeSet};

use cutover::Direction;
use decoders::postgres::catalog::Firing;

use super::found::{Found, Which};
use super::noted::Notes;

/// What has to be changed in the notes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Due {
    /// Written.
    pub note: Notes,
    /// The target does not have them any more.
    pub strike: Vec<Which>,
    /// Noted, and our role may not switch them any more.
    pub barred: Vec<Found>,
}

/// Before a flip, what the source has counts: whatever fires there for replicated changes, and whatever was noted, has
/// the source's state after the flip. On the way back the notes say what the target had and keep it, because that
/// direction brings no definitions; but a partition that was made on the target since has its source's state.
///
/// One that our role may not switch is not noted: it stays a difference of definitions.
pub(super) fn due(direction: Direction, source: &[Found], target: &[Found], noted: &Notes) -> Due {
    let source: BTreeMap<&Which, &Found> = source.iter().map(|one| (&one.which, one)).collect();
    let mut due = Due::default();
    for there in target {
        let known = noted.get(&there.which);
        if !there.may {
            due.barred.extend(known.map(|_| there.clone()));
            continue;
        }
        let Some(here) = source.get(&there.which) else { continue };
        let counts = match (direction, known) {
            (Direction::Forward, Some(known)) => *known != here.state,
            (Direction::Forward, None) => here.state.fires_on_replica(),
            (Direction::Back, Some(_)) => false,
            (Direction::Back, None) => {
                let is_off = there.state == Firing::Disabled;
                there.is_partition && is_off && here.state.fires_on_replica()
            }
        };
        if counts {
            due.note.insert(there.which.clone(), here.state);
        }
    }
    let there: BTreeSet<&Which> = target.iter().map(|one| &one.which).collect();
    due.strike = noted.keys().filter(|which| !there.contains(which)).cloned().collect();
    due
}

#[cfg(test)]
mod tests {
    use decoders::QualifiedName;

    use super::super::found::Kind;
    use super::*;
    use Firing::{Always, Disabled, Origin, Replica};

    const STATES: [Firing; 4] = [Origin, Disabled, Always, Replica];

    fn trigger(state: Firing) -> Found {
        let which =
            Which { kind: Kind::Trigger, table: QualifiedName::new("s", "t"), name: "g".into() };
        let above = BTreeSet::from([which.table.clone()]);
        Found { which, state, may: true, owner: "app".into(), is_partition: false, above }
    }

    fn noted(state: Option<Firing>) -> Notes {
        state.map(|state| (trigger(state).which, state)).into_iter().collect()
    }

    fn becomes(direction: Direction, here: Firing, there: Found, known: Option<Firing>) -> Due {
        due(direction, &[trigger(here)], &[there], &noted(known))
    }

    #[test]
    fn before_a_flip_the_sources_state_is_noted_of_what_fires_or_was_noted() {
        for here in STATES {
            for there in STATES {
                let found = becomes(Direction::Forward, here, trigger(there), None);
                let fires = matches!(here, Always | Replica);
                assert_eq!(found.note, noted(fires.then_some(here)), "{here:?} {there:?}");
                let found = becomes(Direction::Forward, here, trigger(there), Some(Always));
                assert_eq!(found.note, noted((here != Always).then_some(here)), "{here:?}");
            }
        }
    }

    #[test]
    fn a_way_back_keeps_its_notes_and_notes_new_partitions_only() {
        for here in STATES {
            for known in [None, Some(Origin)] {
                let found = becomes(Direction::Back, here, trigger(Disabled), known);
                assert_eq!(found.note, Notes::new());
            }
            let partition = Found { is_partition: true, ..trigger(Disabled) };
            let found = becomes(Direction::Back, here, partition, None);
            let fires = matches!(here, Always | Replica);
            assert_eq!(found.note, noted(fires.then_some(here)));
        }
    }

    #[test]
    fn what_is_not_ours_to_switch_is_not_noted_and_told_if_it_was() {
        let theirs = || Found { may: false, ..trigger(Disabled) };
        assert_eq!(becomes(Direction::Forward, Always, theirs(), None), Due::default());
        let found = becomes(Direction::Forward, Always, theirs(), Some(Always));
        assert_eq!((found.note, found.barred), (Notes::new(), vec![theirs()]));
    }

    #[test]
    fn what_the_target_has_lost_is_struck_out() {
        let found = due(Direction::Forward, &[trigger(Always)], &[], &noted(Some(Always)));
        assert_eq!(found.strike, [trigger(Always).which]);
    }
}
