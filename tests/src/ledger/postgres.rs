//! The ledger on PostgreSQL. Everything goes over the simple protocol: named statements do not
//! survive transaction pooling in PgBouncer before 1.21.

use anyhow::Result;
use tokio_postgres::Client;

use super::INITIAL_BALANCE;
use super::session::{Failure, Row, Session};
use crate::postgres::{connect_url, describe, rows};

/// Creates the tables and the accounts. The caller's role owns them.
///
/// The key of `entries` comes from a sequence: a cutover that forgets sequences makes clients fail.
/// `(client, seq)` is deliberately not unique in the database, or a duplicate could not be found.
pub async fn prepare(client: &Client, accounts: u32) -> Result<()> {
    let sql = format!(
        "CREATE SCHEMA ledger;
         CREATE TABLE ledger.accounts (id int PRIMARY KEY, balance bigint NOT NULL);
         CREATE TABLE ledger.entries (
             id bigserial PRIMARY KEY,
             client int NOT NULL,
             seq bigint NOT NULL,
             from_account int NOT NULL REFERENCES ledger.accounts,
             to_account int NOT NULL REFERENCES ledger.accounts,
             amount bigint NOT NULL,
             at timestamptz NOT NULL DEFAULT now());
         CREATE INDEX ON ledger.entries (client, seq);
         INSERT INTO ledger.accounts SELECT n, {INITIAL_BALANCE} FROM generate_series(1, {accounts}) n;"
    );
    client.batch_execute(&sql).await.map_err(|error| describe(&error))
}

impl Session for Client {
    const TABLES: &'static str = "ledger.";

    async fn connect(url: &str) -> Result<Client> {
        connect_url(url).await
    }

    async fn is_open(&mut self) -> bool {
        !self.is_closed()
    }

    async fn run(&mut self, sql: &str) -> Result<(), Failure> {
        self.batch_execute(sql).await.map_err(|error| {
            let class = error.code().map(|code| code.code().get(..2).unwrap_or("").to_owned());
            // The session was being shut down (57), or the connection failed (08): nobody knows.
            let is_decided = !matches!(class.as_deref(), None | Some("57" | "08" | "XX"));
            Failure { text: describe(&error).to_string(), is_decided }
        })
    }

    async fn rows(&mut self, sql: &str) -> Result<Vec<Row>> {
        rows(self, sql).await
    }
}
