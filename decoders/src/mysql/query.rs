//! QUERY events: statements, and the session that they ran in.

use std::sync::Arc;

use bytes::Bytes;

use super::charset::Charset;
use super::error::Fault;
use super::format::Flavor;
use super::inflate;
use super::read::{Reader, name};
use super::sealed::Sealed;

/// A statement as it was written to the binlog.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Query {
    /// The session on the source.
    pub thread_id: u32,
    /// The error that the statement ended with, 0 for none.
    pub error_code: u16,
    /// The default schema, which unqualified names belong to; empty for none.
    pub schema: String,
    /// The session's settings.
    pub session: Arc<Session>,
    /// The statement's bytes, in the character set [`Session::client_collation`].
    pub statement: Sealed,
}

/// The settings that were read last: most statements of a stream, each BEGIN among them, come from sessions
/// with the same ones.
#[derive(Debug, Default)]
pub(super) struct LastSession {
    flavor: Option<Flavor>,
    settings: Vec<u8>,
    session: Arc<Session>,
}

impl LastSession {
    fn read(&mut self, settings: &[u8], flavor: Flavor) -> Result<Arc<Session>, Fault> {
        if self.flavor != Some(flavor) || self.settings != settings {
            self.session = Arc::new(Session::read(&mut Reader::new(settings), flavor)?);
            self.flavor = Some(flavor);
            self.settings.clear();
            self.settings.extend_from_slice(settings);
        }
        Ok(Arc::clone(&self.session))
    }
}

/// What the source says of the session. A value that it left out is `None`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Session {
    /// `OPTION_*` bits, such as `foreign_key_checks` off.
    pub flags2: Option<u32>,
    /// `sql_mode` as bits.
    pub sql_mode: Option<u64>,
    /// Collation ids of `character_set_client`, `collation_connection` and `collation_server`.
    pub collations: Option<[u16; 3]>,
    /// `time_zone`.
    pub time_zone: Option<String>,
    /// Schemas that the statement changed, if they are not too many to be listed.
    pub updated_schemas: Vec<String>,
    /// The XID of a DDL statement that commits atomically (MySQL: `DDL_LOGGED_WITH_XID`; MariaDB:
    /// `Q_XID`).
    pub ddl_xid: Option<u64>,
    /// MySQL: the collation that `utf8mb4` without one stands for.
    pub default_utf8mb4_collation: Option<u16>,
    /// MySQL: `explicit_defaults_for_timestamp`.
    pub explicit_timestamps: Option<bool>,
    /// MariaDB: which collation a character set without one stands for (`character_set_collations`), by
    /// the number of the set's own default and of that collation.
    pub charset_collations: Vec<(u16, u16)>,
    /// MariaDB: `FL_START_ALTER` and its like, an ALTER TABLE that is logged in two halves.
    pub alter_flags: Option<u8>,
    /// A setting that this decoder does not know. It hides those behind it, which have no length.
    pub unknown_setting: Option<u8>,
}

impl Session {
    /// The collation id of `character_set_client`, in which the statement is written.
    pub fn client_collation(&self) -> Option<u16> {
        self.collations.map(|[client, ..]| client)
    }
}

impl Query {
    pub(super) fn read(
        frame: &Bytes,
        reader: &mut Reader,
        flavor: Flavor,
        sessions: &mut LastSession,
    ) -> Result<Query, Fault> {
        let mut query = Query::read_head(reader, flavor, sessions)?;
        query.statement = Sealed(frame.slice_ref(reader.rest()));
        Ok(query)
    }

    /// MariaDB with `log_bin_compress`.
    pub(super) fn read_compressed(
        frame: &Bytes,
        reader: &mut Reader,
        most: usize,
        sessions: &mut LastSession,
    ) -> Result<Query, Fault> {
        let mut query = Query::read(frame, reader, Flavor::Mariadb, sessions)?;
        query.statement = Sealed(inflate::mariadb_event(&query.statement, most)?);
        Ok(query)
    }

    fn read_head(
        reader: &mut Reader,
        flavor: Flavor,
        sessions: &mut LastSession,
    ) -> Result<Query, Fault> {
        let thread_id = reader.u32()?;
        reader.u32()?; // seconds that it took
        let schema_bytes = reader.u8()?;
        let error_code = reader.u16()?;
        let settings = reader.sized(2)?;
        let session = sessions.read(settings, flavor)?;
        let schema = name(reader.bytes(schema_bytes.into())?)?;
        match reader.u8()? {
            0 => {}
            _ => return Err(Fault::Malformed("end of the schema's name")),
        }
        Ok(Query { thread_id, error_code, schema, session, statement: Sealed::default() })
    }

