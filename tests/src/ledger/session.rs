//! A client's connection, whatever the engine.

use anyhow::Result;

use super::record::Outcome;

/// A row as text; `None` is NULL.
pub type Row = Vec<Option<String>>;

/// One connection to a server, or to a router in front of one.
pub trait Session: Sized {
    /// What stands before `accounts` and `entries` in SQL.
    const TABLES: &'static str;

    async fn connect(url: &str) -> Result<Self>;

    /// Whether another transaction can be begun in it. Asked between two transactions, as a pool does
    /// before it lends a connection: one that was closed meanwhile is no error, because nothing was sent.
    async fn is_open(&mut self) -> bool;

    /// Runs statements to their end, or to the first that fails.
    async fn run(&mut self, sql: &str) -> Result<(), Failure>;

    async fn rows(&mut self, sql: &str) -> Result<Vec<Row>>;
}

/// Why statements did not succeed.
#[derive(Debug)]
pub struct Failure {
    pub text: String,
    /// The server has answered, and in a way that rules out that a COMMIT among the statements was done.
    pub is_decided: bool,
}

impl Failure {
    /// What it means where the statements had a COMMIT among them.
    pub fn of_commit(self) -> Outcome {
        match self.is_decided {
            true => Outcome::Refused(self.text),
            false => Outcome::Indeterminate(self.text),
        }
    }
}
