//! What a statement of the binlog does, without a full parser.
//!
//! Only the beginning is looked at: verb, kind of object, names. A statement that is not recognised is
//! [`Kind::Other`], which means "this may change anything" to who applies changes; it is never an
//! error and never skipped.

use serde::Serialize;

use super::lexer::{Token, tokens};
use super::xa::XaId;
use crate::change::QualifiedName;

/// A statement that the source logged as such: DDL, mostly. It committed by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statement {
    /// The default schema, which unqualified names belong to; empty for none.
    pub schema: String,
    /// The statement in UTF-8, as the source wrote it.
    pub text: String,
    /// What it does.
    pub kind: Kind,
    /// The tables that it names as its objects; empty where they are not recognised.
    pub tables: Vec<QualifiedName>,
}

/// What a statement does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // each is the SQL statement of that name
pub enum Kind {
    CreateTable,
    AlterTable,
    DropTable,
    RenameTable,
    TruncateTable,
    /// CREATE or DROP INDEX.
    Index,
    /// CREATE, ALTER or DROP DATABASE.
    Database,
    View,
    /// Procedures, functions, packages, triggers and events.
    Routine,
    Sequence,
    /// Users, roles and what they may do.
    Account,
    /// Statements that leave every row as it is: ANALYZE, OPTIMIZE, FLUSH.
    Maintenance,
    /// Concerns temporary tables only, which nobody else sees.
    TemporaryTable,
    /// Anything else.
    Other,
}

/// A statement inside of the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Sorted {
    Begin,
    Commit,
    Rollback,
    /// SAVEPOINT and RELEASE SAVEPOINT.
    Savepoint,
    RollbackToSavepoint,
    /// XA START, XA END and XA PREPARE: the group's own events say more.
    XaFrame,
    XaCommit(Option<XaId>),
    XaRollback(Option<XaId>),
    /// Changes rows, in statement format.
    Data,
    Standing {
        kind: Kind,
        tables: Vec<QualifiedName>,
    },
}

/// More tokens than any list of names that matters.
const MOST_TOKENS: usize = 4096;

pub(super) fn sort(schema: &str, sql: &str) -> Sorted {
    let tokens = tokens(sql, MOST_TOKENS);
    let tokens = without_settings(&tokens);
    let is = |at: usize, keyword: &str| tokens.get(at).is_some_and(|token| token.is(keyword));
    let Some(Token::Word(verb)) = tokens.first() else {
        return Sorted::Standing { kind: Kind::Other, tables: Vec::new() };
    };
    let standing = |kind| Sorted::Standing { kind, tables: Vec::new() };
    match verb.to_ascii_uppercase().as_str() {
        "BEGIN" => Sorted::Begin,
        "START" if is(1, "TRANSACTION") => Sorted::Begin,
        "COMMIT" => Sorted::Commit,
        "ROLLBACK" if is(1, "TO") || (is(1, "WORK") && is(2, "TO")) => Sorted::RollbackToSavepoint,
        "ROLLBACK" => Sorted::Rollback,
        "SAVEPOINT" => Sorted::Savepoint,
        "RELEASE" if is(1, "SAVEPOINT") => Sorted::Savepoint,
        "XA" if is(1, "COMMIT") => Sorted::XaCommit(XaId::parse(&tokens[2..])),
        "XA" if is(1, "ROLLBACK") => Sorted::XaRollback(XaId::parse(&tokens[2..])),
        "XA" => Sorted::XaFrame,
        "INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "LOAD" | "DO" | "CALL" | "WITH" | "SELECT"
        | "VALUES" | "HANDLER" | "IMPORT" | "TABLE" => Sorted::Data,
        "SET" if is(1, "PASSWORD") || is(1, "ROLE") || is(1, "DEFAULT") => standing(Kind::Account),
        "GRANT" | "REVOKE" => standing(Kind::Account),
        "ANALYZE" | "OPTIMIZE" | "REPAIR" | "CHECK" | "CHECKSUM" | "FLUSH" | "CACHE" => {
            standing(Kind::Maintenance)
        }
        "TRUNCATE" => {
            let names = &tokens[if is(1, "TABLE") { 2 } else { 1 }..];
            Sorted::Standing { kind: Kind::TruncateTable, tables: names_in(schema, names) }
        }
        "RENAME" if is(1, "TABLE") || is(1, "TABLES") => {
            Sorted::Standing { kind: Kind::RenameTable, tables: names_in(schema, &tokens[2..]) }
        }
        "RENAME" => standing(Kind::Account),
        verb @ ("CREATE" | "ALTER" | "DROP") => definition(schema, verb, &tokens[1..]),
        _ => standing(Kind::Other),
    }
}

/// Without MariaDB's `SET STATEMENT a=1, b=2 FOR` before it.
fn without_settings(tokens: &[Token]) -> &[Token] {
    match tokens {
        [set, statement, rest @ ..] if set.is("SET") && statement.is("STATEMENT") => {
            let at = rest.iter().position(|token| token.is("FOR"));
            at.map_or(tokens, |at| &rest[at + 1..])
        }
        _ => tokens,
    }
}

