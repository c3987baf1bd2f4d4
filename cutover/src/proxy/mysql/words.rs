//! Words in statements that say what no server tells about a session. Found too often they do no
//! harm; what routines on the server do without being named is not found.

use std::ops::Range;

/// What a statement says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// It may take a lock of the server's (`GET_LOCK`).
    pub locks: bool,
    /// It asks for something about the statement before it.
    pub about_last: bool,
    /// It may change what names and literals of later statements mean.
    pub meaning: bool,
    /// It sets something for the next transaction only (`SET TRANSACTION ..`), or is that transaction or
    /// begins it. `None`: neither, so what was set before still waits.
    pub next_transaction: Option<bool>,
    /// It may make the server forget what it has counted.
    pub forgets: bool,
}

/// What `SET` may set that changes what later statements mean.
const SETTINGS: [&str; 8] = [
    "names",
    "charset",
    "character",
    "sql_mode",
    "character_set_client",
    "character_set_connection",
    "collation_connection",
    "lower_case_table_names",
];

/// What `SET @@..` sets for the next transaction only. Named without `@@`, or with a scope, it is the
/// session's.
const FOR_NEXT: [&str; 4] =
    ["transaction_isolation", "transaction_read_only", "tx_isolation", "tx_read_only"];

/// Statements that use no table, which therefore are no transaction. A SELECT is one if it names tables.
const NO_TRANSACTION: [&str; 9] =
    ["set", "show", "use", "do", "help", "kill", "select", "prepare", "deallocate"];

/// Looks through a statement, or several.
pub(super) fn look(sql: &[u8]) -> Said {
    let mut said = Said::default();
    let mut lexer = Lexer { sql, at: 0, quote: None, comment: None };
    // The first words of the statement that the lexer is in.
    let mut words: [&[u8]; 2] = [b"", b""];
    let mut count = 0;
    // Who asks about the statement before it means one of the same message.
    let mut is_later = false;
    // What the statement that the lexer is in says about the next transaction.
    let mut next = None;
    while let Some(token) = lexer.next() {
        let Token { word, quoted, before, behind } = token;
        let is = |text: &str| word.eq_ignore_ascii_case(text.as_bytes());
        if word == b";" {
            if !quoted {
                is_later |= count > 0;
                count = 0;
                said.next_transaction = next.take().or(said.next_transaction);
            }
            continue;
        }
        said.locks |= is("get_lock");
        said.forgets |= is("flush");
        let asks = behind == Some(b'(') && (is("found_rows") || is("row_count"))
            || matches!(before, [.., b'@' | b'.']) && (is("warning_count") || is("error_count"));
        said.about_last |= asks && !is_later;
        if quoted || count == 0 && word.iter().all(u8::is_ascii_digit) {
            continue;
        }
        if count < 2 {
            words[count] = word;
        }
        count += 1;
        let first = |text: &str| words[0].eq_ignore_ascii_case(text.as_bytes());
        let after_show = first("show") && count > 1 && (is("warnings") || is("errors"));
        let asks = after_show || first("get") && is("diagnostics");
        said.about_last |= asks && !is_later;
        let sets = first("set") && SETTINGS.iter().any(|text| is(text));
        said.meaning |= sets || count == 1 && is("use");
        let second = |text: &str| words[1].eq_ignore_ascii_case(text.as_bytes());
        let assigns = before == b"@@" && matches!(behind, Some(b'=' | b':'));
        let is_for_next = count == 2 && is("transaction")
            || count > 1 && assigns && FOR_NEXT.iter().any(|text| is(text));
        if first("set") && is_for_next {
            next = Some(true);
        } else if count == 1 && !NO_TRANSACTION.iter().any(|text| is(text))
            || first("select") && is("from")
            // MariaDB: settings for one statement, which follows.
            || count == 2 && first("set") && second("statement")
        {
            next = Some(false);
        }
    }
    said.next_transaction = next.or(said.next_transaction);
    said
}

/// `KILL [HARD | SOFT] [CONNECTION | QUERY] number`: where the number is, and what it is.
pub(super) fn killed(sql: &[u8]) -> Option<(Range<usize>, u32)> {
    const LONGEST: usize = 100;
    if sql.len() > LONGEST {
        return None;
    }
    let text = std::str::from_utf8(sql).ok()?;
    let end = text.trim_end_matches(|c: char| c == ';' || c.is_ascii_whitespace()).len();
    let begin = text[..end].trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let mut words = text[..begin].split_ascii_whitespace();
    let is_kill = words.next()?.eq_ignore_ascii_case("kill")
        && words.all(|word| {
            ["hard", "soft", "connection", "query"]
                .iter()
                .any(|known| word.eq_ignore_ascii_case(known))
        });
    let number = text[begin..end].parse().ok()?;
    is_kill.then_some((begin..end, number))
}

/// A word or a semicolon.
struct Token<'a> {
    word: &'a [u8],
    /// Within quotes or a comment, as far as can be told without the session's settings.
    quoted: bool,
    /// Up to two bytes before it, and the first one behind it that is no space.
    before: &'a [u8],
    behind: Option<u8>,
}

struct Lexer<'a> {
    sql: &'a [u8],
    at: usize,
    quote: Option<u8>,
    /// Up to the end of the line, or to `*/`.
    comment: Option<bool>,
}

fn is_word(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || *byte == b'_' || *byte == b'$' || !byte.is_ascii()
}

