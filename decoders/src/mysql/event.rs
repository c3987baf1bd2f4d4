//! Events by their type.

use std::fmt;
use std::sync::Arc;

use super::control::{Heartbeat, Incident, Rotate, XaPrepare};
use super::format::FormatDescription;
use super::gtid::{GtidEvent, GtidList, GtidSet, MariadbGtidEvent};
use super::header::Header;
use super::payload::Payload;
use super::query::Query;
use super::rows::Rows;
use super::sealed::Sealed;
use super::table_map::TableMap;

/// The type code of an event.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventType(pub u8);

macro_rules! event_types {
    ($($name:ident = $code:literal),* $(,)?) => {
        #[allow(missing_docs)] // each is named as in the servers' own documentation
        impl EventType {
            $(pub const $name: EventType = EventType($code);)*

            /// The name in the servers' documentation, if the code is a known one.
            pub fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($code => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

event_types! {
    UNKNOWN = 0, START_V3 = 1, QUERY = 2, STOP = 3, ROTATE = 4, INTVAR = 5, LOAD = 6, SLAVE = 7,
    CREATE_FILE = 8, APPEND_BLOCK = 9, EXEC_LOAD = 10, DELETE_FILE = 11, NEW_LOAD = 12, RAND = 13,
    USER_VAR = 14, FORMAT_DESCRIPTION = 15, XID = 16, BEGIN_LOAD_QUERY = 17,
    EXECUTE_LOAD_QUERY = 18, TABLE_MAP = 19, WRITE_ROWS_V1 = 23, UPDATE_ROWS_V1 = 24,
    DELETE_ROWS_V1 = 25, INCIDENT = 26, HEARTBEAT = 27, IGNORABLE = 28, ROWS_QUERY = 29,
    WRITE_ROWS = 30, UPDATE_ROWS = 31, DELETE_ROWS = 32, GTID = 33, ANONYMOUS_GTID = 34,
    PREVIOUS_GTIDS = 35, TRANSACTION_CONTEXT = 36, VIEW_CHANGE = 37, XA_PREPARE = 38,
    PARTIAL_UPDATE_ROWS = 39, TRANSACTION_PAYLOAD = 40, HEARTBEAT_V2 = 41, GTID_TAGGED = 42,
    MARIADB_ANNOTATE_ROWS = 160, MARIADB_BINLOG_CHECKPOINT = 161, MARIADB_GTID = 162,
    MARIADB_GTID_LIST = 163, MARIADB_START_ENCRYPTION = 164, MARIADB_QUERY_COMPRESSED = 165,
    MARIADB_WRITE_ROWS_COMPRESSED_V1 = 166, MARIADB_UPDATE_ROWS_COMPRESSED_V1 = 167,
    MARIADB_DELETE_ROWS_COMPRESSED_V1 = 168, MARIADB_WRITE_ROWS_COMPRESSED = 169,
    MARIADB_UPDATE_ROWS_COMPRESSED = 170, MARIADB_DELETE_ROWS_COMPRESSED = 171,
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "type {}", self.0),
        }
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A decoded event.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its header.
    pub header: Header,
    /// What it says.
    pub body: Body,
}

/// What an event says.
#[derive(Clone, Debug)]
pub enum Body {
    /// How the events that follow are written.
    FormatDescription(Arc<FormatDescription>),
    /// The binlog goes on in another file.
    Rotate(Rotate),
    /// The server was shut down.
    Stop,
    /// A statement: DDL, BEGIN, COMMIT, XA and SAVEPOINT commands, or a change in statement format.
    Query(Query),
    /// The transaction committed; the number means nothing on another server.
    Xid(u64),
    /// The group ends in a prepared transaction.
    XaPrepare(XaPrepare),
    /// MySQL: a transaction begins, with its identity ([`GtidEvent::gtid`] is `None` for
    /// an anonymous one).
    Gtid(Box<GtidEvent>),
    /// MySQL: what the files before this one hold.
    PreviousGtids(GtidSet),
    /// MariaDB: an event group begins.
    MariadbGtid(MariadbGtidEvent),
    /// MariaDB: the last GTIDs of the files before this one.
    MariadbGtidList(GtidList),
    /// MariaDB: the oldest file that a crash recovery would need.
    BinlogCheckpoint(String),
    /// The statement behind the row events that follow, for people. In the character set of the
    /// client, which is not known here.
    RowsQuery(Sealed),
    /// The source lives and has nothing to say.
    Heartbeat(Heartbeat),
    /// The table of the row events that follow.
    TableMap(Arc<TableMap>),
    /// Changed rows.
    Rows(Rows),
    /// A whole transaction, compressed.
    Payload(Payload),
    /// Changes may be missing from the binlog.
    Incident(Incident),
    /// A value that a statement-format change needs. Rows do not: who replicates rows must stop.
    StatementContext,
    /// Of group replication's certification, or marked as ignorable by the source. No changes.
    Ignored,
}
