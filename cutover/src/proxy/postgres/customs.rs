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
            } else if begins_comment(rest) {
                self.opaque = true;
            } else if rest.first().is_some_and(|byte| is_space(byte) || *byte == b'"') {
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

    /// `set_config('name', ..`. A name that is not wholly there as one literal is computed.
    fn call(&mut self, rest: &[u8]) {
        let rest = rest.strip_prefix(b"\"").unwrap_or(rest);
        if begins_comment(trim(rest)) {
            self.opaque = true;
            return;
        }
        // Another word, or no call.
        let Some(arguments) = trim(rest).strip_prefix(b"(") else { return };
        let Some(literal) = trim(arguments).strip_prefix(b"'") else {
            self.opaque = true;
            return;
        };
        let end = literal.iter().position(|byte| *byte == b'\'').unwrap_or(literal.len());
        let (name, behind) = literal.split_at(end);
        let behind = trim(behind.strip_prefix(b"'").unwrap_or(behind));
        let behind = behind.strip_prefix(b"::").map_or(behind, |cast| {
            let cast = trim(cast);
            trim(strip_word(cast, b"text").unwrap_or(cast))
        });
        if behind.first() != Some(&b',') || !name.iter().all(is_legal) {
            self.opaque = true;
        } else if name.contains(&b'.') {
            self.keep(name);
        }
    }

    /// `SET [SESSION] name = ..`, `SET name TO ..`.
    fn assignment(&mut self, rest: &[u8]) {
        let rest = trim(rest);
        let rest = strip_word(rest, b"session").filter(|rest| spaced(rest)).unwrap_or(rest);
        let rest = trim(rest);
        let part = |byte: &u8| is_legal(byte) || *byte == b'"' || !byte.is_ascii();
        let end = rest.iter().position(|byte| !part(byte)).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        // A name may be written in pieces, and with escapes (`U&"\0061pp"`).
        let behind = trim(behind);
        if begins_comment(behind) || matches!(behind.first(), Some(b'.' | b'&')) {
            self.opaque = true;
        } else if name.contains(&b'.') {
            self.keep(name);
        }
    }

    fn keep(&mut self, name: &[u8]) {
        let name: Vec<u8> = name.iter().copied().filter(|byte| *byte != b'"').collect();
        let is_plain = name.len() <= NAME_MAX && name.iter().all(is_legal);
        match String::from_utf8(name) {
            Ok(name) if is_plain => {
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
    rest.first().is_some_and(is_space)
}

/// White space as PostgreSQL's scanner knows it: also a vertical tab.
fn is_space(byte: &u8) -> bool {
    byte.is_ascii_whitespace() || *byte == 0x0b
}

fn trim(text: &[u8]) -> &[u8] {
    let begin = text.iter().position(|byte| !is_space(byte)).unwrap_or(text.len());
    &text[begin..]
}

/// What a comment hides is not looked for.
fn begins_comment(text: &[u8]) -> bool {
    text.starts_with(b"/*") || text.starts_with(b"--")
}

/// Of a name that needs no quotes.
fn is_legal(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._$".contains(byte)
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
        for sql in [
            "select set_config($1, $2, false)",
            "select set_config('app.' || x, $2, false)",
            "select set_config('app' || '.tenant', $1, false)",
            "select set_config('app.'\n'tenant', $1, false)",
            "select set_config('app''.x', $1, false)",
            "select set_config('app\\056tenant', $1, false)",
            "select set_config(E'app.\\x74', $1, false)",
            "select set_config(setting_name => 'app.x', new_value => $1, is_local => false)",
            "select set_config/**/('app.x', $1, false)",
            "select set_config(/**/'app.x', $1, false)",
            "SET/**/app.t = 1",
            "SET --\napp.t = 1",
            "set session/* */app.t to 1",
            "SET app/**/.t = 1",
            "SET app . t = 1",
            "SET U&\"\\0061pp\".t = 1",
            "SET größe.t = 1",
        ] {
            assert!(names(sql).1, "{sql}");
        }
    }

    #[test]
    fn every_way_to_write_a_name_is_understood() {
        for sql in [
            "SET\u{b}app.t = 1",
            "SET\"app\".\"t\" = 1",
            "select set_config('app.t'::text, $1, false)",
            "select set_config('app.t' :: text , $1, false)",
            "select pg_catalog.\"set_config\"('app.t', $1, false)",
        ] {
            assert_eq!(names(sql), (vec!["app.t".to_owned()], false), "{sql}");
        }
        for sql in ["SELECT 'a set', 'set.', set_configuration(x)", "UPDATE t SET (a, b) = (1, 2)"]
        {
            assert_eq!(names(sql), (vec![], false), "{sql}");
        }
    }
}
