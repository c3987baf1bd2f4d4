//! What is to be checked.

use std::collections::BTreeSet;
use std::time::Duration;

use decoders::postgres::catalog::TableFilter;

use crate::schema::SchemaMode;

/// The move that is to be checked.
#[derive(Clone, Debug)]
pub struct CheckRequest {
    /// Name of the pipeline, as `_cutover.stream` on green knows it.
    pub pipeline: String,
    /// Name of the replication slot on blue.
    pub slot: String,
    /// Name of the publication on blue.
    pub publication: String,
    /// Tables that take part.
    pub filter: TableFilter,
    /// Whether green's schema is copied or there already.
    pub schema: SchemaMode,
    /// Copying the schema: with owners and privileges.
    pub owners: bool,
    /// Copying the schema: with tablespaces.
    pub tablespaces: bool,
    /// A cutover refreshes green's materialized views.
    pub refreshes_views: bool,
    /// Whatever fires on green for replicated changes is accepted.
    pub accepts_triggers: bool,
    /// Changes of partitions arrive under the name of the partitioned table, so green's
    /// partitions may differ.
    pub via_partition_root: bool,
    /// The search for a fitting pg_dump: what was found, or what is missing.
    pub pg_dump: Result<String, String>,
    /// Sessions that the sidecar needs on blue at most.
    pub blue_sessions: u32,
    /// Sessions that the sidecar needs on green at most.
    pub green_sessions: u32,
    /// How long blue's log is watched to tell its rate.
    pub wal_sample: Duration,
    /// A writing transaction older than this is warned of: a new slot waits for its end.
    pub long_transaction: Duration,
    /// A writing transaction older than this blocks: nobody knows when it will end.
    pub stuck_transaction: Duration,
    /// Blockers that the operator goes on without, by name; only acceptable ones may be named.
    pub accept: BTreeSet<String>,
    /// The pipeline has begun already, so its slot, its rows and its schema are expected.
    pub resuming: bool,
}

impl CheckRequest {
    /// A request with defaults for a pipeline whose slot and publication are both called
    /// `cutover_<pipeline>`.
    pub fn new(pipeline: &str) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            slot: format!("cutover_{pipeline}"),
            publication: format!("cutover_{pipeline}"),
            filter: TableFilter::default(),
            schema: SchemaMode::Copy,
            owners: true,
            tablespaces: true,
            refreshes_views: true,
            accepts_triggers: false,
            via_partition_root: false,
            pg_dump: Err("no pg_dump was looked for".to_owned()),
            blue_sessions: 8,
            green_sessions: 12,
            wal_sample: Duration::from_secs(1),
            long_transaction: Duration::from_secs(10),
            stuck_transaction: Duration::from_secs(300),
            accept: BTreeSet::new(),
            resuming: false,
        }
    }

    /// Whether the schema is there already.
    pub fn schema_exists(&self) -> bool {
        self.schema == SchemaMode::Existing
    }
}
