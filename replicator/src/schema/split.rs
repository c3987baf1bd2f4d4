//! An SQL script, cut into its statements.
//!
//! The rules are those of the server's lexer (PostgreSQL manual, 4.1 Lexical Structure) and, for
//! bodies written as `BEGIN ATOMIC .. END`, those of psql: a semicolon inside quotes, comments,
//! parentheses or such a body ends nothing.

/// One statement and what stands before it. All pieces joined are the script.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece<'a> {
    /// White space, comments and psql's meta-commands (`\restrict ..`) before the statement.
    pub before: &'a str,
    /// The statement with its semicolon. Empty only in the last piece.
    pub statement: &'a str,
}

/// Cuts a script. What is malformed (an open quote) goes to the end of the script.
pub fn split(script: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < script.len() {
        let start = skip_noise(script, at);
        let end = statement_end(script, start);
        pieces.push(Piece { before: &script[at..start], statement: &script[start..end] });
        at = end;
    }
    pieces
}

/// The line comments in what stands before a statement, without their dashes, in order.
pub fn line_comments(before: &str) -> impl Iterator<Item = &str> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < before.len() {
            let next = skip_one_noise(before, at).max(at + 1);
            let piece = before.get(at..next);
            at = next;
            if let Some(comment) = piece.and_then(|piece| piece.strip_prefix("--")) {
                return Some(comment.trim());
            }
        }
        None
    })
}

fn skip_noise(script: &str, mut at: usize) -> usize {
    loop {
        let next = skip_one_noise(script, at);
        if next == at {
            return at;
        }
        at = next;
    }
}

/// The end of one blank, comment or meta-command at `at`; `at` itself if there is none.
fn skip_one_noise(script: &str, at: usize) -> usize {
    let rest = &script.as_bytes()[at..];
    match rest {
        [b' ' | b'\t' | b'\n' | b'\r' | 0x0B | 0x0C, ..] => at + 1,
        [b'-', b'-', ..] | [b'\\', ..] => at + line_length(rest),
        [b'/', b'*', ..] => at + block_comment_length(rest),
        _ => at,
    }
}

fn line_length(rest: &[u8]) -> usize {
    rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())
}

/// Block comments nest.
fn block_comment_length(rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                at += 2;
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    rest.len()
}

/// The words that a routine's definition begins with, and the depth of its atomic body.
#[derive(Default)]
struct Routine {
    words: Vec<Word>,
    body_depth: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    Create,
    Or,
    Replace,
    Routine,
    Other,
}

impl Routine {
    fn is_definition(&self) -> bool {
        use Word::{Create, Or, Replace, Routine};
        self.words.starts_with(&[Create, Routine])
            || self.words.starts_with(&[Create, Or, Replace, Routine])
    }

    fn word(&mut self, word: &str, is_inside_parentheses: bool) {
        const PREFIX_WORDS: usize = 4;
        let is = |keyword: &str| word.eq_ignore_ascii_case(keyword);
        if self.words.len() < PREFIX_WORDS {
            self.words.push(match () {
                () if is("create") => Word::Create,
                () if is("or") => Word::Or,
                () if is("replace") => Word::Replace,
                () if is("function") || is("procedure") => Word::Routine,
                () => Word::Other,
            });
        }
        if !self.is_definition() || is_inside_parentheses {
            return;
        }
        // CASE ends with END too, but only inside a body does that END matter.
        if is("begin") || (is("case") && self.body_depth > 0) {
            self.body_depth += 1;
        } else if is("end") {
            self.body_depth = self.body_depth.saturating_sub(1);
        }
    }
}

fn statement_end(script: &str, start: usize) -> usize {
    let bytes = script.as_bytes();
    let mut at = start;
    let mut parentheses = 0_usize;
    let mut routine = Routine::default();
    while at < bytes.len() {
        let rest = &bytes[at..];
        match rest {
            [b';', ..] if parentheses == 0 && routine.body_depth == 0 => return at + 1,
            [b'(', ..] => {
                parentheses += 1;
                at += 1;
            }
            [b')', ..] => {
                parentheses = parentheses.saturating_sub(1);
                at += 1;
            }
            [b'\'', ..] => at += quoted_length(rest, false),
            [b'"', ..] => at += quoted_length(rest, false),
            [b'$', ..] => at += dollar_quoted_length(rest).unwrap_or(1),
            [b'-', b'-', ..] => at += line_length(rest),
            [b'/', b'*', ..] => at += block_comment_length(rest),
            [first, ..] if is_word_start(*first) => {
                let length = word_length(rest);
                let word = &script[at..at + length];
                at += length;
                if word.eq_ignore_ascii_case("e") && bytes.get(at) == Some(&b'\'') {
                    at += quoted_length(&bytes[at..], true);
                } else {
                    routine.word(word, parentheses > 0);
                }
            }
            // A number swallows its letters, so that `1$$` or `1e` opens nothing.
            [b'0'..=b'9', ..] => at += word_length(rest),
            _ => at += 1,
        }
    }
    bytes.len()
}

