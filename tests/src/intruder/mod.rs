//! Somebody who may use the databases or the host, and is not trusted: what he tries, and what came of it.
//!
//! Each attempt is made for real, on two servers between which the sidecar streams. An attempt has done harm if a
//! write is missing on green, if code ran as our role, if somebody could read or write what is ours, if
//! something of the host lies open, or if somebody was told a client's password.

mod host;
mod liar;
mod marks;
pub mod mysql;
mod names;
mod squatting;
mod web;

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use crate::process::Process;
use crate::stage::{APP, DATABASE, Stage};

/// For anything that takes a moment.
const SOON: Duration = Duration::from_secs(60);

/// Who tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A role that may log in and no more.
    Nobody,
    /// The application's role: it owns the database and the tables.
    Owner,
    /// Another user of the host, or somebody with an order for the API.
    Neighbour,
    /// A page that somebody has open who can reach the API.
    Browser,
    /// Many connections that say nothing.
    Flood,
    /// Whoever answers in a server's place.
    Liar,
}

/// What was tried and what came of it.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Who tried.
    pub who: Who,
    /// What.
    pub what: String,
    /// What harm it did.
    pub harm: Option<String>,
}

/// All attempts.
#[derive(Debug, Default)]
pub struct Summary {
    pub attempts: Vec<Attempt>,
}

impl Summary {
    /// Those that did harm.
    pub fn harmed(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|attempt| attempt.harm.is_some())
    }

    /// One line of JSON.
    pub fn json(&self) -> String {
        let by = |who| self.attempts.iter().filter(|attempt| attempt.who == who).count();
        json!({
            "intruder": self.attempts.len(),
            "harmed": self.harmed().count(),
            "nobody": by(Who::Nobody),
            "owner": by(Who::Owner),
            "neighbour": by(Who::Neighbour),
            "browser": by(Who::Browser),
            "flood": by(Who::Flood),
            "liar": by(Who::Liar),
        })
        .to_string()
    }

    fn note(&mut self, who: Who, what: impl Into<String>, harm: Option<String>) {
        self.attempts.push(Attempt { who, what: what.into(), harm });
    }
}

/// Where it happens: a stream between two servers.
struct Ground {
    stage: Stage,
    /// Runs as long as the attempts do.
    sidecar: Process,
    summary: Summary,
}

const TABLES: &str = "
    CREATE TABLE purse (id int PRIMARY KEY, amount int NOT NULL, owner text DEFAULT 'x');
    INSERT INTO purse SELECT n, 100 FROM generate_series(1, 500) n;
    CREATE TABLE big (id int PRIMARY KEY, filler text);
    CREATE TABLE public.ran (as_role text, by text);
    ALTER TABLE public.ran REPLICA IDENTITY FULL;
    GRANT INSERT ON public.ran TO PUBLIC;
    GRANT SELECT, UPDATE ON purse TO nobody;
    GRANT USAGE ON SCHEMA public TO nobody";

/// Tries everything between servers of these versions.
///
/// # Errors
/// The ground could not be laid; an attempt that fails is no error.
pub async fn run(blue: u32, green: u32) -> Result<Summary> {
    let builder = Stage::builder(blue, green).routers(0);
    let stage = builder.blue_setting("logical_decoding_work_mem", "64kB").start().await?;
    for server in [&stage.blue, &stage.green] {
        server.create_role("nobody").await?;
    }
    stage.create_marker().await?;
    stage.on_blue(TABLES).await?;
    let mut summary = Summary::default();
    // Before the sidecar was there.
    squatting::before(&stage, &mut summary).await?;
    let mut sidecar = stage.replicator()?;
    stage.wait_streaming(&mut sidecar, 1.0, 2 * SOON).await?;
    let mut ground = Ground { stage, sidecar, summary };
    marks::run(&mut ground).await?;
    squatting::after(&mut ground).await?;
    names::run(&mut ground).await?;
    host::run(&mut ground).await?;
    web::run(&mut ground).await?;
    liar::run(&mut ground).await?;
    let Ground { mut sidecar, summary, .. } = ground;
    sidecar.terminate()?;
    Ok(summary)
}

impl Ground {
    /// As that role on blue or green: what the server says if it refuses.
    async fn tries(&self, is_green: bool, role: &str, sql: &str) -> Result<Result<(), String>> {
        let server = if is_green { &self.stage.green } else { &self.stage.blue };
        let client = crate::postgres::connect_url(&server.url_as(role, DATABASE)).await?;
        let done = client.batch_execute(sql).await;
        Ok(done.map_err(|error| crate::postgres::describe(&error).to_string()))
    }

    /// Whoever it is for: a statement that has to be refused, on both sides.
    async fn is_refused(&mut self, role: &str, what: &str, sql: &str) -> Result<()> {
        let who = if role == APP { Who::Owner } else { Who::Nobody };
        for is_green in [false, true] {
            let side = if is_green { "green" } else { "blue" };
            let done = self.tries(is_green, role, sql).await?;
            let harm = done.is_ok().then(|| format!("{side} has let {role} do it"));
            self.summary.note(who, format!("{what}, on {side}"), harm);
        }
        Ok(())
    }
}
