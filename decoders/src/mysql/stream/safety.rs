//! Whether a schema change can be repeated on another server, seen without a full parser.
//!
//! What is repeated has to come to the same whatever the rows and the server's version are, as far as
//! its words show. What is not known word for word is refused: that costs a person a look, and the
//! opposite would cost rows.

use super::lexer::{Dialect, Token, is_conditional, tokens};
use super::statement::{Kind, without_settings};
use crate::change::{QualifiedName, Retyped, Safety};

/// More tokens than any definition has.
const MOST_TOKENS: usize = 1 << 16;

/// Judges the statement `text` of this kind; `tables` are those that it names.
pub(super) fn judge(
    text: &str,
    kind: Kind,
    tables: &[QualifiedName],
    sql_mode: Option<u64>,
) -> Safety {
    let tokens = tokens(text, MOST_TOKENS, Dialect::of(sql_mode));
    if tokens.len() >= MOST_TOKENS {
        return Safety::refused("it is too long to be looked at");
    }
    if is_conditional(text) {
        return Safety::refused("a part of it is only meant for some versions (/*! .. */)");
    }
    let tokens = without_settings(&tokens);
    let mut safety = match kind {
        Kind::CreateTable => create_table(tokens),
        Kind::AlterTable => alter_table(tokens),
        Kind::DropTable | Kind::Index | Kind::View | Kind::RenameTable if tables.is_empty() => {
            Safety::refused("what it names can't be told")
        }
        Kind::DropTable | Kind::Index | Kind::View | Kind::Database => Safety::default(),
        Kind::RenameTable => rename_table(tables),
        Kind::DropDatabase => Safety::refused("everything in the database goes with it"),
        Kind::Sequence => {
            Safety::refused("sequences are not streamed, they are set at the cutover")
        }
        Kind::TruncateTable => Safety::refused("what it empties can't be told"),
        _ => Safety::refused("it is not recognised"),
    };
    safety.leaves_collation_open = leaves_collation_open(tokens);
    safety
}

fn leaves_collation_open(tokens: &[Token]) -> bool {
    let has = |word: &str| tokens.iter().any(|token| token.is(word));
    let names = has("CHARSET")
        || tokens
            .windows(2)
            .any(|pair| (pair[0].is("CHARACTER") || pair[0].is("CHAR")) && pair[1].is("SET"));
    names && !has("COLLATE")
}

fn create_table(tokens: &[Token]) -> Safety {
    // Names of these are quoted: all of the words are reserved, or end a list.
    let has = |word: &str| tokens.iter().any(|token| token.is(word));
    let pair = |a: &str, b: &str| tokens.windows(2).any(|two| two[0].is(a) && two[1].is(b));
    if pair("OR", "REPLACE") {
        return Safety::refused("it replaces a table that may have rows");
    }
    if has("SELECT") || pair("START", "TRANSACTION") || tokens.iter().skip(2).any(|t| t.is("TABLE"))
    {
        return Safety::refused("it copies rows of other tables");
    }
    let outer = outermost(tokens);
    if outer.iter().any(|token| ["VALUES", "AS", "WITH"].iter().any(|word| token.is(word))) {
        let why = "it copies rows, or the table keeps its history";
        return Safety::refused(why);
    }
    if pair("SYSTEM", "VERSIONING") || pair("PERIOD", "FOR") {
        return Safety::refused("tables that keep their history are not moved");
    }
    const ELSEWHERE: [&str; 6] =
        ["DIRECTORY", "TABLESPACE", "UNION", "CONNECTION", "SEQUENCE", "SECONDARY_ENGINE"];
    if let Some(word) = ELSEWHERE.iter().find(|word| outer.iter().any(|token| token.is(word))) {
        return Safety::refused(format!("it depends on the server ({word})"));
    }
    let table = tokens.iter().position(|token| token.is("TABLE"));
    match table.and_then(|at| behind_name(&tokens[at + 1..])) {
        None => Safety::refused("what it names can't be told"),
        Some(rest) if other_engine(rest, true) => {
            Safety::refused("only tables of InnoDB are moved")
        }
        Some(_) => Safety::default(),
    }
}

