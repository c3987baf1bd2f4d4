//! What a statement of the binlog does, without a full parser.
//!
//! Only the beginning is looked at: verb, kind of object, names. A statement that is not recognised is
//! [`Kind::Other`], which means "this may change anything" to who applies changes; it is never an
//! error and never skipped.

use serde::Serialize;

use super::lexer::{Dialect, Token, is_conditional, tokens, tokens_for_all};
use super::xa::XaId;
use crate::change::QualifiedName;
use crate::mysql::{Sealed, Session};

/// A statement that the source logged as such: DDL, mostly. It committed by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statement {
    /// The default schema, which unqualified names belong to; empty for none.
    pub schema: String,
    /// The statement in UTF-8, as the source wrote it.
    pub text: String,
    /// What it does.
    pub kind: Kind,
    /// The tables that it may change, as it spells them; empty where they are not recognised.
    pub tables: Vec<QualifiedName>,
    /// The databases that it may change, as it spells them.
    pub databases: Vec<String>,
    /// The statement's own bytes.
    pub raw: Sealed,
    /// The session that ran it.
    pub session: Session,
}

impl Kind {
    /// As it is written.
    pub fn label(self) -> &'static str {
        match self {
            Kind::CreateTable => "CREATE TABLE",
            Kind::AlterTable => "ALTER TABLE",
            Kind::DropTable => "DROP TABLE",
            Kind::RenameTable => "RENAME TABLE",
            Kind::TruncateTable => "TRUNCATE",
            Kind::Index => "CREATE or DROP INDEX",
            Kind::Database => "CREATE or ALTER DATABASE",
            Kind::DropDatabase => "DROP DATABASE",
            Kind::View => "CREATE, ALTER or DROP VIEW",
            Kind::Routine => "a definition of a routine, trigger or event",
            Kind::Sequence => "CREATE, ALTER or DROP SEQUENCE",
            Kind::Account => "a statement about accounts",
            Kind::Maintenance => "a statement of maintenance",
            Kind::Server => "a statement about the server",
            Kind::TemporaryTable => "a statement about temporary tables",
            Kind::Other => "a statement that is not recognised",
        }
    }
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
    /// CREATE or ALTER DATABASE: no table that is there changes.
    Database,
    /// DROP DATABASE, and CREATE OR REPLACE, which drops.
    DropDatabase,
    View,
    /// Procedures, functions, packages, triggers and events.
    Routine,
    Sequence,
    /// Users, roles and what they may do.
    Account,
    /// Statements that leave every row as it is: ANALYZE, OPTIMIZE, FLUSH.
    Maintenance,
    /// Tablespaces, foreign servers, resource groups and others that hold no tables.
    Server,
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
        databases: Vec<String>,
    },
}

/// More tokens than any list of names that matters.
const MOST_TOKENS: usize = 1 << 16;

pub(super) fn sort(schema: &str, sql: &str, dialect: Dialect) -> Sorted {
    let sorted = sort_all(schema, &tokens(sql, MOST_TOKENS, dialect));
    // Who has executed which of its comments is not known, so it must not matter.
    let is_open = is_conditional(sql)
        && sort_all(schema, &tokens_for_all(sql, MOST_TOKENS, dialect)) != sorted;
    if is_open { standing(Kind::Other) } else { sorted }
}

fn sort_all(schema: &str, tokens: &[Token]) -> Sorted {
    let is_cut = tokens.len() >= MOST_TOKENS;
    match sort_tokens(schema, without_settings(tokens)) {
        // What it names behind the end is not known.
        Sorted::Standing { kind, .. } if is_cut && kind != Kind::CreateTable => standing(kind),
        sorted => sorted,
    }
}

/// A statement that names no table, or none that is recognised.
fn standing(kind: Kind) -> Sorted {
    of_tables(kind, Vec::new())
}

fn of_tables(kind: Kind, tables: Vec<QualifiedName>) -> Sorted {
    Sorted::Standing { kind, tables, databases: Vec::new() }
}

