//! Identities of distributed transactions.

use std::fmt;

use super::lexer::Token;
use crate::mysql::XaPrepare;

/// The identity that an application gave to its distributed transaction.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct XaId {
    /// The number that the application chose for its kind of identities.
    pub format_id: u32,
    /// The global part.
    pub global: Vec<u8>,
    /// The branch.
    pub branch: Vec<u8>,
}

impl XaId {
    /// Reads `X'78',X'',1`, the form in which both servers log identities; `None` for anything else.
    pub(super) fn parse(tokens: &[Token]) -> Option<XaId> {
        match tokens {
            [
                a,
                Token::Text(global),
                Token::Mark(','),
                b,
                Token::Text(branch),
                Token::Mark(','),
                Token::Word(number),
                ..,
            ] if a.is("X") && b.is("X") => {
                let format_id = number.parse().ok()?;
                Some(XaId { format_id, global: bytes(global)?, branch: bytes(branch)? })
            }
            _ => None,
        }
    }
}

impl From<&XaPrepare> for XaId {
    fn from(event: &XaPrepare) -> Self {
        XaId {
            format_id: event.format_id,
            global: event.global.clone(),
            branch: event.branch.clone(),
        }
    }
}

/// As in the servers' own statements: `X'78',X'',1`.
impl fmt::Display for XaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.global, &self.branch] {
            f.write_str("X'")?;
            part.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
            f.write_str("',")?;
        }
        write!(f, "{}", self.format_id)
    }
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let (pairs, []) = hex.as_bytes().as_chunks::<2>() else { return None };
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.iter().map(byte).collect()
}
