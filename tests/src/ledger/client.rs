//! One client of the ledger. Everything goes over the simple protocol: named statements do not
//! survive transaction pooling in PgBouncer before 1.21.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::MissedTickBehavior;
use tokio_postgres::Client;

use super::Options;
use super::crowd::Crowd;
use super::record::{Outcome, Record};
use crate::postgres::{connect_url, describe};

/// Between two attempts to connect, so that a dead server does not keep a core busy.
const RECONNECT: Duration = Duration::from_millis(50);

/// Runs all clients until they are stopped.
pub async fn run_all(options: &Options, record: &Record, crowd: &Crowd) -> Result<()> {
    let routed = (1..=options.clients).map(|number| (number, None));
    let direct = (0..options.direct.len()).map(|at| (options.clients + 1 + at as u32, Some(at)));
    let clients =
        routed.chain(direct).map(|(number, direct)| run(number, direct, options, record, crowd));
    futures_util::future::try_join_all(clients).await?;
    Ok(())
}

async fn run(
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
    let mut connection: Option<Client> = None;
    let mut seq = 0;
    while !crowd.is_stopped() {
        tick.tick().await;
        crowd.between(direct).await;
        if crowd.is_stopped() {
            break;
        }
        let client = match connection.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => match connect_url(url).await {
                Ok(client) => client,
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
        let outcome = transfer.perform(&client).await;
        let keep = outcome == Outcome::Acknowledged;
        match direct {
            None => record.note(id, outcome, start.elapsed())?,
            Some(_) => record.note_direct(id, outcome)?,
        }
        if keep {
            connection = Some(client);
        }
    }
    Ok(())
}

struct Transfer {
    id: (i32, i64),
    from: u64,
    to: u64,
    amount: u64,
    /// Statement by statement, so that the transaction is open across round trips, or all in one.
    interactive: bool,
}

impl Transfer {
    fn random(id: (i32, i64), accounts: u32, random: &mut Random) -> Transfer {
        let accounts = u64::from(accounts.max(1));
        Transfer {
            id,
            from: 1 + random.below(accounts),
            to: 1 + random.below(accounts),
            amount: 1 + random.below(20),
            interactive: random.below(2) == 0,
        }
    }

    async fn perform(&self, client: &Client) -> Outcome {
        let statements = self.statements();
        if self.interactive {
            for statement in std::iter::once("BEGIN").chain(statements.iter().map(String::as_str)) {
                if let Err(error) = client.batch_execute(statement).await {
                    return Outcome::Refused(describe(&error).to_string());
                }
            }
            return answer(client.batch_execute("COMMIT").await);
        }
        let all = format!("BEGIN; {}; COMMIT", statements.join("; "));
        let outcome = client.batch_execute(&all).await;
        answer(outcome)
    }

    /// Accounts are locked in the order of their ids: two transfers cannot deadlock.
    fn statements(&self) -> Vec<String> {
        let (from, to, amount) = (self.from, self.to, self.amount);
        let mut updates = vec![
            (
                from,
                format!(
                    "UPDATE ledger.accounts SET balance = balance - {amount} WHERE id = {from}"
                ),
            ),
            (
                to,
                format!("UPDATE ledger.accounts SET balance = balance + {amount} WHERE id = {to}"),
            ),
        ];
        updates.sort_by_key(|(account, _)| *account);
        let mut statements: Vec<_> = updates.into_iter().map(|(_, sql)| sql).collect();
        let (client, seq) = self.id;
        statements.push(format!(
            "INSERT INTO ledger.entries (client, seq, from_account, to_account, amount) \
             VALUES ({client}, {seq}, {from}, {to}, {amount})"
        ));
        statements
    }
}

/// An error from the server in place of COMMIT's answer means that it did not commit, except when
/// the session was being shut down (class 57) or the connection failed (class 08): then nobody
/// knows. So does a connection that is simply gone.
fn answer(result: Result<(), tokio_postgres::Error>) -> Outcome {
    match result {
        Ok(()) => Outcome::Acknowledged,
        Err(error) => {
            let text = describe(&error).to_string();
            let class = error.code().map(|code| code.code().get(..2).unwrap_or("").to_owned());
            match class.as_deref() {
                None | Some("57" | "08" | "XX") => Outcome::Indeterminate(text),
                Some(_) => Outcome::Refused(text),
            }
        }
    }
}

/// SplitMix64: enough for a workload, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}
