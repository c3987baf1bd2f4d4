//! From where to where a pipeline streams.

use cutover::Direction;
use decoders::postgres::conninfo::ConnInfo;

use super::failure::Failure;

/// The two ends of a stream.
#[derive(Clone, Debug)]
pub struct Ends<E = ConnInfo> {
    /// Where changes come from.
    pub source: E,
    /// Where they go.
    pub target: E,
    /// From blue to green, or back.
    pub direction: Direction,
}

impl<E: Clone> Ends<E> {
    /// The same two the other way round.
    pub fn reversed(&self) -> Self {
        Self {
            source: self.target.clone(),
            target: self.source.clone(),
            direction: self.direction.reversed(),
        }
    }

    /// A sentence in the words of this direction: see [`Ends::put`].
    pub fn words(&self, text: String) -> String {
        words(self.direction, text)
    }

    /// A failure in the words of this direction: the engine calls its source blue and its target
    /// green, which on the way back are the other way round.
    pub fn put(&self, failure: Failure) -> Failure {
        put(self.direction, failure)
    }
}

/// A failure of a stream in this direction, in its words: see [`Ends::put`].
pub(super) fn put(direction: Direction, failure: Failure) -> Failure {
    let words = |text| words(direction, text);
    Failure {
        place: words(failure.place),
        what: words(failure.what),
        remedy: failure.remedy.map(words),
        ..failure
    }
}

/// A sentence about blue as the source in the words of a direction: see [`Ends::put`].
pub(crate) fn words(direction: Direction, text: String) -> String {
    match direction {
        Direction::Forward => text,
        Direction::Back => swap(&text),
    }
}

/// Blue for green and green for blue, whole words outside of quotes.
fn swap(text: &str) -> String {
    let mut swapped = String::with_capacity(text.len());
    let mut rest = text;
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut in_name = false;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        if end == 0 {
            in_name ^= first == '"';
            swapped.push(first);
            rest = &rest[first.len_utf8()..];
            continue;
        }
        let (word, after) = rest.split_at(end);
        swapped.push_str(match word {
            "blue" if !in_name => "green",
            "green" if !in_name => "blue",
            "Blue" if !in_name => "Green",
            "Green" if !in_name => "Blue",
            word => word,
        });
        rest = after;
    }
    swapped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sides_change_places_and_nothing_else() {
        let text = "green's \"green\".\"blue\" is not blue; Blue keeps greenish evergreen";
        let expected = "blue's \"green\".\"blue\" is not green; Green keeps greenish evergreen";
        assert_eq!(swap(text), expected);
        assert_eq!(swap(""), "");
    }
}
