//! The grammar of conditions.
//!
//! ```text
//! any      := all { OR all }
//! all      := one { AND one }
//! one      := NOT one | '(' any ')' | TRUE | FALSE | operand [ test ]
//! test     := ( = | <> | != | < | <= | > | >= ) operand
//!           | IS [ NOT ] NULL
//!           | [ NOT ] IN '(' operand { , operand } ')'
//!           | [ NOT ] BETWEEN operand AND operand
//!           | [ NOT ] LIKE string
//! operand  := name | "name" | `name` | 'string' | number | TRUE | FALSE
//! ```

/// Longest condition, in bytes.
const BYTES_MAX: usize = 16 << 10;
/// Deepest nesting of parentheses and NOT.
const DEPTH_MAX: usize = 64;

/// What a condition says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// One of them holds.
    Any(Vec<Condition>),
    /// All of them hold.
    All(Vec<Condition>),
    /// It does not hold.
    Not(Box<Condition>),
    /// A value that is true or false by itself.
    Is(Operand),
    /// Two values beside each other.
    Compare(Operand, Comparison, Operand),
    /// A value is NULL.
    IsNull(Operand),
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operand {
    /// A column; `quoted`: its name is exactly this.
    Column {
        /// As it was written.
        name: String,
        /// Between quotes.
        quoted: bool,
    },
    /// A string, without its quotes.
    Text(String),
    /// A decimal number, with its sign.
    Number(String),
    /// TRUE or FALSE.
    Bool(bool),
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<>`
    Unequal,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// LIKE
    Like,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Quoted(String),
    Text(String),
    Number(String),
    Sign(&'static str),
}

/// Longer signs before those that they begin with.
const SIGNS: [&str; 12] = ["<>", "!=", "<=", ">=", "<", ">", "=", "(", ")", ",", "-", "+"];
const RESERVED: [&str; 10] =
    ["and", "or", "not", "in", "is", "null", "like", "between", "true", "false"];

impl Condition {
    /// Reads a condition.
    ///
    /// # Errors
    /// What can't be read, one clause.
    pub fn read(text: &str) -> Result<Self, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("it is longer than {BYTES_MAX} bytes"));
        }
        let mut reader = Reader { tokens: tokens(text)?, at: 0, depth: 0 };
        let condition = reader.any()?;
        match reader.peek() {
            None => Ok(condition),
            Some(token) => Err(unexpected(Some(token), "the end, AND or OR")),
        }
    }
}

fn unexpected(found: Option<&Token>, wanted: &str) -> String {
    let found = match found {
        None => "it ends".to_owned(),
        Some(Token::Word(word)) => format!("{word} stands"),
        Some(Token::Quoted(name)) => format!("the name {name:?} stands"),
        Some(Token::Text(_)) => "a string stands".to_owned(),
        Some(Token::Number(number)) => format!("{number} stands"),
        Some(Token::Sign(sign)) => format!("{sign} stands"),
    };
    format!(
        "{found} where {wanted} was expected: only columns, literals, comparisons, AND, OR, NOT, IN, \
             BETWEEN, LIKE and IS NULL are taken"
    )
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, left) = match first {
            '\'' => quoted(rest, '\'').map(|(text, left)| (Token::Text(text), left))?,
            '"' | '`' => quoted(rest, first).map(|(name, left)| (Token::Quoted(name), left))?,
            '0'..='9' => number(rest)?,
            letter if letter == '_' || letter.is_alphabetic() => {
                let is_part = |c: char| c == '_' || c == '$' || c.is_alphanumeric();
                let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
                let (word, left) = rest.split_at(end);
                if left.starts_with(['\'', '"', '`']) {
                    return Err(format!("a quote stands right behind {word}"));
                }
                (Token::Word(word.to_owned()), left)
            }
            _ => {
                let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign));
                let sign = sign.ok_or_else(|| format!("{first:?} is not taken"))?;
                (Token::Sign(sign), &rest[sign.len()..])
            }
        };
        tokens.push(token);
        rest = left.trim_start();
    }
    Ok(tokens)
}

