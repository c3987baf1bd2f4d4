//! Results of SQL as they arrive: the rows of `COPY .. TO STDOUT`, and of statements around it.
//!
//! `tokio_postgres` reads a COPY's data into an unbounded queue as fast as the socket gives it.
//! Here nothing is read but for a call of [`CopyOut::next_piece`], so a consumer that stops makes
//! the server wait (TCP's own back-pressure), and what is in memory is one read's worth.

use bytes::Bytes;
use postgres_protocol::message::backend::Message;

use super::error::{ServerError, WireError};
use super::wire::{
    COPY_DATA_TAG, COPY_DONE_TAG, ReplicationConnection, ServerInfo, TextRow, text_row,
};

/// A part of a query's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// The payload of one CopyData, a slice of the read buffer. A server sends exactly one row in
    /// each (manual, 55.7, CopyData), with the header of the binary format before the first and
    /// its trailer by itself.
    Data(Bytes),
    /// A row of a statement that returns rows by itself; values as text.
    Row(TextRow),
    /// The query is over, and succeeded; the next one may be sent.
    Done,
}

/// A connection whose queries are read piece by piece.
#[derive(Debug)]
pub struct CopyOut {
    connection: ReplicationConnection,
    /// The error of the query that runs, until the server is ready for another.
    failure: Option<ServerError>,
}

impl CopyOut {
    /// Takes over a connection between commands.
    pub fn new(connection: ReplicationConnection) -> Self {
        Self { connection, failure: None }
    }

    /// Queues a query: one statement, or several that make one transaction. `flush` or
    /// `next_piece` sends it. An error if the query before was not read to its end.
    pub fn query(&mut self, sql: &str) -> Result<(), WireError> {
        self.connection.begin(sql)
    }

    /// Sends what is queued. Cancel-safe: an interrupted flush goes on with the next call.
    pub async fn flush(&mut self) -> Result<(), WireError> {
        self.connection.link.flush().await
    }

    /// The next part of the running query's result. Cancel-safe.
    ///
    /// # Errors
    /// [`WireError::Server`] with severity `ERROR` ends the query, not the connection.
    pub async fn next_piece(&mut self) -> Result<Piece, WireError> {
        loop {
            if let Some(piece) = self.try_next_buffered()? {
                return Ok(piece);
            }
            self.connection.link.fill().await?;
        }
    }

    /// The same, but only from bytes already received: never touches the socket.
    pub fn try_next_buffered(&mut self) -> Result<Option<Piece>, WireError> {
        let connection = &mut self.connection;
        loop {
            let Some(frame) = connection.link.buffered_frame()? else {
                return Ok(None);
            };
            let (tag, offset) = (frame.tag, frame.offset);
            match tag {
                COPY_DATA_TAG => return Ok(Some(Piece::Data(frame.into_body()))),
                COPY_DONE_TAG => continue,
                _ => {}
            }
            match connection.link.parse(frame)? {
                Message::DataRow(row) => {
                    let row = text_row(&row);
                    let row = row.map_err(|why| connection.link.malformed(tag, offset, why))?;
                    return Ok(Some(Piece::Row(row)));
                }
                Message::CopyOutResponse(_)
                | Message::RowDescription(_)
                | Message::CommandComplete(_)
                | Message::EmptyQueryResponse => {}
                Message::ErrorResponse(body) => {
                    match connection.link.server_error(tag, offset, &body) {
                        // The rest of the query is skipped, and ReadyForQuery follows. FATAL and
                        // PANIC end the connection.
                        WireError::Server(error) if error.severity == "ERROR" => {
                            self.failure.get_or_insert(error);
                        }
                        error => return Err(error),
                    }
                }
                Message::ReadyForQuery(_) => {
                    connection.busy = false;
                    return match self.failure.take() {
                        Some(error) => Err(WireError::Server(error)),
                        None => Ok(Some(Piece::Done)),
                    };
                }
                message => {
                    if !connection.info.note(&message) {
                        return Err(connection.link.unexpected(tag, offset, "reading a result"));
                    }
                }
            }
        }
    }

    /// Bytes received and not yet taken.
    pub fn buffered_len(&self) -> usize {
        self.connection.link.splitter.buffered_len()
    }

    /// What the server told about itself.
    pub fn server(&self) -> &ServerInfo {
        self.connection.server()
    }
}
