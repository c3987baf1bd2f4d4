//! One transaction of the ledger: money goes from one account to another.

use super::record::{Id, Outcome};
use super::session::Session;

/// What is transferred, by whom.
pub struct Transfer {
    id: Id,
    from: u64,
    to: u64,
    amount: u64,
    /// Statement by statement, so that the transaction is open across round trips, or all in one.
    interactive: bool,
}

impl Transfer {
    pub fn random(id: Id, accounts: u32, random: &mut Random) -> Transfer {
        let accounts = u64::from(accounts.max(1));
        Transfer {
            id,
            from: 1 + random.below(accounts),
            to: 1 + random.below(accounts),
            amount: 1 + random.below(20),
            interactive: random.below(2) == 0,
        }
    }

    pub async fn perform<S: Session>(&self, session: &mut S) -> Outcome {
        let statements = self.statements(S::TABLES);
        if self.interactive {
            for statement in std::iter::once("BEGIN").chain(statements.iter().map(String::as_str)) {
                if let Err(failure) = session.run(statement).await {
                    return Outcome::Refused(failure.text);
                }
            }
            return answer(session, "COMMIT").await;
        }
        answer(session, &format!("BEGIN; {}; COMMIT", statements.join("; "))).await
    }

    /// Accounts are locked in the order of their ids: two transfers cannot deadlock.
    fn statements(&self, tables: &str) -> Vec<String> {
        let (from, to, amount) = (self.from, self.to, self.amount);
        let update = |sign: char, id: u64| {
            let balance = format!("balance = balance {sign} {amount}");
            (id, format!("UPDATE {tables}accounts SET {balance} WHERE id = {id}"))
        };
        let mut updates = vec![update('-', from), update('+', to)];
        updates.sort_by_key(|(account, _)| *account);
        let mut statements: Vec<_> = updates.into_iter().map(|(_, sql)| sql).collect();
        let (client, seq) = self.id;
        statements.push(format!(
            "INSERT INTO {tables}entries (client, seq, from_account, to_account, amount) \
             VALUES ({client}, {seq}, {from}, {to}, {amount})"
        ));
        statements
    }
}

/// An error from the server in place of COMMIT's answer means that it did not commit, unless the
/// session was being ended: then nobody knows. So does a connection that is simply gone.
async fn answer<S: Session>(session: &mut S, sql: &str) -> Outcome {
    match session.run(sql).await {
        Ok(()) => Outcome::Acknowledged,
        Err(failure) => failure.of_commit(),
    }
}

/// SplitMix64: enough for a workload, the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}