/// What stands between quotes, in which a doubled quote is one.
fn quoted(text: &str, quote: char) -> Result<(String, &str), String> {
    let mut inside = String::new();
    let mut rest = &text[quote.len_utf8()..];
    loop {
        let (before, behind) = rest.split_once(quote).ok_or("a quote is not closed")?;
        if before.contains('\0') {
            return Err("a zero byte is not taken".into());
        }
        inside.push_str(before);
        match behind.strip_prefix(quote) {
            Some(more) => {
                inside.push(quote);
                rest = more;
            }
            None => return Ok((inside, behind)),
        }
    }
}

fn number(text: &str) -> Result<(Token, &str), String> {
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let mut end = digits(text);
    if let Some(fraction) = text[end..].strip_prefix('.') {
        let more = digits(fraction);
        if more == 0 {
            return Err("a number ends with a point".into());
        }
        end += 1 + more;
    }
    let (number, left) = text.split_at(end);
    if left.starts_with(|c: char| c == '_' || c == '.' || c.is_alphanumeric()) {
        return Err(format!("a word begins right behind {number}"));
    }
    Ok((Token::Number(number.to_owned()), left))
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Reader {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn takes_word(&mut self, word: &str) -> bool {
        let is_it = matches!(self.peek(), Some(Token::Word(w)) if w.eq_ignore_ascii_case(word));
        self.at += usize::from(is_it);
        is_it
    }

    fn takes_sign(&mut self, sign: &str) -> bool {
        let is_it = matches!(self.peek(), Some(Token::Sign(s)) if *s == sign);
        self.at += usize::from(is_it);
        is_it
    }

    fn demand(&mut self, taken: bool, wanted: &str) -> Result<(), String> {
        if taken { Ok(()) } else { Err(unexpected(self.peek(), wanted)) }
    }

    fn any(&mut self) -> Result<Condition, String> {
        let mut parts = vec![self.all()?];
        while self.takes_word("or") {
            parts.push(self.all()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Condition::Any(parts) })
    }

    fn all(&mut self) -> Result<Condition, String> {
        let mut parts = vec![self.one()?];
        while self.takes_word("and") {
            parts.push(self.one()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Condition::All(parts) })
    }

    fn one(&mut self) -> Result<Condition, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err("it is nested too deep".into());
        }
        let condition = if self.takes_word("not") {
            Condition::Not(Box::new(self.one()?))
        } else if self.takes_sign("(") {
            let inside = self.any()?;
            let closed = self.takes_sign(")");
            self.demand(closed, "AND, OR or a closing parenthesis")?;
            inside
        } else {
            let operand = self.operand()?;
            self.test(operand)?
        };
        self.depth -= 1;
        Ok(condition)
    }

    fn test(&mut self, left: Operand) -> Result<Condition, String> {
        let comparison = match self.peek() {
            Some(Token::Sign("=")) => Some(Comparison::Equal),
            Some(Token::Sign("<>" | "!=")) => Some(Comparison::Unequal),
            Some(Token::Sign("<")) => Some(Comparison::Less),
            Some(Token::Sign("<=")) => Some(Comparison::LessOrEqual),
            Some(Token::Sign(">")) => Some(Comparison::Greater),
            Some(Token::Sign(">=")) => Some(Comparison::GreaterOrEqual),
            _ => None,
        };
        if let Some(comparison) = comparison {
            self.at += 1;
            return Ok(Condition::Compare(left, comparison, self.operand()?));
        }
        if self.takes_word("is") {
            let is_not = self.takes_word("not");
            let null = self.takes_word("null");
            self.demand(null, "NULL")?;
            return Ok(negated(is_not, Condition::IsNull(left)));
        }
        let is_not = self.takes_word("not");
        if self.takes_word("in") {
            return self.list(left).map(|list| negated(is_not, list));
        }
        if self.takes_word("between") {
            let low = self.operand()?;
            let and = self.takes_word("and");
            self.demand(and, "AND")?;
            let high = self.operand()?;
            let between = Condition::All(vec![
                Condition::Compare(left.clone(), Comparison::GreaterOrEqual, low),
                Condition::Compare(left, Comparison::LessOrEqual, high),
            ]);
            return Ok(negated(is_not, between));
        }
        if self.takes_word("like") {
            return match self.operand()? {
                pattern @ Operand::Text(_) => {
                    Ok(negated(is_not, Condition::Compare(left, Comparison::Like, pattern)))
                }
                _ => Err("LIKE takes a string".into()),
            };
        }
        self.demand(!is_not, "IN, BETWEEN or LIKE")?;
        match left {
            Operand::Column { .. } | Operand::Bool(_) => Ok(Condition::Is(left)),
            _ => Err(unexpected(self.peek(), "a comparison")),
        }
    }

    fn list(&mut self, left: Operand) -> Result<Condition, String> {
        let opened = self.takes_sign("(");
        self.demand(opened, "an opening parenthesis")?;
        let mut equal = Vec::new();
        loop {
            equal.push(Condition::Compare(left.clone(), Comparison::Equal, self.operand()?));
            if self.takes_sign(")") {
                return Ok(Condition::Any(equal));
            }
            let comma = self.takes_sign(",");
            self.demand(comma, "a comma or a closing parenthesis")?;
        }
    }

    fn operand(&mut self) -> Result<Operand, String> {
        const WANTED: &str = "a column or a literal";
        let negative = match self.takes_sign("-") {
            true => Some("-"),
            false => self.takes_sign("+").then_some(""),
        };
        match (negative, self.next()) {
            (sign, Some(Token::Number(number))) => {
                Ok(Operand::Number(format!("{}{number}", sign.unwrap_or_default())))
            }
            (Some(_), other) => Err(unexpected(other.as_ref(), "a number")),
            (None, Some(Token::Text(text))) => Ok(Operand::Text(text)),
            (None, Some(Token::Quoted(name))) if !name.is_empty() => {
                Ok(Operand::Column { name, quoted: true })
            }
            (None, Some(Token::Word(word))) => match word.to_ascii_lowercase().as_str() {
                "true" => Ok(Operand::Bool(true)),
                "false" => Ok(Operand::Bool(false)),
                reserved if RESERVED.contains(&reserved) => {
                    Err(unexpected(Some(&Token::Word(word)), WANTED))
                }
                _ => Ok(Operand::Column { name: word, quoted: false }),
            },
            (None, other) => Err(unexpected(other.as_ref(), WANTED)),
        }
    }
}

