//! The statements on tables: `SELECT * | columns FROM table`, `UPDATE table SET ..`, `DELETE FROM table`,
//! `INSERT INTO table (columns) VALUES (..)`, with conditions `column=value` and `column IN (..)`. Nothing
//! else is understood.

use super::tables::{Table, Tables};

/// A piece of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Symbol(char),
}

/// A statement on a table.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Statement {
    /// No columns: all.
    Select {
        table: String,
        columns: Vec<String>,
        is: Vec<Condition>,
    },
    Update {
        table: String,
        set: Vec<(String, String)>,
        is: Vec<Condition>,
    },
    Delete {
        table: String,
        is: Vec<Condition>,
    },
    Insert {
        table: String,
        columns: Vec<String>,
        values: Vec<String>,
    },
}

/// A column, and the values that it may have.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Condition(String, Vec<String>);

fn tokens(sql: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = sql.trim().trim_end_matches(';').chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            c if c.is_whitespace() => {}
            '\'' => {
                let mut text = String::new();
                loop {
                    match rest.next() {
                        Some('\'') if rest.next_if_eq(&'\'').is_some() => text.push('\''),
                        Some('\'') => break,
                        Some(c) => text.push(c),
                        None => return Err("unrecognized token".into()),
                    }
                }
                tokens.push(Token::Text(text));
            }
            c if c.is_ascii_alphanumeric() || c == '_' => {
                let mut word = String::from(c);
                let more = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.');
                while let Some(c) = rest.next_if(more) {
                    word.push(c);
                }
                tokens.push(Token::Word(word));
            }
            '(' | ')' | ',' | '=' | '*' => tokens.push(Token::Symbol(c)),
            c => return Err(format!("unrecognized token: \"{c}\"")),
        }
    }
    Ok(tokens)
}

/// What is left to read.
struct Reader(std::iter::Peekable<std::vec::IntoIter<Token>>);

impl Reader {
    fn is(&mut self, keyword: &str) -> bool {
        let matches = |token: &Token| matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(keyword));
        self.0.next_if(matches).is_some()
    }

    fn symbol(&mut self, symbol: char) -> bool {
        self.0.next_if_eq(&Token::Symbol(symbol)).is_some()
    }

    fn need(&mut self, found: bool) -> Result<(), String> {
        found.then_some(()).ok_or_else(|| self.error())
    }

    fn error(&mut self) -> String {
        match self.0.peek() {
            Some(Token::Word(near) | Token::Text(near)) => format!("near \"{near}\": syntax error"),
            Some(Token::Symbol(near)) => format!("near \"{near}\": syntax error"),
            None => "incomplete input".into(),
        }
    }

    fn keyword(&mut self, keyword: &str) -> Result<(), String> {
        let found = self.is(keyword);
        self.need(found)
    }

    fn name(&mut self) -> Result<String, String> {
        match self.0.next_if(|token| matches!(token, Token::Word(_))) {
            Some(Token::Word(word)) => Ok(word),
            _ => Err(self.error()),
        }
    }

    fn value(&mut self) -> Result<String, String> {
        let is_value = |token: &Token| match token {
            Token::Text(_) => true,
            Token::Word(word) => word.chars().all(|c| c.is_ascii_digit()),
            Token::Symbol(_) => false,
        };
        match self.0.next_if(is_value) {
            Some(Token::Text(value) | Token::Word(value)) => Ok(value),
            _ => Err(self.error()),
        }
    }

    fn list<T>(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let mut all = vec![one(self)?];
        while self.symbol(',') {
            all.push(one(self)?);
        }
        Ok(all)
    }

    fn in_parentheses<T>(
        &mut self,
        one: impl FnMut(&mut Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        let open = self.symbol('(');
        self.need(open)?;
        let all = self.list(one)?;
        let close = self.symbol(')');
        self.need(close)?;
        Ok(all)
    }

    fn equals(&mut self) -> Result<(String, String), String> {
        let name = self.name()?;
        let equals = self.symbol('=');
        self.need(equals)?;
        Ok((name, self.value()?))
    }

    fn conditions(&mut self) -> Result<Vec<Condition>, String> {
        let mut all = Vec::new();
        if !self.is("WHERE") {
            return Ok(all);
        }
        loop {
            let name = self.name()?;
            let values = if self.is("IN") {
                self.in_parentheses(Self::value)?
            } else {
                let equals = self.symbol('=');
                self.need(equals)?;
                vec![self.value()?]
            };
            all.push(Condition(name, values));
            if !self.is("AND") {
                return Ok(all);
            }
        }
    }
}

/// Reads a statement.
pub(super) fn parse(sql: &str) -> Result<Statement, String> {
    let mut reader = Reader(tokens(sql)?.into_iter().peekable());
    let statement = if reader.is("SELECT") {
        let columns = match reader.symbol('*') {
            true => Vec::new(),
            false => reader.list(Reader::name)?,
        };
        reader.keyword("FROM")?;
        let table = reader.name()?;
        Statement::Select { table, columns, is: reader.conditions()? }
    } else if reader.is("UPDATE") {
        let table = reader.name()?;
        reader.keyword("SET")?;
        let set = reader.list(Reader::equals)?;
        Statement::Update { table, set, is: reader.conditions()? }
    } else if reader.is("DELETE") {
        reader.keyword("FROM")?;
        let table = reader.name()?;
        Statement::Delete { table, is: reader.conditions()? }
    } else {
        reader.keyword("INSERT")?;
        reader.keyword("INTO")?;
        let table = reader.name()?;
        let columns = reader.in_parentheses(Reader::name)?;
        reader.keyword("VALUES")?;
        Statement::Insert { table, columns, values: reader.in_parentheses(Reader::value)? }
    };
    let all = reader.0.peek().is_none();
    reader.need(all)?;
    Ok(statement)
}

