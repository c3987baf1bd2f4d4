//! What of a command is not passed on as it came: numbers of sessions that a client knows by others, and
//! types of parameters that the server of a session that was moved does not know.

use super::com;
use crate::proxy::mysql::places::Whom;
use crate::proxy::mysql::statements::Statement;
use crate::proxy::mysql::words::killed;

/// `SEND_TYPES_TO_SERVER` of COM_STMT_BULK_EXECUTE.
const BULK_TYPES: u16 = 128;

/// A command that kills a session, with the number that this has on the server, or why that is nobody.
/// `None`: it is passed on as it is.
pub(super) fn renumbered(
    body: &[u8],
    number: &dyn Fn(u32) -> Whom,
) -> Option<Result<Vec<u8>, String>> {
    let (range, shown) = match body.split_first()? {
        (&com::QUERY, text) => killed(text)?,
        (&com::PROCESS_KILL, rest) => (0..0, u32::from_le_bytes(rest.try_into().ok()?)),
        _ => return None,
    };
    let number = match number(shown) {
        Whom::AsSaid => return None,
        Whom::Number(number) => number,
        Whom::Unknown => {
            return Some(Err(format!(
                "Unknown thread id: {shown}. The proxy has moved sessions since it gave this number: \
                 whoever has it is not on this server, or it is another session's here"
            )));
        }
    };
    Some(Ok(match body[0] {
        com::QUERY => {
            let text = &body[1..];
            let (before, behind) = (&text[..range.start], &text[range.end..]);
            [&[com::QUERY], before, number.to_string().as_bytes(), behind].concat()
        }
        kind => [&[kind], &number.to_le_bytes()[..]].concat(),
    }))
}

/// Looks at the parameters of COM_STMT_EXECUTE: number, flags, iterations, which are NULL, whether
/// types follow, types, values. What has to be inserted, and where.
pub(super) fn bind(body: &mut [u8], statement: &mut Statement) -> Option<(usize, Vec<u8>)> {
    let count = usize::from(statement.parameters);
    let at = 10 + count.div_ceil(8);
    if count == 0 {
        return None;
    }
    match body.get(at) {
        Some(1) => {
            statement.types = body.get(at + 1..at + 1 + 2 * count).map(<[u8]>::to_vec);
            statement.types_untold = false;
            None
        }
        Some(_) if std::mem::take(&mut statement.types_untold) => {
            let types = statement.types.clone()?;
            body[at] = 1;
            Some((at + 1, types))
        }
        _ => None,
    }
}

/// The same of COM_STMT_BULK_EXECUTE: number, flags, types, values.
pub(super) fn bind_bulk(body: &mut [u8], statement: &mut Statement) -> Option<(usize, Vec<u8>)> {
    let flags = u16::from_le_bytes(body.get(5..7)?.try_into().ok()?);
    if flags & BULK_TYPES != 0 {
        let end = 7 + 2 * usize::from(statement.parameters);
        statement.types = body.get(7..end).map(<[u8]>::to_vec);
        statement.types_untold = false;
        return None;
    }
    if !std::mem::take(&mut statement.types_untold) {
        return None;
    }
    let types = statement.types.clone()?;
    body[5..7].copy_from_slice(&(flags | BULK_TYPES).to_le_bytes());
    Some((7, types))
}
