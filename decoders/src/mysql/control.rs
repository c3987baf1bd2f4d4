//! Small events that steer the stream.

use super::error::Fault;
use super::read::{Reader, name};

/// The binlog goes on elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rotate {
    /// Where the first event in that file begins.
    pub position: u64,
    /// The file.
    pub file: String,
}

impl Rotate {
    pub(super) fn read(reader: &mut Reader) -> Result<Rotate, Fault> {
        Ok(Rotate { position: reader.u64()?, file: name(reader.rest())? })
    }
}

/// The source lives; its position is known although no event was sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    /// The file that the source reads from.
    pub file: String,
    /// The position in it, also beyond 4 GiB. `None` in version 1 of the event, where the header's
    /// 32 bits have to do.
    pub position: Option<u64>,
}

impl Heartbeat {
    pub(super) fn read_v1(reader: &mut Reader) -> Result<Heartbeat, Fault> {
        Ok(Heartbeat { file: name(reader.rest())?, position: None })
    }

    /// Fields as type, length, value (MySQL 8.0.26+, `codecs/binary.cpp`).
    pub(super) fn read_v2(reader: &mut Reader) -> Result<Heartbeat, Fault> {
        const END: u64 = 0;
        const FILE: u64 = 1;
        const POSITION: u64 = 2;
        let mut file = None;
        let mut position = None;
        while !reader.is_empty() {
            let field = reader.packed()?;
            if field == END {
                break;
            }
            let mut value = Reader::new(reader.packed_bytes()?);
            match field {
                FILE => file = Some(name(value.rest())?),
                POSITION => position = Some(value.packed()?),
                _ => {} // by its format a field may be skipped by who does not know it
            }
        }
        let file = file.ok_or(Fault::Malformed("heartbeat without a file name"))?;
        Ok(Heartbeat { file, position })
    }
}

/// The identity of a distributed transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct XaPrepare {
    /// `XA COMMIT .. ONE PHASE`: the transaction is committed, not only prepared.
    pub one_phase: bool,
    /// The number that the application chose for its kind of identities.
    pub format_id: u32,
    /// The global part.
    pub global: Vec<u8>,
    /// The branch.
    pub branch: Vec<u8>,
}

impl XaPrepare {
    pub(super) fn read(reader: &mut Reader) -> Result<XaPrepare, Fault> {
        let one_phase = reader.u8()? != 0;
        let format_id = reader.u32()?;
        let global = reader.u32()?;
        let branch = reader.u32()?;
        // 64 is MAXGTRIDSIZE and MAXBQUALSIZE of the XA specification.
        for length in [global, branch] {
            if length > 64 {
                return Err(Fault::Impossible {
                    what: "XA identity's length",
                    found: length.into(),
                });
            }
        }
        let global = reader.bytes(global as usize)?.to_vec();
        let branch = reader.bytes(branch as usize)?.to_vec();
        Ok(XaPrepare { one_phase, format_id, global, branch })
    }
}

/// Changes may be missing from the binlog.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Incident {
    /// 1 is "lost events".
    pub number: u16,
    /// What the server says about it.
    pub message: String,
}

impl Incident {
    pub(super) fn read(reader: &mut Reader) -> Result<Incident, Fault> {
        let number = reader.u16()?;
        let message = String::from_utf8_lossy(reader.sized(1)?).into_owned();
        Ok(Incident { number, message })
    }
}
