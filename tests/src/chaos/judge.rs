//! What is true after a run, asked of the servers and the clients, not of the product.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use serde_json::Value;

use super::pair::{Pair, SOON, Side, brief};
use super::server::{self, Server};
use crate::ledger::LedgerReport;
use crate::stage::APP;

/// How long one try to write may take.
const TRY: Duration = Duration::from_secs(10);
/// A closed side is ajar for moments, while sessions of ours go in.
const AJAR: Duration = Duration::from_secs(10);

/// What was found.
#[derive(Debug)]
pub struct Found {
    pub serving: Side,
    /// The longest time without service after the fault, as far as somebody could have served.
    pub longest_wait: Duration,
    /// The same from when the run was given up on, if it was.
    pub abort_wait: Option<Duration>,
    pub ledger: LedgerReport,
    /// Errors that clients saw since the last look.
    pub client_errors: usize,
    /// The sidecar's account of its last run, if it has one.
    pub report: Value,
}

/// Waits until nobody has anything left to do, and looks at everything. An error is an illegal
/// state, in words. Clients go on afterwards. `since`: the fault, or the end of what nobody could have
/// served through.
pub async fn judge(pair: &mut Pair, since: Instant) -> Result<Found> {
    let status = quiet(pair).await?;
    let report = status["cutover"]["report"].clone();
    let more = pair.ledger.more_acknowledged(5, SOON).await;
    more.with_context(|| format!("clients are not served; {}", brief(&status)))?;
    let longest_wait = pair.ledger.longest_gap(since);
    let abort_wait = gave_up_at(&report).map(|at| pair.ledger.longest_gap(at.max(since)));

    let serving = one_writer(pair).await?;
    pair.serves(serving)?;
    if serving == Side::Green {
        pair.green_has_served = true;
        pair.ledger.admit(1, true);
    }
    pair.ledger.rest(SOON).await.context("a client was never answered")?;
    let looked = look(pair, serving).await;
    let ledger = pair.ledger.check_resting(&pair.server(serving).own_url()).await;
    pair.ledger.go_on();
    looked?;
    let ledger = ledger?;
    let client_errors = ledger.client_errors - pair.client_errors;
    pair.client_errors = ledger.client_errors;
    if let Some(said) = report["serving"].as_str()
        && report["outcome"] != "held"
    {
        ensure!(said == serving.name(), "{} serves, and the report says {said}", serving.name());
    }
    Ok(Found { serving, longest_wait, abort_wait, ledger, client_errors, report })
}

/// When the run began to go back, by its own account.
fn gave_up_at(report: &Value) -> Option<Instant> {
    let steps = report["steps"].as_array()?;
    let abort = steps.iter().find(|step| step["step"] == "abort")?;
    let start: Timestamp = abort["start"].as_str()?.parse().ok()?;
    let ago = Timestamp::now().duration_since(start);
    Instant::now().checked_sub(Duration::try_from(ago).ok()?)
}

/// Waits until the sidecar runs and no run goes on. A run that is held is one that goes on.
async fn quiet(pair: &mut Pair) -> Result<Value> {
    let is_broken = pair.is_broken;
    pair.until("the end of the run", 2 * SOON, |status| {
        let run = &status["cutover"];
        let over = run.is_null() || !run["report"].is_null();
        let streams = matches!(status["phase"].as_str(), Some("streaming" | "cut_over"));
        over && (streams || is_broken || run["report"]["outcome"] == "held")
    })
    .await
}

async fn look(pair: &mut Pair, serving: Side) -> Result<()> {
    let settings = pair.server(serving).settings().await?;
    let before = &pair.baseline[serving as usize];
    ensure!(
        settings == *before,
        "{}'s settings are not as they were: {settings} instead of {before}",
        serving.name()
    );
    let routers: Vec<_> = match pair.routers.is_empty() {
        true => vec![pair.app_url().to_owned()],
        false => pair.routers.iter().map(|router| router.url_as(APP)).collect(),
    };
    for router in routers {
        server_behind(&router).await.context("through a router")?;
    }
    if !pair.is_broken {
        // Whoever serves, the other side follows: there is a way to go, and a way back.
        pair.until_carried(SOON).await?;
    }
    Ok(())
}

/// Exactly one side takes writes.
async fn one_writer(pair: &mut Pair) -> Result<Side> {
    let until = Instant::now() + AJAR;
    loop {
        let (blue, green) = (takes_writes(&pair.blue).await, closed_or_takes_writes(pair).await);
        match (&blue, &green) {
            (Ok(()), Err(_)) => return Ok(Side::Blue),
            (Err(_), Ok(())) => return Ok(Side::Green),
            (Ok(()), Ok(())) => bail!("TWO WRITERS: both sides take writes"),
            (Err(blue), Err(green)) if Instant::now() >= until => {
                bail!("nobody takes writes: blue says {blue:#}; green says {green:#}")
            }
            (Err(_), Err(_)) => pair.pass(Duration::from_millis(100)).await?,
        }
    }
}

/// Green before its first turn is open to whoever has its address, as any new server is: it is the
/// routers that do not lead there.
async fn closed_or_takes_writes(pair: &Pair) -> Result<()> {
    let router = pair.routers.first();
    let leads_there = match router {
        Some(router) => Some(router.target_port().await? == pair.router_port(Side::Green)),
        None => None,
    };
    if !pair.green_has_served && leads_there == Some(false) {
        bail!("it has never served, and the router does not lead there");
    }
    if !pair.green_has_served && leads_there.is_none() {
        let url = pair.app_url().to_owned();
        let through = server_behind(&url).await?;
        let own = server_behind(&pair.green.own_url()).await?;
        ensure!(through == own, "it has never served, and the proxy does not lead there");
    }
    takes_writes(&pair.green).await
}

async fn server_behind(url: &str) -> Result<String> {
    tokio::time::timeout(TRY, server::server_behind(url)).await.context("no answer in time")?
}

/// A committed write of the application, past every router.
async fn takes_writes(server: &Server) -> Result<()> {
    let token = format!("{:?}", std::time::SystemTime::now()).replace('\'', "");
    let insert = format!("INSERT INTO probe VALUES ('{token}')");
    let url = server.app_url();
    tokio::time::timeout(TRY, server::run(&url, &insert)).await.context("no answer in time")?
}
