//! The ledger on MySQL and MariaDB.

use anyhow::{Context, Result, bail};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts, OptsBuilder, Value};

use super::INITIAL_BALANCE;
use super::session::{Failure, Row, Session};

/// SQL that creates the tables and the accounts in the current database.
///
/// As for PostgreSQL: the key of the entries is a counter, and `(client, seq)` is not unique. The note
/// is text that a wrong character set would spoil.
pub fn tables(accounts: u32) -> String {
    let rows: Vec<String> = (1..=accounts).map(|id| format!("({id}, {INITIAL_BALANCE})")).collect();
    format!(
        "create table ledger_accounts (id int primary key, balance bigint not null);
         create table ledger_entries (
             id bigint auto_increment primary key,
             client int not null,
             seq bigint not null,
             from_account int not null,
             to_account int not null,
             amount bigint not null,
             note varchar(20) character set utf8mb4 not null default 'Überweisung 💶',
             at timestamp(6) not null default current_timestamp(6),
             key (client, seq),
             foreign key (from_account) references ledger_accounts (id),
             foreign key (to_account) references ledger_accounts (id));
         insert into ledger_accounts values {};",
        rows.join(", ")
    )
}

impl Session for Conn {
    const TABLES: &'static str = "ledger_";

    async fn connect(url: &str) -> Result<Conn> {
        Conn::new(options(url)?).await.map_err(|error| anyhow::anyhow!(describe(&error)))
    }

    async fn is_open(&mut self) -> bool {
        self.ping().await.is_ok()
    }

    async fn run(&mut self, sql: &str) -> Result<(), Failure> {
        self.query_drop(sql).await.map_err(|error| Failure {
            is_decided: matches!(&error, Error::Server(server) if !is_end_of_session(server.code)),
            text: describe(&error),
        })
    }

    async fn rows(&mut self, sql: &str) -> Result<Vec<Row>> {
        let rows: Vec<mysql_async::Row> =
            self.query(sql).await.map_err(|error| anyhow::anyhow!(describe(&error)))?;
        rows.into_iter().map(|row| row.unwrap().into_iter().map(text).collect()).collect()
    }
}

/// `mysql://user:password@host:port/database`. Whatever the server says about a socket of its own is not
/// followed: it would lead past the router.
pub fn options(url: &str) -> Result<Opts> {
    let options = Opts::from_url(url).context("a URL of the ledger")?;
    Ok(OptsBuilder::from_opts(options).prefer_socket(false).into())
}

/// Errors with which a server ends a session, also one that is in a COMMIT: nobody knows.
fn is_end_of_session(code: u16) -> bool {
    // ER_SERVER_SHUTDOWN, ER_QUERY_INTERRUPTED, ER_CONNECTION_KILLED (MariaDB), ER_SERVER_OFFLINE_MODE,
    // ER_SESSION_WAS_KILLED, ER_CLIENT_INTERACTION_TIMEOUT.
    matches!(code, 1053 | 1317 | 1927 | 3032 | 3169 | 4031)
}

fn describe(error: &Error) -> String {
    match error {
        Error::Server(server) => format!("{} (error {})", server.message, server.code),
        error => error.to_string(),
    }
}

fn text(value: Value) -> Result<Option<String>> {
    match value {
        Value::NULL => Ok(None),
        Value::Bytes(bytes) => Ok(Some(String::from_utf8(bytes)?)),
        _ => bail!("a value that is not text"),
    }
}
