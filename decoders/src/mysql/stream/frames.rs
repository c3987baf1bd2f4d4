//! The bytes of events as the driver delivers them.
//!
//! The driver keeps an event in pieces (header, body, checksum) and, in front of compressed
//! transactions, inflates them itself. Here the pieces become the event's own bytes again, and what
//! it inflated is passed over: events are decoded by our code alone.

use bytes::Bytes;
use futures_util::StreamExt;
use mysql_async::binlog::{BinlogVersion, EventType};
use mysql_async::{BinlogStream, Error};

/// The events of one dump, in the order in which they were sent.
pub(super) struct Frames {
    stream: BinlogStream,
    /// Bytes of inflated events that the driver has yet to give.
    inflated_bytes: u64,
}

/// Why there is no next event.
#[derive(Debug)]
pub(super) enum FrameError {
    /// The connection's or the server's.
    Driver(Error),
    /// The server ended the stream.
    Ended,
    /// The driver's account of an event makes no whole.
    Inconsistent,
}

impl Frames {
    pub(super) fn new(stream: BinlogStream) -> Frames {
        Frames { stream, inflated_bytes: 0 }
    }

    /// The next event. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Bytes, FrameError> {
        loop {
            let event = match self.stream.next().await {
                Some(Ok(event)) => event,
                Some(Err(error)) => return Err(FrameError::Driver(error)),
                None => return Err(FrameError::Ended),
            };
            let header = event.header();
            let bytes = header.event_size();
            if let Some(left) = self.inflated_bytes.checked_sub(bytes.into())
                && self.inflated_bytes > 0
            {
                self.inflated_bytes = left;
                continue;
            }
            // Either the driver could not inflate, which it does not say, or it gave too much.
            if self.inflated_bytes > 0 {
                return Err(FrameError::Inconsistent);
            }
            let mut frame = Vec::with_capacity(bytes as usize);
            event
                .write(BinlogVersion::Version4, &mut frame)
                .map_err(|_| FrameError::Inconsistent)?;
            // It computes the checksum anew; the one that was sent is what is verified.
            let body = frame.len().saturating_sub(event.data().len());
            let has_checksum = body >= 19 + 4;
            if let (true, Some(sum), Some(last)) =
                (has_checksum, event.checksum(), frame.last_chunk_mut::<4>())
            {
                *last = sum;
            }
            if header.event_type_raw() == EventType::TRANSACTION_PAYLOAD_EVENT as u8 {
                use mysql_async::binlog::events::TransactionPayloadEvent;
                let payload = event.read_event::<TransactionPayloadEvent>();
                self.inflated_bytes = payload.map_or(0, |payload| payload.uncompressed_size());
            }
            return Ok(frame.into());
        }
    }

    /// Ends the dump; the server learns of it when it writes.
    pub(super) async fn close(self) {
        // Whatever the answer, the connection is gone afterwards.
        let _ = self.stream.close().await;
    }
}

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frames").finish_non_exhaustive()
    }
}
