//! MySQL and MariaDB: connections, catalogs, and the binary log.
//!
//! [`Decoder`] turns one event's bytes into an [`Event`]. A [`TableMap`] and, where it does not say
//! enough, the catalog make a [`Layout`]; [`Rows::reader`] reads the changed rows with it, and their
//! values exactly as they are stored: [`Value::write_text`] gives what the server's own SELECT gives.
//!
//! | module | what it reads |
//! | --- | --- |
//! | `decoder`, `header`, `format` | frames, checksums, which server writes how |
//! | [`gtid`] | identities of transactions and sets of them |
//! | `query`, `control`, `payload` | statements; what steers the stream; compressed transactions |
//! | `table_map`, `metadata`, `column` | tables and their columns |
//! | `rows`, `image`, `layout` | changed rows |
//! | [`value`], [`json`], [`charset`] | values |
//! | [`server`], [`catalog`] | connections; `information_schema` |
//! | [`stream`] | the binlog of a running server as whole transactions |
//!
//! The decoder touches no network, keeps no position and decides nothing. It never panics, whatever
//! arrives, and nothing is skipped: an event or a value that is not understood is a [`DecodeError`].

pub mod catalog;
pub mod charset;
mod column;
mod control;
mod decoder;
pub mod encode;
mod error;
mod event;
mod form;
mod format;
mod ghost;
pub mod gtid;
mod header;
mod image;
mod inflate;
pub mod json;
mod labels;
mod layout;
mod ledger;
mod metadata;
mod payload;
mod query;
mod read;
mod rows;
mod sealed;
mod seen_maps;
mod selection;
pub mod server;
mod source_type;
pub mod stream;
mod table_map;
pub mod value;

pub use column::WireType;
pub use control::{Heartbeat, Incident, Rotate, XaPrepare};
pub use decoder::{Decoder, Limits};
pub use error::{DecodeError, Fault};
pub use event::{Body, Event, EventType};
pub use form::of_column as form_of_column;
pub use format::{Flavor, FormatDescription};
pub use ghost::{Ghost, ghost};
pub use header::{HEADER_BYTES, Header};
pub use image::{Cell, Change};
pub use labels::labels;
pub use layout::{CatalogColumn, ColumnPlan, Layout, Special};
pub use ledger::{Found, Ledger, Place};
pub use payload::{Compression, Payload, PayloadEvents};
pub use query::{Query, Session};
pub use rows::{ExtraInfo, Operation, RowReader, Rows};
pub use sealed::Sealed;
pub use selection::{Selection, is_system_schema};
pub use source_type::SourceType;
pub use table_map::{ColumnMetadata, KeyPart, MappedColumn, TableMap};
pub use value::Value;
