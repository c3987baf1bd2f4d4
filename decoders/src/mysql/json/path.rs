//! JSON paths as they stand in differences: members and cells, no wildcards.

use crate::mysql::error::Fault;

/// One step into a document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Leg {
    Member(String),
    Cell(usize),
}

const MALFORMED: Fault = Fault::Malformed("path of a JSON difference");

/// Reads `$.key."other key"[3]`.
pub(super) fn parse(path: &str) -> Result<Vec<Leg>, Fault> {
    let mut rest = path.strip_prefix('$').ok_or(MALFORMED)?;
    let mut legs = Vec::new();
    while let Some(first) = rest.chars().next() {
        let leg;
        (leg, rest) = match first {
            '.' => member(&rest[1..])?,
            '[' => cell(&rest[1..])?,
            _ => return Err(MALFORMED),
        };
        legs.push(leg);
    }
    Ok(legs)
}

fn member(text: &str) -> Result<(Leg, &str), Fault> {
    if !text.starts_with('"') {
        let end = text.find(['.', '[']).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        return match name.is_empty() {
            true => Err(MALFORMED),
            false => Ok((Leg::Member(name.to_owned()), rest)),
        };
    }
    // A quoted name is a JSON string. It ends at the first quote that is not escaped.
    let mut escaped = false;
    let end = text.bytes().enumerate().skip(1).find(|(_, byte)| {
        let is_end = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        is_end
    });
    let (end, _) = end.ok_or(MALFORMED)?;
    let name: String = serde_json::from_str(&text[..=end]).map_err(|_| MALFORMED)?;
    Ok((Leg::Member(name), &text[end + 1..]))
}

fn cell(text: &str) -> Result<(Leg, &str), Fault> {
    let (index, rest) = text.split_once(']').ok_or(MALFORMED)?;
    let index = index.trim();
    let digits = !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit());
    let index = digits.then(|| index.parse().ok()).flatten().ok_or(MALFORMED)?;
    Ok((Leg::Cell(index), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_cells_are_told_apart() {
        let member = |name: &str| Leg::Member(name.to_owned());
        assert_eq!(parse("$"), Ok(vec![]));
        assert_eq!(parse("$.a[10].ü"), Ok(vec![member("a"), Leg::Cell(10), member("ü")]));
        let quoted = parse(r#"$."a.b[1]"."q\"\\"."""#);
        assert_eq!(quoted, Ok(vec![member("a.b[1]"), member("q\"\\"), member("")]));
        for bad in ["", "a", "$a", "$.", "$[", "$[]", "$[x]", "$[-1]", "$.\"a", "$.\"\\\"", "$..a"]
        {
            assert!(parse(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