/// CREATE, ALTER and DROP.
fn definition(schema: &str, verb: &str, tokens: &[Token]) -> Sorted {
    let mut temporary = false;
    for (at, token) in tokens.iter().enumerate() {
        let Token::Word(word) = token else { continue };
        let rest = &tokens[at + 1..];
        let kind = match word.to_ascii_uppercase().as_str() {
            "TEMPORARY" => {
                temporary = true;
                continue;
            }
            "TABLE" | "TABLES" => {
                let kind = match verb {
                    _ if temporary => Kind::TemporaryTable,
                    "CREATE" => Kind::CreateTable,
                    "ALTER" => Kind::AlterTable,
                    _ => Kind::DropTable,
                };
                let mut tables = names_in(schema, rest);
                if kind != Kind::DropTable {
                    tables.truncate(1);
                }
                return Sorted::Standing { kind, tables };
            }
            "INDEX" => {
                let on = rest.iter().position(|token| token.is("ON"));
                let tables = on.map(|on| names_in(schema, &rest[on + 1..])).unwrap_or_default();
                let tables = tables.into_iter().take(1).collect();
                return Sorted::Standing { kind: Kind::Index, tables };
            }
            "DATABASE" | "SCHEMA" => Kind::Database,
            "VIEW" => Kind::View,
            "SEQUENCE" => Kind::Sequence,
            "PROCEDURE" | "FUNCTION" | "PACKAGE" | "TRIGGER" | "EVENT" => Kind::Routine,
            "USER" | "ROLE" => Kind::Account,
            // Words that may stand before the kind of object, and values of theirs.
            _ => continue,
        };
        return Sorted::Standing { kind, tables: Vec::new() };
    }
    Sorted::Standing { kind: Kind::Other, tables: Vec::new() }
}

/// The names in `[IF [NOT] EXISTS] a, s.b TO c ..`, up to the first word that is neither.
fn names_in(schema: &str, tokens: &[Token]) -> Vec<QualifiedName> {
    let mut rest = tokens;
    while let [first, after @ ..] = rest
        && ["IF", "NOT", "EXISTS"].iter().any(|word| first.is(word))
    {
        rest = after;
    }
    let mut names = Vec::new();
    while let [first, after @ ..] = rest {
        let Some(first) = first.name() else { break };
        let name = match after {
            [Token::Mark('.'), second, after @ ..] => {
                rest = after;
                second.name().map(|second| QualifiedName::new(first, second))
            }
            after => {
                rest = after;
                Some(QualifiedName::new(schema, first))
            }
        };
        names.extend(name);
        match rest {
            [Token::Mark(','), after @ ..] => rest = after,
            [to, after @ ..] if to.is("TO") => rest = after,
            _ => break,
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(sql: &str) -> (Kind, String) {
        match sort("d", sql) {
            Sorted::Standing { kind, tables } => {
                let names = tables.iter().map(|name| format!("{}.{}", name.schema, name.name));
                (kind, names.collect::<Vec<_>>().join(" "))
            }
            other => panic!("{sql}: {other:?}"),
        }
    }

    #[test]
    fn definitions_and_the_tables_that_they_name() {
        use Kind::*;
        for (sql, kind, tables) in [
            ("create table t(id int)", CreateTable, "d.t"),
            (
                "/* gh-ost */ CREATE OR REPLACE TABLE IF NOT EXISTS `x y`.`t` like u",
                CreateTable,
                "x y.t",
            ),
            ("alter /*!50000 ignore */ table s.t add column `index` int", AlterTable, "s.t"),
            ("ALTER ONLINE TABLE t RENAME TO u", AlterTable, "d.t"),
            (
                "SET STATEMENT max_statement_time=60 FOR alter table t engine=innodb",
                AlterTable,
                "d.t",
            ),
            ("DROP TABLE IF EXISTS `a`,s.`b` /* generated by server */", DropTable, "d.a s.b"),
            ("rename table a to b, s.c to s.d", RenameTable, "d.a d.b s.c s.d"),
            ("truncate t", TruncateTable, "d.t"),
            ("TRUNCATE TABLE s.t", TruncateTable, "s.t"),
            ("create unique index i using btree on s.t (a)", Index, "s.t"),
            ("DROP INDEX `on` ON t", Index, "d.t"),
            ("create temporary table x(id int)", TemporaryTable, "d.x"),
            ("DROP /*!40005 TEMPORARY */ TABLE IF EXISTS `x`", TemporaryTable, "d.x"),
            ("create database x", Database, ""),
            (
                "CREATE ALGORITHM=UNDEFINED DEFINER=`root`@`localhost` SQL SECURITY DEFINER VIEW `v` AS select 1",
                View,
                "",
            ),
            (
                "CREATE DEFINER=`table`@`%` TRIGGER x BEFORE INSERT ON t FOR EACH ROW set @a = 1",
                Routine,
                "",
            ),
            ("create sequence s", Sequence, ""),
            ("grant select on t to x", Account, ""),
            ("ALTER USER x IDENTIFIED WITH y RETAIN CURRENT PASSWORD", Account, ""),
            ("SET PASSWORD FOR x = 'y'", Account, ""),
            ("analyze table t", Maintenance, ""),
            ("install plugin x soname 'y'", Other, ""),
            ("", Other, ""),
            ("¿que?", Other, ""),
        ] {
            assert_eq!(standing(sql), (kind, tables.to_owned()), "{sql}");
        }
    }

    #[test]
    fn what_frames_a_transaction_is_told_from_what_changes_rows() {
        for (sql, expected) in [
            ("BEGIN", Sorted::Begin),
            ("START TRANSACTION", Sorted::Begin),
            ("COMMIT", Sorted::Commit),
            ("ROLLBACK", Sorted::Rollback),
            ("ROLLBACK TO `a`", Sorted::RollbackToSavepoint),
            ("SAVEPOINT `a`", Sorted::Savepoint),
            ("XA END X'78',X'',1", Sorted::XaFrame),
            ("insert into t values (1)", Sorted::Data),
            ("/* x */ update t set a = 1", Sorted::Data),
        ] {
            assert_eq!(sort("d", sql), expected, "{sql}");
        }
        let id = XaId { format_id: 1, global: b"x".to_vec(), branch: Vec::new() };
        assert_eq!(sort("d", "XA COMMIT X'78',X'',1"), Sorted::XaCommit(Some(id)));
    }
}
