//! PostgreSQL: connections, the replication stream, catalogs.
//!
//! Both kinds of connection take the same [`conninfo::ConnInfo`] and fail with the same
//! [`error::ConnectError`]; `is_transient()` says whether waiting may help.
//!
//! ```no_run
//! use decoders::postgres::conninfo::ConnInfo;
//! use decoders::postgres::session;
//! use decoders::postgres::wire::ReplicationConnection;
//!
//! # async fn sketch() -> Result<(), Box<dyn std::error::Error>> {
//! // URL or keyword form; PG* variables and ~/.pgpass fill the gaps. `Display` hides the password.
//! let info = ConnInfo::parse("postgresql://repl@db.example/shop?sslmode=verify-full")?;
//!
//! // A SQL session dereferences to `tokio_postgres::Client`.
//! let sql = session::connect(&info, "cutover probe").await?;
//! let row = sql.query_one("SELECT 1", &[]).await?;
//! let canceller = sql.canceller(); // clone it to wherever statements must be cancelled from
//! tokio::select! {
//!     rows = sql.query("SELECT pg_sleep(60)", &[]) => { rows?; }
//!     reason = sql.closed() => tracing::warn!(%reason, "session lost"),
//! }
//!
//! // A replication connection runs commands, then becomes a two-way stream.
//! let mut wire = ReplicationConnection::connect(&info, "cutover stream").await?;
//! let identity = wire.simple_query("IDENTIFY_SYSTEM").await?; // rows of Option<String>
//! let mut stream = wire.copy_both("START_REPLICATION SLOT s LOGICAL 0/0 (..)").await?;
//! while let Some(payload) = stream.next_frame().await? {
//!     // `payload` is a slice of the read buffer; more may be there already:
//!     while let Some(_more) = stream.try_next_buffered()? {}
//!     stream.send_copy_data(b"r..").await?; // standby status
//! }
//! # Ok(()) }
//! ```

// The stream.
mod delivery;
mod failure;
pub mod gulp;
mod ident;
pub mod pgoutput;
pub mod publication;
pub mod slot;
pub mod stream;
pub mod types;
mod user_types;
pub mod walsender;

// Connections.
mod auth;
pub mod badge;
pub mod catalog;
mod certificate;
pub mod chunks;
pub mod conninfo;
mod copy_both;
pub mod copy_out;
mod dsn;
pub mod error;
mod establish;
mod link;
pub mod lock_room;
mod options;
pub mod origins;
mod parameters;
mod passfile;
pub mod pipelined;
pub mod raw;
pub mod session;
mod settings;
mod shared;
pub mod splitter;
pub mod state_schema;
mod tls;
mod transport;
pub mod wire;

pub(crate) use certificate::{ChainVerifier, UncheckedVerifier};
