//! MariaDB 10.11 to 11.8 and MySQL 9.7 to 9.7, through our own proxy or HAProxy.

mod catalog;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tests::api::Api;
use tests::ledger;
use tests::mysql::oltp::Oltp;
use tests::mysql::{Router as Through, Stage, Version};
use tests::process::Process;

use crate::load::{ACCOUNTS, Load};
use crate::scene::{Scene, Side, Way};
use crate::story::{Story, count};
use crate::verdict::Finding;
use crate::{Engine, Options, Router};

/// Tables as sysbench's.
const TABLES: u32 = 4;
/// Of all of them together, for each unit of scale.
const ROWS: u64 = 20_000;

pub struct Mysql {
    stage: Stage,
    bulk: Oltp,
    /// The catalog and the tables as they were on blue when they had been changed.
    changed: Option<catalog::Content>,
}

impl Scene for Mysql {
    fn way(&self) -> Way {
        match &self.stage.router {
            Through::Embedded(_) => Way { name: "our proxy", holds: true, needs_sidecar: true },
            Through::HaProxy(_) => Way { name: "HAProxy", holds: false, needs_sidecar: false },
        }
    }

    async fn set(options: &Options, story: &Story) -> Result<Mysql> {
        let versions = match options.engine {
            Engine::Mariadb => (Version::Mariadb10_11, Version::Mariadb11_8),
            _ => (Version::Mysql9_7, Version::Mysql9_7),
        };
        let stage = match options.router {
            Router::Embedded => Stage::embedded(versions, &[], "")?,
            Router::Haproxy => Stage::start(versions, &[], "")?,
        };
        for (name, server) in [("blue", &stage.blue), ("green", &stage.green)] {
            let engine = if server.version().is_mariadb() { "MariaDB" } else { "MySQL" };
            let version = server.value("select @@version")?;
            story.tell(name, &format!("{engine} {version} on port {}", server.port()));
        }
        let port = stage.router.port();
        story.tell(
            "router",
            &match options.router {
                Router::Embedded => format!("our own proxy, on port {port} when the sidecar runs"),
                Router::Haproxy => format!("HAProxy on port {port}, pointing at blue"),
            },
        );
        let bulk =
            Oltp { tables: TABLES, rows: u64::from(options.scale) * ROWS / u64::from(TABLES) };
        Ok(Mysql { stage, bulk, changed: None })
    }

    async fn fill(&self, _: &Options, story: &Story) -> Result<()> {
        self.stage.on_blue(&self.bulk.create()).context("the tables of the load")?;
        self.stage.on_blue(&ledger::mysql::tables(ACCOUNTS)).context("the ledger's tables")?;
        let items = catalog::create(&self.stage)?;
        let text = format!(
            "{} rows in tables as sysbench's, a ledger, a catalog of {} items of every type",
            count(self.bulk.rows * u64::from(TABLES)),
            count(items)
        );
        story.tell("data", &text);
        Ok(())
    }

    fn load(&self, options: &Options) -> Result<Load> {
        Load::start(self, self.stage.app_url(), options.tps + options.ledger_rate())
    }

    async fn change(&mut self) -> Result<()> {
        catalog::change(&self.stage)?;
        self.bulk.run(&self.stage.mover_url(&self.stage.blue), 2, 500, 1)?;
        self.changed = Some(self.read(Side::Blue)?);
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
        Ok(vec![self.stage.target_port()?])
    }

    fn judge_url(&self, side: Side) -> String {
        self.stage.mover_url(self.server(side))
    }

    async fn findings(&self, _: &Load) -> Result<Vec<Finding>> {
        let changed = self.changed.as_ref().context("nothing was changed")?;
        let found = self.read(Side::Green).and_then(|green| catalog::compare(changed, &green));
        let found = found.map(|rows| format!("{} rows equal on blue and green", count(rows)));
        Ok(vec![Finding { what: "catalog", found }])
    }

    fn keep_logs(&mut self) -> Result<PathBuf> {
        self.stage.keep_logs()
    }
}

impl Mysql {
    fn server(&self, side: Side) -> &tests::mysql::Mysql {
        match side {
            Side::Blue => &self.stage.blue,
            Side::Green => &self.stage.green,
        }
    }

    fn read(&self, side: Side) -> Result<catalog::Content> {
        catalog::read(&self.stage.mover(self.server(side)), self.bulk)
    }
}
