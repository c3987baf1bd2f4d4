//! How a stream is opened.

use std::time::Duration;

use crate::assemble::PART_BYTES_DEFAULT;
use crate::change::QualifiedName;
use crate::mysql::Limits;
use crate::mysql::gtid::BinlogPosition;
use crate::postgres::catalog::TableFilter;

/// Where a stream begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Start {
    /// Behind what the server has committed by now.
    Now,
    /// Behind what was read before.
    Behind(BinlogPosition),
}

/// How a stream is opened.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// The identity as a replica: unique among all replicas and servers that know each other. A server
    /// that sees it twice ends the earlier connection.
    pub server_id: u32,
    /// How we show in the server's list of replicas; by it our own earlier connection is known.
    pub name: String,
    /// Where to begin.
    pub start: Start,
    /// The tables whose rows are delivered. Statements are delivered whatever they concern.
    pub filter: TableFilter,
    /// Only this database.
    pub database: Option<String>,
    /// Tables whose rows are delivered whatever filter and database say.
    pub always: Vec<QualifiedName>,
    /// Tables whose rows are not delivered whatever filter and database say. Statements about them are.
    pub left_out: Vec<QualifiedName>,
    /// Up to where marks of appliers without a proof are told: for [`NumberedStream`](super::NumberedStream).
    pub unproven_until: Option<BinlogPosition>,
    /// Rows keep the image that they came as, for who can pass it on: see
    /// [`Row::image`](crate::change::Row::image).
    pub keeps_images: bool,
    /// Above this a transaction is delivered in parts, in bytes.
    pub part_bytes: usize,
    /// What the server sends when it has nothing else to say, and how often. Three times as long
    /// without a byte means that the connection is dead.
    pub heartbeat: Duration,
    /// How much memory an event may make the decoder use.
    pub limits: Limits,
}

impl StreamOptions {
    /// Options with the usual values: all tables, from now on, parts of 16 MiB, a heartbeat a second.
    pub fn new(server_id: u32, name: impl Into<String>) -> Self {
        StreamOptions {
            server_id,
            name: name.into(),
            start: Start::Now,
            filter: TableFilter::default(),
            database: None,
            always: Vec::new(),
            left_out: Vec::new(),
            unproven_until: None,
            keeps_images: false,
            part_bytes: PART_BYTES_DEFAULT,
            heartbeat: Duration::from_secs(1),
            limits: Limits::default(),
        }
    }
}
