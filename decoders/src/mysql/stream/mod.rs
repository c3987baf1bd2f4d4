//! The binlog of a server as a stream of whole transactions.
//!
//! ```text
//! mysql_async ─► frames ─► Decoder ─► Assembler ─► Transaction (whole, or First, Middle.., Last)
//!  (connection)   (bytes)    (events)    ▲ catalog, where the binlog describes too little
//! ```
//!
//! The position is a GTID set. A stream that is opened behind the position of the last transaction
//! that was delivered whole goes on with the one after it, whatever happened in between.

mod assemble;
mod definitions;
mod error;
mod frames;
mod lexer;
mod noted;
mod numbered;
mod options;
mod rows;
mod safety;
mod start;
mod statement;
mod tables;
mod transaction;
mod xa;

use mysql_async::Conn;

pub use assemble::Assembler;
pub use error::StreamFault;
pub use numbered::{DEFINITION_TABLE, MARK_TABLE, NumberedStream, foreign_keys_checked};
pub use options::{Start, StreamOptions};
pub use rows::RowsError;
pub use start::head;
pub use statement::{Kind, Statement};
pub use transaction::{Change, Outcome, Transaction};
pub use xa::XaId;

use super::catalog;
use super::gtid::BinlogPosition;
use super::server::{self, Server, ServerUrl, failure};
use super::{Body, Decoder, Event, PayloadEvents, Selection};
use crate::change::QualifiedName;
use crate::source::{Source, SourceError, SourceEvent};

use self::frames::{FrameError, Frames};

/// A stream of a server's binlog.
#[derive(Debug)]
pub struct BinlogStream {
    url: ServerUrl,
    server: Server,
    options: StreamOptions,
    frames: Frames,
    decoder: Decoder,
    assembler: Assembler,
    /// The events of a compressed transaction that are left.
    payload: Option<PayloadEvents>,
    /// Decoded, and not pushed yet: a call that was dropped must not lose it.
    pending: Option<Event>,
    start: BinlogPosition,
    /// For questions to the catalog.
    catalog: Option<Conn>,
}

impl BinlogStream {
    /// Connects and asks for the binlog.
    ///
    /// # Errors
    /// The server can't be reached, does not log what is needed, has purged it, or knows another
    /// replica by our `server_id`.
    pub async fn open(url: &ServerUrl, options: StreamOptions) -> Result<Self, SourceError> {
        let started = start::start(url, &options).await?;
        let position = started.position;
        let selection =
            Selection::new(options.filter.clone(), options.database.clone(), started.folds_case);
        let mut assembler = Assembler::new(position.clone(), selection, options.part_bytes);
        if options.keeps_images {
            assembler.keep_images();
        }
        assembler.always(options.always.clone());
        assembler.leave_out(options.left_out.clone());
        let mut stream = BinlogStream {
            url: url.clone(),
            server: started.server,
            frames: started.frames,
            decoder: Decoder::new(options.limits),
            assembler,
            payload: None,
            pending: None,
            start: position,
            catalog: None,
            options,
        };
        // The first thing that a server sends of a file: which version wrote it.
        while stream.decoder.format().is_none() {
            stream.pending = Some(stream.receive().await?);
        }
        Ok(stream)
    }

    /// Whether the version that wrote the file that is being read logs what cascading foreign keys do.
    pub fn version_logs_cascades(&self) -> bool {
        self.decoder.format().is_some_and(|format| format.version_logs_cascades())
    }

    /// The tables whose rows are delivered.
    pub fn selection(&self) -> &Selection {
        self.assembler.selection()
    }

    /// Where the stream began.
    pub fn start(&self) -> &BinlogPosition {
        &self.start
    }

    /// Everything up to here has been delivered.
    pub fn position(&self) -> &BinlogPosition {
        self.assembler.position()
    }

    /// What the server says of itself.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Whether events carry checksums, which are then verified.
    pub fn has_checksums(&self) -> Option<bool> {
        self.decoder.format().map(|format| format.checksum)
    }

    /// Ends the stream.
    pub async fn close(self) {
        self.frames.close().await;
    }

