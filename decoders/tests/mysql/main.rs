//! The binlog decoder against real servers and recorded binlogs.
//!
//! The oracle: whatever the binlog is decoded to is what the server's own SELECT returns. The judge
//! is the server's own client, so nothing of the code under test is trusted.

mod binlog;
mod catalog;
mod charsets;
mod damage;
mod frame;
mod generate;
mod golden;
mod known_defects;
mod oracle;
mod random;
mod replay;
mod stream;
mod streams;
mod types;
