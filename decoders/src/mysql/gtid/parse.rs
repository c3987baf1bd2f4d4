//! GTIDs and their sets from text, as servers and people write them.

use std::str::FromStr;

use super::event::{Gtid, Tag};
use super::mariadb::{GtidPosition, MariadbGtid};
use super::set::{GtidSet, Sid};

/// The text is not a GTID or a set of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a GTID of {engine}: {text:?} (expected {expected})")]
pub struct ParseGtidError {
    engine: &'static str,
    expected: &'static str,
    text: String,
}

fn mysql(text: &str) -> ParseGtidError {
    let expected = "uuid:1-5:7 or uuid:tag:1-5, more of them after commas";
    ParseGtidError { engine: "MySQL", expected, text: text.chars().take(80).collect() }
}

fn mariadb(text: &str) -> ParseGtidError {
    let expected = "domain-server-sequence, as in 0-1-100, more of them after commas";
    ParseGtidError { engine: "MariaDB", expected, text: text.chars().take(80).collect() }
}

impl FromStr for Sid {
    type Err = ParseGtidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let at_its_place = |(at, byte): (usize, u8)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        };
        if text.len() != 36 || !text.bytes().enumerate().all(at_its_place) {
            return Err(mysql(text));
        }
        let digits = text.replace('-', "");
        let number = u128::from_str_radix(&digits, 16).map_err(|_| mysql(text))?;
        Ok(Sid(number.to_be_bytes()))
    }
}

/// A number of a transaction: decimal digits, positive.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse::<u64>().ok()).flatten();
    number.filter(|number| *number > 0 && *number < i64::MAX as u64)
}

fn interval(text: &str) -> Option<(u64, u64)> {
    match text.split_once('-') {
        None => number(text).map(|number| (number, number)),
        Some((start, end)) => {
            let (start, end) = (number(start.trim_end())?, number(end.trim_start())?);
            (start <= end).then_some((start, end))
        }
    }
}

impl FromStr for GtidSet {
    type Err = ParseGtidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut set = GtidSet::new();
        for member in text.split(',').map(str::trim).filter(|member| !member.is_empty()) {
            let mut parts = member.split(':').map(str::trim);
            let sid: Sid = parts.next().unwrap_or_default().parse()?;
            let mut tag = Tag::NONE;
            let mut empty = true;
            for part in parts {
                if let Some((start, end)) = interval(part) {
                    set.add_range(sid, tag.clone(), start, end);
                    empty = false;
                } else if !part.is_empty() {
                    tag = Tag::new(part).ok_or_else(|| mysql(member))?;
                    empty = true;
                } else {
                    return Err(mysql(member));
                }
            }
            if empty {
                return Err(mysql(member));
            }
        }
        Ok(set)
    }
}

impl FromStr for Gtid {
    type Err = ParseGtidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || mysql(text);
        let (sid, rest) = text.trim().split_once(':').ok_or_else(refuse)?;
        let (tag, last) = rest.rsplit_once(':').unwrap_or(("", rest));
        Ok(Gtid {
            sid: sid.parse()?,
            tag: Tag::new(tag).ok_or_else(refuse)?,
            number: number(last).ok_or_else(refuse)?,
        })
    }
}

impl FromStr for MariadbGtid {
    type Err = ParseGtidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let parts: Vec<&str> = text.trim().split('-').collect();
        let [domain, server, sequence] = parts[..] else { return Err(mariadb(text)) };
        if !parts.iter().all(|part| digits(part)) {
            return Err(mariadb(text));
        }
        Ok(MariadbGtid {
            domain: domain.parse().map_err(|_| mariadb(text))?,
            server: server.parse().map_err(|_| mariadb(text))?,
            sequence: sequence.parse().map_err(|_| mariadb(text))?,
        })
    }
}

impl FromStr for GtidPosition {
    type Err = ParseGtidError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut position = GtidPosition::default();
        for member in text.split(',').filter(|member| !member.trim().is_empty()) {
            let gtid: MariadbGtid = member.parse()?;
            // The server refuses this too (error 1942): which of both is meant?
            if position.domain(gtid.domain).is_some() {
                return Err(mariadb(text));
            }
            position.set(gtid);
        }
        Ok(position)
    }
}
