//! One client of the ledger: a session that is kept from transaction to transaction.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::MissedTickBehavior;

use super::Options;
use super::crowd::Crowd;
use super::record::{Outcome, Record};
use super::session::Session;
use super::transfer::{Random, Transfer};

/// Between two attempts to connect, so that a dead server does not keep a core busy.
pub const RECONNECT: Duration = Duration::from_millis(50);

/// Runs all clients until they are stopped.
pub async fn run_all<S: Session>(options: &Options, record: &Record, crowd: &Crowd) -> Result<()> {
    let routed = (1..=options.clients).map(|number| (number, None));
    let direct = (0..options.direct.len()).map(|at| (options.clients + 1 + at as u32, Some(at)));
    let clients = routed
        .chain(direct)
        .map(|(number, direct)| run::<S>(number, direct, options, record, crowd));
    futures_util::future::try_join_all(clients).await?;
    Ok(())
}

async fn run<S: Session>(
    number: u32,
    direct: Option<usize>,
    options: &Options,
    record: &Record,
    crowd: &Crowd,
) -> Result<()> {
    let url = direct.and_then(|at| options.direct.get(at)).unwrap_or(&options.url);
    let period = Duration::from_secs(1) * options.clients / options.rate.max(1);
    // Clients take turns instead of writing all at once.
    let first = tokio::time::Instant::now() + period * number / options.clients;
    let mut tick = tokio::time::interval_at(first, period.max(Duration::from_micros(100)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);

    let mut random = Random(u64::from(number));
    let mut connection: Option<S> = None;
    let mut seq = 0;
    while !crowd.is_stopped() {
        tick.tick().await;
        crowd.between(direct).await;
        if crowd.is_stopped() {
            break;
        }
        let mut kept = None;
        if let Some(mut session) = connection.take()
            && session.is_open().await
        {
            kept = Some(session);
        }
        let mut session = match kept {
            Some(session) => session,
            None => match S::connect(url).await {
                Ok(session) => session,
                Err(error) => {
                    // A direct client is refused most of the time: no error of the product.
                    if direct.is_none() {
                        record.note_connection_error(format!("{error:#}"));
                    }
                    tokio::time::sleep(RECONNECT).await;
                    continue;
                }
            },
        };
        seq += 1;
        let id = (i32::try_from(number)?, seq);
        let transfer = Transfer::random(id, options.accounts, &mut random);
        let start = Instant::now();
        let outcome = transfer.perform(&mut session).await;
        let keep = outcome == Outcome::Acknowledged;
        match direct {
            None => record.note(id, outcome, start.elapsed())?,
            Some(_) => record.note_direct(id, outcome)?,
        }
        if keep {
            connection = Some(session);
        }
    }
    Ok(())
}
