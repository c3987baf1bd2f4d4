//! A run between servers of MySQL or MariaDB. [`definitions`], [`rows`], [`accounts`] and
//! [`settings`] judge, each with statements of its own.

mod accounts;
mod base;
mod definitions;
mod rows;
mod settings;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};

use super::difference::Difference;
use super::load::{Load, Writer};
use super::play::Pair;
use super::{Choice, Kind, Versions};
use crate::api::Api;
use crate::ledger::mysql::options;
use crate::mysql::{DATABASE, Stage};
use crate::process::{Finished, Process};

use accounts::Accounts;
use definitions::Definitions;
use rows::Rows;
use settings::Settings;

/// What clients write meanwhile.
const STATEMENTS: [&str; 10] = [
    "INSERT INTO customer (name) VALUES ('new')",
    "UPDATE customer SET feeling = 'happy' WHERE id = 1 + floor(rand() * 100)",
    "UPDATE item SET qty = qty + 1 WHERE id = 1 + floor(rand() * 50)",
    "INSERT INTO orders (customer, item, total) VALUES (1, 1, 7)",
    "UPDATE wide SET a = a + 1 WHERE id = 1 + floor(rand() * 500)",
    "UPDATE keyless SET y = concat(y, '.') WHERE x = 1 + floor(rand() * 50) AND length(y) < 40",
    "UPDATE spare SET v = concat(v, '.') WHERE id = 1 + floor(rand() * 100) AND length(v) < 90",
    "UPDATE measure SET v = v + 1 WHERE at = 1 + floor(rand() * 1999)",
    "DELETE FROM orders WHERE id = floor(rand() * 300)",
    "UPDATE label SET word = concat(word, 'é') WHERE id = 1 + floor(rand() * 50) AND length(word) < 40",
];

/// Blue and green.
#[derive(Debug)]
pub struct Servers {
    stage: Stage,
    /// Blue's settings before anything changed: versions have defaults of their own.
    settings: Settings,
}

/// What blue was right before the cutover.
#[derive(Debug)]
pub struct Judged {
    definitions: Definitions,
    rows: Rows,
    accounts: Accounts,
    settings: Settings,
}

impl Pair for Servers {
    type Judged = Judged;
    const GO: &[&str] = &["--max-pause", "20s"];

    async fn start(choice: &Choice) -> Result<Servers> {
        let Versions::Mysql(blue, green) = choice.versions else {
            bail!("{} are other servers", choice.versions);
        };
        let config = match choice.repeats_definitions {
            true => "[apply]\nddl = \"apply\"\n",
            false => "",
        };
        let stage = Stage::start((blue, green), &[], config)?;
        base::prepare(&stage)?;
        let settings = Settings::read(&stage.blue)?;
        Ok(Servers { stage, settings })
    }

    fn replicator(&self) -> Result<Process> {
        self.stage.replicator()
    }

    fn cutover(&self, arguments: &[&str], deadline: Duration) -> Result<Finished> {
        self.stage.cutover(arguments, deadline)
    }

    fn api(&self) -> Api {
        self.stage.api()
    }

    fn keep_logs(&mut self) -> Result<PathBuf> {
        self.stage.keep_logs()
    }

    async fn load(&self) -> Result<Load> {
        let url = self.stage.app_url_at(self.stage.blue.port());
        let writer = Conn::new(options(&url)?).await.context("the session of the load")?;
        Ok(Load::start(writer, &STATEMENTS))
    }

    async fn change(&self, kind: &Kind) -> Result<()> {
        // The client knows DELIMITER at the beginning of a line.
        self.stage.blue.run(&format!("use {DATABASE};\n{}", kind.sql.join(";\n")))
    }

    async fn judged(&self) -> Result<Judged> {
        let blue = &self.stage.blue;
        Ok(Judged {
            definitions: Definitions::read(blue)?,
            rows: Rows::read(blue)?,
            accounts: Accounts::read(blue)?,
            settings: Settings::read(blue)?,
        })
    }

    async fn differences(&self, blue: &Judged) -> Result<BTreeSet<Difference>> {
        let green = &self.stage.green;
        let mut found = BTreeSet::new();
        let rows = blue.rows.differences(&Rows::read(green)?);
        found.extend(rows.into_iter().map(Difference::of_rows));
        let reference = blue.definitions.on(green)?;
        let there = Definitions::read(green)?;
        found.extend(reference.differences(&there).into_iter().map(Difference::of_others));
        let accounts = blue.accounts.differences(&Accounts::read(green)?);
        found.extend(accounts.into_iter().map(Difference::of_others));
        let settings = blue.settings.changed_since(&self.settings, &Settings::read(green)?);
        found.extend(settings.into_iter().map(Difference::of_others));
        Ok(found)
    }
}

impl Writer for Conn {
    async fn write(&mut self, statement: &str) -> Result<bool> {
        match self.query_drop(statement).await {
            Ok(()) => Ok(true),
            Err(Error::Server(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
