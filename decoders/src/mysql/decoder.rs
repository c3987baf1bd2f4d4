//! From a frame to an event.

use std::sync::Arc;

use bytes::Bytes;

use super::control::{Heartbeat, Incident, Rotate, XaPrepare};
use super::error::{DecodeError, Fault};
use super::event::{Body, Event, EventType};
use super::format::{Flavor, FormatDescription};
use super::gtid::{self, GtidEvent, GtidList, MariadbGtidEvent};
use super::header::{self, Header};
use super::inflate;
use super::payload::{Payload, PayloadEvents};
use super::query::{LastSession, Query};
use super::read::{Reader, name};
use super::rows::Rows;
use super::sealed::Sealed;
use super::seen_maps::SeenMaps;
use super::table_map::TableMap;

/// How much memory what arrives may make the decoder use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The largest event after decompression, in bytes. Servers write up to 1 GiB
    /// (`max_allowed_packet` and `binlog_row_event_max_size` bound it only for single rows).
    pub event_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { event_bytes: (1 << 30) + (1 << 20) }
    }
}

/// Decodes the events of one binlog stream in their order.
#[derive(Debug, Default)]
pub struct Decoder {
    format: Option<Arc<FormatDescription>>,
    limits: Limits,
    maps: SeenMaps,
    sessions: LastSession,
}

impl Decoder {
    /// A decoder at the beginning of a stream or a file.
    pub fn new(limits: Limits) -> Decoder {
        Decoder { limits, ..Decoder::default() }
    }

    /// The format description in force.
    pub fn format(&self) -> Option<&Arc<FormatDescription>> {
        self.format.as_ref()
    }

    /// Decodes one event, header to checksum. Row images are only framed: their values are read by
    /// [`Rows::reader`].
    pub fn decode(&mut self, frame: &Bytes) -> Result<Event, DecodeError> {
        let header = Header::read(frame).map_err(|fault| DecodeError {
            event: EventType::UNKNOWN,
            offset: 0,
            fault,
        })?;
        let event = header.event_type;
        let wrong = |fault| DecodeError { event, offset: 0, fault };
        if header.event_bytes as usize != frame.len() {
            let found = header.event_bytes.into();
            return Err(wrong(Fault::Impossible { what: "event's length", found }));
        }
        if event == EventType::FORMAT_DESCRIPTION {
            let body = header::body(frame, false).map_err(wrong)?;
            let format = FormatDescription::read(body).map_err(wrong)?;
            if format.checksum {
                header::verify(frame, event).map_err(wrong)?;
            }
            let format = Arc::new(format);
            self.format = Some(Arc::clone(&format));
            self.maps.clear();
            return Ok(Event { header, body: Body::FormatDescription(format) });
        }
        let Some(format) = &self.format else {
            return self.before_format(header, frame).map_err(wrong);
        };
        if format.checksum {
            header::verify(frame, event).map_err(wrong)?;
        }
        let body = header::body(frame, format.checksum).map_err(wrong)?;
        let (limits, sessions) = (self.limits, &mut self.sessions);
        if event != EventType::TABLE_MAP {
            return decode_event(header, frame, body, format, limits, sessions);
        }
        if let Some(map) = self.maps.get(body) {
            return Ok(Event { header, body: Body::TableMap(Arc::clone(map)) });
        }
        let decoded = decode_event(header, frame, body, format, limits, sessions)?;
        if let Body::TableMap(map) = &decoded.body {
            self.maps.keep(body, map);
        }
        Ok(decoded)
    }

    /// A server says which file it will send before it says how events are written. Whether these
    /// events end with a checksum depends on what was negotiated; if the last four bytes are one,
    /// they are not part of the file's name.
    fn before_format(&self, header: Header, frame: &Bytes) -> Result<Event, Fault> {
        let body = header::body(frame, header::has_checksum(frame, header.event_type))?;
        let mut reader = Reader::new(body);
        let body = match header.event_type {
            EventType::ROTATE => Body::Rotate(Rotate::read(&mut reader)?),
            EventType::HEARTBEAT => Body::Heartbeat(Heartbeat::read_v1(&mut reader)?),
            EventType::HEARTBEAT_V2 => Body::Heartbeat(Heartbeat::read_v2(&mut reader)?),
            _ => return Err(Fault::BeforeFormat),
        };
        reader.end()?;
        Ok(Event { header, body })
    }

    /// The events inside of a compressed transaction.
    pub fn open(&self, payload: &Payload) -> Result<PayloadEvents, DecodeError> {
        match &self.format {
            Some(format) => payload.events(Arc::clone(format), self.limits),
            None => Err(DecodeError {
                event: EventType::TRANSACTION_PAYLOAD,
                offset: 0,
                fault: Fault::BeforeFormat,
            }),
        }
    }
}

/// The event whose `body` is the part of `frame` between header and checksum.
pub(super) fn decode_event(
    header: Header,
    frame: &Bytes,
    body: &[u8],
    format: &FormatDescription,
    limits: Limits,
    sessions: &mut LastSession,
) -> Result<Event, DecodeError> {
    let mut reader = Reader::new(body);
    match read_body(&header, frame, &mut reader, format, limits, sessions) {
        Ok(body) => Ok(Event { header, body }),
        Err(fault) => Err(DecodeError { event: header.event_type, offset: reader.at(), fault }),
    }
}

