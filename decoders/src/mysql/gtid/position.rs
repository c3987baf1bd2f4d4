//! A place in a server's history, of either family.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::event::Gtid;
use super::mariadb::{GtidPosition, MariadbGtid};
use super::parse::ParseGtidError;
use super::set::GtidSet;

/// Which transactions have been read: what a stream is resumed by.
///
/// As text, what the servers themselves use: `uuid:1-5` of MySQL, `0-1-5` of MariaDB. Files and
/// offsets are never part of it: they differ between a server and its replicas, and MariaDB and
/// compressed transactions leave them out.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum BinlogPosition {
    /// MySQL: a set of transactions.
    Mysql(GtidSet),
    /// MariaDB: the last transaction of each domain.
    Mariadb(GtidPosition),
}

/// The identity of one transaction.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum TransactionId {
    /// Of MySQL.
    Mysql(Gtid),
    /// Of MariaDB.
    Mariadb(MariadbGtid),
}

impl BinlogPosition {
    /// Whether the transaction has been read.
    pub fn contains(&self, id: &TransactionId) -> bool {
        match (self, id) {
            (BinlogPosition::Mysql(set), TransactionId::Mysql(gtid)) => set.contains(gtid),
            (BinlogPosition::Mariadb(position), TransactionId::Mariadb(gtid)) => {
                position.contains(gtid)
            }
            _ => false,
        }
    }

    /// Whether everything up to `other` is also up to here. Positions of different families do not
    /// compare.
    pub fn covers(&self, other: &BinlogPosition) -> bool {
        match (self, other) {
            (BinlogPosition::Mysql(own), BinlogPosition::Mysql(other)) => own.covers(other),
            (BinlogPosition::Mariadb(own), BinlogPosition::Mariadb(other)) => own.covers(other),
            _ => false,
        }
    }

    /// Adds a transaction; nothing, if it is of the other family.
    pub fn add(&mut self, id: &TransactionId) {
        match (self, id) {
            (BinlogPosition::Mysql(set), TransactionId::Mysql(gtid)) => set.add(gtid),
            (BinlogPosition::Mariadb(position), TransactionId::Mariadb(gtid)) => {
                position.set(*gtid)
            }
            _ => {}
        }
    }
}

impl fmt::Display for BinlogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The server breaks the lines of its sets; it reads them without, too.
            BinlogPosition::Mysql(set) => f.write_str(&set.to_string().replace('\n', "")),
            BinlogPosition::Mariadb(position) => position.fmt(f),
        }
    }
}

/// A text without any transaction is taken as MySQL's: an empty set.
impl FromStr for BinlogPosition {
    type Err = ParseGtidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.contains(':') || text.trim().is_empty() {
            true => text.parse().map(BinlogPosition::Mysql),
            false => text.parse().map(BinlogPosition::Mariadb),
        }
    }
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TransactionId::Mysql(gtid) => gtid.fmt(f),
            TransactionId::Mariadb(gtid) => gtid.fmt(f),
        }
    }
}

impl Serialize for BinlogPosition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BinlogPosition {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read_back_as_they_were_written() {
        for text in [
            "",
            "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:7:tag:1-3,4e11fa47-71ca-11e1-9e33-c80aa9429562:1",
            "0-1-5,7-2-100",
        ] {
            let position: BinlogPosition = text.parse().unwrap();
            assert_eq!(position.to_string(), text);
            assert!(position.covers(&position));
        }
        assert!("binlog.000001:4".parse::<BinlogPosition>().is_err());
        let (one, other): (BinlogPosition, BinlogPosition) =
            ("".parse().unwrap(), "0-1-5".parse().unwrap());
        assert!(!one.covers(&other) && !other.covers(&one));
    }
}