    async fn next_event(
        &mut self,
    ) -> Result<SourceEvent<Transaction, BinlogPosition>, SourceError> {
        loop {
            let event = match self.pending.take() {
                Some(event) => event,
                None => self.receive().await?,
            };
            if let Some(name) = self.assembler.missing(&event) {
                self.pending = Some(event);
                let table = self.ask_catalog(&name).await?;
                self.assembler.describe(name, table);
                continue;
            }
            match &event.body {
                Body::Payload(payload) => {
                    let events = self.decoder.open(payload);
                    self.payload = Some(events.map_err(|error| self.fault(error.into()))?);
                }
                Body::Heartbeat(_) if !self.assembler.is_open() => {
                    return Ok(SourceEvent::Idle(self.assembler.position().clone()));
                }
                _ => {}
            }
            let id = self.assembler.open_id().cloned();
            let pushed = self.assembler.push(event);
            if let Some(transaction) = pushed.map_err(|fault| fault.at(id.as_ref()))? {
                return Ok(SourceEvent::Transaction(transaction));
            }
        }
    }

    /// The next event: of the compressed transaction that is open, or of the server.
    async fn receive(&mut self) -> Result<Event, SourceError> {
        match self.payload.as_mut().and_then(Iterator::next) {
            Some(event) => return event.map_err(|error| self.fault(error.into())),
            None => self.payload = None,
        }
        let silence = self.options.heartbeat * 3;
        let frame = match tokio::time::timeout(silence, self.frames.next()).await {
            Ok(frame) => frame.map_err(|error| self.frame_error(error))?,
            Err(_) => {
                return Err(SourceError::retry(format!(
                    "{} has said nothing for {silence:?}, not even a heartbeat",
                    self.url
                )));
            }
        };
        self.decoder.decode(&frame).map_err(|error| self.fault(error.into()))
    }

    fn fault(&self, fault: StreamFault) -> SourceError {
        fault.at(self.assembler.open_id())
    }

    fn frame_error(&self, error: FrameError) -> SourceError {
        /// ER_MASTER_FATAL_ERROR_READING_BINLOG: purged or unknown positions, damaged files.
        const FATAL: u16 = 1236;
        match error {
            FrameError::Ended => {
                SourceError::retry(format!("{} ended the binlog stream", self.url))
            }
            FrameError::Inconsistent => {
                self.fault(StreamFault::OutOfOrder("a compressed transaction can't be inflated"))
            }
            FrameError::Driver(error) if server::code(&error) == Some(FATAL) => {
                let said = server::describe(&error);
                match said.contains("purged") || said.contains("could not find") || said.contains("Could not find") {
                    true => start::purged(&said).caused_by(error),
                    false => SourceError::halt(
                        format!("{} can't send its binlog from {}: {said}", self.url, self.start),
                        "if the server was rebuilt or failed over, connect to the one that was read \
                         before; otherwise copy again from now on",
                    )
                    .caused_by(error),
                }
            }
            FrameError::Driver(error) => {
                failure(format!("the binlog stream of {} broke", self.url), error)
            }
        }
    }

    /// What the catalog says now. A connection that is dropped in the middle of a question is of no
    /// use any more, so it is only kept when the answer is there.
    async fn ask_catalog(
        &mut self,
        name: &QualifiedName,
    ) -> Result<Option<catalog::TableInfo>, SourceError> {
        let mut conn = match self.catalog.take() {
            Some(conn) => conn,
            None => server::connect(&self.url).await?,
        };
        let table = catalog::table(&mut conn, &self.server, name).await.map_err(|error| {
            let message = format!("the catalog entry of {name}: {error}");
            match error.cause {
                Some(cause) => failure(message, *cause),
                None => SourceError::halt(message, "report this"),
            }
        })?;
        self.catalog = Some(conn);
        Ok(table)
    }
}

impl Source<Transaction, BinlogPosition> for BinlogStream {
    async fn next(&mut self) -> Result<SourceEvent<Transaction, BinlogPosition>, SourceError> {
        self.next_event().await
    }

    /// A server that sends its binlog expects no answer; it waits as long as `net_write_timeout`,
    /// which is an hour for us.
    async fn keep_alive(&mut self) -> SourceError {
        std::future::pending().await
    }

    /// Servers keep binlogs by time and size, whoever reads them: there is nothing to release.
    async fn acknowledge(&mut self, _durable: BinlogPosition) -> Result<(), SourceError> {
        Ok(())
    }
}
