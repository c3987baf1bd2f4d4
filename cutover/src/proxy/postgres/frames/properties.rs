//! Whatever comes, in whatever portions: the scanner neither panics nor loses a byte.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// All that a sink is told, put together again.
#[derive(Debug, Default, PartialEq)]
struct Told {
    messages: Vec<(u8, Vec<u8>)>,
    open: bool,
}

impl Sink for Told {
    fn piece(&mut self, tag: u8, part: &[u8], first: bool, last: bool) {
        assert_ne!(first, self.open, "a message begins when none is under way");
        if first {
            self.messages.push((tag, Vec::new()));
        }
        let (known, body) = self.messages.last_mut().unwrap();
        assert_eq!(*known, tag);
        body.extend_from_slice(part);
        self.open = !last;
    }
}

fn message() -> impl Strategy<Value = (u8, Vec<u8>)> {
    (any::<u8>(), vec(any::<u8>(), 0..40))
}

fn bytes_of(messages: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (tag, body) in messages {
        bytes.push(*tag);
        bytes.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        bytes.extend_from_slice(body);
    }
    bytes
}

/// Cuts `bytes` at these places.
fn portions<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn every_message_comes_out_as_it_went_in(
        messages in vec(message(), 0..12),
        cuts in vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let bytes = bytes_of(&messages);
        let (mut scanner, mut told) = (Scanner::default(), Told::default());
        for portion in portions(&bytes, &cuts) {
            scanner.scan(portion, &mut told).unwrap();
        }
        prop_assert!(scanner.at_boundary());
        prop_assert_eq!(told.messages, messages);
    }

    /// A stream that is cut off anywhere is at a boundary exactly where a message ends.
    #[test]
    fn a_boundary_is_where_a_message_ends(
        messages in vec(message(), 1..8),
        end in any::<prop::sample::Index>(),
    ) {
        let bytes = bytes_of(&messages);
        let end = end.index(bytes.len() + 1);
        let mut scanner = Scanner::default();
        scanner.scan(&bytes[..end], &mut Told::default()).unwrap();
        let mut at = 0;
        let ends = messages.iter().map(|(_, body)| { at += HEADER + body.len(); at });
        let is_end = end == 0 || ends.collect::<Vec<_>>().contains(&end);
        prop_assert_eq!(scanner.at_boundary(), is_end);
    }

    /// Letting messages through one at a time comes to the same as all at once.
    #[test]
    fn one_at_a_time_is_all_at_once(
        messages in vec(message(), 0..8),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let bytes = bytes_of(&messages);
        let (mut scanner, mut told) = (Scanner::default(), Told::default());
        let mut waiting = Vec::new();
        for portion in portions(&bytes, &cuts) {
            waiting.extend_from_slice(portion);
            loop {
                let length = scanner.until_boundary(&waiting).unwrap();
                if length == 0 {
                    break;
                }
                scanner.scan(&waiting[..length], &mut told).unwrap();
                waiting.drain(..length);
            }
        }
        prop_assert!(waiting.is_empty());
        prop_assert_eq!(told.messages, messages);
    }

    /// Anything at all: an error at most, and what was told before it is what was there.
    #[test]
    fn garbage_is_survived(
        bytes in vec(any::<u8>(), 0..200),
        cuts in vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let (mut whole, mut scanner) = (Told::default(), Scanner::default());
        let outcome = scanner.scan(&bytes, &mut whole);
        let (mut parts, mut again) = (Told::default(), Scanner::default());
        let mut failed = Ok(());
        for portion in portions(&bytes, &cuts) {
            prop_assert!(again.until_boundary(portion).is_err()
                || again.until_boundary(portion).unwrap() <= portion.len());
            failed = again.scan(portion, &mut parts);
            if failed.is_err() {
                break;
            }
        }
        prop_assert_eq!(failed, outcome);
        prop_assert_eq!(parts, whole);
    }
}
