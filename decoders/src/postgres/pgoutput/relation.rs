//! Messages that describe what is changed: Relation and Type.

use super::error::DecodeError;
use super::read::Reader;
use crate::change::{Column, QualifiedName, ReplicaIdentity, TableId, TableSchema};

/// `R`: a table's shape, sent before its first change and again when it may have changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relation(pub TableSchema);

impl Relation {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        // Flags, a name of no letters with its terminator, type OID and modifier.
        const COLUMN_BYTES_MIN: usize = 1 + 1 + 4 + 4;
        let id = TableId(reader.u32()?);
        let name = QualifiedName::new(schema_name(reader.string()?), reader.string()?);
        let identity = identity(reader)?;
        let count = reader.count16("number of columns", COLUMN_BYTES_MIN)?;
        let mut columns = Vec::with_capacity(count);
        for _ in 0..count {
            columns.push(column(reader)?);
        }
        Ok(Relation(TableSchema { id, name, identity, columns }))
    }
}

/// `pg_class.relreplident`.
fn identity(reader: &mut Reader<'_>) -> Result<ReplicaIdentity, DecodeError> {
    match reader.u8()? {
        b'd' => Ok(ReplicaIdentity::Default),
        b'i' => Ok(ReplicaIdentity::Index),
        b'f' => Ok(ReplicaIdentity::Full),
        b'n' => Ok(ReplicaIdentity::Nothing),
        found => Err(reader.unknown_byte("replica identity", found)),
    }
}

fn column(reader: &mut Reader<'_>) -> Result<Column, DecodeError> {
    const PART_OF_KEY: u8 = 1;
    Ok(Column {
        in_key: reader.flags("column", PART_OF_KEY)? == PART_OF_KEY,
        name: reader.string()?.to_owned(),
        type_oid: reader.u32()?,
        type_modifier: reader.i32()?,
    })
}

/// `Y`: the name behind the OID of a type that is not built in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TypeName {
    /// The OID that columns refer to.
    pub oid: u32,
    /// The type's name.
    pub name: QualifiedName,
}

impl TypeName {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            oid: reader.u32()?,
            name: QualifiedName::new(schema_name(reader.string()?), reader.string()?),
        })
    }
}

/// "Namespace (empty string for `pg_catalog`)".
fn schema_name(sent: &str) -> &str {
    if sent.is_empty() { "pg_catalog" } else { sent }
}