    /// The statement as UTF-8.
    pub fn text(&self) -> Result<String, Fault> {
        let charset = match self.session.client_collation() {
            Some(collation) => Charset::of_collation(collation.into())?,
            None => Charset::Utf8mb4,
        };
        charset.decode(&self.statement).map(|text| text.into_owned())
    }
}

impl Session {
    /// Settings as code and value; how long a value is depends on the code
    /// (`libbinlogevents/statement_events.h`, MariaDB's `log_event.h`).
    fn read(reader: &mut Reader, flavor: Flavor) -> Result<Session, Fault> {
        /// More schemas than may be listed: the count stands alone.
        const TOO_MANY_SCHEMAS: u8 = 254;
        let mut session = Session::default();
        while !reader.is_empty() {
            let code = reader.u8()?;
            match (code, flavor) {
                (0, _) => session.flags2 = Some(reader.u32()?),
                (1, _) => session.sql_mode = Some(reader.u64()?),
                // The catalog, which is always "std"; once with a zero byte at its end.
                (2, _) => {
                    reader.sized(1)?;
                    reader.u8()?;
                }
                (3, _) => _ = reader.u32()?, // auto_increment_increment and _offset
                (4, _) => session.collations = Some([reader.u16()?, reader.u16()?, reader.u16()?]),
                (5, _) => session.time_zone = Some(name(reader.sized(1)?)?),
                (6, _) => _ = reader.sized(1)?,
                (7 | 8, _) => _ = reader.u16()?, // lc_time_names, collation_database
                (9, _) => _ = reader.u64()?,     // table_map_for_update
                (10, _) => _ = reader.u32()?,    // master_data_written
                (11, _) => {
                    reader.sized(1)?; // the invoker's name
                    reader.sized(1)?; // and host
                }
                (12, _) => {
                    let count = reader.u8()?;
                    if count != TOO_MANY_SCHEMAS {
                        for _ in 0..count {
                            session.updated_schemas.push(name(reader.terminated()?)?);
                        }
                    }
                }
                (13, _) | (128, Flavor::Mariadb) => _ = reader.uint(3)?, // microseconds
                (14, Flavor::Mysql) => _ = reader.u64()?, // commit timestamps, of a version never released
                (15, Flavor::Mysql) => _ = reader.u64()?,
                (16, Flavor::Mysql) => session.explicit_timestamps = Some(reader.u8()? != 0),
                (17, Flavor::Mysql) | (129, Flavor::Mariadb) => {
                    session.ddl_xid = Some(reader.u64()?);
                }
                (18, Flavor::Mysql) => session.default_utf8mb4_collation = Some(reader.u16()?),
                (19 | 20, Flavor::Mysql) => _ = reader.u8()?, // require_primary_key, table_encryption
                (130, Flavor::Mariadb) => {
                    const COMMIT_OR_ROLLBACK_ALTER: u8 = 4 | 8;
                    let flags = reader.u8()?;
                    session.alter_flags = Some(flags);
                    if flags & COMMIT_OR_ROLLBACK_ALTER != 0 {
                        reader.u64()?; // the number of the half that started it
                    }
                }
                (131, Flavor::Mariadb) => {
                    let pairs = reader.u8()?;
                    for _ in 0..pairs {
                        session.charset_collations.push((reader.u16()?, reader.u16()?));
                    }
                }
                (unknown, _) => {
                    session.unknown_setting = Some(unknown);
                    reader.rest();
                }
            }
        }
        Ok(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_again_when_they_or_their_meaning_are_others() {
        let mut last = LastSession::default();
        assert_eq!(*last.read(&[], Flavor::Mysql).unwrap(), Session::default());
        // sql_mode, then two codes of one number that mean different things.
        let strict = last.read(&[1, 2, 0, 0, 0, 0, 0, 0, 0], Flavor::Mysql).unwrap();
        assert_eq!(strict.sql_mode, Some(2));
        let again = last.read(&[1, 2, 0, 0, 0, 0, 0, 0, 0], Flavor::Mysql).unwrap();
        assert!(Arc::ptr_eq(&strict, &again));
        let other = last.read(&[1, 3, 0, 0, 0, 0, 0, 0, 0], Flavor::Mysql).unwrap();
        assert_eq!(other.sql_mode, Some(3));
        assert!(last.read(&[16], Flavor::Mysql).is_err());
        let mysql = last.read(&[16, 1], Flavor::Mysql).unwrap();
        assert_eq!((mysql.explicit_timestamps, mysql.unknown_setting), (Some(true), None));
        let mariadb = last.read(&[16, 1], Flavor::Mariadb).unwrap();
        assert_eq!((mariadb.explicit_timestamps, mariadb.unknown_setting), (None, Some(16)));
    }
}
