//! Whose turn it is: whether a session is between two transactions with nothing under way, which
//! is the only moment at which it may be held or moved.
//!
//! The rule: every Query, FunctionCall and Sync is answered by exactly one ReadyForQuery
//! (PostgreSQL manual, "Message Flow"). The exception is COPY FROM STDIN: until CopyDone or
//! CopyFail the server swallows Sync messages. Wherever what happened can't be told from the order
//! of the messages, the session counts as busy for good: it is never held at the wrong moment.

/// ReadyForQuery's status outside of a transaction.
pub(super) const IDLE: u8 = b'I';

/// What was sent and is not answered yet.
#[derive(Debug)]
pub(super) struct Turns {
    /// ReadyForQuery messages that are still to come.
    awaited: u32,
    /// The last message that asks for one was a Query.
    simple: bool,
    /// Extended-protocol messages without a Sync yet: their transaction is open.
    open: bool,
    /// The server reads COPY data.
    copy_in: bool,
    /// The end of COPY data was sent before the server was seen to read any.
    copy_early: bool,
    /// Nobody can tell any more.
    confused: bool,
    /// Of the last ReadyForQuery.
    status: u8,
}

impl Turns {
    /// Right after a login.
    pub fn new() -> Self {
        Self {
            awaited: 0,
            simple: false,
            open: false,
            copy_in: false,
            copy_early: false,
            confused: false,
            status: IDLE,
        }
    }

    /// The client has sent a message of this type.
    pub fn client(&mut self, tag: u8) {
        match tag {
            b'Q' | b'F' => {
                self.awaited += 1;
                self.simple = true;
                self.open = false;
            }
            // Swallowed; the one behind CopyDone counts.
            b'S' if self.copy_in => {}
            b'S' => {
                self.awaited += 1;
                self.simple = false;
                self.open = false;
            }
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' => self.open = true,
            b'c' | b'f' => {
                self.copy_early |= !self.copy_in;
                self.copy_in = false;
            }
            _ => {}
        }
    }

    /// The server has sent a message of this type, other than ReadyForQuery.
    pub fn server(&mut self, tag: u8) {
        match tag {
            b'G' if !self.copy_early => match (self.awaited, self.simple) {
                (1, true) => self.copy_in = true,
                // The Sync behind the Execute is among what is swallowed.
                (0 | 1, _) => {
                    self.awaited = 0;
                    self.open = true;
                    self.copy_in = true;
                }
                _ => self.confused = true,
            },
            b'W' => self.confused = true,
            // From here on the server wants a Sync again, or is done with a Query.
            b'E' => self.copy_in = false,
            _ => {}
        }
    }

    /// ReadyForQuery.
    pub fn ready(&mut self, status: u8) {
        self.awaited = self.awaited.saturating_sub(1);
        self.status = status;
        self.copy_in = false;
        self.copy_early &= self.awaited > 0;
    }

    /// Between transactions, and nothing is under way.
    pub fn at_rest(&self) -> bool {
        self.awaited == 0 && !self.open && self.status == IDLE && !self.confused
    }

    /// Sending more would only pile up behind what is under way: the answer comes first. Not so
    /// where the server waits for us.
    pub fn must_wait(&self) -> bool {
        self.awaited > 0 && !self.open && !self.copy_in && !self.confused
    }

    /// In a few words, for a report.
    pub fn describe(&self) -> &'static str {
        match (self.confused, self.copy_in, self.status) {
            (true, ..) => "in a conversation that can't be followed",
            (_, true, _) => "in a COPY",
            (_, _, b'T' | b'E') => "in a transaction",
            _ => "in a statement",
        }
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    /// Upper-case words are the client's messages, `<X` the server's, `<I`, `<T` ReadyForQuery.
    fn play(script: &str) -> Turns {
        let mut turns = Turns::new();
        for word in script.split_whitespace() {
            match word.as_bytes() {
                [b'<', status @ (b'I' | b'T')] => turns.ready(*status),
                [b'<', tag] => turns.server(*tag),
                [tag] => turns.client(*tag),
                other => panic!("{other:?}"),
            }
        }
        turns
    }

    #[test]
    fn rest_is_where_nothing_is_under_way() {
        for script in [
            "",
            "Q <C <I",
            "Q <T Q <I",
            "P B D E S <1 <2 <I",
            "P B E S P B E S <I <I",
            "Q Q <I <I",
            // COPY by a Query, and with an error in it.
            "Q <G d d c <C <I",
            "Q <G d <E <I d c",
            // COPY by the extended protocol, with the Sync that is swallowed and without one.
            "P B E S <G d c S <C <I",
            "P B E H <G d c S <C <I",
            "P B E S <G d <E f S <I",
            // All at once.
            "P B E d c S <G <C <I",
        ] {
            assert!(play(script).at_rest(), "{script}");
        }
    }

    #[test]
    fn anything_else_is_not() {
        for script in [
            "Q",
            "Q <T",
            "P B E H <C",
            "P B E S P B E S <I",
            "P B E S P",
            "Q Q <I",
            "Q <G",
            "P B E S <G d c",
            "P B E S <G d c S",
            // Two Syncs, and which of them was swallowed is not known.
            "P B E S d c S <G <C <I",
            "Q S <G d c <I <I",
        ] {
            assert!(!play(script).at_rest(), "{script}");
        }
    }

    #[test]
    fn what_goes_on_while_clients_are_held() {
        // A transaction goes on, one message group at a time.
        assert!(!play("Q <T").must_wait());
        assert!(play("Q <T Q").must_wait());
        assert!(!play("P B E").must_wait());
        assert!(play("P B E S").must_wait());
        assert!(!play("Q <G d").must_wait());
        assert!(play("Q <G d c").must_wait());
    }
}
