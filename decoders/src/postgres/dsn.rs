//! The two spellings of a connection string, split into keywords and values; what the keywords
//! mean is `conninfo`'s business.
//!
//! Rules: PostgreSQL manual, libpq, "Connection Strings". No error here quotes the text: a
//! misplaced quote or `@` would put the password into a log.

use percent_encoding::percent_decode_str;

/// Why a connection string cannot be read. Never carries text from the string, except a keyword.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DsnError {
    #[error("missing \"=\" after the keyword at byte {offset} of the connection string")]
    MissingEquals { offset: usize },
    #[error("the quote opened at byte {offset} of the connection string is never closed")]
    OpenQuote { offset: usize },
    #[error("the {part} of the connection URL is not valid percent-encoded UTF-8")]
    Encoding { part: &'static str },
    #[error("an IPv6 address of the connection URL is not of the form [address] or [address]:port")]
    Ipv6,
    #[error("the query parameter \"{keyword}\" of the connection URL has no \"=value\"")]
    MissingValue { keyword: String },
}

/// Keywords and values in order of appearance; later ones override earlier ones.
pub(super) type Pairs = Vec<(String, String)>;

/// Splits either form.
pub(super) fn split(text: &str) -> Result<Pairs, DsnError> {
    let rest = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"));
    match rest {
        Some(rest) => split_url(rest),
        None => split_keywords(text),
    }
}

/// `keyword = value` pairs; values may be quoted with `'`, and `\` escapes the next character.
fn split_keywords(text: &str) -> Result<Pairs, DsnError> {
    let mut pairs = Vec::new();
    let mut chars = text.char_indices().peekable();
    loop {
        while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        let Some(&(keyword_offset, _)) = chars.peek() else {
            return Ok(pairs);
        };
        let mut keyword = String::new();
        while let Some((_, c)) = chars.next_if(|(_, c)| *c != '=' && !c.is_whitespace()) {
            keyword.push(c);
        }
        while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}
        if chars.next_if(|(_, c)| *c == '=').is_none() {
            return Err(DsnError::MissingEquals { offset: keyword_offset });
        }
        while chars.next_if(|(_, c)| c.is_whitespace()).is_some() {}

        let mut value = String::new();
        if let Some((quote_offset, _)) = chars.next_if(|(_, c)| *c == '\'') {
            let open = DsnError::OpenQuote { offset: quote_offset };
            loop {
                match chars.next() {
                    Some((_, '\'')) => break,
                    Some((_, '\\')) => match chars.next() {
                        Some((_, c)) => value.push(c),
                        None => return Err(open),
                    },
                    Some((_, c)) => value.push(c),
                    None => return Err(open),
                }
            }
        } else {
            while let Some((_, c)) = chars.next_if(|(_, c)| !c.is_whitespace()) {
                match c {
                    // A lone backslash at the very end is dropped, as libpq does.
                    '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
                    c => value.push(c),
                }
            }
        }
        pairs.push((keyword, value));
    }
}

