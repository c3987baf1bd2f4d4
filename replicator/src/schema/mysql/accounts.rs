//! Accounts and roles of blue that green lacks, made there as they are on blue: with their secrets, which pass
//! through here and are never shown. One that is there already stays as it is: the flip compares it.

use decoders::mysql::server::{self, Conn, Server, ServerUrl, code};
use mysql_async::prelude::Queryable;

use crate::backfill::BackfillError;
use crate::backfill::mysql::{failed, of_catalog, of_source};
use crate::check::mysql::logins::{self, Logins, account_text};

/// What was made, and what was refused, in words.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CarriedAccounts {
    /// Accounts, as statements name them.
    pub made: Vec<String>,
    /// What green refused, with the number of its error.
    pub refused: Vec<String>,
}

/// One statement of an account; it may hold a secret.
struct Step {
    account: String,
    what: &'static str,
    sql: String,
}

/// Makes the accounts that have to do with the database (all, without one) and are missing on green.
///
/// # Errors
/// The servers', but for what green refuses of an account: that is in what it gives.
pub async fn carry_accounts(
    blue: &ServerUrl,
    green: &ServerUrl,
    database: Option<&str>,
) -> Result<CarriedAccounts, BackfillError> {
    let (mut from, here) = open(blue, "blue").await?;
    let (mut to, there) = open(green, "green").await?;
    let missing = here.all.iter().filter(|(name, login)| {
        login.concerns(database) && **name != there.ours && !there.all.contains_key(*name)
    });
    let (mut accounts, mut rights, mut carried) =
        (Vec::new(), Vec::new(), CarriedAccounts::default());
    let doing = "reading an account on blue";
    if !here.is_mariadb {
        // The text form of some secrets is none that can be typed.
        let hex = "SET SESSION print_identified_with_as_hex = ON";
        from.query_drop(hex).await.map_err(|error| failed(doing, error))?;
    }
    for (name, login) in missing {
        let account = account_text(name, login.is_role);
        let sql = match login.is_role {
            true => format!("CREATE ROLE {account}"),
            false => {
                let shown: Option<String> = from
                    .query_first(format!("SHOW CREATE USER {account}"))
                    .await
                    .map_err(|error| failed(doing, error))?;
                let Some(shown) = shown else { continue };
                shown
            }
        };
        accounts.push(Step { account: account.clone(), what: "CREATE USER", sql });
        let mut statements: Vec<&String> = login.grants.rights.values().collect();
        statements.dedup();
        rights.extend(statements.into_iter().map(|sql| Step {
            account: account.clone(),
            what: "GRANT",
            sql: sql.clone(),
        }));
        if here.is_mariadb && !login.default_roles.is_empty() {
            let role = account_text(&(login.default_roles.clone(), String::new()), true);
            let sql = format!("SET DEFAULT ROLE {role} FOR {account}");
            rights.push(Step { account: account.clone(), what: "SET DEFAULT ROLE", sql });
        }
    }
    carried.made = accounts.iter().map(|step| step.account.clone()).collect();
    for steps in [accounts, rights] {
        carried.refused.extend(run(&mut to, steps).await?);
    }
    let is_made = |account: &String| !carried.refused.contains(&refused(account, "CREATE USER"));
    carried.made.retain(|account| is_made(account));
    Ok(carried)
}

fn refused(account: &str, what: &str) -> String {
    format!("{account}: {what}")
}

async fn open(url: &ServerUrl, side: &str) -> Result<(Conn, Logins), BackfillError> {
    let mut conn = server::connect(url).await.map_err(of_source)?;
    let server = Server::read(&mut conn).await.map_err(of_source)?;
    let logins = logins::read(&mut conn, &server).await;
    Ok((conn, logins.map_err(|error| of_catalog(side, error))?))
}

/// Runs them, each once; one that needs another one first, such as a role, is tried again behind it. What green
/// refuses is told without its words, which may quote a secret.
async fn run(green: &mut Conn, mut steps: Vec<Step>) -> Result<Vec<String>, BackfillError> {
    loop {
        let (before, mut left) = (steps.len(), Vec::new());
        for step in steps {
            match green.query_drop(&step.sql).await {
                Ok(()) => {}
                Err(error) => match code(&error) {
                    Some(number) => left.push((step, number)),
                    None => {
                        let doing = format!("making {} on green", step.account);
                        return Err(failed(doing, error));
                    }
                },
            }
        }
        if left.is_empty() || left.len() == before {
            for (step, number) in &left {
                let (account, what) = (&step.account, step.what);
                tracing::warn!(account, what, error = number, "green refuses it");
            }
            return Ok(left.iter().map(|(step, _)| refused(&step.account, step.what)).collect());
        }
        steps = left.into_iter().map(|(step, _)| step).collect();
    }
}
