//! SQL as words, names and marks: enough to see what a statement does and to what.

/// A piece of a statement.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Token {
    /// A bare word as it is written; a keyword or a name.
    Word(String),
    /// A name in backticks, or in double quotes where they are for names.
    Name(String),
    /// A literal in quotes, its bytes as written.
    Text(String),
    /// Any other character.
    Mark(char),
}

impl Token {
    /// Whether it is this keyword (given in upper case).
    pub(super) fn is(&self, keyword: &str) -> bool {
        matches!(self, Token::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    /// The name that it stands for, where a name is expected.
    pub(super) fn name(&self) -> Option<&str> {
        match self {
            Token::Word(name) | Token::Name(name) => Some(name),
            _ => None,
        }
    }
}

/// What a session's `sql_mode` makes of quotes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Dialect {
    /// ANSI_QUOTES: names in double quotes, which hold literals otherwise.
    ansi_quotes: bool,
    /// NO_BACKSLASH_ESCAPES.
    plain_backslashes: bool,
}

impl Dialect {
    /// By the bits that the binlog has (`sql/query_options.h`; the same in both families).
    pub(super) fn of(sql_mode: Option<u64>) -> Dialect {
        let mode = sql_mode.unwrap_or_default();
        Dialect { ansi_quotes: mode & 4 != 0, plain_backslashes: mode & (1 << 20) != 0 }
    }
}

/// The first `most` tokens. Comments are left out, except for those whose content servers execute
/// (`/*! .. */`, `/*M! .. */`), of which only the frame is.
pub(super) fn tokens(sql: &str, most: usize, dialect: Dialect) -> Vec<Token> {
    read(sql, most, dialect, false)
}

/// The same without what only some servers execute.
pub(super) fn tokens_for_all(sql: &str, most: usize, dialect: Dialect) -> Vec<Token> {
    read(sql, most, dialect, true)
}

fn read(sql: &str, most: usize, dialect: Dialect, only_for_all: bool) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = sql.trim_start();
    while tokens.len() < most && !rest.is_empty() {
        let (token, after) = next(rest, dialect, only_for_all);
        tokens.extend(token);
        rest = after.trim_start();
    }
    tokens
}

/// Whether there may be a comment that only some servers execute. A literal that looks like one counts as
/// well.
pub(super) fn is_conditional(sql: &str) -> bool {
    sql.contains("/*M!") || sql.split("/*!").skip(1).any(|rest| !is_for_all(number(rest)))
}

/// The digits that it begins with.
fn number(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len())]
}

/// Whether every server that is supported executes a comment with this number, or with none. MariaDB does
/// not execute those of MySQL 5.7 and later, and a number has six digits at most.
fn is_for_all(number: &str) -> bool {
    const KNOWN_TO_ALL: u32 = 50_699;
    number.is_empty()
        || (number.len() <= 6 && number.parse().is_ok_and(|number: u32| number <= KNOWN_TO_ALL))
}

fn next(sql: &str, dialect: Dialect, only_for_all: bool) -> (Option<Token>, &str) {
    let first = sql.chars().next().unwrap_or_default();
    let of_mariadb = sql.strip_prefix("/*M!");
    if let Some(live) = of_mariadb.or_else(|| sql.strip_prefix("/*!")) {
        let number = number(live);
        let is_left_out = only_for_all && (of_mariadb.is_some() || !is_for_all(number));
        return (None, if is_left_out { behind_left_out(live) } else { &live[number.len()..] });
    }
    if let Some(end) = sql.strip_prefix("*/") {
        return (None, end);
    }
    if let Some(comment) = sql.strip_prefix("/*") {
        return (None, behind(comment, "*/"));
    }
    // The servers want a blank or a control character behind the dashes.
    let dashes = sql.strip_prefix("--").map(|rest| rest.chars().next());
    let is_blank = |c: char| c.is_ascii_whitespace() || c.is_ascii_control();
    if first == '#' || dashes.is_some_and(|c| c.is_none_or(is_blank)) {
        return (None, behind(sql, "\n"));
    }
    match first {
        '`' | '"' | '\'' => quoted(sql, first, dialect),
        _ if is_in_word(first) => {
            let end = sql.find(|c| !is_in_word(c)).unwrap_or(sql.len());
            (Some(Token::Word(sql[..end].to_owned())), &sql[end..])
        }
        _ => (Some(Token::Mark(first)), &sql[first.len_utf8()..]),
    }
}

