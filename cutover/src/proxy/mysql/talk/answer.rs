//! What the server says: where an answer is, and what its packets tell.

use std::io;

use super::super::packets::{
    Cursor, EOF, ERR, FULL, HEADER, OK, Prepared, header, invalid, status_of_eof, status_of_ok,
};
use super::super::statements::Statement;
use super::{Doing, Talk, status};

/// Of a server's packet, what is looked at.
const HEAD_MAX: usize = 32;

/// Where an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// There is none under way.
    None,
    /// Its first packet, or the first one of another result.
    First,
    /// Definitions of columns, and how many are to come.
    Columns(u64),
    /// The EOF behind them.
    ColumnsEnd,
    Rows,
    /// Of COM_STMT_PREPARE: packets that are to come.
    Definitions(u32),
    /// Definitions up to an EOF (COM_FIELD_LIST).
    Fields,
    /// One packet, whatever it is.
    One,
}

impl Talk {
    /// Passes on what the server says.
    pub fn receive(&mut self, mut bytes: &[u8], client: &mut Vec<u8>) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.down_left > 0 {
                let (part, rest) = bytes.split_at(self.down_left.min(bytes.len()));
                client.extend_from_slice(part);
                self.down_left -= part.len();
                bytes = rest;
                continue;
            }
            // A header, then as much of the body as is looked at.
            for wanted in [HEADER, usize::MAX] {
                let need = match wanted {
                    HEADER => HEADER,
                    _ => HEADER + header(first_four(&self.head)).0.min(HEAD_MAX),
                };
                let take = need.saturating_sub(self.head.len()).min(bytes.len());
                let (part, rest) = bytes.split_at(take);
                self.head.extend_from_slice(part);
                bytes = rest;
                if self.head.len() < need {
                    return Ok(());
                }
            }
            let (length, seq) = header(first_four(&self.head));
            let mut head = std::mem::take(&mut self.head);
            let is_rest = std::mem::replace(&mut self.down_goes_on, length == FULL);
            self.seq = seq;
            if !is_rest {
                self.packet(&mut head[HEADER..], length)?;
            }
            client.extend_from_slice(&head);
            self.down_left = length - (head.len() - HEADER);
            head.clear();
            self.head = head;
        }
        Ok(())
    }

    /// A packet of the server's begins like this.
    fn packet(&mut self, head: &mut [u8], length: usize) -> io::Result<()> {
        let first = head.first().copied().unwrap_or_default();
        match self.answer {
            // Nobody has asked: its last word.
            Answer::None => {}
            Answer::One => self.done(None),
            Answer::First => match first {
                ERR => self.failed(),
                OK if self.doing == Doing::Prepare => self.prepared(head)?,
                OK => self.ok(head)?,
                0xfb => self.infile = true,
                EOF if length < 9 => self.eof(head)?,
                _ => {
                    let count = Cursor(head).number();
                    let count = count.ok_or_else(|| invalid("an answer that can't be read"))?;
                    self.answer = Answer::Columns(count);
                }
            },
            Answer::Columns(_) | Answer::ColumnsEnd if first == ERR => self.failed(),
            Answer::Columns(left) => {
                self.answer = match (left.saturating_sub(1), self.ends_with_ok) {
                    (0, true) => Answer::Rows,
                    (0, false) => Answer::ColumnsEnd,
                    (left, _) => Answer::Columns(left),
                };
            }
            Answer::ColumnsEnd => {
                let status = status_of_eof(head)?;
                // The rows of a cursor come when they are fetched.
                match status & status::CURSOR {
                    0 => self.answer = Answer::Rows,
                    _ => self.ended(status),
                }
            }
            Answer::Rows if first == ERR => self.failed(),
            Answer::Rows if first == EOF && self.ends_with_ok && length < FULL => self.ok(head)?,
            Answer::Rows if first == EOF && length < 9 => self.eof(head)?,
            Answer::Rows => {}
            Answer::Definitions(left) => match left.saturating_sub(1) {
                0 => self.done(None),
                left => self.answer = Answer::Definitions(left),
            },
            Answer::Fields if first == ERR => self.failed(),
            Answer::Fields if first == EOF => self.done(None),
            Answer::Fields => {}
        }
        Ok(())
    }

    fn ok(&mut self, head: &[u8]) -> io::Result<()> {
        self.ended(status_of_ok(head)?);
        Ok(())
    }

    fn eof(&mut self, head: &[u8]) -> io::Result<()> {
        self.ended(status_of_eof(head)?);
        Ok(())
    }

    /// A result has ended; another one may follow.
    fn ended(&mut self, status: u16) {
        self.set_status(status);
        match status & status::MORE_RESULTS {
            0 => self.done(Some(status)),
            _ => self.answer = Answer::First,
        }
    }

    fn failed(&mut self) {
        self.uncertain = true;
        if self.doing == Doing::Prepare {
            self.preparing = None;
            self.statements.refused();
        }
        self.answer = Answer::None;
        self.is_next_transaction = None;
    }

    fn prepared(&mut self, head: &mut [u8]) -> io::Result<()> {
        let prepared = Prepared::parse(head)?;
        let (server, parameters) = (prepared.number, prepared.parameters);
        let statement = self.preparing.take().unwrap_or_default();
        let number = self.statements.insert(Statement { server, parameters, ..statement });
        head[1..5].copy_from_slice(&number.to_le_bytes());
        match prepared.definitions(self.ends_with_ok) {
            0 => self.done(None),
            left => self.answer = Answer::Definitions(left),
        }
        Ok(())
    }

    /// The answer is complete.
    fn done(&mut self, status: Option<u16>) {
        self.answer = Answer::None;
        let status = status.unwrap_or_default();
        match std::mem::replace(&mut self.doing, Doing::Other) {
            Doing::Execute(number) => {
                if let Some(statement) = self.statements.get_mut(number) {
                    statement.cursor =
                        status & status::CURSOR != 0 && status & status::LAST_ROW == 0;
                }
            }
            Doing::Fetch(number) => {
                if let Some(statement) = self.statements.get_mut(number) {
                    statement.cursor &= status & status::LAST_ROW == 0;
                }
            }
            Doing::Option(value) => self.option = Some(value),
            Doing::Reset => self.forget(),
            Doing::Other | Doing::Prepare => {}
        }
        if let Some(is_next) = self.is_next_transaction.take() {
            self.next_transaction = is_next;
        }
    }
}

fn first_four(bytes: &[u8]) -> [u8; HEADER] {
    bytes.first_chunk::<HEADER>().copied().unwrap_or_default()
}
