//! The format description event: how the events after it are written.

use super::error::Fault;
use super::header::CHECKSUM_BYTES;
use super::read::Reader;
use super::server;

/// Which family wrote the binlog. The events of both share codes below 160 and differ in detail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Flavor {
    /// MySQL and Percona Server.
    Mysql,
    /// MariaDB.
    Mariadb,
}

/// A decoded format description event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FormatDescription {
    /// The server's version as it says it, such as `9.7.4` or `10.11.19-MariaDB-log`.
    pub server_version: String,
    /// The family, by the number of event types: a version text can be changed by configuration.
    pub flavor: Flavor,
    /// Seconds since 1970 when the server started, or 0 if it did not start with this file.
    pub created: u32,
    /// Whether the events end with a CRC32.
    pub checksum: bool,
    post_header_bytes: Vec<u8>,
}

/// MariaDB describes its own types, 160 and up; MySQL is far from having as many.
const MARIADB_FIRST_TYPE: usize = 160;

impl FormatDescription {
    /// Reads a body *with* its checksum's four bytes: whether there is one stands before them.
    pub(super) fn read(body: &[u8]) -> Result<FormatDescription, Fault> {
        let mut reader = Reader::new(body);
        match reader.u16()? {
            4 => {}
            found => {
                return Err(Fault::Unsupported { what: "binlog version", found: found.into() });
            }
        }
        let version = reader.bytes(50)?;
        let version = version.split(|byte| *byte == 0).next().unwrap_or_default();
        let server_version = String::from_utf8_lossy(version).into_owned();
        let created = reader.u32()?;
        match reader.u8()? {
            19 => {}
            found => {
                return Err(Fault::Impossible { what: "header length", found: found.into() });
            }
        }
        // Algorithm and checksum are there since MySQL 5.6.1 and MariaDB 5.3.
        let tail = 1 + CHECKSUM_BYTES;
        let types = reader.left().checked_sub(tail);
        let types = types.ok_or(Fault::Truncated { needed: tail, left: reader.left() })?;
        let post_header_bytes = reader.bytes(types)?.to_vec();
        let checksum = match reader.u8()? {
            0 => false,
            1 => true,
            found => {
                return Err(Fault::Unsupported { what: "checksum algorithm", found: found.into() });
            }
        };
        let flavor = match types >= MARIADB_FIRST_TYPE {
            true => Flavor::Mariadb,
            false => Flavor::Mysql,
        };
        Ok(FormatDescription { server_version, flavor, created, checksum, post_header_bytes })
    }

    /// Whether servers of this version log what cascading foreign keys do, where their setting says so:
    /// MySQL from 9.6 on (release notes of 9.6.0).
    pub fn version_logs_cascades(&self) -> bool {
        self.flavor == Flavor::Mysql && server::number(&self.server_version) >= (9, 6, 0)
    }

    /// Bytes of the fixed part of an event's body, if the source knows the type.
    pub fn post_header_bytes(&self, code: u8) -> Option<u8> {
        let at = usize::from(code).checked_sub(1)?;
        self.post_header_bytes.get(at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cascades_are_logged_by_mysql_from_9_6_on() {
        for (flavor, version, logs) in [
            (Flavor::Mysql, "8.4.6", false),
            (Flavor::Mysql, "9.5.0-log", false),
            (Flavor::Mysql, "9.6.0", true),
            (Flavor::Mysql, "9.7.4-2", true),
            (Flavor::Mysql, "10.0.0", true),
            (Flavor::Mariadb, "11.8.6-MariaDB-log", false),
        ] {
            let format = FormatDescription {
                server_version: version.into(),
                flavor,
                created: 0,
                checksum: true,
                post_header_bytes: Vec::new(),
            };
            assert_eq!(format.version_logs_cascades(), logs, "{version}");
        }
    }
}
