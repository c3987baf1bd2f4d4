//! Recorded frames with damage: an error or another message, never a panic.

use bytes::Bytes;
use decoders::assemble::Assembler;
use decoders::postgres::pgoutput;
use proptest::prelude::*;

use crate::MAJORS;
use crate::case::Case;
use crate::recording::Recording;

fn recordings() -> Vec<Vec<Bytes>> {
    let mut recordings = Vec::new();
    for case in Case::all() {
        for major in MAJORS.into_iter().filter(|major| case.exists_on(*major)) {
            recordings.push(Recording::load(&case.name, major).frames);
        }
    }
    recordings
}

#[test]
fn every_prefix_of_a_recorded_frame_is_an_error() {
    for frame in recordings().into_iter().flatten() {
        // The widest frames would make this quadratic.
        let step = frame.len() / 500 + 1;
        for length in (0..frame.len()).step_by(step) {
            assert!(pgoutput::decode(&frame.slice(..length)).is_err());
        }
    }
}

#[derive(Debug, Clone)]
enum Damage {
    Byte(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Drop,
    Repeat,
}

fn any_damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Byte(at, byte)),
        1 => any::<prop::sample::Index>().prop_map(Damage::Cut),
        1 => Just(Damage::Drop),
        1 => Just(Damage::Repeat),
    ]
}

#[test]
fn a_damaged_stream_ends_in_an_error_or_goes_on_and_never_panics() {
    let recordings = recordings();
    let damage = proptest::collection::vec((any::<prop::sample::Index>(), any_damage()), 1..6);
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) };
    proptest!(config, |(which: prop::sample::Index, damage in damage)| {
        let mut frames = which.get(&recordings).clone();
        for (at, damage) in damage {
            if frames.is_empty() {
                break;
            }
            let at = at.index(frames.len());
            match damage {
                Damage::Byte(byte_at, byte) => {
                    let mut bytes = frames[at].to_vec();
                    if !bytes.is_empty() {
                        let byte_at = byte_at.index(bytes.len());
                        bytes[byte_at] = byte;
                    }
                    frames[at] = bytes.into();
                }
                Damage::Cut(length) => {
                    let length = length.index(frames[at].len() + 1);
                    frames[at] = frames[at].slice(..length);
                }
                Damage::Drop => {
                    frames.remove(at);
                }
                Damage::Repeat => frames.insert(at, frames[at].clone()),
            }
        }
        let mut assembler = Assembler::new(4_000);
        for frame in &frames {
            let Ok(message) = pgoutput::decode(frame) else { break };
            if assembler.push(message, frame.len()).is_err() {
                break;
            }
        }
    });
}
