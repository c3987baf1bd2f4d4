//! MariaDB's UUID, INET4 and INET6, which are stored as BINARY.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Value, append};
use crate::mysql::error::Fault;
use crate::mysql::layout::Special;

/// Bytes of a value.
pub(in crate::mysql) fn stored_bytes(special: Special) -> usize {
    match special {
        Special::Uuid | Special::Inet6 => 16,
        Special::Inet4 => 4,
    }
}

/// A stored value. Zeros at its end were cut off, as of any BINARY.
pub(in crate::mysql) fn value<'a>(special: Special, stored: &[u8]) -> Result<Value<'a>, Fault> {
    let width = stored_bytes(special);
    if stored.len() > width {
        return Err(Fault::Impossible { what: "length of BINARY", found: stored.len() as u64 });
    }
    let mut whole = [0; 16];
    whole[..stored.len()].copy_from_slice(stored);
    Ok(match special {
        Special::Uuid => Value::Uuid(Uuid::from_stored(whole)),
        Special::Inet6 => Value::Inet6(whole.into()),
        Special::Inet4 => Value::Inet4(Ipv4Addr::new(whole[0], whole[1], whole[2], whole[3])),
    })
}

/// A UUID in the order of its text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// Versions 1 to 5 of the usual variant are stored with the parts in reverse order, so that
    /// those of one machine and time lie together; all others as they are
    /// (`sql_type_uuid.h`, `rec_need_swap`).
    fn from_stored(stored: [u8; 16]) -> Uuid {
        let (variant, version) = (stored[6], stored[8]);
        if variant & 0x80 == 0 || !(1..0x60).contains(&version) {
            return Uuid(stored);
        }
        let [n0, n1, n2, n3, n4, n5, c0, c1, h0, h1, m0, m1, l0, l1, l2, l3] = stored;
        Uuid([l0, l1, l2, l3, m0, m1, h0, h1, c0, c1, n0, n1, n2, n3, n4, n5])
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::mysql::gtid::Sid(self.0).fmt(f)
    }
}

/// Appends an INET6 as MariaDB writes it: the longest run of zero groups as `::`, and the last two
/// groups as IPv4 where the address stands for one.
pub(in crate::mysql) fn write_inet6(out: &mut Vec<u8>, address: Ipv6Addr) {
    let groups = address.segments();
    let (mut start, mut length) = (0, 0);
    let mut at = 0;
    while at < groups.len() {
        let zeros = groups[at..].iter().take_while(|group| **group == 0).count();
        if zeros > length {
            (start, length) = (at, zeros);
        }
        at += zeros.max(1);
    }
    let is_ipv4 = start == 0 && (length == 6 || (length == 5 && groups[5] == 0xFFFF));
    let mut at = 0;
    while at < groups.len() {
        if length > 0 && at == start {
            out.extend_from_slice(if at == 0 { b"::" } else { b":" });
            at += length;
        } else if at == 6 && is_ipv4 {
            let [.., a, b, c, d] = address.octets();
            append(out, &Ipv4Addr::new(a, b, c, d));
            break;
        } else {
            append(out, &format_args!("{:x}", groups[at]));
            at += 1;
            if at < groups.len() {
                out.push(b':');
            }
        }
    }
}
