//! What is known about the two servers, before any judgement.

use std::collections::BTreeSet;

use decoders::SourceError;
use decoders::change::QualifiedName;
use decoders::mysql::catalog::{
    self, CatalogError, Rights, Stored, Surroundings, TableInfo, Variables,
};
use decoders::mysql::server::{self, Conn, Server, ServerUrl};
use decoders::postgres::catalog::TableFilter;

use super::BinlogCheckRequest;
use super::logins::{self, Logins};
use super::own::Own;
use crate::schema::mysql::Notes;

/// A group of facts, or why they could not be had.
pub type Probe<T> = Result<T, CatalogError>;

/// Everything known about both sides.
#[derive(Debug)]
pub struct Facts {
    /// Blue, if it could be reached.
    pub blue: Result<Box<SideFacts>, SourceError>,
    /// Green, if it could be reached.
    pub green: Result<Box<SideFacts>, SourceError>,
}

/// What is asked of either side.
#[derive(Debug)]
pub struct SideFacts {
    /// The server.
    pub server: Server,
    /// Global settings.
    pub variables: Probe<Variables>,
    /// The account's rights.
    pub rights: Probe<Rights>,
    /// Tables; on blue those that the filter takes, on green all.
    pub tables: Probe<Vec<TableInfo>>,
    /// Enabled events of the scheduler.
    pub events: Probe<Vec<QualifiedName>>,
    /// Databases in which nobody may write.
    pub read_only: Probe<BTreeSet<String>>,
    /// Collations that the server knows.
    pub collations: Probe<BTreeSet<String>>,
    /// What it is part of.
    pub surroundings: Probe<Surroundings>,
    /// Views, triggers, routines and events.
    pub stored: Probe<Stored>,
    /// The accounts, as `user@host`.
    pub accounts: Probe<BTreeSet<String>>,
    /// Who may log in, and what they may do.
    pub logins: Probe<Logins>,
    /// What is in our own database.
    pub own: Probe<Own>,
    /// Transactions that are prepared (XA) and wait for their end.
    pub prepared: Probe<u64>,
    /// Tables that a copy of ours has made, by its own notes.
    pub made: Probe<BTreeSet<QualifiedName>>,
    /// Databases that were copied by those notes and are not there any more.
    pub lost: Probe<BTreeSet<String>>,
}

/// Asks both sides at the same time. Changes nothing.
pub async fn gather(request: &BinlogCheckRequest, blue: &ServerUrl, green: &ServerUrl) -> Facts {
    let everything = TableFilter::default();
    let (blue, green) =
        tokio::join!(side(request, blue, &request.filter), side(request, green, &everything));
    Facts { blue, green }
}

async fn side(
    request: &BinlogCheckRequest,
    url: &ServerUrl,
    filter: &TableFilter,
) -> Result<Box<SideFacts>, SourceError> {
    let mut conn: Conn = server::connect(url).await?;
    let conn = &mut conn;
    let server = Server::read(conn).await?;
    let database = request.database.as_deref();
    Ok(Box::new(SideFacts {
        variables: Variables::read(conn).await,
        rights: Rights::read(conn).await,
        tables: catalog::tables(conn, &server, database, filter).await,
        events: catalog::enabled_events(conn, database).await,
        read_only: catalog::read_only_databases(conn, &server).await,
        collations: catalog::collations(conn).await,
        surroundings: catalog::surroundings(conn, &server).await,
        stored: Stored::read(conn, database).await,
        accounts: catalog::accounts(conn).await,
        logins: logins::read(conn, &server).await,
        own: Own::read(conn).await,
        prepared: catalog::prepared_transactions(conn).await,
        made: Notes::tables(conn).await,
        lost: Notes::lost_databases(conn).await,
        server,
    }))
}
