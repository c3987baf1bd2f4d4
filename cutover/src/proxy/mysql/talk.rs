//! The conversation of a session: which command the server has, and where its answer ends.
//!
//! The protocol is one of turns (MySQL manual, "Command Phase"): a command, and its answer up to the
//! end. So the server gets a command when the one before it is answered, whatever a client sends
//! ahead, and what is under way is never more than one. Where an answer ends is told by its packets:
//!
//! ```text
//! OK | error | definitions (EOF) rows.. (EOF or OK, which may announce another result) | infile
//! ```
//!
//! An OK and an EOF say whether a transaction is open. An error does not, so after one the session's
//! standing is unknown until the server is asked (`uncertain`).

mod altered;
mod answer;
mod com;

use std::io;
use std::time::Instant;

use bytes::{Buf, BytesMut};

use self::altered::{bind, bind_bulk, renumbered};
use self::answer::Answer;
use super::packets::{FULL, HEADER, error, header, invalid, packet};
use super::places::Whom;
use super::statements::{Statement, Statements};
use super::words::{Said, look};

/// Bits of a server's status.
mod status {
    pub const IN_TRANSACTION: u16 = 1;
    pub const MORE_RESULTS: u16 = 8;
    pub const CURSOR: u16 = 64;
    pub const LAST_ROW: u16 = 128;
}

/// A command up to this length is looked at as a whole before any of it goes to the server.
pub(super) const WHOLE_MAX: usize = 1 << 20;
/// Since when a client must have been quiet to be asked something of no hurry.
const QUIET_MS: u128 = 250;

/// What a command is, as far as its answer depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Doing {
    Other,
    /// The number of a database is changed, a connection reset, ..
    Reset,
    Prepare,
    /// Of this statement.
    Execute(u32),
    Fetch(u32),
    /// Whether several statements may come in one message.
    Option(u16),
}

/// What a look at the client's bytes has come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing can be passed on now.
    Nothing,
    Moved,
    /// This command is not to be passed on as it is: COM_CHANGE_USER, number and body.
    ChangeUser(u8, Vec<u8>),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Talk {
    /// Rows end with an OK.
    ends_with_ok: bool,
    // From the client.
    up_left: usize,
    up_goes_on: bool,
    /// The server reads a file of the client's.
    infile: bool,
    // From the server.
    head: Vec<u8>,
    down_left: usize,
    down_goes_on: bool,
    answer: Answer,
    doing: Doing,
    /// The number of the last packet either way.
    seq: u8,
    /// Of the last OK or EOF.
    status: u16,
    /// Since then an error has come.
    pub uncertain: bool,
    /// A `SET TRANSACTION` waits for its transaction.
    next_transaction: bool,
    /// Whether the statement under way is one, or ends that it waits; see [`Said::next_transaction`].
    is_next_transaction: Option<bool>,
    pub statements: Statements,
    preparing: Option<Statement>,
    /// Grows whenever names and literals may have another meaning from there on.
    meaning: u64,
    /// The last value of COM_SET_OPTION.
    pub option: Option<u16>,
    /// A lock of the server may have been taken.
    pub may_lock: bool,
    /// The server may have forgotten what it has counted.
    pub forgets: bool,
    /// The session has begun anew, and the server counts anew.
    pub anew: bool,
    /// We have asked the server something since the client's last statement.
    pub disturbed: bool,
    quiet_since: Instant,
}

/// The client asks about its last statement, and there was one of ours since.
const DISTURBED: &str = "what the server knew about the last statement was lost: the proxy had to \
     look at the session, or to move it";

impl Talk {
    /// Right after a login.
    pub fn new(ends_with_ok: bool, status: u16) -> Self {
        Self {
            ends_with_ok,
            up_left: 0,
            up_goes_on: false,
            infile: false,
            head: Vec::new(),
            down_left: 0,
            down_goes_on: false,
            answer: Answer::None,
            doing: Doing::Other,
            seq: 0,
            status,
            uncertain: false,
            next_transaction: false,
            is_next_transaction: None,
            statements: Statements::default(),
            preparing: None,
            meaning: 0,
            option: None,
            may_lock: false,
            forgets: false,
            anew: false,
            disturbed: false,
            quiet_since: Instant::now(),
        }
    }

    /// Nothing is under way: no command, no answer, no part of a packet.
    pub fn is_settled(&self) -> bool {
        self.answer == Answer::None
            && !self.infile
            && self.up_left == 0
            && !self.up_goes_on
            && self.is_between_packets()
    }

    /// Whole packets have come from the server.
    pub fn is_between_packets(&self) -> bool {
        self.head.is_empty() && self.down_left == 0 && !self.down_goes_on
    }

    /// Between transactions, and nothing is under way, as far as the server has said.
    pub fn at_rest(&self) -> bool {
        self.is_settled()
            && self.status & status::IN_TRANSACTION == 0
            && !self.next_transaction
            && !self.statements.iter().any(|statement| statement.long_data)
    }

