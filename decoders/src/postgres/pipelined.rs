//! Prepared statements without a pause between them, on a session of the client library.
//!
//! The library asks for an answer to each statement (one `Sync` each), so the server sends one small
//! packet for each, and both sides are woken for each. Here many statements go out with one `Sync`
//! behind them (PostgreSQL manual, 54.2.4 Pipelining), and come back as one. After an error the server
//! leaves out everything up to that `Sync`, so a transaction that fails in the middle does not reach
//! its COMMIT.
//!
//! ```text
//! take --> parse, execute, copy_data .. --> sync --> reply .. --> settle --> give_back
//! ```
//! Between [`Pipelined::give_back`] and [`Pipelined::take`] the session's own methods may be used, and
//! only then. Whoever takes the turn must know that the session has been answered everything: a
//! statement that it has dropped is closed on the server without anybody waiting for it, so its last
//! request has to be one whose end was awaited (an empty query will do).
//!
//! Cancellation: a dropped [`Pipelined::push`] or [`Pipelined::reply`] loses nothing that was received or
//! is to be sent.

use std::io;

use fallible_iterator::FallibleIterator;
use postgres_protocol::IsNull;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend::{self, BindError};
use tokio_postgres::types::{BorrowToSql, Format, Type};

use super::conninfo::Host;
use super::error::{ProtocolError, WireError};
use super::link::Link;
use super::shared::OtherEnd;
use super::transport::Transport;

/// The second speaker of a session ([`super::session::connect_pipelined`]).
#[derive(Debug)]
pub struct Pipelined {
    link: Link,
    /// Something was written and no `Sync` behind it.
    is_unsynced: bool,
    /// `Sync`s whose answer has not come.
    syncs: usize,
}

/// What the server says to a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It is done, with so many rows; 0 where rows are not counted.
    Complete(u64),
    /// What a statement takes (OIDs of types), after [`Pipelined::parse`].
    Parameters(Vec<u32>),
    /// Everything up to a `Sync` was answered.
    Ready,
}

impl Pipelined {
    pub(super) fn new(end: OtherEnd, host: Host) -> Pipelined {
        let link = Link::new(Transport::Other(end), host);
        Pipelined { link, is_unsynced: false, syncs: 0 }
    }

    fn end(&self) -> Option<&OtherEnd> {
        match &self.link.transport {
            Transport::Other(end) => Some(end),
            _ => None,
        }
    }

    /// From now on it is the pipeline that speaks.
    pub fn take(&mut self) {
        if let Some(end) = self.end() {
            end.take();
        }
    }

    /// Waits until everything is answered, and lets the session speak.
    ///
    /// # Errors
    /// The connection's. What the server says against a statement is not among them: whoever has not
    /// asked for it by [`Pipelined::reply`] has given up on it.
    pub async fn give_back(&mut self) -> Result<(), WireError> {
        if self.is_unsynced {
            self.sync();
        }
        while self.syncs > 0 {
            match self.reply().await {
                Ok(_) => {}
                Err(WireError::Server(error)) if error.severity == "ERROR" => {}
                Err(error) => return Err(error),
            }
        }
        // What the server says unasked may have come in part.
        while self.link.splitter.buffered_len() > 0 {
            self.link.frame().await?;
        }
        if let Some(end) = self.end() {
            end.give_back();
        }
        Ok(())
    }

    /// Bytes that were not given to the socket yet.
    pub fn unsent_bytes(&self) -> usize {
        self.link.out.len()
    }

    /// Prepares `sql` under `name`; parameters whose type is not given (0) get the server's choice.
    /// Answered by [`Reply::Parameters`].
    ///
    /// # Errors
    /// A name or text with a zero byte.
    pub fn parse(&mut self, name: &str, sql: &str, types: &[u32]) -> Result<(), WireError> {
        self.write(|out| {
            frontend::parse(name, sql, types.iter().copied(), out)?;
            frontend::describe(b'S', name, out)
        })
    }

    /// Forgets a prepared statement. Not answered.
    ///
    /// # Errors
    /// A name with a zero byte.
    pub fn close(&mut self, name: &str) -> Result<(), WireError> {
        self.write(|out| frontend::close(b'S', name, out))
    }

