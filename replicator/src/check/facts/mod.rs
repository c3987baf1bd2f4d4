//! What is known about the two databases, before any judgement.

mod activity;
mod code;
mod content;
mod invalid;
mod legacy;
mod powers;
mod probing;
mod replication;
mod wal;

use std::time::Duration;

use decoders::postgres::catalog::{self, CatalogError};
use decoders::postgres::state_schema;
use tokio_postgres::Client;

pub use activity::{Activity, PreparedTransaction, WritingTransaction};
pub use code::TableCode;
pub use content::Content;
pub use invalid::InvalidIndex;
pub use legacy::Legacy;
pub use powers::Powers;
pub use probing::{replica_role_allowed, same_database};
#[cfg(test)]
pub use replication::SlotFacts;
pub use replication::{Leftovers, Replication};
pub use wal::WalFacts;

use super::connection::ConnectFailure;
use super::finding::Side;
use super::request::CheckRequest;

/// A group of facts, or why they could not be had.
pub type Probe<T> = Result<T, CatalogError>;

/// Everything known about both sides.
#[derive(Debug)]
pub struct Facts {
    /// Blue, if it could be reached.
    pub blue: Result<Box<BlueFacts>, ConnectFailure>,
    /// Green, if it could be reached.
    pub green: Result<Box<GreenFacts>, ConnectFailure>,
    /// Whether both are the same database of the same server; `None` if one was not reached.
    pub same_database: Option<Probe<bool>>,
}

/// What is asked of either side.
#[derive(Debug)]
pub struct SideFacts {
    /// Server, database, role.
    pub server: Probe<catalog::ServerInfo>,
    /// Tables; on blue those that the filter takes, on green all.
    pub tables: Probe<Vec<catalog::TableInfo>>,
    /// Relations that are not tables.
    pub relations: Probe<Vec<catalog::Relation>>,
    /// Sequences.
    pub sequences: Probe<Vec<catalog::SequenceInfo>>,
    /// Users' types.
    pub types: Probe<Vec<catalog::UserType>>,
    /// Installed extensions.
    pub extensions: Probe<Vec<catalog::Extension>>,
    /// Event triggers.
    pub event_triggers: Probe<Vec<catalog::EventTrigger>>,
    /// Large objects.
    pub large_objects: Probe<catalog::LargeObjects>,
    /// Slots, senders, connections.
    pub replication: Probe<Replication>,
    /// Left behind by an earlier run.
    pub leftovers: Probe<Leftovers>,
    /// What is in our schema and is not ours alone.
    pub strangers: Probe<Vec<String>>,
    /// Code of others that runs with our rights wherever we write.
    pub code: Probe<Vec<TableCode>>,
}

/// What is asked of blue.
#[derive(Debug)]
pub struct BlueFacts {
    /// As for either side.
    pub common: SideFacts,
    /// Roles that objects refer to.
    pub roles: Probe<Vec<catalog::Role>>,
    /// Subscriptions.
    pub subscriptions: Probe<Vec<catalog::Subscription>>,
    /// Transactions in progress.
    pub activity: Probe<Activity>,
    /// Write-ahead log.
    pub wal: Probe<WalFacts>,
    /// Things that newer versions no longer have.
    pub legacy: Probe<Legacy>,
    /// Indexes that are not valid.
    pub invalid_indexes: Probe<Vec<InvalidIndex>>,
}

/// What is asked of green.
#[derive(Debug)]
pub struct GreenFacts {
    /// As for either side.
    pub common: SideFacts,
    /// Roles of the cluster.
    pub role_names: Probe<Vec<String>>,
    /// Tablespaces of the cluster.
    pub tablespace_names: Probe<Vec<String>>,
    /// Users' schemas.
    pub schema_names: Probe<Vec<String>>,
    /// Extensions on offer with their versions, the default one first.
    pub available_extensions: Probe<Vec<(String, Vec<String>)>>,
    /// Whether the role may set `session_replication_role`; if not, what the server said.
    pub replica_role: Probe<Result<(), String>>,
    /// Functions, and tables with rows in them.
    pub content: Probe<Content>,
    /// What the role may make and close.
    pub powers: Probe<Powers>,
}

/// Asks both sides at the same time.
pub async fn gather(
    request: &CheckRequest,
    blue: Result<&Client, ConnectFailure>,
    green: Result<&Client, ConnectFailure>,
) -> Facts {
    let same_database = match (&blue, &green) {
        (Ok(blue), Ok(green)) => Some(same_database(blue, green).await),
        _ => None,
    };
    let ask_blue = async {
        match blue {
            Ok(client) => Ok(Box::new(blue_facts(request, client).await)),
            Err(failure) => Err(failure),
        }
    };
    let ask_green = async {
        match green {
            Ok(client) => Ok(Box::new(green_facts(request, client).await)),
            Err(failure) => Err(failure),
        }
    };
    let (blue, green) = tokio::join!(ask_blue, ask_green);
    Facts { blue, green, same_database }
}

async fn side_facts(request: &CheckRequest, client: &Client, side: Side) -> SideFacts {
    let everything = catalog::TableFilter::default();
    let filter = if side == Side::Blue { &request.filter } else { &everything };
    SideFacts {
        server: catalog::ServerInfo::read(client).await,
        tables: catalog::tables(client, filter).await,
        relations: catalog::relations(client).await,
        sequences: catalog::sequences(client).await,
        types: catalog::user_types(client).await,
        extensions: catalog::extensions(client).await,
        event_triggers: catalog::event_triggers(client).await,
        large_objects: catalog::large_objects(client).await,
        replication: replication::read(client).await,
        leftovers: replication::leftovers(client, request).await,
        strangers: strangers(client).await,
        code: code::read(client).await,
    }
}

async fn strangers(client: &Client) -> Probe<Vec<String>> {
    let found = state_schema::strangers(client).await;
    found.map_err(|error| CatalogError::query("whose the schema _cutover is", error))
}

async fn blue_facts(request: &CheckRequest, client: &Client) -> BlueFacts {
    let common = side_facts(request, client, Side::Blue).await;
    let version_num = common.server.as_ref().map_or(0, |server| server.version_num);
    BlueFacts {
        roles: catalog::referenced_roles(client).await,
        subscriptions: catalog::subscriptions(client).await,
        activity: activity::read(client).await,
        wal: wal::read(client, request.wal_sample).await,
        legacy: legacy::read(client, version_num).await,
        invalid_indexes: invalid::read(client, &request.filter).await,
        common,
    }
}

async fn green_facts(request: &CheckRequest, client: &Client) -> GreenFacts {
    let common = side_facts(request, client, Side::Green).await;
    GreenFacts {
        role_names: catalog::role_names(client).await,
        tablespace_names: catalog::tablespace_names(client).await,
        schema_names: catalog::schema_names(client).await,
        available_extensions: catalog::available_extensions(client).await,
        replica_role: replica_role_allowed(client).await,
        powers: powers::read(client).await,
        content: content::read(client, common.tables.as_deref().unwrap_or_default()).await,
        common,
    }
}

/// Seconds as a duration, for ages that a server's clock may report slightly below zero.
pub(super) fn age(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)
}
