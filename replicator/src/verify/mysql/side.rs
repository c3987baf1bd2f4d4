//! A session on one side, in a snapshot or before one.

use cutover::Side;
use decoders::mysql::catalog::{self, CatalogError, TableInfo};
use decoders::mysql::server::{self, Conn, Server, ServerUrl};
use decoders::postgres::catalog::TableFilter;
use mysql_async::prelude::Queryable;
use mysql_async::{Row, Value};

use crate::backfill::BackfillError;
use crate::backfill::mysql::{failed, of_catalog, of_source};
use crate::verify::Trouble;

/// A row as it arrives: bytes, or NULL.
pub(super) type ByteRow = Vec<Option<Vec<u8>>>;

impl Trouble {
    /// What the copy's words for it are; they hold no value of a row.
    pub(super) fn of(side: Side, error: BackfillError) -> Self {
        let is_transient = error.is_retryable();
        Self { is_transient, ..Self::new(side, error.to_string()) }
    }
}

/// A server that takes part.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub side: Side,
    pub url: ServerUrl,
    pub server: Server,
}

impl End {
    /// Asks the server who it is.
    pub async fn find(side: Side, url: ServerUrl) -> Result<Self, Trouble> {
        let wrong = |error| Trouble::of(side, of_source(error));
        let mut conn = server::connect(&url).await.map_err(wrong)?;
        let server = Server::read(&mut conn).await.map_err(wrong)?;
        Ok(Self { side, url, server })
    }

    /// A session that is in no snapshot.
    pub async fn open(&self) -> Result<Reader, Trouble> {
        let conn = server::connect(&self.url).await;
        let conn = conn.map_err(|error| Trouble::of(self.side, of_source(error)))?;
        Ok(Reader { conn, side: self.side })
    }

    /// Its tables; of one database, if one is named.
    pub async fn tables(&self, database: Option<&str>) -> Result<Vec<TableInfo>, Trouble> {
        let mut reader = self.open().await?;
        if !self.server.is_mariadb() {
            let fresh = "SET SESSION information_schema_stats_expiry = 0";
            reader.run("asking for fresh statistics", fresh).await?;
        }
        let all = TableFilter::default();
        let tables = catalog::tables(&mut reader.conn, &self.server, database, &all).await;
        tables.map_err(|error| reader.unreadable(error))
    }
}

/// A session that only looks.
pub(super) struct Reader {
    pub conn: Conn,
    pub side: Side,
}

impl Reader {
    /// The rows of one statement. `doing` says what for, for errors.
    pub async fn rows(&mut self, doing: &str, sql: &str) -> Result<Vec<ByteRow>, Trouble> {
        let mut rows = Vec::new();
        self.each_row(doing, sql, |row| rows.push(row)).await?;
        Ok(rows)
    }

    /// The same, passed on one by one as they come.
    pub async fn each_row(
        &mut self,
        doing: &str,
        sql: &str,
        mut take: impl FnMut(ByteRow),
    ) -> Result<(), Trouble> {
        let read = async {
            let mut rows = self.conn.query_iter(sql).await?;
            while let Some(row) = rows.next().await? {
                take(bytes(row));
            }
            Ok(())
        };
        let read: Result<(), mysql_async::Error> = read.await;
        read.map_err(|error| self.failed(doing, error))
    }

    /// The same where every field is a text.
    pub async fn texts(
        &mut self,
        doing: &str,
        sql: &str,
    ) -> Result<Vec<Vec<Option<String>>>, Trouble> {
        let text = |field: Option<Vec<u8>>| {
            field.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        };
        let rows = self.rows(doing, sql).await?;
        Ok(rows.into_iter().map(|row| row.into_iter().map(text).collect()).collect())
    }

    /// Runs one statement that gives nothing.
    pub async fn run(&mut self, doing: &str, sql: &str) -> Result<(), Trouble> {
        let done = self.conn.query_drop(sql).await;
        done.map_err(|error| self.failed(doing, error))
    }

    pub fn failed(&self, doing: &str, error: mysql_async::Error) -> Trouble {
        Trouble::of(self.side, failed(doing, error))
    }

    pub fn unreadable(&self, error: CatalogError) -> Trouble {
        Trouble::of(self.side, of_catalog(self.side.name(), error))
    }
}

/// Ends a session in order; the server would notice later.
pub(super) async fn close(reader: Reader) {
    if let Err(error) = reader.conn.disconnect().await {
        tracing::debug!(side = %reader.side, %error, "a session did not end in order");
    }
}

/// A field that has to be a number.
pub(super) fn number<T: std::str::FromStr>(
    side: Side,
    field: Option<&Option<Vec<u8>>>,
) -> Result<T, Trouble> {
    let text = field.and_then(|field| std::str::from_utf8(field.as_deref()?).ok());
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| Trouble::unexpected(side, "no number"))
}

/// The text protocol gives nothing but bytes and NULL.
pub(super) fn bytes(row: Row) -> ByteRow {
    let field = |value: Option<Value>| match value {
        Some(Value::Bytes(bytes)) => Some(bytes),
        _ => None,
    };
    row.unwrap_raw().into_iter().map(field).collect()
}