#[inline(always)]
fn read_body(
    header: &Header,
    frame: &Bytes,
    reader: &mut Reader,
    format: &FormatDescription,
    limits: Limits,
    sessions: &mut LastSession,
) -> Result<Body, Fault> {
    type T = EventType;
    let event_type = header.event_type;
    // Codes from 160 on belong to MariaDB, and some below only to MySQL.
    let mariadb = format.flavor == Flavor::Mariadb;
    if mariadb != (event_type.0 >= 160) && (event_type.0 >= 160 || is_only_in_mysql(event_type)) {
        return unknown(header);
    }
    let decoded = match event_type {
        T::QUERY => Body::Query(Query::read(frame, reader, format.flavor, sessions)?),
        T::MARIADB_QUERY_COMPRESSED => {
            Body::Query(Query::read_compressed(frame, reader, limits.event_bytes, sessions)?)
        }
        T::STOP => Body::Stop,
        T::ROTATE => Body::Rotate(Rotate::read(reader)?),
        T::XID => Body::Xid(reader.u64()?),
        T::XA_PREPARE => Body::XaPrepare(XaPrepare::read(reader)?),
        T::INCIDENT => Body::Incident(Incident::read(reader)?),
        T::HEARTBEAT => Body::Heartbeat(Heartbeat::read_v1(reader)?),
        T::HEARTBEAT_V2 => Body::Heartbeat(Heartbeat::read_v2(reader)?),
        T::TABLE_MAP => Body::TableMap(Arc::new(TableMap::read(reader, format.flavor)?)),
        T::WRITE_ROWS_V1
        | T::UPDATE_ROWS_V1
        | T::DELETE_ROWS_V1
        | T::WRITE_ROWS
        | T::UPDATE_ROWS
        | T::DELETE_ROWS
        | T::PARTIAL_UPDATE_ROWS => Body::Rows(Rows::read(event_type, frame, reader)?),
        T::MARIADB_WRITE_ROWS_COMPRESSED_V1
        | T::MARIADB_UPDATE_ROWS_COMPRESSED_V1
        | T::MARIADB_DELETE_ROWS_COMPRESSED_V1
        | T::MARIADB_WRITE_ROWS_COMPRESSED
        | T::MARIADB_UPDATE_ROWS_COMPRESSED
        | T::MARIADB_DELETE_ROWS_COMPRESSED => {
            let mut rows = Rows::read(event_type, frame, reader)?;
            rows.rows = Sealed(inflate::mariadb_event(&rows.rows, limits.event_bytes)?);
            Body::Rows(rows)
        }
        T::GTID | T::ANONYMOUS_GTID => {
            Body::Gtid(Box::new(GtidEvent::read(reader, event_type == T::ANONYMOUS_GTID)?))
        }
        T::GTID_TAGGED => Body::Gtid(Box::new(GtidEvent::read_tagged(reader)?)),
        T::PREVIOUS_GTIDS => Body::PreviousGtids(gtid::read_set(reader)?),
        T::TRANSACTION_PAYLOAD => Body::Payload(Payload::read(frame, reader)?),
        T::MARIADB_GTID => Body::MariadbGtid(MariadbGtidEvent::read(reader, header.server_id)?),
        T::MARIADB_GTID_LIST => Body::MariadbGtidList(GtidList::read(reader)?),
        T::MARIADB_BINLOG_CHECKPOINT => {
            let file = name(reader.sized(4)?)?;
            Body::BinlogCheckpoint(file)
        }
        // The length byte before the statement is cut to 8 bits: the event's end counts.
        T::ROWS_QUERY => {
            reader.u8()?;
            Body::RowsQuery(Sealed(frame.slice_ref(reader.rest())))
        }
        T::MARIADB_ANNOTATE_ROWS => Body::RowsQuery(Sealed(frame.slice_ref(reader.rest()))),
        T::INTVAR
        | T::RAND
        | T::USER_VAR
        | T::BEGIN_LOAD_QUERY
        | T::EXECUTE_LOAD_QUERY
        | T::APPEND_BLOCK
        | T::DELETE_FILE => {
            reader.rest();
            Body::StatementContext
        }
        T::IGNORABLE | T::TRANSACTION_CONTEXT | T::VIEW_CHANGE => {
            reader.rest();
            Body::Ignored
        }
        _ => return unknown(header),
    };
    reader.end()?;
    Ok(decoded)
}

fn is_only_in_mysql(event_type: EventType) -> bool {
    (EventType::GTID.0..=EventType::VIEW_CHANGE.0).contains(&event_type.0)
        || (EventType::PARTIAL_UPDATE_ROWS.0..=EventType::GTID_TAGGED.0).contains(&event_type.0)
}

/// An event that nobody here knows is skipped only if its source says that it may be.
fn unknown(header: &Header) -> Result<Body, Fault> {
    if header.flags & Header::IGNORABLE != 0 {
        return Ok(Body::Ignored);
    }
    Err(Fault::Unsupported { what: "event type", found: header.event_type.0.into() })
}
