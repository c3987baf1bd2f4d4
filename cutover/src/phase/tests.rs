use decoders::Lsn;
use proptest::prelude::*;

use super::*;
use crate::evidence::WayBackReady;
use crate::marker::Token;
use crate::ports::{
    Epoch, FenceReport, Leaks, MarkerDecoded, MarkerDurable, MarkerWritten, SealReport,
};
use crate::side::Side;

const EPOCH: Epoch = Epoch(3);

fn fenced(epoch: Epoch) -> Fenced {
    let report = FenceReport { clean_scans: 2, next_xid: 10, ..FenceReport::default() };
    Fenced::prove(epoch, Side::Blue, &report).unwrap()
}

fn drained(epoch: Epoch) -> Drained {
    let token = Token::draining("r", epoch);
    let written = MarkerWritten::new(token.clone(), 10);
    let durable = MarkerDurable { token, end_lsn: Lsn(5), durable: Lsn(5) };
    Drained::prove(&fenced(epoch), &written, &durable).unwrap()
}

fn sealed(epoch: Epoch) -> Sealed {
    let token = drained(epoch).token().sealing();
    let report = SealReport { refuses_clients: true, unbroken: true, ..SealReport::default() };
    let written = MarkerWritten::new(token.clone(), 11);
    let decoded = MarkerDecoded { token, end_lsn: Lsn(6), leaks: Leaks::default() };
    Sealed::prove(&drained(epoch), &report, &written, &decoded, way_back(epoch)).unwrap()
}

fn way_back(epoch: Epoch) -> WayBack {
    let token = drained(epoch).token().way_back();
    let written = MarkerWritten::new(token.clone(), 5);
    let decoded = MarkerDecoded { token, end_lsn: Lsn(7), leaks: Leaks::default() };
    WayBack::Ready(WayBackReady::prove(&drained(epoch), &written, &decoded).unwrap())
}

fn committed(epoch: Epoch) -> Committed {
    Committed::decide(&sealed(epoch), epoch, Verdict::Commit).unwrap()
}

fn why() -> Stop {
    Stop { kind: StopKind::Failed, what: "it failed".into(), place: "here".into(), remedy: None }
}

fn inputs() -> impl Strategy<Value = Input> {
    // Proofs of this run and of another one.
    let epoch = prop_oneof![4 => Just(EPOCH), 1 => Just(Epoch(9))];
    (0u8..20, epoch).prop_map(|(which, epoch)| match which {
        0 => Input::Start,
        1 => Input::Armed,
        2 => Input::GatePassed,
        3 => Input::TrafficHeld,
        4 => Input::Fenced(fenced(epoch)),
        5 => Input::Drained(drained(epoch)),
        6 => Input::SequencesSet(way_back(epoch)),
        7 => Input::Sealed(sealed(epoch)),
        8 => Input::DecidedCommit(committed(epoch)),
        9 => Input::DecidedAbort(why()),
        10 => Input::NotDecided(why()),
        11 => Input::Flipped,
        12 => Input::Released,
        13 => Input::StreamEnded,
        14 => Input::Stop(why()),
        15 => Input::PutBack,
        16 => Input::StreamsTurned,
        17 => Input::WayBackProven,
        18 => Input::WatchEnded(WatchEnd::Over),
        _ => Input::GiveUp(why()),
    })
}

/// The input that a state waits for, so that random sequences get anywhere.
fn fitting(state: &State) -> Input {
    match state {
        State::Replicating => Input::Armed,
        State::Armed => Input::GatePassed,
        State::Gate => Input::TrafficHeld,
        State::Quiesced => Input::Fenced(fenced(EPOCH)),
        State::Fenced(_) => Input::Drained(drained(EPOCH)),
        State::Drained(_) => Input::SequencesSet(way_back(EPOCH)),
        State::Synced(..) => Input::Sealed(sealed(EPOCH)),
        State::Sealed(_) => Input::DecidedCommit(committed(EPOCH)),
        State::Committed(_) => Input::Flipped,
        State::Flipped(_) => Input::Released,
        State::Open(_) => Input::StreamsTurned,
        State::Reversing(_) => Input::WayBackProven,
        State::Watching(_) => Input::WatchEnded(WatchEnd::Over),
        State::Aborting { .. } => Input::PutBack,
        State::Done | State::Aborted { .. } | State::Held { .. } => Input::Start,
    }
}

