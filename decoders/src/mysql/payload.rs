//! TRANSACTION_PAYLOAD: a whole transaction, compressed (MySQL 8.0.20+).

use std::io::Read;
use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::decoder::{Limits, decode_event};
use super::error::{DecodeError, Fault};
use super::event::{Event, EventType};
use super::format::FormatDescription;
use super::header::{HEADER_BYTES, Header};
use super::query::LastSession;
use super::read::Reader;
use super::sealed::Sealed;

/// How a payload is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Zstandard.
    Zstd,
    /// Not at all.
    None,
}

/// The events of a transaction, still compressed.
#[derive(Clone, Debug)]
pub struct Payload {
    /// The algorithm.
    pub compression: Compression,
    /// Bytes that the events take when they are not compressed.
    pub uncompressed_bytes: u64,
    data: Sealed,
}

impl Payload {
    /// Fields as type, length, value; the data comes after the field that says it is the last.
    pub(super) fn read(frame: &Bytes, reader: &mut Reader) -> Result<Payload, Fault> {
        const END: u64 = 0;
        const SIZE: u64 = 1;
        const COMPRESSION: u64 = 2;
        const UNCOMPRESSED: u64 = 3;
        let (mut size, mut compression, mut uncompressed) = (None, None, None);
        loop {
            let field = reader.packed()?;
            if field == END {
                break;
            }
            let mut value = Reader::new(reader.packed_bytes()?);
            match field {
                SIZE => size = Some(value.packed()?),
                COMPRESSION => compression = Some(value.packed()?),
                UNCOMPRESSED => uncompressed = Some(value.packed()?),
                _ => {} // by its format a field may be skipped by who does not know it
            }
        }
        let data = reader.rest();
        let size = size.ok_or(Fault::Malformed("payload without a size"))?;
        if size != data.len() as u64 {
            return Err(Fault::Impossible { what: "payload's size", found: size });
        }
        let compression = match compression {
            Some(0) => Compression::Zstd,
            Some(255) => Compression::None,
            Some(found) => return Err(Fault::Unsupported { what: "payload compression", found }),
            None => return Err(Fault::Malformed("payload without a compression")),
        };
        let uncompressed_bytes = match (uncompressed, compression) {
            (Some(bytes), _) => bytes,
            (None, Compression::None) => size,
            (None, Compression::Zstd) => return Err(Fault::Malformed("payload without a length")),
        };
        Ok(Payload { compression, uncompressed_bytes, data: Sealed(frame.slice_ref(data)) })
    }

    pub(super) fn events(
        &self,
        format: Arc<FormatDescription>,
        limits: Limits,
    ) -> Result<PayloadEvents, DecodeError> {
        let source: Box<dyn Read + Send> = match self.compression {
            Compression::None => Box::new(self.data.0.clone().reader()),
            Compression::Zstd => {
                let decoder =
                    zstd::stream::read::Decoder::with_buffer(self.data.0.clone().reader());
                Box::new(decoder.map_err(|_| wrong(Fault::Damaged("payload")))?)
            }
        };
        Ok(PayloadEvents {
            source,
            left: self.uncompressed_bytes,
            format,
            limits,
            sessions: LastSession::default(),
            ended: false,
        })
    }
}

/// The events of a payload, decompressed one at a time: memory holds one event, whatever the size
/// of the transaction. After an error it ends.
pub struct PayloadEvents {
    source: Box<dyn Read + Send>,
    /// Bytes of the declared length that were not read yet.
    left: u64,
    format: Arc<FormatDescription>,
    limits: Limits,
    sessions: LastSession,
    ended: bool,
}

impl PayloadEvents {
    /// The next event; `None` after the last, when exactly the declared length was there.
    fn read(&mut self) -> Result<Option<Event>, DecodeError> {
        if self.left == 0 {
            return match self.source.read(&mut [0]) {
                Ok(0) => Ok(None),
                _ => Err(wrong(Fault::Damaged("payload"))),
            };
        }
        let mut frame = self.bytes(HEADER_BYTES as u64, Vec::new())?;
        let header = Header::read(&frame).map_err(wrong)?;
        let rest = u64::from(header.event_bytes).checked_sub(HEADER_BYTES as u64);
        let rest = rest.filter(|_| header.event_bytes as usize <= self.limits.event_bytes);
        let rest = rest.ok_or_else(|| {
            wrong(Fault::Impossible { what: "event's length", found: header.event_bytes.into() })
        })?;
        frame = self.bytes(rest, frame)?;
        let frame = Bytes::from(frame);
        if header.event_type == EventType::TRANSACTION_PAYLOAD {
            return Err(wrong(Fault::Malformed("payload inside a payload")));
        }
        let body = &frame[HEADER_BYTES..];
        decode_event(header, &frame, body, &self.format, self.limits, &mut self.sessions).map(Some)
    }

    /// `frame` with `count` bytes more.
    fn bytes(&mut self, count: u64, mut frame: Vec<u8>) -> Result<Vec<u8>, DecodeError> {
        let truncated = Fault::Damaged("payload");
        self.left = self.left.checked_sub(count).ok_or_else(|| wrong(truncated.clone()))?;
        match self.source.by_ref().take(count).read_to_end(&mut frame) {
            Ok(read) if read as u64 == count => Ok(frame),
            _ => Err(wrong(truncated)),
        }
    }
}

impl Iterator for PayloadEvents {
    type Item = Result<Event, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.read().transpose();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }
}

impl std::fmt::Debug for PayloadEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PayloadEvents").field("left", &self.left).finish_non_exhaustive()
    }
}

fn wrong(fault: Fault) -> DecodeError {
    DecodeError { event: EventType::TRANSACTION_PAYLOAD, offset: 0, fault }
}