fn sort_tokens(schema: &str, tokens: &[Token]) -> Sorted {
    let is = |at: usize, keyword: &str| tokens.get(at).is_some_and(|token| token.is(keyword));
    let Some(Token::Word(verb)) = tokens.first() else {
        return standing(Kind::Other);
    };
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
        "INSTALL" | "UNINSTALL" => standing(Kind::Server),
        "TRUNCATE" => {
            let names = &tokens[if is(1, "TABLE") { 2 } else { 1 }..];
            of_tables(Kind::TruncateTable, all_names_in(schema, names))
        }
        "RENAME" if is(1, "TABLE") || is(1, "TABLES") => {
            of_tables(Kind::RenameTable, all_names_in(schema, &tokens[2..]))
        }
        "RENAME" => standing(Kind::Account),
        verb @ ("CREATE" | "ALTER" | "DROP") => definition(schema, verb, &tokens[1..]),
        _ => standing(Kind::Other),
    }
}

/// Without MariaDB's `SET STATEMENT a=1, b=2 FOR` before it.
pub(super) fn without_settings(tokens: &[Token]) -> &[Token] {
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
                let tables = match kind {
                    Kind::DropTable => all_names_in(schema, rest),
                    Kind::AlterTable => altered(schema, rest),
                    _ => names_in(schema, rest).0.into_iter().take(1).collect(),
                };
                return of_tables(kind, tables);
            }
            "INDEX" => {
                let on = rest.iter().position(|token| token.is("ON"));
                let tables = on.map(|on| names_in(schema, &rest[on + 1..]).0).unwrap_or_default();
                return of_tables(Kind::Index, tables.into_iter().take(1).collect());
            }
            "DATABASE" | "SCHEMA" => return database(schema, verb, &tokens[..at], rest),
            "SEQUENCE" => return of_tables(Kind::Sequence, names_in(schema, rest).0),
            "VIEW" => {
                let tables = match verb {
                    "DROP" => all_names_in(schema, rest),
                    _ => names_in(schema, rest).0.into_iter().take(1).collect(),
                };
                return of_tables(Kind::View, tables);
            }
            "PROCEDURE" | "FUNCTION" | "PACKAGE" | "TRIGGER" | "EVENT" | "LIBRARY" => Kind::Routine,
            "USER" | "ROLE" => Kind::Account,
            "TABLESPACE" | "SERVER" | "LOGFILE" | "RESOURCE" | "INSTANCE" => Kind::Server,
            // Words that may stand before the kind of object, and values of theirs.
            _ => continue,
        };
        return standing(kind);
    }
    standing(Kind::Other)
}

/// CREATE, ALTER and DROP DATABASE, with what stands before the word and behind it.
fn database(schema: &str, verb: &str, before: &[Token], rest: &[Token]) -> Sorted {
    let replaces = before.iter().any(|token| token.is("REPLACE"));
    let named = names_in("", rest).0.into_iter().next().map(|name| name.name);
    // Without a name it is the default one.
    let is_option = |name: &String| {
        ["DEFAULT", "CHARACTER", "CHARSET", "COLLATE", "ENCRYPTION", "READ", "COMMENT"]
            .contains(&name.to_ascii_uppercase().as_str())
    };
    match (verb, named) {
        ("DROP", Some(name)) => of_databases(Kind::DropDatabase, name),
        ("CREATE", Some(name)) if replaces => of_databases(Kind::DropDatabase, name),
        ("CREATE", Some(name)) => of_databases(Kind::Database, name),
        // ALTER DATABASE .. UPGRADE DATA DIRECTORY NAME renames it.
        ("ALTER", _) if rest.iter().any(|token| token.is("UPGRADE")) => standing(Kind::Other),
        ("ALTER", Some(name)) if !is_option(&name) => of_databases(Kind::Database, name),
        ("ALTER", _) => of_databases(Kind::Database, schema.to_owned()),
        _ => standing(Kind::Other),
    }
}

fn of_databases(kind: Kind, name: String) -> Sorted {
    Sorted::Standing { kind, tables: Vec::new(), databases: vec![name] }
}