proptest! {
    /// From any sequence of inputs: no flip without a drain and a commit, in this order; no
    /// way back after the commit; an abort is possible in every state before it.
    #[test]
    fn never_flips_unproven_and_never_goes_back_after_the_decision(
        sequence in proptest::collection::vec(proptest::option::weighted(0.3, inputs()), 1..60)
    ) {
        let mut state = State::Replicating;
        let (mut has_drained, mut has_committed) = (false, false);
        for input in sequence {
            let input = input.unwrap_or_else(|| fitting(&state));
            let before = state.clone();
            let (after, effect) = step(state, input.clone());
            if matches!(after, State::Drained(_)) {
                has_drained = true;
            }
            if after.phase() == Phase::Committed && !has_committed {
                prop_assert!(matches!(before, State::Sealed(_)));
                prop_assert!(matches!(input, Input::DecidedCommit(_)));
                has_committed = true;
            }
            if matches!(effect, Some(Effect::Flip(_) | Effect::Release(_))) {
                prop_assert!(has_drained && has_committed);
            }
            if has_committed {
                prop_assert!(after.phase().is_committed() || after.phase() == Phase::Held);
                let back =
                    matches!(effect, Some(Effect::PutBack { .. } | Effect::ClaimAbort(..)));
                prop_assert!(!back);
            } else if !after.phase().is_final() && after.phase() != Phase::Aborting {
                let (stopped, back) = step(after.clone(), Input::Stop(why()));
                if matches!(after, State::Sealed(_)) {
                    let claims = matches!(back, Some(Effect::ClaimAbort(..)));
                    prop_assert!(claims);
                    let (aborted, _) = step(stopped, Input::DecidedAbort(why()));
                    prop_assert_eq!(aborted.phase(), Phase::Aborting);
                } else {
                    prop_assert_eq!(stopped.phase(), Phase::Aborting);
                    let put_back = matches!(back, Some(Effect::PutBack { .. }));
                    prop_assert!(put_back);
                }
            }
            state = after;
        }
    }
}

#[test]
fn proofs_refuse_less() {
    let report = FenceReport { clean_scans: 1, ..FenceReport::default() };
    assert!(Fenced::prove(EPOCH, Side::Blue, &report).is_err());
    let report = FenceReport { clean_scans: 2, tables_total: 1, ..FenceReport::default() };
    assert!(Fenced::prove(EPOCH, Side::Blue, &report).is_err());

    let token = Token::draining("r", EPOCH);
    let written = MarkerWritten::new(token.clone(), 10);
    let early = MarkerWritten::new(token.clone(), 9);
    let durable = |durable| MarkerDurable { token: token.clone(), end_lsn: Lsn(5), durable };
    assert!(Drained::prove(&fenced(EPOCH), &written, &durable(Lsn(4))).is_err());
    assert!(Drained::prove(&fenced(EPOCH), &early, &durable(Lsn(5))).is_err());
    assert!(Drained::prove(&fenced(Epoch(9)), &written, &durable(Lsn(5))).is_err());

    assert!(Committed::decide(&sealed(EPOCH), EPOCH, Verdict::Abort).is_err());
    assert!(Committed::decide(&sealed(EPOCH), Epoch(9), Verdict::Commit).is_err());
    assert!(Committed::recovered(EPOCH, Side::Green, Verdict::Abort).is_err());
    assert_eq!(committed(EPOCH).to(), Side::Green);
}
