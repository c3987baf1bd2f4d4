//! PostgreSQL to a newer major, through PgBouncer, with pgbench beside the ledger.

mod catalog;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tests::api::Api;
use tests::compare::Content;
use tests::ledger;
use tests::pgbench::{self, Pgbench};
use tests::postgres::connect_url;
use tests::process::Process;
use tests::stage::{APP, DATABASE, Stage};

use crate::Options;
use crate::load::{ACCOUNTS, Load};
use crate::scene::{Scene, Side, Way};
use crate::story::{Story, count};
use crate::verdict::Finding;

pub struct Postgres {
    stage: Stage,
    /// The catalog as it was on blue when it had been changed.
    changed: Option<Content>,
}

impl Scene for Postgres {
    fn way(&self) -> Way {
        Way { name: "PgBouncer", holds: true, needs_sidecar: false }
    }

    async fn set(options: &Options, story: &Story) -> Result<Postgres> {
        let builder = Stage::builder(options.blue, options.green);
        let stage = builder.routers(options.routers.max(1)).start().await?;
        for (name, server) in [("blue", &stage.blue), ("green", &stage.green)] {
            let version = server.value("postgres", "SHOW server_version").await?;
            story.tell(name, &format!("PostgreSQL {version} on port {}", server.port()));
        }
        for router in &stage.routers {
            let text = format!("PgBouncer on port {}, pointing at blue", router.port());
            story.tell("router", &text);
        }
        Ok(Postgres { stage, changed: None })
    }

    async fn fill(&self, options: &Options, story: &Story) -> Result<()> {
        let direct = self.stage.blue.url_as(APP, DATABASE);
        pgbench::init(&direct, options.scale)?;
        // Without a key an UPDATE of this table could not be replicated. pgbench only inserts, but the
        // publication covers everything, so it gets an identity like any table without a key.
        self.stage.on_blue("ALTER TABLE pgbench_history REPLICA IDENTITY FULL").await?;
        let app = connect_url(&direct).await?;
        ledger::prepare(&app, ACCOUNTS).await?;
        let items = catalog::create(&self.stage).await?;
        story.tell(
            "data",
            &format!(
                "pgbench scale {} ({} accounts), a ledger, a catalog of {} items of every type",
                options.scale,
                count(u64::from(options.scale) * 100_000),
                count(items)
            ),
        );
        story.tell("data", "pgbench_history has no key: ALTER TABLE .. REPLICA IDENTITY FULL");
        Ok(())
    }

    fn load(&self, options: &Options) -> Result<Load> {
        let log = self.stage.path().join("pgbench");
        let pgbench = Pgbench::start(&self.stage.app_url()?, 4, options.tps, &log)?;
        let last = self.stage.routers.last().context("a stage without a router")?;
        let load = Load::start(self, last.url_as(APP), options.ledger_rate())?;
        Ok(load.and_pgbench(pgbench, options.tps))
    }

    async fn change(&mut self) -> Result<()> {
        catalog::change(&self.stage).await?;
        self.changed = Some(catalog::read(&self.stage.blue).await?);
        Ok(())
    }

    fn sidecar(&self) -> Result<Process> {
        self.stage.replicator()
    }

    fn api(&self) -> Api {
        self.stage.api()
    }

    fn config_file(&self) -> PathBuf {
        self.stage.config_file()
    }

    fn path(&self) -> &Path {
        self.stage.path()
    }

    fn port(&self, side: Side) -> u16 {
        self.server(side).port()
    }

    async fn reached(&self) -> Result<Vec<u16>> {
        let mut ports = Vec::new();
        for router in &self.stage.routers {
            ports.push(router.target_port().await?);
        }
        Ok(ports)
    }

    fn judge_url(&self, side: Side) -> String {
        self.server(side).url(DATABASE)
    }

    async fn findings(&self, load: &Load) -> Result<Vec<Finding>> {
        let seen = load.seen.as_ref().context("there is no pgbench")?;
        let green = &self.stage.green;
        let rows = pgbench::check(&green.connect(DATABASE).await?).await;
        let found = rows.and_then(|rows| {
            ensure!(seen.errors.is_empty(), "pgbench saw errors: {}", seen.errors.join("; "));
            Ok(format!("{} transactions, sums agree, 0 errors", count(rows)))
        });
        let pgbench = Finding { what: "pgbench", found };
        let changed = self.changed.as_ref().context("nothing was changed")?;
        let found = catalog::compare(changed, green)
            .await
            .map(|rows| format!("{} rows equal on blue and green, sequences too", count(rows)));
        Ok(vec![pgbench, Finding { what: "catalog", found }])
    }

    fn keep_logs(&mut self) -> Result<PathBuf> {
        self.stage.keep_logs()
    }
}

impl Postgres {
    fn server(&self, side: Side) -> &tests::postgres::Postgres {
        match side {
            Side::Blue => &self.stage.blue,
            Side::Green => &self.stage.green,
        }
    }
}
