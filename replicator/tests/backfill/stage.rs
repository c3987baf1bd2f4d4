//! Blue, green and a snapshot.

use anyhow::{Context, Result};
use decoders::TableId;
use decoders::postgres::conninfo::ConnInfo;
use replicator::backfill::{
    Backfill, BackfillError, BackfillProgress, CopyConfig, ProgressSender, Setting, Summary,
    analyze,
};
use replicator::protect::BlueConnections;
use replicator::schema::{
    IndexBuilder, PostData, PostReport, PreData, PreReport, SchemaConfig, copy_post_data,
    copy_pre_data,
};
use tests::postgres::Postgres;
use tokio::sync::watch;
use tokio_postgres::Client;

pub const DATABASE: &str = "shop";

pub struct Stage {
    pub blue: Postgres,
    pub green: Postgres,
    pub progress: ProgressSender,
    pub stop: watch::Sender<bool>,
    pub schema: SchemaConfig,
    pub copy: CopyConfig,
    pub connections: BlueConnections,
    pub answer_ms_max: Setting,
    pub green_user: Option<&'static str>,
}

/// An exported snapshot and the transaction that keeps it.
pub struct Snapshot {
    pub name: String,
    pub _holder: Option<Client>,
}

impl Stage {
    pub async fn new(blue: u32, green: u32) -> Result<Stage> {
        let (blue, green) = (Postgres::start_major(blue)?, Postgres::start_major(green)?);
        for server in [&blue, &green] {
            server.create_database(DATABASE).await?;
            for role in super::fixture::ROLES {
                server
                    .execute(DATABASE, &format!("CREATE ROLE \"{}\"", role.replace('"', "\"\"")))
                    .await?;
            }
        }
        Ok(Stage {
            blue,
            green,
            progress: watch::channel(BackfillProgress::default()).0,
            stop: watch::channel(false).0,
            schema: SchemaConfig { jobs: Setting::Fixed(3), ..SchemaConfig::default() },
            copy: CopyConfig {
                workers: Setting::Fixed(3),
                chunk_mib: Setting::Fixed(1),
                ..CopyConfig::default()
            },
            connections: BlueConnections::default(),
            answer_ms_max: Setting::Auto,
            green_user: None,
        })
    }

    pub fn blue_info(&self) -> Result<ConnInfo> {
        Ok(ConnInfo::parse(&self.blue.url(DATABASE))?)
    }

    pub fn green_info(&self) -> Result<ConnInfo> {
        let url = match self.green_user {
            Some(user) => self.green.url_as(user, DATABASE),
            None => self.green.url(DATABASE),
        };
        Ok(ConnInfo::parse(&url)?)
    }

    pub async fn on_blue(&self, sql: &str) -> Result<()> {
        self.blue.execute(DATABASE, sql).await
    }

    pub async fn on_green(&self, sql: &str) -> Result<()> {
        self.green.execute(DATABASE, sql).await
    }

    pub async fn snapshot(&self) -> Result<Snapshot> {
        let holder = self.blue.connect(DATABASE).await?;
        holder.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
        let row = holder.query_one("SELECT pg_export_snapshot()", &[]).await?;
        Ok(Snapshot { name: row.get(0), _holder: Some(holder) })
    }

    /// Ordinary and partitioned tables, as a publication lists them (not the partitions).
    pub async fn tables(&self) -> Result<Vec<TableId>> {
        let client = self.blue.connect(DATABASE).await?;
        let rows = client
            .query(
                "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname !~ '^pg_'
                   AND n.nspname NOT IN ('information_schema', '_cutover')",
                &[],
            )
            .await?;
        Ok(rows.iter().map(|row| TableId(row.get(0))).collect())
    }

    pub async fn pre_data(&self, snapshot: &Snapshot) -> Result<PreReport, BackfillError> {
        let (blue, green) = (self.blue_info().unwrap(), self.green_info().unwrap());
        let job = PreData {
            blue: &blue,
            green: &green,
            snapshot: &snapshot.name,
            exclude: &[],
            config: &self.schema,
            connections: &self.connections,
        };
        copy_pre_data(job, &self.progress, &self.stop.subscribe()).await
    }

    pub async fn backfill(&self, snapshot: &Snapshot) -> Result<Backfill> {
        Ok(Backfill {
            blue: self.blue_info()?,
            green: self.green_info()?,
            snapshot: snapshot.name.clone(),
            tables: self.tables().await?,
            config: self.copy.clone(),
            connections: self.connections.clone(),
            answer_ms_max: self.answer_ms_max,
            expected: None,
        })
    }

    pub async fn rows(&self, snapshot: &Snapshot) -> Result<Summary> {
        let backfill = self.backfill(snapshot).await?;
        backfill.run(&self.progress, &self.stop.subscribe()).await.context("copying rows")
    }

    /// The builder of early indexes, and the copy that tells it which tables are complete.
    pub async fn rows_with_indexes(&self, snapshot: &Snapshot) -> Result<(Summary, IndexBuilder)> {
        let backfill = self.backfill(snapshot).await?;
        let (builder, events) = IndexBuilder::start(
            self.green_info()?,
            self.copy.clone(),
            self.schema.clone(),
            self.progress.clone(),
            self.stop.subscribe(),
        );
        let summary =
            backfill.run_telling(&self.progress, &self.stop.subscribe(), Some(events)).await?;
        Ok((summary, builder))
    }

    pub async fn post_data(&self) -> Result<PostReport, BackfillError> {
        let green = self.green_info().unwrap();
        let job = PostData { green: &green, copy: &self.copy, config: &self.schema };
        let beside = std::future::ready(Ok(()));
        copy_post_data(job, &self.progress, &self.stop.subscribe(), beside).await
    }

    pub async fn analyze(&self, summary: &Summary) -> Result<()> {
        let names: Vec<_> = summary.tables.iter().map(|table| table.name.clone()).collect();
        let stop = self.stop.subscribe();
        analyze(&self.green_info()?, &names, &self.copy, &self.schema, &stop).await?;
        Ok(())
    }
}