    /// Runs a prepared statement, whose rows, if any, are only counted. Answered by
    /// [`Reply::Complete`].
    ///
    /// # Errors
    /// A parameter that can't be written; nothing is sent then.
    pub fn execute<P: BorrowToSql>(
        &mut self,
        name: &str,
        types: &[Type],
        params: &[P],
    ) -> Result<(), WireError> {
        self.write(|out| {
            let typed = || params.iter().zip(types);
            let formats =
                typed().map(|(param, ty)| match param.borrow_to_sql().encode_format(ty) {
                    Format::Text => 0,
                    Format::Binary => 1,
                });
            let value = |(param, ty): (&P, &Type), out: &mut _| {
                Ok(match param.borrow_to_sql().to_sql_checked(ty, out)? {
                    tokio_postgres::types::IsNull::Yes => IsNull::Yes,
                    tokio_postgres::types::IsNull::No => IsNull::No,
                })
            };
            if params.len() != types.len() {
                return Err(io::Error::other("a statement with other parameters than its own"));
            }
            frontend::bind("", name, formats, typed(), value, std::iter::empty(), out).map_err(
                |error| match error {
                    BindError::Conversion(error) => io::Error::other(error),
                    BindError::Serialization(error) => error,
                },
            )?;
            frontend::execute("", 0, out)
        })
    }

    /// A piece of the data of a COPY that was just executed. The server need not have said that it is
    /// ready for it: after an error it takes data for noise.
    ///
    /// # Errors
    /// More than a message can hold.
    pub fn copy_data(&mut self, piece: &[u8]) -> Result<(), WireError> {
        self.write(|out| frontend::CopyData::new(piece).map(|data| data.write(out)))
    }

    /// Behind the last piece.
    ///
    /// # Errors
    /// None that can happen.
    pub fn copy_done(&mut self) -> Result<(), WireError> {
        self.write(|out| {
            frontend::copy_done(out);
            Ok(())
        })
    }

    /// The server is to answer everything up to here.
    pub fn sync(&mut self) {
        frontend::sync(&mut self.link.out);
        self.is_unsynced = false;
        self.syncs += 1;
    }

    /// Sends what was written.
    ///
    /// # Errors
    /// The connection's.
    pub async fn push(&mut self) -> Result<(), WireError> {
        self.link.push().await
    }

    /// The next answer. Without a [`Pipelined::sync`] behind what was sent there may never be one.
    ///
    /// # Errors
    /// The connection's, or the server's: of what is sent in front of the next `Sync` nothing else is
    /// answered then.
    pub async fn reply(&mut self) -> Result<Reply, WireError> {
        loop {
            let frame = self.link.frame().await?;
            let (tag, offset) = (frame.tag, frame.offset);
            match tag {
                // Of each step of a statement, each row, and what is said unasked.
                b'1' | b'2' | b'3' | b'n' | b'T' | b'D' | b'G' | b'N' | b'S' | b'A' => continue,
                b'Z' => {
                    self.syncs = self.syncs.saturating_sub(1);
                    return Ok(Reply::Ready);
                }
                _ => {}
            }
            let malformed = |reason| self.link.malformed(tag, offset, reason);
            match self.link.parse(frame)? {
                Message::CommandComplete(body) => {
                    let tag = body.tag().map_err(malformed)?;
                    let rows = tag.rsplit(' ').next().and_then(|rows| rows.parse().ok());
                    return Ok(Reply::Complete(rows.unwrap_or(0)));
                }
                Message::EmptyQueryResponse => return Ok(Reply::Complete(0)),
                Message::ParameterDescription(body) => {
                    let types = body.parameters().collect().map_err(malformed)?;
                    return Ok(Reply::Parameters(types));
                }
                Message::ErrorResponse(body) => {
                    return Err(self.link.server_error(tag, offset, &body));
                }
                _ => return Err(self.link.unexpected(tag, offset, "executing statements")),
            }
        }
    }

    /// Writes messages, or nothing at all.
    fn write(
        &mut self,
        write: impl FnOnce(&mut bytes::BytesMut) -> io::Result<()>,
    ) -> Result<(), WireError> {
        let before = self.link.out.len();
        match write(&mut self.link.out) {
            Ok(()) => {
                self.is_unsynced = true;
                Ok(())
            }
            Err(error) => {
                self.link.out.truncate(before);
                Err(self.link.protocol(ProtocolError::Other(error.to_string())))
            }
        }
    }
}