    /// The client has said nothing for a moment.
    pub fn is_quiet(&self) -> bool {
        self.quiet_since.elapsed().as_millis() >= QUIET_MS
    }

    /// In a few words, for a report.
    pub fn describe(&self) -> &'static str {
        match (self.infile, self.status & status::IN_TRANSACTION != 0 || self.next_transaction) {
            (true, _) => "in a LOAD DATA LOCAL",
            (_, true) => "in a transaction",
            _ => "in a statement",
        }
    }

    /// What keeps the session from being moved, as far as the conversation tells.
    pub fn obstacle(&self) -> Option<&'static str> {
        if self.statements.iter().any(|statement| statement.cursor) {
            return Some("an open cursor");
        }
        if self.statements.iter().any(|statement| statement.text.is_none()) {
            return Some("a prepared statement that is too large to be kept");
        }
        if self.statements.iter().any(|statement| statement.meaning != self.meaning) {
            return Some("a prepared statement from before its schema or mode was changed");
        }
        self.forgets.then_some("FLUSH")
    }

    /// The number that an error in place of what the server would say next has.
    pub fn next_seq(&self) -> u8 {
        // A client that reads begins with a command of its own, which has number 0.
        if self.answer == Answer::None { 1 } else { self.seq.wrapping_add(1) }
    }

    /// What a login or a question of ours has told.
    pub fn set_status(&mut self, status: u16) {
        self.status = status;
        self.uncertain = false;
    }

    /// The session has begun anew: COM_RESET_CONNECTION, COM_CHANGE_USER.
    pub fn forget(&mut self) {
        self.statements.clear();
        self.next_transaction = false;
        self.may_lock = false;
        self.forgets = false;
        self.anew = true;
        self.meaning += 1;
    }

    /// Takes commands out of `inbox` for the server; refusals are for the client. A new command is
    /// begun only if it may. `number`: whom a client means that says a session's number.
    pub fn send(
        &mut self,
        inbox: &mut BytesMut,
        server: &mut Vec<u8>,
        client: &mut Vec<u8>,
        may_begin: bool,
        number: &dyn Fn(u32) -> Whom,
    ) -> io::Result<Step> {
        let mut moved = Step::Nothing;
        loop {
            if self.up_left > 0 {
                let take = self.up_left.min(inbox.len());
                if take == 0 {
                    return Ok(moved);
                }
                server.extend_from_slice(&inbox.split_to(take));
                self.up_left -= take;
                moved = Step::Moved;
                continue;
            }
            let Some(head) = inbox.first_chunk::<HEADER>() else { return Ok(moved) };
            let (length, seq) = header(*head);
            // What was full goes on in the next packet, which may be empty.
            let goes_on = std::mem::replace(&mut self.up_goes_on, false);
            if goes_on || self.infile {
                let is_end = self.infile && length == 0 && !goes_on;
                self.begin_packet(length, seq);
                server.extend_from_slice(&inbox.split_to(HEADER));
                self.infile &= !is_end;
                moved = Step::Moved;
                continue;
            }
            // Who does not read what was refused gets nothing more.
            let may_begin = may_begin && client.is_empty();
            if self.answer != Answer::None || !may_begin || !self.is_between_packets() {
                return Ok(moved);
            }
            let whole = length.min(WHOLE_MAX);
            if length == 0 {
                return Err(invalid("an empty command"));
            }
            if inbox.len() < HEADER + whole {
                return Ok(moved);
            }
            self.quiet_since = Instant::now();
            if length == whole
                && let Some(body) = renumbered(&inbox[HEADER..HEADER + whole], number)
            {
                match body {
                    Ok(body) => {
                        self.answer = Answer::First;
                        self.doing = Doing::Other;
                        self.seq = seq;
                        packet(server, seq, &body);
                    }
                    Err(what) => error(client, seq.wrapping_add(1), 1094, "HY000", &what),
                }
                inbox.advance(HEADER + whole);
                moved = Step::Moved;
                continue;
            }
            moved = match self.command(inbox, length, whole, seq, server, client)? {
                Step::ChangeUser(seq, body) => return Ok(Step::ChangeUser(seq, body)),
                _ => Step::Moved,
            };
        }
    }

    fn begin_packet(&mut self, length: usize, seq: u8) {
        self.up_left = length;
        self.up_goes_on = length == FULL;
        self.seq = seq;
    }

    /// Begins a command, of which the first `whole` bytes are here.
    fn command(
        &mut self,
        inbox: &mut BytesMut,
        length: usize,
        whole: usize,
        seq: u8,
        server: &mut Vec<u8>,
        client: &mut Vec<u8>,
    ) -> io::Result<Step> {
        let body = &mut inbox[HEADER..HEADER + whole];
        let statement = body.get(1..5).and_then(|bytes| bytes.try_into().ok());
        let statement = statement.map(u32::from_le_bytes).unwrap_or_default();
        let mut insert = None;
        self.doing = Doing::Other;
        let mut said = Said::default();
        let answer = match body[0] {
            com::QUIT => Answer::One,
            com::QUERY | com::PROCESS_INFO => {
                said = look(&body[1..]);
                self.heed(said, length > whole);
                Answer::First
            }
            com::PREPARE => {
                said = look(&body[1..]);
                self.may_lock |= said.locks;
                let text = (length == whole && length < FULL).then(|| body[1..].to_vec());
                let meaning = self.meaning;
                self.preparing = Some(Statement { text, meaning, said, ..Statement::default() });
                said = Said::default();
                self.doing = Doing::Prepare;
                Answer::First
            }
            com::EXECUTE | com::BULK_EXECUTE => {
                self.doing = Doing::Execute(statement);
                let is_bulk = body[0] == com::BULK_EXECUTE;
                if let Some(known) = self.statements.get_mut(statement) {
                    said = known.said;
                    known.long_data = false;
                    insert = match is_bulk {
                        true => bind_bulk(body, known),
                        false => bind(body, known),
                    };
                }
                self.heed(said, false);
                Answer::First
            }
            com::LONG_DATA => {
                if let Some(known) = self.statements.get_mut(statement) {
                    known.long_data = true;
                }
                Answer::None
            }
            com::CLOSE => Answer::None,
            com::RESET => {
                if let Some(known) = self.statements.get_mut(statement) {
                    known.long_data = false;
                    known.cursor = false;
                }
                Answer::First
            }
            com::FETCH => {
                self.doing = Doing::Fetch(statement);
                Answer::Rows
            }
            com::INIT_DB | com::CREATE_DB | com::DROP_DB => {
                self.meaning += 1;
                Answer::First
            }
            com::SET_OPTION => {
                let value = body.get(1..3).and_then(|bytes| bytes.try_into().ok());
                self.doing = Doing::Option(value.map(u16::from_le_bytes).unwrap_or_default());
                Answer::First
            }
            com::RESET_CONNECTION => {
                self.doing = Doing::Reset;
                Answer::First
            }
            com::REFRESH => {
                self.forgets = true;
                Answer::First
            }
            com::PROCESS_KILL | com::DEBUG | com::PING => Answer::First,
            com::FIELD_LIST => Answer::Fields,
            com::STATISTICS => Answer::One,
            com::CHANGE_USER if length == whole && length < FULL => {
                let body = body.to_vec();
                inbox.advance(HEADER + whole);
                return Ok(Step::ChangeUser(seq, body));
            }
            // Replicas, clones, and what no manual knows.
            other => {
                if length != whole {
                    return Err(invalid(format!("a large command of type {other:#x}")));
                }
                let what = format!("the proxy does not pass on commands of type {other:#x}");
                error(client, seq.wrapping_add(1), 1047, "08S01", &what);
                inbox.advance(HEADER + whole);
                return Ok(Step::Moved);
            }
        };
        if said.about_last && self.disturbed {
            if length != whole {
                return Err(invalid("a large question about the last statement"));
            }
            error(client, seq.wrapping_add(1), 1105, "HY000", DISTURBED);
            inbox.advance(HEADER + whole);
            return Ok(Step::Moved);
        }
        if matches!(body[0], com::QUERY | com::EXECUTE | com::BULK_EXECUTE) {
            self.disturbed = false;
            self.is_next_transaction = said.next_transaction;
        }
        let of_statement =
            [com::EXECUTE, com::BULK_EXECUTE, com::LONG_DATA, com::CLOSE, com::RESET, com::FETCH];
        if of_statement.contains(&body[0])
            && let Some(number) = body.get_mut(1..5)
        {
            number.copy_from_slice(&self.statements.server_number(statement).to_le_bytes());
        }
        if body[0] == com::CLOSE {
            self.statements.remove(statement);
        }
        self.answer = answer;
        self.begin_packet(length, seq);
        match insert {
            None => server.extend_from_slice(&inbox.split_to(HEADER + whole)),
            Some((at, bytes)) => {
                // The server of a session that was moved does not know the types.
                let new = length + bytes.len();
                if new >= FULL {
                    return Err(invalid("parameters that have no room for their types"));
                }
                let [a, b, c, _] = u32::try_from(new).unwrap_or(u32::MAX).to_le_bytes();
                server.extend_from_slice(&[a, b, c, seq]);
                server.extend_from_slice(&inbox[HEADER..HEADER + at]);
                server.extend_from_slice(&bytes);
                server.extend_from_slice(&inbox[HEADER + at..HEADER + whole]);
                inbox.advance(HEADER + whole);
            }
        }
        self.up_left = length - whole;
        Ok(Step::Moved)
    }

    /// A statement goes to the server; `cut`: not all of it was looked at.
    fn heed(&mut self, said: Said, cut: bool) {
        self.may_lock |= said.locks || cut;
        self.forgets |= said.forgets;
        self.meaning += u64::from(said.meaning || cut);
    }
}

#[cfg(test)]
mod tests;
