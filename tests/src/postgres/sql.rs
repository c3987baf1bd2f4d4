//! SQL helpers of a server: short, for tests and the demo.

use anyhow::{Context, Result, anyhow, bail};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::Postgres;

/// Rows in PostgreSQL's text form; `None` is NULL.
pub type Rows = Vec<Vec<Option<String>>>;

/// Connects; the connection is driven by a task of its own and ends with the client.
pub async fn connect_url(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move {
        // A lost connection shows up as an error of the client's next query.
        drop(connection.await);
    });
    Ok(client)
}

/// All rows of a query, over the simple protocol: works through a transaction-pooling router too.
pub async fn rows(client: &Client, sql: &str) -> Result<Rows> {
    let messages = client.simple_query(sql).await.map_err(|error| describe(&error))?;
    let mut rows = Vec::new();
    for message in messages {
        if let SimpleQueryMessage::Row(row) = message {
            rows.push((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect());
        }
    }
    Ok(rows)
}

/// `tokio_postgres::Error` says only "db error"; the server's own words are wanted.
pub fn describe(error: &tokio_postgres::Error) -> anyhow::Error {
    match error.as_db_error() {
        Some(db) => anyhow!("{}: {} ({})", db.severity(), db.message(), db.code().code()),
        None => anyhow!("{error}"),
    }
}

impl Postgres {
    /// A connection as the superuser.
    pub async fn connect(&self, database: &str) -> Result<Client> {
        connect_url(&self.url(database))
            .await
            .with_context(|| format!("cannot connect to PostgreSQL {}", self.major()))
    }

    /// Runs statements as the superuser on a connection of their own.
    pub async fn execute(&self, database: &str, sql: &str) -> Result<()> {
        let client = self.connect(database).await?;
        client.batch_execute(sql).await.map_err(|error| describe(&error))
    }

    /// All rows of a query, as text.
    pub async fn rows(&self, database: &str, sql: &str) -> Result<Rows> {
        rows(&self.connect(database).await?, sql).await
    }

    /// The one value of a query, as text.
    pub async fn value(&self, database: &str, sql: &str) -> Result<String> {
        let rows = self.rows(database, sql).await?;
        match rows.as_slice() {
            [row] => match row.as_slice() {
                [Some(value)] => Ok(value.clone()),
                _ => bail!("expected one value that is not NULL from: {sql}"),
            },
            _ => bail!("expected one row, got {}, from: {sql}", rows.len()),
        }
    }

    pub async fn create_database(&self, name: &str) -> Result<()> {
        self.execute("postgres", &format!("CREATE DATABASE \"{name}\"")).await
    }

    /// A role without any privilege, that may log in. Nothing happens if it is there.
    pub async fn create_role(&self, name: &str) -> Result<()> {
        let known = format!("SELECT FROM pg_roles WHERE rolname = '{name}'");
        if self.rows("postgres", &known).await?.is_empty() {
            self.execute("postgres", &format!("CREATE ROLE \"{name}\" LOGIN")).await?;
        }
        Ok(())
    }
}