/// What stands in no parentheses.
fn outermost(tokens: &[Token]) -> Vec<&Token> {
    let mut depth = 0usize;
    let mut outer = Vec::new();
    for token in tokens {
        match token {
            Token::Mark('(') => depth += 1,
            Token::Mark(')') => depth = depth.saturating_sub(1),
            token if depth == 0 => outer.push(token),
            _ => {}
        }
    }
    outer
}

/// `ENGINE [=] x` that is not InnoDB. Without the mark it may be a column's name, but among the options of
/// a table, whether `tokens` are these (`are_options`) or what follows PARTITION.
fn other_engine(tokens: &[Token], are_options: bool) -> bool {
    let is_other = |name: Option<&Token>, if_none: bool| {
        let text = match name {
            Some(Token::Text(text)) => Some(text.as_str()),
            name => name.and_then(Token::name),
        };
        text.map_or(if_none, |name| !name.eq_ignore_ascii_case("innodb"))
    };
    let (mut depth, mut are_partitions) = (0usize, false);
    tokens.iter().enumerate().any(|(at, token)| {
        match token {
            Token::Mark('(') => depth += 1,
            Token::Mark(')') => depth = depth.saturating_sub(1),
            token => are_partitions |= depth == 0 && token.is("PARTITION"),
        }
        token.is("ENGINE")
            && match tokens.get(at + 1) {
                Some(Token::Mark('=')) => is_other(tokens.get(at + 2), true),
                name if are_partitions || (are_options && depth == 0) => is_other(name, false),
                _ => false,
            }
    })
}

fn rename_table(tables: &[QualifiedName]) -> Safety {
    // Who looks whether it was done sees names and definitions: they have to tell.
    let (mut before, mut now) = (Vec::new(), Vec::new());
    let (pairs, rest) = tables.as_chunks::<2>();
    for [from, to] in pairs {
        if !now.contains(&from) {
            before.push(from);
            now.push(from);
        }
        now.retain(|name| *name != from);
        now.push(to);
    }
    before.sort();
    now.sort();
    match before == now || !rest.is_empty() {
        true => Safety::refused("tables change places among the same names"),
        false => Safety::default(),
    }
}

