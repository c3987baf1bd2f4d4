//! Names of custom settings (`app.tenant`) in the statements of a client.
//!
//! PostgreSQL lists no custom setting anywhere unless its extension is loaded (manual,
//! "pg_settings"), yet row security may hang on one. So the names are taken from the statements
//! that pass by; what they are worth is asked of the server before a move. A name too many does no
//! harm. What a function on the server sets without the client naming it is not found.

/// Names that are kept for one session.
const NAMES_MAX: usize = 64;
/// The longest name.
const NAME_MAX: usize = 128;

/// Custom settings that a session may have set.
#[derive(Debug, Default)]
pub(super) struct Customs {
    names: Vec<String>,
    /// A name was computed, or there were too many.
    opaque: bool,
}

impl Customs {
    /// Looks through a statement.
    pub fn look(&mut self, sql: &[u8]) {
        let mut at = 0;
        while let Some(found) = find_set(&sql[at..]) {
            at += found + 3;
            let rest = &sql[at..];
            if let Some(call) = strip_word(rest, b"_config") {
                self.call(call);
            } else if rest.first().is_some_and(u8::is_ascii_whitespace) {
                self.assignment(rest);
            }
        }
    }

    /// The names.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// There may be others.
    pub fn is_opaque(&self) -> bool {
        self.opaque
    }

    /// `set_config('name', ..`.
    fn call(&mut self, rest: &[u8]) {
        let Some(arguments) = rest.trim_ascii_start().strip_prefix(b"(") else { return };
        match arguments.trim_ascii_start().strip_prefix(b"'") {
            Some(literal) => {
                let end = literal.iter().position(|byte| *byte == b'\'').unwrap_or(literal.len());
                if literal[..end].contains(&b'.') {
                    self.keep(&literal[..end]);
                }
            }
            None => self.opaque = true,
        }
    }

    /// `SET [SESSION] name = ..`, `SET name TO ..`.
    fn assignment(&mut self, rest: &[u8]) {
        let rest = rest.trim_ascii_start();
        let rest = strip_word(rest, b"session").filter(|rest| spaced(rest)).unwrap_or(rest);
        let rest = rest.trim_ascii_start();
        let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"._$\"".contains(byte);
        let end = rest.iter().position(|byte| !legal(byte)).unwrap_or(rest.len());
        let name = &rest[..end];
        if name.contains(&b'.') {
            self.keep(name);
        }
    }

    fn keep(&mut self, name: &[u8]) {
        let name: Vec<u8> = name.iter().copied().filter(|byte| *byte != b'"').collect();
        let legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"._$".contains(byte);
        match String::from_utf8(name) {
            Ok(name) if name.len() <= NAME_MAX && name.bytes().all(|byte| legal(&byte)) => {
                if self.names.contains(&name) {
                } else if self.names.len() < NAMES_MAX {
                    self.names.push(name);
                } else {
                    self.opaque = true;
                }
            }
            _ => self.opaque = true,
        }
    }
}

/// Where `set` begins, in any case, at the beginning of a word.
fn find_set(sql: &[u8]) -> Option<usize> {
    let begins = |at: usize| {
        at == 0 || !(sql[at - 1].is_ascii_alphanumeric() || b"_$".contains(&sql[at - 1]))
    };
    sql.windows(3).enumerate().find_map(|(at, word)| {
        (word[0] | 0x20 == b's' && word.eq_ignore_ascii_case(b"set") && begins(at)).then_some(at)
    })
}

fn strip_word<'a>(text: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = text.split_at_checked(word.len())?;
    head.eq_ignore_ascii_case(word).then_some(rest)
}

fn spaced(rest: &[u8]) -> bool {
    rest.first().is_some_and(u8::is_ascii_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(sql: &str) -> (Vec<String>, bool) {
        let mut customs = Customs::default();
        customs.look(sql.as_bytes());
        (customs.names, customs.opaque)
    }

    #[test]
    fn names_are_found_where_they_are_set() {
        for (sql, found) in [
            ("SET app.tenant = '7'", vec!["app.tenant"]),
            ("begin; set session app.tenant to 7", vec!["app.tenant"]),
            ("SET \"app\".\"user\" = 'x'", vec!["app.user"]),
            ("select pg_catalog.set_config('app.user', $1, false)", vec!["app.user"]),
            ("select set_config ( 'work_mem', '1MB', false)", vec![]),
            ("SET search_path = app", vec![]),
            ("UPDATE t SET a = 1", vec![]),
            ("SELECT reset, offset.x FROM t", vec![]),
        ] {
            assert_eq!(names(sql), (found.into_iter().map(String::from).collect(), false), "{sql}");
        }
    }

    #[test]
    fn computed_names_are_noticed() {
        assert!(names("select set_config($1, $2, false)").1);
        assert!(names("select set_config('app.' || x, $2, false)").0 == ["app."]);
    }
}