/// What ALTER TABLE changes: its table, and those that it takes the name, a partition or the rows of
/// (`RENAME TO u`, `EXCHANGE PARTITION p WITH TABLE u`, MariaDB's `CONVERT PARTITION p TO TABLE u`).
/// Nothing if one of them can't be read.
fn altered(schema: &str, tokens: &[Token]) -> Vec<QualifiedName> {
    let mut tables: Vec<_> = names_in(schema, tokens).0.into_iter().take(1).collect();
    for (at, token) in tokens.iter().enumerate() {
        let mut rest = &tokens[at + 1..];
        if token.is("RENAME") {
            // Of something inside of the table. A table of such a name is quoted: the words are reserved.
            if rest.first().is_some_and(|t| ["COLUMN", "INDEX", "KEY"].iter().any(|w| t.is(w))) {
                continue;
            }
            if let [first, after @ ..] = rest
                && (first.is("TO") || first.is("AS") || *first == Token::Mark('='))
            {
                rest = after;
            }
        } else if !token.is("TABLE") {
            continue;
        }
        match names_in(schema, rest).0.into_iter().next() {
            Some(name) => tables.push(name),
            None => return Vec::new(),
        }
    }
    tables
}

/// The names of a statement that consists of nothing else; nothing if there is more that is not
/// understood.
fn all_names_in(schema: &str, tokens: &[Token]) -> Vec<QualifiedName> {
    let (names, rest) = names_in(schema, tokens);
    let rest = match rest {
        [word, after @ ..] if word.is("RESTRICT") || word.is("CASCADE") => after,
        rest => rest,
    };
    let is_end = |token: &Token| *token == Token::Mark(';');
    if rest.iter().all(is_end) { names } else { Vec::new() }
}

/// Without MariaDB's `WAIT n` and `NOWAIT`.
fn without_wait(tokens: &[Token]) -> &[Token] {
    match tokens {
        [wait, Token::Word(_), after @ ..] if wait.is("WAIT") => after,
        [nowait, after @ ..] if nowait.is("NOWAIT") => after,
        _ => tokens,
    }
}

