//! The judge: is everything acknowledged there, once, and nothing else?

use std::collections::HashMap;
use std::fmt;

use anyhow::{Context, Result, bail};

use super::INITIAL_BALANCE;
use super::is_mysql;
use super::record::{Id, Record};
use super::session::Session;

/// What the judge found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LedgerReport {
    pub acknowledged: usize,
    /// Acknowledged, but not there.
    pub lost: usize,
    /// Ids that are there more than once; each further row counts.
    pub duplicated: usize,
    /// There, but no client was ever told so: refused or never sent.
    pub invented: usize,
    /// COMMIT sent and no answer: these may be there, once.
    pub indeterminate: usize,
    /// Errors that clients saw, of every kind.
    pub client_errors: usize,
    /// Accounts whose balance is not what their entries say.
    pub wrong_balances: usize,
    /// Total of all balances minus what was there at the start. Money is neither made nor lost.
    pub money_off: i64,
    /// The first few ids of each kind of damage.
    pub examples: Vec<String>,
    /// What clients were told, each text once.
    pub errors: Vec<String>,
}

impl LedgerReport {
    /// Nothing lost, nothing twice, nothing invented, and the money adds up. Client errors are
    /// not part of it: a killed server may cause them.
    pub fn is_exact(&self) -> bool {
        self.lost == 0
            && self.duplicated == 0
            && self.invented == 0
            && self.wrong_balances == 0
            && self.money_off == 0
    }

    /// Fails with the whole report unless the ledger is exact.
    pub fn ensure_exact(&self) -> Result<()> {
        if !self.is_exact() {
            bail!("the ledger is damaged: {self}");
        }
        Ok(())
    }

    /// The same, and no client saw any error.
    pub fn ensure_unnoticed(&self) -> Result<()> {
        self.ensure_exact()?;
        if self.client_errors != 0 {
            bail!("clients saw errors: {self}");
        }
        Ok(())
    }
}

impl fmt::Display for LedgerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} acknowledged, {} lost, {} duplicated, {} indeterminate, {} client errors",
            self.acknowledged, self.lost, self.duplicated, self.indeterminate, self.client_errors
        )?;
        if !self.is_exact() {
            write!(
                f,
                "; {} invented, {} wrong balances, money off by {}",
                self.invented, self.wrong_balances, self.money_off
            )?;
        }
        for line in self.examples.iter().chain(&self.errors) {
            write!(f, "\n  {line}")?;
        }
        Ok(())
    }
}

const EXAMPLES: usize = 5;

/// Compares the record with the database behind this URL. The workload must have stopped.
pub async fn check(record: &Record, url: &str) -> Result<LedgerReport> {
    match is_mysql(url) {
        true => judge::<mysql_async::Conn>(record, url).await,
        false => judge::<tokio_postgres::Client>(record, url).await,
    }
}

async fn judge<S: Session>(record: &Record, url: &str) -> Result<LedgerReport> {
    let mut session = S::connect(url).await.context("the ledger's judge cannot connect")?;
    let mut present: HashMap<Id, usize> = HashMap::new();
    let entries = format!("SELECT client, seq FROM {}entries", S::TABLES);
    for row in session.rows(&entries).await? {
        let [Some(client), Some(seq)] = row.as_slice() else { bail!("an entry without an id") };
        *present.entry((client.parse()?, seq.parse()?)).or_default() += 1;
    }
    let acknowledged = record.acknowledged_ids();
    let indeterminate = record.indeterminate_ids();

    let mut report = LedgerReport {
        acknowledged: acknowledged.len(),
        indeterminate: indeterminate.len(),
        client_errors: record.client_errors(),
        errors: record.errors().into_iter().take(EXAMPLES).collect(),
        ..LedgerReport::default()
    };
    let mut lost: Vec<_> = acknowledged.iter().filter(|id| !present.contains_key(id)).collect();
    lost.sort();
    report.lost = lost.len();
    note(&mut report.examples, "lost", lost.iter().copied());

    let mut twice: Vec<_> = present.iter().filter(|(_, count)| **count > 1).collect();
    twice.sort();
    report.duplicated = twice.iter().map(|(_, count)| **count - 1).sum();
    note(&mut report.examples, "duplicated", twice.iter().map(|(id, _)| *id));

    let known = |id: &Id| acknowledged.contains(id) || indeterminate.contains(id);
    let mut invented: Vec<_> = present.keys().filter(|id| !known(id)).collect();
    invented.sort();
    report.invented = invented.len();
    note(&mut report.examples, "invented", invented.iter().copied());

    balances(&mut session, record, &mut report).await?;
    Ok(report)
}

async fn balances<S: Session>(
    session: &mut S,
    record: &Record,
    report: &mut LedgerReport,
) -> Result<()> {
    let tables = S::TABLES;
    let sql = format!(
        "SELECT a.id, a.balance, {INITIAL_BALANCE}
             + coalesce((SELECT sum(amount) FROM {tables}entries WHERE to_account = a.id), 0)
             - coalesce((SELECT sum(amount) FROM {tables}entries WHERE from_account = a.id), 0)
         FROM {tables}accounts a ORDER BY a.id"
    );
    let accounts = session.rows(&sql).await?;
    let mut total = 0_i64;
    for row in &accounts {
        let [Some(id), Some(balance), Some(expected)] = row.as_slice() else {
            bail!("an account with NULL in it")
        };
        total += balance.parse::<i64>()?;
        if balance != expected {
            report.wrong_balances += 1;
            if report.wrong_balances <= EXAMPLES {
                report.examples.push(format!("account {id} holds {balance}, not {expected}"));
            }
        }
    }
    report.money_off = total - i64::from(record.accounts()) * INITIAL_BALANCE;
    Ok(())
}

fn note<'a>(examples: &mut Vec<String>, kind: &str, ids: impl Iterator<Item = &'a Id>) {
    for (client, seq) in ids.take(EXAMPLES) {
        examples.push(format!("{kind}: client {client} seq {seq}"));
    }
}
