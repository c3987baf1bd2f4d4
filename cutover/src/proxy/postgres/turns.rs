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
    /// A Sync was booked as swallowed by the COPY that is under way.
    swallowed: bool,
    /// That COPY has failed. Had the server not begun to read its data, it answers that Sync all the
    /// same: one ReadyForQuery more may come than is awaited. It says nothing new, so the session
    /// may rest before it is here.
    one_more: bool,
    /// Since then the client has sent something that is answered by more than a ReadyForQuery.
    one_more_shows: bool,
    /// The server sends a stream of replication (CopyBothResponse) that neither side has ended.
    streams: bool,
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
            swallowed: false,
            one_more: false,
            one_more_shows: false,
            streams: false,
            confused: false,
            status: IDLE,
        }
    }

    /// The client has sent a message of this type.
    pub fn client(&mut self, tag: u8) {
        if self.awaited == 0 && !self.open && matches!(tag, b'Q' | b'P') {
            // The end of COPY data that the server no longer wanted has nothing to do with these.
            self.copy_early = false;
        }
        self.one_more_shows |= self.one_more && b"QFPBDEC".contains(&tag);
        match tag {
            b'Q' | b'F' => {
                self.awaited += 1;
                self.simple = true;
                self.open = false;
            }
            // Swallowed; the one behind CopyDone counts.
            b'S' if self.copy_in => self.swallowed = true,
            b'S' => {
                self.awaited += 1;
                self.simple = false;
                self.open = false;
            }
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' => self.open = true,
            b'c' | b'f' if self.streams => self.streams = false,
            b'c' | b'f' => {
                self.copy_early |= !self.copy_in;
                self.copy_in = false;
            }
            _ => {}
        }
    }

    /// The server has sent a message of this type, other than ReadyForQuery. Only of those that are
    /// matched here it needs to know, unless it [is curious](Turns::server_if_curious).
    pub fn server(&mut self, tag: u8) {
        // Whatever it is, it is behind where one more would have come.
        self.one_more &= !self.one_more_shows;
        match tag {
            b'G' if !self.copy_early => match (self.awaited, self.simple) {
                (1, true) => self.copy_in = true,
                // The Sync behind the Execute is among what is swallowed.
                (0 | 1, _) => {
                    self.swallowed = self.awaited == 1;
                    self.awaited = 0;
                    self.open = true;
                    self.copy_in = true;
                }
                _ => self.confused = true,
            },
            // Answers a Query (START_REPLICATION), outside of transactions only.
            b'W' if self.awaited == 1 && self.simple && !self.open && self.status == IDLE => {
                self.streams = true;
            }
            b'W' => self.confused = true,
            // From here on the server wants a Sync again, or is done with a Query.
            b'E' => {
                self.streams = false;
                self.failed_copy();
                self.copy_in = false;
            }
            _ => {}
        }
    }

    fn failed_copy(&mut self) {
        // `swallowed` is of the COPY whose data, or their end, were sent last.
        if !std::mem::take(&mut self.swallowed) {
            return;
        }
        if self.awaited > 1 {
            // What came behind the COPY is on its way already: too much to tell apart.
            self.confused = true;
        } else {
            self.one_more = true;
            self.one_more_shows = false;
        }
    }

    /// The same of any other answer, which says something only sometimes. Notices and notifications are
    /// none, nor are settings.
    #[inline]
    pub fn server_if_curious(&mut self, tag: u8) {
        if self.one_more {
            self.server(tag);
        }
    }

    /// ReadyForQuery.
    pub fn ready(&mut self, status: u8) {
        self.swallowed = false;
        match (self.one_more, self.awaited) {
            // Nothing else can have been answered, or a statement would have said more.
            (true, 0) => self.one_more = false,
            (true, _) if self.one_more_shows => self.one_more = false,
            _ => self.awaited = self.awaited.saturating_sub(1),
        }
        self.status = status;
        self.streams = false;
        self.copy_in = false;
        self.copy_early &= self.awaited > 0;
    }

    /// Between transactions, and nothing is under way.
    pub fn at_rest(&self) -> bool {
        self.awaited == 0 && !self.open && self.status == IDLE && !self.confused
    }

    /// The server sends a stream of replication, and the client only says how far it has come: nothing
    /// is written, and no end is in sight.
    pub fn is_streaming(&self) -> bool {
        self.streams && self.awaited == 1 && !self.confused
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
            _ if self.streams => "in a replication stream",
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

    /// The server may have given up a COPY before it read any of its data: then it answers the Sync
    /// that went before them, and that answer is no other statement's.
    #[test]
    fn an_answer_too_many_ends_no_statement() {
        let failed = "P B E S <G d <E f S <I";
        for (rest, is_at_rest) in [
            ("", true),
            ("<I", true),
            ("Q", false),
            ("Q <I", false),
            ("Q <I <C", false),
            ("Q <I <C <I", true),
            ("<I Q <C <I", true),
            ("Q <C <I", true),
            ("Q <C <I Q <C", false),
            ("P B E S <I", false),
            ("P B E S <1 <2 <C <I", true),
            // Nobody can tell which one this is, and it does not matter.
            ("S <I", true),
            ("S <I Q <I", false),
        ] {
            let turns = play(&format!("{failed} {rest}"));
            assert_eq!(turns.at_rest(), is_at_rest, "{rest}: {turns:?}");
        }
        // It has come before the client has sent the second one.
        assert!(!play("P B E S <G d <E <I f S").at_rest());
        assert!(play("P B E S <G d <E <I f S <I Q <C <I").at_rest());
        // And with more on its way nobody can tell.
        assert!(!play("P B E S <G d c S Q <E <I <I").at_rest());
    }

    /// A client sends the end of its data after the server has given up the COPY.
    #[test]
    fn a_copy_that_failed_says_nothing_about_the_next() {
        let late = "Q <G d <E <I d c";
        for (script, rests) in [
            ("Q <G d", false),
            ("Q <G d c <C <I", true),
            // With the Sync that is swallowed.
            ("P B E S <G d c", false),
            ("P B E S <G d c S <C <I", true),
        ] {
            let turns = play(&format!("{late} {script}"));
            assert_eq!(turns.at_rest(), rests, "{script}: {turns:?}");
            let copies = script.ends_with('d');
            assert_eq!(turns.copy_in, copies, "{script}: {turns:?}");
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
    fn a_stream_of_replication_lasts_until_either_side_ends_it() {
        for (script, streams, rests) in [
            ("Q <W", true, false),
            ("Q <W d d", true, false),
            ("Q <W d c", false, false),
            ("Q <W d c <C <I", false, true),
            ("Q <W <E", false, false),
            ("Q <W <E <I", false, true),
            // Not by what answers them.
            ("P B E S <W", false, false),
            ("Q Q <W", false, false),
            ("Q <T Q <W", false, false),
            ("Q <W Q", false, false),
        ] {
            let turns = play(script);
            assert_eq!((turns.is_streaming(), turns.at_rest()), (streams, rests), "{script}");
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