fn behind<'a>(sql: &'a str, mark: &str) -> &'a str {
    sql.find(mark).map_or("", |at| &sql[at + mark.len()..])
}

/// What follows a comment of which this is the content, in a server that does not execute it: there may be
/// comments in it.
fn behind_left_out(mut content: &str) -> &str {
    loop {
        let end = content.find("*/").unwrap_or(content.len());
        match content.find("/*") {
            Some(inner) if inner < end => content = behind(&content[inner + 2..], "*/"),
            _ => return content.get(end + 2..).unwrap_or_default(),
        }
    }
}

/// Letters of unquoted names (manual, 11.2 Schema Object Names).
fn is_in_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '@') || c >= '\u{80}'
}

/// A quote inside is doubled; in a literal a backslash escapes too.
fn quoted(sql: &str, quote: char, dialect: Dialect) -> (Option<Token>, &str) {
    let is_text = quote == '\'' || (quote == '"' && !dialect.ansi_quotes);
    let escapes = is_text && !dialect.plain_backslashes;
    let mut content = String::new();
    let mut chars = sql.char_indices().skip(1).peekable();
    let mut end = sql.len();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && escapes {
            content.push(c);
            content.extend(chars.next().map(|(_, escaped)| escaped));
        } else if c != quote || chars.next_if(|(_, following)| *following == quote).is_some() {
            content.push(c);
        } else {
            end = at + 1;
            break;
        }
    }
    let token = if is_text { Token::Text(content) } else { Token::Name(content) };
    (Some(token), &sql[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_vanish_and_live_ones_open() {
        let sql = "/* a */ create -- b\n /*!50100 table */ # c\n `a``b`.\"x\" ('it''s\\'')";
        let mark = Token::Mark;
        let word = |text: &str| Token::Word(text.into());
        let expected = [
            word("create"),
            word("table"),
            Token::Name("a`b".into()),
            mark('.'),
            Token::Name("x".into()),
            mark('('),
            Token::Text("it's\\'".into()),
            mark(')'),
        ];
        let ansi = Dialect { ansi_quotes: true, plain_backslashes: false };
        let tokens = |sql: &str, most| tokens(sql, most, ansi);
        assert_eq!(tokens(sql, 99), expected);
        assert_eq!(tokens("größe-1", 99), [word("größe"), mark('-'), word("1")]);
        for broken in ["/* x", "'x", "`x", "--", "/*!", "'\\"] {
            tokens(broken, 9);
        }
    }

    #[test]
    fn what_only_some_servers_execute_can_be_left_out() {
        let sql =
            "a /*!99999 b /* c */ d */ e /*!50699 f */ /*M! g */ h /*!1234567 i */ j /*!99999 k";
        let words = |tokens: Vec<Token>| {
            let names = tokens.iter().filter_map(Token::name);
            names.collect::<Vec<_>>().join("")
        };
        assert_eq!(words(tokens(sql, 99, Dialect::default())), "abdefghijk");
        assert_eq!(words(tokens_for_all(sql, 99, Dialect::default())), "aefhj");
        assert!(is_conditional(sql) && !is_conditional("a /*!40005 b */ /*! c */ /* d */"));
        // The star that opens a comment does not close it.
        let sql = "/*/ a /*/ b --\r c\n d --e";
        assert_eq!(words(tokens(sql, 99, Dialect::default())), "bde");
    }

    #[test]
    fn quotes_mean_what_the_session_made_of_them() {
        let name = |text: &str| Token::Name(text.into());
        let text = |text: &str| Token::Text(text.into());
        let (ansi, no_escapes) = (Dialect::of(Some(4)), Dialect::of(Some(1 << 20)));
        assert_eq!(
            tokens(r#""a\"" "b""#, 9, ansi),
            [name(r#"a\" "#), Token::Word("b".into()), name("")]
        );
        assert_eq!(tokens(r#""a\"" 'b'"#, 9, Dialect::default()), [text(r#"a\""#), text("b")]);
        assert_eq!(tokens(r"'a\' 'b'", 9, no_escapes), [text(r"a\"), text("b")]);
    }
}