/// The names in `[IF [NOT] EXISTS] a, s.b TO c ..`, up to the first word that is neither, and what
/// follows.
fn names_in<'a>(schema: &str, tokens: &'a [Token]) -> (Vec<QualifiedName>, &'a [Token]) {
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
        rest = without_wait(rest);
        match rest {
            [Token::Mark(','), after @ ..] => rest = after,
            [to, after @ ..] if to.is("TO") => rest = after,
            _ => break,
        }
    }
    (names, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(sql: &str) -> (Kind, String) {
        match sort("d", sql, Dialect::default()) {
            Sorted::Standing { kind, tables, databases } => {
                let names = tables.iter().map(|name| format!("{}.{}", name.schema, name.name));
                let names = names.chain(databases);
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
            ("ALTER ONLINE TABLE t RENAME TO u", AlterTable, "d.t d.u"),
            ("alter table s.t wait 5 add x int, rename `u v`.w", AlterTable, "s.t u v.w"),
            ("alter table t rename column a to b, rename index i to j", AlterTable, "d.t"),
            ("alter table t comment \"rename to u\"", AlterTable, "d.t"),
            ("alter table t /* rename */ rename = u", AlterTable, "d.t d.u"),
            (
                "alter table p exchange partition q with table s . t without validation",
                AlterTable,
                "d.p s.t",
            ),
            ("alter table p convert partition q to table t", AlterTable, "d.p d.t"),
            ("alter table p convert table t to partition q", AlterTable, "d.p d.t"),
            ("alter table t rename .u", AlterTable, ""),
            (
                "SET STATEMENT max_statement_time=60 FOR alter table t engine=innodb",
                AlterTable,
                "d.t",
            ),
            ("DROP TABLE IF EXISTS `a`,s.`b` /* generated by server */", DropTable, "d.a s.b"),
            ("rename table a to b, s.c to s.d", RenameTable, "d.a d.b s.c s.d"),
            (
                "rename tables if exists a nowait to b, c wait 3 to d",
                RenameTable,
                "d.a d.b d.c d.d",
            ),
            ("rename table a to b and so on", RenameTable, ""),
            ("drop table a, b wait 3 cascade", DropTable, "d.a d.b"),
            ("truncate t", TruncateTable, "d.t"),
            ("TRUNCATE TABLE s.t", TruncateTable, "s.t"),
            ("create unique index i using btree on s.t (a)", Index, "s.t"),
            ("DROP INDEX `on` ON t", Index, "d.t"),
            ("create temporary table x(id int)", TemporaryTable, "d.x"),
            ("DROP /*!40005 TEMPORARY */ TABLE IF EXISTS `x`", TemporaryTable, "d.x"),
            ("create database if not exists x", Database, "x"),
            ("alter schema `x` default charset utf8mb4", Database, "x"),
            ("alter database character set = utf8mb4", Database, "d"),
            ("drop database if exists `x`", DropDatabase, "x"),
            ("create or replace database x", DropDatabase, "x"),
            ("create undo tablespace u add datafile 'u.ibu'", Server, ""),
            ("create server s foreign data wrapper mysql options (host 'h')", Server, ""),
            (
                "CREATE ALGORITHM=UNDEFINED DEFINER=`root`@`localhost` SQL SECURITY DEFINER VIEW `v` AS select 1",
                View,
                "d.v",
            ),
            ("drop view if exists v, s.w cascade", View, "d.v s.w"),
            (
                "CREATE DEFINER=`table`@`%` TRIGGER x BEFORE INSERT ON t FOR EACH ROW set @a = 1",
                Routine,
                "",
            ),
            ("create sequence s", Sequence, "d.s"),
            ("grant select on t to x", Account, ""),
            ("ALTER USER x IDENTIFIED WITH y RETAIN CURRENT PASSWORD", Account, ""),
            ("SET PASSWORD FOR x = 'y'", Account, ""),
            ("analyze table t", Maintenance, ""),
            ("install plugin x soname 'y'", Server, ""),
            ("", Other, ""),
            ("¿que?", Other, ""),
        ] {
            assert_eq!(standing(sql), (kind, tables.to_owned()), "{sql}");
        }
    }

    /// A server that does not execute the comment drops a table that everybody sees.
    #[test]
    fn what_a_statement_does_depends_on_no_comment_that_only_some_servers_execute() {
        use Kind::*;
        for (sql, kind, tables) in [
            ("DROP /*!99999 TEMPORARY */ TABLE t", Other, ""),
            ("DROP /*M! TEMPORARY */ TABLE t", Other, ""),
            ("DROP /*!99999 /* x */ TEMPORARY */ TABLE t", Other, ""),
            ("DROP TABLE /*!80000 mysql. */ t", Other, ""),
            ("analyze /*!80000 table t */", Maintenance, ""),
            ("DROP /*!40005 TEMPORARY */ TABLE t", TemporaryTable, "d.t"),
            ("DROP /*/ TEMPORARY /*/ TABLE t", DropTable, "d.t"),
            ("DROP --\r TEMPORARY\n TABLE t", DropTable, "d.t"),
            ("create table t(id int /*!80023 invisible */)", CreateTable, "d.t"),
            (
                "create database /*!32312 if not exists*/ x /*!80016 default encryption='N' */",
                Database,
                "x",
            ),
        ] {
            assert_eq!(standing(sql), (kind, tables.to_owned()), "{sql}");
        }
        assert_eq!(
            sort("d", "/*!99999 rollback; */ commit", Dialect::default()),
            super::standing(Other)
        );
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
            assert_eq!(sort("d", sql, Dialect::default()), expected, "{sql}");
        }
        let id = XaId { format_id: 1, global: b"x".to_vec(), branch: Vec::new() };
        assert_eq!(
            sort("d", "XA COMMIT X'78',X'',1", Dialect::default()),
            Sorted::XaCommit(Some(id))
        );
    }
}
