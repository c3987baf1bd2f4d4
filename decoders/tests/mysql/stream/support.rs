//! A server, an account, and what a stream of it delivers.

use std::time::Duration;

use decoders::change::{ChangeEvent, Row};
use decoders::mysql::gtid::BinlogPosition;
use decoders::mysql::server::ServerUrl;
use decoders::mysql::stream::{BinlogStream, Change, Start, StreamOptions, Transaction};
use decoders::{Source, SourceError, SourceEvent};
use tests::mysql::{Mysql, Version};

const DEADLINE: Duration = Duration::from_secs(60);

/// A server with an account that may read everything, and a schema `t`.
pub fn server(version: Version, options: &[&str]) -> Mysql {
    let server = Mysql::start(version, options).unwrap();
    server
        .run(
            "create user 'cutover'@'%' identified by 'se cret';
             grant all on *.* to 'cutover'@'%'; create database t;",
        )
        .unwrap();
    server
}

pub fn url(server: &Mysql) -> ServerUrl {
    let text = format!("mysql://cutover:se%20cret@127.0.0.1:{}", server.port());
    ServerUrl::parse(&text).unwrap()
}

/// Options of a replica that no other test's server is.
pub fn options(server: &Mysql) -> StreamOptions {
    StreamOptions::new(u32::from(server.port()) + 100_000, "cutover test")
}

pub fn behind(server: &Mysql, position: &BinlogPosition) -> StreamOptions {
    let mut options = options(server);
    options.start = Start::Behind(position.clone());
    options
}

pub async fn open(server: &Mysql, options: StreamOptions) -> BinlogStream {
    BinlogStream::open(&url(server), options).await.unwrap()
}

/// Where the server is by its own account.
pub fn head(server: &Mysql) -> BinlogPosition {
    let sql = match server.version().is_mariadb() {
        true => "select @@global.gtid_binlog_pos",
        false => "select replace(@@global.gtid_executed, '\\n', '')",
    };
    server.value(sql).unwrap().parse().unwrap()
}

/// Runs `sql` while `stream` is open, and gives what is delivered for it.
pub async fn after(server: &Mysql, stream: &mut BinlogStream, sql: &str) -> Vec<Transaction> {
    server.run(sql).unwrap();
    let head = head(server);
    up_to(stream, &head).await
}

/// What is delivered until `head` is reached.
pub async fn up_to(stream: &mut BinlogStream, head: &BinlogPosition) -> Vec<Transaction> {
    let mut found = Vec::new();
    while !stream.position().covers(head) {
        found.extend(next(stream).await.unwrap());
    }
    assert_eq!(stream.position(), head);
    found
}

/// The error that the stream ends with.
pub async fn failing(stream: &mut BinlogStream) -> SourceError {
    let error = async {
        loop {
            if let Err(error) = next(stream).await {
                break error;
            }
        }
    };
    tokio::time::timeout(DEADLINE, error).await.expect("the stream ends")
}

/// The next transaction; `None` for a sign of life.
pub async fn next(stream: &mut BinlogStream) -> Result<Option<Transaction>, SourceError> {
    let event =
        tokio::time::timeout(DEADLINE, stream.next()).await.expect("the stream says something");
    Ok(match event? {
        SourceEvent::Transaction(transaction) => Some(transaction),
        SourceEvent::Idle(_) => None,
        SourceEvent::Handover => panic!("a stream has no other reader"),
    })
}

pub fn row(row: &Row) -> String {
    let cells = row.cells().map(|cell| match cell.value().expect("images are whole").bytes() {
        Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        None => "NULL".to_owned(),
    });
    cells.collect::<Vec<_>>().join(",")
}

/// A change in one line.
pub fn line(change: &Change) -> String {
    match change {
        Change::ForeignKeyChecks(checked) => format!("checks {checked}"),
        Change::Row(ChangeEvent::Insert { table, new }) => {
            format!("+{} {}", table.name.name, row(new))
        }
        Change::Row(ChangeEvent::Delete { table, old }) => {
            format!("-{} {}", table.name.name, row(old.row()))
        }
        Change::Row(ChangeEvent::Update { table, old, new }) => {
            let old = old.as_ref().expect("images are whole");
            format!("{} {} > {}", table.name.name, row(old.row()), row(new))
        }
        Change::Row(other) => format!("{other:?}"),
        Change::Statement(statement) => format!("{:?} {}", statement.kind, statement.text),
        Change::XaCommit(id) => format!("xa commit {id}"),
        Change::XaRollback(id) => format!("xa rollback {id}"),
    }
}

/// The changes of several transactions, a line each.
pub fn lines(transactions: &[Transaction]) -> Vec<String> {
    transactions.iter().flat_map(|transaction| transaction.changes.iter().map(line)).collect()
}
