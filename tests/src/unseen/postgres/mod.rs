//! A run between servers of PostgreSQL. [`dump`] judges with pg_dump, [`facts`] with queries of its
//! own.

mod base;
mod dump;
mod facts;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio_postgres::Client;

use super::difference::Difference;
use super::load::{Load, Writer};
use super::play::Pair;
use super::{Choice, Kind, Versions};
use crate::api::Api;
use crate::compare::{Content, Sequences};
use crate::postgres::connect_url;
use crate::process::{Finished, Process};
use crate::stage::{APP, DATABASE, Stage};

use facts::Facts;

/// What clients write meanwhile.
const STATEMENTS: [&str; 10] = [
    "INSERT INTO customer (name) VALUES ('new')",
    "UPDATE customer SET feeling = 'happy' WHERE id = 1 + floor(random() * 100)::int",
    "UPDATE item SET qty = qty + 1 WHERE id = 1 + floor(random() * 50)::int",
    "INSERT INTO sales.orders SELECT max(id) + 1, 1, 1, 7 FROM sales.orders",
    "UPDATE wide SET a = a + 1 WHERE id = 1 + floor(random() * 500)::int",
    "UPDATE keyless SET y = y || '.' WHERE x = 1 + floor(random() * 50)::int",
    "UPDATE spare SET v = v || '.' WHERE id = 1 + floor(random() * 100)::int",
    "UPDATE measure SET v = v + 1 WHERE at = 1 + floor(random() * 1999)::int",
    "DELETE FROM sales.orders WHERE id = floor(random() * 300)::int",
    "UPDATE parent SET v = v || '.' WHERE id = floor(random() * 120)::int",
];

/// Blue and green.
#[derive(Debug)]
pub struct Servers(Stage);

/// What blue was right before the cutover.
#[derive(Debug)]
pub struct Judged {
    dump: PathBuf,
    facts: Facts,
    rows: Content,
    counters: BTreeMap<String, i64>,
}

impl Pair for Servers {
    type Judged = Judged;
    const GO: &[&str] = &[];

    async fn start(choice: &Choice) -> Result<Servers> {
        let Versions::Postgres(blue, green) = choice.versions else {
            bail!("{} are other servers", choice.versions);
        };
        let stage = Stage::builder(blue, green).start().await?;
        base::prepare(&stage).await?;
        Ok(Servers(stage))
    }

    fn replicator(&self) -> Result<Process> {
        self.0.replicator()
    }

    fn cutover(&self, arguments: &[&str], deadline: Duration) -> Result<Finished> {
        self.0.cutover(arguments, deadline)
    }

    fn api(&self) -> Api {
        self.0.api()
    }

    fn keep_logs(&mut self) -> Result<PathBuf> {
        self.0.keep_logs()
    }

    async fn load(&self) -> Result<Load> {
        let client = connect_url(&self.0.blue.url_as(APP, DATABASE)).await?;
        Ok(Load::start(client, &STATEMENTS))
    }

    async fn change(&self, kind: &Kind) -> Result<()> {
        base::change(&self.0, kind).await
    }

    async fn judged(&self) -> Result<Judged> {
        let blue = &self.0.blue;
        Ok(Judged {
            dump: dump::keep(&self.0)?,
            facts: Facts::read(blue).await?,
            rows: Content::read(&blue.url(DATABASE)).await?,
            counters: facts::counters(blue).await?,
        })
    }

    async fn differences(&self, blue: &Judged) -> Result<BTreeSet<Difference>> {
        let green = &self.0.green;
        let mut found = BTreeSet::new();
        let content = Content::read(&green.url(DATABASE)).await?;
        found.extend(
            blue.rows
                .differences(&content, Sequences::Ignored)
                .into_iter()
                .map(Difference::of_rows),
        );
        let after = facts::counters(green).await?;
        let behind =
            |(name, value): &(&String, &i64)| after.get(*name).is_some_and(|there| there < value);
        let behind = blue.counters.iter().filter(behind);
        found.extend(behind.map(|(name, _)| Difference::of_rows(format!("sequence {name}"))));
        let facts = blue.facts.differences(&Facts::read(green).await?);
        found.extend(facts.into_iter().map(Difference::of_others));
        let reference = dump::reference(&self.0, &blue.dump).await?;
        let there = dump::of_green(&self.0)?;
        found.extend(reference.differences(&there).into_iter().map(|name| {
            let (here, there) = (reference.of(&name).trim(), there.of(&name).trim());
            Difference::of_others(format!("{name}: {here} | {there}"))
        }));
        Ok(found)
    }
}

impl Writer for Client {
    async fn write(&mut self, statement: &str) -> Result<bool> {
        match self.batch_execute(statement).await {
            Ok(()) => Ok(true),
            Err(error) if error.as_db_error().is_some() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