/// `[user[:password]@][host[:port][,...]][/dbname][?keyword=value[&...]]`
fn split_url(rest: &str) -> Result<Pairs, DsnError> {
    let (before_query, query) = match rest.split_once('?') {
        Some((before, query)) => (before, Some(query)),
        None => (rest, None),
    };
    let (authority, dbname) = match before_query.split_once('/') {
        Some((authority, dbname)) => (authority, Some(dbname)),
        None => (before_query, None),
    };
    let (credentials, hosts) = match authority.rsplit_once('@') {
        Some((credentials, hosts)) => (Some(credentials), hosts),
        None => (None, authority),
    };

    let mut pairs = Vec::new();
    let mut push = |keyword: &str, value: String| {
        if !value.is_empty() {
            pairs.push((keyword.to_owned(), value));
        }
    };
    if let Some(credentials) = credentials {
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (credentials, None),
        };
        push("user", decode(user, "user name")?);
        if let Some(password) = password {
            push("password", decode(password, "password")?);
        }
    }

    let mut names = Vec::new();
    let mut ports = Vec::new();
    for element in hosts.split(',') {
        let (name, port) = if let Some(bracketed) = element.strip_prefix('[') {
            let (address, after) = bracketed.split_once(']').ok_or(DsnError::Ipv6)?;
            let port = match after.strip_prefix(':') {
                Some(port) => port,
                None if after.is_empty() => "",
                None => return Err(DsnError::Ipv6),
            };
            (address, port)
        } else {
            element.split_once(':').unwrap_or((element, ""))
        };
        names.push(decode(name, "host")?);
        ports.push(decode(port, "port")?);
    }
    if names.iter().any(|name| !name.is_empty()) {
        push("host", names.join(","));
    }
    if ports.iter().any(|port| !port.is_empty()) {
        push("port", ports.join(","));
    }
    if let Some(dbname) = dbname {
        push("dbname", decode(dbname, "database name")?);
    }

    for parameter in query
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter(|parameter| !parameter.is_empty())
    {
        let (keyword, value) = match parameter.split_once('=') {
            Some((keyword, value)) => (decode(keyword, "query")?, decode(value, "query")?),
            None => {
                return Err(DsnError::MissingValue { keyword: decode(parameter, "query")? });
            }
        };
        // JDBC's spelling, which libpq accepts too.
        if keyword == "ssl" && value == "true" {
            pairs.push(("sslmode".to_owned(), "require".to_owned()));
        } else {
            pairs.push((keyword, value));
        }
    }
    Ok(pairs)
}

fn decode(text: &str, part: &'static str) -> Result<String, DsnError> {
    // `percent_decode_str` passes a malformed escape through; libpq refuses it, and a password
    // that silently differs from the intended one is worse than an error.
    let bytes = text.as_bytes();
    let malformed = bytes.iter().enumerate().any(|(at, byte)| {
        *byte == b'%'
            && !bytes
                .get(at + 1..at + 3)
                .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit) && hex != b"00")
    });
    if malformed {
        return Err(DsnError::Encoding { part });
    }
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(DsnError::Encoding { part }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        split(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn owned(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect()
    }

    #[test]
    fn keyword_form_with_quotes_and_escapes() {
        assert_eq!(
            pairs(r"  host = 'a b' password='it\'s \\ here' user=x\ y dbname= "),
            owned(&[
                ("host", "a b"),
                ("password", r"it's \ here"),
                ("user", "x y"),
                ("dbname", ""),
            ])
        );
        assert_eq!(split("host=a secret"), Err(DsnError::MissingEquals { offset: 7 }));
        assert_eq!(split("password='abc"), Err(DsnError::OpenQuote { offset: 9 }));
    }

    #[test]
    fn url_form() {
        assert_eq!(
            pairs(
                "postgresql://us%40er:p%3Aw%2F@h1:1,[::1]:2,h3/d%20b?sslmode=require&options=-c%20a%3Db"
            ),
            owned(&[
                ("user", "us@er"),
                ("password", "p:w/"),
                ("host", "h1,::1,h3"),
                ("port", "1,2,"),
                ("dbname", "d b"),
                ("sslmode", "require"),
                ("options", "-c a=b"),
            ])
        );
        assert_eq!(
            pairs("postgres://%2Frun%2Fpg/db"),
            owned(&[("host", "/run/pg"), ("dbname", "db")])
        );
        assert_eq!(
            pairs("postgres:///db?host=/run/pg&port=5433&ssl=true"),
            owned(&[
                ("dbname", "db"),
                ("host", "/run/pg"),
                ("port", "5433"),
                ("sslmode", "require"),
            ])
        );
        assert!(pairs("postgres://").is_empty());
        assert_eq!(split("postgres://u:%zz@h"), Err(DsnError::Encoding { part: "password" }));
        assert_eq!(split("postgres://[::1"), Err(DsnError::Ipv6));
    }
}