/// What one clause of ALTER TABLE needs.
enum Clause {
    Fine,
    IfEmpty(&'static str),
    Never(String),
    Retypes(Retyped),
}

fn alter_table(tokens: &[Token]) -> Safety {
    let Some(at) = tokens.iter().position(|token| token.is("TABLE")) else {
        return Safety::refused("it is not recognised");
    };
    if tokens[..at].iter().any(|token| token.is("IGNORE")) {
        return Safety::refused("it removes rows (IGNORE)");
    }
    let Some(clauses) = behind_name(&tokens[at + 1..]) else {
        return Safety::refused("what it names can't be told");
    };
    let mut safety = Safety::default();
    if split(clauses).into_iter().any(|clause| other_engine(clause, !is_of_a_part(clause))) {
        return Safety::refused("only tables of InnoDB are moved");
    }
    // Two columns that take each other's names look the same before and after: whether it has run could not
    // be told.
    if split(clauses).into_iter().filter(|clause| renames_a_column(clause)).count() > 1 {
        return Safety::refused("it renames several columns");
    }
    for clause in split(clauses) {
        match judge_clause(clause) {
            Clause::Fine => {}
            Clause::IfEmpty(why) => safety.only_if_empty = Some(why),
            Clause::Never(why) => return Safety::refused(why),
            Clause::Retypes(column) => safety.retyped.push(column),
        }
        let partitions = clause
            .windows(2)
            .any(|two| (two[0].is("PARTITION") && two[1].is("BY")) || two[1].is("PARTITIONING"));
        if partitions {
            safety.only_if_empty = Some("it shares rows out to partitions");
        }
    }
    safety
}

/// Whether a clause is about a column, a key or the like: options of the table stand in clauses of their own.
fn is_of_a_part(clause: &[Token]) -> bool {
    const VERBS: [&str; 7] = ["ADD", "DROP", "MODIFY", "CHANGE", "ALTER", "RENAME", "ORDER"];
    clause.first().is_some_and(|first| VERBS.iter().any(|verb| first.is(verb)))
}

/// `CHANGE a b ..` and `RENAME COLUMN a TO b`.
fn renames_a_column(clause: &[Token]) -> bool {
    match clause {
        [first, second, ..] if first.is("RENAME") => second.is("COLUMN"),
        [first, rest @ ..] if first.is("CHANGE") => {
            let rest = match rest {
                [column, rest @ ..] if column.is("COLUMN") => rest,
                rest => rest,
            };
            match behind_exists(rest) {
                [old, new, ..] => old.name() != new.name(),
                _ => true,
            }
        }
        _ => false,
    }
}

/// What follows `[IF EXISTS] [schema.]table [WAIT n | NOWAIT]`.
fn behind_name(mut tokens: &[Token]) -> Option<&[Token]> {
    tokens = behind_exists(tokens);
    tokens.first()?.name()?;
    tokens = match &tokens[1..] {
        [Token::Mark('.'), second, rest @ ..] if second.name().is_some() => rest,
        [Token::Mark('.'), ..] => return None,
        rest => rest,
    };
    Some(match tokens {
        [wait, Token::Word(_), rest @ ..] if wait.is("WAIT") => rest,
        [nowait, rest @ ..] if nowait.is("NOWAIT") => rest,
        rest => rest,
    })
}

fn behind_exists(mut tokens: &[Token]) -> &[Token] {
    while let [first, rest @ ..] = tokens
        && ["IF", "NOT", "EXISTS"].iter().any(|word| first.is(word))
    {
        tokens = rest;
    }
    tokens
}

/// The clauses between commas that stand in no parentheses.
fn split(tokens: &[Token]) -> Vec<&[Token]> {
    let (mut depth, mut start) = (0usize, 0);
    let mut clauses = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Mark('(') => depth += 1,
            Token::Mark(')') => depth = depth.saturating_sub(1),
            Token::Mark(',') if depth == 0 => {
                clauses.push(&tokens[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    clauses.push(&tokens[start..]);
    clauses
}

fn never(why: &str) -> Clause {
    Clause::Never(why.to_owned())
}

fn judge_clause(clause: &[Token]) -> Clause {
    let [first, rest @ ..] = clause else { return never("it changes nothing that is known") };
    let Token::Word(word) = first else { return never("a clause of it is not recognised") };
    let second =
        |words: &[&str]| rest.first().is_some_and(|token| words.iter().any(|word| token.is(word)));
    match word.to_ascii_uppercase().as_str() {
        "ADD" => add(rest),
        "DROP" if second(&["SYSTEM", "PERIOD"]) => {
            never("tables that keep their history are not moved")
        }
        "DROP" => Clause::Fine,
        "MODIFY" => retype(rest, false),
        "CHANGE" => retype(rest, true),
        // Defaults, visibility, enforcement: nothing of a row.
        "ALTER" | "RENAME" | "ENABLE" | "DISABLE" | "FORCE" | "ALGORITHM" | "LOCK" => Clause::Fine,
        "WITH" | "WITHOUT" if second(&["VALIDATION"]) => Clause::Fine,
        "COMMENT"
        | "AUTO_INCREMENT"
        | "ROW_FORMAT"
        | "KEY_BLOCK_SIZE"
        | "STATS_PERSISTENT"
        | "STATS_AUTO_RECALC"
        | "STATS_SAMPLE_PAGES"
        | "AVG_ROW_LENGTH"
        | "MAX_ROWS"
        | "MIN_ROWS"
        | "CHECKSUM"
        | "DELAY_KEY_WRITE"
        | "PACK_KEYS"
        | "DEFAULT"
        | "CHARSET"
        | "COLLATE"
        | "PAGE_COMPRESSED"
        | "PAGE_COMPRESSION_LEVEL" => Clause::Fine,
        "CHARACTER" if second(&["SET"]) => Clause::Fine,
        "ENGINE" if rest.iter().any(|token| token.is("INNODB")) => Clause::Fine,
        "ENGINE" => never("only tables of InnoDB are moved"),
        "CONVERT" if second(&["TO"]) => {
            Clause::IfEmpty("it converts text to another character set")
        }
        "ORDER" => Clause::IfEmpty("it orders rows"),
        "PARTITION" | "REMOVE" | "REORGANIZE" | "COALESCE" => {
            Clause::IfEmpty("it shares rows out to partitions")
        }
        "TRUNCATE" => Clause::IfEmpty("it empties partitions"),
        "REBUILD" | "ANALYZE" | "CHECK" | "OPTIMIZE" | "REPAIR" => Clause::Fine,
        "EXCHANGE" => never("it swaps the rows of two tables"),
        _ => Clause::Never(format!("a clause of it is not recognised ({})", word.to_uppercase())),
    }
}

/// ADD of a key, a constraint, a partition or a column.
fn add(rest: &[Token]) -> Clause {
    let is = |at: usize, words: &[&str]| {
        rest.get(at).is_some_and(|token| words.iter().any(|word| token.is(word)))
    };
    const KEYS: [&str; 9] = [
        "INDEX",
        "KEY",
        "UNIQUE",
        "FULLTEXT",
        "SPATIAL",
        "PRIMARY",
        "CONSTRAINT",
        "FOREIGN",
        "CHECK",
    ];
    if is(0, &KEYS) || is(0, &["PARTITION"]) || (is(0, &["VECTOR"]) && is(1, &["INDEX", "KEY"])) {
        return Clause::Fine;
    }
    if is(0, &["SYSTEM", "PERIOD"]) {
        return never("tables that keep their history are not moved");
    }
    let rest = behind_exists(if is(0, &["COLUMN"]) { &rest[1..] } else { rest });
    let [name, definition @ ..] = rest else { return never("a clause of it is not recognised") };
    if name.name().is_none() {
        return Clause::IfEmpty("it adds several columns in one clause");
    }
    added_column(definition)
}

/// What rows that are there get: nothing that a server would have to compute.
fn added_column(definition: &[Token]) -> Clause {
    let has = |word: &str| definition.iter().any(|token| token.is(word));
    if has("GENERATED") || has("AS") {
        return Clause::IfEmpty("it adds a column that is computed");
    }
    if has("AUTO_INCREMENT") || has("SERIAL") {
        return Clause::IfEmpty("it numbers the rows");
    }
    let default = definition.iter().position(|token| token.is("DEFAULT"));
    match default.map(|at| &definition[at + 1..]) {
        Some(value) if !is_constant(value) => {
            Clause::IfEmpty("it adds a column whose default is computed")
        }
        // A session's zone may be the server's own, which is another one there.
        Some(value)
            if definition.first().is_some_and(|token| token.is("TIMESTAMP"))
                && !value.first().is_some_and(|token| token.is("NULL")) =>
        {
            Clause::IfEmpty("it adds a time whose default depends on the server's zone")
        }
        None if definition.first().is_some_and(|token| token.is("TIMESTAMP"))
            && (has("NOT") || !has("NULL")) =>
        {
            Clause::IfEmpty("it adds a time whose default depends on the server")
        }
        _ => Clause::Fine,
    }
}

/// A literal, as far as the default goes.
fn is_constant(value: &[Token]) -> bool {
    match value {
        [Token::Text(_), ..] => true,
        [Token::Mark('-' | '+'), rest @ ..] => is_constant(rest),
        [Token::Word(word), rest @ ..] => {
            let upper = word.to_ascii_uppercase();
            let is_prefix =
                matches!(upper.as_str(), "X" | "B" | "N" | "DATE" | "TIME" | "TIMESTAMP")
                    || word.starts_with('_');
            match rest {
                [Token::Text(_), ..] if is_prefix => true,
                [Token::Mark('('), ..] => false,
                _ => {
                    word.starts_with(|c: char| c.is_ascii_digit())
                        || matches!(upper.as_str(), "NULL" | "TRUE" | "FALSE")
                }
            }
        }
        // .5
        [Token::Mark('.'), ..] => true,
        _ => false,
    }
}

/// MODIFY and CHANGE.
fn retype(rest: &[Token], is_renamed: bool) -> Clause {
    let unknown = || never("the new type of a column is not recognised");
    let rest = match rest {
        [column, rest @ ..] if column.is("COLUMN") => rest,
        rest => rest,
    };
    let [name, rest @ ..] = behind_exists(rest) else { return unknown() };
    let (Some(column), rest) = (name.name(), &rest[usize::from(is_renamed).min(rest.len())..])
    else {
        return unknown();
    };
    let Some((data_type, rest)) = data_type(rest) else { return unknown() };
    let has = |word: &str| rest.iter().any(|token| token.is(word));
    if has("GENERATED") || has("AS") || has("WITHOUT") || has("COMPRESSED") {
        return Clause::IfEmpty("a column of it is computed, or stored in another way");
    }
    if ["BINARY", "ASCII", "UNICODE", "BYTE", "SERIAL"].iter().any(|word| has(word)) {
        return unknown();
    }
    let mut retyped = Retyped { column: column.to_owned(), data_type, ..Retyped::default() };
    if rest.first() == Some(&Token::Mark('(')) {
        let end = rest.iter().position(|token| *token == Token::Mark(')')).unwrap_or(rest.len());
        for token in &rest[1..end] {
            match token {
                Token::Word(number) => match number.parse() {
                    Ok(number) => retyped.arguments.push(number),
                    Err(_) => return unknown(),
                },
                Token::Text(label) => retyped.labels.push(label.clone()),
                Token::Mark(',') => {}
                _ => return unknown(),
            }
        }
    }
    let behind = |words: &[&str]| {
        let at = rest
            .windows(words.len())
            .position(|found| found.iter().zip(words).all(|(token, word)| token.is(word)))?;
        match rest.get(at + words.len())? {
            Token::Text(text) => Some(text.to_lowercase()),
            token => token.name().map(str::to_lowercase),
        }
    };
    retyped.charset = behind(&["CHARACTER", "SET"]).or_else(|| behind(&["CHARSET"]));
    retyped.collation = behind(&["COLLATE"]);
    retyped.unsigned = has("UNSIGNED") || has("ZEROFILL");
    retyped.not_null =
        has("PRIMARY") || rest.windows(2).any(|two| two[0].is("NOT") && two[1].is("NULL"));
    retyped.auto_increment = has("AUTO_INCREMENT");
    Clause::Retypes(retyped)
}

/// The type as catalogs call it, and what follows.
fn data_type(tokens: &[Token]) -> Option<(String, &[Token])> {
    let [Token::Word(word), rest @ ..] = tokens else { return None };
    let name = word.to_ascii_lowercase();
    let canonical = match name.as_str() {
        "integer" | "int4" => "int",
        "int1" | "bool" | "boolean" => "tinyint",
        "int2" => "smallint",
        "int3" | "middleint" => "mediumint",
        "int8" => "bigint",
        "dec" | "numeric" | "fixed" => "decimal",
        "double" if rest.first().is_some_and(|token| token.is("PRECISION")) => {
            return Some(("double".to_owned(), &rest[1..]));
        }
        "character" if rest.first().is_some_and(|token| token.is("VARYING")) => {
            return Some(("varchar".to_owned(), &rest[1..]));
        }
        "character" => "char",
        // Their lengths choose other types, or they are something else by sql_mode.
        "real" | "long" | "national" | "nchar" | "nvarchar" | "float4" | "float8" => return None,
        other => other,
    };
    Some((canonical.to_owned(), rest))
}

#[cfg(test)]
mod tests;