fn negated(is_not: bool, condition: Condition) -> Condition {
    if is_not { Condition::Not(Box::new(condition)) } else { condition }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken() {
        for fine in [
            "id > 1",
            "(a = 1 OR b = 'it''s; (') AND \"x)\" IN (1, 2)",
            "v LIKE '\\_%' AND a > -1.5",
            "type = 'x'",
            "true",
            "NOT deleted",
            "a NOT IN ('x') or not (b is not null)",
            "a between 1 and 2 and b not between '2020-01-01' and '2021-01-01'",
            "`from` != \"to\"",
        ] {
            assert!(Condition::read(fine).is_ok(), "{fine}: {:?}", Condition::read(fine));
        }
    }

    /// Nothing that could call a function, select, cast, or end the statement.
    #[test]
    fn what_is_not_taken() {
        let deep = format!("{}true", "(".repeat(100));
        let long = format!("a = '{}'", "x".repeat(BYTES_MAX));
        for wrong in [
            "",
            "true); DROP TABLE t; SELECT (true",
            "true) OR (true",
            "true -- ",
            "true /* ",
            "v = $$)$$",
            "v = E'\\' OR (",
            "v = 'open",
            "(a = 1",
            "set_config('x', 'y', false) = 'y'",
            "pg_sleep(1) IS NULL",
            "a = (SELECT 1)",
            "a IN (SELECT 1)",
            "EXISTS (SELECT 1)",
            "a = 'x'::regclass",
            "a OPERATOR(public.=) 1",
            "a = 1 COLLATE \"C\"",
            "a ~ 'x'",
            "a || 'x' = 'y'",
            "t.a = 1",
            "a = CAST(1 AS int)",
            "a = 1; SELECT 1",
            "a = U&'x'",
            "a = 0x1F",
            "a = 1e9",
            "1 = 1, 2",
            "a LIKE b",
            "'x'",
            "a = and",
            "\"\" = 1",
            "a = 'x\0'",
            "a = @@version",
            "a # = 1",
            &deep,
            &long,
        ] {
            assert!(Condition::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn and_binds_closer_than_or() {
        let Ok(Condition::Any(parts)) = Condition::read("a = 1 OR b = 2 AND c = 3") else {
            panic!("no OR on top")
        };
        assert!(matches!(parts[1], Condition::All(_)), "{parts:?}");
    }
}
