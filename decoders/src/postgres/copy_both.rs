//! The two-way stream that START_REPLICATION opens.

use bytes::{BufMut, Bytes};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::conninfo::Host;
use super::error::{ProtocolError, WireError};
use super::wire::{COPY_DATA_TAG, COPY_DONE_TAG, ReplicationConnection, ServerInfo};

/// The two-way stream of CopyData after START_REPLICATION.
#[derive(Debug)]
pub struct CopyBoth {
    pub(super) connection: ReplicationConnection,
    /// The server has ended its side.
    pub(super) ended: bool,
}

impl CopyBoth {
    /// The payload of the next CopyData; `None` when the server has ended the stream, as it does
    /// on shutdown. Sends queued replies while it waits. Cancel-safe.
    pub async fn next_frame(&mut self) -> Result<Option<Bytes>, WireError> {
        loop {
            match self.take_buffered()? {
                Buffered::Payload(payload) => return Ok(Some(payload)),
                Buffered::Ended => return Ok(None),
                Buffered::Nothing => self.connection.link.fill().await?,
            }
        }
    }

    /// The same, but only from bytes already received: never touches the socket. `None` says that
    /// no whole frame is there (or that the stream has ended; `next_frame` tells).
    pub fn try_next_buffered(&mut self) -> Result<Option<Bytes>, WireError> {
        match self.take_buffered()? {
            Buffered::Payload(payload) => Ok(Some(payload)),
            Buffered::Ended | Buffered::Nothing => Ok(None),
        }
    }

    /// Bytes received and not yet taken.
    pub fn buffered_len(&self) -> usize {
        self.connection.link.splitter.buffered_len()
    }

    /// Puts a CopyData message into the output buffer. `flush` or `next_frame` sends it.
    pub fn queue_copy_data(&mut self, payload: &[u8]) -> Result<(), WireError> {
        let link = &mut self.connection.link;
        let Ok(length) = i32::try_from(payload.len() + 4) else {
            return Err(link.protocol(ProtocolError::Other("a reply is too large".to_owned())));
        };
        link.out.put_u8(COPY_DATA_TAG);
        link.out.put_i32(length);
        link.out.put_slice(payload);
        Ok(())
    }

    /// Bytes queued and not yet sent: grows if the server does not read.
    pub fn queued_len(&self) -> usize {
        self.connection.link.out.len()
    }

    /// Sends what is queued. Cancel-safe: an interrupted flush goes on with the next.
    pub async fn flush(&mut self) -> Result<(), WireError> {
        self.connection.link.flush().await
    }

    /// Queues and sends one CopyData message.
    pub async fn send_copy_data(&mut self, payload: &[u8]) -> Result<(), WireError> {
        self.queue_copy_data(payload)?;
        self.flush().await
    }

    pub fn server(&self) -> &ServerInfo {
        &self.connection.info
    }

    pub fn host(&self) -> &Host {
        &self.connection.link.host
    }

    /// Ends the stream in order and gives the connection back. What the server had already sent
    /// is discarded, which is harmless: nothing was acknowledged.
    pub async fn finish(mut self) -> Result<ReplicationConnection, WireError> {
        frontend::copy_done(&mut self.connection.link.out);
        self.flush().await?;
        loop {
            let frame = self.connection.link.frame().await?;
            let (tag, offset) = (frame.tag, frame.offset);
            if matches!(tag, COPY_DATA_TAG | COPY_DONE_TAG) {
                continue;
            }
            let connection = &mut self.connection;
            match connection.link.parse(frame)? {
                Message::CommandComplete(_) => {}
                Message::ReadyForQuery(_) => {
                    self.connection.busy = false;
                    return Ok(self.connection);
                }
                Message::ErrorResponse(body) => {
                    return Err(connection.link.server_error(tag, offset, &body));
                }
                message => {
                    if !connection.info.note(&message) {
                        return Err(connection.link.unexpected(tag, offset, "ending the stream"));
                    }
                }
            }
        }
    }

    fn take_buffered(&mut self) -> Result<Buffered, WireError> {
        let connection = &mut self.connection;
        while !self.ended {
            let Some(frame) = connection.link.buffered_frame()? else {
                return Ok(Buffered::Nothing);
            };
            let (tag, offset) = (frame.tag, frame.offset);
            match tag {
                COPY_DATA_TAG => return Ok(Buffered::Payload(frame.into_body())),
                COPY_DONE_TAG => self.ended = true,
                _ => match connection.link.parse(frame)? {
                    // A walsender that shuts down ends with CommandComplete and no CopyDone.
                    Message::CommandComplete(_) => self.ended = true,
                    Message::ErrorResponse(body) => {
                        return Err(connection.link.server_error(tag, offset, &body));
                    }
                    message => {
                        if !connection.info.note(&message) {
                            return Err(connection.link.unexpected(tag, offset, "streaming"));
                        }
                    }
                },
            }
        }
        Ok(Buffered::Ended)
    }
}

enum Buffered {
    Payload(Bytes),
    Nothing,
    Ended,
}