fn is_word_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

/// Identifiers go on with digits and dollar signs.
fn word_length(rest: &[u8]) -> usize {
    let is_part = |byte: &u8| is_word_start(*byte) || byte.is_ascii_digit() || *byte == b'$';
    rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len())
}

/// A doubled quote closes and opens again, which comes to the same; backslashes escape in `E''`.
fn quoted_length(rest: &[u8], has_escapes: bool) -> usize {
    let quote = rest[0];
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' if has_escapes => at += 2,
            byte if byte == quote && has_escapes && rest.get(at + 1) == Some(&quote) => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of `$tag$ .. $tag$`; `None` if this dollar sign opens nothing.
fn dollar_quoted_length(rest: &[u8]) -> Option<usize> {
    let is_tag = |byte: &u8| is_word_start(*byte) || byte.is_ascii_digit();
    let tag_length = rest[1..].iter().position(|byte| !is_tag(byte))?;
    if rest[1 + tag_length] != b'$' || (tag_length > 0 && !is_word_start(rest[1])) {
        return None;
    }
    let delimiter = &rest[..tag_length + 2];
    let body = &rest[delimiter.len()..];
    let close = body.windows(delimiter.len()).position(|window| window == delimiter);
    Some(close.map_or(rest.len(), |close| close + 2 * delimiter.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn statements(script: &str) -> Vec<&str> {
        split(script).iter().map(|piece| piece.statement).filter(|s| !s.is_empty()).collect()
    }

    #[test]
    fn semicolons_inside_something_end_nothing() {
        for whole in [
            "SELECT 'a;b';",
            "SELECT 'it''s; fine';",
            r"SELECT E'a\';b';",
            r"SELECT E'a'';b\\';",
            r"SELECT 'a\';",
            r#"SELECT "a;""b;" FROM "t;";"#,
            "SELECT $$a;'b$$;",
            "SELECT $x$a;$$;$y$;$x$;",
            "SELECT a$1$b; ",
            "SELECT $1, ';';",
            "SELECT 1 -- ; not here\n;",
            "SELECT 1 /* ; /* ; */ ; */;",
            "CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2);",
            "SELECT U&'d\\0061t;a';",
            "SELECT n'x;y', b'1;';",
        ] {
            assert_eq!(statements(whole), [whole.trim_end()], "{whole}");
        }
    }

    #[test]
    fn atomic_bodies_stay_together() {
        let body = "CREATE OR REPLACE FUNCTION \"begin\"(a int DEFAULT (1)) RETURNS int LANGUAGE sql\n\
             BEGIN ATOMIC\n SELECT CASE WHEN a > 1 THEN 2 ELSE 3 END;\n SELECT 1;\nEND;";
        let script = format!("{body}\nSELECT 1;");
        assert_eq!(statements(&script), [body, "SELECT 1;"]);
        // BEGIN means nothing outside of a routine.
        assert_eq!(statements("BEGIN; SELECT 1; END;"), ["BEGIN;", "SELECT 1;", "END;"]);
        let procedure =
            "CREATE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC INSERT INTO t VALUES (1); END;";
        assert_eq!(statements(procedure), [procedure]);
    }

    #[test]
    fn meta_commands_and_comments_stand_before() {
        let script = "\\restrict abc\n\n--\n-- Name: x; Type: TABLE; Schema: s; Owner: o\n--\n\nSELECT 1;\n\\unrestrict abc\n";
        let pieces = split(script);
        assert_eq!(pieces[0].statement, "SELECT 1;");
        let comments: Vec<&str> = line_comments(pieces[0].before).collect();
        assert_eq!(comments, ["", "Name: x; Type: TABLE; Schema: s; Owner: o", ""]);
        assert_eq!(pieces[1].statement, "");
    }

    #[test]
    fn open_ends_reach_the_end() {
        for open in ["SELECT 'a;", "SELECT \"a;", "SELECT $$a;", "SELECT /* a;", "SELECT (1;"] {
            assert_eq!(statements(open), [open]);
        }
    }

    proptest! {
        #[test]
        fn pieces_joined_are_the_script(script in r#"([a-zé1;'"$\\()\n /*-]|\$\$|E'|BEGIN |END|--)*"#) {
            let joined: String =
                split(&script).iter().flat_map(|piece| [piece.before, piece.statement]).collect();
            prop_assert_eq!(joined, script);
        }

        #[test]
        fn any_text_is_survived(script: String) {
            let joined: String =
                split(&script).iter().flat_map(|piece| [piece.before, piece.statement]).collect();
            prop_assert_eq!(joined, script);
        }

        #[test]
        fn quoted_statements_come_back_one_by_one(texts in prop::collection::vec("[^']{0,12}", 1..6)) {
            let all: Vec<String> = texts.iter().map(|text| format!("SELECT '{text}';")).collect();
            let script = all.join("\n");
            prop_assert_eq!(statements(&script), all);
        }
    }
}
