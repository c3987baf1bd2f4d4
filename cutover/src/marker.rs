//! Markers: tokens in blue's stream that prove how far it has been read.
//!
//! On PostgreSQL 14 and later a marker is a transactional logical message. It leaves nothing
//! behind, and other subscribers of blue never see it because they did not ask for messages.
//! pgoutput forwards messages only since version 14 (manual, 55.5.1, option `messages`); before
//! that a marker is a row in [`MARKER_TABLE`], which has to be part of the publication.
//! On MySQL and MariaDB it is such a row, too. [`token_in`] recognises both. A row of that table is never applied to green.

use std::fmt;
use std::str::FromStr;

use decoders::{ChangeEvent, Value};
use serde::{Deserialize, Serialize};

use crate::ports::Epoch;

/// Schema of our own tables, on blue and on green.
pub const SCHEMA: &str = "_cutover";
/// Table of row markers on blue, in [`SCHEMA`].
pub const MARKER_TABLE: &str = "marker";
/// Prefix of marker messages.
pub const MESSAGE_PREFIX: &str = "cutover.marker";
/// The first version whose pgoutput forwards logical messages, as `server_version_num`.
pub const MESSAGES_SINCE: u32 = 140_000;

/// Creates the table of row markers on blue (before version 14). Idempotent.
pub const CREATE_MARKER_TABLE: &str = "CREATE SCHEMA IF NOT EXISTS _cutover; \
     CREATE TABLE IF NOT EXISTS _cutover.marker (token text PRIMARY KEY)";

/// Creates the table of row markers on MySQL and MariaDB. Idempotent. It belongs into the binlog as the
/// markers do: a replica of that server could not apply them without it.
pub const MYSQL_MARKER_TABLE: [&str; 2] = [
    "CREATE DATABASE IF NOT EXISTS _cutover",
    "CREATE TABLE IF NOT EXISTS _cutover.marker \
     (token varchar(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY) ENGINE = InnoDB",
];

/// How a marker gets into the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkerKind {
    /// `pg_logical_emit_message`.
    Message,
    /// A row in `_cutover.marker`; on PostgreSQL the table must be published.
    Row,
}

impl MarkerKind {
    /// The kind for a blue of this `server_version_num`.
    pub fn for_version(version_num: u32) -> Self {
        if version_num >= MESSAGES_SINCE { MarkerKind::Message } else { MarkerKind::Row }
    }

    /// The statement that writes the marker, one transaction by itself, returning nothing.
    /// Run it with `synchronous_commit = on` and in a writable transaction.
    pub fn statement(self, token: &Token) -> String {
        match self {
            MarkerKind::Message => format!(
                "SELECT pg_catalog.pg_logical_emit_message(true, '{MESSAGE_PREFIX}', '{token}')"
            ),
            MarkerKind::Row => format!("INSERT INTO _cutover.marker (token) VALUES ('{token}')"),
        }
    }
}

/// Which marker of which run, for example `7f3a.42.drain`. Safe to put into SQL as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Token {
    run: String,
    epoch: Epoch,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Stage {
    Drain,
    Seal,
    Back,
    Beat(u64),
}

impl Token {
    /// The token of a run's drain marker. `run` must be ASCII letters and digits.
    pub fn draining(run: &str, epoch: Epoch) -> Self {
        let run = run.chars().filter(char::is_ascii_alphanumeric).collect();
        Self { run, epoch, stage: Stage::Drain }
    }

    /// The token of the marker that the same run writes under the seal.
    pub fn sealing(&self) -> Self {
        Self { run: self.run.clone(), epoch: self.epoch, stage: Stage::Seal }
    }

    /// The token of the marker by which the same run shows that the way back reads.
    pub fn way_back(&self) -> Self {
        Self { stage: Stage::Back, ..self.clone() }
    }

    /// The `n`-th sign of life of the stream that carries after the same run.
    pub fn beat(&self, n: u64) -> Self {
        Self { stage: Stage::Beat(n), ..self.clone() }
    }

    /// The run's epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.", self.run, self.epoch)?;
        match self.stage {
            Stage::Drain => f.write_str("drain"),
            Stage::Seal => f.write_str("seal"),
            Stage::Back => f.write_str("back"),
            Stage::Beat(n) => write!(f, "beat.{n}"),
        }
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.to_string()
    }
}

impl TryFrom<String> for Token {
    type Error = ParseTokenError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// The text is not a marker's token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a marker's token (expected RUN.EPOCH.drain, .seal, .back or .beat.N)")]
pub struct ParseTokenError;

impl FromStr for Token {
    type Err = ParseTokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.splitn(3, '.');
        let (Some(run), Some(epoch), Some(stage)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(ParseTokenError);
        };
        if run.is_empty() || !run.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(ParseTokenError);
        }
        let epoch = epoch.parse().map(Epoch).map_err(|_| ParseTokenError)?;
        let stage = match stage {
            "drain" => Stage::Drain,
            "seal" => Stage::Seal,
            "back" => Stage::Back,
            _ => {
                let beat = stage.strip_prefix("beat.").and_then(|n| n.parse().ok());
                Stage::Beat(beat.ok_or(ParseTokenError)?)
            }
        };
        Ok(Self { run: run.into(), epoch, stage })
    }
}

/// The marker that a change is, in either form; `None` for every other change.
pub fn token_in(change: &ChangeEvent) -> Option<Token> {
    let text = match change {
        ChangeEvent::Message { prefix, content } if prefix == MESSAGE_PREFIX => content,
        ChangeEvent::Insert { table, new }
            if table.name.schema == SCHEMA && table.name.name == MARKER_TABLE =>
        {
            let at = table.columns.iter().position(|column| column.name == "token")?;
            // The text and the binary form of `text` are the same bytes.
            match new.value(at)? {
                Value::Text(bytes) | Value::Binary(bytes) => bytes,
                Value::Null => return None,
            }
        }
        _ => return None,
    };
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_from_their_text() {
        let token = Token::draining("7f-3a", Epoch(42));
        for (token, text) in [
            (token.clone(), "7f3a.42.drain"),
            (token.sealing(), "7f3a.42.seal"),
            (token.way_back(), "7f3a.42.back"),
            (token.beat(17), "7f3a.42.beat.17"),
        ] {
            assert_eq!(token.to_string(), text);
            assert_eq!(text.parse(), Ok(token));
        }
        for text in ["", "7f3a.42", "7f3a.42.beat", "7f3a.42.beat.x", "7f3a.x.drain", "7_a.1.seal"]
        {
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
    }
}