impl<'a> Lexer<'a> {
    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let rest = self.sql.get(self.at..).filter(|rest| !rest.is_empty())?;
            let byte = rest[0];
            if is_word(&byte) || byte == b';' {
                let length = match byte {
                    b';' => 1,
                    _ => rest.iter().position(|byte| !is_word(byte)).unwrap_or(rest.len()),
                };
                let before = &self.sql[self.at.saturating_sub(2)..self.at];
                self.at += length;
                let behind = rest[length..].iter().find(|byte| !byte.is_ascii_whitespace());
                return Some(Token {
                    word: &rest[..length],
                    quoted: self.quote.is_some() || self.comment.is_some(),
                    before,
                    behind: behind.copied(),
                });
            }
            self.at += self.skip(rest, byte);
        }
    }

    /// Over what is no word.
    fn skip(&mut self, rest: &[u8], byte: u8) -> usize {
        match (self.quote, self.comment) {
            (Some(quote), _) => {
                if byte == b'\\' && quote != b'`' {
                    return 2;
                }
                if byte == quote {
                    self.quote = None;
                }
            }
            (_, Some(to_line_end)) => {
                if to_line_end && byte == b'\n' {
                    self.comment = None;
                } else if !to_line_end && rest.starts_with(b"*/") {
                    self.comment = None;
                    return 2;
                }
            }
            _ if rest.starts_with(b"/*") && !rest[2..].starts_with(b"!") => {
                // What is executed by one of the two families is looked at as a statement.
                if !rest[2..].starts_with(b"M!") {
                    self.comment = Some(false);
                }
                return 2;
            }
            _ if byte == b'#' || rest.starts_with(b"--") => self.comment = Some(true),
            _ if matches!(byte, b'\'' | b'"' | b'`') => self.quote = Some(byte),
            _ => {}
        }
        1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_statements_say_nothing() {
        for sql in [
            "SELECT * FROM warnings, errors WHERE names_of = 'x'",
            "UPDATE t SET transaction = 1, a = 'set transaction'",
            "INSERT INTO locks (get_locks) VALUES ('it''s; USE x')",
            "SET autocommit = 0",
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "SET TRANSACTION READ ONLY; SELECT 1",
            "SET TRANSACTION READ ONLY; BEGIN;",
            "SHOW TABLES",
            "INSERT INTO t VALUES (1); SELECT ROW_COUNT(), LAST_INSERT_ID()",
            "DELETE FROM t; SHOW WARNINGS",
            "",
        ] {
            let said = Said { next_transaction: None, ..look(sql.as_bytes()) };
            assert_eq!(said, Said::default(), "{sql}");
        }
    }

    #[test]
    fn who_is_to_be_killed_is_found() {
        assert_eq!(killed(b"KILL 7"), Some((5..6, 7)));
        assert_eq!(killed(b"kill query 1234 ; "), Some((11..15, 1234)));
        assert_eq!(killed(b"KILL HARD CONNECTION 5"), Some((21..22, 5)));
        for sql in ["KILL QUERY ID 7", "KILL 'x' 7", "KILL", "SELECT 7", "", "KILL 99999999999"] {
            assert_eq!(killed(sql.as_bytes()), None, "{sql}");
        }
    }

    #[test]
    fn what_counts_is_found_however_it_is_written() {
        let said = |sql: &str| look(sql.as_bytes());
        for sql in
            ["select get_lock('a', 1)", "DO `GET_LOCK`('a', 1)", "select 'a\\'', Get_Lock(1)"]
        {
            assert!(said(sql).locks, "{sql}");
        }
        for sql in [
            "SELECT FOUND_ROWS()",
            "; SELECT ROW_COUNT(); INSERT INTO t VALUES (1)",
            "select row_count ()",
            "SHOW WARNINGS LIMIT 1",
            "show count(*) errors",
            "SELECT @@warning_count",
            "SELECT @@session.error_count",
            "/* app */ GET DIAGNOSTICS @n = NUMBER",
        ] {
            assert!(said(sql).about_last, "{sql}");
        }
        for sql in [
            "USE shop",
            "select 1; use shop",
            "SET NAMES utf8mb4",
            "set @@sql_mode = ''",
            "SET character_set_client = latin1, autocommit = 1",
            "/*!40101 SET CHARACTER SET utf8 */",
        ] {
            assert!(said(sql).meaning, "{sql}");
        }
        for sql in [
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "-- why\n/* who */ set\ttransaction read only;",
            "select 1; SET TRANSACTION READ WRITE ; ",
            "/*!40100 SET TRANSACTION READ ONLY */",
            "SET @@transaction_isolation = 'SERIALIZABLE'",
            "SET autocommit = 1, @@tx_read_only:=1",
            "SET TRANSACTION READ ONLY; SELECT 1, 'from'; SHOW TABLES",
        ] {
            assert_eq!(said(sql).next_transaction, Some(true), "{sql}");
        }
        for sql in [
            "SELECT 1",
            "SET SESSION TRANSACTION READ ONLY",
            "SET @@session.transaction_isolation = 'SERIALIZABLE'",
            "SET transaction_isolation = 'SERIALIZABLE', @transaction_isolation = 1",
            "SET @was = @@transaction_isolation",
            "PREPARE s FROM 'select 1'",
            "/* nothing */",
            "",
        ] {
            assert_eq!(said(sql).next_transaction, None, "{sql}");
        }
        for sql in [
            "SELECT a FROM t",
            "BEGIN",
            "SET TRANSACTION READ ONLY; BEGIN;",
            "SET TRANSACTION READ ONLY; SELECT a FROM t; SELECT 1",
            "SET STATEMENT max_statement_time = 1 FOR DELETE FROM t",
            "INSERT INTO t VALUES ('set transaction')",
        ] {
            assert_eq!(said(sql).next_transaction, Some(false), "{sql}");
        }
        assert!(said("FLUSH STATUS").forgets);
    }
}