/// Which rows meet all conditions.
fn chosen<'a>(
    columns: &'a [&'a str],
    is: &'a [Condition],
) -> Result<impl Fn(&[String]) -> bool + 'a, String> {
    let find = |name: &str| {
        let at = columns.iter().position(|column| column.eq_ignore_ascii_case(name));
        at.ok_or_else(|| format!("no such column: {name}"))
    };
    let mut checks = Vec::new();
    for Condition(name, values) in is {
        checks.push((find(name)?, values));
    }
    Ok(move |row: &[String]| checks.iter().all(|(at, values)| values.contains(&row[*at])))
}

/// Columns and rows of a SELECT.
pub(super) fn select(
    names: &[&str],
    rows: &[Vec<String>],
    columns: &[String],
    is: &[Condition],
) -> Result<(Vec<String>, Vec<Vec<String>>), String> {
    let chosen = chosen(names, is)?;
    let mut places = Vec::new();
    for column in columns {
        let at = names.iter().position(|name| name.eq_ignore_ascii_case(column));
        places.push(at.ok_or_else(|| format!("no such column: {column}"))?);
    }
    if columns.is_empty() {
        places = (0..names.len()).collect();
    }
    let row = |row: &Vec<String>| places.iter().map(|at| row[*at].clone()).collect();
    let rows = rows.iter().filter(|row| chosen(row)).map(row).collect();
    Ok((places.iter().map(|at| names[*at].to_owned()).collect(), rows))
}

/// Carries out a statement that writes. How many rows it has changed.
pub(super) fn write(tables: &mut Tables, statement: Statement) -> Result<u64, String> {
    let names = |table: &Table| table.columns.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    match statement {
        Statement::Update { table: name, set, is } => {
            let table = tables.get_mut(&name)?;
            let columns = names(table);
            let chosen = chosen(&columns, &is)?;
            let mut rows = table.rows.clone();
            let mut changed = 0;
            for row in rows.iter_mut().filter(|row| chosen(row)) {
                for (column, value) in &set {
                    row[table.at(column)?].clone_from(value);
                }
                changed += 1;
            }
            table.replace(&name, rows)?;
            Ok(changed)
        }
        Statement::Delete { table: name, is } => {
            let table = tables.get_mut(&name)?;
            let columns = names(table);
            let chosen = chosen(&columns, &is)?;
            let before = table.rows.len();
            let rows = table.rows.iter().filter(|row| !chosen(row)).cloned().collect();
            table.replace(&name, rows)?;
            Ok((before - table.rows.len()) as u64)
        }
        Statement::Insert { table: name, columns, values } => {
            let table = tables.get_mut(&name)?;
            if columns.len() != values.len() {
                return Err(format!("{} values for {} columns", values.len(), columns.len()));
            }
            let mut row = Vec::new();
            for (column, default) in table.columns {
                let given = columns.iter().position(|name| name.eq_ignore_ascii_case(column));
                let value = given.map(|at| values[at].as_str()).or(*default);
                let missing = || format!("NOT NULL constraint failed: {name}.{column}");
                row.push(value.ok_or_else(missing)?.to_owned());
            }
            for column in &columns {
                table.at(column)?;
            }
            let mut rows = table.rows.clone();
            rows.push(row);
            table.replace(&name, rows)?;
            Ok(1)
        }
        Statement::Select { .. } => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(column: &str, values: &[&str]) -> Condition {
        Condition(column.into(), values.iter().map(|value| (*value).into()).collect())
    }

    #[test]
    fn statements_are_read_or_refused() {
        let update =
            "UPDATE mysql_servers SET status='a''b', port=1 WHERE hostgroup_id=1 AND x IN (1,'y')";
        assert_eq!(
            parse(update),
            Ok(Statement::Update {
                table: "mysql_servers".into(),
                set: vec![("status".into(), "a'b".into()), ("port".into(), "1".into())],
                is: vec![is("hostgroup_id", &["1"]), is("x", &["1", "y"])],
            })
        );
        for sql in [
            "SELECT a FROM t WHERE",
            "SELECT a FROM t LIMIT 1",
            "UPDATE t SET a='b",
            "UPDATE t SET a=b",
            "SET NAMES utf8mb4",
            "DO 0",
        ] {
            assert!(parse(sql).is_err(), "{sql}");
        }
    }

    #[test]
    fn what_the_table_does_not_allow_is_refused() {
        let mut tables = Tables::leading_to(1, 3306);
        let mut run = |sql: &str| write(&mut tables, parse(sql)?);
        let green =
            "INSERT INTO mysql_servers (hostgroup_id, hostname, port) VALUES (1, 'g', 3307)";
        assert_eq!(run(green), Ok(1));
        assert!(run(green).unwrap_err().contains("UNIQUE constraint failed"));
        let both = "UPDATE mysql_servers SET hostname='g', port=3307 WHERE hostgroup_id=1";
        assert!(run(both).unwrap_err().contains("UNIQUE constraint failed"));
        let status = "UPDATE mysql_servers SET status='MAINT'";
        assert!(run(status).unwrap_err().contains("CHECK constraint failed"));
        let missing = "INSERT INTO mysql_servers (port) VALUES (1)";
        assert!(run(missing).unwrap_err().contains("NOT NULL constraint failed"));
        assert_eq!(run("DELETE FROM mysql_servers WHERE hostname='g'"), Ok(1));
        assert!(run("DELETE FROM nothing").unwrap_err().contains("no such table"));
    }
}
